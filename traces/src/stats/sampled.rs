//! A quantity on a regular grid: what statistics and forecasts work on.
//!
//! Never inside: made-up values; a cell that was not recorded has none.

use std::collections::BTreeMap;

use crate::dirty::PageWriteTrace;
use crate::store::series::{Metric, Series};
use crate::units::round_usize;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// CPU used, in cores.
    Cpu,
    /// Memory in use (where that is not recorded, memory active), in bytes.
    Memory,
    /// Received, bytes a second.
    NetRx,
    /// Sent, bytes a second.
    NetTx,
    /// Received and sent, bytes a second; known where both are.
    Net,
    /// Read from disk, bytes a second.
    DiskRead,
    /// Written to disk, bytes a second.
    DiskWrite,
    /// Distinct pages written in the window of each sample, in pages.
    PageWrites,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Cpu,
        Self::Memory,
        Self::NetRx,
        Self::NetTx,
        Self::Net,
        Self::DiskRead,
        Self::DiskWrite,
        Self::PageWrites,
    ];

    /// The name used on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::NetRx => "net-rx",
            Self::NetTx => "net-tx",
            Self::Net => "net",
            Self::DiskRead => "disk-read",
            Self::DiskWrite => "disk-write",
            Self::PageWrites => "page-writes",
        }
    }

    /// The quantity of this [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|quantity| quantity.name() == name)
    }

    /// The unit of its values.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "cores",
            Self::Memory => "bytes",
            Self::PageWrites => "pages",
            Self::NetRx | Self::NetTx | Self::Net | Self::DiskRead | Self::DiskWrite => "bytes/s",
        }
    }

    /// Its value in an interval.
    fn value(self, series: &Series, index: usize) -> Option<f64> {
        let get = |metric| Some(series.value(metric, index)? as f64);
        let seconds = f64::from(series.intervals()[index].dur_ms) / 1000.0;
        let rate = |metric| Some(get(metric)? / seconds);
        match self {
            Self::Cpu => Some(get(Metric::CpuMilli)? / 1000.0),
            Self::Memory => get(Metric::MemUsedBytes).or_else(|| get(Metric::MemActiveBytes)),
            Self::NetRx => rate(Metric::NetRxBytes),
            Self::NetTx => rate(Metric::NetTxBytes),
            Self::Net => Some(rate(Metric::NetRxBytes)? + rate(Metric::NetTxBytes)?),
            Self::DiskRead => rate(Metric::DiskRdBytes),
            Self::DiskWrite => rate(Metric::DiskWrBytes),
            Self::PageWrites => get(Metric::DirtyPagesW1),
        }
    }
}

/// Values at equal steps; `None` where nothing was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Start of the first cell, on the clock of the trace.
    pub start_ms: i64,
    /// Length of a cell.
    pub step_ms: u32,
    /// One value a cell.
    pub values: Vec<Option<f64>>,
}

/// Cells a grid may have; a trace of more is coarsened until it fits.
const MOST_CELLS: usize = 1 << 20;

impl Sampled {
    /// Puts a quantity on a grid of the median interval, from the start of the first sample.
    ///
    /// A cell holds the mean over the intervals that lie in it, weighted by time, when they cover at
    /// least half of it; otherwise none. `None` when there is no value at all. A grid of more than
    /// 2^20 cells is made coarser by whole factors, so that memory stays bounded.
    #[must_use]
    pub fn of(series: &Series, quantity: Quantity) -> Option<Self> {
        let mut lengths: Vec<u32> = series.intervals().iter().map(|i| i.dur_ms).collect();
        lengths.sort_unstable();
        let step_ms = *lengths.get(lengths.len() / 2)?;
        Self::with_step(series, quantity, step_ms)
    }

    /// As [`of`](Self::of), with the length of a cell given.
    #[must_use]
    pub fn with_step(series: &Series, quantity: Quantity, step_ms: u32) -> Option<Self> {
        let intervals = series.intervals();
        let start_ms = intervals.first()?.t_ms;
        let span_ms = intervals.last()?.end_ms().abs_diff(start_ms);
        let cells = span_ms.div_ceil(u64::from(step_ms.max(1)));
        let factor = cells.div_ceil(MOST_CELLS as u64).max(1);
        let step = u64::from(step_ms.max(1)).saturating_mul(factor);
        let step_ms = u32::try_from(step).unwrap_or(u32::MAX);
        let step = u64::from(step_ms);
        let cells = usize::try_from(span_ms.div_ceil(step))
            .ok()?
            .min(MOST_CELLS);
        let mut cells = vec![(0.0f64, 0u64); cells];
        for (index, interval) in intervals.iter().enumerate() {
            let Some(value) = quantity.value(series, index) else {
                continue;
            };
            let from = interval.t_ms.abs_diff(start_ms);
            let to = interval.end_ms().abs_diff(start_ms);
            let mut at = from;
            while at < to {
                let cell = at / step;
                let until = ((cell + 1) * step).min(to);
                let slot = usize::try_from(cell)
                    .ok()
                    .and_then(|cell| cells.get_mut(cell));
                if let Some((sum, covered)) = slot {
                    *sum += value * (until - at) as f64;
                    *covered += until - at;
                }
                at = until;
            }
        }
        let mean = |(sum, covered): (f64, u64)| (covered * 2 >= step).then(|| sum / covered as f64);
        let values: Vec<Option<f64>> = cells.into_iter().map(mean).collect();
        values.iter().any(Option::is_some).then_some(Self {
            start_ms,
            step_ms,
            values,
        })
    }

    /// The samples in their order, as if they were equally apart: what studies that read the rows
    /// of a file do. Times are lost.
    #[must_use]
    pub fn rows(series: &Series, quantity: Quantity) -> Option<Self> {
        let whole = Self::of(series, quantity)?;
        let count = series.intervals().len();
        let values = (0..count)
            .map(|index| quantity.value(series, index))
            .collect();
        Some(Self { values, ..whole })
    }

    /// Distinct pages in each whole step of a recording after its first (which holds everything
    /// touched before). `None` for less than two steps.
    #[must_use]
    pub fn page_writes(trace: &PageWriteTrace, step_ms: u32) -> Option<Self> {
        let step_ns = u64::from(step_ms.max(1)) * 1_000_000;
        let whole = usize::try_from(trace.duration_ns() / step_ns).ok()?;
        let counts = super::distinct_in_cells(trace, step_ns);
        let values: Vec<Option<f64>> = counts[..whole.min(counts.len())]
            .iter()
            .skip(1)
            .map(|&count| Some(count as f64))
            .collect();
        (!values.is_empty()).then_some(Self {
            start_ms: i64::from(step_ms),
            step_ms,
            values,
        })
    }

    /// Length of a cell in seconds.
    #[must_use]
    pub fn step_s(&self) -> f64 {
        f64::from(self.step_ms) / 1000.0
    }

    /// The values that are there.
    #[must_use]
    pub fn known(&self) -> Vec<f64> {
        self.values.iter().flatten().copied().collect()
    }

    /// The values with holes filled by the last one known (before the first: the first), and how many
    /// were filled. Empty when nothing is known.
    #[must_use]
    pub fn filled(&self) -> (Vec<f64>, usize) {
        let Some(first) = self.values.iter().flatten().next() else {
            return (Vec::new(), 0);
        };
        let mut last = *first;
        let values = self.values.iter().map(|value| {
            last = value.unwrap_or(last);
            last
        });
        let values = values.collect();
        (values, self.values.iter().filter(|v| v.is_none()).count())
    }

    /// Share of cells without a value.
    #[must_use]
    pub fn missing_share(&self) -> f64 {
        let missing = self.values.iter().filter(|v| v.is_none()).count();
        missing as f64 / self.values.len().max(1) as f64
    }

    /// The lag of a time in cells, when it is at least one and the series holds it twice.
    #[must_use]
    pub fn lag_of(&self, seconds: f64) -> Option<usize> {
        let lag = round_usize(seconds / self.step_s());
        (lag >= 1 && lag * 2 <= self.values.len()).then_some(lag)
    }
}

/// How samples follow one another.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Steps {
    /// Steps from start to start and how often they occur, the commonest first, at most eight.
    pub commonest: Vec<(u64, usize)>,
    /// Different steps in all.
    pub different: usize,
    /// Stretches without a sample between two.
    pub gaps: usize,
    /// The longest, in ms.
    pub longest_gap_ms: u64,
    /// Gaps by length: below 2, 5, 10, 100 median intervals, and longer.
    pub gap_histogram: [usize; 5],
}

/// Histograms of steps and gaps.
#[must_use]
pub fn steps(series: &Series) -> Steps {
    const BELOW: [u64; 4] = [2, 5, 10, 100];
    let intervals = series.intervals();
    let mut lengths: Vec<u32> = intervals.iter().map(|i| i.dur_ms).collect();
    lengths.sort_unstable();
    let median = u64::from(lengths.get(lengths.len() / 2).copied().unwrap_or(1));
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut gaps, mut longest_gap_ms, mut gap_histogram) = (0, 0u64, [0; 5]);
    for pair in intervals.windows(2) {
        *counts
            .entry(pair[1].t_ms.abs_diff(pair[0].t_ms))
            .or_default() += 1;
        let gap = pair[1].t_ms.abs_diff(pair[0].end_ms());
        if gap > 0 {
            gaps += 1;
            longest_gap_ms = longest_gap_ms.max(gap);
            let bin = BELOW.iter().position(|times| gap < times * median);
            gap_histogram[bin.unwrap_or(4)] += 1;
        }
    }
    let different = counts.len();
    let mut commonest: Vec<(u64, usize)> = counts.into_iter().collect();
    commonest.sort_by_key(|&(step, count)| (std::cmp::Reverse(count), step));
    commonest.truncate(8);
    Steps {
        commonest,
        different,
        gaps,
        longest_gap_ms,
        gap_histogram,
    }
}

#[cfg(test)]
mod tests;
