//! Our own bundle as a source: for exports, tables of contents, and everything that takes a trace.

use std::collections::BTreeMap;
use std::path::Path;

use super::WarningKind;
use super::output::{Emitter, Output};
use super::{Format, ImportError, ImportErrorKind, ImportOptions, StreamError, Streamed, Warning};
use crate::store::bundle::{Bundle, BundleError};
use crate::store::sample::{Sample, Values};

/// Whether a path is a bundle.
pub(super) fn is_bundle(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

/// Gives out a bundle as it is.
pub(super) fn read(
    path: &Path,
    options: &ImportOptions,
    out: &mut dyn Output,
) -> Result<Streamed, StreamError> {
    let failed =
        |error: BundleError| ImportError::new(path, 0, ImportErrorKind::Bundle(Box::new(error)));
    let mut bundle = Bundle::read(path).map_err(failed)?;
    let mut emitter = Emitter::new(out, options.progress.clone());
    emitter.counts.files = 1;
    for vm in std::mem::take(&mut bundle.vms) {
        if !options.wants(&vm.name) && !vm.source_id.as_ref().is_some_and(|id| options.wants(id)) {
            continue;
        }
        if let Some(series) = bundle.samples.remove(&vm.vm_id) {
            for (index, &interval) in series.intervals().iter().enumerate() {
                let mut values = Values::default();
                for metric in series.metrics() {
                    values.set(metric, series.value(metric, index));
                }
                let vm = 0;
                emitter.sample(Sample {
                    vm,
                    interval,
                    values,
                })?;
            }
        }
        let pages = vm.page_writes.as_ref();
        let pages = pages.and_then(|name| bundle.page_writes.remove(name));
        emitter.end_vm(vm, pages, true)?;
    }
    let vms = emitter.vms();
    if vms == 0 {
        return Err(ImportError::new(path, 0, ImportErrorKind::NoneWanted).into());
    }
    let manifest = bundle.manifest;
    for text in manifest.warnings {
        let kind = WarningKind::OfBundle { text };
        emitter.warnings.push(Warning {
            file: path.to_path_buf(),
            kind,
        });
    }
    let (counts, warnings, metrics) = emitter.finish(path);
    Ok(Streamed {
        format: Format::Bundle,
        vms,
        time_origin: manifest.time_origin,
        sampling: manifest.sampling,
        metrics,
        derived: Vec::new(),
        warnings,
        counts,
        options: BTreeMap::new(),
    })
}
