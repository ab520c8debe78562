//! Our own bundle as a source: for exports, tables of contents, and everything that takes a trace.

use std::collections::BTreeMap;
use std::path::Path;

use super::output::{Emitter, Output};
use super::{Format, ImportError, ImportErrorKind, ImportOptions, StreamError, Streamed};
use super::{Warning, WarningKind};
use crate::store::bundle::{BundleError, BundleScan, ScanError, VmMeta};

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
    let failed = |error: BundleError| {
        StreamError::from(ImportError::new(
            path,
            0,
            ImportErrorKind::Bundle(Box::new(error)),
        ))
    };
    let scan = BundleScan::open(path).map_err(failed)?;
    let mut emitter = Emitter::new(out, options.progress.clone());
    emitter.counts.files = 1;
    let wanted = |vm: &VmMeta| {
        options.wants(&vm.name) || vm.source_id.as_ref().is_some_and(|id| options.wants(id))
    };
    let mut at = 0;
    let end_until = |until: u64, at: &mut usize, emitter: &mut Emitter<'_>| {
        while let Some(vm) = scan.vms.get(*at).filter(|vm| u64::from(vm.vm_id) < until) {
            *at += 1;
            if !wanted(vm) {
                continue;
            }
            let pages = vm.page_writes.as_ref();
            let pages = pages.map(|name| scan.page_writes(name)).transpose();
            emitter.end_vm(vm.clone(), pages.map_err(failed)?, true)?;
        }
        Ok::<_, StreamError>(())
    };
    let read = scan.samples(|sample| {
        end_until(u64::from(sample.vm), &mut at, &mut emitter)?;
        if scan.vms.get(at).is_some_and(wanted) {
            emitter.sample(sample)?;
        }
        Ok::<_, StreamError>(())
    });
    read.map_err(|error| match error {
        ScanError::Bundle(error) => failed(error),
        ScanError::Taker(error) => error,
    })?;
    end_until(u64::MAX, &mut at, &mut emitter)?;
    let vms = emitter.vms();
    if vms == 0 {
        return Err(ImportError::new(path, 0, ImportErrorKind::NoneWanted).into());
    }
    for text in &scan.manifest.warnings {
        let kind = WarningKind::OfBundle { text: text.clone() };
        emitter.warnings.push(Warning {
            file: path.to_path_buf(),
            kind,
        });
    }
    let (counts, warnings, metrics) = emitter.finish(path);
    Ok(Streamed {
        format: Format::Bundle,
        vms,
        time_origin: scan.manifest.time_origin,
        sampling: scan.manifest.sampling,
        metrics,
        derived: Vec::new(),
        warnings,
        counts,
        options: BTreeMap::new(),
    })
}
