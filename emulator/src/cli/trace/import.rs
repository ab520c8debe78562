//! `migbed trace import`: a trace to a bundle or an .mbpw file, whole or not at all.

use super::Source;
use crate::cli::Exit;
use crate::cli::output::say;
use crate::run::Unusable;
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use traces::import::{Format, Imported, Warning};
use traces::store::bundle::{BundleError, BundleImport};
use traces::store::page_write::write_page_writes;
use traces::store::partial::PartialError;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
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

impl ImportArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let extension = self.out.extension();
        if extension.is_some_and(|extension| extension == "mbpw") {
            return self.recording();
        }
        let failed = |error: BundleError| match error {
            BundleError::Place(PartialError::Exists { .. }) => {
                anyhow::Error::from(Unusable(error.to_string()))
            }
            error => error.into(),
        };
        let mut bundle =
            BundleImport::create(&self.out, &self.origin, &self.licence).map_err(failed)?;
        let scratch = bundle.scratch().map_err(failed)?;
        let Some(streamed) = self.source.stream(&scratch, &mut bundle)? else {
            eprintln!("interrupted; nothing was written");
            return Ok(Exit::Interrupted);
        };
        if streamed.format == Format::Bundle {
            return Err(Unusable(format!("{} is a bundle already", self.source.name())).into());
        }
        warn(&streamed.warnings);
        bundle.finish(&streamed, &self.title).map_err(failed)?;
        let (vms, samples) = (streamed.vms, streamed.counts.samples);
        let (out, format) = (self.out.display(), streamed.format);
        say!("{out}: {vms} VMs, from {format}, {samples} samples");
        Ok(Exit::Done)
    }

    /// One page-level recording to a file.
    fn recording(&self) -> Result<Exit> {
        let imported = self.source.import()?;
        warn(&imported.warnings);
        write_recording(&imported, &self.out)?;
        let (out, vms, format) = (self.out.display(), imported.vms.len(), imported.format);
        say!("{out}: {vms} VMs, from {format}");
        Ok(Exit::Done)
    }
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("warning: {}: {}", warning.file.display(), warning.kind);
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
