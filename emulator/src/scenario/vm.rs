//! A VM of a scenario: what it asks of its host, what it writes, what its pages hold.

use crate::ids::HostId;
use serde::{Deserialize, Serialize};
use traces::class::{PageClass, PhasedClasses};
use traces::content::ContentProfile;
use traces::resample::Resample;
use traces::synth::Marginal;

/// An emulated VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Unique name.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Share weight under contention.
    pub weight: u32,
    /// RAM, bytes; a multiple of 4 KiB.
    pub ram_bytes: u64,
    /// Bytes that are not zero from the start, beyond the pages its behaviour writes.
    pub resident_bytes: u64,
    /// How many of them lie at the top of RAM.
    #[serde(default)]
    pub resident_high_bytes: u64,
    /// CPU demand: of all vCPUs together, or one entry for each.
    pub cpu: Vec<CpuDemand>,
    /// Page writes.
    pub writes: WriteSource,
    /// What its pages hold.
    #[serde(default)]
    pub content: ContentProfile,
    /// Whether its RAM is really there.
    #[serde(default)]
    pub memory: Backing,
    /// The VM starts this far into its traces.
    pub offset_ns: u64,
    /// What happens to demand that is not served at once.
    pub work: Work,
    /// Where it starts.
    pub host: HostId,
}

/// CPU demand of a VM or of a vCPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CpuDemand {
    /// Where it comes from.
    pub source: CpuSource,
    /// Multiplies it, in thousandths (1000 = as recorded).
    pub scale_milli: u32,
    /// What it does within the trace's intervals.
    pub resample: Resample,
    /// In steps of this length, when it is not held.
    pub resolution_ns: u64,
}

impl CpuDemand {
    /// The same for ever, in thousandths of a core.
    #[must_use]
    pub fn constant(milli: u32) -> Self {
        Self {
            source: CpuSource::Constant(milli),
            scale_milli: 1000,
            resample: Resample::Hold,
            resolution_ns: Self::RESOLUTION_NS,
        }
    }

    /// A second: the length of the finest series that clusters keep.
    pub const RESOLUTION_NS: u64 = traces::units::NS_PER_S;

    /// The trace it is replayed from.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        match &self.source {
            CpuSource::Trace(name) => Some(name),
            CpuSource::Constant(_) => None,
        }
    }
}

/// What stands behind a VM's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Nothing: pages are computed as they are sent.
    #[default]
    Synthetic,
    /// Memory of this computer, written by a thread a vCPU.
    Resident,
}

/// Where CPU demand comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuSource {
    /// The CPU column of a trace.
    Trace(String),
    /// The same for ever, thousandths of a core.
    Constant(u32),
}

/// Where page writes come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteSource {
    /// None.
    Idle,
    /// The recorded sets of pages of a trace, looped over its steady part.
    Pages(String),
    /// One class set fitted to the load phase of a page-level recording when the scenario is resolved.
    Fitted(String),
    /// A class set fitted to each phase of a page-level recording.
    FittedPhases(String),
    /// The form that fits a page-level recording best out of sample.
    FittedBest(String),
    /// Classes as given.
    Classes(Vec<PageClass>),
    /// Phases as given, or one class set with its variation.
    Phases(PhasedClasses),
    /// Nothing was recorded: by the rules of docs/synthesis.md.
    Profile(ProfileWrites),
}

/// What is fitted to a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FittedForm {
    /// One class set.
    #[default]
    OneSet,
    /// A class set a phase.
    Phases,
    /// What `trace stats` calls the form to use.
    Best,
}

impl FittedForm {
    /// The source of a form of a trace.
    #[must_use]
    pub fn of(self, trace: String) -> WriteSource {
        match self {
            Self::OneSet => WriteSource::Fitted(trace),
            Self::Phases => WriteSource::FittedPhases(trace),
            Self::Best => WriteSource::FittedBest(trace),
        }
    }
}

impl WriteSource {
    /// The trace something is fitted to, and what.
    #[must_use]
    pub fn fitted(&self) -> Option<(&str, FittedForm)> {
        match self {
            Self::Fitted(trace) => Some((trace, FittedForm::OneSet)),
            Self::FittedPhases(trace) => Some((trace, FittedForm::Phases)),
            Self::FittedBest(trace) => Some((trace, FittedForm::Best)),
            Self::Idle | Self::Pages(_) | Self::Classes(_) | Self::Phases(_) | Self::Profile(_) => {
                None
            }
        }
    }
}

/// Completion of a VM by a built-in profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProfileWrites {
    /// A name of `traces::profile`.
    pub profile: String,
    /// How much VMs write.
    pub marginal: Marginal,
    /// Touched memory; `None`: as the VM's trace says, else drawn.
    pub used_bytes: Option<u64>,
    /// Seed of what is drawn: not the scenario's, so that one fleet can be run with many seeds.
    pub seed: u64,
}

/// What becomes of demand beyond what is granted (replay::backlog has the arithmetic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Bounded backlog, drained when there is CPU to spare.
    #[default]
    Service,
    /// The trace stretches.
    Batch,
    /// Page writes follow trace time whatever the guest is granted.
    Open,
}
