//! What a balancer sees, and what it may ask for.

use crate::ids::{HostId, MigrationId, VmId};
use serde::{Deserialize, Serialize};

/// The cluster as a real balancer would see it: loads sampled over its own window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Decisions so far.
    pub tick: u64,
    /// Trace time, ns.
    pub t_ns: u64,
    /// All hosts, by id.
    pub hosts: Vec<HostView>,
    /// All VMs, by id.
    pub vms: Vec<VmView>,
    /// Migrations queued or under way.
    pub migrations: Vec<MigrationView>,
}

/// One host, averaged over the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    /// Which.
    pub id: HostId,
    /// Cores; 0 of a host that has been lost.
    pub cores: u32,
    /// Speed of a core; 1 is the reference core that `cpu_used` and `cpu_demand` are in.
    pub speed: f64,
    /// RAM.
    pub ram_bytes: u64,
    /// RAM of VMs that is admitted: `ram_bytes` times the overcommit limit.
    pub ram_admitted_bytes: u64,
    /// vCPUs of VMs that are admitted; `None`: any number.
    pub vcpus_admitted: Option<u64>,
    /// vCPUs of the VMs placed on it, incoming ones included.
    pub vcpus_used: u64,
    /// RAM of the VMs placed on it, incoming ones included.
    pub ram_used_bytes: u64,
    /// Cores granted to its VMs.
    pub cpu_used: f64,
    /// Cores its VMs asked for.
    pub cpu_demand: f64,
    /// Share of the window in which some VM wanted more than it got.
    pub pressure_some: f64,
    /// Bits a second of its link to the switch; `None` is unshaped.
    pub link_bps: Option<u64>,
    /// Latest samples of `cpu_used / (cores × speed)`, oldest first (for policies that look at history).
    pub history: Vec<f64>,
}

impl HostView {
    /// What its cores come to, in reference cores.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        f64::from(self.cores) * self.speed
    }
}

/// One VM, averaged over the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// Which.
    pub id: VmId,
    /// Where it is (its source while it migrates).
    pub host: HostId,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// RAM.
    pub ram_bytes: u64,
    /// Cores granted.
    pub cpu_used: f64,
    /// Cores asked for.
    pub cpu_demand: f64,
    /// It is being migrated or is queued for it.
    pub migrating: bool,
    /// Lost or stranded: nothing can be done with it.
    pub gone: bool,
}

/// A migration queued or under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationView {
    /// Which.
    pub id: MigrationId,
    /// VM.
    pub vm: VmId,
    /// From.
    pub source: HostId,
    /// To.
    pub destination: HostId,
    /// Has begun.
    pub running: bool,
}

/// What a balancer asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Move a VM.
    Migrate {
        /// Which.
        vm: VmId,
        /// Where to.
        destination: HostId,
        /// Why, for the record.
        reason: String,
    },
    /// Stop a migration.
    Cancel {
        /// Which.
        migration: MigrationId,
    },
}

/// A balancing policy.
pub trait Policy: Send {
    /// Its name in scenarios and results.
    fn name(&self) -> &str;
    /// What to do now. Called once per tick; order of the answer is the order of execution.
    fn decide(&mut self, view: &View) -> Vec<Action>;
}
