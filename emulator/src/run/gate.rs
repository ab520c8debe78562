//! The gate before a run: what this machine does not carry is refused, or marked.

use super::admission::{Admission, better, cached, demand, judge, keep, memory_lacks};
use super::{RunError, RunRequest};
use crate::computer;
use crate::scenario::Scenario;
use netmodel::backend::BackendKind;
use netmodel::capacity::{Capacity, Demand};

/// What is asked, and what is known of this machine.
#[derive(Debug)]
pub(super) struct Gate {
    demand: Demand,
    k: u32,
    known: Option<Capacity>,
    others: Vec<Capacity>,
    measure: bool,
    force: bool,
    /// Why this machine does not carry what is run all the same.
    forced: Option<String>,
}

impl Gate {
    /// Looks at memory and at what was measured before. `scenario` is as it is carried. Without
    /// calibration nothing is measured, and nothing refused.
    pub(super) fn new(
        request: &RunRequest,
        scenario: &Scenario,
        backend: BackendKind,
    ) -> Result<Self, RunError> {
        let demand = demand(scenario);
        let (known, others) = cached(backend);
        let fits = judge(&demand, scenario.divided_by, known.as_ref(), &others);
        let mut gate = Self {
            measure: request.calibrate && !matches!(fits, Admission::Fits(_)),
            force: request.force,
            k: scenario.divided_by,
            demand,
            known,
            others,
            forced: None,
        };
        // A kernel that does not tell refuses nothing.
        let available = computer::available_bytes().unwrap_or(u64::MAX);
        if let Some(why) = memory_lacks(scenario, available) {
            gate.refuse(why)?;
        }
        Ok(gate)
    }

    /// What the machine is to measure itself against: nothing, if what is known of it suffices.
    pub(super) fn to_measure(&self) -> Option<Demand> {
        self.measure.then(|| self.demand.clone())
    }

    /// What the machine measured.
    pub(super) fn measured(&mut self, capacity: Capacity) -> Result<(), RunError> {
        let best = better(self.known.take(), Some(capacity));
        if let Some(best) = &best {
            keep(best);
        }
        self.known = best;
        match judge(&self.demand, self.k, self.known.as_ref(), &self.others) {
            Admission::Refused(why) => self.refuse(why),
            Admission::Fits(_) | Admission::Unknown => Ok(()),
        }
    }

    fn refuse(&mut self, why: String) -> Result<(), RunError> {
        if !self.force {
            return Err(RunError::Refused(why));
        }
        self.forced = Some(why);
        Ok(())
    }

    /// Why this machine does not carry what is run all the same; `None` if it does.
    pub(super) fn forced(self) -> Option<String> {
        self.forced
    }
}
