//! The errors against the bars of DESIGN §10. Pure.

use super::errors::{Comparison, EMULATION, REAL, Row, groups};
use serde::Serialize;

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// Group of configurations.
    pub band: String,
    /// What is asked: `total time, median`.
    pub what: String,
    /// What it may be at most, as a share; milliseconds where `in_ms`.
    pub most: f64,
    /// What it is.
    pub got: f64,
    /// Whether the two are milliseconds.
    pub in_ms: bool,
    /// Where the bar comes from, where it is not a plain figure.
    pub why: String,
}

impl Bar {
    /// Whether it is kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.got <= self.most
    }
}

/// Share of real QEMU's own error that the emulation's may be.
const OF_OWN: f64 = 1.2;
/// Without repeats: a tenth, or so many milliseconds.
const OUTAGE: (f64, f64) = (0.10, 15.0);
/// Groups whose links are plain, with the bars of total time: median, and 90th percentile where there is one.
const BY_LAMBDA: [(&str, f64, Option<f64>); 2] =
    [("λ < 0.3", 0.015, None), ("0.3-0.9", 0.03, Some(0.08))];
const BYTES: f64 = 0.01;
/// Groups that are held against the best model.
const AGAINST_MODELS: [&str; 3] = ["contended", "wan", "rate-change"];

/// All bars that the groups at hand have.
#[must_use]
pub fn bars(rows: &[Row], comparisons: &[Comparison]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (band, inside) in groups(comparisons) {
        if let Some((_, median, p90)) = BY_LAMBDA.iter().find(|(name, ..)| *name == band) {
            bars.extend(plain(rows, &band, *median, *p90));
            bars.extend(outage(rows, &band, &inside));
        }
        if AGAINST_MODELS.contains(&band.as_str()) {
            let fields = ["total time", "observed outage"];
            bars.extend(
                fields
                    .iter()
                    .filter_map(|what| half_of_best(rows, &band, what)),
            );
        }
    }
    bars
}

fn row<'r>(rows: &'r [Row], band: &str, what: &str, who: &str) -> Option<&'r Row> {
    let is = |row: &&Row| row.band == band && row.what == what && row.who == who;
    rows.iter().find(is)
}

fn plain(rows: &[Row], band: &str, median: f64, p90: Option<f64>) -> Vec<Bar> {
    let bar = |what: &str, name: &str, most: f64, got: f64| Bar {
        band: band.to_owned(),
        what: format!("{what}, {name}"),
        most,
        got,
        in_ms: false,
        why: String::new(),
    };
    let mut bars = Vec::new();
    if let Some(row) = row(rows, band, "total time", EMULATION) {
        bars.push(bar("total time", "median", median, row.error.median));
        bars.extend(p90.map(|most| bar("total time", "90th percentile", most, row.error.p90)));
    }
    let bytes = row(rows, band, "bytes", EMULATION);
    bars.extend(bytes.map(|row| bar("bytes", "median", BYTES, row.error.median)));
    bars
}

/// 1.2 times what QEMU does not repeat where it was repeated; else a tenth or 15 ms, whichever is easier.
fn outage(rows: &[Row], band: &str, inside: &[&Comparison]) -> Option<Bar> {
    let what = "observed outage";
    let got = row(rows, band, what, EMULATION)?.error.median;
    let bar = |most, got, in_ms, why: &str| Bar {
        band: band.to_owned(),
        what: format!("{what}, median"),
        most,
        got,
        in_ms,
        why: why.to_owned(),
    };
    if let Some(own) = row(rows, band, what, REAL) {
        let most = OF_OWN * own.error.median;
        return Some(bar(most, got, false, "1.2 times real QEMU's own"));
    }
    if got <= OUTAGE.0 {
        return Some(bar(OUTAGE.0, got, false, "or 15 ms"));
    }
    let off = |c: &&Comparison| Some((c.emulated.outage_ms? - c.real.outage_ms?).abs());
    let mut off: Vec<f64> = inside.iter().filter_map(off).collect();
    off.sort_by(f64::total_cmp);
    let median = off.get(off.len().checked_sub(1)? / 2)?;
    Some(bar(OUTAGE.1, *median, true, "or 10 %"))
}

fn half_of_best(rows: &[Row], band: &str, what: &str) -> Option<Bar> {
    let of_models = rows.iter().filter(|row| {
        row.band == band && row.what == what && row.who != EMULATION && row.who != REAL
    });
    let best = of_models.min_by(|a, b| a.error.p90.total_cmp(&b.error.p90))?;
    Some(Bar {
        band: band.to_owned(),
        what: format!("{what}, 90th percentile"),
        most: best.error.p90 / 2.0,
        got: row(rows, band, what, EMULATION)?.error.p90,
        in_ms: false,
        why: format!("half of the best model's, {}", best.who),
    })
}

#[cfg(test)]
mod tests {
    use super::super::errors::{table, tests::comparison};
    use super::*;
    use crate::migration::record::Prediction;

    fn of(comparisons: &[Comparison]) -> Vec<Bar> {
        bars(&table(comparisons), comparisons)
    }

    #[test]
    fn plain_links_have_bars_by_load() {
        // 1 % off in time, bytes exact; the outage is held against the two repeats, which agree.
        let runs = ["a", "b"].map(|run| comparison(run, 100.0, 101.0));
        let all = of(&runs);
        let texts: Vec<&str> = all.iter().map(|bar| bar.what.as_str()).collect();
        assert_eq!(
            texts,
            [
                "total time, median",
                "bytes, median",
                "observed outage, median"
            ]
        );
        assert!((all[0].got - 0.01).abs() < 1e-9 && all[0].holds());
        assert_eq!((all[2].most, all[2].got), (0.0, 0.0));
        let worse = of(&["a", "b"].map(|run| comparison(run, 100.0, 102.0)));
        assert!(!worse[0].holds());
    }

    #[test]
    fn an_outage_without_repeats_may_be_15_ms_off() {
        let mut alone = comparison("a", 100.0, 100.0);
        (alone.real.outage_ms, alone.emulated.outage_ms) = (Some(50.0), Some(64.0));
        let bar = of(&[alone.clone()]).pop().unwrap();
        assert!(bar.in_ms && bar.holds() && (bar.got - 14.0).abs() < 1e-9);
        alone.emulated.outage_ms = Some(66.0);
        assert!(!of(&[alone]).pop().unwrap().holds());
    }

    #[test]
    fn other_links_are_held_against_the_best_model() {
        let mut wan = comparison("a", 100.0, 95.0);
        wan.kind = "wan".to_owned();
        let guess = |model: &str, total_time_ms| Prediction {
            model: model.to_owned(),
            total_time_ms,
            downtime_ms: None,
            bytes: 1.0,
            total_time_error: None,
            downtime_error: None,
            bytes_error: None,
        };
        wan.models = vec![guess("liu", 80.0), guess("simgrid", 150.0)];
        let bars = of(&[wan]);
        assert_eq!(bars.len(), 1);
        assert!((bars[0].most - 0.10).abs() < 1e-9 && (bars[0].got - 0.05).abs() < 1e-9);
        assert!(bars[0].why.contains("liu"));
    }
}
