//! What a host is, what it refuses, and what it says of its load.

use super::{CoreWork, VmTotals};
use serde::{Deserialize, Serialize};

/// A host as the scenario describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostSpec {
    /// Cores, at least 1.
    pub cores: u32,
    /// Speed of a core, in thousandths of the reference core the traces are in.
    pub speed_milli: u32,
    /// RAM in pages of 4 KiB.
    pub ram_pages: u64,
    /// VMs' RAM that is admitted, in thousandths of the host's.
    pub ram_overcommit_milli: u32,
    /// VMs' vCPUs that are admitted, in thousandths of the cores; `None`: any number.
    pub cpu_overcommit_milli: Option<u32>,
}

impl HostSpec {
    /// VMs' RAM that is admitted, pages.
    #[must_use]
    pub fn admitted_pages(&self) -> u64 {
        let pages = u128::from(self.ram_pages) * u128::from(self.ram_overcommit_milli) / 1000;
        u64::try_from(pages).unwrap_or(u64::MAX)
    }

    /// vCPUs that are admitted, if there is a limit.
    #[must_use]
    pub fn admitted_vcpus(&self) -> Option<u64> {
        let limit = self.cpu_overcommit_milli?;
        Some(u64::from(self.cores) * u64::from(limit) / 1000)
    }
}

/// Something a host refuses. It is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A VM that is here already.
    #[error("VM {vm} is on this host already")]
    Present {
        /// Its key.
        vm: u64,
    },
    /// A VM that is not here.
    #[error("VM {vm} is not on this host")]
    Absent {
        /// Its key.
        vm: u64,
    },
    /// RAM is full.
    #[error(
        "VM {vm} needs {needed_pages} pages of RAM; {used_pages} of {admitted_pages} are in use \
         ({ram_pages} × {overcommit_milli}/1000)"
    )]
    Ram {
        /// Key of the VM.
        vm: u64,
        /// Pages it needs.
        needed_pages: u64,
        /// Pages of the VMs that are here.
        used_pages: u64,
        /// Pages admitted.
        admitted_pages: u64,
        /// Pages the host has.
        ram_pages: u64,
        /// Its overcommit limit.
        overcommit_milli: u32,
    },
    /// More vCPUs than are admitted.
    #[error(
        "VM {vm} has {vcpus} vCPUs; {used} of {admitted} are in use \
         ({cores} cores × {overcommit_milli}/1000)"
    )]
    Vcpus {
        /// Key of the VM.
        vm: u64,
        /// Its vCPUs.
        vcpus: u32,
        /// Those of the VMs that are here.
        used: u64,
        /// Admitted.
        admitted: u64,
        /// Cores of the host.
        cores: u32,
        /// Its overcommit limit.
        overcommit_milli: u32,
    },
    /// A VM without vCPUs, weight or demand for each.
    #[error(
        "VM {vm} has {vcpus} vCPUs, weight {weight} and {traces} CPU traces; the first two are at \
         least 1, and there is one trace or one for each vCPU"
    )]
    Shape {
        /// Its key.
        vm: u64,
        /// vCPUs.
        vcpus: u32,
        /// Traces.
        traces: usize,
        /// Weight.
        weight: u32,
    },
    /// An instant that has passed.
    #[error("the host is at trace instant {now} ns, {asked} ns has passed")]
    Passed {
        /// Where the host is.
        now: u64,
        /// What was asked for.
        asked: u64,
    },
}

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLoad {
    /// Capacity in thousandths of a reference core.
    pub capacity_milli: u64,
    /// Sum of the VMs' demands.
    pub demand_milli: u64,
    /// Sum of what they are granted.
    pub granted_milli: u64,
    /// What its VMs asked and got while they were here.
    pub totals: HostTotals,
}

/// Sums over time and over all VMs a host has had, each for its stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct HostTotals {
    /// Asked by the traces.
    pub demand: CoreWork,
    /// Served.
    pub granted: CoreWork,
    /// See [`VmTotals::steal`].
    pub steal: CoreWork,
    /// See [`VmTotals::waiting`].
    pub waiting: CoreWork,
    /// Time in which some VM was granted less than it asked for (the `some` of PSI).
    pub pressure_some_ns: u64,
}

impl HostTotals {
    pub(super) fn add(&mut self, before: &VmTotals, after: &VmTotals) {
        self.demand.0 += after.demand.0 - before.demand.0;
        self.granted.0 += after.granted.0 - before.granted.0;
        self.steal.0 += after.steal.0 - before.steal.0;
        self.waiting.0 += after.waiting.0 - before.waiting.0;
    }
}
