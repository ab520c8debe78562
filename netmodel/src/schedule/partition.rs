//! Networks that fall apart.

use std::collections::BTreeSet;

use crate::topology::{LinkId, Place, Topology};

/// The links between a group of places and all others, in order. A switch of the group has its hosts with it: a rack
/// by name stays together, while hosts by name lose their own links, over which they would meet each other too.
#[must_use]
pub fn separating(topology: &Topology, group: &BTreeSet<Place>) -> Vec<LinkId> {
    let mut side = group.clone();
    for (host, _) in topology.hosts() {
        if group.contains(&topology.uplink(host).to) {
            side.insert(Place::Host(host));
        }
    }
    let links = topology.links().iter();
    links
        .filter(|link| side.contains(&link.from) != side.contains(&link.to))
        .map(|link| link.id)
        .collect()
}
