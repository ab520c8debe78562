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
#[cfg(test)]
mod writes_tests;

pub use explain::explain;
pub use link_trace::LinkTraceError;
pub use problem::{NetworkProblem, Problem, ProblemKind, Problems, ScenarioError};

use crate::ids::{HostId, VmId};
use crate::migration::faults::PlannedFault;
use crate::migration::params::MigrationParams;
use crate::orchestrator::OrchestratorSpec;
use netmodel::backend::{BackendKind, CannotCarry};
use netmodel::link::LinkSpec;
use netmodel::schedule::Schedule;
use netmodel::topology::{Link, Topology};
use netmodel::units::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use traces::class::{PageClass, PhasedClasses};
use traces::content::ContentProfile;
use traces::resample::Resample;
use traces::synth::Marginal;

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

/// An end of a tenant flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// A VM, on whichever host it is.
    Vm(VmId),
    /// Whoever is outside: [`NetworkSpec::internet`], which is there when a flow names it.
    Internet,
}

/// A tenant flow; one of its ends at least is a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSpec {
    /// Sends.
    pub from: Endpoint,
    /// Receives.
    pub to: Endpoint,
    /// Bits a second of payload; `None` is elastic: as much as TCP gives.
    pub rate_bps: Option<u64>,
}

/// Requests that a VM answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique name.
    pub name: String,
    /// The VM that answers.
    pub server: VmId,
    /// Who asks.
    pub client: Endpoint,
    /// When.
    pub arrivals: Arrivals,
    /// Most requests under way at once; in closed loop, as many as there are.
    pub connections: u32,
    /// Bytes of a request.
    pub request_bytes: u32,
    /// Bytes of an answer.
    pub response_bytes: u32,
    /// CPU time a request takes of the server, of a reference core.
    pub cpu_ns: u64,
}

/// Echo requests to a VM's address, from a host or from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// The VM.
    pub vm: VmId,
    /// The host that asks; the one that stands for the Internet, too.
    pub from: HostId,
    /// From one request to the next, ns.
    pub interval_ns: u64,
}

/// When requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// Whatever becomes of those before, at random: a Poisson process of so many a thousand
    /// seconds.
    Poisson {
        /// Thousandths of a request a second.
        rate_milli: u64,
    },
    /// The same, evenly.
    Paced {
        /// Thousandths of a request a second.
        rate_milli: u64,
    },
    /// On each connection so long after the answer to the one before.
    Closed {
        /// ns.
        think_ns: u64,
    },
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Backend asked for; `None` is `auto`, any that can carry every link.
    pub backend: Option<BackendKind>,
    /// Hosts, by [`HostId`], switches and the links between them.
    pub topology: Topology,
    /// The host of the topology that stands for everything outside. It comes after all hosts of the scenario, so its
    /// number is how many those are: no VM is ever on it, no balancer sees it.
    pub internet: Option<HostId>,
    /// How links change.
    pub schedule: Schedule,
    /// Congestion control of every socket.
    pub congestion: String,
    /// What every socket's send buffer is before TCP has tuned it; `None` is Linux's 16 KiB.
    #[serde(default)]
    pub send_buffer: Option<ByteSize>,
}

impl NetworkSpec {
    /// The links a transfer crosses.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> Vec<&Link> {
        let path = self.topology.path(net_host(from), net_host(to));
        path.into_iter().map(|id| self.topology.link(id)).collect()
    }

    /// The first link, or change of one, that a backend cannot carry.
    ///
    /// # Errors
    /// With what the link asks that the backend cannot do.
    pub fn check(&self, backend: BackendKind) -> Result<(), CannotCarry> {
        backend.check_all(&self.topology)?;
        let mut changes = self.schedule.changes().iter();
        changes.try_for_each(|change| {
            let name = &self.topology.link(change.link).name;
            backend.check(name, &change.spec)
        })
    }

    /// The backend asked for, as scenarios spell it.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.backend.map_or("auto", BackendKind::name)
    }

    /// Name of a host of the network that stands for no emulated host.
    #[must_use]
    pub fn outside_name(&self, host: HostId) -> Option<&'static str> {
        (self.internet == Some(host)).then_some(INTERNET)
    }

    /// Out of a host.
    #[must_use]
    pub fn up(&self, host: HostId) -> &LinkSpec {
        &self.topology.uplink(net_host(host)).spec
    }

    /// Into a host.
    #[must_use]
    pub fn down(&self, host: HostId) -> &LinkSpec {
        &self.topology.downlink(net_host(host)).spec
    }
}

/// Name of the host that stands for everything outside, and of that end of a tenant flow.
pub const INTERNET: &str = "internet";

/// A host as the network numbers it.
#[must_use]
pub fn net_host(host: HostId) -> netmodel::topology::HostId {
    netmodel::topology::HostId(host.0)
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

/// A scenario that can be run, and its traces.
#[derive(Debug)]
pub struct Loaded {
    /// At full size; [`scale::apply`] gives what is carried.
    pub scenario: Scenario,
    /// Its traces, at full size.
    pub inputs: inputs::Inputs,
}

/// Longest text taken for a scenario: a thousand times what one is, and read into memory whole.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Reads and checks a scenario file and every trace it names. A scenario that loads can be run.
///
/// # Errors
/// With everything wrong with it that can be found at once, each with file, line and spot.
pub fn load(path: &Path) -> Result<Loaded, ScenarioError> {
    let text = read_text(path)?;
    let check::Checked {
        mut scenario,
        mut spots,
    } = check::check(path, &text)?;
    let wrong = |list| ScenarioError::Wrong(Problems::new(path, &text, list));
    if let Some(events) = &mut spots.events {
        events.read_traces().map_err(wrong)?;
        events.resolve(&mut scenario.network).map_err(wrong)?;
    }
    let inputs = inputs::Inputs::load(&scenario).map_err(|errors| {
        let spot = |name: &str| spots.traces.get(name).cloned().unwrap_or(0..0);
        let problem = |(name, source): (String, inputs::InputError)| Problem {
            span: spot(&name),
            kind: ProblemKind::Trace { name, source },
        };
        wrong(errors.into_iter().map(problem).collect())
    })?;
    let mean = |name: &str| {
        inputs
            .get(name)
            .map(|input| input.cpu.mean_milli() / 1000.0)
    };
    check::settle_again(&mut scenario, &spots, mean).map_err(|problem| wrong(vec![*problem]))?;
    let unfit = inputs::unfit(&scenario, &inputs);
    if !unfit.is_empty() {
        let problem = |(vm, kind): (VmId, ProblemKind)| Problem {
            span: spots.vms.get(vm.index()).cloned().unwrap_or(0..0),
            kind,
        };
        return Err(wrong(unfit.into_iter().map(problem).collect()));
    }
    Ok(Loaded { scenario, inputs })
}

/// Checks the text of a scenario, without looking at the files it names. `path` is for messages and
/// for the folder that paths in it are relative to.
///
/// # Errors
/// With everything wrong with it that can be found at once.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    check::check(path, text).map(|checked| checked.scenario)
}

fn read_text(path: &Path) -> Result<String, ScenarioError> {
    let unreadable = |source| ScenarioError::Unreadable {
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, TEXT_BYTES_MAX + 1),
        &mut bytes,
    )
    .map_err(unreadable)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let (path, limit) = (path.into(), TEXT_BYTES_MAX);
        return Err(ScenarioError::TooLong {
            path,
            bytes: bytes.len() as u64,
            limit,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        ScenarioError::NotText {
            path: path.into(),
            line,
            offset,
        }
    })
}
