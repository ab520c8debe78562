//! KubeVirt's migration monitor (`virt-launcher`, `live-migration-source.go`).
//!
//! ```text
//! pre-copy ── elapsed > acceptable ──► post-copy allowed: post-copy, never touched again
//!                                      disruption allowed: paused, until 2 × acceptable, then abort
//!                                      else: abort
//!          ── nothing gained for progressTimeout ──► abort (paused too)
//! ```

use super::{Deed, Look, NS_PER_MS, gib};
use serde::{Deserialize, Serialize};

/// `monitorSleepPeriodMS`.
pub(super) const POLL_MS: u64 = 400;

/// `MigrationConfiguration`, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether the guest may be switched to post-copy.
    pub allow_post_copy: bool,
    /// Whether the guest may be stopped; as `allow_post_copy` if `None`.
    pub allow_workload_disruption: Option<bool>,
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
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    PreCopy,
    Paused,
    PostCopy,
}

#[derive(Debug, Clone)]
pub(super) struct Kubevirt {
    params: KubevirtParams,
    acceptable_ns: u64,
    begin_ns: u64,
    mode: Mode,
    /// The least that was ever left.
    watermark: Option<u64>,
    progress_ns: u64,
}

impl Kubevirt {
    pub(super) fn new(params: KubevirtParams, ram_bytes: u64, now_ns: u64) -> Self {
        let acceptable_ms = params
            .completion_timeout_per_gib
            .saturating_mul(gib(ram_bytes, 1));
        Self {
            params,
            acceptable_ns: acceptable_ms.saturating_mul(NS_PER_MS),
            begin_ns: now_ns,
            mode: Mode::PreCopy,
            watermark: None,
            progress_ns: now_ns,
        }
    }

    pub(super) fn look(&mut self, now_ns: u64, seen: Look) -> Option<Deed> {
        if self.mode == Mode::PostCopy {
            return None; // it can only be finished
        }
        if (self.watermark).is_none_or(|least| seen.remaining_bytes < least) {
            self.watermark = Some(seen.remaining_bytes);
            self.progress_ns = now_ns;
        }
        let elapsed_ns = now_ns.saturating_sub(self.begin_ns);
        let over = |times: u64| {
            self.acceptable_ns > 0 && elapsed_ns > self.acceptable_ns.saturating_mul(times)
        };
        let disrupts = self
            .params
            .allow_workload_disruption
            .unwrap_or(self.params.allow_post_copy);
        let (late, given_up) = (over(1), over(2));
        if self.mode == Mode::PreCopy && late && self.params.allow_post_copy {
            self.mode = Mode::PostCopy;
            return Some(Deed::StartPostcopy);
        }
        if self.mode == Mode::PreCopy && late && disrupts {
            self.mode = Mode::Paused;
            return Some(Deed::Suspend);
        }
        if given_up || (late && self.mode == Mode::PreCopy) {
            let s = elapsed_ns / 1_000_000_000;
            let why = format!("not completed after {s} s");
            return Some(Deed::Abort { why });
        }
        let stuck_ns = now_ns.saturating_sub(self.progress_ns);
        let patience_ns = self.params.progress_timeout.saturating_mul(NS_PER_MS);
        (patience_ns > 0 && stuck_ns > patience_ns).then(|| Deed::Abort {
            why: format!("stuck for {} s", stuck_ns / 1_000_000_000),
        })
    }
}
