//! Phases of a recording: stretches between which its dirtying changes for good.

use std::ops::Range;

use crate::dirty::{PageWriteTrace, Tick};
use crate::stats::change_points;
use crate::units::NS_PER_S;

/// A stretch of a recording.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Phase {
    /// Start and end, from the start of the recording.
    pub range_ns: Range<u64>,
    /// Mean CPU use in cores.
    pub cores: f64,
    /// Mean distinct pages a second.
    pub pages_per_s: f64,
}

/// Ticks are looked at in bins of this length: shorter changes are bursts, not phases.
const BIN_NS: u64 = NS_PER_S / 2;
/// Bins a phase has at least, 2 s: less gives no curve to fit.
const SHORTEST: usize = 4;
/// Noise of a bin's logarithm that is ordinary in any program, 10 %: steadier recordings must not be
/// cut at changes nobody would call a phase.
const ORDINARY: f64 = 0.1;
/// Stretches whose medians differ by less than this factor are one phase.
const ALIKE: f64 = 1.25;
/// Phases at most; beyond, changes must be larger.
const MOST: usize = 32;

/// Finds phases after the first tick, which holds everything touched before.
///
/// Per bin of half a second, the logarithms of distinct pages in the bin and of the mean over its
/// ticks, each over its noise (median absolute difference of neighbours, at least 10 %), cut by PELT
/// with a penalty of 5 ln n a change: its place and four levels. A bin that holds a change is neither
/// before nor after it and may be cut off with a few neighbours; so neighbours whose medians are within
/// a quarter of each other in both are joined again. Empty for less than one bin.
#[must_use]
pub fn phases(trace: &PageWriteTrace) -> Vec<Phase> {
    let bins = bins(trace);
    let feature = |of: fn(&Bin) -> f64| {
        let values: Vec<f64> = bins.iter().map(|bin| of(bin).ln_1p()).collect();
        let noise = noise(&values).max(ORDINARY);
        values.into_iter().map(|v| v / noise).collect::<Vec<f64>>()
    };
    let features = [feature(|bin| bin.distinct), feature(|bin| bin.tick_mean)];
    let mut penalty = 5.0 * (bins.len().max(2) as f64).ln();
    let mut ends = change_points(&features, penalty, SHORTEST);
    while ends.len() > MOST {
        penalty *= 2.0;
        ends = change_points(&features, penalty, SHORTEST);
    }
    let ends = join_alike(&bins, ends);
    let mut start = 0;
    let phase = |end: usize| {
        let part = &bins[start..end];
        start = end;
        let (first, last) = (part.first()?, part.last()?);
        let range_ns = first.start_ns..last.end_ns;
        let seconds = (range_ns.end - range_ns.start) as f64 / NS_PER_S as f64;
        let cpu_ns: u64 = part.iter().map(|bin| bin.cpu_ns).sum();
        Some(Phase {
            cores: cpu_ns as f64 / NS_PER_S as f64 / seconds,
            pages_per_s: pages_per_s(trace, &range_ns),
            range_ns,
        })
    };
    ends.into_iter().filter_map(phase).collect()
}

/// The longest phase under load: one that dirties at least a tenth of the busiest one's pages a second.
#[must_use]
pub fn steady_phase(phases: &[Phase]) -> Option<&Phase> {
    let most = phases.iter().map(|p| p.pages_per_s).fold(0.0, f64::max);
    let busy = phases
        .iter()
        .filter(|p| p.pages_per_s >= super::LOAD_SHARE * most);
    busy.max_by_key(|p| p.range_ns.end - p.range_ns.start)
}

/// Drops the ends between neighbours that are alike, until none is.
fn join_alike(bins: &[Bin], mut ends: Vec<usize>) -> Vec<usize> {
    let median = |range: Range<usize>, of: fn(&Bin) -> f64| {
        let mut values: Vec<f64> = bins[range].iter().map(|bin| of(bin).ln_1p()).collect();
        values.sort_unstable_by(f64::total_cmp);
        crate::stats::quantile(&values, 0.5).unwrap_or(0.0)
    };
    let alike = |a: Range<usize>, b: Range<usize>| {
        let near = |of: fn(&Bin) -> f64| {
            (median(a.clone(), of) - median(b.clone(), of)).abs() < ALIKE.ln()
        };
        near(|bin| bin.distinct) && near(|bin| bin.tick_mean)
    };
    let mut at = 1;
    while at < ends.len() {
        let before = if at >= 2 { ends[at - 2] } else { 0 };
        if alike(before..ends[at - 1], ends[at - 1]..ends[at]) {
            ends.remove(at - 1);
            // The joined stretch may now be like the one before it.
            at = at.saturating_sub(1).max(1);
        } else {
            at += 1;
        }
    }
    ends
}

/// Mean of D(1 s), or of the longest whole window where the phase is shorter.
fn pages_per_s(trace: &PageWriteTrace, range: &Range<u64>) -> f64 {
    let ticks = trace.slice(range.clone()).ticks.len();
    let second = crate::stats::ticks_of(trace.interval_ns, 1.0).unwrap_or(1);
    let window = second.min(ticks).max(1);
    let points = crate::stats::dirty_curve(trace, &[window], range.clone());
    points.first().map_or(0.0, |p| p.pages / p.window_s)
}

struct Bin {
    start_ns: u64,
    end_ns: u64,
    cpu_ns: u64,
    distinct: f64,
    tick_mean: f64,
}

fn bins(trace: &PageWriteTrace) -> Vec<Bin> {
    let per_bin = usize::try_from(BIN_NS / trace.interval_ns.max(1))
        .unwrap_or(1)
        .max(1);
    let ticks = trace.ticks.get(1..).unwrap_or_default();
    let mut seen = vec![usize::MAX; usize::try_from(trace.pages).unwrap_or(0)];
    let mut bins = Vec::with_capacity(ticks.len() / per_bin);
    let mut start_ns = trace.ticks.first().map_or(0, |tick| tick.t_ns);
    for (index, part) in ticks.chunks_exact(per_bin).enumerate() {
        let mut distinct = 0u64;
        for page in part.iter().flat_map(Tick::pages) {
            if let Some(slot) = seen.get_mut(page as usize).filter(|slot| **slot != index) {
                *slot = index;
                distinct += 1;
            }
        }
        let marks: u64 = part.iter().map(Tick::page_count).sum();
        let end_ns = part.last().map_or(start_ns, |tick| tick.t_ns);
        bins.push(Bin {
            start_ns,
            end_ns,
            cpu_ns: part.iter().map(|tick| tick.cpu_ns).sum(),
            distinct: distinct as f64,
            tick_mean: marks as f64 / part.len() as f64,
        });
        start_ns = end_ns;
    }
    bins
}

/// Deviation of the noise, from differences of neighbours, by their median: steps do not count.
fn noise(values: &[f64]) -> f64 {
    let mut steps: Vec<f64> = values
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).abs())
        .collect();
    steps.sort_unstable_by(f64::total_cmp);
    // 1.4826 median absolute deviations are one deviation of a normal; a difference has two.
    crate::stats::quantile(&steps, 0.5).unwrap_or(0.0) * 1.4826 / std::f64::consts::SQRT_2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Run;

    #[test]
    fn changes_are_found_where_they_are_and_steady_recordings_are_one_phase() {
        let trace = |levels: &[u32]| {
            let ticks = (0..levels.len() as u64 * 100).map(|i| {
                let level = levels[usize::try_from(i / 100).unwrap()];
                // A little unrest, not a phase.
                let len = level + level * u32::try_from(i * 7919 % 10).unwrap() / 50;
                Tick {
                    t_ns: (i + 1) * 100_000_000,
                    cpu_ns: 50_000_000,
                    runs: vec![Run { start: 0, len }],
                }
            });
            PageWriteTrace {
                title: String::new(),
                pages: 10_000,
                interval_ns: 100_000_000,
                ticks: ticks.collect(),
            }
        };
        let found = phases(&trace(&[100, 2000, 100]));
        assert_eq!(found.len(), 3, "{found:?}");
        let off = found[0].range_ns.end.abs_diff(10 * NS_PER_S);
        assert!(off <= BIN_NS, "{found:?}");
        assert!((found[1].cores - 0.5).abs() < 1e-9);
        assert_eq!(phases(&trace(&[500, 500, 500])).len(), 1);
        assert_eq!(phases(&trace(&[])), []);
    }
}
