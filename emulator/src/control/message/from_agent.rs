//! From an agent, and from a VM's process.

use crate::event::{HostSample, VmSample};
use crate::ids::{FlowId, HostId, MigrationId, ProbeId, ServiceId, VmId};
use crate::migration::ownership::DestinationSide;
use crate::migration::record::{DestinationReport, Phase, SourceReport};
use serde::{Deserialize, Serialize};

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

/// From an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromAgent {
    /// First message.
    Hello {
        /// [`PROTOCOL`](super::PROTOCOL).
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
    /// The source has taken the command: QMP's `setup` begins, and with it the time of orchestrators.
    Begun {
        /// Number.
        migration: MigrationId,
        /// Monotonic ns.
        at_ns: u64,
    },
    /// Answer to `CancelMigration`: everything is on its way, and only the destination can still promise not
    /// to start.
    CancelTooLate(MigrationId),
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
        /// The guest is stopped for the switchover.
        paused: bool,
        /// Nobody asked: the log was just read (QMP's `MIGRATION_PASS`), while the guest runs.
        pass: bool,
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
