//! Our own bundle as a source: for exports, tables of contents, and everything that takes a trace.

use std::collections::BTreeMap;
use std::path::Path;

use super::output::{Emitter, Output};
use super::{Format, ImportError, ImportErrorKind, ImportOptions, StreamError, Streamed};
use super::{Warning, WarningKind};
use crate::class::{PageClass, Variation};
use crate::store::bundle::{Bundle, BundleError, BundleScan, ScanError, VmMeta};
use crate::synth::Choices;
use crate::units::Provenance;

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

/// What a bundle says of how a VM writes.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleProfile {
    /// The classes of its dirty profile.
    pub classes: Vec<PageClass>,
    /// Short-term variation of their rates, where the VM's tags say what completed it.
    pub variation: Option<Variation>,
    /// How they came to be.
    pub provenance: Provenance,
}

/// How a column of a bundle came to be; `None` where the path is no bundle or it does not say.
#[must_use]
pub fn bundle_column(path: &Path, table_and_column: &str) -> Option<Provenance> {
    let scan = BundleScan::open(path).ok()?;
    Some(scan.manifest.columns.get(table_and_column)?.provenance)
}

/// The dirty profile of a VM of a bundle; `None` where the path is no bundle or the VM has none.
///
/// # Errors
/// When the bundle is damaged.
pub fn bundle_profile(
    path: &Path,
    vm: &super::ImportedVm,
) -> Result<Option<BundleProfile>, ImportError> {
    if !is_bundle(path) {
        return Ok(None);
    }
    let bundle = Bundle::read(path)
        .map_err(|error| ImportError::new(path, 0, ImportErrorKind::Bundle(Box::new(error))))?;
    let named = bundle.vms.iter().find(|other| other.name == vm.meta.name);
    let profile = named.and_then(|vm| vm.dirty_profile);
    let classes = profile.and_then(|number| bundle.dirty_profiles.get(&number));
    let manifest = &bundle.manifest;
    let note = manifest.columns.get("dirty_profiles.parquet:pages");
    // Tags are anybody's; only those of a completion are such a document.
    let choices = named
        .and_then(|vm| vm.tags.as_ref())
        .and_then(|tags| serde_json::from_str::<Choices>(tags).ok());
    Ok(classes.map(|classes| BundleProfile {
        classes: classes.clone(),
        variation: choices.map(|choices| choices.variation),
        provenance: note.map_or(Provenance::Derived, |note| note.provenance),
    }))
}
