//! Other people's traces, read into ours.
//!
//! Two entry points: [`import_stream`] hands samples to an [`Output`] in bounded memory, whatever the
//! size of the trace; [`import_path`] keeps them. Files or directories, plain, gzip or zstd, their
//! format found from what is in them. Every error carries the file, the line and what was expected.
//! Never inside: guesses about data the source does not have.

mod alibaba2017;
mod alibaba2018;
mod azure;
mod bitbrains;
mod choose;
mod csv;
mod domstats;
mod error;
mod files;
mod format;
mod google2011;
mod google2019;
mod huawei;
mod intake;
mod lines;
mod memory;
mod migration;
mod native;
pub use native::{BundleProfile, bundle_column, bundle_profile};
mod opendc;
mod output;
mod packing;
mod planetlab;
mod progress;
mod qemu;
mod recorded;
mod stream;
mod tidy;
mod warning;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use csv::{Mapping, MappingError};
pub use error::{ImportError, ImportErrorKind, OutputError, StreamError};
pub use format::{Format, detect};
pub use memory::{import_path, import_paths};
pub use migration::migration_logs;
pub use output::Output;
pub use progress::Progress;
pub use stream::{Streamed, import_stream};
pub use warning::{Warning, WarningKind};

use crate::cpu::CpuTrace;
use crate::dirty::PageWriteTrace;
use crate::store::bundle::{Sampling, TimeOrigin, VmMeta};
use crate::store::series::{GapFill, GapPolicy, Series};

/// What an import is told.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The format; found from the content when `None`.
    pub format: Option<Format>,
    /// For gaps in CPU demand.
    pub gaps: GapPolicy,
    /// What normalised values stand for.
    pub units: Units,
    /// Columns of plain CSV.
    pub mapping: Option<Mapping>,
    /// Only VMs with these ids (the source's, or the name of the file).
    pub only: Option<BTreeSet<String>>,
    /// Told how far the import is, and asked whether to stop.
    pub progress: Arc<Progress>,
}

/// What 1.0 (or 100 %) of a normalised source stands for. `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Units {
    /// Cores of the machine that counts as 1.
    pub cores: Option<f64>,
    /// Bytes of memory of the machine that counts as 1.
    pub mem_bytes: Option<f64>,
    /// Bytes of one unit of a network counter.
    pub net_bytes: Option<f64>,
}

impl ImportOptions {
    fn wants(&self, id: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(id))
    }

    /// The options that bear on the numbers, for the manifest.
    fn stated(&self) -> BTreeMap<String, String> {
        let mut stated = BTreeMap::new();
        let mut state = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                stated.insert(key.to_string(), value);
            }
        };
        let text = |value: f64| value.to_string();
        state("unit_cores", self.units.cores.map(text));
        state("unit_mem_bytes", self.units.mem_bytes.map(text));
        state("unit_net_bytes", self.units.net_bytes.map(text));
        state("map", self.mapping.as_ref().map(ToString::to_string));
        state(
            "vms",
            self.only
                .as_ref()
                .map(|only| format!("{} chosen", only.len())),
        );
        stated
    }
}

/// One VM of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedVm {
    /// What the source says of it.
    pub meta: VmMeta,
    /// CPU demand from its first sample, without gaps.
    pub cpu: CpuTrace,
    /// What was filled to get there.
    pub cpu_fill: GapFill,
    /// Everything sampled, gaps left as they are.
    pub series: Series,
    /// The pages it wrote, if the source is a page-level recording.
    pub page_writes: Option<PageWriteTrace>,
}

/// What an import gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What was read.
    pub format: Format,
    /// The VMs; at least one.
    pub vms: Vec<ImportedVm>,
    /// What `t_ms` counts from.
    pub time_origin: TimeOrigin,
    /// What a sample is.
    pub sampling: Sampling,
    /// Columns that were computed rather than read, with how.
    pub derived: Vec<(&'static str, &'static str)>,
    /// To be read before trusting the numbers.
    pub warnings: Vec<Warning>,
    /// Sums over all files.
    pub counts: ImportCounts,
    /// The options that bear on the numbers.
    pub options: BTreeMap<String, String>,
}

/// Sums over all files of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportCounts {
    /// Files read.
    pub files: u64,
    /// Samples kept.
    pub samples: u64,
    /// Samples that were dropped because a later line has the same time.
    pub duplicates: u64,
    /// Stretches without samples.
    pub gaps: u64,
    /// Their length together.
    pub gap_ms: u64,
    /// Samples above the stated capacity (kept, flagged).
    pub over_capacity: u64,
}

/// What a reader of one file gives.
struct Part {
    meta: VmMeta,
    series: Series,
    page_writes: Option<PageWriteTrace>,
    time_origin: TimeOrigin,
    duplicates: u64,
    warnings: Vec<WarningKind>,
}
