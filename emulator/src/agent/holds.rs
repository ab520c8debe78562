//! Where threads of migrations are held for faults, as the scenario plans them.
//!
//! A thread that reaches such a place says so and waits for the manager's word that the fault is in
//! effect, so that a fault at the beginning of a phase strikes before anything of it is done. Never
//! inside: what the faults are.

use crate::clock::mono_ns;
use crate::control::channel::BlockingSender;
use crate::control::message::FromAgent;
use crate::ids::MigrationId;
use crate::migration::faults::{Hold, HoldAt};
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bounds the life of a thread whose manager does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The manager's words.
#[derive(Debug, Default)]
pub(super) struct Gate {
    gone_on: Mutex<BTreeSet<u32>>,
    news: Condvar,
}

impl Gate {
    /// The fault is in effect.
    pub(super) fn go_on(&self, fault: u32) {
        let mut gone_on = self.gone_on.lock().unwrap_or_else(PoisonError::into_inner);
        gone_on.insert(fault);
        self.news.notify_all();
    }

    fn wait(&self, fault: u32) {
        let gone_on = self.gone_on.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is left to say so if it takes longer; the thread then goes on.
        drop(
            self.news
                .wait_timeout_while(gone_on, PATIENCE, |gone_on| !gone_on.contains(&fault)),
        );
    }
}

/// The places at which one end of a migration is held.
pub(super) struct Holds {
    pub(super) out: Arc<BlockingSender>,
    pub(super) migration: MigrationId,
    pub(super) planned: Vec<Hold>,
    pub(super) gate: Arc<Gate>,
}

impl Holds {
    /// The thread has come to this place.
    pub(super) fn reach(&self, at: HoldAt) {
        for hold in self.planned.iter().filter(|hold| hold.at == at) {
            let due = FromAgent::FaultDue {
                migration: self.migration,
                fault: hold.fault,
                at_ns: mono_ns(),
            };
            if self.out.send(&due).is_ok() {
                self.gate.wait(hold.fault);
            }
        }
    }
}
