//! What stands above an engine and has patience for it: the orchestrators' policies. Pure.
//!
//! Inside: when a migration that takes too long is cancelled, suspended or switched to post-copy, and
//! when its downtime limit is raised; each as its original decides, with the original's defaults. Time
//! is an argument. Never inside: doing any of it (`run/patience`), engines' own decisions.

mod deed;
mod kubevirt;
mod libvirt;
mod nova;
#[cfg(test)]
mod tests;

pub use deed::{Act, Deed};
pub use kubevirt::{DowntimeTuningParams, KubevirtParams, StallDetectorParams};
pub use libvirt::{LibvirtParams, OnTimeout};
pub use nova::{NovaParams, TimeoutAction};

use crate::balance::moves::Limits;
use kubevirt::Kubevirt;
use libvirt::Libvirt;
use nova::Nova;
use serde::{Deserialize, Serialize};

const NS_PER_MS: u64 = 1_000_000;
const GIB: u64 = 1 << 30;

/// Whose policy.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrchestratorSpec {
    /// `completion-timeout` of `[migration]`, and nothing else.
    #[default]
    Timeout,
    /// KubeVirt's.
    Kubevirt(KubevirtParams),
    /// Nova's.
    Nova(NovaParams),
    /// That of `virsh migrate --timeout`.
    Libvirt(LibvirtParams),
}

impl OrchestratorSpec {
    /// Its name in scenarios.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Kubevirt(_) => "kubevirt",
            Self::Nova(_) => "nova",
            Self::Libvirt(_) => "libvirt",
        }
    }

    /// How many migrations it lets run at once, where it has limits of its own.
    #[must_use]
    pub fn limits(&self, of_scenario: Limits) -> Limits {
        match self {
            Self::Kubevirt(params) => Limits {
                parallel: params.parallel_migrations_per_cluster,
                parallel_per_host: u32::MAX,
                outbound_per_host: Some(params.parallel_outbound_migrations_per_node),
            },
            _ => of_scenario,
        }
    }

    /// Whether it may switch a migration to post-copy.
    #[must_use]
    pub fn wants_postcopy(&self) -> bool {
        match self {
            Self::Timeout => false,
            Self::Kubevirt(params) => params.may_postcopy(),
            Self::Nova(params) => {
                params.live_migration_timeout_action == TimeoutAction::ForceComplete
                    && params.live_migration_permit_post_copy
            }
            Self::Libvirt(params) => params.on_timeout == OnTimeout::Postcopy,
        }
    }

    /// Its time with a migration of so much RAM, of which QMP's `setup` began at `setup_ns`. All of the originals
    /// start their clock as they give the command to libvirt, whose own work before QEMU's `setup` is not
    /// emulated; so does whoever cancels by hand over QMP. `timeout_ms` is `completion-timeout` of `[migration]`.
    #[must_use]
    pub fn begin(&self, ram_bytes: u64, timeout_ms: Option<u64>, setup_ns: u64) -> Time {
        let patience = Patience::new(self, ram_bytes, setup_ns);
        match patience.zip(self.poll_ns()) {
            Some((patience, poll_ns)) => Time::Looks {
                patience,
                at_ns: setup_ns.saturating_add(poll_ns),
            },
            None => Time::CancelAt(
                timeout_ms.map(|ms| setup_ns.saturating_add(ms.saturating_mul(NS_PER_MS))),
            ),
        }
    }

    /// Whether it looks at the end of each pass too, and then waits as long as ever for the next look.
    #[must_use]
    pub fn minds_passes(&self) -> bool {
        matches!(self, Self::Kubevirt(params) if params.stall_detector.is_some())
    }

    /// How often it looks, ns; `None`: never.
    #[must_use]
    pub fn poll_ns(&self) -> Option<u64> {
        match self {
            Self::Timeout => None,
            Self::Kubevirt(_) => Some(kubevirt::POLL_MS * NS_PER_MS),
            Self::Nova(_) => Some(nova::POLL_MS * NS_PER_MS),
            Self::Libvirt(_) => Some(libvirt::POLL_MS * NS_PER_MS),
        }
    }
}

/// When something is done about a migration.
#[derive(Debug, Clone)]
pub enum Time {
    /// Whenever the policy has looked and says so.
    Looks {
        /// The policy.
        patience: Patience,
        /// When it looks first, ns.
        at_ns: u64,
    },
    /// It is cancelled then, ns; `None`: never.
    CancelAt(Option<u64>),
}

/// What it sees of a migration: `query-migrate`, at a look or as an event of a pass has come.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Look {
    /// Bytes known dirty.
    pub remaining_bytes: u64,
    /// QMP's `dirty-sync-count`, libvirt's `MemIteration`.
    pub iteration: u64,
    /// `mbps` of the last 100 ms window as bytes/s; 0 until there was one.
    pub bandwidth: f64,
    /// The guest is stopped for the switchover.
    pub paused: bool,
    /// The log was just read: QMP's `MIGRATION_PASS`.
    pub boundary: bool,
}

/// The policy at work on one migration.
#[derive(Debug, Clone)]
pub struct Patience(Of);

#[derive(Debug, Clone)]
enum Of {
    Kubevirt(Box<Kubevirt>),
    Nova(Nova),
    Libvirt(Libvirt),
}

impl Patience {
    /// A migration of so much RAM that begins now; `None` where there is no policy.
    #[must_use]
    pub fn new(spec: &OrchestratorSpec, ram_bytes: u64, now_ns: u64) -> Option<Self> {
        Some(Self(match spec {
            OrchestratorSpec::Timeout => return None,
            OrchestratorSpec::Kubevirt(params) => {
                Of::Kubevirt(Box::new(Kubevirt::new(*params, ram_bytes, now_ns)))
            }
            OrchestratorSpec::Nova(params) => Of::Nova(Nova::new(*params, ram_bytes, now_ns)),
            OrchestratorSpec::Libvirt(params) => Of::Libvirt(Libvirt::new(*params, now_ns)),
        }))
    }

    /// Looks; to be asked every [`OrchestratorSpec::poll_ns`], and at passes.
    pub fn look(&mut self, now_ns: u64, seen: &Look) -> Vec<Deed> {
        match &mut self.0 {
            Of::Kubevirt(policy) => policy.look(now_ns, seen),
            Of::Nova(_) | Of::Libvirt(_) if seen.boundary => Vec::new(),
            Of::Nova(policy) => policy.look(now_ns).into_iter().collect(),
            Of::Libvirt(policy) => policy.look(now_ns).into_iter().collect(),
        }
    }
}

/// RAM in whole GiB, at least so many.
fn gib(ram_bytes: u64, least: u64) -> u64 {
    ram_bytes.div_ceil(GIB).max(least)
}
