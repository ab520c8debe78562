//! What is known of a migration once it has ended. Instants are nanoseconds of the machine's
//! monotonic clock; the timeline adds trace time where it writes the record.

mod ends;
mod steps;

pub use ends::*;
pub use steps::*;

use super::faults::FaultStruck;
use super::params::MigrationParams;
use serde::{Deserialize, Serialize};

/// What an orchestrator did to a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeedDone {
    /// Monotonic ns.
    pub at_ns: u64,
    /// `abort`, `suspend`, `start-postcopy`, `downtime-limit`.
    pub deed: String,
    /// The limit that was set, ms; null of the others.
    #[serde(default)]
    pub downtime_limit_ms: Option<u64>,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// QMP's `dirty-sync-count` when it was decided; null of what went by the clock alone.
    #[serde(default)]
    pub iteration: Option<u64>,
    /// Bytes known dirty then.
    #[serde(default)]
    pub remaining_bytes: Option<u64>,
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
    /// Whether the engine left its links idle of itself: under a cap, while a post-copy had no connection, or asking for
    /// one page after another.
    #[must_use]
    pub fn pauses_on_purpose(&self) -> bool {
        let served = self.source_report.as_ref();
        let pulled = served.and_then(|report| report.postcopy.as_ref());
        let capped = self.params.postcopy.max_bandwidth > 0;
        self.params.max_bandwidth > 0
            || self.params.pages_on_demand()
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
