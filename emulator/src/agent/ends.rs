//! The ends of services and probes in one process, a host's or a VM's.

use super::probe::Probes;
use super::service::{Asking, Closed, MakeWork, Services};
use super::tenant::Runs;
use crate::control::channel::{BlockingSender, ControlError};
use crate::control::message::{FromAgent, ToAgent};
use crate::ids::ServiceId;
use std::net::SocketAddr;
use std::sync::Arc;

/// Requests of one message: frames are bounded.
const REQUESTS_MAX: usize = 4096;

/// What this process answers and asks.
pub(super) struct Ends {
    services: Services,
    probes: Probes,
    /// Any port of this process's address.
    at: SocketAddr,
    congestion: String,
    out: Arc<BlockingSender>,
}

impl Ends {
    pub(super) fn new(at: SocketAddr, congestion: String, out: Arc<BlockingSender>) -> Self {
        Self {
            services: Services::default(),
            probes: Probes::new(Arc::clone(&out)),
            at,
            congestion,
            out,
        }
    }

    /// Tells what has been answered since the last time.
    pub(super) fn tell(&self) -> Result<(), ControlError> {
        for (service, answered) in self.services.answered() {
            self.answered(service, &answered)?;
        }
        Ok(())
    }

    fn answered(&self, service: ServiceId, answered: &Closed) -> Result<(), ControlError> {
        let parts = answered.requests.chunks(REQUESTS_MAX);
        let asked = parts.map(|requests| (requests.to_vec(), Vec::new()));
        let cut = answered.cut.chunks(REQUESTS_MAX);
        let cut = cut.map(|cut| (Vec::new(), cut.to_vec()));
        let mut connections = answered.connections;
        for (requests, cut) in asked.chain(cut) {
            self.out.send(&FromAgent::Answered {
                service,
                requests,
                cut,
                // In the first message alone.
                connections: std::mem::take(&mut connections),
            })?;
        }
        Ok(())
    }

    /// Does what a message asks of an end. `runs` tells whether the VM an end belongs to does; `work`
    /// gives a VM's process the CPU time that answers take.
    pub(super) fn obey(
        &mut self,
        message: ToAgent,
        runs: Runs,
        work: Option<MakeWork>,
    ) -> Result<(), ControlError> {
        match message {
            ToAgent::OpenServer { service, .. } => {
                let opened = match work {
                    Some(work) => self
                        .services
                        .open_server(service, work, (self.at, &self.congestion))
                        .map_err(|error| error.to_string()),
                    None => Err("a service is answered by its VM's own process".to_owned()),
                };
                self.out.send(&FromAgent::ServerReady {
                    service,
                    port: opened,
                })?;
            }
            ToAgent::OpenClient {
                service,
                to,
                spec,
                since_ns,
                seed,
                ..
            } => {
                let asking = Asking {
                    to,
                    spec: *spec,
                    since_ns,
                    seed,
                    congestion: self.congestion.clone(),
                };
                let opened = self.services.open_client(service, asking, runs);
                self.warn_of(service, opened)?;
            }
            ToAgent::CloseServer(service) => self.services.close_server(service),
            ToAgent::CloseClient(service) => {
                if let Some(closed) = self.services.close_client(service) {
                    self.answered(service, &closed)?;
                }
            }
            ToAgent::OpenProbe {
                probe,
                to,
                interval_ns,
            } => {
                let opened = self.probes.open(probe, to, interval_ns);
                self.warn_of(probe, opened)?;
            }
            ToAgent::ReadProbe { probe, migration } => self.probes.read(probe, migration)?,
            ToAgent::CloseProbe(probe) => self.probes.close(probe),
            _ => {}
        }
        Ok(())
    }

    fn warn_of<E: std::fmt::Display>(
        &self,
        what: impl std::fmt::Display,
        done: Result<(), E>,
    ) -> Result<(), ControlError> {
        match done {
            Ok(()) => Ok(()),
            Err(error) => self
                .out
                .send(&FromAgent::Warning(format!("{what}: {error}"))),
        }
    }
}
