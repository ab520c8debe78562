//! `migbed trace show`: what a trace holds, as a table or JSON. Nothing is kept but a line a VM.

use super::Source;
use super::each::Scratch;
use crate::cli::Exit;
use crate::cli::output::say;
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use traces::dirty::PageWriteTrace;
use traces::import::{Output, OutputError};
use traces::store::bundle::VmMeta;
use traces::store::sample::Sample;
use traces::store::series::Metric;

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    #[command(flatten)]
    source: Source,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let mut contents = Contents::default();
        let scratch = Scratch::create()?;
        let Some(streamed) = self.source.stream(scratch.path(), &mut contents)? else {
            return Ok(Exit::Interrupted);
        };
        let rows = contents.vms;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(Exit::Done);
        }
        let (name, format) = (self.source.name(), streamed.format);
        say!("{name}: {format}, {} VMs", rows.len());
        let mut table = Table::new();
        table.set_header([
            "VM",
            "vCPUs",
            "memory MiB",
            "seconds",
            "intervals",
            "mean cores",
            "pages",
            "page marks",
        ]);
        for row in &rows {
            let text =
                |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
            let cores = row
                .cpu_mean_cores
                .map_or("–".to_owned(), |c| format!("{c:.3}"));
            table.add_row([
                row.name.clone(),
                text(row.vcpus.map(u64::from)),
                text(row.mem_bytes.map(|bytes| bytes >> 20)),
                row.duration_s.to_string(),
                row.intervals.to_string(),
                cores,
                text(row.pages.map(u64::from)),
                text(row.page_marks),
            ]);
        }
        say!("{table}");
        for line in self.source.origins(&streamed) {
            say!("{line}");
        }
        for warning in &streamed.warnings {
            say!("warning: {}: {}", warning.file.display(), warning.kind);
        }
        Ok(Exit::Done)
    }
}

/// A VM of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    vcpus: Option<u32>,
    mem_bytes: Option<u64>,
    duration_s: f64,
    intervals: u64,
    cpu_mean_cores: Option<f64>,
    pages: Option<u32>,
    page_marks: Option<u64>,
}

#[derive(Default)]
struct Contents {
    vms: Vec<Row>,
    intervals: u64,
    first_ms: Option<i64>,
    end_ms: i64,
    mean: Mean,
}

/// Mean CPU with gaps held, as in a run.
#[derive(Default)]
struct Mean {
    /// The value that holds, and until when it is counted.
    last: Option<(u64, i64)>,
    sum: f64,
}

impl Mean {
    fn take(&mut self, from_ms: i64, first_ms: i64, end_ms: i64, milli: u64) {
        // Before the first value the first one holds.
        let (held, since_ms) = self.last.unwrap_or((milli, first_ms));
        self.sum += held as f64 * from_ms.abs_diff(since_ms) as f64;
        self.sum += milli as f64 * end_ms.abs_diff(from_ms) as f64;
        self.last = Some((milli, end_ms));
    }

    fn cores(&self, first_ms: i64, end_ms: i64) -> Option<f64> {
        let (held, since_ms) = self.last?;
        let sum = self.sum + held as f64 * end_ms.abs_diff(since_ms) as f64;
        let whole = end_ms.abs_diff(first_ms);
        (whole > 0).then(|| sum / whole as f64 / 1000.0)
    }
}

impl Output for Contents {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        let interval = sample.interval;
        let first_ms = *self.first_ms.get_or_insert(interval.t_ms);
        self.intervals += 1;
        self.end_ms = interval.end_ms();
        if let Some(milli) = sample.values.get(Metric::CpuMilli) {
            self.mean.take(interval.t_ms, first_ms, self.end_ms, milli);
        }
        Ok(())
    }

    fn vm(&mut self, meta: VmMeta, page_writes: Option<PageWriteTrace>) -> Result<(), OutputError> {
        let done = std::mem::take(self);
        self.vms = done.vms;
        let first_ms = done.first_ms.unwrap_or(0);
        let end_ms = if done.first_ms.is_some() {
            done.end_ms
        } else {
            0
        };
        // A recording keeps the exact length of its ticks.
        let recorded = page_writes
            .as_ref()
            .and_then(|trace| trace.cpu_trace().ok());
        let (duration_s, intervals, mean) = match &recorded {
            Some(cpu) => (
                cpu.period_ns() as f64 / 1e9,
                cpu.samples().len() as u64,
                Some(cpu.mean_milli() / 1000.0),
            ),
            None => (
                end_ms.abs_diff(first_ms) as f64 / 1e3,
                done.intervals,
                done.mean.cores(first_ms, end_ms),
            ),
        };
        self.vms.push(Row {
            name: meta.name,
            vcpus: meta.vcpus,
            mem_bytes: meta.mem_bytes,
            duration_s,
            intervals,
            cpu_mean_cores: mean,
            pages: page_writes.as_ref().map(|trace| trace.pages),
            page_marks: page_writes.as_ref().map(PageWriteTrace::marks),
        });
        Ok(())
    }
}
