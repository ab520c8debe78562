//! Changes of some of a link's properties, in absolute terms or relative to what holds.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::link::{Jitter, LinkSpec, Loss};
use crate::units::{BitRate, ByteSize};

/// A share of what holds, in thousandths of a percent, so that it is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Percent(u32);

/// What a property becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount<T> {
    /// This.
    To(T),
    /// So much of what it is.
    Percent(Percent),
}

/// Some of a link's properties; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Patch {
    /// The rate; to `None` is unshaped.
    pub rate: Option<Amount<Option<BitRate>>>,
    /// The delay.
    pub delay: Option<Amount<Duration>>,
    /// The jitter; a share is one of its spread.
    pub jitter: Option<Amount<Jitter>>,
    /// The loss.
    pub loss: Option<Loss>,
    /// The queue.
    pub queue: Option<Amount<ByteSize>>,
    /// The threshold of marking; to `None` never marks.
    pub ecn_threshold: Option<Amount<Option<ByteSize>>>,
}

/// Why a patch makes no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A share of a rate that is not there.
    #[error("its rate is unshaped, and {percent} of that is nothing in particular")]
    Unshaped {
        /// The share.
        percent: Percent,
    },
    /// A share of a threshold that is not there.
    #[error("it marks nothing, and there is no threshold of which to take {percent}")]
    NoThreshold {
        /// The share.
        percent: Percent,
    },
    /// Less than one bit a second.
    #[error("{percent} of its rate, {bps} bit/s, is nothing")]
    Vanishes {
        /// The share.
        percent: Percent,
        /// The rate.
        bps: u64,
    },
}

impl Percent {
    /// Thousandths of a percent in a whole.
    const WHOLE: u64 = 100_000;

    /// That share of a number, rounded down; saturates.
    #[must_use]
    pub fn of(self, number: u64) -> u64 {
        // Below 2^64 × 2^32.
        let share = u128::from(number) * u128::from(self.0) / u128::from(Self::WHOLE);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    fn of_time(self, time: Duration) -> Duration {
        Duration::from_nanos(self.of(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}%");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}%", decimals.trim_end_matches('0'))
    }
}

/// Not a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no percentage from 0% to 1000000%, with at most three decimals")]
pub struct NotAPercentage(String);

/// Ten thousand times as much: from a bit a second to what no network has is further, but nobody means it.
const MOST: u32 = 1_000_000_000;

impl FromStr for Percent {
    type Err = NotAPercentage;

    fn from_str(text: &str) -> Result<Self, NotAPercentage> {
        let read = || {
            let number = text.trim().strip_suffix('%')?.trim_end();
            let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            if whole.is_empty() || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
                return None;
            }
            let thousandths: u32 = format!("{whole}{decimals:0<3}").parse().ok()?;
            (thousandths <= MOST).then_some(Self(thousandths))
        };
        read().ok_or_else(|| NotAPercentage(text.to_owned()))
    }
}

impl Patch {
    /// Whether it changes nothing, whatever holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A link with these properties instead.
    ///
    /// # Errors
    /// [`PatchError`] for shares of what is not there.
    pub fn apply(&self, spec: &LinkSpec) -> Result<LinkSpec, PatchError> {
        let rate = match self.rate {
            None => spec.rate,
            Some(Amount::To(rate)) => rate,
            Some(Amount::Percent(percent)) => {
                let bps = spec.rate.ok_or(PatchError::Unshaped { percent })?.bps();
                let rate = BitRate::from_bps(percent.of(bps));
                Some(rate.ok_or(PatchError::Vanishes { percent, bps })?)
            }
        };
        let ecn_threshold = match self.ecn_threshold {
            None => spec.ecn_threshold,
            Some(Amount::To(threshold)) => threshold,
            Some(Amount::Percent(percent)) => {
                let threshold = spec.ecn_threshold.map(|threshold| threshold.bytes());
                let threshold = threshold.ok_or(PatchError::NoThreshold { percent })?;
                Some(ByteSize::from_bytes(percent.of(threshold)))
            }
        };
        Ok(LinkSpec {
            rate,
            ecn_threshold,
            delay: amount(self.delay, spec.delay, Percent::of_time),
            jitter: amount(self.jitter, spec.jitter, |percent, jitter| Jitter {
                spread: percent.of_time(jitter.spread),
                ..jitter
            }),
            loss: self.loss.unwrap_or(spec.loss),
            queue: amount(self.queue, spec.queue, |percent, queue| {
                ByteSize::from_bytes(percent.of(queue.bytes()))
            }),
            ..*spec
        })
    }
}

fn amount<T>(new: Option<Amount<T>>, old: T, share: impl FnOnce(Percent, T) -> T) -> T {
    match new {
        None => old,
        Some(Amount::To(value)) => value,
        Some(Amount::Percent(percent)) => share(percent, old),
    }
}
