//! The network of a scenario.

use crate::ids::HostId;
use netmodel::backend::{BackendKind, CannotCarry};
use netmodel::link::LinkSpec;
use netmodel::schedule::Schedule;
use netmodel::topology::{Link, Topology};
use netmodel::units::ByteSize;
use serde::{Deserialize, Serialize};

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Backend asked for; `None` is `auto`, any that can carry every link.
    pub backend: Option<BackendKind>,
    /// Hosts, by [`HostId`], switches and the links between them.
    pub topology: Topology,
    /// The host of the topology that stands for everything outside. It comes after all hosts of the scenario, so its
    /// number is how many those are: no VM is ever on it, no balancer sees it.
    pub internet: Option<HostId>,
    /// How links change.
    pub schedule: Schedule,
    /// Congestion control of every socket.
    pub congestion: String,
    /// What every socket's send buffer is before TCP has tuned it; `None` is Linux's 16 KiB.
    #[serde(default)]
    pub send_buffer: Option<ByteSize>,
    /// How far TCP may tune it; `None` is Linux's 4 MiB, or twice what the fattest and longest path holds if that is more.
    #[serde(default)]
    pub send_buffer_max: Option<ByteSize>,
    /// The same of receive buffers; Linux's 6 MiB.
    #[serde(default)]
    pub receive_buffer_max: Option<ByteSize>,
}

impl NetworkSpec {
    /// The links a transfer crosses.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> Vec<&Link> {
        let path = self.topology.path(net_host(from), net_host(to));
        path.into_iter().map(|id| self.topology.link(id)).collect()
    }

    /// The first link, or change of one, that a backend cannot carry.
    ///
    /// # Errors
    /// With what the link asks that the backend cannot do.
    pub fn check(&self, backend: BackendKind) -> Result<(), CannotCarry> {
        backend.check_all(&self.topology)?;
        let mut changes = self.schedule.changes().iter();
        changes.try_for_each(|change| {
            let name = &self.topology.link(change.link).name;
            backend.check(name, &change.spec)
        })
    }

    /// The backend asked for, as scenarios spell it.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.backend.map_or("auto", BackendKind::name)
    }

    /// Name of a host of the network that stands for no emulated host.
    #[must_use]
    pub fn outside_name(&self, host: HostId) -> Option<&'static str> {
        (self.internet == Some(host)).then_some(INTERNET)
    }

    /// Out of a host.
    #[must_use]
    pub fn up(&self, host: HostId) -> &LinkSpec {
        &self.topology.uplink(net_host(host)).spec
    }

    /// Into a host.
    #[must_use]
    pub fn down(&self, host: HostId) -> &LinkSpec {
        &self.topology.downlink(net_host(host)).spec
    }
}

/// Name of the host that stands for everything outside, and of that end of a tenant flow.
pub const INTERNET: &str = "internet";

/// A host as the network numbers it.
#[must_use]
pub fn net_host(host: HostId) -> netmodel::topology::HostId {
    netmodel::topology::HostId(host.0)
}
