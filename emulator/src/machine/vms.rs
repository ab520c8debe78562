//! VMs with an address of their own, as PID 1 sees them: their ports follow what agents say of their
//! guests, and their processes are told. Never inside: what a port is (`netmodel::ports`).

use super::agents::Party;
use super::fabric::Network;
use super::init::Init;
use crate::control::message::{FromAgent, PROTOCOL, ToAgent, VmSetup};
use crate::ids::{HostId, VmId};
use anyhow::{Context, Result};
use netmodel::ports::Announce;
use netmodel::topology::{self, vm_address};

impl Init {
    /// Gives a VM a port and a process.
    pub(super) async fn open_port(
        &mut self,
        network: &mut Network,
        (vm, host): (VmId, HostId),
        congestion: &str,
    ) -> Result<()> {
        let namespace = network.open_port(vm, host)?;
        self.agents.start_vm(vm, namespace)?;
        let address = vm_address(vm.0).with_context(|| format!("{vm} has no address"))?;
        let setup = VmSetup {
            protocol: PROTOCOL,
            vm,
            address,
            host,
            congestion: congestion.to_owned(),
        };
        let setup = ToAgent::BeVm(Box::new(setup));
        self.agents.send(Party::Vm(vm), &setup).await;
        Ok(())
    }

    /// A VM was paused, or runs: its port follows at once, before anybody is told.
    pub(super) async fn follow_guest(
        &mut self,
        network: &Network,
        host: HostId,
        message: &FromAgent,
    ) -> Result<()> {
        let FromAgent::Runs { vm, runs, .. } = *message else {
            return Ok(());
        };
        let here = topology::HostId(host.0);
        let announce = self.announce.get(&vm).copied().unwrap_or(Announce::QEMU);
        let has = network.with_port(vm, |ports, vm| {
            if runs {
                ports.attach(vm, here, announce)
            } else {
                ports.detach(vm, here)
            }
        })?;
        if has {
            let runs = ToAgent::RunsAt(runs.then_some(host));
            self.agents.send(Party::Vm(vm), &runs).await;
        }
        Ok(())
    }

    /// A host is to get a VM: the way to its namespace is laid before it comes.
    pub(super) fn prepare_port(
        &mut self,
        network: &Network,
        host: HostId,
        message: &ToAgent,
    ) -> Result<()> {
        if let ToAgent::PrepareIncoming { vm, params, .. } = message {
            let to = topology::HostId(host.0);
            if network.with_port(vm.vm, |ports, vm| ports.prepare(vm, to))? {
                self.announce.insert(vm.vm, params.announcements());
            }
        }
        Ok(())
    }
}
