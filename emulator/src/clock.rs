//! The machine's monotonic clock. The one place of this crate that reads a clock.

use std::time::SystemTime;

/// CLOCK_MONOTONIC in nanoseconds: one clock for every process of a machine, which is what makes
/// outages across two agents directly measurable.
#[must_use]
pub fn mono_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| {
            let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
            seconds * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
        })
        .expect("CLOCK_MONOTONIC is always there on Linux")
}

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
