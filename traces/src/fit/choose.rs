//! One class set of a stretch of load: on which clock, and with variation or without.

use std::ops::Range;

use super::{
    FitError, Halves, Varied, curve, fit, fit_varied, halves, relative_error, varied_halves,
};
use crate::class::{Coupling, PageClass, Variation};
use crate::dirty::PageWriteTrace;

/// A class set, and how it was found to be the one.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SetFit {
    /// The clock of the classes.
    pub coupling: Coupling,
    /// The classes.
    pub classes: Vec<PageClass>,
    /// How their intensity varies; `None` where the mean intensity does as well out of sample.
    pub variation: Option<Variation>,
    /// Mean relative error of D(t) on the points of all of the stretch.
    pub in_sample_error: f64,
    /// Each half against the other, in this shape and on this clock.
    pub halves: Halves,
}

impl SetFit {
    /// Mean relative error of the means of D(w) from half to half.
    #[must_use]
    pub fn out_of_sample_error(&self) -> f64 {
        let both = [&self.halves.forward, &self.halves.backward];
        let errors = both.iter().flat_map(|d| &d.windows).map(|w| w.error);
        let (sum, count) = errors.fold((0.0, 0u32), |(s, n), error| (s + error, n + 1));
        sum / f64::from(count.max(1))
    }
}

/// How much better something less simple must be: by a tenth. Halves of a steady recording differ by
/// as much.
const BETTER: f64 = 0.9;

/// Fits one class set to the part of a recording in `range`.
///
/// Four shapes, simplest first: on CPU time, the same with variation, on time, the same with variation.
/// Each is fitted on one half and scored on the other, both ways ([`Direction::score`]); the simplest
/// one whose score is within a tenth of the best's is fitted to all of it. Writes follow the CPU time
/// served unless time does clearly better, since that is what a throttled or crowded guest's do.
///
/// [`Direction::score`]: super::Direction::score
///
/// # Errors
/// When no shape can be fitted: the one that came farthest.
pub fn fit_set(trace: &PageWriteTrace, range: &Range<u64>) -> Result<SetFit, FitError> {
    let shapes = [Coupling::Cpu, Coupling::Time]
        .into_iter()
        .flat_map(|coupling| [(coupling, false), (coupling, true)]);
    let mut found: Vec<(f64, bool, Halves)> = Vec::new();
    let mut failed = None;
    for (coupling, varies) in shapes {
        let halves = if varies {
            varied_halves(trace, range, coupling)
        } else {
            halves(trace, range, coupling)
        };
        match halves {
            Ok(halves) => {
                let score = 0.5 * (halves.forward.score() + halves.backward.score());
                found.push((score, varies, halves));
            }
            Err(error) => failed = Some(error),
        }
    }
    let best = found.iter().map(|f| f.0).fold(f64::INFINITY, f64::min);
    let chosen = found.into_iter().find(|f| f.0 * BETTER <= best);
    let Some((_, varies, halves)) = chosen else {
        return Err(failed.unwrap_or(FitError::NoCpu));
    };
    let coupling = halves.coupling;
    let points = curve(trace, range.clone(), coupling)?;
    let (classes, variation) = if varies {
        let Varied {
            classes, variation, ..
        } = fit_varied(trace, range, coupling)?;
        (classes, Some(variation))
    } else {
        (fit(&points, trace.pages, coupling), None)
    };
    Ok(SetFit {
        coupling,
        in_sample_error: relative_error(&classes, &points),
        classes,
        variation,
        halves,
    })
}
