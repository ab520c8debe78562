//! Which form fits a recording, and how well, out of sample: one set of classes, a set a phase, the same
//! with variation, or the recorded sets of pages themselves.

use std::ops::Range;

use super::halves::{WINDOWS_S, score, split, spread_error};
use super::{Phase, Point, Varied, curve, fit, fit_varied};
use crate::class::{Coupling, PageClass, Variation};
use crate::dirty::PageWriteTrace;
use crate::stats::{Quantiles, window_quantiles};
use crate::units::NS_PER_S;

/// A form of memory behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// One set of page classes for all of it.
    Classes,
    /// A set of page classes for each phase.
    Phases,
    /// The same, the intensity of each varying as recorded.
    VariedPhases,
    /// The recorded sets of pages, replayed.
    PageLevel,
}

impl Form {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classes => "one class set",
            Self::Phases => "class set a phase",
            Self::VariedPhases => "varying class set a phase",
            Self::PageLevel => "page-level",
        }
    }
}

/// The error at one window length.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct WindowError {
    /// Length in seconds.
    pub window_s: f64,
    /// Mean over phases of |predicted − measured| / measured, weighted by their length; none when no
    /// phase is long enough.
    pub error: Option<f64>,
    /// The same of the spread: mean error of p10, p50, p90 and p99 over the measured mean.
    pub spread_error: Option<f64>,
    /// Share of the time that could be scored.
    pub scored_share: f64,
}

/// A form's errors.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FormScore {
    /// Which.
    pub form: Form,
    /// Numbers it holds: pages and rate of each class, intensities; marks of the recording.
    pub parameters: u64,
    /// Fitted on the first half of every phase, scored on the second half of it.
    pub out_of_sample: Vec<WindowError>,
    /// Fitted and scored on the first halves.
    pub in_sample: Vec<WindowError>,
}

impl FormScore {
    /// Mean error over the windows that could be scored.
    #[must_use]
    pub fn mean_error(&self) -> Option<f64> {
        let errors: Vec<f64> = self.out_of_sample.iter().filter_map(|w| w.error).collect();
        (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
    }

    /// Mean error of means and spreads over the windows that could be scored.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        let windows = self.out_of_sample.iter();
        let both = windows.filter_map(|w| Some(0.5 * (w.error? + w.spread_error?)));
        let scores: Vec<f64> = both.collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// The largest error over the windows that could be scored.
    #[must_use]
    pub fn worst_error(&self) -> Option<f64> {
        let errors = self.out_of_sample.iter().filter_map(|w| w.error);
        errors.max_by(f64::total_cmp)
    }
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Forms {
    /// The clock of the classes: the one on which the better of their forms has the smaller mean error;
    /// CPU time unless time's is smaller by a quarter.
    pub coupling: Coupling,
    /// Phases found, also those too short to score.
    pub phases: Vec<Phase>,
    /// Simplest first.
    pub scores: Vec<FormScore>,
    /// The simplest form whose means are within 20 % at every window that could be scored; otherwise the
    /// one with the smallest mean error. Of phases the varying ones, where mean and spread together are
    /// better by a tenth; one phase is one class set.
    pub best: Form,
    /// Whether it is within 20 %.
    pub within_20_per_cent: bool,
}

impl Forms {
    /// Whether variation betters the means and spreads of phases by a tenth.
    #[must_use]
    pub fn varying_phases_are_better(&self) -> bool {
        let score = |form| self.scores.iter().find(|s| s.form == form)?.score();
        matches!((score(Form::VariedPhases), score(Form::Phases)),
            (Some(varied), Some(plain)) if varied < BETTER * plain)
    }
}

/// What a fit must reach to be called good, the bar of the design notes.
const GOOD: f64 = 0.2;
/// By how much time must be better than CPU time to be the clock: a quarter.
const CLEARLY: f64 = 0.75;
/// By how much variation must be better to be worth its numbers: a tenth, as of one class set.
const BETTER: f64 = 0.9;

/// Compares the forms over `phases`. `None` when no phase has two halves that can be scored.
#[must_use]
pub fn compare_forms(trace: &PageWriteTrace, phases: &[Phase]) -> Option<Forms> {
    let by_clock = [Coupling::Cpu, Coupling::Time]
        .into_iter()
        .filter_map(|coupling| {
            let scores = scores(trace, phases, coupling)?;
            let classes = scores.iter().filter(|s| s.form != Form::PageLevel);
            let errors = classes.filter_map(FormScore::mean_error);
            let least = errors.min_by(f64::total_cmp)?;
            Some((least, coupling, scores))
        });
    let mut by_clock: Vec<_> = by_clock.collect();
    // Writes follow the CPU time served unless time does clearly better (see `fit_set`).
    let weight = |clock: Coupling| if clock == Coupling::Cpu { CLEARLY } else { 1.0 };
    by_clock.sort_by(|a, b| (a.0 * weight(a.1)).total_cmp(&(b.0 * weight(b.1))));
    let (_, coupling, scores) = by_clock.into_iter().next()?;
    let good = |score: &&FormScore| score.worst_error().is_some_and(|error| error <= GOOD);
    let found = scores.iter().find(good);
    let least = scores
        .iter()
        .filter_map(|score| Some((score.mean_error()?, score)))
        .min_by(|a, b| a.0.total_cmp(&b.0))?
        .1;
    let simple = found.unwrap_or(least);
    let varied = scores.iter().find(|s| s.form == Form::VariedPhases)?;
    let of_sets = matches!(simple.form, Form::Classes | Form::Phases);
    let better = varied.score()? < BETTER * simple.score()?;
    let best = if of_sets && better { varied } else { simple };
    Some(Forms {
        coupling,
        phases: phases.to_vec(),
        best: best.form,
        within_20_per_cent: good(&best),
        scores,
    })
}

/// A phase with both halves.
struct Split {
    first: Range<u64>,
    second: Range<u64>,
    points: Vec<Point>,
    classes: Vec<PageClass>,
    varied: (Vec<PageClass>, Variation),
    seconds: f64,
}

fn scores(trace: &PageWriteTrace, phases: &[Phase], coupling: Coupling) -> Option<Vec<FormScore>> {
    let splits = phases.iter().filter_map(|phase| {
        let (first, second) = split(trace, &phase.range_ns);
        let points = curve(trace, first.clone(), coupling).ok()?;
        let classes = fit(&points, trace.pages, coupling);
        let Varied {
            classes: own,
            variation,
            ..
        } = fit_varied(trace, &first, coupling).ok()?;
        let seconds = (second.end - second.start) as f64 / NS_PER_S as f64;
        Some(Split {
            first,
            second,
            points,
            classes,
            varied: (own, variation),
            seconds,
        })
    });
    let splits: Vec<Split> = splits.collect();
    let total: f64 = splits.iter().map(|split| split.seconds).sum();
    let pooled = splits.iter().flat_map(|split| {
        let weight = split.seconds / total / split.points.len() as f64;
        split
            .points
            .iter()
            .map(move |point| Point { weight, ..*point })
    });
    let pooled: Vec<Point> = pooled.collect();
    if pooled.is_empty() {
        return None;
    }
    let one = fit(&pooled, trace.pages, coupling);
    let numbers = |classes: &[PageClass]| 2 * classes.len() as u64;
    let score = |form: Form, parameters: u64| {
        let errors = |held_out: bool| errors(trace, &splits, form, &one, held_out);
        FormScore {
            form,
            parameters,
            out_of_sample: errors(true),
            in_sample: errors(false),
        }
    };
    let in_phases = splits.iter().map(|split| numbers(&split.classes)).sum();
    let varied = splits.iter().map(|split| match &split.varied {
        (classes, Variation::Series { intensities, .. }) => {
            numbers(classes) + intensities.len() as u64
        }
        (classes, Variation::LogNormal { .. }) => numbers(classes) + 2,
    });
    Some(vec![
        score(Form::Classes, numbers(&one)),
        score(Form::Phases, in_phases),
        score(Form::VariedPhases, varied.sum()),
        score(Form::PageLevel, trace.marks()),
    ])
}

fn errors(
    trace: &PageWriteTrace,
    splits: &[Split],
    form: Form,
    one: &[PageClass],
    held_out: bool,
) -> Vec<WindowError> {
    let total: f64 = splits.iter().map(|split| split.seconds).sum();
    // By window: sums of both errors and of the time scored.
    let mut sums = WINDOWS_S.map(|_| (0.0, 0.0, 0.0));
    for split in splits {
        let on = if held_out {
            &split.second
        } else {
            &split.first
        };
        let pairs = match form {
            Form::Classes => predicted(trace, on, one, None),
            Form::Phases => predicted(trace, on, &split.classes, None),
            Form::VariedPhases => predicted(trace, on, &split.varied.0, Some(&split.varied.1)),
            Form::PageLevel => replayed(trace, &split.first, on),
        };
        for (measured, predicted) in pairs {
            let at = WINDOWS_S
                .iter()
                .position(|w| w.total_cmp(&measured.window_s).is_eq());
            let Some(at) = at.filter(|_| measured.mean > 0.0) else {
                continue;
            };
            let error = (predicted.mean - measured.mean).abs() / measured.mean;
            sums[at].0 += error * split.seconds;
            sums[at].1 += spread_error(&measured, &predicted) * split.seconds;
            sums[at].2 += split.seconds;
        }
    }
    let window = |(&window_s, (error, spread, scored)): (&f64, (f64, f64, f64))| WindowError {
        window_s,
        error: (scored > 0.0).then(|| error / scored),
        spread_error: (scored > 0.0).then(|| spread / scored),
        scored_share: scored / total,
    };
    WINDOWS_S.iter().zip(sums).map(window).collect()
}

/// D(w) as recorded and as classes give it, by window.
fn predicted(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    classes: &[PageClass],
    variation: Option<&Variation>,
) -> Vec<(Quantiles, Quantiles)> {
    let windows = score(trace, range, classes, variation);
    windows.iter().map(|w| (w.measured, w.predicted)).collect()
}

/// D(w) as recorded and as it was in another stretch, by window.
fn replayed(
    trace: &PageWriteTrace,
    from: &Range<u64>,
    to: &Range<u64>,
) -> Vec<(Quantiles, Quantiles)> {
    let (from, to) = (trace.slice(from.clone()), trace.slice(to.clone()));
    let of = |part: &PageWriteTrace, window_s| {
        window_quantiles(&part.ticks, part.pages, part.interval_ns, window_s)
    };
    let pair = |window_s: f64| Some((of(&to, window_s)?, of(&from, window_s)?));
    WINDOWS_S.into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests;
