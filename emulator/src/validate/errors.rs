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
    pub total_time_ms: Option<f64>,
    /// QMP's ram.transferred.
    pub bytes: Option<f64>,
    /// QMP's ram.normal, pages.
    pub normal: Option<f64>,
    /// QMP's ram.duplicate, pages.
    pub zero: Option<f64>,
    /// Guest stopped → resumed.
    pub outage_ms: Option<f64>,
    /// QMP's downtime.
    pub downtime_ms: Option<f64>,
    /// QMP's dirty-sync-count.
    pub syncs: Option<f64>,
    /// QMP's postcopy-requests, of a post-copy.
    pub requests: Option<f64>,
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
    /// Mode of migration.
    pub mode: String,
    /// A migration that had not ended by then was cancelled, ms; `None`: never.
    pub cancel_after_ms: Option<f64>,
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

/// |guess / real − 1|; `None` where one of them is not known, or nothing can be relative to it.
fn relative(guess: Option<f64>, real: Option<f64>) -> Option<f64> {
    let (guess, real) = (guess?, real.filter(|real| *real != 0.0)?);
    Some((guess / real - 1.0).abs())
}

/// A figure of a migration.
pub type Figure = fn(&Measured) -> Option<f64>;

/// What is compared: name, unit, figure in that unit.
pub const FIELDS: [(&str, &str, Figure); 8] = [
    ("total time", "ms", |m| m.total_time_ms),
    ("bytes", "MiB", |m| Some(m.bytes? / f64::from(1 << 20))),
    ("normal pages", "pages", |m| m.normal),
    ("zero pages", "pages", |m| m.zero),
    ("observed outage", "ms", |m| m.outage_ms),
    ("reported downtime", "ms", |m| m.downtime_ms),
    ("syncs", "syncs", |m| m.syncs),
    ("post-copy requests", "pages", |m| m.requests),
];
/// Of migrations that neither real QEMU nor the emulation completed: what had been sent when both
/// were cancelled after the same time.
const UNTIL_CANCELLED: (&str, Figure) = ("bytes until cancelled", |m| m.bytes);

/// Where a comparison belongs: by mode where it is not plain pre-copy, by λ (the bands of DESIGN §10) where the
/// link is plain, by kind where it is not.
fn group(comparison: &Comparison) -> &str {
    if comparison.mode != "precopy" {
        return &comparison.mode;
    }
    match (comparison.kind.as_str(), comparison.lambda) {
        ("plain" | "boundary", lambda) if lambda < 0.3 => "λ < 0.3",
        ("plain" | "boundary", lambda) if lambda < 0.9 => "0.3-0.9",
        ("plain" | "boundary", _) => "≥ 0.9",
        (kind, _) => kind,
    }
}

/// The groups in the order of their tables, each with its comparisons.
pub(super) fn groups(comparisons: &[Comparison]) -> Vec<(String, Vec<&Comparison>)> {
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
        let errors = |of: &[&Comparison], figure: Figure| -> Vec<f64> {
            let error = |c: &&Comparison| relative(figure(&c.emulated), figure(&c.real));
            of.iter().filter_map(error).collect()
        };
        for (what, _, figure) in FIELDS {
            push(EMULATION, what, errors(&both, figure));
            push(REAL, what, left_out(&inside, true, figure));
            for (model, errors) in by_model(&inside, what) {
                push(&model, what, errors);
            }
        }
        let (what, figure) = UNTIL_CANCELLED;
        push(EMULATION, what, errors(&neither, figure));
        push(REAL, what, left_out(&inside, false, figure));
    }
    rows
}

/// Who foretells, beside the models.
pub const EMULATION: &str = "emulation";
/// Each real run against the mean of its other repeats.
pub const REAL: &str = "real QEMU, left out";

/// Each real run against the mean of the other repeats of its configuration (of its rank, where
/// several VMs move at once).
fn left_out(inside: &[&Comparison], completed: bool, figure: Figure) -> Vec<f64> {
    let mut repeats: BTreeMap<(&str, usize), BTreeMap<&str, f64>> = BTreeMap::new();
    for c in inside.iter().filter(|c| c.real.completed == completed) {
        if let Some(value) = figure(&c.real) {
            let runs = repeats.entry((&c.config_id, c.rank)).or_default();
            runs.insert(&c.run_id, value);
        }
    }
    let mut errors = Vec::new();
    for values in repeats.values().filter(|values| values.len() > 1) {
        let sum: f64 = values.values().sum();
        let others = (values.len() - 1) as f64;
        let error = |value: &f64| relative(Some((sum - value) / others), Some(*value));
        errors.extend(values.values().filter_map(error));
    }
    errors
}

/// A model has no pages and no syncs; what it calls downtime is held against both.
fn by_model(inside: &[&Comparison], what: &str) -> BTreeMap<String, Vec<f64>> {
    let mut errors: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for c in inside.iter().filter(|c| c.real.completed) {
        for guess in &c.models {
            let error = match what {
                "total time" => relative(Some(guess.total_time_ms), c.real.total_time_ms),
                "bytes" => relative(Some(guess.bytes), c.real.bytes),
                "observed outage" => relative(guess.downtime_ms, c.real.outage_ms),
                "reported downtime" => relative(guess.downtime_ms, c.real.downtime_ms),
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
pub(super) mod tests {
    use super::*;

    fn measured(total_time_ms: f64) -> Measured {
        Measured {
            completed: true,
            total_time_ms: Some(total_time_ms),
            bytes: Some(1.0),
            normal: Some(1.0),
            zero: None,
            outage_ms: Some(1.0),
            downtime_ms: Some(0.0),
            syncs: Some(1.0),
            requests: None,
        }
    }

    pub(crate) fn comparison(run_id: &str, real: f64, emulated: f64) -> Comparison {
        Comparison {
            run_id: run_id.to_owned(),
            config_id: "c".to_owned(),
            rank: 0,
            kind: "plain".to_owned(),
            mode: "precopy".to_owned(),
            cancel_after_ms: Some(60_000.0),
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
        // What nobody measured, or is 0, has no relative error.
        let without = |r: &Row| r.what == "zero pages" || r.what == "reported downtime";
        assert!(!rows.iter().any(without));
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
    fn modes_are_groups_of_their_own_too() {
        let throttled = Comparison {
            mode: "auto-converge".to_owned(),
            ..comparison("b", 200.0, 190.0)
        };
        let rows = table(&[comparison("a", 100.0, 110.0), throttled]);
        let mut bands: Vec<&str> = rows.iter().map(|row| row.band.as_str()).collect();
        bands.dedup();
        assert_eq!(bands, ["λ < 0.3", "auto-converge", "all"]);
    }

    #[test]
    fn quantiles_need_values() {
        assert_eq!(Quantiles::of(vec![f64::NAN]), None);
        assert_eq!(Quantiles::of(vec![3.0]).unwrap().p90, 3.0);
    }
}
