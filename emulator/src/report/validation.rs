//! The HTML of `migbed validate`: one self-contained file, scatter plots of emulated against real.
//!
//! Never inside: errors computed here; they come with the rows.

use super::html::{Cell, escape, table};
use super::page::section;
use super::plot::{Curve, Plot, Scale};
use crate::validate::errors::{Comparison, Measured, Row, Verdict};
use std::fmt::Write;
use std::path::Path;

type Field = fn(&Measured) -> f64;

/// The whole page.
#[must_use]
pub fn page(file: &Path, rows: &[Row], verdicts: &[Verdict], comparisons: &[Comparison]) -> String {
    let title = escape(&file.display().to_string());
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · migbed</title><style>{}</style></head><body><main>\
         <header><p class=\"kicker\">migbed · validation · {} comparisons</p><h1>{title}</h1></header>",
        include_str!("style.css"),
        comparisons.len()
    );
    let plots: [(&str, &'static str, Field); 3] = [
        ("Total time", "ms", |m| m.total_time_ms),
        ("Bytes", "MiB", |m| m.bytes / f64::from(1 << 20)),
        ("Observed outage", "ms", |m| m.outage_ms),
    ];
    for (name, unit, field) in plots {
        section(
            &mut out,
            name,
            PLOT_NOTE,
            &scatter(name, unit, field, comparisons).draw(),
        );
    }
    section(&mut out, "Errors", ERRORS_NOTE, &errors(rows));
    section(&mut out, "Verdicts", VERDICTS_NOTE, &scores(verdicts));
    section(&mut out, "Runs", "", &runs(comparisons));
    let _ = write!(
        out,
        "</main><script>{}</script></body></html>",
        include_str!("sort.js")
    );
    out
}

const PLOT_NOTE: &str = "Emulated (upwards) against real (to the right), each completed run of the file with each \
    emulation of its configuration. On the line both are the same.";
const ERRORS_NOTE: &str = "Absolute relative errors. The last lines of a field are real QEMU against the mean of its other \
    repeats, and the models. Plain links by λ (distinct pages dirtied a second, as bytes, by the link's goodput), others by \
    kind.";
const VERDICTS_NOTE: &str = "Whether a migration completes before it is cancelled. Brier score: 0 is certain and right, 0.25 \
    an even guess.";

fn scatter(name: &str, unit: &'static str, field: Field, comparisons: &[Comparison]) -> Plot {
    let classes = ["c0", "c1", "c2", "c3", "c4"];
    let mut kinds: Vec<&str> = comparisons.iter().map(|c| c.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let both = |c: &&Comparison| c.real.completed && c.emulated.completed;
    let point = |c: &Comparison| (field(&c.real), field(&c.emulated));
    let all: Vec<(f64, f64)> = comparisons.iter().filter(both).map(point).collect();
    let largest = all
        .iter()
        .fold(0.0_f64, |most, (x, y)| most.max(*x).max(*y));
    let mut curves: Vec<Curve> = kinds
        .iter()
        .zip(classes.iter().cycle())
        .map(|(kind, class)| Curve {
            class,
            label: (*kind).to_owned(),
            points: (comparisons.iter().filter(|c| c.kind == *kind))
                .filter(both)
                .map(point)
                .collect(),
            dots: true,
        })
        .collect();
    curves.push(Curve {
        class: "c3",
        label: "the same".to_owned(),
        points: vec![(0.0, 0.0), (largest, largest)],
        dots: false,
    });
    Plot {
        title: name.to_owned(),
        x: (Scale::Linear, unit),
        y: (Scale::Linear, unit),
        curves,
        marks: Vec::new(),
    }
}

fn percent(value: f64) -> Cell {
    Cell::number(Some(value), |value| format!("{:.2} %", value * 100.0))
}

fn errors(rows: &[Row]) -> String {
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            vec![
                Cell::text(&row.band),
                Cell::text(&row.what),
                Cell::text(&row.who),
                Cell::number(Some(row.error.n as f64), |n| format!("{n:.0}")),
                percent(row.error.median),
                percent(row.error.p90),
            ]
        })
        .collect();
    let headings = ["group", "field", "", "n", "median error", "90th percentile"];
    table(&headings, &cells, true)
}

fn scores(verdicts: &[Verdict]) -> String {
    let score = |value: Option<f64>| Cell::number(value, |value| format!("{value:.3}"));
    let cells: Vec<Vec<Cell>> = verdicts
        .iter()
        .map(|verdict| {
            vec![
                Cell::text(&verdict.band),
                Cell::number(Some(verdict.runs as f64), |n| format!("{n:.0}")),
                percent(verdict.completed),
                score(Some(verdict.emulation)),
                score(verdict.real),
            ]
        })
        .collect();
    let headings = [
        "group",
        "real runs",
        "completed",
        "emulation",
        "real QEMU, left out",
    ];
    table(&headings, &cells, false)
}

fn runs(comparisons: &[Comparison]) -> String {
    let whole = |value: f64| Cell::number(Some(value), |value| format!("{value:.0}"));
    let mib = |bytes: f64| {
        Cell::number(Some(bytes / f64::from(1 << 20)), |value| {
            format!("{value:.1}")
        })
    };
    let cells: Vec<Vec<Cell>> = comparisons
        .iter()
        .map(|c| {
            let ended = |m: &Measured| {
                Cell::text(if m.completed {
                    "completed"
                } else {
                    "cancelled"
                })
            };
            vec![
                Cell::text(&c.run_id),
                Cell::text(&c.kind),
                Cell::number(Some(c.lambda), |value| format!("{value:.2}")),
                ended(&c.real),
                ended(&c.emulated),
                whole(c.real.total_time_ms),
                whole(c.emulated.total_time_ms),
                mib(c.real.bytes),
                mib(c.emulated.bytes),
                whole(c.real.outage_ms),
                whole(c.emulated.outage_ms),
                whole(c.real.rounds),
                whole(c.emulated.rounds),
                Cell::text(&c.grade),
            ]
        })
        .collect();
    let headings = [
        "run",
        "kind",
        "λ",
        "real",
        "emulated",
        "total ms",
        "emulated",
        "MiB",
        "emulated",
        "outage ms",
        "emulated",
        "syncs",
        "emulated",
        "grade",
    ];
    table(&headings, &cells, true)
}
