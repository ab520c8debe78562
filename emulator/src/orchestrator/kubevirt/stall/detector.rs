//! Whether passes still gain, and what is little: bookkeeping of what each left.
//!
//! Never inside: what is done about it.

use super::{StallDetectorParams, whole_ms};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Passes whose leavings are kept to fall back on: the least are dropped last, and nobody waits for that many.
const HISTORY_MAX: usize = 65_536;

/// At the end of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    elapsed_ms: u64,
    remaining_bytes: u64,
}

#[derive(Debug, Clone)]
struct Stalled {
    best_bytes: u64,
    /// What passes have left since.
    history: BinaryHeap<Reverse<u64>>,
    deadline_ms: u64,
    patience_ms: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Detector {
    params: StallDetectorParams,
    /// Passes within the window, each with less left than the one before.
    candidates: VecDeque<Record>,
    /// The least of those before the window.
    outside_bytes: Option<u64>,
    stalled: Option<Stalled>,
}

impl Detector {
    pub(super) fn new(params: StallDetectorParams) -> Self {
        Self {
            params,
            candidates: VecDeque::new(),
            outside_bytes: None,
            stalled: None,
        }
    }

    /// A pass has ended: whether the migration is stalled.
    pub(super) fn stalled(&mut self, elapsed_ms: u64, remaining_bytes: u64) -> bool {
        let record = Record {
            elapsed_ms,
            remaining_bytes,
        };
        self.note(record);
        if let Some(stalled) = &mut self.stalled {
            stalled.relax(record, self.params.patience_window_decay_factor);
            return true;
        }
        let Some(outside_bytes) = self.outside_bytes else {
            return false;
        };
        let margin = u64::from(self.params.stall_margin.min(100));
        if remaining_bytes < percent(outside_bytes, 100 - margin) {
            return false;
        }
        let inside = self.candidates.iter().map(|record| record.remaining_bytes);
        let window_ms = self.params.stall_progress_timeout;
        self.stalled = Some(Stalled {
            best_bytes: inside.fold(outside_bytes, u64::min),
            history: BinaryHeap::new(),
            deadline_ms: elapsed_ms.saturating_add(window_ms),
            patience_ms: window_ms as f64,
        });
        true
    }

    /// Whether this is about as little as the best since it stalled.
    pub(super) fn at_best(&self, remaining_bytes: u64) -> bool {
        let margin = u64::from(self.params.stall_margin);
        (self.stalled.as_ref())
            .is_some_and(|of| remaining_bytes <= percent(of.best_bytes, 100 + margin))
    }

    fn note(&mut self, record: Record) {
        let window_ms = self.params.stall_progress_timeout;
        while let Some(oldest) = self.candidates.front()
            && record.elapsed_ms.saturating_sub(oldest.elapsed_ms) >= window_ms
        {
            let least = self.outside_bytes.unwrap_or(u64::MAX);
            self.outside_bytes = Some(least.min(oldest.remaining_bytes));
            self.candidates.pop_front();
        }
        let left = record.remaining_bytes;
        let outdone = self.outside_bytes.is_some_and(|least| left > least)
            || (self.candidates.back()).is_some_and(|last| left >= last.remaining_bytes);
        if !outdone {
            self.candidates.push_back(record);
        }
    }
}

impl Stalled {
    /// The best has not come again for so long: the next best will do.
    fn relax(&mut self, record: Record, decay: f64) {
        if self.history.len() < HISTORY_MAX {
            self.history.push(Reverse(record.remaining_bytes));
        }
        if record.elapsed_ms < self.deadline_ms {
            return;
        }
        if let Some(Reverse(least)) = self.history.pop() {
            self.best_bytes = least;
        }
        self.patience_ms = (self.patience_ms * decay).floor();
        let wait_ms = whole_ms(self.patience_ms);
        self.deadline_ms = record.elapsed_ms.saturating_add(wait_ms);
    }
}

/// So many per cent of it, rounded down.
fn percent(bytes: u64, percent: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(percent) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}
