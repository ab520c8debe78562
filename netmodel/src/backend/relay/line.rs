//! A delay line: what has left the serialiser and is on its way.
//!
//! Deliveries never overtake each other, even when the delay shrinks, unless a link asks for it.

use std::collections::VecDeque;

/// Items with the instants they arrive at, in that order.
#[derive(Debug)]
pub(super) struct Line<P> {
    items: VecDeque<(u64, P)>,
    last_ns: u64,
}

impl<P> Line<P> {
    pub(super) fn new() -> Self {
        Self {
            items: VecDeque::new(),
            last_ns: 0,
        }
    }

    /// Puts an item on the line that should arrive at `at_ns`, or right behind the one before it.
    pub(super) fn push(&mut self, at_ns: u64, item: P) {
        self.last_ns = self.last_ns.max(at_ns);
        self.items.push_back((self.last_ns, item));
    }

    /// Puts an item on the line that arrives at `at_ns`, before others if that is sooner. Moves what lies between it and
    /// the nearer end, which is as many as jitter lets it overtake.
    pub(super) fn insert(&mut self, at_ns: u64, item: P) {
        self.last_ns = self.last_ns.max(at_ns);
        let behind = self.items.partition_point(|(at, _)| *at <= at_ns);
        self.items.insert(behind, (at_ns, item));
    }

    /// When something sent to arrive at `at_ns` would arrive.
    pub(super) fn arrival(&self, at_ns: u64) -> u64 {
        self.last_ns.max(at_ns)
    }

    /// When the first item arrives.
    pub(super) fn next_arrival(&self) -> Option<u64> {
        self.items.front().map(|(at, _)| *at)
    }

    /// The first item, if it has arrived by `now_ns`.
    pub(super) fn pop_arrived(&mut self, now_ns: u64) -> Option<P> {
        if self.next_arrival()? > now_ns {
            return None;
        }
        self.items.pop_front().map(|(_, item)| item)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_delay_does_not_reorder() {
        let mut line = Line::new();
        line.push(100, 'a');
        line.push(60, 'b');
        assert_eq!(line.pop_arrived(99), None);
        assert_eq!(line.pop_arrived(100), Some('a'));
        assert_eq!(line.pop_arrived(100), Some('b'));
        assert!(line.is_empty());
        assert_eq!(line.arrival(50), 100);
    }

    #[test]
    fn an_inserted_item_overtakes_and_equals_keep_their_order() {
        let mut line = Line::new();
        for (at, item) in [(100, 'a'), (60, 'b'), (100, 'c'), (60, 'd')] {
            line.insert(at, item);
        }
        line.push(70, 'e');
        let order: String = std::iter::from_fn(|| line.pop_arrived(u64::MAX)).collect();
        assert_eq!(order, "bdace");
    }
}
