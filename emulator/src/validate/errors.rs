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
    /// QMP's ram.normal, pages.
    pub normal: f64,
    /// QMP's ram.duplicate, pages.
    pub zero: f64,
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
    /// Among the VMs that moved at once, from the quickest.
    pub rank: usize,
    /// Kind of configuration.
    pub kind: String,
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
const FIELDS: [Field; 7] = [
    ("total time", |m| m.total_time_ms),
    ("bytes", |m| m.bytes),
    ("normal pages", |m| m.normal),
    ("zero pages", |m| m.zero),
    ("observed outage", |m| m.outage_ms),
    ("reported downtime", |m| m.downtime_ms),
    ("syncs", |m| m.rounds),
];
/// Of migrations that neither real QEMU nor the emulation completed: what had been sent when both
/// were cancelled after the same time.
const UNTIL_CANCELLED: Field = ("bytes until cancelled", |m| m.bytes);

/// Where a comparison belongs: by λ (the bands of DESIGN §10) where the link is plain, by kind where
/// it is not.
fn group(comparison: &Comparison) -> &str {
    match (comparison.kind.as_str(), comparison.lambda) {
        ("plain" | "boundary", lambda) if lambda < 0.3 => "λ < 0.3",
        ("plain" | "boundary", lambda) if lambda < 0.9 => "0.3-0.9",
        ("plain" | "boundary", _) => "≥ 0.9",
        (kind, _) => kind,
    }
}

/// The groups in the order of their tables, each with its comparisons.
fn groups(comparisons: &[Comparison]) -> Vec<(String, Vec<&Comparison>)> {
    let mut groups: Vec<(String, Vec<&Comparison>)> = Vec::new();
    for known in ["λ < 0.3", "0.3-0.9", "≥ 0.9"] {
        groups.push((known.to_owned(), Vec::new()));
    }
    for comparison in comparisons {
        let name = group(comparison);
        match groups.iter_mut().find(|(known, _)| known == name) {
            Some((_, inside)) => inside.push(comparison),
            None => groups.push((name.to_owned(), vec![comparison])),
        }
    }
    groups.retain(|(_, inside)| !inside.is_empty());
    if groups.len() > 1 {
        groups.push(("all".to_owned(), comparisons.iter().collect()));
    }
    groups
}

/// One row of the table: who, what, where, how far off.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `emulation`, `real QEMU, left out`, or a model.
    pub who: String,
    /// Field.
    pub what: String,
    /// Band of λ, or kind.
    pub band: String,
    /// Errors.
    pub error: Quantiles,
}

/// All rows: emulation, real QEMU against the mean of its other repeats, models.
#[must_use]
pub fn table(comparisons: &[Comparison]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (band, inside) in groups(comparisons) {
        let alike = |completed: bool| -> Vec<&Comparison> {
            let same =
                |c: &&&Comparison| [c.real, c.emulated].map(|m| m.completed) == [completed; 2];
            inside.iter().filter(same).copied().collect()
        };
        let (both, neither) = (alike(true), alike(false));
        let mut push = |who: &str, what: &str, errors: Vec<f64>| {
            if let Some(error) = Quantiles::of(errors) {
                let (who, what, band) = (who.to_owned(), what.to_owned(), band.clone());
                rows.push(Row {
                    who,
                    what,
                    band,
                    error,
                });
            }
        };
        let errors = |of: &[&Comparison], field: fn(&Measured) -> f64| -> Vec<f64> {
            let error = |c: &&Comparison| relative(field(&c.emulated), field(&c.real));
            of.iter().map(error).collect()
        };
        for (what, field) in FIELDS {
            push("emulation", what, errors(&both, field));
            push("real QEMU, left out", what, left_out(&inside, true, field));
            for (model, errors) in by_model(&inside, what) {
                push(&model, what, errors);
            }
        }
        let (what, field) = UNTIL_CANCELLED;
        push("emulation", what, errors(&neither, field));
        push("real QEMU, left out", what, left_out(&inside, false, field));
    }
    rows
}

/// How well whether a migration completes was foretold.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Group of configurations.
    pub band: String,
    /// Real runs.
    pub runs: usize,
    /// Share of them that completed.
    pub completed: f64,
    /// Brier score of the emulation's frequencies: mean of (share of the emulated runs of a
    /// configuration that completed − 1 or 0)².
    pub emulation: f64,
    /// The same of real QEMU's frequencies among the other repeats; `None` without any.
    pub real: Option<f64>,
}

/// Verdicts by group.
#[must_use]
pub fn verdicts(comparisons: &[Comparison]) -> Vec<Verdict> {
    let of_group = |(band, inside): (String, Vec<&Comparison>)| {
        // By configuration: emulations, and real runs once each.
        let mut configurations: BTreeMap<&str, (Vec<f64>, BTreeMap<&str, f64>)> = BTreeMap::new();
        for c in inside {
            let both = configurations.entry(&c.config_id).or_default();
            both.0.push(f64::from(u8::from(c.emulated.completed)));
            let real = f64::from(u8::from(c.real.completed));
            both.1.insert(&c.run_id, real);
        }
        let (mut emulation, mut real, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        for (emulated, runs) in configurations.values() {
            let share = emulated.iter().sum::<f64>() / emulated.len() as f64;
            let sum: f64 = runs.values().sum();
            for outcome in runs.values() {
                outcomes.push(*outcome);
                emulation.push((share - outcome).powi(2));
                if runs.len() > 1 {
                    let others = (sum - outcome) / (runs.len() - 1) as f64;
                    real.push((others - outcome).powi(2));
                }
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Verdict {
            band,
            runs: outcomes.len(),
            completed: mean(&outcomes),
            emulation: mean(&emulation),
            real: (!real.is_empty()).then(|| mean(&real)),
        }
    };
    groups(comparisons).into_iter().map(of_group).collect()
}

/// Each real run against the mean of the other repeats of its configuration (of its rank, where
/// several VMs move at once).
fn left_out(inside: &[&Comparison], completed: bool, field: fn(&Measured) -> f64) -> Vec<f64> {
    let mut repeats: BTreeMap<(&str, usize), BTreeMap<&str, f64>> = BTreeMap::new();
    for c in inside.iter().filter(|c| c.real.completed == completed) {
        repeats
            .entry((&c.config_id, c.rank))
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
            normal: 1.0,
            zero: 1.0,
            outage_ms: 1.0,
            downtime_ms: 1.0,
            rounds: 1.0,
        }
    }

    fn comparison(run_id: &str, real: f64, emulated: f64) -> Comparison {
        Comparison {
            run_id: run_id.to_owned(),
            config_id: "c".to_owned(),
            rank: 0,
            kind: "plain".to_owned(),
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
                .find(|r| r.who == who && r.what == "total time" && r.band == "λ < 0.3")
                .unwrap()
        };
        assert!((row("emulation").error.median - 0.05).abs() < 1e-9);
        assert!((row("emulation").error.p90 - 0.10).abs() < 1e-9);
        // 100 against 200 is 100 % off, 200 against 100 is 50 %.
        assert!((row("real QEMU, left out").error.median - 0.5).abs() < 1e-9);
        assert!(rows.iter().all(|r| r.band != "≥ 0.9"));
    }

    #[test]
    fn kinds_of_links_are_groups_of_their_own() {
        let wan = Comparison {
            kind: "wan".to_owned(),
            lambda: 0.5,
            ..comparison("b", 200.0, 190.0)
        };
        let rows = table(&[comparison("a", 100.0, 110.0), wan]);
        let mut bands: Vec<&str> = rows.iter().map(|row| row.band.as_str()).collect();
        bands.dedup();
        assert_eq!(bands, ["λ < 0.3", "wan", "all"]);
    }

    #[test]
    fn verdicts_are_scored_against_each_real_run() {
        let outcome = |run: &str, real: bool, emulated: bool| {
            let mut c = comparison(run, 1.0, 1.0);
            c.real.completed = real;
            c.emulated.completed = emulated;
            c
        };
        // Two emulations, of which one completed; three real runs, of which two did.
        let all: Vec<Comparison> = [true, false]
            .into_iter()
            .flat_map(|emulated| {
                [("a", true), ("b", true), ("c", false)]
                    .map(|(run, real)| outcome(run, real, emulated))
            })
            .collect();
        let verdict = &verdicts(&all)[0];
        assert_eq!(verdict.runs, 3);
        assert!((verdict.completed - 2.0 / 3.0).abs() < 1e-9);
        assert!((verdict.emulation - 0.25).abs() < 1e-9);
        // Without one: (1/2 − 1)², twice, and (1 − 0)².
        assert!((verdict.real.unwrap() - (0.25 + 0.25 + 1.0) / 3.0).abs() < 1e-9);
        // Those that neither completed are compared by what had been sent.
        let row = table(&all);
        assert!(row.iter().any(|row| row.what == "bytes until cancelled"));
    }

    #[test]
    fn quantiles_need_values() {
        assert_eq!(Quantiles::of(vec![f64::NAN]), None);
        assert_eq!(Quantiles::of(vec![3.0]).unwrap().p90, 3.0);
    }
}
