//! The bundle: a directory of VMs with what they used over time.
//!
//! `manifest.json`, `vms.parquet`, `samples.parquet`, if there are any `dirty_profiles.parquet`, and
//! page-write files in `pages/`. `docs/trace-format.md` lists every column. Written whole or not at
//! all; what was not recorded is null, never 0. Never inside: other people's formats.

mod error;
mod manifest;
mod read;
mod rows;
mod scan;
mod write;
mod writer;

use std::collections::BTreeMap;

pub use error::BundleError;
pub use manifest::{ColumnNote, FileEntry, Importer, Manifest, Sampling, TimeOrigin};
pub use read::Finding;
pub use scan::{BundleScan, ScanError};
pub use writer::{BundleImport, BundleWriter};

use crate::class::PageClass;
use crate::cpu::{CpuTrace, CpuTraceError};
use crate::dirty::PageWriteTrace;
use crate::import::{Imported, Streamed};
use crate::store::series::{GapFill, GapPolicy, Metric, Series};

/// The version of the format written, and the only one read.
pub const VERSION: u32 = 1;

pub(super) const MANIFEST: &str = "manifest.json";
const VMS: &str = "vms.parquet";
const SAMPLES: &str = "samples.parquet";
const PROFILES: &str = "dirty_profiles.parquet";
const PAGES: &str = "pages";

/// A VM, as a row of `vms.parquet`. What the source does not say is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmMeta {
    /// Number within the bundle.
    pub vm_id: u32,
    /// Name, for people.
    pub name: String,
    /// The source's own id, whatever characters it has.
    pub source_id: Option<String>,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// CPU capacity of the whole VM.
    pub cpu_capacity_mhz: Option<u32>,
    /// RAM.
    pub mem_bytes: Option<u64>,
    /// Disk.
    pub disk_bytes: Option<u64>,
    /// When it started; on the clock of the samples.
    pub start_ms: Option<i64>,
    /// When it stopped; `None` = still there at the end.
    pub stop_ms: Option<i64>,
    /// The source's label of the kind of load.
    pub class: Option<String>,
    /// The host it was on at first.
    pub host_initial: Option<String>,
    /// Anything else.
    pub tags: Option<String>,
    /// How it writes memory: a profile of [`Bundle::dirty_profiles`].
    pub dirty_profile: Option<u16>,
    /// How it writes memory: a file name in `pages/`, a key of [`Bundle::page_writes`].
    pub page_writes: Option<String>,
}

impl VmMeta {
    /// A VM of which only the name is known.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_string(),
            ..Self::default()
        }
    }
}

/// A bundle in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// What it is and where it comes from. Its `files` are made when it is written.
    pub manifest: Manifest,
    /// The VMs.
    pub vms: Vec<VmMeta>,
    /// Samples by `vm_id`.
    pub samples: BTreeMap<u32, Series>,
    /// Page classes by profile.
    pub dirty_profiles: BTreeMap<u16, Vec<PageClass>>,
    /// Page-level recordings by file name.
    pub page_writes: BTreeMap<String, PageWriteTrace>,
}

impl Bundle {
    /// Makes a bundle of an import.
    ///
    /// `licence` is the source's, as text: the importer cannot know it.
    #[must_use]
    pub fn from_import(imported: Imported, title: &str, source: &str, licence: &str) -> Self {
        let mut metrics: Vec<Metric> = imported
            .vms
            .iter()
            .flat_map(|vm| vm.series.metrics())
            .collect();
        metrics.sort_unstable();
        metrics.dedup();
        let streamed = Streamed {
            format: imported.format,
            vms: 0,
            time_origin: imported.time_origin,
            sampling: imported.sampling,
            metrics,
            derived: imported.derived,
            warnings: imported.warnings,
            counts: imported.counts,
            options: imported.options,
        };
        let manifest = Manifest::of_import(&streamed, title, source, licence);
        let mut bundle = Self {
            manifest,
            vms: Vec::new(),
            samples: BTreeMap::new(),
            dirty_profiles: BTreeMap::new(),
            page_writes: BTreeMap::new(),
        };
        for mut vm in imported.vms {
            if let Some(trace) = vm.page_writes {
                let file = format!("{}.mbpw", vm.meta.vm_id);
                bundle.page_writes.insert(file.clone(), trace);
                vm.meta.page_writes = Some(file);
            }
            bundle.samples.insert(vm.meta.vm_id, vm.series);
            bundle.vms.push(vm.meta);
        }
        bundle
    }

    /// A VM by number.
    #[must_use]
    pub fn vm(&self, vm_id: u32) -> Option<&VmMeta> {
        self.vms.iter().find(|vm| vm.vm_id == vm_id)
    }

    /// CPU demand of a VM from its first sample, gaps filled and counted.
    ///
    /// # Errors
    /// When the VM has no CPU samples.
    pub fn cpu_trace(
        &self,
        vm_id: u32,
        policy: GapPolicy,
    ) -> Result<(CpuTrace, GapFill), CpuTraceError> {
        self.samples
            .get(&vm_id)
            .ok_or(CpuTraceError::Empty)?
            .cpu_trace(policy)
    }

    /// The page-level recording of a VM, if it has one.
    #[must_use]
    pub fn page_write_trace(&self, vm_id: u32) -> Option<&PageWriteTrace> {
        self.page_writes.get(self.vm(vm_id)?.page_writes.as_ref()?)
    }
}
