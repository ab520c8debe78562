//! The stall detector (VEP 248, `stall-detector.go`): when passes gain nothing any more, the switch is forced where
//! little is left.
//!
//! ```text
//! a pass ends ── as much left as at best `stall-progress-timeout` ago, less `stall-margin` ──► stalled
//! stalled, a pass ends with as little as the best since, plus `stall-margin`:
//!     disruption and post-copy allowed ──► post-copy
//!     disruption allowed               ──► downtime limit 2,000 s
//!     it would take ≤ 1.5 × max-downtime ► downtime limit max-downtime
//!     else                             ──► abort
//! not met for a while (40 s, then half as long each time): the next best will do
//! ```
//!
//! Bandwidth is smoothed over looks between passes. A switch that has not happened `switchover-timeout` after it was
//! asked for is an abort. Time of passes is libvirt's `TimeElapsed`, the rest the monitor's own clock in whole
//! seconds; both start with `setup` here.

mod detector;

use super::{Act, Deed, KubevirtParams, Look, NS_PER_MS, NS_PER_S, whole_ms};
use detector::Detector;
use serde::{Deserialize, Serialize};

/// `QEMUMaxMigrationDowntimeMS`.
const DOWNTIME_MAX_MS: u64 = 2_000_000;
/// `QEMUDefaultTargetDowntimeMS`.
const DOWNTIME_DEFAULT_MS: u64 = 300;

/// `spec.experimental.stallDetector`, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StallDetectorParams {
    /// Per cent.
    pub stall_margin: u32,
    /// ms.
    pub stall_progress_timeout: u64,
    /// ms, from the switch that was asked for.
    pub switchover_timeout: u64,
    /// Weight of a new sample of the bandwidth.
    pub ewma_alpha: f64,
    /// Times `max-downtime` that are still worth waiting for luck.
    pub precopy_possible_factor: f64,
    /// Of each wait for the best to come again.
    pub patience_window_decay_factor: f64,
    /// Whether to wait for it at all.
    pub search_local_minima: bool,
    /// Times the completion timeout within which a forced switch has to be through.
    pub completion_timeout_factor: f64,
}

impl Default for StallDetectorParams {
    fn default() -> Self {
        Self {
            stall_margin: 4,
            stall_progress_timeout: 40_000,
            switchover_timeout: 60_000,
            ewma_alpha: 0.4,
            precopy_possible_factor: 1.5,
            patience_window_decay_factor: 0.5,
            search_local_minima: true,
            completion_timeout_factor: 2.0,
        }
    }
}

/// The monitor with the detector.
#[derive(Debug, Clone)]
pub(super) struct StallMonitor {
    params: StallDetectorParams,
    allow_post_copy: bool,
    disrupts: bool,
    max_downtime_ms: u64,
    detector: Detector,
    /// Bytes/s; 0: not seen yet.
    bandwidth: f64,
    /// What was left at the last pass, or now if the guest is stopped.
    remaining_bytes: u64,
    acceptable_ms: u64,
    switchover_deadline_ms: u64,
    switchover_initiated: bool,
    limit_set: bool,
}

impl StallMonitor {
    pub(super) fn new(
        params: StallDetectorParams,
        of: &KubevirtParams,
        acceptable_ms: u64,
    ) -> Self {
        Self {
            params,
            allow_post_copy: of.allow_post_copy,
            disrupts: of.disrupts(),
            max_downtime_ms: of.max_downtime,
            detector: Detector::new(params),
            bandwidth: 0.0,
            remaining_bytes: 0,
            acceptable_ms,
            switchover_deadline_ms: acceptable_ms,
            switchover_initiated: false,
            limit_set: false,
        }
    }

    pub(super) fn look(&mut self, elapsed_ns: u64, seen: &Look) -> Vec<Deed> {
        let mut deeds = Vec::new();
        if !self.limit_set {
            self.limit_set = true;
            let act = Act::DowntimeLimit(self.max_downtime_ms.min(DOWNTIME_DEFAULT_MS));
            deeds.push(act.since("stall detector: initial"));
        }
        let elapsed_s_ms = elapsed_ns / NS_PER_S * 1000;
        if seen.boundary {
            self.remaining_bytes = seen.remaining_bytes;
            let elapsed_ms = elapsed_ns / NS_PER_MS;
            let may = self.bandwidth > 0.0 && !self.switchover_initiated;
            if may && self.detector.stalled(elapsed_ms, seen.remaining_bytes) {
                deeds.extend(self.decide(elapsed_s_ms));
            }
        } else if seen.paused {
            self.remaining_bytes = seen.remaining_bytes;
        } else if seen.bandwidth > 0.0 {
            let alpha = self.params.ewma_alpha;
            self.bandwidth = if self.bandwidth > 0.0 {
                alpha * seen.bandwidth + (1.0 - alpha) * self.bandwidth
            } else {
                seen.bandwidth
            };
        }
        if !deeds.iter().any(|deed| deed.act.is_last()) {
            deeds.extend(self.timeout(elapsed_s_ms, seen.paused));
        }
        deeds
    }

    /// How long what is left would take, whole ms.
    fn implied_downtime_ms(&self) -> f64 {
        if self.bandwidth > 0.0 {
            (self.remaining_bytes as f64 / (self.bandwidth / 1000.0)).floor()
        } else {
            0.0
        }
    }

    /// The completion timeout with its factor, in whole seconds.
    fn deadline_ms(&self) -> f64 {
        let s = self.acceptable_ms as f64 / 1000.0 * self.params.completion_timeout_factor;
        s.floor() * 1000.0
    }

    fn can_finish(&self, elapsed_ms: u64) -> bool {
        let budget_ms = self.deadline_ms() - elapsed_ms as f64;
        self.bandwidth > 0.0 && self.implied_downtime_ms() <= budget_ms
    }

    /// `decideAction`, at the end of a pass while stalled.
    fn decide(&mut self, elapsed_ms: u64) -> Option<Deed> {
        let here = !self.params.search_local_minima || self.detector.at_best(self.remaining_bytes);
        if !here || !self.can_finish(elapsed_ms) {
            return None;
        }
        self.switchover_initiated = true;
        let (implied_ms, most_ms) = (self.implied_downtime_ms(), self.max_downtime_ms as f64);
        let stalled = format!("stalled: what is left would take {implied_ms} ms");
        if self.disrupts && self.allow_post_copy {
            return Some(Act::StartPostcopy.since(stalled));
        }
        let factor = self.params.precopy_possible_factor.max(1.0);
        let (limit_ms, why) = if self.disrupts {
            (DOWNTIME_MAX_MS, format!("{stalled}; hard stop-and-copy"))
        } else if implied_ms <= most_ms * factor {
            let why = format!("{stalled}, within {factor} × {most_ms} ms; soft stop-and-copy");
            (self.max_downtime_ms, why)
        } else {
            let why = format!("{stalled}, over {factor} × {most_ms} ms");
            return Some(Act::Abort.since(why));
        };
        self.switchover_deadline_ms = elapsed_ms.saturating_add(self.params.switchover_timeout);
        Some(Act::DowntimeLimit(limit_ms).since(why))
    }

    /// `processCompletionTimeouts`.
    fn timeout(&mut self, elapsed_ms: u64, paused: bool) -> Option<Deed> {
        let deadline_ms = if paused {
            self.acceptable_ms
        } else {
            self.switchover_deadline_ms
        };
        if self.acceptable_ms == 0 || elapsed_ms <= deadline_ms {
            return None;
        }
        let timed_out = format!("not completed after {} s", elapsed_ms / 1000);
        if !self.switchover_initiated && self.can_finish(elapsed_ms) {
            if self.allow_post_copy {
                self.switchover_initiated = true;
                return Some(Act::StartPostcopy.since(timed_out));
            }
            if self.disrupts {
                self.switchover_initiated = true;
                self.acceptable_ms = whole_ms(self.deadline_ms());
                self.switchover_deadline_ms =
                    elapsed_ms.saturating_add(self.params.switchover_timeout);
                let act = Act::DowntimeLimit(DOWNTIME_MAX_MS);
                return Some(act.since(format!("{timed_out}; hard stop-and-copy")));
            }
        }
        Some(Act::Abort.since(timed_out))
    }
}
