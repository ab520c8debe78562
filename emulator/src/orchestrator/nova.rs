//! OpenStack Nova's way with libvirt (`nova/virt/libvirt/migration.py`): the downtime limit in steps,
//! then a timeout.

use super::{Act, Deed, NS_PER_MS, gib};
use serde::{Deserialize, Serialize};

/// It looks twice a second.
pub(super) const POLL_MS: u64 = 500;
/// Smaller guests are taken for so many GiB.
const GIB_MIN: u64 = 2;

/// `[libvirt]` of nova.conf, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NovaParams {
    /// ms: the last step.
    pub live_migration_downtime: u64,
    /// How many steps.
    pub live_migration_downtime_steps: u32,
    /// ms a GiB between two steps.
    pub live_migration_downtime_delay: u64,
    /// ms a GiB; 0 is never.
    pub live_migration_completion_timeout: u64,
    /// What happens then.
    pub live_migration_timeout_action: TimeoutAction,
    /// Whether forcing is post-copy rather than stopping the guest.
    pub live_migration_permit_post_copy: bool,
}

/// `live_migration_timeout_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeoutAction {
    /// Cancel.
    #[default]
    Abort,
    /// Post-copy if permitted, else stop the guest.
    ForceComplete,
}

impl Default for NovaParams {
    fn default() -> Self {
        Self {
            live_migration_downtime: 500,
            live_migration_downtime_steps: 10,
            live_migration_downtime_delay: 75_000,
            live_migration_completion_timeout: 800_000,
            live_migration_timeout_action: TimeoutAction::Abort,
            live_migration_permit_post_copy: false,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Nova {
    params: NovaParams,
    gib: u64,
    begin_ns: u64,
    limit_ms: Option<u64>,
    forced: bool,
}

impl Nova {
    pub(super) fn new(params: NovaParams, ram_bytes: u64, now_ns: u64) -> Self {
        Self {
            params,
            gib: gib(ram_bytes, GIB_MIN),
            begin_ns: now_ns,
            limit_ms: None,
            forced: false,
        }
    }

    /// The limit after so long: step i of n, from downtime / n on in equal steps, a delay apart.
    fn limit_ms(&self, elapsed_ns: u64) -> Option<u64> {
        let steps = u64::from(self.params.live_migration_downtime_steps.max(1));
        let delay_ms = (self.params.live_migration_downtime_delay).saturating_mul(self.gib);
        let delay_ns = delay_ms.saturating_mul(NS_PER_MS).max(1);
        // A step counts once its instant is passed.
        let step = elapsed_ns.checked_sub(1)? / delay_ns;
        let (most, step) = (self.params.live_migration_downtime, step.min(steps));
        // base + offset × i with base = most / n and offset = (most − base) / n.
        let numerator = u128::from(most) * u128::from(steps + step * (steps - 1));
        u64::try_from(numerator / u128::from(steps * steps)).ok()
    }

    pub(super) fn look(&mut self, now_ns: u64) -> Option<Deed> {
        let elapsed_ns = now_ns.saturating_sub(self.begin_ns);
        let timeout_ms = (self.params.live_migration_completion_timeout).saturating_mul(self.gib);
        let timeout_ns = timeout_ms.saturating_mul(NS_PER_MS);
        if timeout_ns > 0 && elapsed_ns > timeout_ns && !self.forced {
            self.forced = true;
            let act = match self.params.live_migration_timeout_action {
                TimeoutAction::Abort => Act::Abort,
                TimeoutAction::ForceComplete if self.params.live_migration_permit_post_copy => {
                    Act::StartPostcopy
                }
                TimeoutAction::ForceComplete => Act::Suspend,
            };
            let elapsed_s = elapsed_ns / 1_000_000_000;
            return Some(act.since(format!("not completed after {elapsed_s} s")));
        }
        if self.forced {
            return None;
        }
        let limit_ms = self.limit_ms(elapsed_ns);
        if limit_ms == self.limit_ms {
            return None;
        }
        self.limit_ms = limit_ms;
        let why = format!(
            "a step of live-migration-downtime-steps, after {} s",
            elapsed_ns / 1_000_000_000
        );
        limit_ms.map(|ms| Act::DowntimeLimit(ms).since(why))
    }
}
