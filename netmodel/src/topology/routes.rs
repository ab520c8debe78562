//! Which link leads where, worked out once.
//!
//! Hosts hang on switches, so ways are worked out between switches: all hosts of a switch share them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{HostId, LinkId, Parts, Place, SwitchId, TopologyError};

/// Ways through a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Routes {
    uplinks: Vec<LinkId>,
    downlinks: Vec<LinkId>,
    /// The switch a host is reached from; `None` for a host on the other end of another's link.
    behind: Vec<Option<SwitchId>>,
    /// `ways[to][from]` between switches.
    ways: Vec<Vec<Option<Way>>>,
}

/// From one switch towards another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    first: LinkId,
    delay: Duration,
}

impl Routes {
    /// Of a network whose hosts have one link out and one in.
    pub(super) fn new(parts: &Parts) -> Result<Self, TopologyError> {
        let hosts = parts.hosts.len();
        let mut routes = Self {
            uplinks: vec![LinkId(0); hosts],
            downlinks: vec![LinkId(0); hosts],
            behind: vec![None; hosts],
            ways: Vec::new(),
        };
        for link in &parts.links {
            if let Place::Host(host) = link.from {
                routes.uplinks[host.0 as usize] = link.id;
            }
            if let Place::Host(host) = link.to {
                routes.downlinks[host.0 as usize] = link.id;
                if let Place::Switch(switch) = link.from {
                    routes.behind[host.0 as usize] = Some(switch);
                }
            }
        }
        let into = into(parts);
        let switches = 0..parts.switches.len();
        routes.ways = switches.map(|to| ways_to(parts, &into, to)).collect();
        routes.check(parts)?;
        Ok(routes)
    }

    /// Every host reaches every other one: entries times exits are few, pairs of hosts are many.
    fn check(&self, parts: &Parts) -> Result<(), TopologyError> {
        for (from, name) in parts.hosts.iter().enumerate() {
            let entry = parts.links[self.uplinks[from].0 as usize].to;
            let reaches = |to: usize| match (entry, self.behind[to]) {
                (Place::Host(host), _) => host.0 as usize == to,
                (Place::Switch(entry), Some(behind)) => {
                    entry == behind || self.ways[behind.0 as usize][entry.0 as usize].is_some()
                }
                (Place::Switch(_), None) => false,
            };
            if let Some(to) = (0..parts.hosts.len()).find(|&to| to != from && !reaches(to)) {
                return Err(TopologyError::Unreachable {
                    from: name.clone(),
                    to: parts.hosts[to].clone(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn uplink(&self, host: HostId) -> LinkId {
        self.uplinks[host.0 as usize]
    }

    pub(super) fn downlink(&self, host: HostId) -> LinkId {
        self.downlinks[host.0 as usize]
    }

    pub(super) fn next(&self, switch: SwitchId, to: HostId) -> Option<LinkId> {
        let behind = (*self.behind.get(to.0 as usize)?)?;
        if behind == switch {
            return Some(self.downlink(to));
        }
        let way = self.ways[behind.0 as usize].get(switch.0 as usize)?;
        way.map(|way| way.first)
    }

    pub(super) fn longest_delay(&self, parts: &Parts) -> Duration {
        let most = |links: &[LinkId]| {
            let delays = links
                .iter()
                .map(|id| parts.links[id.0 as usize].spec.delay_most());
            delays.max().unwrap_or_default()
        };
        let between = self.ways.iter().flatten().flatten().map(|way| way.delay);
        most(&self.uplinks)
            .saturating_add(between.max().unwrap_or_default())
            .saturating_add(most(&self.downlinks))
    }
}

/// Links into each switch from other switches.
fn into(parts: &Parts) -> Vec<Vec<(usize, LinkId)>> {
    let mut into = vec![Vec::new(); parts.switches.len()];
    for link in &parts.links {
        // Hosts do not forward.
        if let (Place::Switch(from), Place::Switch(to)) = (link.from, link.to) {
            into[to.0 as usize].push((from.0 as usize, link.id));
        }
    }
    into
}

/// The way from every switch to one: fewest links, then least delay, then lowest link. Delays are as they were when the
/// network was made; a link that changes later keeps its traffic.
fn ways_to(parts: &Parts, into: &[Vec<(usize, LinkId)>], to: usize) -> Vec<Option<Way>> {
    let mut ways: Vec<Option<Way>> = vec![None; into.len()];
    let mut frontier = BinaryHeap::from([Reverse((0_u32, Duration::ZERO, LinkId(0), to))]);
    while let Some(Reverse((hops, delay, first, at))) = frontier.pop() {
        if hops > 0 {
            if ways[at].is_some() || at == to {
                continue;
            }
            ways[at] = Some(Way { first, delay });
        }
        for &(from, link) in &into[at] {
            if ways[from].is_none() && from != to {
                let more = parts.links[link.0 as usize].spec.delay_most();
                frontier.push(Reverse((hops + 1, delay.saturating_add(more), link, from)));
            }
        }
    }
    ways
}
