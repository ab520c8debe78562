//! How links change over trace time, as values: what holds from when.
//!
//! Resolved: every change carries the whole spec that holds from then on, so that any instant can be jumped to. Who
//! turns trace time into instants of the computer's clock, and who changes the link, is elsewhere.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_what_happens_after_its_beginning_up_to_its_end() {
        let change = |at_ns| Change {
            at_ns,
            link: LinkId(0),
            spec: LinkSpec::default(),
        };
        let schedule = Schedule::from([30, 10, 20].map(change).to_vec());
        let instants = |from, to| {
            let between = schedule.between(from, to).iter();
            between.map(|change| change.at_ns).collect::<Vec<_>>()
        };
        assert_eq!(instants(10, 20), [20]);
        assert_eq!(instants(0, 30), [10, 20, 30]);
        assert_eq!(instants(20, 10), [0; 0]);
    }
}
