//! The driver's part for services: both ends are open while the clock runs, the answering one where
//! its VM is.
//!
//! A service's connections do not survive a move: the source's end, the client is told where the VM
//! runs now as soon as it does, and asks again what was under way. Latency goes on counting.

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, ToAgent};
use crate::event::EventKind;
use crate::ids::{HostId, ServiceId};
use crate::scenario::Endpoint;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A service whose ends are open, or being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    server: HostId,
    client: HostId,
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

impl Driver<'_> {
    fn service_places(&self, service: ServiceId) -> Option<(HostId, HostId)> {
        let hosts = self.vm_hosts();
        let spec = &self.scenario.services[service.index()];
        let client = match spec.client {
            Endpoint::Vm(vm) => hosts[vm.index()],
            Endpoint::Internet => self.scenario.network.internet,
        };
        Some((hosts[spec.server.index()]?, client?))
    }

    /// Opens the answering ends; nothing is asked before the clock runs.
    pub(super) async fn open_services(&mut self) -> Result<(), RunError> {
        for service in (0..).map(ServiceId).take(self.scenario.services.len()) {
            if let Some((server, client)) = self.service_places(service) {
                let open = Open {
                    server,
                    client,
                    to: None,
                    asking: false,
                };
                self.services.open.insert(service, open);
                self.open_server(service, server).await?;
            }
        }
        Ok(())
    }

    async fn open_server(&mut self, service: ServiceId, host: HostId) -> Result<(), RunError> {
        let vm = self.scenario.services[service.index()].server;
        self.tell(host, ToAgent::OpenServer { service, vm }).await
    }

    /// The clock runs from an instant on: requests are due.
    pub(super) async fn ask_services(&mut self, at_ns: u64) -> Result<(), RunError> {
        self.services.since_ns = Some(at_ns);
        for service in self.services.open.keys().copied().collect::<Vec<_>>() {
            self.open_client(service).await?;
        }
        Ok(())
    }

    /// Opens a service's client, if it is time and the server is there; tells one that is open where
    /// the server is.
    async fn open_client(&mut self, service: ServiceId) -> Result<(), RunError> {
        let since_ns = self.services.since_ns;
        let open = self.services.open.get_mut(&service);
        let (Some(open), Some(since_ns)) = (open, since_ns) else {
            return Ok(());
        };
        let Some(to) = open.to else {
            return Ok(());
        };
        let client = open.client;
        if std::mem::replace(&mut open.asking, true) {
            return self.tell(client, ToAgent::Redirect { service, to }).await;
        }
        self.services.drawn += 1;
        let spec = self.scenario.services[service.index()].clone();
        let vm = match spec.client {
            Endpoint::Vm(vm) => Some(vm),
            Endpoint::Internet => None,
        };
        // Odd factors keep seed, service and span apart; what is drawn from it is mixed.
        let seed = self.scenario.seed
            ^ (u64::from(service.0) + 1).wrapping_mul(0xd134_2543_de82_ef95)
            ^ self.services.drawn.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let ask = ToAgent::OpenClient {
            service,
            to,
            spec: Box::new(spec),
            vm,
            since_ns,
            seed,
        };
        self.tell(client, ask).await
    }

    /// A VM runs elsewhere: its services are answered, or asked, from there on.
    pub(super) async fn follow_services(&mut self) -> Result<(), RunError> {
        for (service, open) in self.services.open.clone() {
            let Some((server, client)) = self.service_places(service) else {
                continue;
            };
            if client != open.client {
                self.tell(open.client, ToAgent::CloseClient(service))
                    .await?;
                let entry = self.services.open.get_mut(&service);
                if let Some(entry) = entry {
                    (entry.client, entry.asking) = (client, false);
                }
                self.services.since_ns = self.services.since_ns.map(|_| mono_ns());
                self.open_client(service).await?;
            }
            if server != open.server {
                self.tell(open.server, ToAgent::CloseServer(service))
                    .await?;
                if let Some(entry) = self.services.open.get_mut(&service) {
                    (entry.server, entry.to) = (server, None);
                }
                self.open_server(service, server).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn close_services(&mut self) -> Result<(), RunError> {
        self.services.since_ns = None;
        for (service, open) in std::mem::take(&mut self.services.open) {
            self.tell(open.client, ToAgent::CloseClient(service))
                .await?;
            self.tell(open.server, ToAgent::CloseServer(service))
                .await?;
        }
        Ok(())
    }

    /// An agent said something of a service.
    pub(super) async fn heard_service(
        &mut self,
        host: HostId,
        message: FromAgent,
    ) -> Result<(), RunError> {
        match message {
            FromAgent::ServerReady {
                service,
                port: Ok(port),
            } => {
                let to = SocketAddr::new(self.ready.addresses[host.index()].ip(), port);
                match self.services.open.get_mut(&service) {
                    Some(open) if open.server == host => open.to = Some(to),
                    _ => return Ok(()),
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
                })
            }
            _ => Ok(()),
        }
    }
}
