//! Google `ClusterData` 2019 (v3): `instance_usage` as JSON lines (BigQuery writes whole numbers as
//! text), or flattened to CSV with a header; an instance a VM.
//!
//! As 2011: microseconds from 600 s before the trace, shares of the largest machine. The flattened form
//! has no end: a row holds to the end of its window of 300 s, or to the next row. Percentiles of CPU stay: the smallest and
//! the 95th; -1 means that they were not taken.

use serde_json::Value;

use super::google2011::{CORES_OF_ONE, interval, no_interval};
use super::intake::{Intake, Tally, sample};
use super::lines::{number, optional, shortened, whole};
use super::stream::{Rows, Text};
use super::tidy::Rule;
use super::{Format, ImportErrorKind, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::store::series::Metric;
use crate::units::{round_u32, round_u64};

/// How the table is read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Sum,
    table,
    read,
    time_origin: TimeOrigin::Relative,
    derived: &[
        (
            "cpu_milli",
            "average CPU x cores of the largest machine; time from 600 s into the source's",
        ),
        (
            "cpu_min_milli",
            "0th percentile of CPU x cores of the largest machine",
        ),
        (
            "cpu_max_milli",
            "maximum CPU x cores of the largest machine",
        ),
        (
            "cpu_p95_milli",
            "95th percentile of CPU x cores of the largest machine",
        ),
        (
            "mem_used_bytes",
            "average memory x memory of the largest machine",
        ),
    ],
    described_in: None,
};

/// A percentile that was not taken.
const MISSING: &str = "-1.0";

const JSON: u8 = 0;
const FLAT: u8 = 1;
/// Windows of usage.
const WINDOW_US: u64 = 300_000_000;

/// Which form a line is of.
pub(super) fn table(line: &str) -> Option<u8> {
    if line.starts_with('{') {
        let usage = line.contains("\"average_usage\"") && line.contains("\"instance_index\"");
        return usage.then_some(JSON);
    }
    let flat = line.starts_with("time,") && line.contains(",avg_cpu_usage,");
    flat.then_some(FLAT)
}

/// One row of either form, in the source's units.
#[derive(Debug, Default)]
struct Row {
    id: String,
    start_us: u64,
    end_us: u64,
    host: Option<String>,
    cpu: Option<f64>,
    cpu_max: Option<f64>,
    cpu_min: Option<f64>,
    cpu_p95: Option<f64>,
    memory: Option<f64>,
    cpu_limit: Option<f64>,
    memory_limit: Option<f64>,
    /// Percentiles marked as missing.
    missing: bool,
}

fn read(table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    let cores = intake.options.units.cores.ok_or_else(|| {
        lines.error(ImportErrorKind::Needs {
            format: Format::Google2019,
            what: CORES_OF_ONE,
        })
    })?;
    if table == FLAT {
        // Without an end, a second row of a window says that the first one ended there.
        intake.rule = Some(Rule::Given);
    }
    let mut columns = None;
    while lines.advance()? {
        let line = lines.line();
        if line.trim().is_empty() {
            continue;
        }
        let row = match (&columns, table) {
            (_, JSON) => json_row(line),
            (None, _) => {
                columns = Some(Columns::find(line).map_err(|kind| lines.error(kind))?);
                continue;
            }
            (Some(columns), _) => columns.row(line),
        };
        let row = row.map_err(|kind| lines.error(kind))?;
        take(row, lines, cores, intake)?;
    }
    Ok(())
}

fn take(row: Row, lines: &Text, cores: f64, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    let Some((t_ms, dur_ms)) = interval(row.start_us, row.end_us) else {
        let why = no_interval(row.start_us, row.end_us).map_err(|kind| lines.error(kind))?;
        intake.count(Tally::LeftOut(why));
        return Ok(());
    };
    let Some(vm) = intake.vm(&row.id) else {
        return Ok(());
    };
    if row.missing {
        intake.count(Tally::Invalid("CPU percentiles"));
    }
    let mem_bytes = intake.options.units.mem_bytes;
    let known = intake.get(vm);
    if known.meta.host_initial.is_none() {
        known.meta.host_initial = row.host;
    }
    if let Some(limit) = row.cpu_limit.filter(|&limit| limit > 0.0) {
        // Limits may change: the largest is the size.
        let vcpus = round_u32((limit * cores).ceil());
        known.meta.vcpus = known.meta.vcpus.max(Some(vcpus));
    }
    let bytes = |share: Option<f64>| {
        share
            .zip(mem_bytes)
            .map(|(share, one)| round_u64(share * one))
    };
    if let Some(limit) = bytes(row.memory_limit).filter(|&limit| limit > 0) {
        known.meta.mem_bytes = known.meta.mem_bytes.max(Some(limit));
    }
    if mem_bytes.is_none() && row.memory.is_some() {
        intake.count(Tally::Normalised("memory usage", "--unit-memory"));
    }
    let milli = |rate: Option<f64>| rate.map(|rate| round_u64(rate * cores * 1000.0));
    let values = [
        (Metric::CpuMilli, milli(row.cpu)),
        (Metric::CpuMinMilli, milli(row.cpu_min)),
        (Metric::CpuMaxMilli, milli(row.cpu_max)),
        (Metric::CpuP95Milli, milli(row.cpu_p95)),
        (Metric::MemUsedBytes, bytes(row.memory)),
    ];
    intake.sample(sample(vm, t_ms, dur_ms, 0, &values))
}

/// Where the columns of the flattened form are.
struct Columns {
    count: usize,
    must: [usize; 4],
    may: [Option<usize>; 8],
}

const MUST: [&str; 4] = ["time", "collection_id", "instance_index", "avg_cpu_usage"];
const MAY: [&str; 8] = [
    "machine_id",
    "max_cpu_usage",
    "p0_cpu_usage",
    "p95_cpu_usage",
    "avg_memory_usage",
    "cpu_limit",
    "memory_limit",
    "end_time",
];

impl Columns {
    fn find(header: &str) -> Result<Self, ImportErrorKind> {
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let find = |column: &str| names.iter().position(|name| *name == column);
        let mut must = [0; MUST.len()];
        for (at, column) in must.iter_mut().zip(MUST) {
            *at = find(column).ok_or(ImportErrorKind::NoColumn { column })?;
        }
        Ok(Self {
            count: names.len(),
            must,
            may: MAY.map(find),
        })
    }

    fn row(&self, line: &str) -> Result<Row, ImportErrorKind> {
        let columns: Vec<&str> = line.split(',').map(str::trim).collect();
        if columns.len() != self.count {
            let (found, expected) = (columns.len(), self.count);
            return Err(ImportErrorKind::Fields { found, expected });
        }
        let must = |index: usize| columns[self.must[index]];
        let may = |index: usize| self.may[index].map_or("", |at| columns[at]);
        let real = |index: usize| match may(index) {
            MISSING => Ok(None),
            value => optional(MAY[index], value),
        };
        let start_us = whole("time", must(0))?;
        let window = (start_us / WINDOW_US).saturating_add(1);
        let end_us = match may(7) {
            "" => window.saturating_mul(WINDOW_US),
            end => whole("end_time", end)?,
        };
        Ok(Row {
            id: format!(
                "{}-{}",
                whole("collection_id", must(1))?,
                whole("instance_index", must(2))?
            ),
            start_us,
            end_us,
            host: Some(may(0).to_string()).filter(|host| !host.is_empty()),
            cpu: Some(number("avg_cpu_usage", must(3))?),
            cpu_max: real(1)?,
            cpu_min: real(2)?,
            cpu_p95: real(3)?,
            memory: real(4)?,
            cpu_limit: real(5)?,
            memory_limit: real(6)?,
            missing: may(3) == MISSING,
        })
    }
}

fn json_row(line: &str) -> Result<Row, ImportErrorKind> {
    let value: Value = serde_json::from_str(line).map_err(|error| ImportErrorKind::Json {
        what: error.to_string(),
        expected: "one JSON object a line",
    })?;
    let usage = |key: &'static str, part: &str| json_real(key, &value[key][part]);
    let percentile = |key: &'static str, at: usize| json_real(key, &value[key][at]);
    let id = |key| json_whole(key, &value[key]);
    Ok(Row {
        id: format!("{}-{}", id("collection_id")?, id("instance_index")?),
        start_us: json_whole("start_time", &value["start_time"])?,
        end_us: json_whole("end_time", &value["end_time"])?,
        host: json_whole("machine_id", &value["machine_id"])
            .ok()
            .map(|host| host.to_string()),
        cpu: usage("average_usage", "cpus")?,
        cpu_max: usage("maximum_usage", "cpus")?,
        cpu_min: percentile("cpu_usage_distribution", 0)?,
        // 91, 92, … 99 %.
        cpu_p95: percentile("tail_cpu_usage_distribution", 4)?,
        memory: usage("average_usage", "memory")?,
        cpu_limit: None,
        memory_limit: None,
        missing: value["tail_cpu_usage_distribution"][4] == -1.0,
    })
}

/// A whole number, as a number or as text.
fn json_whole(column: &'static str, value: &Value) -> Result<u64, ImportErrorKind> {
    match value {
        Value::String(text) => whole(column, text),
        other => other.as_u64().ok_or_else(|| ImportErrorKind::Field {
            column,
            value: shortened(&other.to_string()),
            expected: "a whole number, not negative",
        }),
    }
}

fn json_real(column: &'static str, value: &Value) -> Result<Option<f64>, ImportErrorKind> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => optional(column, text),
        missing if *missing == -1.0 => Ok(None),
        other => number(column, &other.to_string()).map(Some),
    }
}
