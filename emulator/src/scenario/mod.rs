//! What to run: the checked scenario. Everything in here is valid; later code never re-checks.
//!
//! Inside: the values a run needs, resolved and in base units. Never inside: text, spans, files
//! (`raw` and `check` turn a TOML file into this, once, and point at what is wrong with it).

mod check;
#[cfg(test)]
mod demand_tests;
mod explain;
#[cfg(test)]
mod fault_tests;
pub mod inputs;
mod link_trace;
mod load;
mod network;
#[cfg(test)]
mod network_tests;
pub mod origin;
mod problem;
mod raw;
pub mod scale;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
mod traffic;
mod vm;
#[cfg(test)]
mod writes_tests;

pub use explain::explain;
pub use link_trace::LinkTraceError;
pub use load::{Loaded, load, parse};
pub use network::{INTERNET, NetworkSpec, net_host};
pub use problem::{NetworkProblem, Problem, ProblemKind, Problems, ScenarioError};
pub use traffic::{Arrivals, Endpoint, FlowSpec, ProbeSpec, ServiceSpec};
pub use vm::{Backing, CpuDemand, CpuSource, FittedForm, ProfileWrites, VmSpec, Work, WriteSource};

use crate::ids::{HostId, VmId};
use crate::migration::faults::PlannedFault;
use crate::migration::params::MigrationParams;
use crate::orchestrator::OrchestratorSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A scenario that can be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// For people; also the default name of the run directory.
    pub name: String,
    /// Everything random is drawn from this.
    pub seed: u64,
    /// Space scale k: bytes, pages and rates are divided by it, times are not.
    pub scale: u32,
    /// What the sizes in here have been divided by: 1 as the scenario is written, k after
    /// [`scale::apply`].
    pub divided_by: u32,
    /// How trace time follows wall time.
    pub pace: Pace,
    /// Length of the run in trace time.
    pub duration_ns: u64,
    /// Traces by name, as the scenario declares them.
    pub traces: BTreeMap<String, TraceSource>,
    /// Emulated hosts; the index is the [`HostId`].
    pub hosts: Vec<HostSpec>,
    /// Emulated VMs; the index is the [`VmId`].
    pub vms: Vec<VmSpec>,
    /// Tenant flows; the index is the `FlowId`.
    pub flows: Vec<FlowSpec>,
    /// Services; the index is the `ServiceId`.
    pub services: Vec<ServiceSpec>,
    /// Who asks VMs' addresses whether they are there.
    #[serde(default)]
    pub probes: Vec<ProbeSpec>,
    /// The network.
    pub network: NetworkSpec,
    /// The balancer.
    pub balancer: BalancerSpec,
    /// Migrations asked for by the scenario itself, by trace instant.
    pub migrations: Vec<PlannedMigration>,
    /// How VMs are migrated.
    pub migration: MigrationParams,
    /// Who has patience with migrations.
    #[serde(default)]
    pub orchestrator: OrchestratorSpec,
    /// What is done to migrations under way.
    #[serde(default)]
    pub faults: Vec<PlannedFault>,
}

/// How trace time follows the machine's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// Slope 1 throughout.
    Real,
    /// Slope 1 while anything real is on the wire; jumps from event to event otherwise.
    #[default]
    Warp,
}

/// Where a trace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSource {
    /// The file or directory, resolved against the scenario's folder.
    pub path: PathBuf,
    /// Format by name, or detected from the content.
    pub format: Option<String>,
    /// Which VM of a file that holds several: its name in the file. `None`: the first.
    pub vm: Option<String>,
}

/// An emulated physical machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Unique name.
    pub name: String,
    /// Cores.
    pub cores: u32,
    /// Speed of a core, in thousandths of the reference core that demand is stated in.
    pub speed_milli: u32,
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// RAM of VMs that is admitted, in thousandths of `ram_bytes`.
    pub ram_overcommit_milli: u32,
    /// vCPUs that are admitted, in thousandths of `cores`; `None`: any number.
    pub cpu_overcommit_milli: Option<u32>,
}

impl HostSpec {
    /// A host of reference cores that admits as much RAM as it has, and any number of vCPUs.
    #[must_use]
    pub fn new(name: impl Into<String>, cores: u32, ram_bytes: u64) -> Self {
        Self {
            name: name.into(),
            cores,
            speed_milli: 1000,
            ram_bytes,
            ram_overcommit_milli: 1000,
            cpu_overcommit_milli: None,
        }
    }

    /// RAM of VMs that is admitted, in whole pages.
    #[must_use]
    pub fn admitted_bytes(&self) -> u64 {
        crate::cluster::host_spec(self).admitted_pages() * traces::units::PAGE_SIZE
    }

    /// vCPUs that are admitted, if there is a limit.
    #[must_use]
    pub fn admitted_vcpus(&self) -> Option<u64> {
        crate::cluster::host_spec(self).admitted_vcpus()
    }

    /// What its cores come to, in thousandths of the reference core.
    #[must_use]
    pub fn capacity_milli(&self) -> u64 {
        u64::from(self.cores) * u64::from(self.speed_milli)
    }
}

/// The balancer and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalancerSpec {
    /// `none`, `equalise`, `thr-mmt`.
    pub policy: String,
    /// Between two decisions, trace time.
    pub interval_ns: u64,
    /// Loads are averaged over this long before a decision.
    pub window_ns: u64,
    /// Options of the policy, by name.
    pub options: BTreeMap<String, f64>,
    /// Migrations under way at once: whole cluster.
    pub parallel: u32,
    /// Migrations under way at once: out of or into one host.
    pub parallel_per_host: u32,
}

/// A migration the scenario asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMigration {
    /// When, trace time.
    pub at_ns: u64,
    /// Which.
    pub vm: VmId,
    /// Where to.
    pub destination: HostId,
}
