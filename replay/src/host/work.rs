//! How a guest's demand becomes work, and what slows it down.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Billionths of a core: the unit of every CPU rate here, so that all rates are integers and
/// integrate without drift. A fair share that is no integer is rounded down, by less than 1e-9
/// core.
pub(super) const PER_CORE: u64 = 1_000_000_000;

/// Billionths of a core in a thousandth.
pub(super) const PER_MILLI: u64 = 1_000_000;

/// An amount of CPU work, exact: billionths of a core times nanoseconds. 2^128 of them are 10,000
/// cores for 10^15 years.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct CoreWork(pub u128);

impl CoreWork {
    /// A rate held for a time.
    #[must_use]
    pub(super) fn of(rate: u64, dur_ns: u64) -> Self {
        Self(u128::from(rate) * u128::from(dur_ns))
    }

    /// Whole nanoseconds of one core, rounded down; saturates at 584 core-years.
    #[must_use]
    pub fn core_ns(self) -> u64 {
        u64::try_from(self.0 / u128::from(PER_CORE)).unwrap_or(u64::MAX)
    }
}

impl Add for CoreWork {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for CoreWork {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// What happens to demand that is not served at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Requests: demand arrives in trace time, also while the guest is paused, and waits in a
    /// backlog that is worked off as fast as the host lets the guest. What the backlog cannot
    /// hold is lost (clients give up).
    Service {
        /// Most the backlog holds: this long of the trace's highest demand.
        backlog_ms: u32,
    },
    /// A job: a second of the trace takes longer when it gets less, and nothing is lost.
    Batch,
    /// Writes follow trace time whatever is granted; only a pause stops them, and what it stops
    /// is not made up for.
    Open,
}

impl Work {
    /// Clients of interactive services commonly give up after 10 s or more.
    pub const DEFAULT_BACKLOG_MS: u32 = 10_000;
}

impl Default for Work {
    fn default() -> Self {
        Self::Service {
            backlog_ms: Self::DEFAULT_BACKLOG_MS,
        }
    }
}

/// QEMU's auto-converge throttle: each vCPU runs 10 ms, then sleeps p/(1−p) × 10 ms, whether it
/// has work or not. At this level of detail that takes the share p of every vCPU's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(try_from = "u8", into = "u8")]
pub struct Throttle(u8);

/// A throttle QEMU does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a throttle of {percent} % is above 99 %")]
pub struct ThrottleError {
    /// What was asked for.
    pub percent: u8,
}

impl Throttle {
    /// No throttle.
    pub const NONE: Self = Self(0);

    /// A throttle of `percent`, at most QEMU's 99.
    ///
    /// # Errors
    /// Above 99: the guest would never run.
    pub fn new(percent: u8) -> Result<Self, ThrottleError> {
        if percent > 99 {
            Err(ThrottleError { percent })
        } else {
            Ok(Self(percent))
        }
    }

    /// The share taken, in percent.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }

    /// What is left of a rate.
    pub(super) fn left_of(self, rate: u64) -> u64 {
        let left = u128::from(rate) * u128::from(100 - self.0) / 100;
        u64::try_from(left).expect("not above the rate")
    }

    /// How fast a job that would use `demand` of `cap` unthrottled goes on.
    ///
    /// A share u = demand/cap of its time is computing, which takes 1/(1−p) as long; the rest is
    /// waiting, which does not. So the rate is demand / (u/(1−p) + 1 − u): cap × (1−p) for a job
    /// that always computes, 97.6 % of the demand for one that computes 10 % at p = 20 %.
    pub(super) fn job_rate(self, demand: u64, cap: u64) -> u64 {
        let demand = demand.min(cap);
        if self.0 == 0 || demand == 0 {
            return demand;
        }
        // demand < 2^52 (a u32 of thousandths), cap ≤ 2^56: the product with 100 stays below 2^115.
        let (demand, cap) = (u128::from(demand), u128::from(cap));
        let (run, sleep) = (u128::from(100 - self.0), u128::from(self.0));
        let rate = demand * cap * run / (cap * run + demand * sleep);
        u64::try_from(rate).expect("not above the demand")
    }
}

impl TryFrom<u8> for Throttle {
    type Error = ThrottleError;

    fn try_from(percent: u8) -> Result<Self, ThrottleError> {
        Self::new(percent)
    }
}

impl From<Throttle> for u8 {
    fn from(throttle: Throttle) -> Self {
        throttle.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_takes_its_share_of_computing_only() {
        let throttle = Throttle::new(20).unwrap();
        assert_eq!(throttle.left_of(1000), 800);
        assert_eq!(throttle.job_rate(1_000_000, 1_000_000), 800_000);
        assert_eq!(throttle.job_rate(100_000, 1_000_000), 97_560);
        assert_eq!(Throttle::NONE.job_rate(5, 10), 5);
        assert_eq!(Throttle::new(100), Err(ThrottleError { percent: 100 }));
    }
}
