//! `OpenDC` Parquet: `tasks` and `fragments`; before that `meta` and `trace`, in two spellings.
//!
//! Fragments of the current layout have no times: a fragment begins where the one before it of the same
//! id ends, the first at the task's submission. In the older layouts the stamp is the fragment's end or
//! its start, which the first one shows. Memory is documented as MB and is KB in files made from
//! Bitbrains. There is no memory use and no network.

use std::path::{Path, PathBuf};

use super::intake::{Intake, Tally, sample};
use super::{Format, ImportError, ImportErrorKind, ImportOptions, StreamError};
use crate::store::bundle::TimeOrigin;
use crate::store::columns::{Batch, Columns};
use crate::store::series::{Metric, flags};
use crate::store::sort::Sorter;
use crate::store::table::Column;
use crate::units::{round_u32, round_u64};

/// Columns computed here.
pub(super) const DERIVED: [(&str, &str); 1] = [(
    "cpu_milli",
    "CPU usage [MHz] over the task's capacity of one core",
)];

const ID: [&str; 1] = ["id"];
const START: [&str; 4] = [
    "submission_time",
    "start_time",
    "submissionTime",
    "startTime",
];
const STOP: [&str; 4] = ["stop_time", "endTime", "end_time", "stopTime"];
const DURATION: [&str; 1] = ["duration"];
const CORES: [&str; 3] = ["cpu_count", "maxCores", "cores"];
const CAPACITY: [&str; 2] = ["cpu_capacity", "cpuCapacity"];
const MEMORY: [&str; 3] = ["mem_capacity", "requiredMemory", "memCapacity"];
const USAGE: [&str; 2] = ["cpu_usage", "cpuUsage"];
const TIME: [&str; 2] = ["timestamp", "time"];
/// Columns of a task, and of nothing else.
const TASK: [&str; 7] = [
    "submission_time",
    "submissionTime",
    "start_time",
    "startTime",
    "mem_capacity",
    "requiredMemory",
    "memCapacity",
];

/// Reads the tables and gives what was taken in to `emit`.
pub(super) fn read(
    files: &[PathBuf],
    options: &ImportOptions,
    sorter: Sorter,
    emit: impl FnOnce(Intake<'_>) -> Result<(), StreamError>,
) -> Result<TimeOrigin, StreamError> {
    let (mut tasks, mut fragments) = (Vec::new(), Vec::new());
    for file in files.iter().filter(|file| !is_beside(file)) {
        let columns = Columns::open(file).map_err(|error| parquet(file, error))?;
        if columns.find(&TASK).is_some() {
            tasks.push((file, columns));
        } else if columns.find(&USAGE).is_some() && columns.find(&DURATION).is_some() {
            fragments.push((file, columns));
        } else {
            let found = format!("it has the columns {}", columns.names().join(", "));
            let expected = Format::OpenDc;
            let kind = ImportErrorKind::OtherFormat { found, expected };
            return Err(ImportError::new(file, 0, kind).into());
        }
    }
    let first = files.first().map_or(Path::new(""), PathBuf::as_path);
    let needs = |what| {
        let format = Format::OpenDc;
        ImportError::new(first, 0, ImportErrorKind::Needs { format, what })
    };
    if tasks.is_empty() {
        let what = "its table of tasks (tasks.parquet or meta.parquet) beside the fragments";
        return Err(needs(what).into());
    }
    if fragments.is_empty() {
        let what = "its table of fragments (fragments.parquet or trace.parquet) beside the tasks";
        return Err(needs(what).into());
    }
    let mut intake = Intake::new(options, sorter);
    let mut next_ms = Vec::new();
    let mut memory = Vec::new();
    for (file, columns) in &tasks {
        read_tasks(file, columns, &mut intake, &mut next_ms, &mut memory)?;
    }
    set_memory(&mut intake, &mut memory);
    for (file, columns) in &fragments {
        read_fragments(file, columns, &mut intake, &mut next_ms)?;
        let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        options.progress.add_read(bytes);
    }
    // Times that begin before 1971 count from the start of the trace.
    let unix = next_ms.iter().min().is_some_and(|&t| t > 365 * 86_400_000);
    emit(intake)?;
    let origin = if unix {
        TimeOrigin::UnixUtc
    } else {
        TimeOrigin::Relative
    };
    Ok(origin)
}

/// `interference-model.json` lies beside some traces.
fn is_beside(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "json")
}

fn parquet(file: &Path, error: parquet::errors::ParquetError) -> StreamError {
    ImportError::new(file, 0, ImportErrorKind::Parquet(error)).into()
}

/// An error inside the reading of a table.
enum Failed {
    Stream(StreamError),
    Parquet(parquet::errors::ParquetError),
}

impl From<parquet::errors::ParquetError> for Failed {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Parquet(error)
    }
}

impl Failed {
    fn of(self, file: &Path) -> StreamError {
        match self {
            Self::Stream(error) => error,
            Self::Parquet(error) => parquet(file, error),
        }
    }
}

/// A batch whose columns were found by name.
struct Rows<'a> {
    file: &'a Path,
    batch: Batch,
}

impl Rows<'_> {
    fn error(
        &self,
        row: usize,
        column: &'static str,
        value: &str,
        expected: &'static str,
    ) -> StreamError {
        let line = self.batch.first + row as u64 + 1;
        let kind = ImportErrorKind::Field {
            column,
            value: value.to_string(),
            expected,
        };
        ImportError::new(self.file, line, kind).into()
    }

    fn id(&self, row: usize, at: usize) -> Result<String, StreamError> {
        match &self.batch.columns[at] {
            Column::Int(values) => values[row].map(|id| id.to_string()),
            Column::Text(values) => values[row].clone(),
            Column::Small(_) | Column::Real(_) => None,
        }
        .ok_or_else(|| self.error(row, "id", "null or a fraction", "a number or text"))
    }

    fn int(&self, row: usize, at: usize, column: &'static str) -> Result<i64, StreamError> {
        match &self.batch.columns[at] {
            Column::Int(values) => values[row],
            _ => None,
        }
        .ok_or_else(|| self.error(row, column, "null or no integer", "an integer"))
    }

    fn real(&self, row: usize, at: usize, column: &'static str) -> Result<f64, StreamError> {
        let value = match &self.batch.columns[at] {
            Column::Real(values) => values[row],
            Column::Int(values) => values[row].map(|value| value as f64),
            Column::Small(_) | Column::Text(_) => None,
        };
        let good = value.filter(|value| value.is_finite() && *value >= 0.0);
        good.ok_or_else(|| {
            let found = value.map_or("null".to_string(), |value| value.to_string());
            self.error(row, column, &found, "a number, not negative")
        })
    }
}

/// Reads columns that must be there.
fn must(file: &Path, columns: &Columns, names: &[&'static str]) -> Result<usize, StreamError> {
    columns.find(names).ok_or_else(|| {
        let kind = ImportErrorKind::NoSuchColumn {
            column: names[0].to_string(),
            found: columns.names().join(", "),
        };
        ImportError::new(file, 0, kind).into()
    })
}

fn read_tasks(
    file: &Path,
    columns: &Columns,
    intake: &mut Intake<'_>,
    next_ms: &mut Vec<i64>,
    memory: &mut Vec<(u32, f64)>,
) -> Result<(), StreamError> {
    let start = must(file, columns, &START)?;
    let mut wanted = vec![
        must(file, columns, &ID)?,
        start,
        must(file, columns, &CORES)?,
        must(file, columns, &MEMORY)?,
    ];
    let mut also = |names: &[&str]| {
        let at = columns.find(names)?;
        wanted.push(at);
        Some(wanted.len() - 1)
    };
    let (capacity, stop, duration) = (also(&CAPACITY), also(&STOP), also(&DURATION));
    let mut task = |rows: &Rows<'_>, row: usize| {
        let id = rows.id(row, 0)?;
        let start = rows.int(row, 1, "submission_time")?;
        let cores = rows.int(row, 2, "cpu_count")?;
        let mem = rows.real(row, 3, "mem_capacity")?;
        let capacity = capacity
            .map(|at| rows.real(row, at, "cpu_capacity"))
            .transpose()?;
        let stop = match (stop, duration) {
            (Some(at), _) => Some(rows.int(row, at, "stop_time")?),
            (None, Some(at)) => Some(start.saturating_add(rows.int(row, at, "duration")?)),
            (None, None) => None,
        };
        let Some(vm) = intake.vm(&id) else {
            return Ok(());
        };
        let cores = u32::try_from(cores).ok().filter(|&cores| cores > 0);
        let known = intake.get(vm);
        if known.described {
            return Err(rows.error(row, "id", &id, "one task of an id"));
        }
        known.described = true;
        known.meta.vcpus = cores;
        let mhz = capacity.filter(|&mhz| mhz > 0.0);
        known.meta.cpu_capacity_mhz = mhz.map(round_u32);
        // MHz of one core; without a capacity, 1 MHz counts as a thousandth of a core.
        known.cores = mhz.map(|mhz| mhz / f64::from(cores.unwrap_or(1)));
        (known.meta.start_ms, known.meta.stop_ms) = (Some(start), stop);
        next_ms.push(start);
        memory.push((vm, mem));
        Ok(())
    };
    each(file, columns, &wanted, &mut task)
}

fn each(
    file: &Path,
    columns: &Columns,
    wanted: &[usize],
    take: &mut dyn FnMut(&Rows<'_>, usize) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    let read = columns.each(wanted, |batch| {
        let rows = Rows { file, batch };
        (0..rows.batch.rows).try_for_each(|row| take(&rows, row).map_err(Failed::Stream))
    });
    read.map_err(|failed| failed.of(file))
}

/// MB, or KB when most VMs would have 128 GiB or more otherwise; the user's word counts more.
fn set_memory(intake: &mut Intake<'_>, memory: &mut [(u32, f64)]) {
    memory.sort_by(|a, b| a.1.total_cmp(&b.1));
    let Some(&(_, median)) = memory.get(memory.len() / 2) else {
        return;
    };
    let bytes = intake.options.units.mem_bytes.unwrap_or_else(|| {
        let (unit, why, bytes) = if median >= 131_072.0 {
            let why = "as MB the median would be 128 GiB or more (--unit-memory overrides it)";
            ("KB", why, 1024.0)
        } else {
            let why = "the documentation says so (--unit-memory overrides it)";
            ("MB", why, 1_048_576.0)
        };
        intake.count(Tally::Guessed("mem_capacity", unit, why));
        bytes
    });
    for &(vm, units) in memory.iter() {
        let size = round_u64(units * bytes);
        intake.get(vm).meta.mem_bytes = Some(size).filter(|&size| size > 0);
    }
}

fn read_fragments(
    file: &Path,
    columns: &Columns,
    intake: &mut Intake<'_>,
    next_ms: &mut [i64],
) -> Result<(), StreamError> {
    let mut wanted = vec![
        must(file, columns, &ID)?,
        must(file, columns, &DURATION)?,
        must(file, columns, &USAGE)?,
    ];
    let time = columns.find(&TIME);
    wanted.extend(time);
    let mut stamps_are_ends = None;
    let mut fragment = |rows: &Rows<'_>, row: usize| {
        let id = rows.id(row, 0)?;
        let dur = rows.int(row, 1, "duration")?;
        let mhz = rows.real(row, 2, "cpu_usage")?;
        let stamp = time.map(|_| rows.int(row, 3, "timestamp")).transpose()?;
        if dur < 0 {
            let expected = "a length, not negative";
            return Err(rows.error(row, "duration", &dur.to_string(), expected));
        }
        if !intake.options.wants(&id) {
            return Ok(());
        }
        let vm = intake.vm(&id).filter(|&vm| (vm as usize) < next_ms.len());
        let Some(vm) = vm else {
            return Err(rows.error(row, "id", &id, "an id of the table of tasks"));
        };
        let next = &mut next_ms[vm as usize];
        let t_ms = match stamp {
            None => *next,
            Some(stamp) => {
                let ends = *stamps_are_ends.get_or_insert(stamp != *next);
                if ends {
                    stamp.saturating_sub(dur)
                } else {
                    stamp
                }
            }
        };
        *next = t_ms.saturating_add(dur);
        put(vm, t_ms, dur, mhz, intake)
    };
    each(file, columns, &wanted, &mut fragment)
}

/// A fragment, in pieces if it is longer than 49 days.
fn put(
    vm: u32,
    mut t_ms: i64,
    mut dur: i64,
    mhz: f64,
    intake: &mut Intake<'_>,
) -> Result<(), StreamError> {
    if dur == 0 {
        intake.count(Tally::LeftOut("they have no length"));
        return Ok(());
    }
    let known = intake.get(vm);
    let core = known.cores.unwrap_or(1000.0);
    let milli = round_u64(mhz / core * 1000.0);
    let capacity = known.meta.vcpus.map(|cores| u64::from(cores) * 1000);
    let over = if capacity.is_some_and(|capacity| milli > capacity) {
        flags::OVER_CAPACITY
    } else {
        0
    };
    while dur > 0 {
        let piece = u32::try_from(dur).unwrap_or(u32::MAX);
        intake.sample(sample(
            vm,
            t_ms,
            piece,
            over,
            &[(Metric::CpuMilli, Some(milli))],
        ))?;
        t_ms = t_ms.saturating_add(i64::from(piece));
        dur -= i64::from(piece);
    }
    Ok(())
}

#[cfg(test)]
#[path = "opendc_tests.rs"]
mod tests;
