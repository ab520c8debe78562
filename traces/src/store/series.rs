//! The samples of one VM: what it used, interval by interval, in columns.
//!
//! A value that was not recorded is absent, never 0. Never inside: files.

use std::collections::BTreeMap;

use crate::cpu::{CpuSample, CpuSpread, CpuTrace, CpuTraceError};
use crate::store::sample::Sample;
use crate::units::{NS_PER_MS, round_u32};

/// A column of `samples.parquet`. All are whole numbers; all may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Mean CPU in thousandths of a core, whole VM; may exceed the VM's capacity.
    CpuMilli,
    /// Least CPU seen within the interval.
    CpuMinMilli,
    /// Most CPU seen within the interval.
    CpuMaxMilli,
    /// 95th percentile of CPU within the interval.
    CpuP95Milli,
    /// Memory in use.
    MemUsedBytes,
    /// Memory touched lately, as hypervisors estimate it.
    MemActiveBytes,
    /// Bytes received in the interval.
    NetRxBytes,
    /// Bytes sent in the interval.
    NetTxBytes,
    /// Bytes read from disk in the interval.
    DiskRdBytes,
    /// Bytes written to disk in the interval.
    DiskWrBytes,
    /// Distinct pages written in a window of `dirty_w1_ms`.
    DirtyPagesW1,
    /// The window `dirty_pages_w1` speaks of.
    DirtyW1Ms,
    /// Which dirty profile holds; absent = the VM's own.
    DirtyProfile,
}

impl Metric {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 13] = [
        Self::CpuMilli,
        Self::CpuMinMilli,
        Self::CpuMaxMilli,
        Self::CpuP95Milli,
        Self::MemUsedBytes,
        Self::MemActiveBytes,
        Self::NetRxBytes,
        Self::NetTxBytes,
        Self::DiskRdBytes,
        Self::DiskWrBytes,
        Self::DirtyPagesW1,
        Self::DirtyW1Ms,
        Self::DirtyProfile,
    ];

    /// The name of the column.
    #[must_use]
    pub fn column(self) -> &'static str {
        match self {
            Self::CpuMilli => "cpu_milli",
            Self::CpuMinMilli => "cpu_min_milli",
            Self::CpuMaxMilli => "cpu_max_milli",
            Self::CpuP95Milli => "cpu_p95_milli",
            Self::MemUsedBytes => "mem_used_bytes",
            Self::MemActiveBytes => "mem_active_bytes",
            Self::NetRxBytes => "net_rx_bytes",
            Self::NetTxBytes => "net_tx_bytes",
            Self::DiskRdBytes => "disk_rd_bytes",
            Self::DiskWrBytes => "disk_wr_bytes",
            Self::DirtyPagesW1 => "dirty_pages_w1",
            Self::DirtyW1Ms => "dirty_w1_ms",
            Self::DirtyProfile => "dirty_profile",
        }
    }
}

/// Bits of a sample's `flags`.
pub mod flags {
    /// The source had no value; the row stands for a gap.
    pub const MISSING: u32 = 1;
    /// A value was interpolated by an importer.
    pub const INTERPOLATED: u32 = 1 << 1;
    /// A cumulative counter of the source was reset in the interval.
    pub const COUNTER_RESET: u32 = 1 << 2;
    /// The CPU used exceeds the capacity the source states.
    pub const OVER_CAPACITY: u32 = 1 << 3;
    /// A value was made up by a documented, seeded rule.
    pub const SYNTHESISED: u32 = 1 << 4;
}

/// One interval, without its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Start: milliseconds since the epoch, or since the start of the trace (see the manifest).
    pub t_ms: i64,
    /// Length, never 0.
    pub dur_ms: u32,
    /// Bits of [`flags`].
    pub flags: u32,
}

impl Interval {
    /// The end, exclusive.
    #[must_use]
    pub fn end_ms(self) -> i64 {
        self.t_ms.saturating_add(i64::from(self.dur_ms))
    }
}

/// The samples of one VM, ascending in time, not overlapping; gaps between them are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Series {
    intervals: Vec<Interval>,
    metrics: BTreeMap<Metric, Vec<Option<u64>>>,
}

/// A sample that does not fit behind the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// An interval of no length.
    #[error("sample {index} at {t_ms} ms has no length")]
    ZeroLength {
        /// Which sample.
        index: usize,
        /// Its start.
        t_ms: i64,
    },
    /// It starts before the one before it ends.
    #[error("sample {index} at {t_ms} ms starts before the one before it ends ({end_ms} ms)")]
    Overlap {
        /// Which sample.
        index: usize,
        /// Its start.
        t_ms: i64,
        /// The end of the sample before.
        end_ms: i64,
    },
}

/// What stands in for intervals nobody recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GapPolicy {
    /// The last value recorded (before the first one: the first).
    #[default]
    Hold,
    /// Nothing used.
    Zero,
    /// A straight line between the values on both sides, in steps as long as the sample before.
    Linear,
}

/// What was filled to make a trace without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GapFill {
    /// Stretches without a recorded value.
    pub gaps: u64,
    /// Their length together.
    pub filled_ms: u64,
    /// Length of the whole trace.
    pub total_ms: u64,
}

impl Series {
    /// Appends a sample.
    ///
    /// # Errors
    /// When it has no length or overlaps the one before.
    pub fn push(
        &mut self,
        interval: Interval,
        values: &[(Metric, Option<u64>)],
    ) -> Result<(), SeriesError> {
        let index = self.intervals.len();
        let t_ms = interval.t_ms;
        if interval.dur_ms == 0 {
            return Err(SeriesError::ZeroLength { index, t_ms });
        }
        if let Some(end_ms) = self
            .intervals
            .last()
            .map(|i| i.end_ms())
            .filter(|&end| t_ms < end)
        {
            return Err(SeriesError::Overlap {
                index,
                t_ms,
                end_ms,
            });
        }
        self.intervals.push(interval);
        for &(metric, value) in values.iter().filter(|(_, value)| value.is_some()) {
            let column = self.metrics.entry(metric).or_default();
            column.resize(index, None);
            column.push(value);
        }
        Ok(())
    }

    /// Appends a sample, whoever's it is.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_sample(&mut self, sample: &Sample) -> Result<(), SeriesError> {
        self.push(sample.interval, &[])?;
        let index = self.intervals.len() - 1;
        for (metric, value) in sample.values.iter() {
            let column = self.metrics.entry(metric).or_default();
            column.resize(index, None);
            column.push(Some(value));
        }
        Ok(())
    }

    /// The intervals.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// The metrics of which there is at least one value.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> + '_ {
        self.metrics.keys().copied()
    }

    /// The value of a metric in interval `index`; `None` when it was not recorded.
    #[must_use]
    pub fn value(&self, metric: Metric, index: usize) -> Option<u64> {
        self.metrics.get(&metric)?.get(index).copied().flatten()
    }

    /// All values of a metric that were recorded, in order of time.
    pub fn values(&self, metric: Metric) -> impl Iterator<Item = u64> + '_ {
        self.metrics
            .get(&metric)
            .into_iter()
            .flatten()
            .filter_map(|&value| value)
    }

    /// CPU demand, gaps filled; trace instant 0 is the start of the first sample.
    ///
    /// # Errors
    /// When there is no sample with a CPU value.
    pub fn cpu_trace(&self, policy: GapPolicy) -> Result<(CpuTrace, GapFill), CpuTraceError> {
        let known: Vec<(Interval, u64, CpuSpread)> = self
            .intervals
            .iter()
            .enumerate()
            .filter_map(|(i, &interval)| {
                let value = self.value(Metric::CpuMilli, i)?;
                Some((interval, value, self.cpu_spread(i)))
            })
            .collect();
        let (Some(first), Some(last)) = (self.intervals.first(), self.intervals.last()) else {
            return Err(CpuTraceError::Empty);
        };
        let Some(&(_, first_value, _)) = known.first() else {
            return Err(CpuTraceError::Empty);
        };
        let mut out = Filled {
            policy,
            samples: Vec::with_capacity(known.len()),
            spreads: Vec::with_capacity(known.len()),
            fill: GapFill::default(),
        };
        let mut end_ms = first.t_ms;
        let mut before = (first_value, first.dur_ms);
        for &(interval, value, spread) in &known {
            out.gap(interval.t_ms.abs_diff(end_ms), before, value);
            out.sample(u64::from(interval.dur_ms), value, spread);
            end_ms = interval.end_ms();
            before = (value, interval.dur_ms);
        }
        out.gap(last.end_ms().abs_diff(end_ms), before, before.0);
        out.fill.total_ms = last.end_ms().abs_diff(first.t_ms);
        let trace = CpuTrace::new(out.samples)?.with_spreads(out.spreads);
        Ok((trace, out.fill))
    }

    /// What was recorded of CPU use within interval `index`.
    fn cpu_spread(&self, index: usize) -> CpuSpread {
        let milli = |metric| {
            let value = self.value(metric, index)?;
            Some(u32::try_from(value).unwrap_or(u32::MAX))
        };
        CpuSpread {
            min: milli(Metric::CpuMinMilli),
            p95: milli(Metric::CpuP95Milli),
            max: milli(Metric::CpuMaxMilli),
        }
    }
}

/// A CPU trace being put together.
struct Filled {
    policy: GapPolicy,
    samples: Vec<CpuSample>,
    spreads: Vec<CpuSpread>,
    fill: GapFill,
}

impl Filled {
    fn sample(&mut self, dur_ms: u64, milli: u64, spread: CpuSpread) {
        self.spreads.push(spread);
        let dur_ns = dur_ms.saturating_mul(NS_PER_MS);
        self.samples.push(CpuSample {
            dur_ns,
            milli: u32::try_from(milli).unwrap_or(u32::MAX),
        });
    }

    /// Fills `gap_ms` after a sample of (value, length) and before one of `after`.
    fn gap(&mut self, gap_ms: u64, (before, step_ms): (u64, u32), after: u64) {
        if gap_ms == 0 {
            return;
        }
        self.fill.gaps += 1;
        self.fill.filled_ms += gap_ms;
        match self.policy {
            GapPolicy::Hold => self.sample(gap_ms, before, CpuSpread::default()),
            GapPolicy::Zero => self.sample(gap_ms, 0, CpuSpread::default()),
            GapPolicy::Linear => {
                // At most 4096 steps: a gap of years in a one-second trace must not fill memory.
                let steps = gap_ms
                    .div_ceil(u64::from(step_ms))
                    .clamp(1, 4096)
                    .min(gap_ms);
                for step in 0..steps {
                    let (from, to) = (gap_ms * step / steps, gap_ms * (step + 1) / steps);
                    let at = (step as f64 + 0.5) / steps as f64;
                    let value = before as f64 + (after as f64 - before as f64) * at;
                    let value = u64::from(round_u32(value));
                    self.sample(to - from, value, CpuSpread::default());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
