//! Hosts, switches and directed links, and which links a packet crosses.
//!
//! A cable between two places is two links, one each way, because the ways may differ. Identifiers are dense
//! and ordered, so that everything made from a topology comes out in the same order. No kernel, no clock.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

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
    /// Name for people and records, `h1-up` or `h1-down` in a star.
    pub name: String,
    /// Where packets enter.
    pub from: Place,
    /// Where packets leave.
    pub to: Place,
    /// What it promises.
    pub spec: LinkSpec,
}

/// Both directions of a host's link, as the host sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLink {
    /// Host to switch.
    pub up: LinkSpec,
    /// Switch to host.
    pub down: LinkSpec,
}

impl HostLink {
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
pub struct Topology {
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
    /// Two hosts share a name.
    #[error("host name `{name}` is used twice")]
    DuplicateHost {
        /// The name.
        name: String,
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

impl Topology {
    /// Every host on one switch. Links come out as up, down of the first host, then of the second, …
    ///
    /// # Errors
    /// [`TopologyError`] when there are too few or too many hosts, or a name is used twice.
    pub fn star(
        hosts: impl IntoIterator<Item = (String, HostLink)>,
    ) -> Result<Self, TopologyError> {
        let hub = Place::Switch(SwitchId(0));
        let mut topology = Self {
            hosts: Vec::new(),
            switches: vec!["switch".to_owned()],
            links: Vec::new(),
        };
        for (name, link) in hosts {
            let host = Place::Host(HostId(index(topology.hosts.len())));
            topology.push_link(format!("{name}-up"), (host, hub), link.up);
            topology.push_link(format!("{name}-down"), (hub, host), link.down);
            topology.hosts.push(name);
        }
        topology.check()?;
        Ok(topology)
    }

    fn push_link(&mut self, name: String, (from, to): (Place, Place), spec: LinkSpec) {
        let id = LinkId(index(self.links.len()));
        self.links.push(Link {
            id,
            name,
            from,
            to,
            spec,
        });
    }

    fn check(&self) -> Result<(), TopologyError> {
        let hosts = self.hosts.len();
        if hosts < 2 {
            return Err(TopologyError::TooFewHosts { hosts });
        }
        if u32::try_from(hosts).map_or(true, |n| n > HOSTS_MAX) {
            return Err(TopologyError::TooManyHosts {
                hosts,
                limit: HOSTS_MAX,
            });
        }
        let mut names: Vec<&String> = self.hosts.iter().collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TopologyError::DuplicateHost {
                name: pair[0].clone(),
            });
        }
        for (host, name) in self.hosts() {
            let place = Place::Host(host);
            let up = self.links.iter().filter(|link| link.from == place).count();
            let down = self.links.iter().filter(|link| link.to == place).count();
            if up != 1 || down != 1 {
                return Err(TopologyError::HostLinks {
                    name: name.to_owned(),
                    up,
                    down,
                });
            }
        }
        let routes = self.routes();
        for (from, from_name) in self.hosts() {
            let entry = self.uplink(from).map(|link| link.to);
            for (to, to_name) in self.hosts().filter(|(to, _)| *to != from) {
                let reaches = entry.is_some_and(|place| match place {
                    Place::Host(host) => host == to,
                    Place::Switch(switch) => routes.contains_key(&(switch, to)),
                });
                if !reaches {
                    let (from, to) = (from_name.to_owned(), to_name.to_owned());
                    return Err(TopologyError::Unreachable { from, to });
                }
            }
        }
        Ok(())
    }

    /// Hosts with their names, in order.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &str)> {
        self.hosts
            .iter()
            .enumerate()
            .map(|(i, name)| (HostId(index(i)), name.as_str()))
    }

    /// How many hosts there are.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// The host of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<HostId> {
        self.hosts()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| id)
    }

    /// Switches, in order.
    #[must_use]
    pub fn switches(&self) -> &[String] {
        &self.switches
    }

    /// All links, in order of their ids.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The link that leaves a host.
    #[must_use]
    pub fn uplink(&self, host: HostId) -> Option<&Link> {
        self.links
            .iter()
            .find(|link| link.from == Place::Host(host))
    }

    /// The link that enters a host.
    #[must_use]
    pub fn downlink(&self, host: HostId) -> Option<&Link> {
        self.links.iter().find(|link| link.to == Place::Host(host))
    }

    /// Links a packet crosses between two hosts; empty for a host and itself.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> Vec<LinkId> {
        let routes = self.routes();
        let mut path = Vec::new();
        let mut next = self.uplink(from).filter(|_| from != to);
        while let Some(link) = next {
            path.push(link.id);
            next = match link.to {
                Place::Host(_) => None,
                Place::Switch(switch) => routes
                    .get(&(switch, to))
                    .map(|id| &self.links[id.0 as usize]),
            };
        }
        path
    }

    /// For each switch and destination the next link, along a shortest path (lowest link id on ties).
    /// Hosts need no entry: they have one link out.
    #[must_use]
    pub fn routes(&self) -> BTreeMap<(SwitchId, HostId), LinkId> {
        let mut into: BTreeMap<Place, Vec<&Link>> = BTreeMap::new();
        for link in &self.links {
            into.entry(link.to).or_default().push(link);
        }
        let mut routes = BTreeMap::new();
        for (destination, _) in self.hosts() {
            let mut frontier = VecDeque::from([Place::Host(destination)]);
            while let Some(place) = frontier.pop_front() {
                for link in into.get(&place).map_or(&[][..], Vec::as_slice) {
                    // Hosts do not forward: a path ends there.
                    let Place::Switch(switch) = link.from else {
                        continue;
                    };
                    if let Entry::Vacant(free) = routes.entry((switch, destination)) {
                        free.insert(link.id);
                        frontier.push_back(link.from);
                    }
                }
            }
        }
        routes
    }
}

fn index(i: usize) -> u32 {
    u32::try_from(i)
        .expect("fewer than 2^32 parts: check() bounds hosts, and links follow from hosts")
}

/// The address of a host's own card.
#[must_use]
pub fn host_address(host: HostId) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + host.0 + 1)
}

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

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn star(n: usize) -> Topology {
        let link = HostLink::symmetric(LinkSpec::default());
        Topology::star((1..=n).map(|i| (format!("h{i}"), link))).unwrap()
    }

    #[test]
    fn a_star_path_is_up_then_down() {
        let topology = star(3);
        assert_eq!(topology.path(HostId(0), HostId(2)), [LinkId(0), LinkId(5)]);
        assert_eq!(topology.path(HostId(2), HostId(1)), [LinkId(4), LinkId(3)]);
        assert!(topology.path(HostId(1), HostId(1)).is_empty());
        assert_eq!(topology.links()[5].name, "h3-down");
        assert_eq!(topology.host("h2"), Some(HostId(1)));
    }

    #[test]
    fn impossible_stars_are_refused() {
        let link = HostLink::symmetric(LinkSpec::default());
        let one = Topology::star([("h1".to_owned(), link)]);
        assert_eq!(one, Err(TopologyError::TooFewHosts { hosts: 1 }));
        let twice = Topology::star([("h1".to_owned(), link), ("h1".to_owned(), link)]);
        assert_eq!(
            twice,
            Err(TopologyError::DuplicateHost {
                name: "h1".to_owned()
            })
        );
    }

    #[test]
    fn addresses_of_hosts_and_vms_do_not_meet() {
        assert_eq!(host_address(HostId(0)), Ipv4Addr::new(10, 64, 0, 1));
        assert!(host_address(HostId(HOSTS_MAX - 1)) < vm_address(0).unwrap());
        assert!(vm_address(HOSTS_MAX - 1).unwrap() < Ipv4Addr::new(10, 127, 255, 255));
        assert_eq!(vm_address(HOSTS_MAX), None);
    }
}
