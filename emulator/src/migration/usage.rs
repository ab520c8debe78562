//! What the calling thread has used of this machine: part of a migration's error budget.
//!
//! Never inside: anything charged to emulated hosts.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// CPU time and run-queue delay of the thread that made it, since it was made.
#[derive(Debug)]
pub(super) struct ThreadMeter {
    cpu_ns: u64,
    run_queue_ns: u64,
}

impl ThreadMeter {
    /// Starts counting.
    pub(super) fn start() -> Self {
        let (cpu_ns, run_queue_ns) = read();
        Self {
            cpu_ns,
            run_queue_ns,
        }
    }

    /// (CPU time, run-queue delay) so far, ns. The delay is 0 on kernels without schedstat.
    pub(super) fn used_ns(&self) -> (u64, u64) {
        let (cpu_ns, run_queue_ns) = read();
        (
            cpu_ns.saturating_sub(self.cpu_ns),
            run_queue_ns.saturating_sub(self.run_queue_ns),
        )
    }
}

fn read() -> (u64, u64) {
    let cpu_ns = getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| {
        let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        u64::try_from(us).unwrap_or(0) * 1000
    });
    // "on-cpu ns, run-queue wait ns, time slices"
    let run_queue_ns = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    (cpu_ns, run_queue_ns)
}
