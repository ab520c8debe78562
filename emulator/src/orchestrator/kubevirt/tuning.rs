//! The downtime limit in steps (VEP 291, `tuneDowntime`): low at first, then up to `maxDowntimeMs` by equal steps,
//! a cooldown apart, once a few passes are done.

use super::{Act, Deed, Look, NS_PER_MS};
use serde::{Deserialize, Serialize};

/// `spec.experimental.downtimeTuning`, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DowntimeTuningParams {
    /// `initialMs`.
    pub initial: u64,
    /// Equal steps from there to `maxDowntimeMs`; 0 counts as 1.
    pub steps: u32,
    /// `MemIteration` (QEMU's dirty-sync-count) below which nothing is raised.
    pub start_after_iteration: u64,
    /// `cooldownSeconds`, ms: between two changes.
    pub cooldown: u64,
}

impl Default for DowntimeTuningParams {
    fn default() -> Self {
        Self {
            initial: 150,
            steps: 7,
            start_after_iteration: 3,
            cooldown: 10_000,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tuning {
    params: DowntimeTuningParams,
    max_ms: u64,
    /// The limit, and since when.
    now: Option<(u64, u64)>,
}

impl Tuning {
    pub(super) fn new(params: DowntimeTuningParams, max_ms: u64) -> Self {
        let initial = params.initial.min(max_ms);
        Self {
            params: DowntimeTuningParams { initial, ..params },
            max_ms,
            now: None,
        }
    }

    pub(super) fn look(&mut self, now_ns: u64, seen: &Look) -> Option<Deed> {
        let initial_ms = self.params.initial;
        let Some((limit_ms, since_ns)) = self.now else {
            self.now = Some((initial_ms, now_ns));
            return Some(Act::DowntimeLimit(initial_ms).since("downtime tuning: initial"));
        };
        let cooled_ns = since_ns.saturating_add(self.params.cooldown.saturating_mul(NS_PER_MS));
        if seen.iteration < self.params.start_after_iteration || now_ns < cooled_ns {
            return None;
        }
        let steps = u64::from(self.params.steps.max(1));
        let step_ms = ((self.max_ms - initial_ms) / steps).max(1);
        let raised_ms = limit_ms.saturating_add(step_ms).min(self.max_ms);
        if raised_ms <= limit_ms {
            return None;
        }
        self.now = Some((raised_ms, now_ns));
        let why = format!(
            "downtime tuning: raised by {} ms at iteration {}",
            raised_ms - limit_ms,
            seen.iteration
        );
        Some(Act::DowntimeLimit(raised_ms).since(why))
    }
}
