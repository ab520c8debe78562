//! The VMs of this host whose RAM is there, each with its threads.

use super::runtime::Runtime;
use crate::clock::mono_ns;
use crate::ids::VmId;
use crate::migration::guest::{GuestMemory, Reading};
use crate::resident::{GuestClock, Ram, Vcpus};
use replay::GuestTime;
use replay::clock::MonoNs;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a VM has come on this host.
struct VmClock {
    runtime: Arc<Runtime>,
    vm: VmId,
}

impl GuestClock for VmClock {
    fn running(&self, vcpu: u32) -> Option<GuestTime> {
        let now = MonoNs(mono_ns());
        self.runtime.running_vcpu_time(self.vm, vcpu, now)
    }

    fn caught_up(&self, vcpu: u32) {
        self.runtime
            .set_vcpu_waits(self.vm, vcpu, false, MonoNs(mono_ns()))
            .unwrap_or_else(|error| panic!("trace time goes on: {error}"));
    }
}

/// A VM's RAM and the threads that write it.
#[derive(Debug, Clone)]
pub(super) struct Resident {
    pub(super) ram: Arc<Ram>,
    pub(super) vcpus: Arc<Vcpus>,
}

/// Those on this host.
#[derive(Debug)]
pub(super) struct Residents {
    runtime: Arc<Runtime>,
    vms: Mutex<BTreeMap<VmId, Resident>>,
}

impl Residents {
    pub(super) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            vms: Mutex::default(),
        }
    }

    /// Takes in a VM's RAM and starts its threads; they write once the VM runs here. With `fill` RAM is
    /// first made what it is at `at`.
    pub(super) fn add(
        &self,
        vm: VmId,
        memory: &GuestMemory,
        ram: Arc<Ram>,
        vcpus: u32,
        at: &Reading,
        fill: bool,
    ) -> io::Result<()> {
        let clock: Arc<dyn GuestClock> = Arc::new(VmClock {
            runtime: Arc::clone(&self.runtime),
            vm,
        });
        let vcpus = Arc::new(Vcpus::start(memory, &ram, vcpus, at, fill, &clock)?);
        let resident = Resident { ram, vcpus };
        self.lock().insert(vm, resident);
        Ok(())
    }

    /// A VM's RAM, if it is there.
    pub(super) fn get(&self, vm: VmId) -> Option<Resident> {
        self.lock().get(&vm).cloned()
    }

    /// Gives a VM's RAM back; its threads end with the last who has it.
    pub(super) fn remove(&self, vm: VmId) {
        let gone = self.lock().remove(&vm);
        // Threads are waited for outside of the lock.
        drop(gone);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<VmId, Resident>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
