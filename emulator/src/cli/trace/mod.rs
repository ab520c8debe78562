//! `migbed trace`: import traces into our own formats, and look at them. One file a subcommand; what they
//! share (where a trace is read from) is here. No parsing of traces here or below: that is `traces`.

mod import;
mod record;
mod show;

use super::Exit;
use crate::run::Unusable;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use traces::import::{Format, ImportOptions, Imported, import_path};

#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Import a trace: a page-level recording to an .mbpw file, anything else to a bundle.
    Import(import::ImportArgs),
    /// Record a program, a QEMU guest or this computer.
    Record(Box<record::RecordArgs>),
    /// Show what a trace holds.
    Show(show::ShowArgs),
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

impl TraceCommand {
    pub(super) fn execute(&self) -> Result<Exit> {
        match self {
            Self::Import(args) => args.execute(),
            Self::Record(args) => args.execute(),
            Self::Show(args) => args.execute(),
        }
    }
}
