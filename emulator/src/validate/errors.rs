//! Errors of the emulation and of the models against real QEMU, and QEMU's own against itself.

use crate::migration::record::Prediction;
use serde::Serialize;
use std::collections::BTreeMap;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// The guest runs at the destination.
    pub completed: bool,
    /// QMP's total-time.
    pub total_time_ms: f64,
    /// QMP's ram.transferred.
    pub bytes: f64,
    /// Guest stopped → resumed.
    pub outage_ms: f64,
    /// QMP's downtime.
    pub downtime_ms: f64,
    /// QMP's dirty-sync-count.
    pub rounds: f64,
}

/// A real run and the emulation of it.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The real run.
    pub run_id: String,
    /// Its configuration.
    pub config_id: String,
    /// Distinct dirty rate / goodput.
    pub lambda: f64,
    /// Real.
    pub real: Measured,
    /// Emulated.
    pub emulated: Measured,
    /// What the models said.
    pub models: Vec<Prediction>,
    /// Grade of the emulation.
    pub grade: String,
    /// Every page arrived.
    pub verified: bool,
}

/// Quantiles of absolute relative errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many.
    pub n: usize,
    /// Median.
    pub median: f64,
    /// 90th percentile (nearest rank).
    pub p90: f64,
}

impl Quantiles {
    /// Of values, `None` without any.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let rank = |q: usize| {
            values
                .get((values.len() * q).div_ceil(100).max(1) - 1)
                .copied()
        };
        Some(Self {
            n: values.len(),
            median: rank(50)?,
            p90: rank(90)?,
        })
    }
}

/// |guess / real − 1|.
fn relative(guess: f64, real: f64) -> f64 {
    if real == 0.0 {
        f64::NAN
    } else {
        (guess / real - 1.0).abs()
    }
}

/// What is compared, by name.
type Field = (&'static str, fn(&Measured) -> f64);
const FIELDS: [Field; 5] = [
    ("total time", |m| m.total_time_ms),
    ("bytes", |m| m.bytes),
    ("observed outage", |m| m.outage_ms),
    ("reported downtime", |m| m.downtime_ms),
    ("syncs", |m| m.rounds),
];

/// The bands of λ of DESIGN §10.
const BANDS: [(&str, f64, f64); 4] = [
    ("λ < 0.3", 0.0, 0.3),
    ("0.3-0.9", 0.3, 0.9),
    ("≥ 0.9", 0.9, f64::INFINITY),
    ("all", 0.0, f64::INFINITY),
];

/// One row of the table: who, what, where, how far off.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `emulation`, `real QEMU, left out`, or a model.
    pub who: String,
    /// Field.
    pub what: String,
    /// Band of λ.
    pub band: String,
    /// Errors.
    pub error: Quantiles,
}

/// All rows: emulation, real QEMU against the mean of its other repeats, models.
#[must_use]
pub fn table(comparisons: &[Comparison]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (band, from, to) in BANDS {
        let inside: Vec<&Comparison> = comparisons
            .iter()
            .filter(|c| (from..to).contains(&c.lambda))
            .collect();
        for (what, field) in FIELDS {
            let mut push = |who: &str, errors: Vec<f64>| {
                if let Some(error) = Quantiles::of(errors) {
                    let (who, what, band) = (who.to_owned(), what.to_owned(), band.to_owned());
                    rows.push(Row {
                        who,
                        what,
                        band,
                        error,
                    });
                }
            };
            let both = |c: &&&Comparison| c.real.completed && c.emulated.completed;
            let completed = inside.iter().filter(both);
            push(
                "emulation",
                completed
                    .map(|c| relative(field(&c.emulated), field(&c.real)))
                    .collect(),
            );
            push("real QEMU, left out", left_out(&inside, field));
            for (model, errors) in by_model(&inside, what) {
                push(&model, errors);
            }
        }
    }
    rows
}

/// Each real run against the mean of the other repeats of its configuration.
fn left_out(inside: &[&Comparison], field: fn(&Measured) -> f64) -> Vec<f64> {
    let mut repeats: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
    for c in inside.iter().filter(|c| c.real.completed) {
        repeats
            .entry(&c.config_id)
            .or_default()
            .insert(&c.run_id, field(&c.real));
    }
    let mut errors = Vec::new();
    for values in repeats.values().filter(|values| values.len() > 1) {
        let sum: f64 = values.values().sum();
        let others = (values.len() - 1) as f64;
        errors.extend(
            values
                .values()
                .map(|value| relative((sum - value) / others, *value)),
        );
    }
    errors
}

fn by_model(inside: &[&Comparison], what: &str) -> BTreeMap<String, Vec<f64>> {
    let mut errors: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for c in inside.iter().filter(|c| c.real.completed) {
        for guess in &c.models {
            let error = match what {
                "total time" => Some(relative(guess.total_time_ms, c.real.total_time_ms)),
                "bytes" => Some(relative(guess.bytes, c.real.bytes)),
                "observed outage" => guess
                    .downtime_ms
                    .map(|guess| relative(guess, c.real.outage_ms)),
                _ => None,
            };
            if let Some(error) = error {
                errors.entry(guess.model.clone()).or_default().push(error);
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(total_time_ms: f64) -> Measured {
        Measured {
            completed: true,
            total_time_ms,
            bytes: 1.0,
            outage_ms: 1.0,
            downtime_ms: 1.0,
            rounds: 1.0,
        }
    }

    fn comparison(run_id: &str, real: f64, emulated: f64) -> Comparison {
        Comparison {
            run_id: run_id.to_owned(),
            config_id: "c".to_owned(),
            lambda: 0.1,
            real: measured(real),
            emulated: measured(emulated),
            models: Vec::new(),
            grade: "A".to_owned(),
            verified: true,
        }
    }

    #[test]
    fn errors_are_relative_to_the_real_run() {
        let rows = table(&[comparison("a", 100.0, 110.0), comparison("b", 200.0, 190.0)]);
        let row = |who: &str| {
            rows.iter()
                .find(|r| r.who == who && r.what == "total time" && r.band == "all")
                .unwrap()
        };
        assert!((row("emulation").error.median - 0.05).abs() < 1e-9);
        assert!((row("emulation").error.p90 - 0.10).abs() < 1e-9);
        // 100 against 200 is 100 % off, 200 against 100 is 50 %.
        assert!((row("real QEMU, left out").error.median - 0.5).abs() < 1e-9);
        assert!(rows.iter().all(|r| r.band != "≥ 0.9"));
    }

    #[test]
    fn quantiles_need_values() {
        assert_eq!(Quantiles::of(vec![f64::NAN]), None);
        assert_eq!(Quantiles::of(vec![3.0]).unwrap().p90, 3.0);
    }
}
