//! The accounts of the two ends.

use super::{
    BytesByKind, Decision, ParameterStep, PhaseSpan, Round, Status, TcpSample, ThrottleStep,
    XbzrleReport,
};
use crate::resident::WritersReport;
use serde::{Deserialize, Serialize};

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
    /// QMP's `postcopy-requests`. Of Cloud Hypervisor's, which asks for every page: all that were answered.
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
    /// Cloud Hypervisor's: pages that were asked for before the guest touched them; `None`: its source sends unasked.
    #[serde(default)]
    pub prefaulted_pages: Option<u64>,
    /// From the touch to the page's being there, ns, of all requests together.
    pub latency_ns_sum: u64,
    /// … of the slowest.
    pub latency_ns_max: u64,
    /// QMP's `postcopy-latency-dist`: [1, 2) µs, [2, 4) µs, …; the first and last take what is beyond.
    pub latency_dist: Vec<u64>,
    /// QMP's `postcopy-blocktime`, in ns: all vCPUs stood still for want of pages.
    pub blocktime_ns: u64,
    /// Each vCPU's part.
    #[serde(default)]
    pub vcpus: Vec<VcpuWaits>,
    /// How much later than it was touched a page was asked for, ns, of all requests together: this
    /// computer's, and part of their latency. `None` of RAM that is there: the kernel does not tell when
    /// it stopped a thread.
    pub asked_late_ns_sum: Option<u64>,
    /// ns that vCPUs stood still although no page was missing, each counted by itself: this computer's. `None` of
    /// RAM that is there.
    pub held_ns: Option<u64>,
    /// Accesses of pages that had not come; none, or the guest is not what it should be. `None` of RAM that is
    /// there, in which there are none: the kernel stops them.
    pub overrun: Option<u64>,
    /// When the last page was there, monotonic ns.
    pub whole_ns: Option<u64>,
}

/// What a vCPU waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VcpuWaits {
    /// Pages that it touched before they had come: asked for.
    pub requests: u64,
    /// From the touch to the page's being there, ns, of all of them together.
    pub latency_ns_sum: u64,
    /// QMP's `postcopy-vcpu-blocktime`, in ns.
    pub blocktime_ns: u64,
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
