//! What is known of a migration once it has ended. Instants are nanoseconds of the machine's
//! monotonic clock; the timeline adds trace time where it writes the record.

use super::faults::{FaultStruck, ParameterChange};
use super::params::MigrationParams;
use crate::resident::WritersReport;
use serde::{Deserialize, Serialize};

/// The phases, in order. Both ends use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Connect, header, RAM list, dirty log started.
    Handshake,
    /// Pages while the guest runs.
    Rounds,
    /// The guest stops at the source.
    Pause,
    /// The remaining pages, guest paused.
    FinalRound,
    /// Device state.
    State,
    /// The commit point: after it only the destination may run the guest.
    Switchover,
    /// The guest runs at the destination.
    Resume,
    /// Post-copy: the guest runs at the destination, which pulls what it lacks.
    Pull,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: &[Self] = &[
        Self::Handshake,
        Self::Rounds,
        Self::Pause,
        Self::FinalRound,
        Self::State,
        Self::Switchover,
        Self::Resume,
        Self::Pull,
    ];

    /// Its name in scenarios and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rounds => "rounds",
            Self::Pause => "pause",
            Self::FinalRound => "final-round",
            Self::State => "state",
            Self::Switchover => "switchover",
            Self::Resume => "resume",
            Self::Pull => "pull",
        }
    }
}

/// What an orchestrator did to a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeedDone {
    /// Monotonic ns.
    pub at_ns: u64,
    /// `abort`, `suspend`, `start-postcopy`, `downtime-limit`.
    pub deed: String,
    /// Why it was aborted, or the limit in ms.
    pub detail: Option<String>,
}

/// One phase as one end saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// Begin, monotonic ns.
    pub begin_ns: u64,
    /// End, monotonic ns.
    pub end_ns: u64,
}

/// One round: from one sync of the dirty log to the next. Round 0 starts with all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Round {
    /// From 0.
    pub number: u32,
    /// When its sync ended, monotonic ns.
    pub begin_ns: u64,
    /// When the next sync began, or the last byte was written.
    pub end_ns: u64,
    /// Pages in the migration bitmap after its sync.
    pub dirty_pages: u64,
    /// Pages newly found dirty by its sync (all, for round 0).
    pub new_dirty_pages: u64,
    /// Pages sent whole.
    pub normal_pages: u64,
    /// Zero pages sent as a marker.
    pub zero_pages: u64,
    /// Pages sent as deltas, or left out since they had not changed.
    #[serde(default)]
    pub xbzrle_pages: u64,
    /// Bytes handed to the socket.
    pub sent_bytes: u64,
    /// Sent with the guest paused: the final round.
    pub paused: bool,
}

/// One evaluation of the switchover rule that read the dirty log or ended the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Bytes known dirty before the log was read.
    pub estimate_bytes: u64,
    /// Bytes dirty after it was read.
    pub exact_bytes: u64,
    /// Switchover bandwidth, bytes a second: the last 100 ms window's.
    pub bandwidth_bytes_per_s: u64,
    /// `threshold_size` = switchover bandwidth × downtime-limit.
    pub threshold_bytes: u64,
    /// Whether the guest was stopped.
    pub switchover: bool,
}

/// A change of the auto-converge throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleStep {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Percent of the CPUs' time from then on.
    pub percent: u8,
}

/// Parameters changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterStep {
    /// When the engine had them, monotonic ns.
    pub at_ns: u64,
    /// Which, to what.
    pub change: ParameterChange,
}

/// Bytes handed to the socket, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct BytesByKind {
    /// 4096 bytes a page sent whole; of packed pages, what the codec made of them.
    pub normal: u64,
    /// Deltas of XBZRLE with their 3 bytes of head.
    #[serde(default)]
    pub delta: u64,
    /// Page headers and zero-page markers; headers of packets.
    pub header: u64,
    /// Stream header, RAM list, section marks; hellos and SYNC packets of channels.
    pub control: u64,
    /// Device state.
    pub device: u64,
}

impl BytesByKind {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.normal + self.delta + self.header + self.control + self.device
    }
}

/// QMP's `xbzrle-cache`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct XbzrleReport {
    /// Bytes.
    pub cache_size: u64,
    /// Bytes of deltas with 3 of head each, and 4096 for each overflow.
    pub bytes: u64,
    /// Pages found in the cache, whatever came of it.
    pub pages: u64,
    /// Pages not found in it.
    pub cache_miss: u64,
    /// Of the pages sent in the last period of at least 1 s.
    pub cache_miss_rate: f64,
    /// Bytes of pages to bytes of deltas in that period.
    pub encoding_rate: f64,
    /// Pages that had changed too much.
    pub overflow: u64,
}

/// A sample of the sender's TCP state, of all connections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TcpSample {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Smoothed round-trip time, µs.
    pub rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments retransmitted so far.
    pub retransmits: u32,
    /// Whether it was answering a loss or a mark: sending as its recovery allows.
    #[serde(default)]
    pub recovering: bool,
    /// Bytes a second, as the kernel estimates.
    pub delivery_rate: u64,
    /// µs in which the connection was busy sending.
    pub busy_us: u64,
    /// µs limited by the receiver's window.
    pub rwnd_limited_us: u64,
    /// µs limited by the send buffer.
    pub sndbuf_limited_us: u64,
    /// Bytes handed to the socket and not acknowledged yet, if known.
    pub unacked_bytes: u64,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The guest runs at the destination.
    Completed,
    /// Asked to stop; the guest runs at the source.
    Cancelled,
    /// An error; the record says which, and who owns the guest.
    Failed,
}

/// Who may run the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// Nobody: its host died with it.
    Lost,
    /// Nobody can vouch for it.
    Stranded,
}

impl Owner {
    /// As records spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Lost => "lost",
            Self::Stranded => "stranded",
        }
    }
}

/// What the source knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// How the stream ended, as the source saw it.
    pub status: Status,
    /// The error, when it failed.
    pub error: Option<String>,
    /// When the command was taken.
    pub begin_ns: u64,
    /// When setup was over (QMP's setup-time ends).
    pub setup_end_ns: u64,
    /// When the guest was stopped.
    pub stop_ns: Option<u64>,
    /// When the orchestrator had stopped it before, for the migration to converge.
    #[serde(default)]
    pub suspended_ns: Option<u64>,
    /// Parameters that were changed while it ran.
    #[serde(default)]
    pub parameters: Vec<ParameterStep>,
    /// QMP's moment of completion: total-time and downtime end.
    pub end_ns: u64,
    /// Phases.
    pub phases: Vec<PhaseSpan>,
    /// Rounds.
    pub rounds: Vec<Round>,
    /// Decisions that read the log or stopped the guest.
    pub decisions: Vec<Decision>,
    /// Steps of auto-converge's throttle.
    #[serde(default)]
    pub throttles: Vec<ThrottleStep>,
    /// Bytes.
    pub bytes: BytesByKind,
    /// QMP's `multifd-bytes`: those of them that went over channels.
    #[serde(default)]
    pub multifd_bytes: u64,
    /// XBZRLE's cache; `None` without it.
    #[serde(default)]
    pub xbzrle: Option<XbzrleReport>,
    /// QMP's `precopy-bytes`: RAM bytes (pages, their headers, 8 a slice) put into the main stream
    /// before the guest was stopped.
    pub precopy_bytes: u64,
    /// … and after. As in QEMU, section marks and device state are in neither.
    pub downtime_bytes: u64,
    /// QMP's `dirty-sync-count`.
    pub dirty_sync_count: u64,
    /// QMP's `dirty-pages-rate` at the end, pages a second.
    pub dirty_pages_rate: u64,
    /// QMP's `pages-per-second` of the last window.
    pub pages_per_second: u64,
    /// TCP state at 10 Hz.
    pub tcp: Vec<TcpSample>,
    /// CPU time of the source's thread, ns.
    pub cpu_ns: u64,
    /// Run-queue delay of the source's thread, ns.
    pub run_queue_ns: u64,
    /// What the threads did that write the guest's RAM; `None` if it is not there (`memory = "synthetic"`).
    #[serde(default)]
    pub writers: Option<WritersReport>,
    /// Post-copy, if it came to it.
    #[serde(default)]
    pub postcopy: Option<PostcopySource>,
}

/// A post-copy at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PostcopySource {
    /// When the package was on the socket: QEMU's downtime ends.
    pub package_ns: u64,
    /// QMP's `postcopy-bytes`: RAM bytes put into the stream since.
    pub postcopy_bytes: u64,
    /// … of them on the connection for requested pages.
    pub preempt_bytes: u64,
    /// QMP's `postcopy-requests`.
    pub requests: u64,
    /// Pages that the destination was told it lacks.
    pub discarded_pages: u64,
    /// … in so many ranges.
    pub discarded_ranges: u64,
    /// Times without a connection.
    pub interruptions: Vec<Interruption>,
}

/// A post-copy stood still: QEMU's `postcopy-paused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// When the connection was given up, monotonic ns.
    pub from_ns: u64,
    /// When pages went on; `None`: they never did.
    pub to_ns: Option<u64>,
    /// How often a new connection was tried.
    pub tries: u32,
    /// Why.
    pub error: String,
}

/// Buckets of [`PostcopyDestination::latency_dist`].
pub const LATENCY_BUCKETS: usize = 24;

/// A post-copy at its destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PostcopyDestination {
    /// Pages that were missing when the guest was started.
    pub missing_pages: u64,
    /// Pages that never came; the guest is lost if there are any.
    pub never_came: u64,
    /// Pages that came although they were there: they change nothing.
    pub came_twice: u64,
    /// Pages that the guest touched before they had come: asked for.
    pub requests: u64,
    /// From the touch to the page's being there, ns, of all requests together.
    pub latency_ns_sum: u64,
    /// … of the slowest.
    pub latency_ns_max: u64,
    /// QMP's `postcopy-latency-dist`: [1, 2) µs, [2, 4) µs, …; the first and last take what is beyond.
    pub latency_dist: Vec<u64>,
    /// QMP's `postcopy-blocktime`, in ns: the guest stood still for want of a page.
    pub blocktime_ns: u64,
    /// How much later than it was touched a page was asked for, ns, of all requests together: this
    /// computer's, and part of their latency.
    pub asked_late_ns_sum: u64,
    /// ns that the guest stood still although no page was missing: this computer's.
    pub held_ns: u64,
    /// Accesses of pages that had not come; none, or the guest is not what it should be.
    pub overrun: u64,
    /// When the last page was there, monotonic ns.
    pub whole_ns: Option<u64>,
}

/// What the destination knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationReport {
    /// Whether the guest was resumed here.
    pub resumed_ns: Option<u64>,
    /// When the last byte of the stream was read.
    pub loaded_ns: Option<u64>,
    /// The error, when the stream ended badly.
    pub error: Option<String>,
    /// Bytes read.
    pub received_bytes: u64,
    /// Pages whose stamp or body was wrong on receipt.
    pub bad_on_receipt: u64,
    /// Pages of a resident guest that arrived half written; they are sent again.
    #[serde(default)]
    pub torn_on_receipt: u64,
    /// Outcome of comparing every page with what the guest's own time says it must be.
    pub verification: Option<Verification>,
    /// Post-copy, if it came to it.
    #[serde(default)]
    pub postcopy: Option<PostcopyDestination>,
    /// CPU time of the destination's thread, ns.
    pub cpu_ns: u64,
    /// Run-queue delay of the destination's thread, ns.
    pub run_queue_ns: u64,
}

impl DestinationReport {
    /// A destination that has received nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            resumed_ns: None,
            loaded_ns: None,
            error: None,
            received_bytes: 0,
            bad_on_receipt: 0,
            torn_on_receipt: 0,
            verification: None,
            postcopy: None,
            cpu_ns: 0,
            run_queue_ns: 0,
        }
    }
}

impl DestinationReport {
    /// Whether the guest runs here but will never have all of its pages.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let postcopy = self.postcopy.as_ref();
        postcopy.is_some_and(|postcopy| postcopy.never_came > 0)
    }
}

impl SourceReport {
    /// A source that took the command at `begin_ns` and has sent nothing; it ends with an error
    /// unless it is filled in.
    #[must_use]
    pub fn unsent(begin_ns: u64, end_ns: u64, error: String) -> Self {
        Self {
            status: Status::Failed,
            error: Some(error),
            begin_ns,
            setup_end_ns: begin_ns,
            stop_ns: None,
            suspended_ns: None,
            parameters: Vec::new(),
            end_ns,
            phases: Vec::new(),
            rounds: Vec::new(),
            decisions: Vec::new(),
            throttles: Vec::new(),
            bytes: BytesByKind::default(),
            multifd_bytes: 0,
            xbzrle: None,
            precopy_bytes: 0,
            downtime_bytes: 0,
            dirty_sync_count: 0,
            dirty_pages_rate: 0,
            pages_per_second: 0,
            tcp: Vec::new(),
            cpu_ns: 0,
            run_queue_ns: 0,
            writers: None,
            postcopy: None,
        }
    }
}

/// Every page compared with the version that guest time says it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Pages compared.
    pub pages: u64,
    /// Pages that were stale, wrong or missing.
    pub bad: u64,
    /// The first few of them: page, expected version, got.
    pub examples: Vec<BadPage>,
}

/// A page that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// Which.
    pub page: u32,
    /// The version guest time says it has.
    pub expected: u64,
    /// What the destination holds; `None`: never received.
    pub got: Option<u64>,
}

/// A migration, as the run records it: one object of `migrations.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Version of this object.
    pub schema: u32,
    /// Number in the run.
    pub id: u32,
    /// VM by name.
    pub vm: String,
    /// Host by name.
    pub source: String,
    /// Host by name.
    pub destination: String,
    /// Why the balancer asked for it.
    pub reason: String,
    /// `PreCopy`, …
    pub kind: String,
    /// With what.
    pub params: MigrationParams,
    /// How it ended.
    pub status: Status,
    /// Who owns the guest now.
    pub owner: Owner,
    /// The error, when there was one.
    pub error: Option<String>,
    /// What the scenario had done to it, in the order it struck.
    #[serde(default)]
    pub faults: Vec<FaultStruck>,
    /// What the orchestrator did to it.
    #[serde(default)]
    pub deeds: Vec<DeedDone>,
    /// RAM of the VM.
    pub ram_bytes: u64,
    /// Trace instant of the request, seconds.
    pub requested_trace_s: f64,
    /// Monotonic instant of the request.
    pub requested_ns: u64,
    /// Request accepted → source released, ms.
    pub request_to_release_ms: f64,
    /// QMP's answer, exactly as shaped there.
    pub query_migrate: serde_json::Value,
    /// What the engine's original tells of a migration, under its own names; null of QEMU, whose
    /// answer is `query_migrate`.
    #[serde(default)]
    pub engine_statistics: serde_json::Value,
    /// Guest paused at the source → resumed at the destination, one clock, ms.
    pub observed_outage_ms: Option<f64>,
    /// Last answer of the VM's address from the source → first from the destination, by the first of its probes' kernel
    /// receive stamps, ms; `None` without a probe.
    #[serde(default)]
    pub network_downtime_ms: Option<f64>,
    /// What each of its probes saw.
    #[serde(default)]
    pub probes: Vec<ProbeRecord>,
    /// Rounds (the source's, also as a list in `source_report`).
    pub rounds: u32,
    /// Every page arrived in its right version.
    pub verified: bool,
    /// A, B, C, or invalid (DESIGN §5).
    pub grade: String,
    /// Why not A.
    pub grade_reasons: Vec<String>,
    /// What the emulation itself added; `None` if its links were not watched.
    #[serde(default)]
    pub error_budget: Option<ErrorBudget>,
    /// What models said before it began, and how wrong they were.
    pub predictions: Vec<Prediction>,
    /// The source's account.
    pub source_report: Option<SourceReport>,
    /// The destination's account.
    pub destination_report: Option<DestinationReport>,
}

/// What a probe of a VM's address saw of its move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// From where it asked: a host, or `internet`.
    pub from: String,
    /// Last answer from the source → first from the destination, ms; `None` if none came from there in 3 s.
    pub network_downtime_ms: Option<f64>,
    /// Requests between these that nobody answered.
    pub lost: Option<u32>,
    /// From one request to the next, ms: the resolution.
    pub interval_ms: f64,
}

impl MigrationRecord {
    /// Whether the engine left its links idle of itself: under a cap, or while a post-copy had no connection.
    #[must_use]
    pub fn pauses_on_purpose(&self) -> bool {
        let served = self.source_report.as_ref();
        let pulled = served.and_then(|report| report.postcopy.as_ref());
        let capped = self.params.postcopy.max_bandwidth > 0;
        self.params.max_bandwidth > 0
            || pulled.is_some_and(|pulled| capped || !pulled.interruptions.is_empty())
    }
}

/// What the emulation itself added to a migration while it was under way (DESIGN §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBudget {
    /// Errors of its links' rates over windows of 10, 100 and 1000 ms: the worst link's of each.
    /// Sizes of which no window was full are missing.
    pub rate: Vec<RateError>,
    /// The largest error of a link's delay when it was calibrated, µs.
    pub delay_error_us: Option<f64>,
    /// How late packets left links while it was under way, µs: mean.
    pub late_us_mean: f64,
    /// 99th percentile.
    pub late_us_p99: f64,
    /// Maximum.
    pub late_us_max: f64,
    /// Share of its time in which the relay waited for a CPU; `None` if the kernel does not tell.
    pub run_delay_share: Option<f64>,
    /// Share of its time in which TCP itself was held up by a thread of this computer.
    pub emulator_limited_share: f64,
    /// Share of its sending time in which no link of its path was busy; `None` if none has a rate.
    pub path_idle_share: Option<f64>,
    /// The part of it that the congestion window explains: the network's.
    pub path_idle_window_share: Option<f64>,
    /// The rest of it: this computer's, or the engine's own pauses.
    pub path_idle_emulator_share: Option<f64>,
    /// Share of this computer's CPU time that was stolen from below.
    pub steal_share: Option<f64>,
    /// How often its links were sampled.
    pub samples: u32,
}

/// Relative errors of a link's rate over windows of one size, beyond what the size of frames
/// explains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateError {
    /// Size of the windows.
    pub window_ms: u64,
    /// The worst link.
    pub link: String,
    /// In how many windows it was busy throughout.
    pub windows: u32,
    /// Median error.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub worst: f64,
}

/// A model's guess, made before the migration, and its error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Which model.
    pub model: String,
    /// ms.
    pub total_time_ms: f64,
    /// ms; `None` where the model has none.
    pub downtime_ms: Option<f64>,
    /// Bytes.
    pub bytes: f64,
    /// (guess − measured) / measured of the total time.
    pub total_time_error: Option<f64>,
    /// The same of the outage.
    pub downtime_error: Option<f64>,
    /// The same of the bytes.
    pub bytes_error: Option<f64>,
}
