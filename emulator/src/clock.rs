//! Clocks: the machine's monotonic one, which every process of it shares, and today's date.

/// CLOCK_MONOTONIC in nanoseconds: one clock for every process of a machine, which is what makes
/// outages across two agents directly measurable.
pub use netmodel::sys::clock::now_ns as mono_ns;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use std::time::{Duration, SystemTime};

/// Seconds since 1970, for the header of a run.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the run header's date is what this is for"
)]
pub fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// CLOCK_REALTIME in nanoseconds: that of the kernel's receive stamps, to be set against [`mono_ns`].
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "stamps of packets are of this clock"
)]
pub fn realtime_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Waits until an instant of [`mono_ns`], to tokio's millisecond. Cancel-safe.
#[expect(
    clippy::disallowed_methods,
    reason = "the absolute wait that others ask for"
)]
pub async fn until(deadline_ns: u64) {
    tokio::time::sleep(Duration::from_nanos(deadline_ns.saturating_sub(mono_ns()))).await;
}

/// Waits until an instant of [`mono_ns`]; returns at once when it has passed. Absolute, so that
/// being woken late once does not shift what follows.
pub fn sleep_until(deadline_ns: u64) {
    let deadline = TimeSpec::from_duration(Duration::from_nanos(deadline_ns));
    let wait = || {
        clock_nanosleep(
            ClockId::CLOCK_MONOTONIC,
            ClockNanosleepFlags::TIMER_ABSTIME,
            &deadline,
        )
    };
    while wait() == Err(nix::Error::EINTR) {}
}
