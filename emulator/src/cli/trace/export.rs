//! `migbed trace export`: a trace as files of a simulator, whole or not at all.

use super::{Source, positive, size};
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use traces::export::{ExportCounts, ExportError, ExportOptions, OpenDcWriter, PlanetLabWriter};
use traces::import::{Output, OutputError};
use traces::store::partial::PartialError;
use traces::store::series::GapPolicy;
use traces::units::{round_u32, round_u64};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    source: Source,
    /// What to write.
    #[arg(long)]
    to: Target,
    /// Where to: a new directory.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Virtual CPUs of VMs whose number is not known.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// RAM of VMs whose size is not known.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<f64>,
    /// MHz of a core of VMs whose capacity is not known.
    #[arg(long, value_name = "MHZ", value_parser = positive, default_value = "1000")]
    core_mhz: f64,
    /// What stands where nothing was recorded.
    #[arg(long, default_value = "hold")]
    gaps: Gaps,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// tasks.parquet and fragments.parquet.
    Opendc,
    /// DAY/NAME, 288 lines each.
    Planetlab,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Gaps {
    /// The last value recorded.
    Hold,
    /// Nothing used.
    Zero,
    /// A straight line.
    Linear,
}

impl ExportArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let options = ExportOptions {
            vcpus: self.vcpus,
            mem_bytes: self.memory.map(round_u64),
            core_mhz: Some(round_u32(self.core_mhz)),
            gaps: match self.gaps {
                Gaps::Hold => GapPolicy::Hold,
                Gaps::Zero => GapPolicy::Zero,
                Gaps::Linear => GapPolicy::Linear,
            },
        };
        match self.to {
            Target::Opendc => {
                let writer = OpenDcWriter::create(&self.out, options).map_err(unusable)?;
                let scratch = writer.scratch().to_path_buf();
                self.export(writer, &scratch, OpenDcWriter::finish)
            }
            Target::Planetlab => {
                let writer = PlanetLabWriter::create(&self.out, options).map_err(unusable)?;
                let scratch = writer.scratch().to_path_buf();
                self.export(writer, &scratch, PlanetLabWriter::finish)
            }
        }
    }

    fn export<W: Output>(
        &self,
        mut writer: W,
        scratch: &Path,
        finish: fn(W) -> Result<ExportCounts, ExportError>,
    ) -> Result<Exit> {
        let streamed = self.source.stream(scratch, &mut writer);
        let streamed = streamed.map_err(|error| match error.downcast() {
            Ok(traces::import::StreamError::Output(OutputError::Export(error))) => unusable(*error),
            Ok(error) => error.into(),
            Err(error) => error,
        });
        if streamed?.is_none() {
            eprintln!("interrupted; nothing was written");
            return Ok(Exit::Interrupted);
        }
        let counts = finish(writer).map_err(unusable)?;
        if counts.gaps > 0 {
            let (gaps, ms) = (counts.gaps, counts.gap_ms);
            eprintln!("warning: {gaps} stretches without samples, {ms} ms together, were filled");
        }
        if counts.clamped > 0 {
            let clamped = counts.clamped;
            eprintln!("warning: {clamped} values above what the format can hold were cut");
        }
        if counts.without_cpu > 0 {
            let vms = counts.without_cpu;
            eprintln!("warning: {vms} VMs without CPU samples were left out");
        }
        let out = self.out.display();
        say!("{out}: {} VMs, {} rows", counts.vms, counts.rows);
        Ok(Exit::Done)
    }
}

/// What the user can mend is said to the user; the rest is a failure.
fn unusable(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Missing { .. }
        | ExportError::SameName { .. }
        | ExportError::Place(PartialError::Exists { .. }) => Unusable(error.to_string()).into(),
        error => error.into(),
    }
}
