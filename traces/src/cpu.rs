//! CPU demand over trace time.

use serde::{Deserialize, Serialize};

/// One interval of constant demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSample {
    /// Length of the interval. Never zero in a valid trace.
    pub dur_ns: u64,
    /// Demand in thousandths of a core, whole VM.
    pub milli: u32,
}

/// How demand spread within an interval, as far as the source says. What it does not say is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct CpuSpread {
    /// Least demand, thousandths of a core.
    pub min: Option<u32>,
    /// 95th percentile over the interval's time.
    pub p95: Option<u32>,
    /// Most demand.
    pub max: Option<u32>,
}

/// CPU demand of one VM: consecutive intervals of constant demand, repeated for ever.
///
/// Intervals are contiguous from trace instant 0; gaps of the source have been filled by the
/// importer (and counted there).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTrace {
    samples: Vec<CpuSample>,
    /// `ends[i]` is the end of `samples[i]`, so that look-up is a binary search.
    ends: Vec<u64>,
    /// One a sample, or none at all when the source says nothing of any.
    spreads: Vec<CpuSpread>,
}

/// A CPU trace that cannot be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpuTraceError {
    /// No interval at all.
    #[error("a CPU trace needs at least one interval")]
    Empty,
    /// An interval of no length.
    #[error("interval {index} of the CPU trace has no length")]
    ZeroLength {
        /// Which interval.
        index: usize,
    },
    /// The sum of all intervals does not fit in 64-bit nanoseconds (584 years).
    #[error("the CPU trace is longer than 584 years")]
    TooLong,
}

impl CpuTrace {
    /// Checks the intervals and builds the index.
    ///
    /// # Errors
    /// When there is no interval, or one has no length.
    pub fn new(samples: Vec<CpuSample>) -> Result<Self, CpuTraceError> {
        let mut ends = Vec::with_capacity(samples.len());
        let mut end = 0u64;
        for (index, sample) in samples.iter().enumerate() {
            if sample.dur_ns == 0 {
                return Err(CpuTraceError::ZeroLength { index });
            }
            end = end
                .checked_add(sample.dur_ns)
                .ok_or(CpuTraceError::TooLong)?;
            ends.push(end);
        }
        if samples.is_empty() {
            Err(CpuTraceError::Empty)
        } else {
            let spreads = Vec::new();
            Ok(Self {
                samples,
                ends,
                spreads,
            })
        }
    }

    /// The same trace, with what is known of demand within its intervals: one entry each, those
    /// that are missing at the end unknown.
    #[must_use]
    pub fn with_spreads(mut self, mut spreads: Vec<CpuSpread>) -> Self {
        if spreads.iter().all(|spread| *spread == CpuSpread::default()) {
            spreads.clear();
        } else {
            spreads.resize(self.samples.len(), CpuSpread::default());
        }
        self.spreads = spreads;
        self
    }

    /// A trace that asks for the same share for ever.
    #[must_use]
    pub fn constant(milli: u32) -> Self {
        let dur_ns = 3_600 * crate::units::NS_PER_S;
        Self {
            samples: vec![CpuSample { dur_ns, milli }],
            ends: vec![dur_ns],
            spreads: Vec::new(),
        }
    }

    /// Every demand changed by a function, that of [`CpuSpread`] too.
    #[must_use]
    pub fn map(&self, to: impl Fn(u32) -> u32) -> Self {
        let sample = |s: &CpuSample| CpuSample {
            milli: to(s.milli),
            ..*s
        };
        let spread = |s: &CpuSpread| CpuSpread {
            min: s.min.map(&to),
            p95: s.p95.map(&to),
            max: s.max.map(&to),
        };
        Self {
            samples: self.samples.iter().map(sample).collect(),
            ends: self.ends.clone(),
            spreads: self.spreads.iter().map(spread).collect(),
        }
    }

    /// What is known of demand within interval `index`.
    #[must_use]
    pub fn spread(&self, index: usize) -> CpuSpread {
        self.spreads.get(index).copied().unwrap_or_default()
    }

    /// Whether anything is known of demand within intervals.
    #[must_use]
    pub fn has_spreads(&self) -> bool {
        !self.spreads.is_empty()
    }

    /// Whether the maximum of any interval is known.
    #[must_use]
    pub fn has_maximum(&self) -> bool {
        self.spreads.iter().any(|spread| spread.max.is_some())
    }

    /// The intervals.
    #[must_use]
    pub fn samples(&self) -> &[CpuSample] {
        &self.samples
    }

    /// Length of one repetition.
    #[must_use]
    pub fn period_ns(&self) -> u64 {
        self.ends.last().copied().unwrap_or(1)
    }

    /// The demand at an instant, and the next instant at which it may change.
    #[must_use]
    pub fn demand_at(&self, t_ns: u64) -> Demand {
        let period = self.period_ns();
        let (lap, phase) = (t_ns / period, t_ns % period);
        let index = self.ends.partition_point(|&end| end <= phase);
        let until = lap.saturating_mul(period).saturating_add(self.ends[index]);
        Demand {
            milli: self.samples[index].milli,
            until_ns: until,
        }
    }

    /// Mean demand over one repetition, in thousandths of a core.
    #[must_use]
    pub fn mean_milli(&self) -> f64 {
        let sum: u128 = self
            .samples
            .iter()
            .map(|s| u128::from(s.dur_ns) * u128::from(s.milli))
            .sum();
        sum as f64 / self.period_ns() as f64
    }
}

/// Demand, constant until an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a core.
    pub milli: u32,
    /// The demand holds up to this trace instant, exclusive.
    pub until_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_repeats_after_its_period() {
        let trace = CpuTrace::new(vec![
            CpuSample {
                dur_ns: 10,
                milli: 100,
            },
            CpuSample {
                dur_ns: 5,
                milli: 900,
            },
        ])
        .unwrap();
        assert_eq!(
            trace.demand_at(9),
            Demand {
                milli: 100,
                until_ns: 10
            }
        );
        assert_eq!(
            trace.demand_at(10),
            Demand {
                milli: 900,
                until_ns: 15
            }
        );
        assert_eq!(
            trace.demand_at(15),
            Demand {
                milli: 100,
                until_ns: 25
            }
        );
        assert_eq!(
            trace.demand_at(14 + 150),
            Demand {
                milli: 900,
                until_ns: 165
            }
        );
        assert!((trace.mean_milli() - 5500.0 / 15.0).abs() < 1e-9);
    }

    #[test]
    fn bad_intervals_are_named() {
        assert_eq!(CpuTrace::new(vec![]), Err(CpuTraceError::Empty));
        let zero = CpuTrace::new(vec![CpuSample {
            dur_ns: 0,
            milli: 1,
        }]);
        assert_eq!(zero, Err(CpuTraceError::ZeroLength { index: 0 }));
    }
}
