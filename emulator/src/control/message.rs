//! The messages. Postcard in length-delimited frames; the first message of each side says the
//! protocol version, and a peer of another version is refused.

use crate::event::{HostSample, LinkCalibration, LinkSample, VmSample};
use crate::ids::{FlowId, HostId, MigrationId, ProbeId, ServiceId, VmId};
use crate::migration::faults::{End, Hold, ParameterChange};
use crate::migration::ownership::DestinationSide;
use crate::migration::params::MigrationParams;
use crate::migration::record::{DestinationReport, Phase, SourceReport, TcpSample};
use crate::scenario::{HostSpec, NetworkSpec, ServiceSpec, VmSpec};
use netmodel::backend::BackendKind;
use netmodel::capacity::{Capacity, Demand};
use netmodel::link::LinkSpec;
use netmodel::residual::Residuals;
use netmodel::residual::idle::PathIdle;
use netmodel::schedule::Patch;
use netmodel::topology::LinkId;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Version of these messages.
pub const PROTOCOL: u16 = 6;

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
    /// [`PROTOCOL`].
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
        /// [`PROTOCOL`].
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

/// To an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToAgent {
    /// First message.
    Setup(Box<AgentSetup>),
    /// First message of a VM's process.
    BeVm(Box<VmSetup>),
    /// To a VM's process: the VM runs on this host now, or is paused.
    RunsAt(Option<HostId>),
    /// A VM of this host, at the start of the run.
    Place(Box<VmPlacement>),
    /// Go to this trace instant (nothing real is on the wire) and answer [`FromAgent::Sampled`].
    Advance {
        /// Number of the request.
        seq: u64,
        /// Trace ns.
        to_trace_ns: u64,
    },
    /// A span of time begins.
    Go {
        /// Number, from 1.
        number: u64,
        /// Slope 1 or 0.
        run: bool,
        /// Monotonic instant.
        at_ns: u64,
        /// Trace time at that instant.
        trace_ns: u64,
    },
    /// Answer [`FromAgent::Sampled`] with what happened up to now.
    Sample {
        /// Number of the request.
        seq: u64,
        /// Monotonic instant up to which to sample.
        at_ns: u64,
    },
    /// Listen for a migration; answer [`FromAgent::IncomingReady`].
    PrepareIncoming {
        /// Number.
        migration: MigrationId,
        /// The VM that will come.
        vm: Box<VmPlacement>,
        /// Its parameters.
        params: Box<MigrationParams>,
        /// Where it comes from.
        source: HostId,
        /// Where its thread is held.
        holds: Vec<Hold>,
    },
    /// Send a VM.
    StartMigration {
        /// Number.
        migration: MigrationId,
        /// Which.
        vm: VmId,
        /// Where the destination listens.
        to: SocketAddr,
        /// With what.
        params: Box<MigrationParams>,
        /// Which host that is.
        destination: HostId,
        /// Where its thread is held.
        holds: Vec<Hold>,
    },
    /// Stop a migration this agent is the source of.
    CancelMigration(MigrationId),
    /// `migrate-set-parameters`, at the source.
    SetParameters {
        /// Number.
        migration: MigrationId,
        /// What.
        change: ParameterChange,
    },
    /// Stop the guest at the source, let the migration go on.
    SuspendGuest(MigrationId),
    /// `migrate-start-postcopy`, at the source.
    StartPostcopy(MigrationId),
    /// Answer [`FromAgent::Progress`], at the source.
    QueryMigration(MigrationId),
    /// The destination's host is dead: no word will come from it.
    DestinationGone(MigrationId),
    /// A fault of this host's end; answer [`FromAgent::Struck`].
    Strike {
        /// Number of the fault.
        fault: u32,
        /// Of which migration.
        migration: MigrationId,
        /// At which end.
        end: End,
        /// What.
        blow: AgentBlow,
    },
    /// The fault for which a thread is held is in effect.
    GoOn {
        /// Of which migration.
        migration: MigrationId,
        /// Number of the fault.
        fault: u32,
    },
    /// Answer [`FromAgent::Holding`]: the manager knows nothing any more.
    TellHolding,
    /// The destination is not going to get this migration: stop listening.
    AbandonIncoming(MigrationId),
    /// The source's doubt is settled: did the destination commit?
    Resolve {
        /// Number.
        migration: MigrationId,
        /// Whether the destination runs the guest.
        committed: bool,
    },
    /// Listen for a tenant flow; answer [`FromAgent::SinkReady`].
    OpenSink {
        /// Which.
        flow: FlowId,
        /// Whose: while it is paused here nothing is received.
        vm: Option<VmId>,
    },
    /// Send a tenant flow.
    OpenFlow {
        /// Which.
        flow: FlowId,
        /// Where its sink listens.
        to: SocketAddr,
        /// Whose: while it is paused here nothing is sent.
        vm: Option<VmId>,
        /// Payload bit/s, or as much as TCP gives.
        rate_bps: Option<u64>,
        /// When its schedule began, monotonic ns: what is due before now is not sent.
        since_ns: u64,
    },
    /// Stop sending or receiving a flow; the sink answers [`FromAgent::FlowClosed`].
    CloseFlow(FlowId),
    /// Answer a service's requests for a VM; answer [`FromAgent::ServerReady`].
    OpenServer {
        /// Which.
        service: ServiceId,
        /// Whose CPU serves them.
        vm: VmId,
    },
    /// Ask a service; what was answered comes with samples and at the end, as
    /// [`FromAgent::Answered`].
    OpenClient {
        /// Which.
        service: ServiceId,
        /// Where it is answered.
        to: SocketAddr,
        /// When and how.
        spec: Box<ServiceSpec>,
        /// From when on, monotonic ns.
        since_ns: u64,
        /// Of the arrivals.
        seed: u64,
    },
    /// Stop answering.
    CloseServer(ServiceId),
    /// Stop asking.
    CloseClient(ServiceId),
    /// Ask a VM's address whether it is there, over and over.
    OpenProbe {
        /// Which.
        probe: ProbeId,
        /// The VM's address.
        to: Ipv4Addr,
        /// From one request to the next, ns.
        interval_ns: u64,
    },
    /// A migration has moved the VM that is probed: answer [`FromAgent::Probed`] once it has answered from there, or
    /// has not for a while.
    ReadProbe {
        /// Which.
        probe: ProbeId,
        /// Of which migration.
        migration: MigrationId,
    },
    /// Stop probing.
    CloseProbe(ProbeId),
    /// Answer [`FromAgent::FlowBytes`] for every sink of this agent.
    FlowStats,
    /// End.
    Shutdown,
}

/// What an agent does to its end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentBlow {
    /// The guest's process dies.
    Crash,
    /// The connection is reset.
    Reset,
    /// The destination refuses.
    Refuse,
}

/// What a host has, as it tells a manager that knows nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holding {
    /// VMs on it, paused ones too.
    pub vms: Vec<VmId>,
    /// Migrations out of it whose end has not been settled here.
    pub outgoing: Vec<OutgoingHeld>,
    /// Migrations into it.
    pub incoming: Vec<IncomingHeld>,
}

/// A source's end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutgoingHeld {
    /// Number.
    pub migration: MigrationId,
    /// Which VM.
    pub vm: VmId,
    /// Where to.
    pub destination: HostId,
    /// How it ended, its account, and when it had released everything; `None`: it has not.
    pub done: Option<(SourceEnding, Box<SourceReport>, u64)>,
    /// It was told what became of the guest.
    pub resolved: bool,
}

/// A destination's end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IncomingHeld {
    /// Number.
    pub migration: MigrationId,
    /// Which VM.
    pub vm: VmId,
    /// Where from.
    pub source: HostId,
    /// Where it stands.
    pub side: DestinationSide,
    /// The guest ran here and its process died.
    pub crashed: bool,
    /// Its account; `None`: it has not ended.
    pub done: Option<Box<DestinationReport>>,
}

/// What an agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentSetup {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// Which host it is.
    pub host: HostId,
    /// Its size.
    pub spec: HostSpec,
    /// Its data address.
    pub address: SocketAddr,
    /// Folder with the run's traces.
    pub inputs: PathBuf,
    /// Seed of the scenario.
    pub seed: u64,
    /// Congestion control of every socket.
    pub congestion: String,
    /// Space scale the scenario's sizes were divided by.
    pub divided_by: u32,
}

/// What a VM's process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmSetup {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// Which VM it is.
    pub vm: VmId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it runs.
    pub host: HostId,
    /// Congestion control of every socket.
    pub congestion: String,
}

/// A VM and what an agent needs to be it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmPlacement {
    /// Which.
    pub vm: VmId,
    /// What it is.
    pub spec: VmSpec,
}

/// From an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromAgent {
    /// First message.
    Hello {
        /// [`PROTOCOL`].
        protocol: u16,
    },
    /// Setup is done, with the memory that is this process's alone, in bytes; or the agent cannot
    /// go on.
    SetUp(Result<u64, String>),
    /// A VM was placed, or could not be.
    Placed(VmId, Result<(), String>),
    /// Answer to `Advance` and `Sample`.
    Sampled {
        /// Number of the request.
        seq: u64,
        /// Trace instant reached.
        trace_ns: u64,
        /// This host since its last sample.
        host: HostSample,
        /// Its VMs since their last samples.
        vms: Vec<VmSample>,
    },
    /// Listening for a migration, or not.
    IncomingReady {
        /// Number.
        migration: MigrationId,
        /// Port, or why not.
        port: Result<u16, String>,
    },
    /// An end of a migration entered a phase.
    Phase {
        /// Number.
        migration: MigrationId,
        /// Which.
        phase: Phase,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// A guest that is being migrated was stopped or runs again: QMP's STOP and RESUME.
    Runs {
        /// Which.
        vm: VmId,
        /// Whether it does now.
        runs: bool,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// A thread has come to where it is held for a fault.
    FaultDue {
        /// Of which migration.
        migration: MigrationId,
        /// Number of the fault.
        fault: u32,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// A fault is in effect.
    Struck {
        /// Number.
        fault: u32,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// The guest ran here, and its process died.
    VmCrashed {
        /// Which migration had brought it.
        migration: MigrationId,
    },
    /// What `query-migrate` tells while a migration runs.
    Progress {
        /// Number.
        migration: MigrationId,
        /// Bytes known dirty.
        remaining_bytes: u64,
        /// Rounds begun before this one.
        round: u32,
        /// Of the last 100 ms window.
        mbps: f64,
    },
    /// What this host has.
    Holding(Box<Holding>),
    /// The commit record: written before the guest runs here.
    Committed {
        /// Number.
        migration: MigrationId,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// The source is through with its part; the guest's fate is in `ending`.
    SourceDone {
        /// Number.
        migration: MigrationId,
        /// How it ended.
        ending: SourceEnding,
        /// Its account.
        report: Box<SourceReport>,
        /// Monotonic ns at which the source had released everything.
        released_ns: u64,
    },
    /// The destination is through, verification included.
    DestinationDone {
        /// Number.
        migration: MigrationId,
        /// Its account.
        report: Box<DestinationReport>,
    },
    /// Listening for a flow, or not.
    SinkReady {
        /// Which.
        flow: FlowId,
        /// Port, or why not.
        port: Result<u16, String>,
    },
    /// Payload received by every open sink.
    FlowBytes(Vec<(FlowId, u64)>),
    /// A sink was closed.
    FlowClosed {
        /// Which.
        flow: FlowId,
        /// Payload received.
        received_bytes: u64,
        /// How long it was open, ns.
        open_ns: u64,
        /// First and last payload that came, monotonic ns.
        carried_ns: Option<(u64, u64)>,
    },
    /// Answering a service, or not.
    ServerReady {
        /// Which.
        service: ServiceId,
        /// Port, or why not.
        port: Result<u16, String>,
    },
    /// What became of requests since the last time.
    Answered {
        /// Which.
        service: ServiceId,
        /// When each was due, monotonic ns, and how long after that the answer was there, µs.
        requests: Vec<(u64, u64)>,
        /// Due and not answered when the client was closed.
        cut: Vec<u64>,
        /// Connections it opened meanwhile.
        connections: u32,
    },
    /// What a probe saw of a move.
    Probed {
        /// Of which migration.
        migration: MigrationId,
        /// Which.
        probe: ProbeId,
        /// Nothing, if no answer came from the new side in time.
        seen: Option<ProbeSeen>,
    },
    /// Read before trusting the numbers.
    Warning(String),
}

/// The gap a move leaves in a probe's answers, by the kernel's receive stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSeen {
    /// The last answer from the source came, monotonic ns.
    pub last_source_ns: u64,
    /// The first from the destination came.
    pub first_destination_ns: u64,
    /// Requests without an answer between these two.
    pub lost: u32,
    /// From one request to the next, ns: neither instant is known better.
    pub interval_ns: u64,
}

/// How the source's part of a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceEnding {
    /// Everything was sent (and acknowledged, with a return path); the guest stays paused here
    /// until the destination's commit record says it may be dropped.
    Completed,
    /// The guest runs here; nothing was lost.
    Cancelled,
    /// The guest runs here; nothing was lost.
    Failed,
    /// Everything was sent and the connection broke: the guest stays paused until `Resolve`.
    Undecided,
    /// The guest's process died here. The destination may have it all.
    Crashed,
}
