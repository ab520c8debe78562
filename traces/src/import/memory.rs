//! An import kept in memory: for traces small enough, and for those who need their CPU demand whole.

use std::borrow::Borrow;
use std::path::{Path, PathBuf};

use super::error::{ImportError, ImportErrorKind, OutputError, StreamError};
use super::stream::import_stream;
use super::warning::{Warning, WarningKind};
use super::{ImportOptions, Imported, ImportedVm, Output};
use crate::dirty::PageWriteTrace;
use crate::store::bundle::{BundleError, VmMeta};
use crate::store::sample::Sample;
use crate::store::series::{GapFill, GapPolicy, Series};

/// Imports a file, or a directory of files of one format, into memory.
///
/// PlanetLab: a file, a day's directory, or a directory of days (`YYYYMMDD`), whose files of one name
/// are joined. Formats of tables: a directory of them. A bundle: its directory.
///
/// # Errors
/// The first thing that is not as its format says, with file, line and what was expected.
pub fn import_path(
    path: &Path,
    options: impl Borrow<ImportOptions>,
) -> Result<Imported, ImportError> {
    import_paths(&[PathBuf::from(path)], options)
}

/// As [`import_path`], from several files or directories of one trace.
///
/// # Errors
/// As [`import_path`].
pub fn import_paths(
    paths: &[PathBuf],
    options: impl Borrow<ImportOptions>,
) -> Result<Imported, ImportError> {
    let options = options.borrow();
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let mut memory = Memory {
        gaps: options.gaps,
        series: Series::default(),
        vms: Vec::new(),
        without_cpu: 0,
    };
    let root = |kind| ImportError::new(path, 0, kind);
    let streamed = import_stream(paths, options, None, &mut memory);
    let mut streamed = streamed.map_err(|error| match error {
        StreamError::Import(error) => error,
        StreamError::Output(OutputError::Bundle(error)) => root(ImportErrorKind::Bundle(error)),
        // Nothing is sorted on disk and nothing exported.
        StreamError::Sort(_) | StreamError::Output(OutputError::Export(_)) => {
            root(ImportErrorKind::NoSamples)
        }
    })?;
    if memory.vms.is_empty() {
        return Err(root(if streamed.format.is_arrivals() {
            ImportErrorKind::ArrivalsOnly {
                format: streamed.format,
            }
        } else {
            ImportErrorKind::NoCpu
        }));
    }
    if memory.without_cpu > 0 {
        streamed.warnings.push(Warning {
            file: path.to_path_buf(),
            kind: WarningKind::NoCpu {
                vms: memory.without_cpu,
            },
        });
    }
    Ok(Imported {
        format: streamed.format,
        vms: memory.vms,
        time_origin: streamed.time_origin,
        sampling: streamed.sampling,
        derived: streamed.derived,
        warnings: streamed.warnings,
        counts: streamed.counts,
        options: streamed.options,
    })
}

struct Memory {
    gaps: GapPolicy,
    /// Of the VM under way.
    series: Series,
    vms: Vec<ImportedVm>,
    without_cpu: u64,
}

impl Output for Memory {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        self.series.push_sample(sample).map_err(|source| {
            let vm_id = sample.vm;
            OutputError::from(BundleError::Series { vm_id, source })
        })
    }

    fn vm(&mut self, meta: VmMeta, page_writes: Option<PageWriteTrace>) -> Result<(), OutputError> {
        let series = std::mem::take(&mut self.series);
        // Demand from the page-level recording where there is one: it keeps the length of each tick.
        let demand = match &page_writes {
            Some(trace) => trace.cpu_trace().ok().map(|cpu| (cpu, GapFill::default())),
            None => series.cpu_trace(self.gaps).ok(),
        };
        let Some((cpu, cpu_fill)) = demand else {
            self.without_cpu += 1;
            return Ok(());
        };
        let vm_id = u32::try_from(self.vms.len()).unwrap_or(u32::MAX);
        self.vms.push(ImportedVm {
            meta: VmMeta { vm_id, ..meta },
            cpu,
            cpu_fill,
            series,
            page_writes,
        });
        Ok(())
    }
}
