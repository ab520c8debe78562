//! Clocks, and waiting for the next tick or a signal, whichever comes first.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).unwrap_or(0)
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of a process, all its threads, those that ended included. `None` when it is gone.
pub(crate) fn process_cpu_ns(pid: i32) -> Option<u64> {
    // The clock of a process as clock_getcpuclockid(3) makes it: its complement, and 2 for the
    // scheduler's own count.
    read(ClockId::from_raw((!pid << 3) | 2))
}

/// Seconds since 1970 and the like belong to the header of a recording only.
pub(crate) fn unix_ms() -> u64 {
    read(ClockId::CLOCK_REALTIME).unwrap_or(0) / 1_000_000
}

fn read(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    u64::try_from(Duration::from(time).as_nanos()).ok()
}

/// The signals that end a recording in good order.
fn stop_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Blocks the signals that end a recording, in this thread and those it starts, until dropped.
#[derive(Debug)]
pub(crate) struct StopSignals {
    before: SigSet,
}

impl StopSignals {
    pub(crate) fn block() -> Self {
        let mut before = SigSet::empty();
        // Fails for an invalid `how` only.
        let _ = sigprocmask(
            SigmaskHow::SIG_BLOCK,
            Some(&stop_signals()),
            Some(&mut before),
        );
        Self { before }
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Waits until `deadline_ns` of the monotonic clock; true when a signal to stop came first.
pub(crate) fn wait_until(deadline_ns: u64) -> bool {
    loop {
        let now = now_ns();
        let left = Duration::from_nanos(deadline_ns.saturating_sub(now));
        let timeout = libc::timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // SAFETY: both pointers are to live values of the types the call reads; no answer is asked for.
        let got = unsafe {
            libc::sigtimedwait(
                stop_signals().as_ref(),
                std::ptr::null_mut(),
                &raw const timeout,
            )
        };
        if got > 0 {
            return true;
        }
        if now_ns() >= deadline_ns {
            return false;
        }
    }
}
