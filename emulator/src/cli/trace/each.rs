//! A trace VM by VM: each is in memory while it is looked at, and no longer.

use super::Source;
use crate::run::Unusable;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use traces::dirty::PageWriteTrace;
use traces::import::{Output, OutputError, Streamed};
use traces::store::bundle::VmMeta;
use traces::store::sample::Sample;
use traces::store::series::{Series, SeriesError};

/// Hands every VM of a trace to `look`; VMs of arrivals have an empty series. `None`: interrupted.
pub(super) fn each_vm(
    source: &Source,
    look: impl FnMut(&VmMeta, &Series, Option<&PageWriteTrace>),
) -> Result<Option<Streamed>> {
    let scratch = Scratch::create()?;
    let mut each = Each {
        series: Series::default(),
        wrong: None,
        look,
    };
    let streamed = source.stream(scratch.path(), &mut each)?;
    if let Some(error) = each.wrong {
        return Err(Unusable(format!("{}: {error}", source.name())).into());
    }
    if let Some(streamed) = &streamed {
        for warning in &streamed.warnings {
            eprintln!("warning: {}: {}", warning.file.display(), warning.kind);
        }
    }
    Ok(streamed)
}

struct Each<F> {
    series: Series,
    /// The first sample that did not fit behind the ones before it.
    wrong: Option<SeriesError>,
    look: F,
}

impl<F: FnMut(&VmMeta, &Series, Option<&PageWriteTrace>)> Output for Each<F> {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        if let Err(error) = self.series.push_sample(sample) {
            self.wrong.get_or_insert(error);
        }
        Ok(())
    }

    fn vm(&mut self, meta: VmMeta, page_writes: Option<PageWriteTrace>) -> Result<(), OutputError> {
        let series = std::mem::take(&mut self.series);
        (self.look)(&meta, &series, page_writes.as_ref());
        Ok(())
    }
}

/// A directory for sorting, removed in the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("migbed-trace-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory is removed by the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
