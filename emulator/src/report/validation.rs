//! The HTML of `migbed validate`: one self-contained file, scatter plots of emulated against real.
//!
//! Never inside: errors computed here; they come with the rows.

use super::html::{Cell, escape, table};
use super::page::section;
use super::plot::{Curve, Plot, Scale};
use crate::validate::Validation;
use crate::validate::bars::Bar;
use crate::validate::errors::{Comparison, EMULATION, FIELDS, Figure, Measured, REAL, Row};
use crate::validate::verdicts::Verdict;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The whole page.
#[must_use]
pub fn page(title: &str, all: &Validation) -> String {
    let title = escape(title);
    let comparisons = &all.comparisons;
    let configurations: std::collections::BTreeSet<&str> =
        comparisons.iter().map(|c| c.config_id.as_str()).collect();
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · migbed</title><style>{}\n{}</style></head><body><main>\
         <header><p class=\"kicker\">migbed {} · validation · {} configurations · {} comparisons</p><h1>{title}</h1></header>",
        include_str!("style.css"),
        include_str!("validation.css"),
        env!("CARGO_PKG_VERSION"),
        configurations.len(),
        comparisons.len()
    );
    section(&mut out, "Bars", BARS_NOTE, &bars(&all.bars));
    let mut plots = String::from("<div class=\"pair\">");
    for (name, unit, figure) in FIELDS {
        if let Some(plot) = scatter(name, unit, figure, comparisons) {
            let _ = write!(
                plots,
                "<figure><figcaption>{}</figcaption>{}</figure>",
                escape(&capital(name)),
                plot.draw()
            );
        }
    }
    plots.push_str("</div>");
    section(&mut out, "Emulated against real", PLOT_NOTE, &plots);
    section(&mut out, "Models", MODELS_NOTE, &models(comparisons).draw());
    section(&mut out, "Errors", ERRORS_NOTE, &errors(&all.rows));
    section(&mut out, "Verdicts", VERDICTS_NOTE, &scores(&all.verdicts));
    section(&mut out, "Runs", "", &runs(comparisons));
    if !all.left_out.is_empty() {
        section(
            &mut out,
            "Left out",
            LEFT_OUT_NOTE,
            &left_out(&all.left_out),
        );
    }
    let _ = write!(
        out,
        "</main><script>{}</script></body></html>",
        include_str!("sort.js")
    );
    out
}

const BARS_NOTE: &str =
    "What is asked of the emulation (DESIGN §10), of the groups of this file that have a bar.";
const PLOT_NOTE: &str = "Emulated (upwards) against real (to the right), each completed run of the file with each \
    emulation of its configuration, on logarithmic axes. On the line both are the same.";
const MODELS_NOTE: &str = "Total time as each model foretold it (upwards) against real (to the right), with the emulation beside \
    them. A model that says a migration never ends has no point.";
const ERRORS_NOTE: &str = "Absolute relative errors, emulation first. “Real QEMU, left out” is each real run against the mean \
    of its other repeats: what QEMU itself does not repeat. Then the models, given the same inputs. Plain links by λ (distinct pages \
    dirtied a second, as bytes, by the link's goodput), others by kind, other modes by mode.";
const VERDICTS_NOTE: &str = "Whether a migration completes before it is cancelled. Brier score: 0 is certain and right, 0.25 \
    an even guess. A model is certain.";
const LEFT_OUT_NOTE: &str = "Runs of the file that were not replayed, and why.";

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

const CLASSES: [&str; 5] = ["c0", "c1", "c2", "c3", "c4"];

/// What a comparison is drawn as: its kind, or its mode if that is another one than pre-copy.
fn family(c: &Comparison) -> &str {
    match c.mode.as_str() {
        "precopy" => &c.kind,
        mode => mode,
    }
}

/// `None` where there is nothing to draw: post-copy's requests where nobody made any.
fn scatter(
    name: &str,
    unit: &'static str,
    figure: Figure,
    comparisons: &[Comparison],
) -> Option<Plot> {
    let both = |c: &Comparison| {
        let completed = c.real.completed && c.emulated.completed;
        completed.then_some((figure(&c.real)?, figure(&c.emulated)?))
    };
    let mut families: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for c in comparisons {
        families.entry(family(c)).or_default().extend(both(c));
    }
    let mut points = families.values().flatten();
    let drawn = points.any(|(real, emulated)| *real > 0.0 && *emulated > 0.0);
    drawn.then(|| diagonal(name, unit, &families))
}

fn models(comparisons: &[Comparison]) -> Plot {
    // The two ends of the field, the usual formula, and the simulators; all are in the table.
    let shown = [
        "qemu-loop-curve",
        "ram-over-bandwidth",
        "simgrid",
        "cloudsim",
    ];
    let mut who: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for c in comparisons.iter().filter(|c| c.real.completed) {
        let Some(real) = c.real.total_time_ms else {
            continue;
        };
        let emulated = c.emulated.total_time_ms.filter(|_| c.emulated.completed);
        who.entry(EMULATION)
            .or_default()
            .extend(emulated.map(|ms| (real, ms)));
        for guess in c
            .models
            .iter()
            .filter(|guess| shown.contains(&guess.model.as_str()))
        {
            who.entry(&guess.model)
                .or_default()
                .push((real, guess.total_time_ms));
        }
    }
    diagonal("total time", "ms", &who)
}

/// Points by name, and the line on which both are the same.
fn diagonal(name: &str, unit: &'static str, points: &BTreeMap<&str, Vec<(f64, f64)>>) -> Plot {
    let drawn = || {
        points
            .values()
            .flatten()
            .filter(|(x, y)| *x > 0.0 && *y > 0.0)
    };
    let least = drawn().fold(f64::INFINITY, |least, (x, y)| least.min(*x).min(*y));
    let most = drawn().fold(0.0_f64, |most, (x, y)| most.max(*x).max(*y));
    let mut curves: Vec<Curve> = points
        .iter()
        .filter(|(_, points)| !points.is_empty())
        .zip(CLASSES.iter().cycle())
        .map(|((label, points), class)| Curve {
            class,
            label: (*label).to_owned(),
            points: points.clone(),
            dots: true,
        })
        .collect();
    if most > 0.0 {
        curves.push(Curve {
            class: "same",
            label: "the same".to_owned(),
            points: vec![(least, least), (most, most)],
            dots: false,
        });
    }
    Plot {
        title: name.to_owned(),
        x: (Scale::Log, unit),
        y: (Scale::Log, unit),
        curves,
        marks: Vec::new(),
    }
}

fn percent(value: f64) -> Cell {
    Cell::number(Some(value), |value| format!("{:.2} %", value * 100.0))
}

fn bars(bars: &[Bar]) -> String {
    if bars.is_empty() {
        return "<p>None of the groups of this file has one.</p>".to_owned();
    }
    let cells = bars.iter().map(|bar| {
        let value = |value: f64| match bar.in_ms {
            true => Cell::number(Some(value), |value| format!("{value:.1} ms")),
            false => percent(value),
        };
        vec![
            Cell::text(&bar.band),
            Cell::text(&bar.what),
            value(bar.got),
            value(bar.most),
            Cell::text(if bar.holds() { "kept" } else { "missed" }),
            Cell::text(&bar.why),
        ]
    });
    let headings = ["group", "error", "is", "at most", "", "the bar is"];
    table(&headings, &cells.collect::<Vec<_>>(), false)
}

fn errors(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let strong = row.who == EMULATION || row.who == REAL;
        let who = escape(&row.who);
        vec![
            Cell::text(&row.band),
            Cell::text(&row.what),
            Cell::raw(if strong { format!("<b>{who}</b>") } else { who }),
            Cell::number(Some(row.error.n as f64), |n| format!("{n:.0}")),
            percent(row.error.median),
            percent(row.error.p90),
        ]
    });
    let headings = ["group", "field", "", "n", "median error", "90th percentile"];
    table(&headings, &cells.collect::<Vec<_>>(), true)
}

fn scores(verdicts: &[Verdict]) -> String {
    let mut cells = Vec::new();
    for verdict in verdicts {
        for score in &verdict.scores {
            cells.push(vec![
                Cell::text(&verdict.band),
                Cell::number(Some(verdict.runs as f64), |n| format!("{n:.0}")),
                percent(verdict.completed),
                Cell::text(&score.who),
                Cell::number(Some(score.brier), |brier| format!("{brier:.3}")),
            ]);
        }
    }
    let headings = ["group", "real runs", "completed", "", "Brier score"];
    table(&headings, &cells, true)
}

fn left_out(reasons: &BTreeMap<String, usize>) -> String {
    let cells = reasons.iter().map(|(why, runs)| {
        vec![
            Cell::number(Some(*runs as f64), |n| format!("{n:.0}")),
            Cell::text(why),
        ]
    });
    table(&["runs", "why"], &cells.collect::<Vec<_>>(), false)
}

fn runs(comparisons: &[Comparison]) -> String {
    let cells = comparisons.iter().map(|c| {
        let ended = |m: &Measured| match m.completed {
            true => Cell::text("completed"),
            false => Cell::text("cancelled"),
        };
        let mut row = vec![
            Cell::text(&c.run_id),
            Cell::text(family(c)),
            Cell::number(Some(c.lambda), |value| format!("{value:.2}")),
            ended(&c.real),
            ended(&c.emulated),
        ];
        for (_, unit, figure) in FIELDS {
            for side in [&c.real, &c.emulated] {
                let digits = usize::from(unit == "MiB");
                row.push(Cell::number(figure(side), |value| {
                    format!("{value:.digits$}")
                }));
            }
        }
        row.push(Cell::text(&c.grade));
        row
    });
    let mut headings = vec!["run".to_owned(), "kind".to_owned(), "λ".to_owned()];
    headings.extend(["real", "emulated"].map(str::to_owned));
    for (name, unit, _) in FIELDS {
        let unit = if unit == "ms" || unit == "MiB" {
            unit
        } else {
            ""
        };
        headings.extend([
            format!("{name} {unit}").trim_end().to_owned(),
            "emulated".to_owned(),
        ]);
    }
    headings.push("grade".to_owned());
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    table(&headings, &cells.collect::<Vec<_>>(), true)
}
