//! What is due when, for one thread that waits for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::clock::now_ns;
use crate::topology::SwitchId;

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A VM says where it is, unless it has moved since.
    Announce { vm: u32, moves: u64 },
    /// News of it reaches a switch.
    Teach {
        vm: u32,
        moves: u64,
        switch: SwitchId,
    },
}

/// In the order of their instants; of one instant in the order they were noted.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    noted: u64,
    closed: bool,
}

impl Agenda {
    /// Notes something for an instant of the monotonic clock.
    pub(super) fn at(&self, at_ns: u64, due: Due) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.noted += 1;
        let noted = state.noted;
        state.due.push(Reverse((at_ns, noted, due)));
        self.changed.notify_one();
    }

    /// Nothing is waited for any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.changed.notify_one();
    }

    /// Waits until the next thing is due; `None` when closed.
    pub(super) fn next(&self) -> Option<Due> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            let at_ns = state.due.peek().map(|Reverse((at_ns, ..))| *at_ns);
            let now = now_ns();
            if at_ns.is_some_and(|at_ns| at_ns <= now) {
                return state.due.pop().map(|Reverse((.., due))| due);
            }
            // Nothing noted: until something is.
            let wait = at_ns.map_or(Duration::from_secs(3600), |at_ns| {
                Duration::from_nanos(at_ns - now)
            });
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
