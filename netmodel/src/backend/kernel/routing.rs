//! Which switches have to be told what, and in which order, when an address moves. Pure.
//!
//! A switch needs a route of its own only where its default does not lead the right way. Switches near the address's
//! new host learn of it before those that send through them, and are made to forget last, so that at no instant does
//! a packet go in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::plan::{Route, default_route, hop, root};
use crate::topology::{HostId, LinkId, Place, SwitchId, Topology};

/// Who has been told about which address.
#[derive(Debug)]
pub(super) struct Routing {
    defaults: BTreeMap<SwitchId, Option<LinkId>>,
    told: BTreeMap<Ipv4Addr, BTreeSet<SwitchId>>,
}

/// One thing to tell a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) switch: SwitchId,
    /// `None` to forget the address.
    pub(super) route: Option<Route>,
}

impl Routing {
    pub(super) fn new(topology: &Topology) -> Self {
        let root = root(topology);
        let switches = (0..).map(SwitchId).take(topology.switches().len());
        Self {
            defaults: switches
                .map(|switch| (switch, default_route(topology, root, switch)))
                .collect(),
            told: BTreeMap::new(),
        }
    }

    /// What to tell whom, in order, so that `address` leads to `host`, or nowhere.
    pub(super) fn changes(
        &self,
        topology: &Topology,
        address: Ipv4Addr,
        host: Option<HostId>,
    ) -> Vec<Change> {
        let mut tell = Vec::new();
        for (&switch, &default) in &self.defaults {
            let Some(link) = host.and_then(|host| topology.next_link(switch, host)) else {
                continue;
            };
            if Some(link) == default {
                continue;
            }
            let route = Route {
                to: address,
                prefix_len: 32,
                hop: hop(topology.link(link)),
            };
            let change = Change {
                switch,
                route: Some(route),
            };
            tell.push((links_to(topology, switch, host), change));
        }
        tell.sort_by_key(|(links, change)| (*links, change.switch));
        let mut changes: Vec<Change> = tell.into_iter().map(|(_, change)| change).collect();
        let known = self.told.get(&address).into_iter().flatten();
        let outdated = known.filter(|known| !changes.iter().any(|it| it.switch == **known));
        let forget: Vec<Change> = outdated
            .map(|&switch| Change {
                switch,
                route: None,
            })
            .collect();
        changes.extend(forget);
        changes
    }

    /// Remembers that a change was made.
    pub(super) fn done(&mut self, address: Ipv4Addr, change: &Change) {
        let told = self.told.entry(address).or_default();
        if change.route.is_some() {
            told.insert(change.switch);
        } else {
            told.remove(&change.switch);
        }
        if told.is_empty() {
            self.told.remove(&address);
        }
    }
}

/// How many links a switch is from a host.
fn links_to(topology: &Topology, switch: SwitchId, host: Option<HostId>) -> usize {
    let mut at = Some(switch);
    let mut links = 0;
    while let (Some(switch), Some(host)) = (at, host) {
        links += 1;
        let next = topology.next_link(switch, host);
        at = next.and_then(|link| match topology.link(link).to {
            Place::Switch(switch) => Some(switch),
            Place::Host(_) => None,
        });
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Cable, Rack, vm_address};

    #[test]
    fn a_move_between_racks_tells_the_new_rack_the_core_and_then_the_old_rack() {
        let rack = |name: &str| Rack {
            name: name.to_owned(),
            uplink: Cable::default(),
            hosts: vec![(format!("{name}-h"), Cable::default())],
        };
        let topology = Topology::two_tier(["a", "b", "c"].map(rack)).unwrap();
        let mut routing = Routing::new(&topology);
        let vm = vm_address(0).unwrap();
        let mut moved = |host: Option<u32>| {
            let changes = routing.changes(&topology, vm, host.map(HostId));
            for change in &changes {
                routing.done(vm, change);
            }
            let told = |it: &Change| (it.switch.0, it.route.as_ref().map(ToString::to_string));
            changes.iter().map(told).collect::<Vec<_>>()
        };
        let to = |text: &str| Some(format!("10.96.0.1/32 via {text} onlink"));
        // Switch 0 is the core; links 1, 5 and 9 lead from it to the racks.
        let first = [(1, to("10.64.0.1 dev p0")), (0, to("169.254.0.1 dev l1"))];
        assert_eq!(moved(Some(0)), first);
        let second = [
            (2, to("10.64.0.2 dev p1")),
            (0, to("169.254.0.1 dev l5")),
            (1, None),
        ];
        assert_eq!(moved(Some(1)), second);
        assert_eq!(moved(None), [(0, None), (2, None)]);
        assert_eq!(moved(None), []);
    }
}
