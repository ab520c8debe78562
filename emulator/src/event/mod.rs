//! Everything that happened, typed and in order. Every other file of a run directory can be rebuilt
//! from these.
//!
//! Inside: the schema, and the log that writes it (`log`). Never inside: text for people (that is
//! `tracing`'s).

pub mod log;

use crate::ids::{FlowId, HostId, MigrationId, ServiceId, VmId};
use crate::migration::faults::FaultStruck;
use crate::migration::record::{MigrationRecord, Phase};
use netmodel::link::LinkSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the event schema, in the first event of every log.
pub const SCHEMA: u32 = 2;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The machine's monotonic clock, ns.
    pub mono_ns: u64,
    /// Trace time, ns.
    pub trace_ns: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// First event of a log.
    RunStarted {
        /// [`SCHEMA`].
        schema: u32,
        /// Version of migbed.
        version: String,
        /// Seconds since 1970, UTC.
        started_unix_s: u64,
        /// `measured` or, of a simulation, `modelled`.
        tag: String,
    },
    /// A span of time began.
    Segment {
        /// Number, from 1.
        number: u64,
        /// `run` or `hold`.
        span: SpanKind,
    },
    /// Trace time jumped; the event's own `trace_ns` is the landing.
    Jumped {
        /// From, trace ns.
        from_trace_ns: u64,
    },
    /// A link measured before the run.
    LinkCalibrated(LinkCalibration),
    /// What a host did since its last sample.
    HostSample(HostSample),
    /// What a VM did since its last sample.
    VmSample(VmSample),
    /// Where a VM is, at the start and after every change.
    Placed {
        /// VM.
        vm: VmId,
        /// Host.
        host: HostId,
    },
    /// The balancer was asked.
    Tick {
        /// Number.
        tick: u64,
        /// Wall time it took, ns.
        took_ns: u64,
        /// Moves it asked for.
        moves: u32,
    },
    /// A migration was accepted.
    MigrationRequested {
        /// Number.
        migration: MigrationId,
        /// VM.
        vm: VmId,
        /// From.
        source: HostId,
        /// To.
        destination: HostId,
        /// Why.
        reason: String,
    },
    /// A move asked for was refused.
    MoveRejected {
        /// VM.
        vm: VmId,
        /// To.
        destination: HostId,
        /// Why not.
        reason: String,
    },
    /// An end of a migration entered a phase.
    MigrationPhase {
        /// Number.
        migration: MigrationId,
        /// Which.
        phase: Phase,
    },
    /// A guest that is being migrated was stopped or runs again on a host: QMP's STOP and RESUME.
    GuestRuns {
        /// VM.
        vm: VmId,
        /// Host.
        host: HostId,
        /// Whether it does from here on.
        runs: bool,
    },
    /// A fault of the scenario is in effect; the event's instant is when it was.
    FaultStruck {
        /// Which migration.
        migration: MigrationId,
        /// What, where, and who owned the guest.
        struck: FaultStruck,
    },
    /// The emulated manager has forgotten everything and hears nothing.
    ControllerCrashed,
    /// It has asked the hosts, and knows again what they hold.
    ControllerRecovered {
        /// Hosts that answered.
        hosts: u32,
        /// Migrations found under way or not settled.
        migrations: u32,
    },
    /// A migration has ended, well or not.
    MigrationEnded(Box<MigrationRecord>),
    /// A tenant flow was opened between the hosts its VMs are on.
    FlowOpened {
        /// Which.
        flow: FlowId,
        /// Sender's host.
        from: HostId,
        /// Receiver's host.
        to: HostId,
    },
    /// A tenant flow was closed.
    FlowClosed {
        /// Which.
        flow: FlowId,
        /// Payload received while it was open.
        received_bytes: u64,
        /// How long it was open, ns.
        open_ns: u64,
    },
    /// An end of a tenant flow moved with its VM, and the flow goes on between other hosts.
    FlowMoved {
        /// Which.
        flow: FlowId,
        /// From the last payload received at the old place to the first at the new one, ns.
        gap_ns: u64,
    },
    /// What became of requests of a service.
    Requests {
        /// Which.
        service: ServiceId,
        /// When the first was due, monotonic ns.
        since_ns: u64,
        /// Those that were answered: when each was due after `since_ns`, and how long after that the
        /// answer was there, µs.
        answered: Vec<(u64, u64)>,
        /// Those that were not, when the clock stopped: when each was due, µs after `since_ns`.
        cut: Vec<u64>,
        /// Connections that the client opened meanwhile.
        #[serde(default)]
        connections: u32,
    },
    /// A link was changed in place, as the schedule asks. The event's instants are those of the
    /// change, or of the landing of the jump that passed it.
    LinkChanged {
        /// By name.
        link: String,
        /// What it is now.
        spec: LinkSpec,
        /// How much later than its instant it was done, µs.
        late_us: f64,
    },
    /// A link's counters since the run began.
    LinkSample(LinkSample),
    /// Read before trusting the numbers.
    Warning {
        /// What.
        message: String,
    },
    /// A host's process has gone.
    HostLost {
        /// Which.
        host: HostId,
    },
    /// The same demand under `none`, computed over the span of the run.
    Baseline {
        /// `modelled`: nothing was carried over the network.
        tag: String,
        /// Values by the names `summary.json` uses for its metrics.
        metrics: BTreeMap<String, f64>,
    },
    /// The audit after the run.
    Audit {
        /// A, B, C, or invalid.
        grade: String,
        /// Reasons for anything but A.
        reasons: Vec<String>,
    },
    /// Last event.
    RunEnded {
        /// `completed`, `interrupted`, `failed`.
        outcome: String,
    },
}

/// How trace time moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// At the speed of the clock.
    Run,
    /// Not at all.
    Hold,
}

/// A link direction: asked against got.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LinkCalibration {
    /// By name: `h1-up`, `h1-down`, `a>b`.
    pub link: String,
    /// bit/s on the wire; `None`: unshaped.
    pub asked_rate_bps: Option<u64>,
    /// Measured under load.
    pub got_rate_bps: f64,
    /// Relative error of the rate, beyond what one frame explains; `None`: its streams did not fill
    /// it, so that they say nothing.
    #[serde(default)]
    pub rate_error: Option<f64>,
    /// The same over windows of 10, 100 and 1000 ms, 95th percentile; `None`: none was full.
    #[serde(default)]
    pub window_errors: [Option<f64>; 3],
    /// One-way, µs.
    pub asked_delay_us: f64,
    /// Measured: median one-way delay; `None`: nothing came.
    pub got_delay_us: Option<f64>,
    /// What is asked of its variation, µs.
    #[serde(default)]
    pub asked_jitter_us: f64,
    /// Share of segments it is asked to lose.
    #[serde(default)]
    pub asked_loss: f64,
    /// Datagrams sent over its path for that, and how many were lost on all of it.
    #[serde(default)]
    pub lost: Option<(u64, u64)>,
    /// Queue, bytes.
    pub queue_bytes: u64,
    /// Within tolerance, all that was judged.
    pub ok: bool,
    /// What is not: `rate`, `delay`, `jitter`, `loss`.
    #[serde(default)]
    pub off: Vec<String>,
    /// The measurement was disturbed by this computer, though it was repeated.
    #[serde(default)]
    pub disturbed: bool,
}

impl LinkCalibration {
    /// Whether something asked of it is out of tolerance.
    #[must_use]
    pub fn is_off(&self, what: &str) -> bool {
        self.off.iter().any(|off| off == what)
    }

    /// By how much its delay is off, µs; `None` if nothing came.
    #[must_use]
    pub fn delay_error_us(&self) -> Option<f64> {
        self.got_delay_us
            .map(|got| (got - self.asked_delay_us).abs())
    }
}

/// A host between two samples. Integrals, so that any aggregate can be had from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSample {
    /// Which.
    pub host: HostId,
    /// Trace ns covered, up to the event's `trace_ns`.
    pub span_ns: u64,
    /// Core-ns asked for.
    pub demand_core_ns: u64,
    /// Core-ns granted.
    pub granted_core_ns: u64,
    /// ns in which some VM wanted more than it got.
    pub pressure_some_ns: u64,
    /// RAM of its VMs, bytes.
    pub ram_used_bytes: u64,
    /// VMs on it.
    pub vms: u32,
}

/// A VM between two samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSample {
    /// Which.
    pub vm: VmId,
    /// On which host.
    pub host: HostId,
    /// Trace ns covered.
    pub span_ns: u64,
    /// Core-ns asked for.
    pub demand_core_ns: u64,
    /// Core-ns granted.
    pub granted_core_ns: u64,
    /// Core-ns of demand that was dropped from a full backlog.
    pub lost_core_ns: u64,
    /// ns it was paused.
    pub paused_ns: u64,
    /// Guest CPU time so far, that of its offset into its trace included, ns.
    pub guest_cpu_ns: u64,
}

/// Counters of a link direction, since the run began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct LinkSample {
    /// `h1-up`, `h1-down` or `a>b`.
    pub link: String,
    /// Segments that entered.
    pub segments_in: u64,
    /// Wire bytes that entered.
    pub wire_bytes_in: u64,
    /// Wire bytes that left.
    pub wire_bytes_out: u64,
    /// Wire bytes dropped at the queue.
    pub dropped_bytes: u64,
    /// Segments dropped.
    pub dropped_segments: u64,
    /// Wire bytes lost on the way, as the spec asks.
    #[serde(default)]
    pub lost_bytes: u64,
    /// Segments lost on the way.
    #[serde(default)]
    pub lost_segments: u64,
    /// Frames marked with congestion experienced.
    #[serde(default)]
    pub marked_packets: u64,
    /// Wire bytes waiting.
    pub queued_bytes: u64,
    /// Highest the queue stood, bytes.
    pub queue_bytes_max: u64,
    /// Lateness of departures, µs: mean.
    pub late_us_mean: f64,
    /// 99th percentile.
    pub late_us_p99: f64,
    /// Maximum.
    pub late_us_max: f64,
}
