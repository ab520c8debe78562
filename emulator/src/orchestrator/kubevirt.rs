//! KubeVirt's migration monitor (`virt-launcher`, `live-migration-monitor.go`).
//!
//! ```text
//! pre-copy ── elapsed > acceptable ──► disruption allowed: post-copy if allowed, never touched again;
//!                                        else paused, until 2 × acceptable, then abort
//!                                      else: abort
//!          ── no less left than at the look before, for progressTimeout ──► abort (paused too)
//! ```
//!
//! Two parts that feature gates open in KubeVirt 1.9 (alpha): `tuning`, the downtime limit in steps (VEP 291), and
//! `stall`, which takes the place of all of the above (VEP 248). Never inside: VFIO's exceptions.

mod stall;
mod tuning;

pub use stall::StallDetectorParams;
pub use tuning::DowntimeTuningParams;

use super::{Act, Deed, Look, NS_PER_MS};
use serde::{Deserialize, Serialize};
use stall::StallMonitor;
use tuning::Tuning;

/// `monitorSleepPeriodMS`.
pub(super) const POLL_MS: u64 = 400;
const NS_PER_S: u64 = 1_000_000_000;
/// `completionTimeoutPerGiB` is multiplied by `Quantity.ScaledValue(Giga)`: 10⁹ bytes, rounded up.
const GIGA: u64 = 1_000_000_000;

/// `MigrationConfiguration`, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct KubevirtParams {
    /// ms; 0 is never.
    pub completion_timeout_per_gib: u64,
    /// ms; 0 is never.
    pub progress_timeout: u64,
    /// Migrations at once.
    pub parallel_migrations_per_cluster: u32,
    /// … and out of one host.
    pub parallel_outbound_migrations_per_node: u32,
    /// Bytes a second; 0 is unlimited. It is the migrations' `max-bandwidth`.
    pub bandwidth_per_migration: u64,
    /// It is the migrations' `auto-converge`.
    pub allow_auto_converge: bool,
    /// Whether the guest may be switched to post-copy, if it may be disrupted.
    pub allow_post_copy: bool,
    /// Whether the guest may be disrupted; as `allow_post_copy` if `None`.
    pub allow_workload_disruption: Option<bool>,
    /// `maxDowntimeMs`: the most that counts as no disruption. Only the next two look at it.
    pub max_downtime: u64,
    /// Gate `MigrationDowntimeTuning`.
    pub downtime_tuning: Option<DowntimeTuningParams>,
    /// Gate `MigrationStallDetection`.
    pub stall_detector: Option<StallDetectorParams>,
}

impl Default for KubevirtParams {
    fn default() -> Self {
        Self {
            completion_timeout_per_gib: 150_000,
            progress_timeout: 150_000,
            parallel_migrations_per_cluster: 5,
            parallel_outbound_migrations_per_node: 2,
            bandwidth_per_migration: 0,
            allow_auto_converge: false,
            allow_post_copy: false,
            allow_workload_disruption: None,
            max_downtime: 900,
            downtime_tuning: None,
            stall_detector: None,
        }
    }
}

impl KubevirtParams {
    fn disrupts(&self) -> bool {
        self.allow_workload_disruption
            .unwrap_or(self.allow_post_copy)
    }

    /// Whether a migration may be switched to post-copy: of a guest that may not be disrupted it may not, but for the
    /// stall detector, which does not ask when the completion timeout passes.
    pub(super) fn may_postcopy(&self) -> bool {
        self.allow_post_copy && (self.disrupts() || self.stall_detector.is_some())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    PreCopy,
    Paused,
    /// Nothing is done any more: in post-copy it can only be finished.
    Over,
}

#[derive(Debug, Clone)]
pub(super) struct Kubevirt {
    params: KubevirtParams,
    begin_ns: u64,
    acceptable_ms: u64,
    mode: Mode,
    /// What was left when it was looked at last.
    watermark: u64,
    progress_ns: u64,
    tuning: Option<Tuning>,
    stall: Option<StallMonitor>,
}

impl Kubevirt {
    pub(super) fn new(params: KubevirtParams, ram_bytes: u64, now_ns: u64) -> Self {
        let acceptable_ms =
            (params.completion_timeout_per_gib).saturating_mul(ram_bytes.div_ceil(GIGA));
        let tuning = (params.downtime_tuning).map(|of| Tuning::new(of, params.max_downtime));
        let stall = (params.stall_detector).map(|of| StallMonitor::new(of, &params, acceptable_ms));
        Self {
            params,
            begin_ns: now_ns,
            acceptable_ms,
            mode: Mode::PreCopy,
            watermark: 0,
            progress_ns: now_ns,
            tuning: tuning.filter(|_| stall.is_none()),
            stall,
        }
    }

    pub(super) fn look(&mut self, now_ns: u64, seen: &Look) -> Vec<Deed> {
        if self.mode == Mode::Over {
            return Vec::new();
        }
        let elapsed_ns = now_ns.saturating_sub(self.begin_ns);
        let deeds = match &mut self.stall {
            Some(stall) => stall.look(elapsed_ns, seen),
            // Nobody listens to the events of passes.
            None if seen.boundary => Vec::new(),
            None => {
                let tuned = (self.tuning.as_mut()).and_then(|tuning| tuning.look(now_ns, seen));
                let patient = self.patience(now_ns, elapsed_ns / NS_PER_S, seen);
                tuned.into_iter().chain(patient).collect()
            }
        };
        if deeds.iter().any(|deed| deed.act.is_last()) {
            self.mode = Mode::Over;
        }
        deeds
    }

    /// The monitor without the stall detector. It counts in whole seconds.
    fn patience(&mut self, now_ns: u64, elapsed_s: u64, seen: &Look) -> Option<Deed> {
        if self.watermark == 0 || seen.remaining_bytes < self.watermark {
            self.progress_ns = now_ns;
        }
        self.watermark = seen.remaining_bytes;
        let elapsed_ms = elapsed_s.saturating_mul(1000);
        let late = self.acceptable_ms > 0 && elapsed_ms > self.acceptable_ms;
        let stuck_s = now_ns.saturating_sub(self.progress_ns) / NS_PER_S;
        let patience_ms = self.params.progress_timeout;
        let timed_out = format!("not completed after {elapsed_s} s");
        if late && self.params.disrupts() && self.mode == Mode::PreCopy {
            if self.params.allow_post_copy {
                return Some(Act::StartPostcopy.since(timed_out));
            }
            self.mode = Mode::Paused;
            self.acceptable_ms = self.acceptable_ms.saturating_mul(2);
            return Some(Act::Suspend.since(timed_out));
        }
        if patience_ms > 0 && stuck_s.saturating_mul(1000) > patience_ms {
            return Some(Act::Abort.since(format!("stuck for {stuck_s} s")));
        }
        late.then(|| Act::Abort.since(timed_out))
    }
}

/// Whole ms, saturated.
fn whole_ms(ms: f64) -> u64 {
    let time = std::time::Duration::try_from_secs_f64(ms / 1000.0).ok();
    let ms = time.and_then(|time| u64::try_from(time.as_millis()).ok());
    ms.unwrap_or(u64::MAX)
}
