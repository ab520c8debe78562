//! Services: requests that a VM answers over the emulated network, and those who ask.
//!
//! Inside: one thread a connection at either end, the record of latencies. Never inside: what a
//! request costs the guest (`cpu`, `replay::host`), when services are open (`run::services`), where
//! their VMs are: addresses move with them.
//!
//! A request is a header (its length, the answer's, CPU time in ns: 4, 4 and 8 bytes, big endian) and
//! a body; the answer is a body.

mod client;
mod server;

pub(super) use client::{Client, Closed};
pub(super) use server::Server;

use super::tenant::Runs;
use crate::ids::ServiceId;
use crate::scenario::ServiceSpec;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

const HEADER: usize = 16;
/// Bodies are written and read in parts of this.
const CHUNK: usize = 64 << 10;
/// Threads of connections are shallow.
pub(super) const THREAD_STACK: usize = 128 << 10;

/// Has the VM do so many ns of CPU work and waits until it is done; false when it never will be.
pub(super) type Work = Box<dyn FnMut(u64) -> bool + Send>;
/// Gives each thread that answers a way to have work done.
pub(super) type MakeWork = Arc<dyn Fn() -> Work + Send + Sync>;

/// A service's end could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    /// No socket.
    #[error(transparent)]
    Socket(#[from] super::net::SocketError),
    /// No thread.
    #[error("service: {0}")]
    Io(#[from] io::Error),
}

/// The ends of services on this host.
#[derive(Default)]
pub(super) struct Services {
    servers: BTreeMap<ServiceId, Server>,
    clients: BTreeMap<ServiceId, Client>,
}

/// What a client is to do.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    /// Where the server listens.
    pub to: SocketAddr,
    /// The service.
    pub spec: ServiceSpec,
    /// When the first request may be due, monotonic ns.
    pub since_ns: u64,
    /// Of the arrivals.
    pub seed: u64,
    /// Congestion control.
    pub congestion: String,
}

impl Services {
    /// Listens for requests of a VM; returns the port.
    pub(super) fn open_server(
        &mut self,
        service: ServiceId,
        work: MakeWork,
        (at, congestion): (SocketAddr, &str),
    ) -> Result<u16, ServiceError> {
        let server = Server::open(work, at, congestion)?;
        let port = server.port();
        self.servers.insert(service, server);
        Ok(port)
    }

    /// Stops answering.
    pub(super) fn close_server(&mut self, service: ServiceId) {
        drop(self.servers.remove(&service));
    }

    /// Begins to ask.
    pub(super) fn open_client(
        &mut self,
        service: ServiceId,
        asking: Asking,
        runs: Runs,
    ) -> Result<(), ServiceError> {
        self.clients.insert(service, Client::open(asking, runs)?);
        Ok(())
    }

    /// Stops asking; what has not been answered is cut.
    pub(super) fn close_client(&mut self, service: ServiceId) -> Option<Closed> {
        self.clients.remove(&service).map(Client::close)
    }

    /// What has been answered since the last time.
    pub(super) fn answered(&self) -> Vec<(ServiceId, Closed)> {
        self.clients
            .iter()
            .map(|(&service, client)| (service, client.answered()))
            .filter(|(_, answered)| !answered.requests.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests;
