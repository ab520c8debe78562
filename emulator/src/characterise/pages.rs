//! What is said of a page-level recording.

use serde::Serialize;
use std::ops::Range;
use traces::class::{Coupling, PageClass, Variation};
use traces::dirty::PageWriteTrace;
use traces::fit::{
    FitReport, Forms, Halves, Phase, WINDOWS, compare_forms, fit_recording_with, fit_set, phases,
    steady_phase,
};
use traces::stats::{
    CurvePoint, PageStats, Quantiles, WorkingSet, dirty_curve, page_stats, window_quantiles,
    working_set,
};

/// A recording.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The recording as a whole.
    pub stats: PageStats,
    /// Phases found.
    pub phases: Vec<Phase>,
    /// The longest phase under load: what the following figures are of.
    pub steady_ns: Range<u64>,
    /// D(t) of it.
    pub curve: Vec<CurvePoint>,
    /// Quantiles of D(w) of it at 0.1, 1, 10 and 60 s.
    pub quantiles: Vec<Quantiles>,
    /// Classes fitted to all of it, with errors in and out of sample.
    pub fit: Option<Fit>,
    /// Each half of it against the other.
    pub halves: Option<Halves>,
    /// Which form fits the whole recording how well.
    pub forms: Option<Forms>,
    /// The working set over time.
    pub working_set: WorkingSet,
}

/// A fit of the steady phase.
#[derive(Debug, Serialize)]
pub struct Fit {
    /// The clock.
    pub coupling: Coupling,
    /// The classes.
    pub classes: Vec<PageClass>,
    /// How their intensity varies, where that does better out of sample.
    pub variation: Option<Variation>,
    /// Errors of the mean curve.
    pub report: FitReport,
}

/// Computes it; `None` for a recording of less than two ticks.
#[must_use]
pub fn page(trace: &PageWriteTrace) -> Option<Page> {
    let stats = page_stats(trace)?;
    let phases = phases(trace);
    let start = trace.ticks.first()?.t_ns;
    let whole = start..trace.duration_ns();
    let steady_ns = steady_phase(&phases).map_or(whole, |phase| phase.range_ns.clone());
    let part = trace.slice(steady_ns.clone());
    let windows: Vec<usize> = WINDOWS
        .into_iter()
        .filter(|window| window * 2 <= part.ticks.len())
        .collect();
    let quantile = |window_s| window_quantiles(&part.ticks, part.pages, part.interval_ns, window_s);
    let set = fit_set(trace, &steady_ns).ok();
    let fit = set.as_ref().and_then(|set| {
        let (_, report) = fit_recording_with(trace, steady_ns.clone(), set.coupling).ok()?;
        Some(Fit {
            coupling: set.coupling,
            classes: set.classes.clone(),
            variation: set.variation.clone(),
            report,
        })
    });
    Some(Page {
        curve: dirty_curve(trace, &windows, steady_ns.clone()),
        quantiles: [0.1, 1.0, 10.0, 60.0]
            .into_iter()
            .filter_map(quantile)
            .collect(),
        halves: set.map(|set| set.halves),
        forms: compare_forms(trace, &phases),
        working_set: working_set(trace),
        stats,
        phases,
        steady_ns,
        fit,
    })
}
