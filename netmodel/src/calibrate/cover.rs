//! Which hosts stream to which, so that every link is filled: pairs, and the parts they are loaded in.
//!
//! Pure. Links between switches are shared by many hosts and often narrower than their hosts' links together, so a ring
//! through hosts would not fill them: every link gets a *group* of pairs across it whose other links together let
//! enough through. Groups are packed into parts that are loaded one after another; a part takes a group as long as the
//! max-min fair shares of all its streams (what TCP comes to) still fill every link that is to be filled, and ask for no
//! more than the computer carries. What does not fit into the parts there may be is represented by a link of its class:
//! same promise, same position.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use crate::flow::segment_payload;
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

/// Streams at once: two threads each, and a computer of a few cores serves no more of them evenly.
const STREAMS_MAX: usize = 64;
/// Pairs looked at for one link; they are spread over the hosts on either side.
const CANDIDATES: usize = 512;
/// Neighbourhoods looked at: their pairs are 65,000 paths, some 10 ms.
const SIDES_MAX: usize = 256;
/// Pairs of neighbourhoods remembered for one link, more than it needs ways.
const SIDES_PER_LINK: usize = 64;
/// Pairs one link may need: a link faster than 32 of its hosts' links is reported as not loaded.
const WAYS_PER_LINK: usize = 32;
/// Streams of a link between switches may ask for this much more than it carries, so that one of them in slow start is made
/// up for by the others.
const SURPLUS: f64 = 1.25;

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

    /// Groups for all links that are up, spread evenly over the network in any beginning of the list.
    fn groups(&mut self) -> Vec<Group> {
        let mut groups = self.rings();
        let mut covered: BTreeSet<LinkId> = groups.iter().flat_map(|g| g.fills.clone()).collect();
        let topology = self.topology;
        let mut others: Vec<Group> = Vec::new();
        for link in topology.links().iter().filter(|link| link.spec.up) {
            if !covered.contains(&link.id) {
                let group = self.group_for(link);
                covered.extend(group.iter().flat_map(|group| &group.targets));
                others.extend(group);
            }
        }
        spread(&mut groups);
        spread(&mut others);
        // Links between switches first: there are few of them, and each is shared by many.
        others.append(&mut groups);
        others
    }

    /// Each host to the next one behind the same switch; hosts that are alone there, to each other.
    fn rings(&mut self) -> Vec<Group> {
        let mut rings: Vec<Vec<HostId>> = Vec::new();
        let mut alone = Vec::new();
        for hosts in self.neighbours.values() {
            match hosts.as_slice() {
                [host] => alone.push(*host),
                hosts => rings.push(hosts.to_vec()),
            }
        }
        if let ([host], Some(ring)) = (alone.as_slice(), rings.first()) {
            alone = vec![*host, ring[0]];
        }
        if alone.len() > 1 {
            rings.push(alone);
        }
        let mut groups = Vec::new();
        for ring in rings {
            for (n, from) in ring.iter().enumerate() {
                let way = (*from, ring[(n + 1) % ring.len()]);
                let targets = self.filled_by(way);
                if !self.path(way).is_empty() {
                    let ways = self.streams(way);
                    groups.push(self.group(ways, targets));
                }
            }
        }
        groups
    }

    /// Links of a way that a stream along it can fill: none of the others is slower.
    fn filled_by(&mut self, way: Way) -> BTreeSet<LinkId> {
        let topology = self.topology;
        let path = self.path(way);
        let rates = || path.iter().map(|id| rate(topology.link(*id)));
        let slowest = rates().min().unwrap_or(u64::MAX);
        let full = path
            .iter()
            .zip(rates())
            .filter(|(_, rate)| *rate == slowest || *rate == u64::MAX);
        full.map(|(id, _)| *id).collect()
    }

    /// As many streams as a way needs to be full. A reno-like sender halves its window (cubic takes 0.7 of it) at a full
    /// queue, which empties a path whose queue holds less than 3/7 of what is on the wire; several do not all back off
    /// at once. What one stream gets over a lossy path is the formula of Padhye et al. (1998), timeouts included.
    fn streams(&mut self, way: Way) -> Vec<Way> {
        let topology = self.topology;
        let path = self.path(way);
        let specs = || path.iter().map(|id| &topology.link(*id).spec);
        let Some((rate, queue)) = specs()
            .filter_map(|spec| Some((spec.rate?, spec.queue.bytes())))
            .min()
        else {
            return vec![way];
        };
        let round_trip = specs().map(|s| s.delay).sum::<std::time::Duration>() * 2;
        let shallow = queue < rate.bytes_in(round_trip) * 3 / 7;
        let arrives: f64 = specs().map(|spec| 1.0 - spec.loss.mean()).product();
        let loss = 1.0 - arrives;
        let count = if loss > 0.0 {
            let one_bps = lossy_stream_bps(round_trip.as_secs_f64(), loss);
            SURPLUS * rate.bps() as f64 / one_bps
        } else if shallow {
            SHALLOW_STREAMS
        } else {
            1.0
        };
        let counts = 1..WAY_STREAMS_MAX;
        let count = counts.into_iter().find(|n| f64::from(*n) >= count);
        vec![way; count.unwrap_or(WAY_STREAMS_MAX) as usize]
    }

    /// Pairs across one link that together can fill it; none if no pair crosses it.
    fn group_for(&mut self, link: &Link) -> Option<Group> {
        let topology = self.topology;
        let candidates = self.candidates(link);
        let need = match (link.spec.rate, position(link)) {
            (None, _) => 0.0,
            (Some(rate), Position::Between) => rate.bps() as f64 * SURPLUS,
            (Some(rate), _) => rate.bps() as f64,
        };
        // Streams over the same two links between switches make up for each other on both.
        let room_of = |id: LinkId| match position(topology.link(id)) {
            Position::Between => rate(topology.link(id)).saturating_mul(5) / 4,
            Position::OutOfHost | Position::IntoHost => rate(topology.link(id)),
        };
        let mut room: BTreeMap<LinkId, u64> = BTreeMap::new();
        let (mut chosen, mut total) = (Vec::new(), 0.0);
        while chosen.len() < WAYS_PER_LINK && (chosen.is_empty() || total < need) {
            let best = candidates.iter().enumerate().map(|(n, way)| {
                let path = self.path(*way).iter().filter(|id| **id != link.id);
                let left = path.map(|id| *room.entry(*id).or_insert_with(|| room_of(*id)));
                (left.min().unwrap_or(u64::MAX), std::cmp::Reverse(n), *way)
            });
            // Of equals the first.
            let Some((flow, _, way)) = best.max().filter(|(flow, ..)| *flow > 0) else {
                break;
            };
            total += flow as f64;
            for id in self.path(way).to_vec() {
                if let Some(left) = room.get_mut(&id).filter(|left| **left != u64::MAX) {
                    *left = left.saturating_sub(flow);
                }
            }
            chosen.push(way);
        }
        let ways: Vec<Way> = chosen
            .into_iter()
            .flat_map(|way| self.streams(way))
            .collect();
        if ways.is_empty() {
            return None;
        }
        let crossed: BTreeSet<LinkId> = self.crossings(&ways).into_keys().collect();
        let (_, filled) = self.load(&ways, &crossed, u64::MAX);
        let between = |id: &LinkId| position(topology.link(*id)) == Position::Between;
        let mut targets: BTreeSet<LinkId> = filled.into_iter().filter(between).collect();
        targets.insert(link.id);
        Some(self.group(ways, targets))
    }

    fn group(&mut self, ways: Vec<Way>, targets: BTreeSet<LinkId>) -> Group {
        let (_, fills) = self.load(&ways, &targets, u64::MAX);
        Group {
            ways,
            targets,
            fills,
        }
    }

    /// Pairs whose way crosses a link, those first whose neighbourhood comes next after the source's: then the links of all
    /// neighbourhoods are filled in pairs, one behind the other.
    fn candidates(&mut self, link: &Link) -> Vec<Way> {
        let sides: Vec<Vec<HostId>> = self.neighbours.values().cloned().collect();
        let crossing: Vec<Vec<Way>> = match (link.from, link.to) {
            (Place::Host(from), _) => sides.iter().map(|to| pairs(&[from], to, false)).collect(),
            (_, Place::Host(to)) => sides.iter().map(|from| pairs(from, &[to], false)).collect(),
            _ => {
                let mut across = self.across.get(&link.id).cloned().unwrap_or_default();
                let count = sides.len();
                across.sort_by_key(|&(a, b)| ((b + count - a) % count, a));
                across
                    .into_iter()
                    .map(|(a, b)| pairs(&sides[a], &sides[b], a == b))
                    .collect()
            }
        };
        let turns = crossing.iter().flatten();
        let usable = turns
            .copied()
            .filter(|way| self.path(*way).contains(&link.id));
        usable.take(CANDIDATES).collect()
    }

    fn pack(&mut self, groups: &[Group], settings: &Settings) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut left: Vec<&Group> = Vec::new();
        for group in groups {
            let fitting = parts
                .iter()
                .position(|part| self.takes(part, group, settings.together_bps));
            match fitting {
                Some(n) => parts[n].add(group),
                None if parts.len() < settings.parts_max.max(1) => {
                    parts.push(Part::default());
                    parts.last_mut().expect("just pushed").add(group);
                }
                None => left.push(group),
            }
        }
        // A class without any measured link goes where it may still be filled, beyond what should be asked at once.
        for group in left {
            let measured: BTreeSet<LinkId> = parts.iter().flat_map(|p| p.targets.clone()).collect();
            let known = represent(self.topology, &measured);
            let represented = |id: &LinkId| measured.contains(id) || known.contains_key(id);
            if group.targets.iter().all(represented) {
                continue;
            }
            let fitting = parts
                .iter()
                .position(|part| self.takes(part, group, u64::MAX));
            if let Some(n) = fitting {
                parts[n].add(group);
            }
        }
        parts
    }

    /// Whether a part can take a group more: it still asks for no more than it may, and no link that is full is shared by
    /// streams of both. Shares of TCP are only roughly max-min fair (a stream over several full links gets less), so
    /// that a link filled by streams that are limited elsewhere, too, may be left half idle.
    fn takes(&mut self, part: &Part, group: &Group, together_bps: u64) -> bool {
        let mut both = part.clone();
        both.add(group);
        if both.ways.len() > STREAMS_MAX {
            return false;
        }
        let (theirs, ours) = (self.crossings(&part.ways), self.crossings(&group.ways));
        let shared = theirs
            .iter()
            .filter_map(|(id, of_part)| Some((id, of_part, ours.get(id)?)));
        for (id, (ways, bps), (more_ways, more_bps)) in shared {
            let room = rate(self.topology.link(*id)) as f64 * SHARED;
            if ways != more_ways && bps + more_bps > room {
                return false;
            }
        }
        let (carried, filled) = self.load(&both.ways, &both.targets, together_bps);
        carried <= together_bps as f64 * ROUNDING && filled.is_superset(&both.fills)
    }

    /// The limited links that streams cross: by which ways, and what they carry while alone.
    fn crossings(&mut self, ways: &[Way]) -> BTreeMap<LinkId, (BTreeSet<Way>, f64)> {
        let topology = self.topology;
        let paths: Vec<Vec<LinkId>> = ways.iter().map(|way| self.path(*way).to_vec()).collect();
        let flows = fair_shares(&paths, |id| topology.link(id).spec.rate, u64::MAX);
        let mut crossings: BTreeMap<LinkId, (BTreeSet<Way>, f64)> = BTreeMap::new();
        for ((way, path), bps) in ways.iter().zip(&paths).zip(flows) {
            for id in path
                .iter()
                .filter(|id| topology.link(**id).spec.rate.is_some())
            {
                let crossing = crossings.entry(*id).or_default();
                crossing.0.insert(*way);
                crossing.1 += bps;
            }
        }
        crossings
    }

    /// What streams carry together, and which of the links they fill.
    fn load(
        &mut self,
        ways: &[Way],
        targets: &BTreeSet<LinkId>,
        free_bps: u64,
    ) -> (f64, BTreeSet<LinkId>) {
        let topology = self.topology;
        let paths: Vec<Vec<LinkId>> = ways.iter().map(|way| self.path(*way).to_vec()).collect();
        let flows = fair_shares(&paths, |id| topology.link(id).spec.rate, free_bps);
        let carried = |id: LinkId| -> f64 {
            let crossing = paths
                .iter()
                .zip(&flows)
                .filter(|(path, _)| path.contains(&id));
            crossing.map(|(_, flow)| flow).sum()
        };
        let full = |id: &LinkId| match topology.link(*id).spec.rate {
            Some(rate) => carried(*id) >= rate.bps() as f64 * FILLED,
            None => true,
        };
        let filled = targets.iter().copied().filter(full).collect();
        (flows.iter().sum(), filled)
    }
}

/// Streams on a path with a shallow queue: with four, one that backs off gives up a twelfth.
const SHALLOW_STREAMS: f64 = 4.0;
/// Streams on one way at the most; a path lossier than that is reported as not loaded.
const WAY_STREAMS_MAX: u32 = 16;
/// Streams of two groups may share a link that they leave a twentieth of.
const SHARED: f64 = 0.95;
/// Sums of floats may miss what they should be by this.
const ROUNDING: f64 = 1.0 + 1e-9;
const FILLED: f64 = 1.0 - 1e-9;

impl Part {
    fn add(&mut self, group: &Group) {
        for way in &group.ways {
            let here = self.ways.iter().filter(|w| *w == way).count();
            let wanted = group.ways.iter().filter(|w| *w == way).count();
            // Groups share a way's streams.
            if here < wanted {
                self.ways.push(*way);
            }
        }
        self.targets.extend(&group.targets);
        self.fills.extend(&group.fills);
    }
}

/// Payload rate of a TCP stream that loses segments with probability `p`: with acknowledgements of two segments each and
/// Linux's least retransmission timeout of 200 ms.
fn lossy_stream_bps(round_trip_s: f64, p: f64) -> f64 {
    let (acknowledged, timeout_s) = (2.0, 0.2);
    let recovering = round_trip_s * (2.0 * acknowledged * p / 3.0).sqrt();
    let often = (3.0 * (3.0 * acknowledged * p / 8.0).sqrt()).min(1.0);
    let waiting = timeout_s * often * p * (1.0 + 32.0 * p * p);
    segment_payload() as f64 * 8.0 / (recovering + waiting)
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

/// Every host of either side once, or as often as the longer side needs.
fn pairs(from: &[HostId], to: &[HostId], same: bool) -> Vec<Way> {
    if from.is_empty() || to.is_empty() {
        return Vec::new();
    }
    let shift = usize::from(same);
    let pair = |n: usize| (from[n % from.len()], to[(n + shift) % to.len()]);
    let count = from.len().max(to.len()).min(CANDIDATES);
    (0..count).map(pair).filter(|(a, b)| a != b).collect()
}

/// Reorders so that any beginning is spread evenly over the whole: steps of the golden ratio (0.618…) visit a range so.
fn spread<T>(items: &mut Vec<T>) {
    let count = items.len();
    // Nearest whole step; coprime with the count, so that all are visited.
    let coprime = |step: &usize| gcd(*step, count) == 1;
    let step = (count * 618 / 1000..=count).find(coprime).unwrap_or(1);
    let mut taken: Vec<Option<T>> = items.drain(..).map(Some).collect();
    items.extend((0..count).filter_map(|n| taken[n * step % count].take()));
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Max-min fair shares of streams, bit/s, by progressive filling: the tightest link is shared out first. A stream that
/// no link limits gets `free_bps`.
pub(super) fn fair_shares(
    paths: &[Vec<LinkId>],
    rate: impl Fn(LinkId) -> Option<BitRate>,
    free_bps: u64,
) -> Vec<f64> {
    let mut shares: Vec<Option<f64>> = vec![None; paths.len()];
    let mut links: BTreeMap<LinkId, (f64, Vec<usize>)> = BTreeMap::new();
    for (n, path) in paths.iter().enumerate() {
        for id in path {
            if let Some(rate) = rate(*id) {
                let link = links.entry(*id).or_insert((rate.bps() as f64, Vec::new()));
                link.1.push(n);
            }
        }
    }
    while let Some((id, fair)) = links
        .iter()
        .map(|(id, (left, streams))| (*id, left / streams.len() as f64))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
    {
        let (_, settled) = links.remove(&id).expect("found just now");
        for (left, streams) in links.values_mut() {
            streams.retain(|n| {
                let shared = settled.contains(n);
                if shared {
                    *left = (*left - fair).max(0.0);
                }
                !shared
            });
        }
        links.retain(|_, (_, streams)| !streams.is_empty());
        settled.into_iter().for_each(|n| shares[n] = Some(fair));
    }
    let free = |share: Option<f64>| share.unwrap_or(free_bps as f64);
    shares.into_iter().map(free).collect()
}

#[cfg(test)]
#[path = "cover_tests.rs"]
mod tests;
