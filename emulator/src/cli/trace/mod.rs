//! `migbed trace`: import traces into our own formats, and look at them. One file a subcommand; what they
//! share (where a trace is read from) is here. No parsing of traces here or below: that is `traces`.

mod forecast;
mod import;
mod meter;
mod show;
mod stats;

use super::Exit;
use crate::run::Unusable;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use traces::dirty::PageWriteTrace;
use traces::import::{Format, ImportOptions, Imported, import_path};
use traces::store::bundle::{Bundle, VmMeta};
use traces::store::series::Series;

#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Import a trace: a page-level recording to an .mbpw file, anything else to a bundle.
    Import(import::ImportArgs),
    /// Show what a trace holds.
    Show(show::ShowArgs),
    /// Characterise a trace: load, periods, memory of the past, page writes and which form fits them.
    Stats(stats::StatsArgs),
    /// Test predictors on a trace, always beside the last value, and foretell what comes.
    Forecast(forecast::ForecastArgs),
}

#[derive(Debug, Args)]
pub(super) struct Source {
    /// A file, or a directory of one trace (a day of PlanetLab, for example).
    path: PathBuf,
    /// The format, when it should not be detected from the content.
    #[arg(long)]
    format: Option<String>,
}

impl Source {
    fn import(&self) -> Result<Imported> {
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
        let options = ImportOptions {
            format,
            ..ImportOptions::default()
        };
        Ok(import_path(&self.path, options).map_err(|error| Unusable(error.to_string()))?)
    }
}

/// A VM of any trace: imported, or from a bundle.
struct LoadedVm {
    meta: VmMeta,
    series: Series,
    page_writes: Option<PageWriteTrace>,
}

impl Source {
    /// Reads a bundle, or imports anything else; only the VMs named, when any are.
    fn load(&self, only: &[String]) -> Result<(String, Vec<LoadedVm>)> {
        let bundle = self.format.is_none() && self.path.join("manifest.json").is_file();
        let (format, mut vms) = if bundle {
            let read = Bundle::read(&self.path).map_err(|error| Unusable(error.to_string()))?;
            ("bundle".to_owned(), from_bundle(read))
        } else {
            let imported = self.import()?;
            for warning in &imported.warnings {
                eprintln!("warning: {}: {}", warning.file.display(), warning.kind);
            }
            let vms = imported.vms.into_iter().map(|vm| LoadedVm {
                meta: vm.meta,
                series: vm.series,
                page_writes: vm.page_writes,
            });
            (imported.format.name().to_owned(), vms.collect())
        };
        if let Some(name) = only
            .iter()
            .find(|n| vms.iter().all(|vm| vm.meta.name != **n))
        {
            let path = self.path.display();
            return Err(Unusable(format!("{path} holds no VM named `{name}`")).into());
        }
        vms.retain(|vm| only.is_empty() || only.contains(&vm.meta.name));
        Ok((format, vms))
    }
}

fn from_bundle(mut bundle: Bundle) -> Vec<LoadedVm> {
    let vms = std::mem::take(&mut bundle.vms);
    let one = |meta: VmMeta| LoadedVm {
        series: bundle.samples.remove(&meta.vm_id).unwrap_or_default(),
        page_writes: meta
            .page_writes
            .as_ref()
            .and_then(|file| bundle.page_writes.get(file).cloned()),
        meta,
    };
    vms.into_iter().map(one).collect()
}

impl TraceCommand {
    pub(super) fn execute(&self) -> Result<Exit> {
        match self {
            Self::Import(args) => args.execute(),
            Self::Show(args) => args.execute(),
            Self::Stats(args) => args.execute(),
            Self::Forecast(args) => args.execute(),
        }
    }
}
