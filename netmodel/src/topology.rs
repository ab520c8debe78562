//! Hosts, switches and directed links, and which links a packet crosses.
//!
//! A cable between two places is two links, one each way, because the ways may differ. Identifiers are dense
//! and ordered, so that everything made from a topology comes out in the same order. No kernel, no clock.

mod build;
mod routes;
mod shapes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::build::Builder;
use self::routes::Routes;
pub use self::shapes::{Rack, Site};
use crate::delivery::DeliveryTrace;
use crate::link::LinkSpec;

/// An emulated host, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(pub u32);

/// A switch, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SwitchId(pub u32);

/// One direction of a link, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinkId(pub u32);

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// An emulated host's network card.
    Host(HostId),
    /// A port of a switch.
    Switch(SwitchId),
}

/// One direction of a link: from where, to where, what it promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number, also its index in [`Topology::links`].
    pub id: LinkId,
    /// Name for people and records, `h1-up` or `h1-down` for a host's, `a>b` between switches.
    pub name: String,
    /// Where packets enter.
    pub from: Place,
    /// Where packets leave.
    pub to: Place,
    /// What it promises.
    pub spec: LinkSpec,
    /// When packets may leave, in place of a rate.
    #[serde(default)]
    pub delivery: Option<Arc<DeliveryTrace>>,
}

/// Both directions of a cable, as its lower end sees them: the host of a host's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cable {
    /// Away from the lower end: host to switch.
    pub up: LinkSpec,
    /// Towards the lower end: switch to host.
    pub down: LinkSpec,
}

impl Cable {
    /// The same both ways.
    #[must_use]
    pub fn symmetric(spec: LinkSpec) -> Self {
        Self {
            up: spec,
            down: spec,
        }
    }
}

/// A checked network: every host has one link out and one in, and reaches every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Topology {
    parts: Parts,
    routes: Routes,
}

/// What a topology is made of, unchecked; also its stored form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Parts {
    hosts: Vec<String>,
    switches: Vec<String>,
    links: Vec<Link>,
}

/// Why hosts and links are not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Fewer than two hosts.
    #[error("a network needs at least 2 hosts, {hosts} given")]
    TooFewHosts {
        /// How many there were.
        hosts: usize,
    },
    /// More hosts than the address plan holds.
    #[error("{hosts} hosts are more than the {limit} the address plan holds")]
    TooManyHosts {
        /// How many there were.
        hosts: usize,
        /// How many there may be.
        limit: u32,
    },
    /// Two hosts or switches, or two links, share a name.
    #[error("the name `{name}` is used twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A link ends somewhere that is not there; only in a stored topology.
    #[error("link `{link}` does not lead from and to hosts and switches of the network")]
    NoEnd {
        /// The link.
        link: String,
    },
    /// A host must have exactly one link out and one in.
    #[error("host `{name}` has {up} links out and {down} in; it needs one of each")]
    HostLinks {
        /// The host.
        name: String,
        /// Links that start there.
        up: usize,
        /// Links that end there.
        down: usize,
    },
    /// A link is served by a rate or by a trace.
    #[error("link `{link}` has a rate and a packet-delivery trace; leave one of them out")]
    RateAndTrace {
        /// The link.
        link: String,
    },
    /// A link whose rate is kept at the source has to leave a host, whose TBF counts as it counts.
    #[error(
        "link `{link}` is shaped on its sender's device (source-egress): only a host's way out can be (put it under `up`), \
         with a rate, `overhead_bytes = 14` as TBF counts, no ECN and no trace"
    )]
    ShapedAtSource {
        /// The link.
        link: String,
    },
    /// No path between two hosts.
    #[error("no path from host `{from}` to host `{to}`")]
    Unreachable {
        /// Where a packet would start.
        from: String,
        /// Where it cannot get to.
        to: String,
    },
}

/// Hosts have 10.64.0.1 upwards, VMs 10.96.0.1 upwards, both in 10.64.0.0/10.
pub const HOSTS_MAX: u32 = (1 << 21) - 2;
/// Prefix length of the network all hosts and VMs share.
pub const PREFIX_LEN: u8 = 10;

impl TryFrom<Parts> for Topology {
    type Error = TopologyError;

    fn try_from(parts: Parts) -> Result<Self, TopologyError> {
        build::check(&parts)?;
        let routes = Routes::new(&parts)?;
        Ok(Self { parts, routes })
    }
}

impl From<Topology> for Parts {
    fn from(topology: Topology) -> Self {
        topology.parts
    }
}

impl Topology {
    /// Hosts with their names, in order.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &str)> {
        (0..)
            .map(HostId)
            .zip(self.parts.hosts.iter().map(String::as_str))
    }

    /// How many hosts there are.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.parts.hosts.len()
    }

    /// The host of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<HostId> {
        self.hosts()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| id)
    }

    /// Names of switches, in order.
    #[must_use]
    pub fn switches(&self) -> &[String] {
        &self.parts.switches
    }

    /// All links, in order of their ids.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.parts.links
    }

    /// A link by its number.
    ///
    /// # Panics
    /// For a number that is not of this topology.
    #[must_use]
    pub fn link(&self, id: LinkId) -> &Link {
        &self.parts.links[id.0 as usize]
    }

    /// The link of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links().iter().find(|link| link.name == name)
    }

    /// The link that leaves a host.
    ///
    /// # Panics
    /// For a host that is not of this topology.
    #[must_use]
    pub fn uplink(&self, host: HostId) -> &Link {
        self.link(self.routes.uplink(host))
    }

    /// The link that enters a host.
    ///
    /// # Panics
    /// For a host that is not of this topology.
    #[must_use]
    pub fn downlink(&self, host: HostId) -> &Link {
        self.link(self.routes.downlink(host))
    }

    /// Where a switch sends what is addressed to a host: along the fewest links, of those the least delay, then the
    /// lowest link. `None` where no path between hosts leads.
    #[must_use]
    pub fn next_link(&self, switch: SwitchId, to: HostId) -> Option<LinkId> {
        self.routes.next(switch, to)
    }

    /// Links a packet crosses between two hosts; empty for a host and itself.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> Vec<LinkId> {
        let mut path = Vec::new();
        let mut next = (from != to).then(|| self.uplink(from));
        while let Some(link) = next {
            path.push(link.id);
            next = match link.to {
                Place::Host(_) => None,
                Place::Switch(switch) => self.next_link(switch, to).map(|id| self.link(id)),
            };
        }
        path
    }

    /// The longest a packet can be under way between two hosts, queues and serialisation apart (an upper bound: the
    /// largest delay into, between and out of switches).
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        self.routes.longest_delay(&self.parts)
    }

    /// The same network with a link that sends when a packet-delivery trace lets it.
    ///
    /// # Errors
    /// [`TopologyError::RateAndTrace`] if the link has a rate.
    ///
    /// # Panics
    /// For a link that is not of this topology.
    pub fn with_delivery(
        mut self,
        link: LinkId,
        trace: Option<Arc<DeliveryTrace>>,
    ) -> Result<Self, TopologyError> {
        self.parts.links[link.0 as usize].delivery = trace;
        build::check_services(&self.parts)?;
        Ok(self)
    }

    /// The same network with other delivery traces, such as divided ones.
    #[must_use]
    pub fn with_deliveries(&self, mut change: impl FnMut(&DeliveryTrace) -> DeliveryTrace) -> Self {
        let mut other = self.clone();
        for link in &mut other.parts.links {
            link.delivery = link.delivery.as_deref().map(|t| Arc::new(change(t)));
        }
        other
    }

    /// The same network with other promises.
    ///
    /// # Errors
    /// The first of `change`.
    pub fn with_specs<E>(
        &self,
        mut change: impl FnMut(&Link) -> Result<LinkSpec, E>,
    ) -> Result<Self, E> {
        let mut other = self.clone();
        for link in &mut other.parts.links {
            link.spec = change(link)?;
        }
        Ok(other)
    }
}

/// The address of a host's own card.
#[must_use]
pub fn host_address(host: HostId) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + host.0 + 1)
}

/// Every switch listens here for announcements of addresses that have moved; no host has it.
pub const ANNOUNCE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 127, 255, 254);
/// The port of such a datagram: that of "discard" (RFC 863).
pub const ANNOUNCE_PORT: u16 = 9;

/// An address for the `n`-th VM, to be routed to whichever host it runs on; `None` past [`HOSTS_MAX`].
#[must_use]
pub fn vm_address(n: u32) -> Option<Ipv4Addr> {
    (n < HOSTS_MAX).then(|| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n + 1))
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

impl fmt::Display for SwitchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switch {}", self.0)
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}
