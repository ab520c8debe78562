//! Page classes from a recording: fits D(t) = Σ n_k (1 − e^(−r_k t)) to the measured curve.
//!
//! The rates are fixed, the numbers of pages come from non-negative least squares on the relative
//! error, so that a fit is one linear problem, deterministic, and cannot swing. Its quality is told
//! twice: on the points it was fitted to, and out of sample (fitted on one half of the recording,
//! scored on the other), which is the one to believe.

mod choose;
mod forms;
mod halves;
mod nnls;
mod phased;
mod phases;
mod reads;
mod sizes;
mod varied;

pub use choose::{SetFit, fit_set};
pub use forms::{Form, FormScore, Forms, WindowError, compare_forms};
pub use halves::{Direction, HalfWindow, Halves, WINDOWS_S, halves, varied_halves};
pub use phased::fit_phases;
pub use phases::{Phase, phases, steady_phase};
pub use reads::{ReadClass, ReadFit, ReadWindow, Samples, fit_reads, read_windows};
pub use varied::{Varied, fit_varied};

use std::ops::Range;

use crate::class::{Coupling, PageClass};
use crate::dirty::PageWriteTrace;
use crate::stats::{CurvePoint, distinct_per_second};
use crate::units::NS_PER_S;
use sizes::{Point, basis, curve, fit, relative_error};

/// Rates a second, a factor of five apart, from one write in 10 ms to one in two minutes: the grid
/// compared with a power law and single rates in the design notes.
pub const RATES: [f64; 7] = [100.0, 20.0, 5.0, 1.0, 0.2, 0.04, 0.008];

/// Windows of the curve, in ticks: 1-2-5 steps with one in between, as the curve bends slowly.
pub const WINDOWS: [usize; 16] = [
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500,
];

/// Seconds with less than this share of the busiest second's distinct pages are not load. Idle
/// phases of our recordings lie at 0.2 % (redis) and 7 % (memcached), load phases above 10 %.
const LOAD_SHARE: f64 = 0.1;

/// How good a fit is: mean absolute relative errors of D(t), 0.1 = 10 %.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct FitReport {
    /// Of all classes on the points they were fitted to.
    pub in_sample_error: f64,
    /// Fitted on the first half of the range, scored on the second.
    pub out_of_sample_error: f64,
    /// Points of the whole range that were fitted.
    pub points: usize,
    /// Mean CPU use in the range, in cores.
    pub cores: f64,
}

/// Why there is no fit.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum FitError {
    /// Too few ticks with writes to speak of a curve.
    #[error(
        "{found} points of D(t) between {from_ns} and {to_ns} ns, at least {needed} are needed"
    )]
    TooShort {
        /// Points there are.
        found: usize,
        /// Points needed in each half.
        needed: usize,
        /// Start of the range.
        from_ns: u64,
        /// End of the range.
        to_ns: u64,
    },
    /// Coupled to CPU time, of which there is none.
    #[error("no CPU time was recorded in the range; couple the classes to time instead")]
    NoCpu,
}

/// Fits classes coupled to CPU time over the part of a recording in `range`.
///
/// # Errors
/// When the range is too short or holds no CPU time.
pub fn fit_recording(
    trace: &PageWriteTrace,
    range: Range<u64>,
) -> Result<(Vec<PageClass>, FitReport), FitError> {
    fit_recording_with(trace, range, Coupling::Cpu)
}

/// Fits classes over the part of a recording in `range`, on the clock of `coupling`.
///
/// # Errors
/// When the range is too short, or holds no CPU time and is coupled to it.
pub fn fit_recording_with(
    trace: &PageWriteTrace,
    range: Range<u64>,
    coupling: Coupling,
) -> Result<(Vec<PageClass>, FitReport), FitError> {
    let middle = range.start
        + range
            .end
            .min(trace.duration_ns())
            .saturating_sub(range.start)
            / 2;
    let first = curve(trace, range.start..middle, coupling)?;
    let second = curve(trace, middle..range.end, coupling)?;
    let whole = curve(trace, range, coupling)?;
    let half = fit(&first, trace.pages, coupling);
    let classes = fit(&whole, trace.pages, coupling);
    let report = FitReport {
        in_sample_error: relative_error(&classes, &whole),
        out_of_sample_error: relative_error(&half, &second),
        points: whole.len(),
        cores: whole.last().map_or(0.0, |point| point.cores),
    };
    Ok((classes, report))
}

/// Fits classes to a curve measured elsewhere, of a guest of `pages` pages. `None` when nothing was
/// dirtied, or no time passed on the clock of `coupling`. The error is that on the points fitted.
#[must_use]
pub fn fit_curve(
    curve: &[CurvePoint],
    pages: u32,
    coupling: Coupling,
) -> Option<(Vec<PageClass>, f64)> {
    let points: Vec<Point> = curve
        .iter()
        .filter(|point| point.pages > 0.0 && point.window_s > 0.0)
        .map(|point| Point::of(point, coupling))
        .filter(|point| point.x > 0.0)
        .collect();
    if points.is_empty() {
        return None;
    }
    let classes = fit(&points, pages, coupling);
    let error = relative_error(&classes, &points);
    Some((classes, error))
}

/// A measurement that is linear in the sizes of classes: what was found, and which share of the pages of each rate of
/// [`RATES`] was to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Pages.
    pub pages: f64,
    /// By rate.
    pub shares: [f64; RATES.len()],
}

impl Found {
    /// What classes of a fit let expect; those of other rates count as none.
    #[must_use]
    pub fn expected(&self, classes: &[PageClass]) -> f64 {
        let of = |class: &PageClass| {
            let rate = RATES
                .iter()
                .position(|&rate| rate.total_cmp(&class.rate).is_eq());
            rate.map_or(0.0, |rate| f64::from(class.pages) * self.shares[rate])
        };
        classes.iter().map(of).sum()
    }
}

/// Fits classes to such measurements of a guest of `pages` pages. `None` when nothing was found. The error is that on what was
/// fitted.
#[must_use]
pub fn fit_found(found: &[Found], pages: u32, coupling: Coupling) -> Option<(Vec<PageClass>, f64)> {
    let some = || found.iter().filter(|found| found.pages > 0.0);
    let points: Vec<Point> = some()
        .map(|found| Point {
            x: 0.0,
            pages: found.pages,
            cores: 0.0,
            weight: 1.0,
            basis: found.shares,
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let classes = fit(&points, pages, coupling);
    let off = some().map(|found| (found.expected(&classes) / found.pages - 1.0).abs());
    let error = off.sum::<f64>() / points.len() as f64;
    Some((classes, error))
}

/// The longest stretch in which every second dirties at least a tenth of the busiest second's pages:
/// where the recorded program was under load. `None` when nothing was written.
///
/// Its first and last second are partly idle as a rule and left out when the stretch has five or
/// more. The first second is never part of it: it holds everything touched before the recording.
#[must_use]
pub fn load_phase(trace: &PageWriteTrace) -> Option<Range<u64>> {
    let counts = distinct_per_second(trace);
    let most = counts
        .iter()
        .skip(1)
        .max()
        .copied()
        .filter(|&most| most > 0)?;
    let busy = |count: u64| count as f64 >= LOAD_SHARE * most as f64;
    let mut best = 0..0;
    let mut start = 1;
    for second in 1..=counts.len() {
        if counts.get(second).is_some_and(|&count| busy(count)) {
            continue;
        }
        if second.saturating_sub(start) > best.len() {
            best = start..second;
        }
        start = second + 1;
    }
    let trimmed = if best.len() >= 5 {
        best.start + 1..best.end - 1
    } else {
        best
    };
    let ns = |second: usize| second as u64 * NS_PER_S;
    Some(ns(trimmed.start)..ns(trimmed.end))
}

#[cfg(test)]
mod tests;
