//! `migbed trace`: import traces into our own formats, look at them, export them. One file a subcommand;
//! what they share (where a trace is read from, and how) is here. No parsing of traces here or below:
//! that is `traces`.

mod each;
mod export;
mod forecast;
mod import;
mod incident;
mod record;
mod show;
mod stats;
mod synth;
mod watch;

use super::Exit;
use crate::run::Unusable;
use crate::scenario::origin::word;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use traces::import::{
    Format, ImportErrorKind, ImportOptions, Imported, Mapping, Output, Progress, StreamError,
    Streamed, Units, import_paths, import_stream,
};
use traces::store::bundle::{BundleScan, Manifest};
use traces::units::Provenance;

#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Import a trace: a page-level recording to an .mbpw file, anything else to a bundle.
    Import(import::ImportArgs),
    /// Make a log of a migration (query-migrate, domjobinfo) a scenario that runs it again.
    Incident(incident::IncidentArgs),
    /// Record a program, a QEMU guest or this computer.
    Record(Box<record::RecordArgs>),
    /// Show what a trace holds.
    Show(show::ShowArgs),
    /// Complete a CPU trace with memory and writes by a profile (docs/synthesis.md).
    Synth(synth::SynthArgs),
    /// The built-in profiles: how programs of a kind write memory.
    Profiles(synth::ProfilesArgs),
    /// Write a trace as OpenDC Parquet or CloudSim PlanetLab files.
    Export(export::ExportArgs),
    /// Characterise a trace: load, periods, memory of the past, page writes and which form fits them.
    Stats(stats::StatsArgs),
    /// Test predictors on a trace, always beside the last value, and foretell what comes.
    Forecast(forecast::ForecastArgs),
}

#[derive(Debug, Args)]
pub(super) struct Source {
    /// Files, or a directory of one trace (a day of PlanetLab, the tables of Azure, a bundle).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The format, when it should not be detected from the content.
    #[arg(long)]
    format: Option<String>,
    /// A column of plain CSV: METRIC=COLUMN[:UNIT], once for each (docs/trace-format.md).
    #[arg(long, value_name = "METRIC=COLUMN[:UNIT]")]
    map: Vec<String>,
    /// Only this VM (the source's id); may be given again.
    #[arg(long, value_name = "ID")]
    vm: Vec<String>,
    /// Only the VMs whose ids stand in this file, one a line.
    #[arg(long, value_name = "FILE")]
    vms: Option<PathBuf>,
    /// Cores of the machine that normalised CPU (Google) counts as 1.
    #[arg(long, value_name = "N", value_parser = positive)]
    unit_cores: Option<f64>,
    /// Memory of the machine that normalised memory (Google, Alibaba) counts as 1; for OpenDC the unit
    /// of mem_capacity.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    unit_memory: Option<f64>,
    /// Bytes of one unit of Alibaba's network counters.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    unit_network: Option<f64>,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

/// Bytes, with B, KiB, MiB, GiB or TiB behind the number.
fn size(text: &str) -> Result<f64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let factor = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return Err("expected a number with B, KiB, MiB, GiB or TiB".to_owned()),
    };
    Ok(positive(number.trim())? * factor)
}

impl Source {
    /// The trace in memory.
    fn import(&self) -> Result<Imported> {
        let (options, _) = self.options()?;
        Ok(import_paths(&self.paths, &options).map_err(|error| Unusable(error.to_string()))?)
    }

    /// The trace to an output, watched. `None`: interrupted, and `out` has only a part.
    fn stream(&self, scratch: &Path, out: &mut dyn Output) -> Result<Option<Streamed>> {
        let (options, progress) = self.options()?;
        let _watch = watch::Watch::start(&progress);
        match import_stream(&self.paths, &options, Some(scratch), out) {
            Ok(streamed) => Ok(Some(streamed)),
            Err(StreamError::Import(error)) if matches!(error.kind, ImportErrorKind::Stopped) => {
                Ok(None)
            }
            Err(StreamError::Import(error)) => Err(Unusable(error.to_string()).into()),
            Err(error) => Err(error.into()),
        }
    }

    fn options(&self) -> Result<(ImportOptions, Arc<Progress>)> {
        let format = match &self.format {
            None => None,
            Some(name) => Some(Format::from_name(name).ok_or_else(|| {
                let known: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
                Unusable(format!(
                    "there is no trace format `{name}`; there are {}",
                    known.join(", ")
                ))
            })?),
        };
        let mapping = if self.map.is_empty() {
            None
        } else {
            let mapping = Mapping::parse(&self.map);
            Some(mapping.map_err(|error| Unusable(format!("--map: {error}")))?)
        };
        let options = ImportOptions {
            format,
            mapping,
            only: self.only()?,
            units: Units {
                cores: self.unit_cores,
                mem_bytes: self.unit_memory,
                net_bytes: self.unit_network,
            },
            ..ImportOptions::default()
        };
        let progress = Arc::clone(&options.progress);
        Ok((options, progress))
    }

    fn only(&self) -> Result<Option<BTreeSet<String>>> {
        let mut only: BTreeSet<String> = self.vm.iter().cloned().collect();
        if let Some(file) = &self.vms {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("{}", file.display()))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            only.extend(lines.map(str::to_owned));
        }
        let any = !self.vm.is_empty() || self.vms.is_some();
        Ok(any.then_some(only))
    }

    /// How the columns came to be, as lines for people: `recorded: cpu_milli, …`.
    fn origins(&self, streamed: &Streamed) -> Vec<String> {
        let stated = match &self.paths[..] {
            [path] if streamed.format == Format::Bundle => BundleScan::open(path).ok(),
            _ => None,
        };
        let manifest = stated.map_or_else(
            || Manifest::of_import(streamed, "", "", ""),
            |scan| scan.manifest,
        );
        let kinds = [
            Provenance::Recorded,
            Provenance::Derived,
            Provenance::Synthesised,
        ];
        let line = |kind| {
            let of = manifest
                .columns
                .iter()
                .filter(|(_, note)| note.provenance == kind);
            let columns: Vec<&str> = of.map(|(column, _)| column.as_str()).collect();
            (!columns.is_empty()).then(|| format!("{}: {}", word(kind), columns.join(", ")))
        };
        kinds.into_iter().filter_map(line).collect()
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        let names: Vec<String> = self.paths.iter().map(|p| p.display().to_string()).collect();
        names.join(" ")
    }
}

impl TraceCommand {
    pub(super) fn execute(&self) -> Result<Exit> {
        match self {
            Self::Import(args) => args.execute(),
            Self::Incident(args) => args.execute(),
            Self::Record(args) => args.execute(),
            Self::Show(args) => args.execute(),
            Self::Export(args) => args.execute(),
            Self::Synth(args) => args.execute(),
            Self::Profiles(args) => args.execute(),
            Self::Stats(args) => args.execute(),
            Self::Forecast(args) => args.execute(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("1.5GiB"), Ok(1_610_612_736.0));
        assert_eq!(size("64"), Ok(64.0));
        assert!(size("1GB").is_err() && size("-1").is_err() && size("0").is_err());
    }
}
