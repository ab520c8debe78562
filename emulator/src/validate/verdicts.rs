//! How well it was foretold whether a migration completes at all. Pure.

use super::errors::{Comparison, EMULATION, REAL, groups};
use crate::model;
use serde::Serialize;
use std::collections::BTreeMap;

/// A group of configurations.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Its name.
    pub band: String,
    /// Real runs.
    pub runs: usize,
    /// Share of them that completed.
    pub completed: f64,
    /// Who foretold it how well.
    pub scores: Vec<Score>,
}

/// A Brier score: mean of (probability foretold − 1 or 0)²; 0 is certain and right, 0.25 an even guess.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The emulation (share of its runs of a configuration that completed), real QEMU (share of the other repeats
    /// that did), or a model, which is certain.
    pub who: String,
    /// How many outcomes were foretold.
    pub n: usize,
    /// The score.
    pub brier: f64,
}

/// Real runs and emulations of a configuration.
#[derive(Default)]
struct Outcomes<'a> {
    emulated: Vec<bool>,
    real: BTreeMap<&'a str, bool>,
    /// Models that say it ends in time.
    ends: Vec<&'a str>,
}

/// Verdicts by group.
#[must_use]
pub fn verdicts(comparisons: &[Comparison]) -> Vec<Verdict> {
    let models = model::all();
    let models: Vec<&str> = models.iter().map(|model| model.name()).collect();
    let all = groups(comparisons).into_iter();
    all.map(|(band, inside)| verdict(band, &inside, &models))
        .collect()
}

fn verdict(band: String, inside: &[&Comparison], models: &[&str]) -> Verdict {
    let mut configurations: BTreeMap<&str, Outcomes<'_>> = BTreeMap::new();
    for &c in inside {
        let of = configurations.entry(&c.config_id).or_default();
        of.emulated.push(c.emulated.completed);
        of.real.insert(&c.run_id, c.real.completed);
        let in_time = |total_ms: f64| {
            c.cancel_after_ms
                .is_none_or(|after_ms| total_ms <= after_ms)
        };
        let ends = c.models.iter().filter(|guess| in_time(guess.total_time_ms));
        of.ends = ends.map(|guess| guess.model.as_str()).collect();
    }
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut outcomes = Vec::new();
    for of in configurations.values() {
        let share = mean(of.emulated.iter().map(|completed| number(*completed)));
        let completed: f64 = of.real.values().map(|completed| number(*completed)).sum();
        let others = of.real.len().saturating_sub(1) as f64;
        for outcome in of.real.values().map(|completed| number(*completed)) {
            outcomes.push(outcome);
            let mut score = |who, foretold: f64| {
                scores
                    .entry(who)
                    .or_default()
                    .push((foretold - outcome).powi(2));
            };
            score(EMULATION, share);
            if others > 0.0 {
                score(REAL, (completed - outcome) / others);
            }
            for model in models {
                score(model, number(of.ends.contains(model)));
            }
        }
    }
    let order = [EMULATION, REAL].into_iter().chain(models.iter().copied());
    let score = |who: &str| {
        let all = scores.get(who)?;
        Some(Score {
            who: who.to_owned(),
            n: all.len(),
            brier: mean(all.iter().copied()),
        })
    };
    Verdict {
        band,
        runs: outcomes.len(),
        completed: mean(outcomes.iter().copied()),
        scores: order.filter_map(score).collect(),
    }
}

fn number(completed: bool) -> f64 {
    f64::from(u8::from(completed))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    use super::super::errors::{table, tests::comparison};
    use super::*;
    use crate::migration::record::Prediction;

    fn outcome(run: &str, real: bool, emulated: bool) -> Comparison {
        let mut c = comparison(run, 1.0, 1.0);
        c.real.completed = real;
        c.emulated.completed = emulated;
        c
    }

    /// Two emulations, of which one completed; three real runs, of which two did.
    fn some() -> Vec<Comparison> {
        let of = |emulated| {
            [("a", true), ("b", true), ("c", false)].map(|(run, real)| outcome(run, real, emulated))
        };
        [true, false].into_iter().flat_map(of).collect()
    }

    fn brier(verdict: &Verdict, who: &str) -> f64 {
        verdict
            .scores
            .iter()
            .find(|score| score.who == who)
            .unwrap()
            .brier
    }

    #[test]
    fn verdicts_are_scored_against_each_real_run() {
        let verdict = &verdicts(&some())[0];
        assert_eq!(verdict.runs, 3);
        assert!((verdict.completed - 2.0 / 3.0).abs() < 1e-9);
        assert!((brier(verdict, EMULATION) - 0.25).abs() < 1e-9);
        // Without one: (1/2 − 1)², twice, and (1 − 0)².
        assert!((brier(verdict, REAL) - (0.25 + 0.25 + 1.0) / 3.0).abs() < 1e-9);
        // Those that neither completed are compared by what had been sent.
        let row = table(&some());
        assert!(row.iter().any(|row| row.what == "bytes until cancelled"));
    }

    #[test]
    fn a_model_is_certain_and_too_late_is_not_completed() {
        let mut all = some();
        for c in &mut all {
            let guess = |model: &str, total_time_ms| Prediction {
                model: model.to_owned(),
                total_time_ms,
                downtime_ms: None,
                bytes: 1.0,
                total_time_error: None,
                downtime_error: None,
                bytes_error: None,
            };
            c.models = vec![guess("liu", 59_000.0), guess("simgrid", 61_000.0)];
        }
        let verdict = &verdicts(&all)[0];
        // Right twice, wrong once; the others say it does not end in time, and are right once.
        assert!((brier(verdict, "liu") - 1.0 / 3.0).abs() < 1e-9);
        for late in ["simgrid", "qemu-loop"] {
            assert!((brier(verdict, late) - 2.0 / 3.0).abs() < 1e-9, "{late}");
        }
    }
}
