//! What a page-level recording says besides its mean curve: the spread of D(w), the working set over
//! time, growth, skew, overlap, runs.

use super::curve::distinct_in_windows;
use super::{correlation, quantile};
use crate::dirty::{PageWriteTrace, Tick};
use crate::units::{NS_PER_S, round_usize};

/// Quantiles of the distinct pages written in windows of one length.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Quantiles {
    /// Length of a window in seconds.
    pub window_s: f64,
    /// Sliding windows, one starting at each tick.
    pub windows: usize,
    /// Windows that do not overlap: what the windows tell independently.
    pub disjoint: usize,
    /// Mean.
    pub mean: f64,
    /// 10th percentile.
    pub p10: f64,
    /// 25th.
    pub p25: f64,
    /// Median.
    pub p50: f64,
    /// 75th.
    pub p75: f64,
    /// 90th.
    pub p90: f64,
    /// 95th.
    pub p95: f64,
    /// 99th.
    pub p99: f64,
}

impl Quantiles {
    /// The shares its fields stand for.
    pub const SHARES: [f64; 7] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

    /// From values at [`SHARES`](Self::SHARES).
    pub(crate) fn from_shares(
        window_s: f64,
        (windows, disjoint): (usize, usize),
        mean: f64,
        [p10, p25, p50, p75, p90, p95, p99]: [f64; 7],
    ) -> Self {
        Self {
            window_s,
            windows,
            disjoint,
            mean,
            p10,
            p25,
            p50,
            p75,
            p90,
            p95,
            p99,
        }
    }
}

/// Quantiles of D(w) for a window of `window_s` over ticks; `None` when the ticks are shorter.
#[must_use]
pub fn window_quantiles(
    ticks: &[Tick],
    pages: u32,
    interval_ns: u64,
    window_s: f64,
) -> Option<Quantiles> {
    let window = ticks_of(interval_ns, window_s)?;
    let mut counts: Vec<f64> = distinct_in_windows(ticks, pages, window)
        .into_iter()
        .map(|count| count as f64)
        .collect();
    counts.sort_unstable_by(f64::total_cmp);
    let mean = counts.iter().sum::<f64>() / counts.len() as f64;
    let mut at = [0.0; 7];
    for (slot, share) in at.iter_mut().zip(Quantiles::SHARES) {
        *slot = quantile(&counts, share)?;
    }
    let sizes = (counts.len(), ticks.len() / window);
    Some(Quantiles::from_shares(window_s, sizes, mean, at))
}

/// A length of time in whole ticks; `None` when it is not near a whole number of at least one.
#[must_use]
pub fn ticks_of(interval_ns: u64, window_s: f64) -> Option<usize> {
    let ticks = window_s * NS_PER_S as f64 / interval_ns.max(1) as f64;
    let whole = round_usize(ticks);
    (whole >= 1 && (ticks - whole as f64).abs() <= 0.25).then_some(whole)
}

/// The working set over time: pages written in the last 1, 10 and 60 s, and since the beginning.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct WorkingSet {
    /// Ends of ticks, in seconds from the start; at most 600 of them.
    pub t_s: Vec<f64>,
    /// Distinct pages since the start of the recording.
    pub cumulative: Vec<u64>,
    /// By window in seconds: distinct pages in the window that ends there, none before it is full.
    pub windows: Vec<(f64, Vec<Option<u64>>)>,
}

/// Points of a curve that is drawn.
const POINTS: usize = 600;

/// Computes a [`WorkingSet`], leaving out the first tick, which holds everything touched before.
#[must_use]
pub fn working_set(trace: &PageWriteTrace) -> WorkingSet {
    let ticks = trace.ticks.get(1..).unwrap_or_default();
    let every = ticks.len().div_ceil(POINTS).max(1);
    let chosen = || (0..ticks.len()).filter(|index| (index + 1) % every == 0);
    let mut seen = vec![false; usize::try_from(trace.pages).unwrap_or(0)];
    let mut sum = 0u64;
    let cumulative: Vec<u64> = ticks
        .iter()
        .map(|tick| {
            for page in tick.pages() {
                if let Some(slot) = seen.get_mut(page as usize).filter(|slot| !**slot) {
                    *slot = true;
                    sum += 1;
                }
            }
            sum
        })
        .collect();
    let windows = [1.0, 10.0, 60.0].into_iter().filter_map(|window_s| {
        let window = ticks_of(trace.interval_ns, window_s)?;
        let counts = distinct_in_windows(ticks, trace.pages, window);
        // Nothing to draw when the recording is shorter than the window.
        counts.first()?;
        let at = |end: usize| counts.get((end + 1).checked_sub(window)?).copied();
        Some((window_s, chosen().map(at).collect()))
    });
    WorkingSet {
        windows: windows.collect(),
        t_s: chosen()
            .map(|index| ticks[index].t_ns as f64 / NS_PER_S as f64)
            .collect(),
        cumulative: chosen().map(|index| cumulative[index]).collect(),
    }
}

/// Figures of a recording as a whole. The first tick is left out of all.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PageStats {
    /// Ticks.
    pub ticks: usize,
    /// Nominal length of a tick in seconds.
    pub tick_s: f64,
    /// Length in seconds.
    pub duration_s: f64,
    /// Mean CPU use in cores.
    pub cores: f64,
    /// Pages written at all.
    pub distinct: u64,
    /// (tick, page) marks.
    pub marks: u64,
    /// Pages never written before, per second, over the second half: growth.
    pub new_pages_per_s: f64,
    /// Share of the marks on the hottest 1, 10 and 50 % of the pages written.
    pub hottest_share: [f64; 3],
    /// Mean share of a tick's pages that the tick before wrote too.
    pub overlap: Option<f64>,
    /// Mean length of runs of consecutive pages within a tick.
    pub run_mean: Option<f64>,
    /// Median over runs.
    pub run_median: Option<f64>,
    /// Share of runs of one page.
    pub single_run_share: Option<f64>,
    /// Runs by length: 1, 2–3, 4–7, 8–15, … up to 2^31.
    pub run_histogram: Vec<u64>,
    /// Correlation of CPU time and pages, tick by tick.
    pub cpu_correlation: Option<f64>,
}

/// Computes [`PageStats`]; `None` for less than two ticks.
#[must_use]
pub fn page_stats(trace: &PageWriteTrace) -> Option<PageStats> {
    let ticks = trace.ticks.get(1..).filter(|ticks| !ticks.is_empty())?;
    let start_ns = trace.ticks[0].t_ns;
    let duration_s = (trace.duration_ns() - start_ns) as f64 / NS_PER_S as f64;
    let cpu_ns: u64 = ticks.iter().map(|tick| tick.cpu_ns).sum();
    let mut counts = vec![0u32; usize::try_from(trace.pages).unwrap_or(0)];
    let middle_ns = start_ns + (trace.duration_ns() - start_ns) / 2;
    let mut new_late = 0u64;
    for tick in ticks {
        for page in tick.pages() {
            if let Some(count) = counts.get_mut(page as usize) {
                new_late += u64::from(*count == 0 && tick.t_ns > middle_ns);
                *count += 1;
            }
        }
    }
    let pairs = ticks
        .iter()
        .map(|tick| (Some(tick.cpu_ns as f64), Some(tick.page_count() as f64)));
    let (hottest_share, distinct, marks) = skew(counts);
    let runs = Runs::of(ticks);
    Some(PageStats {
        ticks: ticks.len(),
        tick_s: trace.interval_ns as f64 / NS_PER_S as f64,
        duration_s,
        cores: cpu_ns as f64 / NS_PER_S as f64 / duration_s,
        distinct,
        marks,
        new_pages_per_s: new_late as f64 / (duration_s / 2.0),
        hottest_share,
        overlap: overlap(ticks),
        run_mean: runs.mean,
        run_median: runs.median,
        single_run_share: runs.single_share,
        run_histogram: runs.histogram,
        cpu_correlation: correlation(pairs),
    })
}

/// Shares of the hottest 1, 10 and 50 %, pages, marks.
fn skew(mut counts: Vec<u32>) -> ([f64; 3], u64, u64) {
    counts.retain(|&count| count > 0);
    counts.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
    let marks: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let share = |part: f64| {
        let taken = round_usize((counts.len() as f64 * part).ceil());
        let sum: u64 = counts.iter().take(taken).map(|&c| u64::from(c)).sum();
        sum as f64 / marks.max(1) as f64
    };
    ([0.01, 0.1, 0.5].map(share), counts.len() as u64, marks)
}

/// Mean over ticks of |A ∩ B| / |B|, B the tick and A the one before; ticks that write nothing left
/// out.
fn overlap(ticks: &[Tick]) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for pair in ticks.windows(2) {
        let size = pair[1].page_count();
        if size == 0 {
            continue;
        }
        sum += shared_pages(&pair[0], &pair[1]) as f64 / size as f64;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// Pages in both ticks: one walk over both lists of runs.
fn shared_pages(a: &Tick, b: &Tick) -> u64 {
    let (mut i, mut k, mut sum) = (0, 0, 0u64);
    while let (Some(x), Some(y)) = (a.runs.get(i), b.runs.get(k)) {
        let (x_end, y_end) = (
            u64::from(x.start) + u64::from(x.len),
            u64::from(y.start) + u64::from(y.len),
        );
        let from = u64::from(x.start.max(y.start));
        sum += x_end.min(y_end).saturating_sub(from);
        if x_end <= y_end {
            i += 1;
        } else {
            k += 1;
        }
    }
    sum
}

struct Runs {
    mean: Option<f64>,
    median: Option<f64>,
    single_share: Option<f64>,
    histogram: Vec<u64>,
}

impl Runs {
    fn of(ticks: &[Tick]) -> Self {
        let mut lengths = std::collections::BTreeMap::<u32, u64>::new();
        for run in ticks.iter().flat_map(|tick| &tick.runs) {
            *lengths.entry(run.len).or_default() += 1;
        }
        let count: u64 = lengths.values().sum();
        let pages: u64 = lengths.iter().map(|(&len, n)| u64::from(len) * n).sum();
        let mut histogram = Vec::new();
        for (&len, &n) in &lengths {
            let bin = len.max(1).ilog2() as usize;
            histogram.resize(histogram.len().max(bin + 1), 0);
            histogram[bin] += n;
        }
        let mut sum = 0;
        let median = lengths.iter().find_map(|(&len, n)| {
            sum += n;
            (sum * 2 >= count).then(|| f64::from(len))
        });
        let some = |value: f64| (count > 0).then_some(value);
        Self {
            mean: some(pages as f64 / count as f64),
            median,
            single_share: some(lengths.get(&1).copied().unwrap_or(0) as f64 / count as f64),
            histogram,
        }
    }
}

#[cfg(test)]
mod tests;
