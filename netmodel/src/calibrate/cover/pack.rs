//! Parts: which groups are loaded at once.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Settings;
use super::{Group, Part, Planner, Way, rate, represent};
use crate::flow::fair_shares;
use crate::topology::LinkId;

/// Streams at once: two threads each, and a computer of a few cores serves no more of them evenly.
pub(super) const STREAMS_MAX: usize = 64;
/// Streams of two groups may share a link that they leave a twentieth of.
const SHARED: f64 = 0.95;
/// Sums of floats may miss what they should be by this.
const ROUNDING: f64 = 1.0 + 1e-9;
const FILLED: f64 = 1.0 - 1e-9;

impl Planner<'_> {
    pub(super) fn pack(&mut self, groups: &[Group], settings: &Settings) -> Vec<Part> {
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
    pub(super) fn crossings(&mut self, ways: &[Way]) -> BTreeMap<LinkId, (BTreeSet<Way>, f64)> {
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
    pub(super) fn load(
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

impl Part {
    pub(super) fn add(&mut self, group: &Group) {
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
