//! Putting a network together, and what makes it one.

use std::collections::BTreeSet;

use super::{
    Cable, HOSTS_MAX, HostId, Link, LinkId, Parts, Place, SwitchId, Topology, TopologyError,
};
use crate::link::{LinkSpec, OVERHEAD_KERNEL, ShaperAt};

/// A network being put together, in the order its numbers are given.
#[derive(Debug, Default)]
pub struct Builder(Parts);

impl Builder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more host.
    pub fn host(&mut self, name: impl Into<String>) -> Place {
        let host = HostId(index(self.0.hosts.len()));
        self.0.hosts.push(name.into());
        Place::Host(host)
    }

    /// One more switch.
    pub fn switch(&mut self, name: impl Into<String>) -> Place {
        let switch = SwitchId(index(self.0.switches.len()));
        self.0.switches.push(name.into());
        Place::Switch(switch)
    }

    /// A cable from a lower to an upper place: its links are `LOWER-up` and `LOWER-down`.
    pub fn uplink(&mut self, lower: Place, upper: Place, cable: Cable) {
        let name = self.name(lower).to_owned();
        self.link(format!("{name}-up"), (lower, upper), cable.up);
        self.link(format!("{name}-down"), (upper, lower), cable.down);
    }

    /// A cable between equals: its links are `A>B` (as its `up`) and `B>A`.
    pub fn cable(&mut self, a: Place, b: Place, cable: Cable) {
        let (from, to) = (self.name(a).to_owned(), self.name(b).to_owned());
        self.link(format!("{from}>{to}"), (a, b), cable.up);
        self.link(format!("{to}>{from}"), (b, a), cable.down);
    }

    /// One direction alone.
    pub fn link(&mut self, name: String, (from, to): (Place, Place), spec: LinkSpec) {
        let id = LinkId(index(self.0.links.len()));
        self.0.links.push(Link {
            id,
            name,
            from,
            to,
            spec,
            delivery: None,
        });
    }

    /// The network, if it is one.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub fn finish(self) -> Result<Topology, TopologyError> {
        self.0.try_into()
    }

    fn name(&self, place: Place) -> &str {
        match place {
            Place::Host(host) => &self.0.hosts[host.0 as usize],
            Place::Switch(switch) => &self.0.switches[switch.0 as usize],
        }
    }
}

fn index(i: usize) -> u32 {
    u32::try_from(i).expect("2^32 places do not fit this computer's memory")
}

/// What holds without following any path.
pub(super) fn check(parts: &Parts) -> Result<(), TopologyError> {
    let hosts = parts.hosts.len();
    if hosts < 2 {
        return Err(TopologyError::TooFewHosts { hosts });
    }
    if u32::try_from(hosts).map_or(true, |n| n > HOSTS_MAX) {
        let limit = HOSTS_MAX;
        return Err(TopologyError::TooManyHosts { hosts, limit });
    }
    unique(parts.hosts.iter().chain(&parts.switches))?;
    unique(parts.links.iter().map(|link| &link.name))?;
    let known = |place: Place| match place {
        Place::Host(host) => (host.0 as usize) < hosts,
        Place::Switch(switch) => (switch.0 as usize) < parts.switches.len(),
    };
    for (n, link) in parts.links.iter().enumerate() {
        if link.id.0 as usize != n || !known(link.from) || !known(link.to) {
            let link = link.name.clone();
            return Err(TopologyError::NoEnd { link });
        }
    }
    check_services(parts)?;
    check_shapers(parts)?;
    let mut counts = vec![(0, 0); hosts];
    for link in &parts.links {
        if let Place::Host(host) = link.from {
            counts[host.0 as usize].0 += 1;
        }
        if let Place::Host(host) = link.to {
            counts[host.0 as usize].1 += 1;
        }
    }
    let wrong = parts
        .hosts
        .iter()
        .zip(counts)
        .find(|(_, count)| *count != (1, 1));
    wrong.map_or(Ok(()), |(name, (up, down))| {
        Err(TopologyError::HostLinks {
            name: name.clone(),
            up,
            down,
        })
    })
}

/// One thing serves a link.
pub(super) fn check_services(parts: &Parts) -> Result<(), TopologyError> {
    let both = |link: &&Link| link.spec.rate.is_some() && link.delivery.is_some();
    parts.links.iter().find(both).map_or(Ok(()), |link| {
        let link = link.name.clone();
        Err(TopologyError::RateAndTrace { link })
    })
}

/// What keeps a rate at the source can.
fn check_shapers(parts: &Parts) -> Result<(), TopologyError> {
    let wrong = |link: &&Link| {
        let spec = &link.spec;
        let can = matches!(link.from, Place::Host(_))
            && spec.rate.is_some()
            && spec.overhead_bytes == OVERHEAD_KERNEL
            && spec.ecn_threshold.is_none()
            && link.delivery.is_none();
        spec.shaper_at != ShaperAt::Fabric && !can
    };
    parts.links.iter().find(wrong).map_or(Ok(()), |link| {
        let link = link.name.clone();
        Err(TopologyError::ShapedAtSource { link })
    })
}

fn unique<'n>(mut names: impl Iterator<Item = &'n String>) -> Result<(), TopologyError> {
    let mut seen = BTreeSet::new();
    let twice = names.find(|name| !seen.insert(name.as_str()));
    twice.map_or(Ok(()), |name| {
        Err(TopologyError::Duplicate { name: name.clone() })
    })
}
