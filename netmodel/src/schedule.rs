//! How links change over trace time, as values: what holds from when.
//!
//! Resolved: every change carries the whole spec that holds from then on, so that any instant can be jumped to. What
//! people say (half of what holds, a flap, a partition, rows of a trace) becomes that in [`resolve`]. Who turns trace
//! time into instants of the computer's clock, and who changes the link, is elsewhere.

mod flap;
mod partition;
mod patch;
mod resolve;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::flap::Flap;
pub use self::partition::separating;
pub use self::patch::{Amount, NotAPercentage, Patch, PatchError, Percent};
pub use self::resolve::{Happening, Holder, Resolved, TooMany, Unresolved, What, resolve};
pub use self::rows::{Row, Rows, RowsError, RowsProblem};

use crate::link::LinkSpec;
use crate::topology::LinkId;

/// A link's promise from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// From when, trace ns.
    pub at_ns: u64,
    /// Which link.
    pub link: LinkId,
    /// All of it, changed or not.
    pub spec: LinkSpec,
}

/// Changes in the order they happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Change>", into = "Vec<Change>")]
pub struct Schedule(Vec<Change>);

impl From<Vec<Change>> for Schedule {
    /// Puts them in order; of two at one instant on one link the later in the list holds.
    fn from(mut changes: Vec<Change>) -> Self {
        changes.sort_by_key(|change| change.at_ns);
        Self(changes)
    }
}

impl From<Schedule> for Vec<Change> {
    fn from(schedule: Schedule) -> Self {
        schedule.0
    }
}

impl Schedule {
    /// All changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.0
    }

    /// What happens after `from_ns`, up to and with `to_ns`.
    #[must_use]
    pub fn between(&self, from_ns: u64, to_ns: u64) -> &[Change] {
        let until = |ns: u64| self.0.partition_point(|change| change.at_ns <= ns);
        let (begin, end) = (until(from_ns), until(to_ns));
        &self.0[begin..end.max(begin)]
    }

    /// What links have changed to by `ns`; those that are not in it are as the network has them.
    #[must_use]
    pub fn at(&self, ns: u64) -> BTreeMap<LinkId, LinkSpec> {
        let until = self.0.partition_point(|change| change.at_ns <= ns);
        last(&self.0[..until])
    }

    /// The last change of each link after `from_ns`, up to and with `to_ns`: what a jump has to do.
    #[must_use]
    pub fn settled(&self, from_ns: u64, to_ns: u64) -> BTreeMap<LinkId, LinkSpec> {
        last(self.between(from_ns, to_ns))
    }

    /// The same schedule of other promises.
    ///
    /// # Errors
    /// The first of `change`.
    pub fn with_specs<E>(
        &self,
        mut change: impl FnMut(&Change) -> Result<LinkSpec, E>,
    ) -> Result<Self, E> {
        let mut other = self.clone();
        for entry in &mut other.0 {
            entry.spec = change(entry)?;
        }
        Ok(other)
    }
}

/// The last of the changes of each link.
fn last(changes: &[Change]) -> BTreeMap<LinkId, LinkSpec> {
    let changes = changes.iter();
    changes.map(|change| (change.link, change.spec)).collect()
}
