//! Azure Trace for Packing 2020: when VMs come and go. Arrivals only.
//!
//! The source is an SQLite file with tables `vm` and `vmType`; read here are these tables as CSV
//! (`sqlite3 -header -csv FILE 'select * from vm'`). Times are days with fractions, negative before the
//! collection began; an empty end means alive. Sizes are shares of a machine and differ by machine, so
//! a VM's type is kept as its class and its size is unknown.

use super::intake::Intake;
use super::lines::{fields, shortened, whole};
use super::stream::{Rows, Text};
use super::tidy::Rule;
use super::{ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::units::round_u64;

/// How the table is read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Given,
    table,
    read,
    time_origin: TimeOrigin::Relative,
    derived: &[],
    described_in: None,
};

/// How an SQLite file starts.
pub(super) const SQLITE: &[u8] = b"SQLite format 3\0";

const HEADER: &str = "vmId,tenantId,vmTypeId,priority,starttime,endtime";
const DAY_MS: f64 = 86_400_000.0;
const VM: u8 = 0;
const DATABASE: u8 = 1;

/// Which table a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    if line.starts_with("SQLite format 3") {
        return Some(DATABASE);
    }
    line.eq_ignore_ascii_case(HEADER).then_some(VM)
}

fn read(table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    if table == DATABASE {
        let kind = ImportErrorKind::Needs {
            format: super::Format::AzurePacking,
            what: "its table as CSV: sqlite3 -header -csv FILE 'select * from vm' > vm.csv",
        };
        return Err(super::ImportError::new(lines.file(), 0, kind).into());
    }
    Ok(lines.rows(|line| vm(line, intake))?)
}

fn vm(line: &str, intake: &mut Intake<'_>) -> Result<(), ImportErrorKind> {
    let [id, _, kind, priority, start, end] = fields(line, ',')?;
    whole("vmId", id)?;
    whole("vmTypeId", kind)?;
    let class = match priority {
        "0" => "high",
        "1" => "low",
        _ => {
            return Err(ImportErrorKind::Field {
                column: "priority",
                value: shortened(priority),
                expected: "0 (high) or 1 (low)",
            });
        }
    };
    let start = days("starttime", start)?.ok_or_else(|| ImportErrorKind::Field {
        column: "starttime",
        value: String::new(),
        expected: "days",
    })?;
    let end = days("endtime", end)?;
    if end.is_some_and(|end| end < start) {
        return Err(ImportErrorKind::Field {
            column: "endtime",
            value: shortened(line),
            expected: "an end after the start",
        });
    }
    let Some(vm) = intake.vm(id) else {
        return Ok(());
    };
    let vm = intake.get(vm);
    if vm.described {
        return Err(ImportErrorKind::Field {
            column: "vmId",
            value: shortened(id),
            expected: "one row a VM",
        });
    }
    vm.described = true;
    vm.meta.class = Some(format!("type {kind}, {class} priority"));
    (vm.meta.start_ms, vm.meta.stop_ms) = (Some(start), end);
    Ok(())
}

/// Days as milliseconds; empty or NULL is none.
fn days(column: &'static str, value: &str) -> Result<Option<i64>, ImportErrorKind> {
    if value.is_empty() || value.eq_ignore_ascii_case("null") {
        return Ok(None);
    }
    let days = value.parse::<f64>().ok().filter(|days| days.abs() < 1e6);
    let days = days.ok_or_else(|| ImportErrorKind::Field {
        column,
        value: shortened(value),
        expected: "days, with fractions",
    })?;
    let ms = i64::try_from(round_u64(days.abs() * DAY_MS)).unwrap_or(i64::MAX);
    Ok(Some(if days < 0.0 { -ms } else { ms }))
}
