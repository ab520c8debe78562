//! Between `migbed` and a machine.

use super::{FromAgent, ToAgent};
use crate::event::{LinkCalibration, LinkSample};
use crate::ids::{HostId, MigrationId, VmId};
use crate::migration::record::TcpSample;
use crate::scenario::{HostSpec, NetworkSpec};
use netmodel::backend::BackendKind;
use netmodel::capacity::{Capacity, Demand};
use netmodel::link::LinkSpec;
use netmodel::residual::Residuals;
use netmodel::residual::idle::PathIdle;
use netmodel::schedule::Patch;
use netmodel::topology::LinkId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `migbed` → `machine`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToMachine {
    /// First message: build this.
    Setup(Box<MachineSetup>),
    /// Pass on to an agent.
    Agent(HostId, Box<ToAgent>),
    /// Pass on to every agent, and to the processes of VMs.
    AllAgents(Box<ToAgent>),
    /// Give a VM an address of its own and a process that answers and asks there; its `SetUp` says when.
    OpenPort {
        /// Which.
        vm: VmId,
        /// Where it runs.
        host: HostId,
    },
    /// Pass on to a VM's process.
    Vm(VmId, Box<ToAgent>),
    /// Answer with [`FromMachine::Links`].
    SampleLinks,
    /// Watch the links of a migration that begins now; its source's `SourceDone` ends that.
    Watch {
        /// Number.
        migration: MigrationId,
        /// The links its bytes cross, in their order.
        path: Vec<LinkId>,
        /// Those its acknowledgements cross.
        back: Vec<LinkId>,
    },
    /// Answer with [`FromMachine::Watched`]: the migration is over.
    Unwatch {
        /// Number.
        migration: MigrationId,
        /// When its source was sending, if it got as far.
        sending: Option<Box<Sending>>,
    },
    /// Do this to hosts or links, answer with [`FromMachine::Struck`].
    Strike {
        /// Number of the fault.
        fault: u32,
        /// What.
        blow: Blow,
    },
    /// Answer with [`FromMachine::Drained`] once no packet is queued or in flight.
    Drain,
    /// Audit the network, answer with [`FromMachine::Audited`].
    Audit,
    /// End everything and go.
    Shutdown,
}

/// What the machine does to hosts and links.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Blow {
    /// A host loses power: its links carry nothing and nothing of it runs any more; after the
    /// silence its process is gone.
    PowerLoss {
        /// Which.
        host: HostId,
        /// Its links.
        links: Vec<LinkId>,
        /// How long nothing tells that it is gone, ns.
        silence_ns: u64,
    },
    /// Links are different, or carry nothing.
    Links {
        /// Which.
        links: Vec<LinkId>,
        /// How; `None`: they carry nothing.
        patch: Option<Box<Patch>>,
        /// Until so long after, ns.
        restored_after_ns: Option<u64>,
    },
}

/// What a machine is to build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineSetup {
    /// [`PROTOCOL`](super::PROTOCOL).
    pub protocol: u16,
    /// Emulated hosts.
    pub hosts: Vec<HostSpec>,
    /// Their network.
    pub network: NetworkSpec,
    /// Folder with the run's traces, in our own formats.
    pub inputs: PathBuf,
    /// Seed of the scenario.
    pub seed: u64,
    /// Space scale the scenario's sizes were divided by.
    pub divided_by: u32,
    /// Whether to load every link before the run and compare it with its spec.
    pub calibrate: bool,
    /// What carries the network.
    pub backend: BackendKind,
    /// What may be on the wire at once: before anything is built, measure what this computer
    /// carries and answer with [`FromMachine::Capacity`].
    pub demand: Option<Demand>,
    /// Whether a host is a process, or a network namespace alone.
    pub agents: bool,
}

/// `machine` → `migbed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromMachine {
    /// First message.
    Hello {
        /// [`PROTOCOL`](super::PROTOCOL).
        protocol: u16,
        /// The machine's process as its parent sees it.
        pid: u32,
    },
    /// What it is doing, for the progress line.
    Progress(String),
    /// What this computer carries.
    Capacity(Box<Capacity>),
    /// Everything is built and measured.
    Ready(Box<MachineReady>),
    /// An agent says.
    Agent(HostId, Box<FromAgent>),
    /// An agent's process has gone, unasked.
    AgentLost(HostId),
    /// A VM's process says.
    Vm(VmId, Box<FromAgent>),
    /// Counters of every link direction.
    Links(Vec<LinkSample>),
    /// Links that were changed, as the schedule asks.
    LinksChanged(Vec<LinkChange>),
    /// What was seen of a migration's path; nothing, if it was not watched.
    Watched(MigrationId, Option<Box<PathSeen>>),
    /// A fault is in effect.
    Struck {
        /// Number.
        fault: u32,
        /// Since when, monotonic ns.
        at_ns: u64,
    },
    /// No packet is queued or in flight.
    Drained,
    /// Findings of the audit.
    Audited(Vec<AuditFinding>),
    /// The machine cannot go on.
    Failed {
        /// The chain of errors.
        message: String,
        /// A capability is missing (exit 3).
        missing_capability: bool,
    },
}

/// What was built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineReady {
    /// Asked against got, by link direction.
    pub calibration: Vec<LinkCalibration>,
    /// What the audit of the measurement itself found.
    pub findings: Vec<AuditFinding>,
    /// Data address of every host.
    pub addresses: Vec<SocketAddr>,
    /// Things to read before trusting the numbers.
    pub warnings: Vec<String>,
    /// What it took.
    pub built: Built,
}

/// What a network took to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Built {
    /// From the first message until links could carry, ns.
    pub build_ns: u64,
    /// Measuring links, ns.
    pub calibrate_ns: u64,
    /// Memory of the machine and its agents that no other process shares, bytes.
    pub unique_bytes: u64,
    /// How much less memory the computer had to give afterwards, the kernel's part included.
    pub taken_bytes: u64,
}

/// A link was changed in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkChange {
    /// By name.
    pub link: String,
    /// What it is now.
    pub spec: LinkSpec,
    /// Trace instant of the change, or of the landing of the jump that passed it.
    pub trace_ns: u64,
    /// The same on the monotonic clock.
    pub due_ns: u64,
    /// How much later it was done.
    pub late_ns: u64,
}

/// The time in which a source had something to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    /// From, monotonic ns.
    pub from_ns: u64,
    /// To, monotonic ns.
    pub to_ns: u64,
    /// Its connection's state in this time.
    pub tcp: Vec<TcpSample>,
}

/// What was seen of a migration's path while it was under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathSeen {
    /// Its links, in the order its bytes cross them.
    pub links: Vec<LinkSeen>,
    /// Where its time went; nothing, if no link of its path has a rate.
    pub idle: Option<PathIdle>,
    /// How often its links were sampled while its source was sending.
    pub samples: u32,
    /// How late packets left links of the whole fabric from its begin to its source's end, mean.
    pub late_mean_ns: f64,
    /// 99th percentile.
    pub late_p99_ns: u64,
    /// Maximum.
    pub late_max_ns: u64,
    /// From its begin to its source's end.
    pub span_ns: u64,
    /// How long the relay waited for a CPU in it, if the kernel tells.
    pub run_delay_ns: Option<u64>,
    /// Share of this computer's CPU time in it that was stolen from below, if the kernel tells.
    pub steal_share: Option<f64>,
}

/// A link of a migration's path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSeen {
    /// By name.
    pub link: String,
    /// Errors of its rate.
    pub residuals: Residuals,
}

/// Something the audit of the network found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFinding {
    /// `A` (worth knowing), `B`, `C`, `invalid`.
    pub grade: String,
    /// What.
    pub message: String,
}
