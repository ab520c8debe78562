//! From what is said to happen to what holds from when.
//!
//! Everything is taken in the order of its instants, and in the order of the list where instants are the same. Of two
//! things said about one property the later holds. A link is up when nobody holds it down, so that a flap, a partition
//! and a cut may overlap and each ends only itself; what else changes meanwhile is there when the link comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::patch::{Patch, PatchError};
use super::{Change, Schedule};
use crate::link::LinkSpec;
use crate::topology::{Link, LinkId, Topology};

/// Something that happens to links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When, trace ns.
    pub at_ns: u64,
    /// To which.
    pub links: Vec<LinkId>,
    /// What.
    pub what: What,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Other properties.
    Set(Patch),
    /// Somebody holds it down.
    Down(Holder),
    /// Somebody lets it go.
    Up(Holder),
}

/// Who holds a link down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A plain order, undone by a plain order.
    Order,
    /// A flap, a partition, a trace; by number.
    Numbered(usize),
}

/// What happens, worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The network with the properties that hold from the beginning. Its links are up.
    pub topology: Topology,
    /// What changes.
    pub schedule: Schedule,
}

/// More changes than a schedule may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{changes} changes of links are more than the {limit} there is room for")]
pub struct TooMany {
    /// So many are asked for, at least.
    pub changes: u128,
    /// So many may be.
    pub limit: usize,
}

/// Why what is said to happen cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// A share of what is not there.
    #[error("link {link}: {source}")]
    Patch {
        /// Index of what happens.
        happening: usize,
        /// Name of the link.
        link: String,
        /// Why.
        source: PatchError,
    },
    /// More changes than a schedule may hold.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

/// Where a link is while things happen to it.
#[derive(Debug)]
struct State {
    /// Its properties.
    spec: LinkSpec,
    holders: BTreeSet<Holder>,
    /// What has been promised last.
    promised: LinkSpec,
}

impl State {
    fn new(link: &Link) -> Self {
        Self {
            spec: link.spec,
            holders: BTreeSet::new(),
            promised: link.spec,
        }
    }

    fn take(&mut self, what: What) -> Result<(), PatchError> {
        match what {
            What::Set(patch) => self.spec = patch.apply(&self.spec)?,
            What::Down(holder) => {
                self.holders.insert(holder);
            }
            What::Up(holder) => {
                self.holders.remove(&holder);
            }
        }
        Ok(())
    }

    fn now(&self) -> LinkSpec {
        LinkSpec {
            up: self.spec.up && self.holders.is_empty(),
            ..self.spec
        }
    }

    /// What has to be promised anew.
    fn change(&mut self, link: LinkId, at_ns: u64) -> Option<Change> {
        let spec = self.now();
        let change = (spec != self.promised).then_some(Change { at_ns, link, spec });
        self.promised = spec;
        change
    }
}

/// Works out what holds from when. `see` gets each link as it is after an instant at which something happened to it, and
/// the index of the last thing that did: whoever minds what links can be sees all of them here.
///
/// # Errors
/// [`Unresolved`].
pub fn resolve(
    topology: &Topology,
    happenings: &[Happening],
    limit: usize,
    mut see: impl FnMut(usize, &Link, &LinkSpec),
) -> Result<Resolved, Unresolved> {
    let mut order: Vec<usize> = (0..happenings.len()).collect();
    order.sort_by_key(|&index| happenings[index].at_ns);
    let mut states: BTreeMap<LinkId, State> = BTreeMap::new();
    let mut first: BTreeMap<LinkId, LinkSpec> = BTreeMap::new();
    let mut changes = Vec::new();
    for instant in instants(&order, happenings) {
        let at_ns = happenings[order[instant.start]].at_ns;
        let mut touched = BTreeMap::new();
        for &index in &order[instant] {
            let happening = &happenings[index];
            for &id in &happening.links {
                let link = topology.link(id);
                let state = states.entry(id).or_insert_with(|| State::new(link));
                let taken = state.take(happening.what);
                taken.map_err(|source| Unresolved::Patch {
                    happening: index,
                    link: link.name.clone(),
                    source,
                })?;
                touched.insert(id, index);
            }
        }
        for (id, index) in touched {
            let Some(state) = states.get_mut(&id) else {
                continue;
            };
            see(index, topology.link(id), &state.now());
            if at_ns == 0 {
                // What holds from the beginning is what the network is made and measured with; it has to be up for that.
                first.insert(id, state.spec);
                state.promised = state.spec;
            }
            changes.extend(state.change(id, at_ns));
        }
        if changes.len() > limit {
            let changes = at_most(happenings);
            return Err(TooMany { changes, limit }.into());
        }
    }
    let begun = topology.with_specs(|link| {
        Ok::<_, std::convert::Infallible>(first.get(&link.id).copied().unwrap_or(link.spec))
    });
    let Ok(topology) = begun;
    let schedule = Schedule::from(changes);
    Ok(Resolved { topology, schedule })
}

/// Runs of things that happen at one instant.
fn instants(order: &[usize], happenings: &[Happening]) -> Vec<Range<usize>> {
    let runs = order.chunk_by(|&a, &b| happenings[a].at_ns == happenings[b].at_ns);
    let mut end = 0;
    runs.map(|run| {
        let begin = end;
        end += run.len();
        begin..end
    })
    .collect()
}

/// How many changes are asked for, not minding that some change nothing.
fn at_most(happenings: &[Happening]) -> u128 {
    let links = happenings.iter().map(|happening| happening.links.len());
    links.map(|links| links as u128).sum()
}
