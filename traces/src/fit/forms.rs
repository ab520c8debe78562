//! Which form fits a recording, and how well, out of sample: one set of classes, a set a phase, or the
//! recorded sets of pages themselves.

use std::ops::Range;

use super::halves::{WINDOWS_S, split};
use super::{Phase, Point, curve, fit};
use crate::class::{Coupling, PageClass, unique_pages};
use crate::dirty::PageWriteTrace;
use crate::stats::{ticks_of, window_quantiles};
use crate::units::NS_PER_S;

/// A form of memory behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// One set of page classes for all of it.
    Classes,
    /// A set of page classes for each phase.
    Phases,
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
    /// Share of the time that could be scored.
    pub scored_share: f64,
}

/// A form's errors.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FormScore {
    /// Which.
    pub form: Form,
    /// Numbers it holds: pages and rate of each class; marks of the recording.
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
    /// The clock of the classes: the one with the smaller mean error.
    pub coupling: Coupling,
    /// Phases found, also those too short to score.
    pub phases: Vec<Phase>,
    /// Simplest first.
    pub scores: Vec<FormScore>,
    /// The simplest form within 20 % at every window that could be scored; otherwise the one with the
    /// smallest mean error.
    pub best: Form,
    /// Whether it is within 20 %.
    pub within_20_per_cent: bool,
}

/// What a fit must reach to be called good, the bar of the design notes.
const GOOD: f64 = 0.2;

/// Compares the forms over `phases`. `None` when no phase has two halves that can be scored.
#[must_use]
pub fn compare_forms(trace: &PageWriteTrace, phases: &[Phase]) -> Option<Forms> {
    let by_clock = [Coupling::Cpu, Coupling::Time]
        .into_iter()
        .filter_map(|coupling| {
            let scores = scores(trace, phases, coupling)?;
            let classes = scores.iter().filter(|s| s.form != Form::PageLevel);
            let mean = classes.filter_map(FormScore::mean_error).sum::<f64>();
            Some((mean, coupling, scores))
        });
    let (_, coupling, scores) = by_clock.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let good = |score: &&FormScore| score.worst_error().is_some_and(|error| error <= GOOD);
    let found = scores.iter().find(good);
    let least = scores
        .iter()
        .filter_map(|score| Some((score.mean_error()?, score)))
        .min_by(|a, b| a.0.total_cmp(&b.0))?
        .1;
    Some(Forms {
        coupling,
        phases: phases.to_vec(),
        best: found.unwrap_or(least).form,
        within_20_per_cent: found.is_some(),
        scores,
    })
}

/// A phase with both halves.
struct Split {
    first: Range<u64>,
    second: Range<u64>,
    points: Vec<Point>,
    classes: Vec<PageClass>,
    seconds: f64,
}

fn scores(trace: &PageWriteTrace, phases: &[Phase], coupling: Coupling) -> Option<Vec<FormScore>> {
    let splits = phases.iter().filter_map(|phase| {
        let (first, second) = split(trace, &phase.range_ns);
        let points = curve(trace, first.clone(), coupling).ok()?;
        let classes = fit(&points, trace.pages, coupling);
        let seconds = (second.end - second.start) as f64 / NS_PER_S as f64;
        Some(Split {
            first,
            second,
            points,
            classes,
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
    Some(vec![
        score(Form::Classes, numbers(&one)),
        score(Form::Phases, in_phases),
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
    let at = |window_s: f64| {
        let (mut sum, mut scored) = (0.0, 0.0);
        for split in splits {
            let scored_on = if held_out {
                &split.second
            } else {
                &split.first
            };
            let Some((measured, cpu_s)) = mean_at(trace, scored_on, window_s) else {
                continue;
            };
            let clock = |classes: &[PageClass]| {
                let cpu = classes.iter().any(|class| class.coupling == Coupling::Cpu);
                unique_pages(classes, if cpu { cpu_s } else { window_s })
            };
            let predicted = match form {
                Form::Classes => Some(clock(one)),
                Form::Phases => Some(clock(&split.classes)),
                Form::PageLevel => mean_at(trace, &split.first, window_s).map(|(pages, _)| pages),
            };
            if let Some(predicted) = predicted.filter(|_| measured > 0.0) {
                sum += (predicted - measured).abs() / measured * split.seconds;
                scored += split.seconds;
            }
        }
        WindowError {
            window_s,
            error: (scored > 0.0).then(|| sum / scored),
            scored_share: scored / total,
        }
    };
    WINDOWS_S.into_iter().map(at).collect()
}

/// Mean of D(w) in a range, and the CPU time of such a window.
fn mean_at(trace: &PageWriteTrace, range: &Range<u64>, window_s: f64) -> Option<(f64, f64)> {
    let part = trace.slice(range.clone());
    let found = window_quantiles(&part.ticks, part.pages, part.interval_ns, window_s)?;
    let window = ticks_of(part.interval_ns, window_s)?;
    let cpu_ns: u64 = part.ticks.iter().map(|tick| tick.cpu_ns).sum();
    let tick_cpu_s = cpu_ns as f64 / NS_PER_S as f64 / part.ticks.len() as f64;
    Some((found.mean, tick_cpu_s * window as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::{Run, Tick};

    /// A program that writes one set of pages in turn, slowly and then fast, at the same CPU use.
    fn two_speeds() -> PageWriteTrace {
        let ticks = (0..400u32).map(|i| {
            let len = if i < 200 { 20 } else { 700 };
            let start = i * 37 % 2000;
            Tick {
                t_ns: u64::from(i + 1) * 100_000_000,
                cpu_ns: 50_000_000,
                runs: vec![Run { start, len }],
            }
        });
        PageWriteTrace {
            title: String::new(),
            pages: 3000,
            interval_ns: 100_000_000,
            ticks: ticks.collect(),
        }
    }

    #[test]
    fn phased_programs_are_not_called_one_class_set() {
        let trace = two_speeds();
        let phases = super::super::phases(&trace);
        assert_eq!(phases.len(), 2, "{phases:?}");
        let found = compare_forms(&trace, &phases).unwrap();
        assert!(found.best != Form::Classes, "{found:?}");
        let error = |i: usize| found.scores[i].mean_error().unwrap();
        assert!(error(0) > 0.3, "{found:?}");
        assert!(error(1) < 0.2 && error(2) < 0.2, "{found:?}");
        let own = found.scores[2].in_sample.iter().filter_map(|w| w.error);
        assert_eq!(
            own.fold(0.0, f64::max),
            0.0,
            "page-level is exact on itself"
        );
    }

    #[test]
    fn nothing_is_said_of_what_cannot_be_split() {
        let mut trace = two_speeds();
        trace.ticks.truncate(6);
        assert_eq!(compare_forms(&trace, &super::super::phases(&trace)), None);
    }
}
