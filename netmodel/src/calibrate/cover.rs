//! Which hosts stream to which, so that every link is filled: pairs, and the parts they are loaded in.
//!
//! Pure. Links between switches are shared by many hosts and often narrower than their hosts' links together, so a ring
//! through hosts would not fill them: every link gets a *group* of pairs across it whose other links together let
//! enough through. Groups are packed into parts that are loaded one after another; a part takes a group as long as the
//! max-min fair shares of all its streams (what TCP comes to) still fill every link that is to be filled, and ask for no
//! more than the computer carries. What does not fit into the parts there may be is represented by a link of its class:
//! same promise, same position.

mod pack;
mod pairs;

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use crate::link::LinkSpec;
use crate::topology::{HostId, Link, LinkId, Place, Topology};
use crate::units::BitRate;

/// From a host to another.
pub(super) type Way = (HostId, HostId);

/// Streams that run at once, and the links they are to fill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// One stream each; a way that needs several is there several times.
    pub(super) ways: Vec<Way>,
    pub(super) targets: BTreeSet<LinkId>,
    /// Those of them that its streams can fill.
    fills: BTreeSet<LinkId>,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cover {
    pub(super) parts: Vec<Part>,
    /// Links not in any part, and the one of their class that stands for them.
    pub(super) stands_for: BTreeMap<LinkId, LinkId>,
}

impl Cover {
    pub(super) fn is_measured(&self, link: LinkId) -> bool {
        self.parts.iter().any(|part| part.targets.contains(&link))
    }

    /// How many links are measured themselves.
    pub(super) fn measured(&self) -> usize {
        let targets = self.parts.iter().flat_map(|part| &part.targets);
        targets.collect::<BTreeSet<_>>().len()
    }

    /// Ways for datagrams: those of the streams, and for each two that meet at a host the way from the first's source to
    /// the second's destination, so that the links of a host are seen in more than one pairing.
    pub(super) fn ways(&self, topology: &Topology) -> Vec<Way> {
        let streams: BTreeSet<Way> = self.parts.iter().flat_map(|p| p.ways.clone()).collect();
        let on = |host: HostId| streams.range((host, HostId(0))..=(host, HostId(u32::MAX)));
        let across = streams.iter().flat_map(|&(from, to)| {
            let next = on(to).find(|(_, beyond)| *beyond != from);
            next.map(|&(_, beyond)| (from, beyond))
        });
        let up = |way: &Way| {
            let path = topology.path(way.0, way.1);
            path.iter().all(|id| topology.link(*id).spec.up)
        };
        let across: Vec<Way> = across.filter(up).collect();
        let mut ways: Vec<Way> = streams.into_iter().collect();
        ways.truncate(WAYS_MAX);
        ways.extend(across.into_iter().take(WAYS_MAX - ways.len()));
        ways.sort_unstable();
        ways.dedup();
        ways
    }
}

/// Ways for datagrams at the most: every stream's, at 20 datagrams and 250 µs between any two some 1.3 s.
const WAYS_MAX: usize = 256;

/// A link's position in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    OutOfHost,
    IntoHost,
    Between,
}

/// Neighbourhoods looked at: their pairs are 65,000 paths, some 10 ms.
const SIDES_MAX: usize = 256;
/// Pairs of neighbourhoods remembered for one link, more than it needs ways.
const SIDES_PER_LINK: usize = 64;
/// Chooses pairs (`pairs`) and packs them (`pack`).
struct Planner<'t> {
    topology: &'t Topology,
    paths: BTreeMap<Way, Vec<LinkId>>,
    /// Hosts behind the same switch, by the places their links lead to and come from.
    neighbours: BTreeMap<(Place, Place), Vec<HostId>>,
    /// Pairs of neighbourhoods, by their order, whose hosts reach each other across a link between switches.
    across: BTreeMap<LinkId, Vec<(usize, usize)>>,
}

/// Chooses pairs and packs them.
pub(super) fn cover(topology: &Topology, settings: &Settings) -> Cover {
    let mut planner = Planner::new(topology);
    let groups = planner.groups();
    let parts = planner.pack(&groups, settings);
    let measured: BTreeSet<LinkId> = parts.iter().flat_map(|p| p.targets.clone()).collect();
    let stands_for = represent(topology, &measured);
    Cover { parts, stands_for }
}

/// For each link that is not measured, the first measured one of its class.
fn represent(topology: &Topology, measured: &BTreeSet<LinkId>) -> BTreeMap<LinkId, LinkId> {
    let mut classes: Vec<(&LinkSpec, Position, LinkId)> = Vec::new();
    for id in measured {
        let link = topology.link(*id);
        let position = position(link);
        if !classes
            .iter()
            .any(|(s, p, _)| **s == link.spec && *p == position)
        {
            classes.push((&link.spec, position, *id));
        }
    }
    let missing = topology
        .links()
        .iter()
        .filter(|l| !measured.contains(&l.id));
    missing
        .filter_map(|link| {
            let position = position(link);
            let class = classes
                .iter()
                .find(|(s, p, _)| **s == link.spec && *p == position)?;
            Some((link.id, class.2))
        })
        .collect()
}

fn position(link: &Link) -> Position {
    match (link.from, link.to) {
        (Place::Host(_), _) => Position::OutOfHost,
        (_, Place::Host(_)) => Position::IntoHost,
        _ => Position::Between,
    }
}

/// Pairs that fill some links together.
#[derive(Debug, Clone, Default)]
struct Group {
    ways: Vec<Way>,
    targets: BTreeSet<LinkId>,
    /// Those of them that its streams fill while alone.
    fills: BTreeSet<LinkId>,
}

impl<'t> Planner<'t> {
    fn new(topology: &'t Topology) -> Self {
        let mut neighbours: BTreeMap<(Place, Place), Vec<HostId>> = BTreeMap::new();
        for (host, _) in topology.hosts() {
            let (up, down) = (topology.uplink(host), topology.downlink(host));
            if up.spec.up && down.spec.up {
                neighbours.entry((up.to, down.from)).or_default().push(host);
            }
        }
        // Neighbours of like rates: then one pair fills both links.
        for hosts in neighbours.values_mut() {
            hosts.sort_by_key(|host| (rate(topology.uplink(*host)), *host));
        }
        let across = across(topology, &neighbours);
        Self {
            topology,
            paths: BTreeMap::new(),
            neighbours,
            across,
        }
    }

    /// The links of a way; empty when one of them, or of the way back, is down.
    fn path(&mut self, way: Way) -> &[LinkId] {
        let topology = self.topology;
        self.paths.entry(way).or_insert_with(|| {
            let path = topology.path(way.0, way.1);
            let back = topology.path(way.1, way.0);
            let usable = path
                .iter()
                .chain(&back)
                .all(|id| topology.link(*id).spec.up);
            if usable { path } else { Vec::new() }
        })
    }
}

fn rate(link: &Link) -> u64 {
    link.spec.rate.map_or(u64::MAX, BitRate::bps)
}

/// Which neighbourhoods reach each other across which links between switches: all their hosts share these links, so one
/// host speaks for all.
fn across(
    topology: &Topology,
    neighbours: &BTreeMap<(Place, Place), Vec<HostId>>,
) -> BTreeMap<LinkId, Vec<(usize, usize)>> {
    let mut across: BTreeMap<LinkId, Vec<(usize, usize)>> = BTreeMap::new();
    let sides = || neighbours.values().enumerate().take(SIDES_MAX);
    for (a, from) in sides() {
        for (b, to) in sides().filter(|(b, _)| *b != a) {
            let path = topology.path(from[0], to[0]);
            for id in path {
                let pairs = across.entry(id).or_default();
                if pairs.len() < SIDES_PER_LINK {
                    pairs.push((a, b));
                }
            }
        }
    }
    across
}

#[cfg(test)]
#[path = "cover_tests.rs"]
mod tests;
