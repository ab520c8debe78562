//! Statistics of traces: how many distinct pages are dirtied in a window, and how CPU use is spread.
//!
//! Pure arithmetic over traces. Never inside: fits (see `fit`).

use std::ops::Range;

use crate::cpu::CpuTrace;
use crate::dirty::{PageWriteTrace, Tick};
use crate::units::NS_PER_S;

/// A point of D(t): the mean number of distinct pages written in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Length of the window.
    pub window_s: f64,
    /// CPU time used in such a window, on average.
    pub window_cpu_s: f64,
    /// Distinct pages written in it, on average.
    pub pages: f64,
}

/// D(t) over the ticks that end in `(range.start, range.end]`, for windows given in ticks.
///
/// Sliding windows, one starting at each tick. Windows longer than the range give no point. Each
/// point costs one pass over the marks: a mark is the first of its page in every window that starts
/// after the page's mark before it, so counting those windows counts each page once.
#[must_use]
pub fn dirty_curve(
    trace: &PageWriteTrace,
    windows: &[usize],
    range: Range<u64>,
) -> Vec<CurvePoint> {
    let first = trace.ticks.partition_point(|tick| tick.t_ns <= range.start);
    let last = trace
        .ticks
        .partition_point(|tick| tick.t_ns <= range.end)
        .max(first);
    let ticks = &trace.ticks[first..last];
    let Some(end) = ticks.last() else {
        return Vec::new();
    };
    let start_ns = first.checked_sub(1).map_or(0, |i| trace.ticks[i].t_ns);
    // Windows are counted in ticks, so their mean length follows from the mean tick.
    let tick_s = seconds(end.t_ns - start_ns) / ticks.len() as f64;
    let tick_cpu_s = seconds(ticks.iter().map(|tick| tick.cpu_ns).sum()) / ticks.len() as f64;
    let fits = windows
        .iter()
        .filter(|&&window| window > 0 && window <= ticks.len());
    fits.map(|&window| CurvePoint {
        window_s: tick_s * window as f64,
        window_cpu_s: tick_cpu_s * window as f64,
        pages: mean_distinct(ticks, trace.pages, window),
    })
    .collect()
}

/// Mean number of distinct pages over all windows of `window` ticks.
fn mean_distinct(ticks: &[Tick], pages: u32, window: usize) -> f64 {
    // One past the tick that last wrote the page; 0 = none yet.
    let mut after_last = vec![0usize; usize::try_from(pages).unwrap_or(0)];
    let latest_start = ticks.len() - window;
    let mut sum = 0u64;
    for (index, tick) in ticks.iter().enumerate() {
        for page in tick.pages() {
            let Some(slot) = after_last.get_mut(page as usize) else {
                continue;
            };
            // Windows that hold this mark start in lowest..=highest; those up to the page's mark
            // before hold that one too and have counted the page.
            let lowest = (*slot).max((index + 1).saturating_sub(window));
            let highest = index.min(latest_start);
            sum += (highest + 1).saturating_sub(lowest) as u64;
            *slot = index + 1;
        }
    }
    sum as f64 / (latest_start + 1) as f64
}

/// Distinct pages in each whole second from 0: seconds `i..i+1` at index `i`.
#[must_use]
pub fn distinct_per_second(trace: &PageWriteTrace) -> Vec<u64> {
    let seconds = usize::try_from(trace.duration_ns().div_ceil(NS_PER_S)).unwrap_or(0);
    let mut counts = vec![0u64; seconds];
    let mut seen = vec![usize::MAX; usize::try_from(trace.pages).unwrap_or(0)];
    for tick in &trace.ticks {
        // A tick belongs to the second it ends in; one that ends on the border, to the one before.
        let second = usize::try_from(tick.t_ns.saturating_sub(1) / NS_PER_S).unwrap_or(0);
        for page in tick.pages() {
            match seen.get_mut(page as usize) {
                Some(slot) if *slot != second => {
                    *slot = second;
                    if let Some(count) = counts.get_mut(second) {
                        *count += 1;
                    }
                }
                _ => {}
            }
        }
    }
    counts
}

/// CPU demand over one repetition of a trace, weighted by time, in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuStats {
    /// Mean.
    pub mean: f64,
    /// Standard deviation over mean; 0 when the mean is 0.
    pub coefficient_of_variation: f64,
    /// Median.
    pub p50: u32,
    /// 95th percentile.
    pub p95: u32,
    /// Largest.
    pub max: u32,
    /// Autocorrelation at a lag of one interval; `None` for a constant trace.
    pub lag1: Option<f64>,
}

/// Computes [`CpuStats`].
#[must_use]
pub fn cpu_stats(trace: &CpuTrace) -> CpuStats {
    let samples = trace.samples();
    let mean = trace.mean_milli();
    let total = trace.period_ns() as f64;
    let square = |milli: u32| (f64::from(milli) - mean).powi(2);
    let variance = samples
        .iter()
        .map(|s| square(s.milli) * s.dur_ns as f64)
        .sum::<f64>()
        / total;
    let mut sorted: Vec<(u32, u64)> = samples.iter().map(|s| (s.milli, s.dur_ns)).collect();
    sorted.sort_unstable();
    let values: Vec<f64> = samples.iter().map(|s| f64::from(s.milli)).collect();
    CpuStats {
        mean,
        coefficient_of_variation: if mean > 0.0 {
            variance.sqrt() / mean
        } else {
            0.0
        },
        p50: weighted_quantile(&sorted, 0.5),
        p95: weighted_quantile(&sorted, 0.95),
        max: sorted.last().map_or(0, |&(milli, _)| milli),
        lag1: autocorrelation(&values, 1),
    }
}

/// The least value that is not exceeded for `share` of the time.
fn weighted_quantile(sorted: &[(u32, u64)], share: f64) -> u32 {
    let total: u128 = sorted.iter().map(|&(_, weight)| u128::from(weight)).sum();
    let target = share * total as f64;
    let mut sum = 0u128;
    for &(value, weight) in sorted {
        sum += u128::from(weight);
        if sum as f64 >= target {
            return value;
        }
    }
    sorted.last().map_or(0, |&(value, _)| value)
}

/// Autocorrelation of a series at a lag; `None` when it is constant or shorter than the lag.
#[must_use]
pub fn autocorrelation(values: &[f64], lag: usize) -> Option<f64> {
    if values.len() <= lag {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let pairs = values.iter().zip(&values[lag..]);
    let covariance: f64 = pairs.map(|(a, b)| (a - mean) * (b - mean)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / NS_PER_S as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cpu::CpuSample;
    use crate::dirty::Run;

    fn trace(sets: &[BTreeSet<u32>]) -> PageWriteTrace {
        let run = |&start: &u32| Run { start, len: 1 };
        let ticks = sets.iter().enumerate().map(|(i, set)| Tick {
            t_ns: (i as u64 + 1) * 100_000_000,
            cpu_ns: 50_000_000,
            runs: set.iter().map(run).collect(),
        });
        PageWriteTrace {
            title: String::new(),
            pages: 16,
            interval_ns: 100_000_000,
            ticks: ticks.collect(),
        }
    }

    /// The definition, window by window.
    fn by_hand(sets: &[BTreeSet<u32>], window: usize) -> f64 {
        let union = |part: &[BTreeSet<u32>]| {
            part.iter()
                .flatten()
                .copied()
                .collect::<BTreeSet<u32>>()
                .len()
        };
        let sizes: Vec<usize> = sets.windows(window).map(union).collect();
        sizes.iter().sum::<usize>() as f64 / sizes.len() as f64
    }

    proptest! {
        #[test]
        fn the_fast_count_is_the_definition(
            sets in proptest::collection::vec(proptest::collection::btree_set(0..16u32, 0..8), 1..20),
        ) {
            let trace = trace(&sets);
            for window in 1..=sets.len() {
                let points = dirty_curve(&trace, &[window], 0..u64::MAX);
                prop_assert!((points[0].pages - by_hand(&sets, window)).abs() < 1e-9);
            }
            prop_assert!(dirty_curve(&trace, &[sets.len() + 1, 0], 0..u64::MAX).is_empty());
        }
    }

    #[test]
    fn a_range_leaves_the_rest_out() {
        let sets: Vec<BTreeSet<u32>> = (0..10).map(|i| [i].into()).collect();
        let points = dirty_curve(&trace(&sets), &[1, 3], 200_000_000..600_000_000);
        assert_eq!(
            points.iter().map(|p| p.pages).collect::<Vec<_>>(),
            [1.0, 3.0]
        );
        assert!((points[1].window_s - 0.3).abs() < 1e-12);
        assert!((points[1].window_cpu_s - 0.15).abs() < 1e-12);
        assert!(dirty_curve(&trace(&sets), &[1], 5..6).is_empty());
    }

    #[test]
    fn seconds_count_distinct_pages() {
        let sets: Vec<BTreeSet<u32>> = (0..15).map(|i| [i % 4, 9].into()).collect();
        assert_eq!(distinct_per_second(&trace(&sets)), [5, 5]);
    }

    #[test]
    fn cpu_statistics_weigh_by_time() {
        let samples = [(90, 100), (5, 800), (5, 200)]
            .map(|(dur_ns, milli)| CpuSample { dur_ns, milli })
            .to_vec();
        let stats = cpu_stats(&CpuTrace::new(samples).unwrap());
        assert!((stats.mean - 140.0).abs() < 1e-9);
        assert_eq!((stats.p50, stats.p95, stats.max), (100, 200, 800));
        assert_eq!(cpu_stats(&CpuTrace::constant(7)).lag1, None);
        assert_eq!(autocorrelation(&[1.0, -1.0, 1.0, -1.0], 1), Some(-0.75));
    }
}
