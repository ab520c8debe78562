//! A policy's scratch copy of the cluster: loads and room as they will be once the migrations under
//! way, and those it is about to ask for, are done.
//!
//! A host's load is the sum of the VMs placed on it, each averaged over the window, and not the
//! host's own average: that one lags behind a move by a whole window and makes a policy move twice.

use crate::balance::view::{Action, View, VmView};
use crate::ids::{HostId, VmId};
use std::collections::BTreeMap;

/// A host in the sketch.
#[derive(Debug, Clone)]
pub(super) struct HostSketch {
    pub(super) id: HostId,
    /// In reference cores.
    capacity: f64,
    used: f64,
    /// RAM that may still be promised. What leaves is not counted as free before it has left.
    ram_free: u64,
    /// vCPUs likewise; `None`: any number.
    vcpus_free: Option<u64>,
    /// VMs that will be here.
    pub(super) vms: u32,
}

impl HostSketch {
    pub(super) fn load(&self) -> f64 {
        self.used / self.capacity
    }

    pub(super) fn load_without(&self, vm: &VmView) -> f64 {
        (self.used - vm.cpu_used) / self.capacity
    }

    pub(super) fn load_with(&self, vm: &VmView) -> f64 {
        (self.used + vm.cpu_used) / self.capacity
    }

    pub(super) fn fits(&self, vm: &VmView) -> bool {
        let vcpus = u64::from(vm.vcpus);
        vm.ram_bytes <= self.ram_free && self.vcpus_free.is_none_or(|free| vcpus <= free)
    }
}

/// The cluster as it will be.
pub(super) struct Sketch<'a> {
    pub(super) hosts: BTreeMap<HostId, HostSketch>,
    /// VMs that may be moved, by the host they are on.
    movable: BTreeMap<HostId, Vec<&'a VmView>>,
}

impl<'a> Sketch<'a> {
    /// Hosts without cores (a host that has been lost) take no part.
    pub(super) fn new(view: &'a View) -> Self {
        let mut hosts: BTreeMap<HostId, HostSketch> = view
            .hosts
            .iter()
            .filter(|host| host.cores > 0)
            .map(|host| {
                let ram_free = host.ram_admitted_bytes.saturating_sub(host.ram_used_bytes);
                let vcpus_free = host.vcpus_admitted;
                let vcpus_free = vcpus_free.map(|all| all.saturating_sub(host.vcpus_used));
                (
                    host.id,
                    HostSketch {
                        id: host.id,
                        capacity: host.capacity(),
                        used: 0.0,
                        ram_free,
                        vcpus_free,
                        vms: 0,
                    },
                )
            })
            .collect();
        let heading: BTreeMap<VmId, HostId> = view
            .migrations
            .iter()
            .map(|m| (m.vm, m.destination))
            .collect();
        let mut movable: BTreeMap<HostId, Vec<&VmView>> = BTreeMap::new();
        for vm in view.vms.iter().filter(|vm| !vm.gone) {
            let home = heading.get(&vm.id).copied().unwrap_or(vm.host);
            if let Some(host) = hosts.get_mut(&home) {
                host.used += vm.cpu_used;
                host.vms += 1;
            }
            if !vm.migrating && !heading.contains_key(&vm.id) {
                movable.entry(vm.host).or_default().push(vm);
            }
        }
        Self { hosts, movable }
    }

    /// The VMs of a host that may be moved, in the order of the view.
    pub(super) fn movable(&self, host: HostId) -> &[&'a VmView] {
        self.movable.get(&host).map_or(&[], Vec::as_slice)
    }

    /// Hosts by load, least first; equal loads by id.
    pub(super) fn by_load(&self) -> Vec<HostId> {
        let mut ids: Vec<_> = self.hosts.keys().copied().collect();
        ids.sort_by(|a, b| {
            self.hosts[a]
                .load()
                .total_cmp(&self.hosts[b].load())
                .then(a.cmp(b))
        });
        ids
    }

    /// Books a move and returns the action that asks for it.
    pub(super) fn book(&mut self, vm: &VmView, destination: HostId, reason: String) -> Action {
        if let Some(source) = self.hosts.get_mut(&vm.host) {
            // Sums of floats: what is left of an emptied host must not be less than nothing.
            source.used = (source.used - vm.cpu_used).max(0.0);
            source.vms = source.vms.saturating_sub(1);
        }
        if let Some(host) = self.hosts.get_mut(&destination) {
            host.used += vm.cpu_used;
            host.ram_free = host.ram_free.saturating_sub(vm.ram_bytes);
            let vcpus = u64::from(vm.vcpus);
            host.vcpus_free = host.vcpus_free.map(|free| free.saturating_sub(vcpus));
            host.vms += 1;
        }
        if let Some(list) = self.movable.get_mut(&vm.host) {
            list.retain(|other| other.id != vm.id);
        }
        Action::Migrate {
            vm: vm.id,
            destination,
            reason,
        }
    }
}
