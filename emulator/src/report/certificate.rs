//! How far the run can be trusted: what was asked of links, what they were, and what the emulation
//! itself added to each migration.

use super::html::{Cell, escape, table};
use super::page::Report;
use super::tables::grade;
use crate::migration::record::{ErrorBudget, MigrationRecord};
use crate::results::summary::figure;
use netmodel::link::LinkSpec;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Rows of the budgets' table; the Parquet file has them all.
const ROWS_MAX: usize = 1_000;
/// Changes of links listed.
const CHANGES_MAX: usize = 200;

/// The certificate at a glance: a line for each thing that vouches.
pub(super) fn glance(r: &Report<'_>) -> String {
    let (s, h) = (r.summary, r.header);
    let mut out = String::from("<ul class=\"certificate\">");
    let mut line = |class: &str, text: &str| {
        let _ = write!(out, "<li class=\"{class}\">{}</li>", escape(text));
    };
    let measured: Vec<_> = s
        .links
        .iter()
        .filter_map(|l| l.calibration.as_ref())
        .collect();
    let off = measured.iter().filter(|c| !c.ok).count();
    match (measured.len(), off) {
        (0, _) => line("bad", "links were not measured before the run"),
        (n, 0) => line(
            "good",
            &format!("all {n} links are as asked, measured under load"),
        ),
        (n, off) => line("bad", &format!("{off} of {n} links are not as asked")),
    }
    let audit = r.all.audit.as_ref();
    match audit.map(|(grade, reasons)| (grade.as_str(), reasons.len())) {
        None => line("bad", "the run was not audited: it did not get to its end"),
        Some(("A", _)) => line("good", "the audit after the run found nothing"),
        Some((_, n)) => line(
            "fair",
            &format!("audit and links gave {n} reasons for less than A"),
        ),
    }
    let changes = &r.all.changes;
    if changes.total > 0 {
        let (n, late_us) = (changes.total, changes.late_us_max);
        // A tenth of the smallest window that rates are judged over.
        let class = if late_us <= 1_000.0 { "good" } else { "fair" };
        let text = format!("{n} changes of links carried out, at most {late_us:.0} µs late");
        line(class, &text);
    }
    let mut grades: BTreeMap<&str, usize> = BTreeMap::new();
    for ended in &r.all.migrations {
        *grades.entry(ended.record.grade.as_str()).or_default() += 1;
    }
    if !grades.is_empty() {
        let counts: Vec<String> = grades.iter().map(|(g, n)| format!("{n} × {g}")).collect();
        let class = match grades.keys().next_back() {
            Some(&"A") => "good",
            Some(&"invalid") => "bad",
            _ => "fair",
        };
        line(
            class,
            &format!("grades of migrations: {}", counts.join(", ")),
        );
    }
    line(
        "plain",
        &format!("carried by `{}` on {}", h.backend, h.kernel),
    );
    out.push_str("</ul>");
    out
}

/// What the emulation itself added to each migration.
pub(super) fn budgets(r: &Report<'_>) -> String {
    const HEADINGS: [&str; 13] = [
        "#",
        "vm",
        "grade",
        "rate off, 10 ms",
        "100 ms",
        "1 s",
        "delay off, µs",
        "late mean, µs",
        "late p99, µs",
        "held up by us",
        "path idle",
        "relay waited",
        "stolen",
    ];
    let rows: Vec<_> = r
        .all
        .migrations
        .iter()
        .take(ROWS_MAX)
        .map(|ended| row(&ended.record))
        .collect();
    let mut out = table(&HEADINGS, &rows, true);
    if r.all.migrations.len() > ROWS_MAX {
        let _ = write!(
            out,
            "<p class=\"note\">The first {ROWS_MAX} of {}; all are in migrations.parquet.</p>",
            r.all.migrations.len()
        );
    }
    out
}

fn row(m: &MigrationRecord) -> Vec<Cell> {
    let budget = m.error_budget.as_ref();
    let percent = |v: Option<f64>| Cell::number(v, |v| format!("{:.2} %", v * 100.0));
    let rate = |ms: u64| {
        let errors = budget?.rate.iter().find(|rate| rate.window_ms == ms)?;
        Some(errors.p95)
    };
    let of = |figure: fn(&ErrorBudget) -> Option<f64>| budget.and_then(figure);
    vec![
        Cell::number(Some(f64::from(m.id)), |v| format!("{v:.0}")),
        Cell::text(&m.vm),
        Cell::raw(format!(
            "<span title=\"{}\">{}</span>",
            escape(&m.grade_reasons.join("; ")),
            grade(&m.grade)
        )),
        percent(rate(10)),
        percent(rate(100)),
        percent(rate(1000)),
        Cell::number(of(|b| b.delay_error_us), figure),
        Cell::number(of(|b| Some(b.late_us_mean)), figure),
        Cell::number(of(|b| Some(b.late_us_p99)), figure),
        percent(of(|b| Some(b.emulator_limited_share))),
        percent(of(|b| b.path_idle_share)),
        percent(of(|b| b.run_delay_share)),
        percent(of(|b| b.steal_share)),
    ]
}

/// A link in a few words.
pub(super) fn spec(spec: &LinkSpec) -> String {
    if !spec.up {
        return "down".to_owned();
    }
    let mut parts = vec![match spec.rate {
        Some(rate) => rate.to_string(),
        None => "unshaped".to_owned(),
    }];
    if !spec.delay.is_zero() {
        parts.push(format!("delay {:?}", spec.delay));
    }
    if !spec.jitter.spread.is_zero() {
        parts.push(format!("± {:?}", spec.jitter.spread));
    }
    if !spec.loss.is_none() {
        parts.push(format!("loss {:.3} %", spec.loss.mean() * 100.0));
    }
    parts.join(", ")
}

/// Links that were changed, as the schedule asks.
pub(super) fn changes(r: &Report<'_>) -> String {
    let rows: Vec<_> = r
        .all
        .changes
        .first
        .iter()
        .take(CHANGES_MAX)
        .map(|change| {
            vec![
                Cell::number(Some(change.trace_ns as f64 / 1e9), |v| format!("{v:.3}")),
                Cell::text(&change.link),
                Cell::text(&spec(&change.spec)),
                Cell::number(Some(change.late_us), figure),
            ]
        })
        .collect();
    let mut out = table(&["at, s", "link", "from then on", "late, µs"], &rows, true);
    if r.all.changes.total > rows.len() as u64 {
        let _ = write!(
            out,
            "<p class=\"note\">The first {} of {}; all are in the events.</p>",
            rows.len(),
            r.all.changes.total
        );
    }
    out
}
