//! To an agent, and to a VM's process.

use crate::ids::{FlowId, HostId, MigrationId, ProbeId, ServiceId, VmId};
use crate::migration::faults::{End, Hold, ParameterChange};
use crate::migration::params::MigrationParams;
use crate::scenario::{HostSpec, ServiceSpec, VmSpec};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

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
    /// Go to this trace instant (nothing real is on the wire) and answer [`FromAgent::Sampled`](super::FromAgent::Sampled).
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
    /// Answer [`FromAgent::Sampled`](super::FromAgent::Sampled) with what happened up to now.
    Sample {
        /// Number of the request.
        seq: u64,
        /// Monotonic instant up to which to sample.
        at_ns: u64,
    },
    /// Listen for a migration; answer [`FromAgent::IncomingReady`](super::FromAgent::IncomingReady).
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
    /// Stop a migration this agent is the source of; answer [`FromAgent::CancelTooLate`](super::FromAgent::CancelTooLate) if
    /// that is not the source's to decide any more.
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
    /// Answer [`FromAgent::Progress`](super::FromAgent::Progress), at the source.
    QueryMigration(MigrationId),
    /// The destination is dead, or has promised never to start: no word will come from it. It decides
    /// nothing: a source that has sent everything is in doubt then, and is told by `Resolve`.
    DestinationGone(MigrationId),
    /// The guest runs at the destination, whose word should have come long ago. It decides nothing either, and in
    /// post-copy it changes nothing.
    DestinationRuns(MigrationId),
    /// A fault of this host's end; answer [`FromAgent::Struck`](super::FromAgent::Struck).
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
    /// Answer [`FromAgent::Holding`](super::FromAgent::Holding): the manager knows nothing any more.
    TellHolding,
    /// The destination is not going to get this migration: stop listening.
    AbandonIncoming(MigrationId),
    /// The migration is cancelled and the source has sent everything: promise never to start, unless it has.
    CancelIncoming(MigrationId),
    /// The source's doubt is settled: did the destination commit?
    Resolve {
        /// Number.
        migration: MigrationId,
        /// Whether the destination runs the guest.
        committed: bool,
    },
    /// Listen for a tenant flow; answer [`FromAgent::SinkReady`](super::FromAgent::SinkReady).
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
    /// Stop sending or receiving a flow; the sink answers [`FromAgent::FlowClosed`](super::FromAgent::FlowClosed).
    CloseFlow(FlowId),
    /// Answer a service's requests for a VM; answer [`FromAgent::ServerReady`](super::FromAgent::ServerReady).
    OpenServer {
        /// Which.
        service: ServiceId,
        /// Whose CPU serves them.
        vm: VmId,
    },
    /// Ask a service; what was answered comes with samples and at the end, as
    /// [`FromAgent::Answered`](super::FromAgent::Answered).
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
    /// A migration has moved the VM that is probed: answer [`FromAgent::Probed`](super::FromAgent::Probed) once it has answered from there, or
    /// has not for a while.
    ReadProbe {
        /// Which.
        probe: ProbeId,
        /// Of which migration.
        migration: MigrationId,
    },
    /// Stop probing.
    CloseProbe(ProbeId),
    /// Answer [`FromAgent::FlowBytes`](super::FromAgent::FlowBytes) for every sink of this agent.
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

/// What an agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentSetup {
    /// [`PROTOCOL`](super::PROTOCOL).
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
    /// [`PROTOCOL`](super::PROTOCOL).
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
