//! The driver's part for services and probes: both ends of a service are open while the clock runs.
//!
//! An end of a VM is in the VM's own process, at the VM's own address, so it stays open when the VM
//! moves: nothing has to be done here for a connection to survive. A prober asks as long as the clock
//! runs; what it saw of a move is asked for when the migration is over.

use super::RunError;
use super::driver::Driver;
use crate::control::message::{FromAgent, ProbeSeen, ToAgent, ToMachine};
use crate::event::EventKind;
use crate::ids::{HostId, MigrationId, ProbeId, ServiceId, VmId};
use crate::scenario::{Endpoint, Scenario};
use netmodel::topology::vm_address;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Whose process an end is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Host(HostId),
    Vm(VmId),
}

/// A service whose ends are open, or being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Open {
    /// Where it is answered, once that is known.
    to: Option<SocketAddr>,
    /// The client has been told.
    asking: bool,
}

/// The services of a run.
#[derive(Debug, Default)]
pub(super) struct ServiceBook {
    open: BTreeMap<ServiceId, Open>,
    /// From when on requests are due, monotonic ns; `None` while the clock is held.
    since_ns: Option<u64>,
    /// Clients opened so far: each draws its arrivals anew.
    drawn: u64,
}

/// VMs with an address of their own: those that answer, ask or are probed.
pub(crate) fn ports(scenario: &Scenario) -> BTreeSet<VmId> {
    let ends = scenario.services.iter();
    let ends = ends.flat_map(|service| [Endpoint::Vm(service.server), service.client]);
    let vms = ends.filter_map(|end| match end {
        Endpoint::Vm(vm) => Some(vm),
        Endpoint::Internet => None,
    });
    let probed = scenario.probes.iter().map(|probe| probe.vm);
    vms.chain(probed).collect()
}

impl Driver<'_> {
    fn client_of(&self, service: ServiceId) -> Option<Party> {
        match self.scenario.services[service.index()].client {
            Endpoint::Vm(vm) => Some(Party::Vm(vm)),
            Endpoint::Internet => self.scenario.network.internet.map(Party::Host),
        }
    }

    async fn tell_party(&mut self, party: Party, message: ToAgent) -> Result<(), RunError> {
        match party {
            Party::Host(host) => self.tell(host, message).await,
            Party::Vm(vm) => {
                let message = ToMachine::Vm(vm, Box::new(message));
                Ok(self.machine.send(&message).await?)
            }
        }
    }

    /// Opens the answering ends; nothing is asked before the clock runs.
    pub(super) async fn open_services(&mut self) -> Result<(), RunError> {
        for service in (0..).map(ServiceId).take(self.scenario.services.len()) {
            let vm = self.scenario.services[service.index()].server;
            self.services.open.insert(service, Open::default());
            let open = ToAgent::OpenServer { service, vm };
            self.tell_party(Party::Vm(vm), open).await?;
        }
        Ok(())
    }

    /// The clock runs from an instant on: requests are due.
    pub(super) async fn ask_services(&mut self, at_ns: u64) -> Result<(), RunError> {
        self.services.since_ns = Some(at_ns);
        for service in self.services.open.keys().copied().collect::<Vec<_>>() {
            self.open_client(service).await?;
        }
        for (probe, spec) in (0..).map(ProbeId).zip(&self.scenario.probes) {
            if let Some(to) = vm_address(spec.vm.0) {
                let open = ToAgent::OpenProbe {
                    probe,
                    to,
                    interval_ns: spec.interval_ns,
                };
                self.tell(spec.from, open).await?;
            }
        }
        Ok(())
    }

    /// Opens a service's client, if it is time and the server is there.
    async fn open_client(&mut self, service: ServiceId) -> Result<(), RunError> {
        let client = self.client_of(service);
        let (Some(open), Some(since_ns), Some(client)) = (
            self.services.open.get_mut(&service),
            self.services.since_ns,
            client,
        ) else {
            return Ok(());
        };
        let Some(to) = open.to else {
            return Ok(());
        };
        if std::mem::replace(&mut open.asking, true) {
            return Ok(());
        }
        self.services.drawn += 1;
        let spec = self.scenario.services[service.index()].clone();
        // Odd factors keep seed, service and span apart; what is drawn from it is mixed.
        let seed = self.scenario.seed
            ^ (u64::from(service.0) + 1).wrapping_mul(0xd134_2543_de82_ef95)
            ^ self.services.drawn.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let ask = ToAgent::OpenClient {
            service,
            to,
            spec: Box::new(spec),
            since_ns,
            seed,
        };
        self.tell_party(client, ask).await
    }

    pub(super) async fn close_services(&mut self) -> Result<(), RunError> {
        self.services.since_ns = None;
        for (probe, spec) in (0..).map(ProbeId).zip(&self.scenario.probes) {
            self.tell(spec.from, ToAgent::CloseProbe(probe)).await?;
        }
        for service in std::mem::take(&mut self.services.open).into_keys() {
            if let Some(client) = self.client_of(service) {
                self.tell_party(client, ToAgent::CloseClient(service))
                    .await?;
            }
            let server = self.scenario.services[service.index()].server;
            self.tell_party(Party::Vm(server), ToAgent::CloseServer(service))
                .await?;
        }
        Ok(())
    }

    /// A process said something of a service, or of a probe.
    pub(super) async fn heard_service(&mut self, message: FromAgent) -> Result<(), RunError> {
        match message {
            FromAgent::ServerReady {
                service,
                port: Ok(port),
            } => {
                let server = self.scenario.services[service.index()].server;
                let address = vm_address(server.0).map(|at| SocketAddr::new(IpAddr::V4(at), port));
                if let Some(open) = self.services.open.get_mut(&service) {
                    open.to = address;
                }
                self.open_client(service).await
            }
            FromAgent::ServerReady {
                service,
                port: Err(error),
            } => self.warn(format!("{service} could not be opened: {error}")),
            FromAgent::Answered {
                service,
                requests,
                cut,
                connections,
            } => {
                let due = requests.iter().map(|&(due_ns, _)| due_ns);
                let Some(since_ns) = due.chain(cut.iter().copied()).min() else {
                    return Ok(());
                };
                let us = |due_ns: u64| (due_ns - since_ns) / 1000;
                self.write(EventKind::Requests {
                    service,
                    since_ns,
                    answered: requests
                        .iter()
                        .map(|&(due, took)| (us(due), took))
                        .collect(),
                    cut: cut.iter().map(|&due_ns| us(due_ns)).collect(),
                    connections,
                })
            }
            FromAgent::Probed {
                migration,
                probe,
                seen,
            } => self.probed(migration, probe, seen),
            _ => Ok(()),
        }
    }

    /// Asks those who probe a VM what they saw of a migration that has moved it; how many will answer.
    pub(super) async fn read_probes(
        &mut self,
        migration: MigrationId,
        vm: VmId,
    ) -> Result<usize, RunError> {
        let mut asked = 0;
        for (probe, spec) in (0..).map(ProbeId).zip(&self.scenario.probes) {
            if spec.vm == vm && !self.lost.contains(&spec.from) {
                asked += 1;
                let read = ToAgent::ReadProbe { probe, migration };
                self.tell(spec.from, read).await?;
            }
        }
        Ok(asked)
    }

    /// A prober said what it saw of a move.
    fn probed(
        &mut self,
        migration: MigrationId,
        probe: ProbeId,
        seen: Option<ProbeSeen>,
    ) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get_mut(&migration) else {
            return Ok(());
        };
        ongoing.probed.push((probe, seen));
        ongoing.probes_left = ongoing.probes_left.saturating_sub(1);
        self.settle(migration)
    }
}
