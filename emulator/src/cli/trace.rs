//! `migbed trace`: import traces into our own formats, and look at them.

use super::Exit;
use super::output::say;
use crate::run::Unusable;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use comfy_table::Table;
use std::path::{Path, PathBuf};
use traces::import::{Format, ImportOptions, Imported, import_path};
use traces::store::bundle::Bundle;
use traces::store::page_write::write_page_writes;

#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Import a trace: a page-level recording to an .mbpw file, anything else to a bundle.
    Import(ImportArgs),
    /// Show what a trace holds.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct Source {
    /// A file, or a directory of one trace (a day of PlanetLab, for example).
    path: PathBuf,
    /// The format, when it should not be detected from the content.
    #[arg(long)]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    source: Source,
    /// Where to: FILE.mbpw for one page-level recording, a new directory for a bundle.
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
    /// What the trace is, for people.
    #[arg(long, default_value = "")]
    title: String,
    /// Where it comes from.
    #[arg(long, default_value = "")]
    origin: String,
    /// Its licence.
    #[arg(long, default_value = "")]
    licence: String,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    source: Source,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
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
            Self::Show(args) => args.execute(),
        }
    }
}

impl ImportArgs {
    fn execute(&self) -> Result<Exit> {
        let imported = self.source.import()?;
        for warning in &imported.warnings {
            eprintln!("warning: {}: {}", warning.file.display(), warning.kind);
        }
        let found = format!("{} VMs, from {}", imported.vms.len(), imported.format);
        if self
            .out
            .extension()
            .is_some_and(|extension| extension == "mbpw")
        {
            write_recording(&imported, &self.out)?;
        } else {
            let (title, origin, licence) = (&self.title, &self.origin, &self.licence);
            Bundle::from_import(imported, title, origin, licence).write(&self.out)?;
        }
        say!("{}: {found}", self.out.display());
        Ok(Exit::Done)
    }
}

/// Writes beside the target and renames: nothing half-written is left.
fn write_recording(imported: &Imported, out: &Path) -> Result<()> {
    let recordings: Vec<_> = imported
        .vms
        .iter()
        .filter_map(|vm| vm.page_writes.as_ref())
        .collect();
    let [recording] = recordings[..] else {
        let format = imported.format;
        return Err(Unusable(format!(
            "{format} holds {} page-level recordings, an .mbpw file is one; give a directory for a \
             bundle",
            recordings.len()
        ))
        .into());
    };
    let part = out.with_extension("mbpw.part");
    let file = std::fs::File::create(&part).with_context(|| format!("{}", part.display()))?;
    let mut writer = std::io::BufWriter::new(file);
    let written = write_page_writes(recording, &mut writer).map_err(anyhow::Error::from);
    let flushed = written.and_then(|()| Ok(std::io::Write::flush(&mut writer)?));
    if let Err(error) = flushed.and_then(|()| Ok(std::fs::rename(&part, out)?)) {
        // The first error counts; a leftover part file would only add to it.
        let _ = std::fs::remove_file(&part);
        return Err(error.context(format!("{}", out.display())));
    }
    Ok(())
}

impl ShowArgs {
    fn execute(&self) -> Result<Exit> {
        let imported = self.source.import()?;
        let rows: Vec<serde_json::Value> = imported
            .vms
            .iter()
            .map(|vm| {
                serde_json::json!({
                    "name": vm.meta.name,
                    "vcpus": vm.meta.vcpus,
                    "mem_bytes": vm.meta.mem_bytes,
                    "duration_s": vm.cpu.period_ns() as f64 / 1e9,
                    "intervals": vm.cpu.samples().len(),
                    "cpu_mean_cores": vm.cpu.mean_milli() / 1000.0,
                    "pages": vm.page_writes.as_ref().map(|trace| trace.pages),
                    "page_marks": vm.page_writes.as_ref().map(|trace| trace.marks()),
                })
            })
            .collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(Exit::Done);
        }
        say!(
            "{}: {}, {} VMs",
            self.source.path.display(),
            imported.format,
            rows.len()
        );
        let mut table = Table::new();
        table.set_header([
            "VM",
            "seconds",
            "intervals",
            "mean cores",
            "pages",
            "page marks",
        ]);
        for row in &rows {
            let text = |key: &str| match &row[key] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "–".to_owned(),
                other => other.to_string(),
            };
            let cores = row["cpu_mean_cores"].as_f64().unwrap_or(0.0);
            table.add_row([
                text("name"),
                text("duration_s"),
                text("intervals"),
                format!("{cores:.3}"),
                text("pages"),
                text("page_marks"),
            ]);
        }
        say!("{table}");
        for warning in &imported.warnings {
            say!("warning: {}: {}", warning.file.display(), warning.kind);
        }
        Ok(Exit::Done)
    }
}
