//! D(t): how many distinct pages are written in a window, as a mean and window by window.
//!
//! Pure arithmetic over page-write traces. Never inside: fits (see `fit`).

use std::ops::Range;

use crate::dirty::{PageWriteTrace, Tick};
use crate::units::NS_PER_S;

/// A point of D(t): the mean number of distinct pages written in a window.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
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
    let mut sum = 0u64;
    each_first(ticks, pages, window, |windows| sum += windows.len() as u64);
    sum as f64 / (ticks.len() - window + 1) as f64
}

/// Distinct pages in each window of `window` ticks, one window starting at each tick; none when the
/// ticks are fewer.
#[must_use]
pub fn distinct_in_windows(ticks: &[Tick], pages: u32, window: usize) -> Vec<u64> {
    if window == 0 || window > ticks.len() {
        return Vec::new();
    }
    // +1 where a page begins to count, -1 where it ends: the running sum is the count.
    let mut steps = vec![0i64; ticks.len() - window + 2];
    each_first(ticks, pages, window, |windows| {
        steps[windows.start] += 1;
        steps[windows.end] -= 1;
    });
    steps.pop();
    let mut sum = 0i64;
    let counts = steps.into_iter().map(|step| {
        sum += step;
        u64::try_from(sum).unwrap_or(0)
    });
    counts.collect()
}

/// Calls `count` with the windows in which a mark is the first of its page, mark by mark.
fn each_first(ticks: &[Tick], pages: u32, window: usize, mut count: impl FnMut(Range<usize>)) {
    // One past the tick that last wrote the page; 0 = none yet.
    let mut after_last = vec![0usize; usize::try_from(pages).unwrap_or(0)];
    let latest_start = ticks.len() - window;
    for (index, tick) in ticks.iter().enumerate() {
        for page in tick.pages() {
            let Some(slot) = after_last.get_mut(page as usize) else {
                continue;
            };
            // Windows that hold this mark start in lowest..=highest; those up to the page's mark
            // before hold that one too and have counted the page.
            let lowest = (*slot).max((index + 1).saturating_sub(window));
            let highest = index.min(latest_start);
            if lowest <= highest {
                count(lowest..highest + 1);
            }
            *slot = index + 1;
        }
    }
}

/// Distinct pages in each whole second from 0: seconds `i..i+1` at index `i`.
#[must_use]
pub fn distinct_per_second(trace: &PageWriteTrace) -> Vec<u64> {
    distinct_in_cells(trace, NS_PER_S)
}

/// Distinct pages in each stretch of `cell_ns` from 0.
#[must_use]
pub fn distinct_in_cells(trace: &PageWriteTrace, cell_ns: u64) -> Vec<u64> {
    let cell_ns = cell_ns.max(1);
    let cells = usize::try_from(trace.duration_ns().div_ceil(cell_ns)).unwrap_or(0);
    let mut counts = vec![0u64; cells];
    let mut seen = vec![usize::MAX; usize::try_from(trace.pages).unwrap_or(0)];
    for tick in &trace.ticks {
        // A tick belongs to the cell it ends in; one that ends on the border, to the one before.
        let cell = usize::try_from(tick.t_ns.saturating_sub(1) / cell_ns).unwrap_or(0);
        for page in tick.pages() {
            match seen.get_mut(page as usize) {
                Some(slot) if *slot != cell => {
                    *slot = cell;
                    if let Some(count) = counts.get_mut(cell) {
                        *count += 1;
                    }
                }
                _ => {}
            }
        }
    }
    counts
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / NS_PER_S as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
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
        let sizes = sizes(sets, window);
        sizes.iter().sum::<u64>() as f64 / sizes.len() as f64
    }

    fn sizes(sets: &[BTreeSet<u32>], window: usize) -> Vec<u64> {
        let union = |part: &[BTreeSet<u32>]| {
            part.iter()
                .flatten()
                .copied()
                .collect::<BTreeSet<u32>>()
                .len() as u64
        };
        sets.windows(window).map(union).collect()
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
                let counts = distinct_in_windows(&trace.ticks, trace.pages, window);
                prop_assert_eq!(counts, sizes(&sets, window));
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
}
