//! The monotonic clock and absolute timers on it.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// Nanoseconds of CLOCK_MONOTONIC, the clock every process of this computer shares.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let ns = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// CPU time of this process, all its threads, their work in the kernel included.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    let used = clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .expect("CLOCK_PROCESS_CPUTIME_ID exists on every Linux");
    Duration::from(used)
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX)
}

/// Blocks this thread until an instant of [`now_ns`]; for measuring threads that have nothing to wait for but time.
///
/// # Errors
/// The kernel's, if it has no timer to give.
pub fn wait_until(at_ns: u64) -> io::Result<()> {
    let timer = Alarm::new(false)?;
    timer.set(at_ns)?;
    loop {
        match timer.0.wait() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A timer that fires at an instant of [`now_ns`].
#[derive(Debug)]
pub(crate) struct Alarm(pub(crate) TimerFd);

impl Alarm {
    pub(crate) fn new(nonblocking: bool) -> io::Result<Self> {
        let mut flags = TimerFlags::TFD_CLOEXEC;
        flags.set(TimerFlags::TFD_NONBLOCK, nonblocking);
        Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
    }

    /// Fires at `at_ns`, at once if that is past. Zero would disarm, so it becomes one.
    pub(crate) fn set(&self, at_ns: u64) -> io::Result<()> {
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1)));
        Ok(self.0.set(
            Expiration::OneShot(at),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )?)
    }
}

/// Lets the kernel wake this thread on time instead of up to 50 µs late (the default timer slack).
///
/// # Errors
/// The kernel's refusal.
pub fn set_tight_timers() -> io::Result<()> {
    Ok(nix::sys::prctl::set_timerslack(1)?)
}
