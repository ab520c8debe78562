//! Tables for a terminal.

use super::summary::figure;
use super::tables::{sent_bytes, status_name, total_time_ms};
use crate::migration::record::{MigrationRecord, Status};
use comfy_table::{CellAlignment, Table, presets};

const HEADINGS: [&str; 12] = [
    "#",
    "t s",
    "vm",
    "from",
    "to",
    "total ms",
    "downtime ms",
    "outage ms",
    "MiB",
    "rounds",
    "status",
    "grade",
];

/// The migrations of a run, one a line. A status is followed by `unverified` if it completed and a
/// page was wrong.
#[must_use]
pub fn table_of_migrations(records: &[MigrationRecord]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
        .set_header(HEADINGS);
    for r in records {
        let ms = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.0}"));
        let mut status = status_name(r.status).to_owned();
        if r.status == Status::Completed && !r.verified {
            status.push_str(" UNVERIFIED");
        }
        table.add_row([
            r.id.to_string(),
            format!("{:.1}", r.requested_trace_s),
            r.vm.clone(),
            r.source.clone(),
            r.destination.clone(),
            ms(total_time_ms(r)),
            ms(super::tables::downtime_ms(r)),
            ms(r.observed_outage_ms),
            figure(sent_bytes(r) as f64 / f64::from(1 << 20)),
            r.rounds.to_string(),
            status,
            r.grade.clone(),
        ]);
    }
    for (column, heading) in table.column_iter_mut().zip(HEADINGS) {
        if !matches!(heading, "vm" | "from" | "to" | "status" | "grade") {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}
