//! Where VMs are, and what hosts have left for more.

use super::Rejection;
use crate::ids::{HostId, VmId};
use serde::{Deserialize, Serialize};

/// Where a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The host; the source while the VM migrates; the last one when it is gone.
    pub host: HostId,
    /// RAM it takes there.
    pub ram_bytes: u64,
    /// vCPUs it has.
    pub vcpus: u32,
    /// Lost or stranded.
    pub gone: bool,
}

/// What a VM takes of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// RAM.
    pub ram_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
}

/// What a host admits, its overcommit limits included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// RAM of VMs.
    pub ram_bytes: u64,
    /// vCPUs of VMs; `None`: any number.
    pub vcpus: Option<u64>,
}

impl Room {
    /// Any number of vCPUs.
    #[must_use]
    pub fn of_ram(ram_bytes: u64) -> Self {
        let vcpus = None;
        Self { ram_bytes, vcpus }
    }

    /// What a host of a scenario admits.
    #[must_use]
    pub fn of(host: &crate::scenario::HostSpec) -> Self {
        Self {
            ram_bytes: host.admitted_bytes(),
            vcpus: host.admitted_vcpus(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Filling {
    pub(super) room: Room,
    pub(super) used_bytes: u64,
    pub(super) reserved_bytes: u64,
    /// Of VMs here and on their way here.
    pub(super) vcpus: u64,
    pub(super) running: u32,
    /// Of these, out of it.
    pub(super) outgoing: u32,
    pub(super) lost: bool,
}

impl Filling {
    /// Whether a VM may come.
    pub(super) fn admits(&self, vm: VmId, host: HostId, of: &Placement) -> Result<(), Rejection> {
        let taken = self.used_bytes + self.reserved_bytes;
        let free_bytes = self.room.ram_bytes.saturating_sub(taken);
        let needed_bytes = of.ram_bytes;
        if needed_bytes > free_bytes {
            return Err(Rejection::NoRam {
                vm,
                host,
                needed_bytes,
                free_bytes,
            });
        }
        let free = self.room.vcpus.map(|all| all.saturating_sub(self.vcpus));
        match free {
            Some(free) if u64::from(of.vcpus) > free => Err(Rejection::NoVcpus {
                vm,
                host,
                vcpus: of.vcpus,
                free,
            }),
            _ => Ok(()),
        }
    }
}
