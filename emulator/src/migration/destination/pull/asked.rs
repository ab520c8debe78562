//! Pages that a guest waits for, in the order in which it touched them, until somebody asks for them.
//!
//! Never inside: who asks, and how.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// One a standing vCPU.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<VecDeque<u32>>);

impl Asked {
    pub(super) fn put(&self, page: u32) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(page);
    }

    /// The first that is still missing; those before it have come meanwhile, and their waits are over.
    pub(super) fn take(&self, missing: impl Fn(u32) -> bool) -> Option<u32> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| queue.pop_front()).find(|page| missing(*page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_in_turn_but_for_those_that_have_come() {
        let asked = Asked::default();
        [7, 3, 9, 4].into_iter().for_each(|page| asked.put(page));
        assert_eq!(asked.take(|page| page < 7), Some(3));
        assert_eq!(asked.take(|page| page < 7), Some(4));
        assert_eq!(asked.take(|_| true), None);
    }
}
