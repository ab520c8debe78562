//! Groups of pairs: who streams to whom so that each link can be filled. Nothing here knows of parts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pack::STREAMS_MAX;
use super::{Group, Planner, Position, Way, position, rate};
use crate::flow::lossy_stream_bps;
use crate::topology::{HostId, Link, LinkId, Place};

/// Pairs looked at for one link; they are spread over the hosts on either side.
const CANDIDATES: usize = 512;
/// Pairs one link may need: a link faster than 32 of its hosts' links is reported as not loaded.
const WAYS_PER_LINK: usize = 32;
/// Streams of a link between switches may ask for this much more than it carries, so that one of them in slow start is made
/// up for by the others.
const SURPLUS: f64 = 1.25;
/// Streams on a path with a shallow queue: with four, one that backs off gives up a twelfth.
const SHALLOW_STREAMS: f64 = 4.0;
/// Streams on one way at the most; a path lossier than that is reported as not loaded.
const WAY_STREAMS_MAX: u32 = 16;

impl Planner<'_> {
    /// Groups for all links that are up, spread evenly over the network in any beginning of the list.
    pub(super) fn groups(&mut self) -> Vec<Group> {
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
        let round_trip = specs().map(|s| s.delay).sum::<Duration>() * 2;
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
                (left.min().unwrap_or(u64::MAX), Reverse(n), *way)
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

    fn group(&mut self, mut ways: Vec<Way>, targets: BTreeSet<LinkId>) -> Group {
        ways.truncate(STREAMS_MAX);
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
