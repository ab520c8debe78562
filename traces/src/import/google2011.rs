//! Google `ClusterData` 2011: `task_usage`, a task a VM; and the VM files made of it by Nguyen et al.
//!
//! Times are microseconds, 600 s before the start of the trace is 0; a task may have several rows in
//! one period, also side by side: they are added up. CPU and memory are shares of the largest machine,
//! so that its size must be given. Empty fields are missing. There is no network, and disk is in time.

use std::io::BufRead;
use std::path::Path;

use super::files::stem;
use super::intake::{Intake, Tally, sample};
use super::lines::{Lines, number, optional, whole};
use super::stream::{Rows, Text};
use super::tidy::Rule;
use super::{Format, ImportError, ImportErrorKind, Part, StreamError};
use crate::store::bundle::{TimeOrigin, VmMeta};
use crate::store::series::{Interval, Metric, Series, flags};
use crate::units::round_u64;

/// How the table is read.
pub(super) const ROWS: Rows = Rows {
    rule: Rule::Sum,
    table,
    read,
    time_origin: TimeOrigin::Relative,
    derived: &[
        (
            "cpu_milli",
            "CPU rate x cores of the largest machine; time from 600 s into the source's",
        ),
        (
            "cpu_max_milli",
            "maximum CPU rate x cores of the largest machine",
        ),
        (
            "mem_used_bytes",
            "canonical memory usage x memory of the largest machine",
        ),
    ],
    described_in: None,
};

/// Columns computed for the derived VM files.
pub(super) const DERIVED_VM: [(&str, &str); 1] = [(
    "cpu_milli",
    "per cent of the VM, times ten: the source gives no cores, one is assumed",
)];

/// What the source's clock shows when the trace starts.
const START_US: u64 = 600_000_000;
const STEP_MS: u32 = 300_000;

/// Which table a line is of. `task_events` has 13 fields, `machine_events` 6: not read.
pub(super) fn table(line: &str) -> Option<u8> {
    let columns: Vec<&str> = line.split(',').collect();
    let usage = (columns.len() == 20 || columns.len() == 19)
        && columns[..5]
            .iter()
            .all(|value| value.parse::<u64>().is_ok())
        && columns
            .iter()
            .all(|value| value.is_empty() || value.parse::<f64>().is_ok());
    usage.then_some(0)
}

/// Whether a line is one of the derived VM files: two numbers.
pub(super) fn is_vm_line(line: &str) -> bool {
    let values: Vec<&str> = line.split_whitespace().collect();
    values.len() == 2 && values.iter().all(|value| value.parse::<f64>().is_ok())
}

fn read(_table: u8, lines: &mut Text, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    let cores = intake.options.units.cores.ok_or_else(|| {
        lines.error(ImportErrorKind::Needs {
            format: Format::Google2011,
            what: CORES_OF_ONE,
        })
    })?;
    while lines.advance()? {
        if !lines.line().trim().is_empty() {
            row(lines, cores, intake)?;
        }
    }
    Ok(())
}

/// Why a format cannot be read without `units.cores`.
pub(super) const CORES_OF_ONE: &str =
    "--unit-cores N: its CPU is in shares of the largest machine, which has N cores";

fn row(lines: &Text, cores: f64, intake: &mut Intake<'_>) -> Result<(), StreamError> {
    let bad = |kind| lines.error(kind);
    let columns: Vec<&str> = lines.line().split(',').map(str::trim).collect();
    if columns.len() != 20 && columns.len() != 19 {
        let (found, expected) = (columns.len(), 20);
        return Err(bad(ImportErrorKind::Fields { found, expected }).into());
    }
    let start = whole("start time", columns[0]).map_err(bad)?;
    let end = whole("end time", columns[1]).map_err(bad)?;
    whole("job id", columns[2]).map_err(bad)?;
    whole("task index", columns[3]).map_err(bad)?;
    let cpu = optional("CPU rate", columns[5]).map_err(bad)?;
    let memory = optional("canonical memory usage", columns[6]).map_err(bad)?;
    let cpu_max = optional("maximum CPU rate", columns[13]).map_err(bad)?;
    let Some(interval) = interval(start, end) else {
        let why = no_interval(start, end).map_err(bad)?;
        intake.count(Tally::LeftOut(why));
        return Ok(());
    };
    let id = format!("{}-{}", columns[2], columns[3]);
    let Some(vm) = intake.vm(&id) else {
        return Ok(());
    };
    let host = columns[4];
    let known = intake.get(vm);
    if known.meta.host_initial.is_none() && !host.is_empty() {
        known.meta.host_initial = Some(host.to_string());
    }
    let milli = |rate: f64| round_u64(rate * cores * 1000.0);
    let mem_bytes = intake.options.units.mem_bytes;
    if mem_bytes.is_none() && memory.is_some() {
        intake.count(Tally::Normalised("memory usage", "--unit-memory"));
    }
    let values = [
        (Metric::CpuMilli, cpu.map(milli)),
        (Metric::CpuMaxMilli, cpu_max.map(milli)),
        (
            Metric::MemUsedBytes,
            memory
                .zip(mem_bytes)
                .map(|(share, one)| round_u64(share * one)),
        ),
    ];
    intake.sample(sample(vm, interval.0, interval.1, 0, &values))
}

/// Start in milliseconds of the trace, and length; `None` for the source's marks and for what is none.
pub(super) fn interval(start_us: u64, end_us: u64) -> Option<(i64, u32)> {
    if start_us == 0 || end_us >= i64::MAX.unsigned_abs() {
        return None;
    }
    let ms = |us: u64| i64::try_from(us / 1000).ok();
    let from = ms(START_US)?;
    let (start, end) = (ms(start_us)?, ms(end_us)?);
    let dur = u32::try_from(end.checked_sub(start)?).ok()?;
    (dur > 0).then_some((start - from, dur))
}

/// Why a row has no [`interval`]: left out for a reason, or an error.
pub(super) fn no_interval(start_us: u64, end_us: u64) -> Result<&'static str, ImportErrorKind> {
    if start_us == 0 || end_us >= i64::MAX.unsigned_abs() {
        return Ok("they begin before the trace or end after it");
    }
    if end_us >= start_us && end_us - start_us < u64::from(u32::MAX) * 1000 {
        return Ok("they are shorter than a millisecond");
    }
    Err(ImportErrorKind::Field {
        column: "end time",
        value: end_us.to_string(),
        expected: "microseconds, after the start and within 49 days of it",
    })
}

/// Reads a derived VM file: CPU % and memory % a line, 300 s apart.
pub(super) fn read_vm(file: &Path, input: impl BufRead) -> Result<Part, ImportError> {
    let mut lines = Lines::new(file, input);
    let mut series = Series::default();
    let mut t_ms = 0;
    let mut blank = false;
    while lines.advance()? {
        let line = lines.line().trim().replace('\t', " ");
        if line.is_empty() {
            blank = true;
            continue;
        }
        let values: Vec<&str> = line.split_ascii_whitespace().collect();
        if values.len() != 2 || blank {
            let (found, expected) = (if blank { 0 } else { values.len() }, 2);
            return Err(lines.error(ImportErrorKind::Fields { found, expected }));
        }
        let cpu = number("CPU %", values[0]).map_err(|kind| lines.error(kind))?;
        number("memory %", values[1]).map_err(|kind| lines.error(kind))?;
        let over = if cpu > 100.0 { flags::OVER_CAPACITY } else { 0 };
        let interval = Interval {
            t_ms,
            dur_ms: STEP_MS,
            flags: over,
        };
        // Memory is per cent of a size nobody states: as bytes it would be made up.
        series
            .push(interval, &[(Metric::CpuMilli, Some(round_u64(cpu * 10.0)))])
            .expect("each sample starts where the last ended");
        t_ms = interval.end_ms();
    }
    let name = stem(file);
    let warnings = vec![
        super::WarningKind::UnknownCores,
        super::WarningKind::Normalised {
            column: "memory",
            option: "nothing: the source gives no size",
        },
    ];
    Ok(Part {
        meta: VmMeta {
            source_id: Some(name.clone()),
            ..VmMeta::named(&name)
        },
        warnings: if series.intervals().is_empty() {
            Vec::new()
        } else {
            warnings
        },
        series,
        page_writes: None,
        time_origin: TimeOrigin::Relative,
        duplicates: 0,
    })
}
