//! A byte-bounded drop-tail queue in front of a virtual clock.
//!
//! Departure times are computed on arrival: `start = max(arrival, last departure)`, `departure = start + bits / rate`.
//! The clock keeps what a division leaves, so that a million packets end where one long packet would. It reads no
//! clock and knows no packets beyond their bytes.

use std::collections::VecDeque;

use crate::units::BitRate;

/// Something waiting or being serialised.
#[derive(Debug)]
pub(super) struct Waiting<P> {
    pub(super) item: P,
    pub(super) wire_bytes: u64,
    pub(super) departure_ns: u64,
}

/// Queue and serialiser of one link direction.
#[derive(Debug)]
pub(super) struct Queue<P> {
    rate: Option<BitRate>,
    room_bytes: u64,
    clock: VirtualClock,
    waiting: VecDeque<Waiting<P>>,
    busy_ns: u64,
}

/// When the last accepted bit has left: `ns` + `rest` / rate.
#[derive(Debug, Clone, Copy, Default)]
struct VirtualClock {
    ns: u64,
    rest: u64,
}

const NS_PER_S: u128 = 1_000_000_000;

impl VirtualClock {
    /// Serialises `bytes` that arrived at `now_ns`; returns when they are gone, rounded down.
    fn serialise(&mut self, now_ns: u64, bytes: u64, rate: BitRate) -> u64 {
        if now_ns > self.ns {
            *self = Self {
                ns: now_ns,
                rest: 0,
            };
        }
        // Below 2^67 · 2^30 + 2^64: fits 128 bits for any size and rate.
        let work = u128::from(bytes) * 8 * NS_PER_S + u128::from(self.rest);
        let rate = u128::from(rate.bps());
        self.ns = self
            .ns
            .saturating_add(u64::try_from(work / rate).unwrap_or(u64::MAX));
        self.rest = u64::try_from(work % rate).expect("a remainder is below the rate, a u64");
        self.ns
    }

    /// Work left at `now_ns`, in bits × 10⁹.
    fn backlog(&self, now_ns: u64, rate: BitRate) -> u128 {
        let ahead = u128::from(self.ns.saturating_sub(now_ns));
        let rest = if now_ns > self.ns {
            0
        } else {
            u128::from(self.rest)
        };
        ahead * u128::from(rate.bps()) + rest
    }
}

impl<P> Queue<P> {
    pub(super) fn new(rate: Option<BitRate>, room_bytes: u64) -> Self {
        let clock = VirtualClock::default();
        Self {
            rate,
            room_bytes,
            clock,
            waiting: VecDeque::new(),
            busy_ns: 0,
        }
    }

    /// Takes an item in, or hands it back when the queue is full. An item larger than the whole queue still passes an
    /// empty one: what is being serialised does not wait.
    pub(super) fn offer(&mut self, now_ns: u64, item: P, wire_bytes: u64) -> Result<(), P> {
        let departure_ns = match self.rate {
            None => now_ns,
            Some(rate) => {
                let backlog = self.backlog_bytes(now_ns);
                if backlog > 0 && backlog.saturating_add(wire_bytes) > self.room_bytes {
                    return Err(item);
                }
                let start = self.clock.ns.max(now_ns);
                let departure = self.clock.serialise(now_ns, wire_bytes, rate);
                self.busy_ns = self.busy_ns.saturating_add(departure - start);
                departure
            }
        };
        self.waiting.push_back(Waiting {
            item,
            wire_bytes,
            departure_ns,
        });
        Ok(())
    }

    /// The next item whose last bit has left by `now_ns`.
    pub(super) fn pop_departed(&mut self, now_ns: u64) -> Option<Waiting<P>> {
        if self.next_departure()? > now_ns {
            return None;
        }
        self.waiting.pop_front()
    }

    /// When the first item leaves.
    pub(super) fn next_departure(&self) -> Option<u64> {
        self.waiting.front().map(|front| front.departure_ns)
    }

    /// Bytes still to be serialised at `now_ns`, rounded up.
    pub(super) fn backlog_bytes(&self, now_ns: u64) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let bytes = self.clock.backlog(now_ns, rate).div_ceil(8 * NS_PER_S);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Time spent serialising, up to `now_ns`: what is accepted and lies ahead is one stretch without a gap.
    pub(super) fn busy_ns(&self, now_ns: u64) -> u64 {
        let ahead_ns = self.clock.ns.saturating_sub(now_ns);
        self.busy_ns.saturating_sub(ahead_ns)
    }

    /// Changes rate and room in place. What waits keeps its order; what is being serialised keeps the share already
    /// done and takes the rest at the new rate. Items that departed before `now_ns` must have been taken out.
    pub(super) fn change(&mut self, now_ns: u64, rate: Option<BitRate>, room_bytes: u64) {
        self.room_bytes = room_bytes;
        if rate == self.rate {
            return;
        }
        let old_end = self.clock.ns;
        let mut clock = VirtualClock {
            ns: now_ns,
            rest: 0,
        };
        let mut in_service = true;
        for waiting in &mut self.waiting {
            waiting.departure_ns = match (self.rate, rate) {
                (_, None) => now_ns,
                (Some(old), Some(new)) if in_service => {
                    let left = u128::from(waiting.departure_ns.saturating_sub(now_ns));
                    clock.take_over(left, old, new)
                }
                (_, Some(new)) => clock.serialise(now_ns, waiting.wire_bytes, new),
            };
            in_service = false;
        }
        self.rate = rate;
        self.clock = clock;
        // The part of busy time that lies ahead has a new length.
        let ahead = |end: u64| end.saturating_sub(now_ns);
        self.busy_ns = (self.busy_ns + ahead(clock.ns)).saturating_sub(ahead(old_end));
    }
}

impl VirtualClock {
    /// `left_ns` of serialising at the old rate, done at the new one.
    fn take_over(&mut self, left_ns: u128, old: BitRate, new: BitRate) -> u64 {
        // left_ns is below 2^64, as is a rate.
        let work = left_ns * u128::from(old.bps());
        let new = u128::from(new.bps());
        self.ns = self
            .ns
            .saturating_add(u64::try_from(work / new).unwrap_or(u64::MAX));
        self.rest = u64::try_from(work % new).expect("a remainder is below the rate, a u64");
        self.ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(bps: u64) -> Option<BitRate> {
        BitRate::from_bps(bps)
    }

    #[test]
    fn departures_match_hand_computation() {
        // 1538 bytes at 1 Gbit/s take 12 304 ns.
        let mut queue = Queue::new(rate(1_000_000_000), 10_000);
        queue.offer(1_000, 'a', 1538).unwrap();
        queue.offer(2_000, 'b', 1538).unwrap();
        queue.offer(100_000, 'c', 1538).unwrap();
        let left: Vec<_> = std::iter::from_fn(|| queue.pop_departed(u64::MAX))
            .map(|waiting| (waiting.item, waiting.departure_ns))
            .collect();
        assert_eq!(left, [('a', 13_304), ('b', 25_608), ('c', 112_304)]);
        assert_eq!(queue.busy_ns(u64::MAX), 3 * 12_304);
        // The third is under way.
        assert_eq!(queue.busy_ns(101_000), 2 * 12_304 + 1_000);
    }

    #[test]
    fn a_million_packets_do_not_drift() {
        // 3 bit/s-indivisible: each packet leaves a fraction of a nanosecond.
        let mut queue = Queue::new(rate(700_000_001), u64::MAX);
        (0..1_000_000_u32).for_each(|n| queue.offer(0, n, 1538).unwrap());
        let exact = 1_000_000_u128 * 1538 * 8 * NS_PER_S / 700_000_001;
        assert_eq!(
            u128::from(queue.waiting.back().unwrap().departure_ns),
            exact
        );
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_and_frees_as_bits_leave() {
        // 1 byte per microsecond.
        let mut queue = Queue::new(rate(8_000_000), 3_000);
        queue.offer(0, 1, 2_000).unwrap();
        queue.offer(0, 2, 1_000).unwrap();
        assert_eq!(queue.offer(0, 3, 1), Err(3));
        assert_eq!(queue.offer(999_000, 4, 1_000), Err(4));
        queue.offer(1_000_000, 5, 1_000).unwrap();
        assert_eq!(queue.backlog_bytes(1_000_000), 3_000);
    }

    #[test]
    fn a_packet_larger_than_the_queue_passes_an_empty_one() {
        let mut queue = Queue::new(rate(8_000_000), 100);
        queue.offer(0, 1, 2_000).unwrap();
        assert_eq!(queue.offer(1, 2, 10), Err(2));
    }

    #[test]
    fn a_rate_change_retimes_what_is_in_service() {
        // 1000 bytes take 1 ms; halfway through, the rate halves: the rest takes 1 ms.
        let mut queue = Queue::new(rate(8_000_000), 10_000);
        queue.offer(0, 'a', 1000).unwrap();
        queue.offer(0, 'b', 1000).unwrap();
        queue.change(500_000, rate(4_000_000), 10_000);
        assert_eq!(
            queue.pop_departed(u64::MAX).unwrap().departure_ns,
            1_500_000
        );
        assert_eq!(
            queue.pop_departed(u64::MAX).unwrap().departure_ns,
            3_500_000
        );
        assert_eq!(queue.busy_ns(3_500_000), 3_500_000);
        queue.offer(3_500_000, 'c', 1000).unwrap();
        queue.change(4_000_000, None, 0);
        assert_eq!(queue.pop_departed(4_000_000).unwrap().item, 'c');
    }

    proptest! {
        #[test]
        fn departures_equal_exact_arithmetic(
            bps in 1_000..20_000_000_000_u64,
            arrivals in prop::collection::vec((0..100_000_u64, 1..70_000_u64), 1..200),
            room in 1..2_000_000_u64,
        ) {
            let mut queue = Queue::new(rate(bps), room);
            let (mut now, mut end) = (0_u64, 0_u128); // end in units of ns / bps
            let mut expected = Vec::new();
            for (n, (gap, bytes)) in arrivals.iter().enumerate() {
                now += gap;
                let at = u128::from(now) * u128::from(bps);
                let backlog = end.saturating_sub(at).div_ceil(8 * NS_PER_S);
                let fits = backlog == 0 || backlog + u128::from(*bytes) <= u128::from(room);
                prop_assert_eq!(queue.offer(now, n, *bytes).is_ok(), fits);
                if fits {
                    end = end.max(at) + u128::from(*bytes) * 8 * NS_PER_S;
                    expected.push((n, end / u128::from(bps)));
                }
            }
            let got: Vec<_> = std::iter::from_fn(|| queue.pop_departed(u64::MAX))
                .map(|waiting| (waiting.item, u128::from(waiting.departure_ns)))
                .collect();
            prop_assert_eq!(got, expected);
        }
    }
}
