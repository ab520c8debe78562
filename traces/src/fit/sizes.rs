//! How many pages each rate of the grid has: the points of a curve, and non-negative least squares on their relative
//! errors.

use std::ops::Range;

use super::{FitError, RATES, WINDOWS, nnls};
use crate::class::{Coupling, PageClass, unique_pages};
use crate::dirty::PageWriteTrace;
use crate::stats::{CurvePoint, dirty_curve};
use crate::units::round_u32;

/// A point of the curve on the clock of the classes.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) pages: f64,
    pub(super) cores: f64,
    /// How much its error counts, against 1.
    pub(super) weight: f64,
    /// Share of a class's pages written in such a window, by rate: the mean over windows.
    pub(super) basis: [f64; RATES.len()],
}

impl Point {
    pub(super) fn of(point: &CurvePoint, coupling: Coupling) -> Self {
        let x = match coupling {
            Coupling::Cpu => point.window_cpu_s,
            Coupling::Time => point.window_s,
        };
        Self {
            x,
            pages: point.pages,
            cores: point.window_cpu_s / point.window_s,
            weight: 1.0,
            basis: basis(x),
        }
    }
}

/// Share of the pages of each rate that is written while the clock comes so far.
pub(super) fn basis(x: f64) -> [f64; RATES.len()] {
    RATES.map(|rate| -(-rate * x).exp_m1())
}

/// The points of a range. Windows reach to half of it, so that at least two do not overlap.
pub(super) fn curve(
    trace: &PageWriteTrace,
    range: Range<u64>,
    coupling: Coupling,
) -> Result<Vec<Point>, FitError> {
    const NEEDED: usize = 4;
    let ticks = trace.slice(range.clone()).ticks.len();
    let windows: Vec<usize> = WINDOWS
        .into_iter()
        .filter(|&window| window * 2 <= ticks)
        .collect();
    let points = dirty_curve(trace, &windows, range.clone());
    if points.iter().any(|p| Point::of(p, coupling).x <= 0.0) {
        return Err(FitError::NoCpu);
    }
    let points: Vec<Point> = points
        .iter()
        .filter(|point| point.pages > 0.0)
        .map(|point| Point::of(point, coupling))
        .collect();
    let (found, from_ns, to_ns) = (points.len(), range.start, range.end);
    if found < NEEDED {
        return Err(FitError::TooShort {
            found,
            needed: NEEDED,
            from_ns,
            to_ns,
        });
    }
    Ok(points)
}

/// Fits the sizes of the classes.
///
/// A steadily growing program asks for a huge, slow class, but a recording has only so many pages. The
/// problem is convex: when the best fit has too many pages, the best one that fits has exactly as
/// many as there are, which a heavy extra equation asks for.
pub(super) fn fit(points: &[Point], pages: u32, coupling: Coupling) -> Vec<PageClass> {
    let free = fit_sizes(points, None, coupling);
    let total: u64 = free.iter().map(|class| u64::from(class.pages)).sum();
    if total > u64::from(pages) {
        fit_sizes(points, Some(pages), coupling)
    } else {
        free
    }
}

fn fit_sizes(points: &[Point], total: Option<u32>, coupling: Coupling) -> Vec<PageClass> {
    let class = |rate, pages| PageClass {
        coupling,
        ..PageClass::new(pages, rate)
    };
    // Divided by the measured value, each row asks for 1: least squares on the relative error.
    // Sizes are solved in thousands of pages, to keep the system near unit size.
    const UNIT: f64 = 1000.0;
    // Against at most 16 rows of relative errors below 1, this leaves the total off by under 0.1 %.
    const HEAVY: f64 = 1000.0;
    let column = |rate: usize| {
        let mut column: Vec<f64> = points
            .iter()
            .map(|p| p.basis[rate] * UNIT / p.pages * p.weight.sqrt())
            .collect();
        column.extend(total.map(|total| HEAVY * UNIT / f64::from(total)));
        column
    };
    let columns: Vec<Vec<f64>> = (0..RATES.len()).map(column).collect();
    let mut wanted: Vec<f64> = points.iter().map(|p| p.weight.sqrt()).collect();
    wanted.extend(total.map(|_| HEAVY));
    let mut sizes = nnls::solve(&columns, &wanted);
    let sum: f64 = sizes.iter().sum();
    if let Some(total) = total.map(f64::from).filter(|&total| sum * UNIT > total) {
        sizes
            .iter_mut()
            .for_each(|size| *size *= total / (sum * UNIT));
    }
    let classes = RATES
        .iter()
        .zip(sizes)
        .map(|(&rate, size)| class(rate, round_u32(size * UNIT)));
    let mut classes: Vec<PageClass> = classes.filter(|class| class.pages > 0).collect();
    // Rounding each size may add a few pages in all; the largest class gives them back.
    let over = total.map_or(0, |total| {
        classes
            .iter()
            .map(|class| class.pages)
            .sum::<u32>()
            .saturating_sub(total)
    });
    if let Some(largest) = classes.iter_mut().max_by_key(|class| class.pages) {
        largest.pages -= over.min(largest.pages);
    }
    classes
}

pub(super) fn relative_error(classes: &[PageClass], points: &[Point]) -> f64 {
    let error = |point: &Point| (unique_pages(classes, point.x) - point.pages).abs() / point.pages;
    points.iter().map(error).sum::<f64>() / points.len() as f64
}
