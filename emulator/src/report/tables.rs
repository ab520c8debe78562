//! The report's tables.

use super::html::{Cell, escape, table};
use super::page::Report;
use crate::migration::record::{DeedDone, MigrationRecord, Status};
use crate::results::summary::figure;
use crate::results::{Metric, Summary};

/// Rows of the outcomes' table: beyond, the Parquet file is the better place to look.
const ROWS_MAX: usize = 1_000;
/// Links listed; a star of 1,000 hosts has 2,000.
const LINKS_MAX: usize = 200;

/// One row a migration.
pub(super) fn outcomes(r: &Report<'_>) -> String {
    const HEADINGS: [&str; 15] = [
        "#",
        "at, s",
        "vm",
        "from",
        "to",
        "total, ms",
        "downtime, ms",
        "outage, ms",
        "seen, ms",
        "sent, MiB",
        "rounds",
        "status",
        "verified",
        "grade",
        "reason",
    ];
    let rows: Vec<_> = r
        .all
        .migrations
        .iter()
        .take(ROWS_MAX)
        .map(|m| outcome(&m.record))
        .collect();
    let mut out = table(&HEADINGS, &rows, true);
    if r.all.migrations.len() > ROWS_MAX {
        out.push_str(&format!(
            "<p class=\"note\">The first {ROWS_MAX} of {}; all are in migrations.parquet.</p>",
            r.all.migrations.len()
        ));
    }
    out
}

fn outcome(m: &MigrationRecord) -> Vec<Cell> {
    let qmp = |key| m.query_migrate.get(key).and_then(serde_json::Value::as_f64);
    let ms = |v| Cell::number(v, |v| format!("{v:.0}"));
    let sent = m
        .source_report
        .as_ref()
        .map(|s| s.bytes.total() as f64 / f64::from(1 << 20));
    let (class, status) = match m.status {
        Status::Completed => ("good", "completed"),
        Status::Cancelled => ("fair", "cancelled"),
        Status::Failed => ("bad", "failed"),
    };
    let error = m.error.as_deref().unwrap_or("");
    let verified = match (m.status, m.verified) {
        (_, true) => "<span class=\"good\">yes</span>",
        (Status::Completed, false) => "<span class=\"bad\">NO</span>",
        (_, false) => "–",
    };
    vec![
        Cell::number(Some(f64::from(m.id)), |v| format!("{v:.0}")),
        Cell::number(Some(m.requested_trace_s), |v| format!("{v:.1}")),
        Cell::text(&m.vm),
        Cell::text(&m.source),
        Cell::text(&m.destination),
        ms(qmp("total-time")),
        ms(qmp("downtime")),
        ms(m.observed_outage_ms),
        ms(m.network_downtime_ms),
        Cell::number(sent, figure),
        Cell::number(Some(f64::from(m.rounds)), |v| format!("{v:.0}")),
        Cell::raw(format!(
            "<span class=\"{class}\" title=\"{}\">{status}</span>",
            escape(error)
        )),
        Cell::raw(verified.into()),
        Cell::raw(grade(&m.grade)),
        Cell::text(if error.is_empty() { &m.reason } else { error }),
    ]
}

/// What orchestrators did to migrations, in order; `None` where they did nothing.
pub(super) fn deeds(r: &Report<'_>) -> Option<String> {
    const HEADINGS: [&str; 7] = [
        "#",
        "since its begin, s",
        "iteration",
        "left, MiB",
        "deed",
        "limit, ms",
        "why",
    ];
    let of = |m: &MigrationRecord| {
        let begin_ns = m.source_report.as_ref().map(|source| source.begin_ns);
        let begin_ns = begin_ns.unwrap_or(m.requested_ns);
        let row = |deed: &DeedDone| deed_row(m.id, begin_ns, deed);
        m.deeds.iter().map(row).collect::<Vec<_>>()
    };
    let all = r.all.migrations.iter();
    let rows: Vec<_> = all.flat_map(|m| of(&m.record)).take(ROWS_MAX + 1).collect();
    let shown = &rows[..rows.len().min(ROWS_MAX)];
    let mut out = table(&HEADINGS, shown, true);
    if rows.len() > ROWS_MAX {
        out.push_str(&format!(
            "<p class=\"note\">The first {ROWS_MAX}; all are in migrations.jsonl.</p>"
        ));
    }
    (!rows.is_empty()).then_some(out)
}

fn deed_row(id: u32, begin_ns: u64, deed: &DeedDone) -> Vec<Cell> {
    let whole = |v: Option<f64>| Cell::number(v, |v| format!("{v:.0}"));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    vec![
        whole(Some(f64::from(id))),
        Cell::number(
            Some(deed.at_ns.saturating_sub(begin_ns) as f64 / 1e9),
            |v| format!("{v:.1}"),
        ),
        whole(deed.iteration.map(|n| n as f64)),
        Cell::number(deed.remaining_bytes.map(mib), figure),
        Cell::text(&deed.deed),
        whole(deed.downtime_limit_ms.map(|ms| ms as f64)),
        Cell::text(&deed.why),
    ]
}

/// A grade in its colour.
pub(super) fn grade(grade: &str) -> String {
    let class = match grade {
        "A" => "good",
        "B" | "C" => "fair",
        "invalid" => "bad",
        _ => "plain",
    };
    format!("<span class=\"{class}\">{}</span>", escape(grade))
}

/// Links asked against got, counters, lateness.
pub(super) fn links(s: &Summary) -> String {
    const HEADINGS: [&str; 15] = [
        "link",
        "asked, Mbit/s",
        "got",
        "error",
        "over 10 ms",
        "asked delay, µs",
        "got",
        "loss asked",
        "lost, segments",
        "queue, KiB",
        "highest, KiB",
        "wire in, MiB",
        "dropped, segments",
        "late p99, µs",
        "late max, µs",
    ];
    let rows: Vec<_> = s.links.iter().take(LINKS_MAX).map(link).collect();
    if rows.is_empty() {
        return "<p class=\"note\">No link was calibrated or sampled.</p>".into();
    }
    let mut out = table(&HEADINGS, &rows, true);
    if s.links.len() > LINKS_MAX {
        out.push_str(&format!(
            "<p class=\"note\">The first {LINKS_MAX} of {}; all are in summary.json.</p>",
            s.links.len()
        ));
    }
    out
}

fn link(l: &crate::results::summary::LinkRow) -> Vec<Cell> {
    let c = l.calibration.as_ref();
    let n = l.counters.as_ref();
    let asked = c.and_then(|c| c.asked_rate_bps).map(|v| v as f64);
    let got = c.map(|c| c.got_rate_bps);
    let percent = |v: Option<f64>| Cell::number(v, |v| format!("{:+.2} %", v * 100.0));
    let mbit = |v: Option<f64>| Cell::number(v, |v| figure(v / 1e6));
    let count = |v: Option<u64>| Cell::number(v.map(|v| v as f64), |v| format!("{v:.0}"));
    let kib = |v: Option<u64>| Cell::number(v.map(|v| v as f64 / 1024.0), figure);
    let mut name = escape(&l.link);
    if c.is_some_and(|c| !c.ok) {
        name.push_str(" <span class=\"bad\">off</span>");
    }
    vec![
        Cell::raw(name),
        mbit(asked),
        mbit(got),
        percent(c.and_then(|c| c.rate_error)),
        percent(c.and_then(|c| c.window_errors[0])),
        Cell::number(c.map(|c| c.asked_delay_us), figure),
        Cell::number(c.and_then(|c| c.got_delay_us), figure),
        percent(c.map(|c| c.asked_loss).filter(|share| *share > 0.0)),
        count(n.map(|n| n.lost_segments)),
        kib(c.map(|c| c.queue_bytes)),
        kib(n.map(|n| n.queue_bytes_max)),
        Cell::number(
            n.map(|n| n.wire_bytes_in as f64 / f64::from(1 << 20)),
            figure,
        ),
        count(n.map(|n| n.dropped_segments)),
        Cell::number(n.map(|n| n.late_us_p99), figure),
        Cell::number(n.map(|n| n.late_us_max), figure),
    ]
}

/// Errors of the models.
pub(super) fn models(s: &Summary) -> String {
    if s.model_errors.is_empty() {
        return "<p class=\"note\">No model's guess was recorded before a completed migration.</p>"
            .into();
    }
    const HEADINGS: [&str; 9] = [
        "model",
        "migrations",
        "total time",
        "p90",
        "leans",
        "outage",
        "p90",
        "bytes",
        "p90",
    ];
    let percent = |v: Option<f64>| Cell::number(v, |v| format!("{:.1} %", v * 100.0));
    let row = |m: &crate::results::summary::ModelErrors| {
        let mut cells = vec![
            Cell::text(&m.model),
            Cell::number(Some(m.migrations as f64), |v| format!("{v:.0}")),
        ];
        for (n, pair) in [m.total_time, m.downtime, m.bytes].into_iter().enumerate() {
            cells.push(percent(pair.map(|p| p[0])));
            cells.push(percent(pair.map(|p| p[1])));
            if n == 0 {
                let lean = |v: f64| format!("{:+.1} %", v * 100.0);
                cells.push(Cell::number(m.total_time_bias, lean));
            }
        }
        cells
    };
    table(
        &HEADINGS,
        &s.model_errors.iter().map(row).collect::<Vec<_>>(),
        true,
    )
}

/// Every metric with its definition, and the same under `none`.
pub(super) fn metrics(s: &Summary) -> String {
    let row = |(name, m): (&String, &Metric)| {
        let shown = |v: f64| match m.unit.as_str() {
            "count" => format!("{v:.0}"),
            "bytes" => format!("{:.3} GiB", v / f64::from(1 << 30)),
            "1" => format!("{v:.4}"),
            unit => format!("{} {unit}", figure(v)),
        };
        vec![
            Cell::text(name),
            Cell::number(m.value, shown),
            Cell::number(s.under_none(name), shown),
            Cell::raw(super::html::tag(m.tag.name())),
            Cell::text(&m.definition),
        ]
    };
    let rows: Vec<_> = s.metrics.iter().map(row).collect();
    table(
        &[
            "metric",
            "this run",
            "under none (modelled)",
            "tag",
            "definition",
        ],
        &rows,
        false,
    )
}
