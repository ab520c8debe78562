//! `OpenDC`'s two tables: `tasks.parquet` and `fragments.parquet`, the current layout.
//!
//! A fragment has no time: gaps are filled, equal neighbours merged. MHz are thousandths of a core x
//! the clock of a core. Memory is in MB as documented. Network, disk and memory use have no place.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::{ExportCounts, ExportError, ExportOptions, Step, Steps};
use crate::dirty::PageWriteTrace;
use crate::import::{Output, OutputError};
use crate::store::bundle::VmMeta;
use crate::store::partial::{Partial, io_error};
use crate::store::sample::Sample;
use crate::store::table::{Column, ROWS_PER_GROUP, Table, TableWriter};

const TASKS: &str = "tasks.parquet";
const FRAGMENTS: &str = "fragments.parquet";
const MIB: u64 = 1 << 20;
/// Clock of a core where neither the trace nor the user says one.
const CORE_MHZ: f64 = 1000.0;

/// Writes the two tables.
pub struct OpenDcWriter {
    partial: Partial,
    options: ExportOptions,
    fragments: TableWriter<BufWriter<File>>,
    rows: Rows,
    steps: Steps,
    vm: Fragments,
    tasks: Vec<Task>,
    counts: ExportCounts,
}

/// Fragments of the VM under way: MHz are known only when its description comes, so thousandths of a
/// core are kept, one pair a change.
#[derive(Default)]
struct Fragments {
    start_ms: Option<i64>,
    lengths: Vec<(i64, u64)>,
}

/// Rows not written yet.
#[derive(Default)]
struct Rows {
    ids: Vec<Option<i32>>,
    durations: Vec<Option<i64>>,
    usages: Vec<Option<f64>>,
}

struct Task {
    id: i32,
    start_ms: i64,
    duration_ms: i64,
    cores: i32,
    capacity_mhz: f64,
    mem_mb: i64,
}

impl OpenDcWriter {
    /// Tables that will be in the directory `dir`, which must not exist or be empty.
    ///
    /// # Errors
    /// When there is something at `dir`, or the system refuses.
    pub fn create(dir: &Path, options: ExportOptions) -> Result<Self, ExportError> {
        let partial = Partial::create(dir)?;
        let out = create(&partial, FRAGMENTS)?;
        let required = ["id", "duration", "cpu_usage"];
        let fragments = TableWriter::new(out, &Rows::default().table(), &required)
            .map_err(|source| parquet(FRAGMENTS, source))?;
        Ok(Self {
            partial,
            options,
            fragments,
            rows: Rows::default(),
            steps: Steps::new(options.gaps),
            vm: Fragments::default(),
            tasks: Vec::new(),
            counts: ExportCounts::default(),
        })
    }

    /// A directory for files that are needed meanwhile.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.partial.path()
    }

    /// Ends the tables and gives the directory its name: the commit point.
    ///
    /// # Errors
    /// When the system refuses; nothing is left then.
    pub fn finish(mut self) -> Result<ExportCounts, ExportError> {
        self.flush()?;
        let closed = self.fragments.close();
        let mut out = closed.map_err(|source| parquet(FRAGMENTS, source))?;
        let path = self.partial.path().join(FRAGMENTS);
        std::io::Write::flush(&mut out).map_err(|source| io_error(&path, source))?;
        let out = create(&self.partial, TASKS)?;
        let required = [
            "id",
            "submission_time",
            "duration",
            "cpu_count",
            "cpu_capacity",
            "mem_capacity",
        ];
        let written = tasks_table(&self.tasks).write(out, &required);
        written.map_err(|source| parquet(TASKS, source))?;
        self.partial.commit()?;
        Ok(self.counts)
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            self.vm.start_ms.get_or_insert(step.from_ms);
            let dur = step.to_ms - step.from_ms;
            if step.filled {
                self.counts.gaps += 1;
                self.counts.gap_ms += dur.unsigned_abs();
            }
            match self.vm.lengths.last_mut() {
                Some((last, milli)) if *milli == step.milli => *last += dur,
                _ => self.vm.lengths.push((dur, step.milli)),
            }
        }
    }

    fn end_vm(&mut self, meta: &VmMeta) -> Result<(), ExportError> {
        let mut steps = Vec::new();
        self.steps.end(&mut steps);
        self.take(&steps);
        let vm = std::mem::take(&mut self.vm);
        let Some(start_ms) = vm.start_ms else {
            self.counts.without_cpu += 1;
            return Ok(());
        };
        let missing = |what, option| ExportError::Missing {
            vm: meta.name.clone(),
            what,
            option,
        };
        let cores = meta.vcpus.or(self.options.vcpus);
        let cores = cores.ok_or_else(|| missing("number of CPUs", "--vcpus"))?;
        let mem = meta.mem_bytes.or(self.options.mem_bytes);
        let mem = mem.ok_or_else(|| missing("size of memory", "--memory"))?;
        let given = self.options.core_mhz.map_or(CORE_MHZ, f64::from);
        let core_mhz = match meta.cpu_capacity_mhz {
            Some(capacity) if cores > 0 => f64::from(capacity) / f64::from(cores),
            _ => given,
        };
        let id = i32::try_from(self.tasks.len()).unwrap_or(i32::MAX);
        let mut duration_ms = 0;
        for (dur, milli) in vm.lengths {
            duration_ms += dur;
            self.rows.ids.push(Some(id));
            self.rows.durations.push(Some(dur));
            self.rows
                .usages
                .push(Some(milli as f64 / 1000.0 * core_mhz));
            self.counts.rows += 1;
            if self.rows.ids.len() == ROWS_PER_GROUP {
                self.flush()?;
            }
        }
        self.tasks.push(Task {
            id,
            start_ms,
            duration_ms,
            cores: i32::try_from(cores).unwrap_or(i32::MAX),
            capacity_mhz: core_mhz * f64::from(cores),
            mem_mb: i64::try_from(mem.div_ceil(MIB)).unwrap_or(i64::MAX),
        });
        self.counts.vms += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        if self.rows.ids.is_empty() {
            return Ok(());
        }
        let table = std::mem::take(&mut self.rows).table();
        let written = self.fragments.group(&table, 0..table.rows);
        written.map_err(|source| parquet(FRAGMENTS, source))
    }
}

impl Output for OpenDcWriter {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        let mut steps = Vec::new();
        self.steps.take(sample, &mut steps);
        self.take(&steps);
        Ok(())
    }

    fn vm(&mut self, meta: VmMeta, _: Option<PageWriteTrace>) -> Result<(), OutputError> {
        Ok(self.end_vm(&meta)?)
    }
}

impl Rows {
    fn table(self) -> Table {
        let mut table = Table::default();
        table.push("id", Column::Small(self.ids));
        table.push("duration", Column::Int(self.durations));
        table.push("cpu_usage", Column::Real(self.usages));
        table
    }
}

fn tasks_table(tasks: &[Task]) -> Table {
    let small = |get: fn(&Task) -> i32| Column::Small(tasks.iter().map(|t| Some(get(t))).collect());
    let int = |get: fn(&Task) -> i64| Column::Int(tasks.iter().map(|t| Some(get(t))).collect());
    let capacity = tasks.iter().map(|task| Some(task.capacity_mhz)).collect();
    let mut table = Table::default();
    table.push("id", small(|task| task.id));
    table.push("submission_time", int(|task| task.start_ms));
    table.push("duration", int(|task| task.duration_ms));
    table.push("cpu_count", small(|task| task.cores));
    table.push("cpu_capacity", Column::Real(capacity));
    table.push("mem_capacity", int(|task| task.mem_mb));
    table
}

fn create(partial: &Partial, name: &str) -> Result<BufWriter<File>, ExportError> {
    let path = partial.path().join(name);
    let file = File::create(&path).map_err(|source| io_error(&path, source))?;
    Ok(BufWriter::new(file))
}

fn parquet(file: &'static str, source: parquet::errors::ParquetError) -> ExportError {
    ExportError::Parquet { file, source }
}

impl std::fmt::Debug for OpenDcWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDcWriter")
            .field("partial", &self.partial)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
