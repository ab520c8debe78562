//! A byte-bounded drop-tail queue in front of a serialiser.
//!
//! Departure times are computed on arrival: `start = max(arrival, last departure)`, `departure = start + bits / rate`, or
//! the opportunity of a delivery trace at which the last byte fits. It reads no clock and knows no packets beyond their bytes.

use std::collections::VecDeque;

use super::service::{Service, Track};
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
    service: Service,
    room_bytes: u64,
    waiting: VecDeque<Waiting<P>>,
    /// Time of serialising everything accepted, its future included.
    busy_ns: u64,
}

impl<P> Queue<P> {
    /// At a rate, or open.
    pub(super) fn new(rate: Option<BitRate>, room_bytes: u64) -> Self {
        Self::with_service(Service::at_rate(rate, 0), room_bytes)
    }

    /// By a delivery trace.
    pub(super) fn with_trace(track: Track, room_bytes: u64) -> Self {
        Self::with_service(Service::Trace(track), room_bytes)
    }

    fn with_service(service: Service, room_bytes: u64) -> Self {
        Self {
            service,
            room_bytes,
            waiting: VecDeque::new(),
            busy_ns: 0,
        }
    }

    /// Whether as many bytes find room behind a backlog. An item larger than the whole queue still passes an empty one:
    /// what is being serialised does not wait.
    pub(super) fn admits(&self, backlog_bytes: u64, wire_bytes: u64) -> bool {
        backlog_bytes == 0 || backlog_bytes.saturating_add(wire_bytes) <= self.room_bytes
    }

    /// Takes an item in that was admitted.
    pub(super) fn push(&mut self, now_ns: u64, item: P, wire_bytes: u64) {
        let start = self.service.end_ns().max(now_ns);
        let departure_ns = self.service.serialise(now_ns, wire_bytes);
        self.busy_ns = self.busy_ns.saturating_add(departure_ns - start);
        self.waiting.push_back(Waiting {
            item,
            wire_bytes,
            departure_ns,
        });
    }

    /// The next item whose last bit has left by `now_ns`.
    pub(super) fn pop_departed(&mut self, now_ns: u64) -> Option<Waiting<P>> {
        if self.front()?.departure_ns > now_ns {
            return None;
        }
        self.waiting.pop_front()
    }

    /// The item that leaves first.
    pub(super) fn front(&self) -> Option<&Waiting<P>> {
        self.waiting.front()
    }

    /// Bytes still to be serialised at `now_ns`, rounded up.
    pub(super) fn backlog_bytes(&self, now_ns: u64) -> u64 {
        self.service.backlog_bytes(now_ns)
    }

    /// Time spent serialising up to `now_ns`: what is accepted is served without a pause, so all that lies ahead is its end.
    pub(super) fn busy_ns(&self, now_ns: u64) -> u64 {
        self.busy_ns.saturating_sub(self.ahead_ns(now_ns))
    }

    fn ahead_ns(&self, now_ns: u64) -> u64 {
        self.service.end_ns().saturating_sub(now_ns)
    }

    /// Changes rate and room in place. What waits keeps its order; what is being serialised keeps the share already
    /// done and takes the rest at the new rate. A delivery trace stays in force whatever the rate. Items that departed
    /// before `now_ns` must have been taken out.
    pub(super) fn change(&mut self, now_ns: u64, rate: Option<BitRate>, room_bytes: u64) {
        self.room_bytes = room_bytes;
        let old = match &self.service {
            Service::Trace(_) => return,
            Service::Rate(old, _) => Some(*old),
            Service::Open => None,
        };
        if rate == old {
            return;
        }
        let mut service = Service::at_rate(rate, now_ns);
        let mut in_service = true;
        for waiting in &mut self.waiting {
            waiting.departure_ns = match (old, &mut service) {
                (Some(old), Service::Rate(new, clock)) if in_service => {
                    clock.take_over(waiting.departure_ns.saturating_sub(now_ns), old, *new)
                }
                (_, service) => service.serialise(now_ns, waiting.wire_bytes),
            };
            in_service = false;
        }
        self.replace(now_ns, service);
    }

    /// Lets a delivery trace begin at another instant; what waits goes on with the bytes it has left. Items that
    /// departed before `now_ns` must have been taken out.
    pub(super) fn align(&mut self, now_ns: u64, origin_ns: i64) {
        let Service::Trace(track) = &self.service else {
            return;
        };
        let mut service = Service::Trace(track.aligned(origin_ns));
        let waiting = self.waiting.iter().map(|waiting| waiting.wire_bytes);
        let gone = waiting
            .sum::<u64>()
            .saturating_sub(self.backlog_bytes(now_ns));
        let mut gone = Some(gone);
        for waiting in &mut self.waiting {
            let left = waiting.wire_bytes - gone.take().unwrap_or(0).min(waiting.wire_bytes);
            waiting.departure_ns = service.serialise(now_ns, left);
        }
        self.replace(now_ns, service);
    }

    /// Goes on with another service; the part of busy time that lies ahead has a new length.
    fn replace(&mut self, now_ns: u64, service: Service) {
        let before = self.ahead_ns(now_ns);
        self.service = service;
        self.busy_ns = (self.busy_ns + self.ahead_ns(now_ns)).saturating_sub(before);
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::NS_PER_S;
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    impl<P> Queue<P> {
        fn offer(&mut self, now_ns: u64, item: P, wire_bytes: u64) -> Result<(), P> {
            if self.admits(self.backlog_bytes(now_ns), wire_bytes) {
                self.push(now_ns, item, wire_bytes);
                return Ok(());
            }
            Err(item)
        }
    }

    fn rate(bps: u64) -> Option<BitRate> {
        BitRate::from_bps(bps)
    }

    #[test]
    fn departures_match_hand_computation() {
        // 1538 bytes at 1 Gbit/s take 12 304 ns.
        let mut queue = Queue::new(rate(1_000_000_000), 10_000);
        queue.offer(1_000, 'a', 1538).unwrap();
        queue.offer(2_000, 'b', 1538).unwrap();
        // Nothing of the future: half way through the second, and after it.
        assert_eq!(queue.busy_ns(13_304 + 6_000), 12_304 + 6_000);
        assert_eq!(queue.busy_ns(50_000), 2 * 12_304);
        queue.offer(100_000, 'c', 1538).unwrap();
        let left: Vec<_> = std::iter::from_fn(|| queue.pop_departed(u64::MAX))
            .map(|waiting| (waiting.item, waiting.departure_ns))
            .collect();
        assert_eq!(left, [('a', 13_304), ('b', 25_608), ('c', 112_304)]);
        assert_eq!(queue.busy_ns(112_304), 3 * 12_304);
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

    fn traced(text: &str, room: u64) -> Queue<u32> {
        Queue::with_trace(Track::new(Arc::new(text.parse().unwrap()), 0), room)
    }

    #[test]
    fn a_traced_queue_is_bounded_in_bytes_and_aligns_in_place() {
        const MS: u64 = 1_000_000;
        // One opportunity every 10 ms.
        let mut queue = traced("10 10", 3_000);
        queue.offer(0, 1, 1504).unwrap();
        queue.offer(0, 2, 1496).unwrap();
        assert_eq!(queue.offer(0, 3, 1), Err(3));
        assert_eq!(queue.pop_departed(10 * MS).unwrap().item, 1);
        queue.offer(10 * MS, 4, 1504).unwrap();
        // Opportunities come at 15, 25, ...; nothing that was served is served again.
        queue.align(11 * MS, 5_000_000);
        let left: Vec<_> = std::iter::from_fn(|| queue.pop_departed(u64::MAX))
            .map(|waiting| (waiting.item, waiting.departure_ns / MS))
            .collect();
        assert_eq!(left, [(2, 15), (4, 25)]);
        assert_eq!(queue.busy_ns(30 * MS), 25 * MS);
        queue.change(30 * MS, rate(1), 10);
        queue.offer(30 * MS, 5, 1504).unwrap();
        assert_eq!(queue.pop_departed(35 * MS).unwrap().item, 5);
    }

    proptest! {
        /// Against Mahimahi's own way: opportunity by opportunity, byte by byte.
        #[test]
        fn traced_departures_are_mahimahis(
            gaps in prop::collection::vec(0_u64..5, 1..20),
            arrivals in prop::collection::vec((0_u64..20_000_000, 1_u64..9_000), 1..60),
            room in 1_500_u64..30_000,
        ) {
            let mut ms = 0;
            let mut lines: Vec<u64> = gaps.iter().map(|gap| { ms += gap; ms }).collect();
            lines.push(ms + 1);
            let text: String = lines.iter().map(|ms| format!("{ms}\n")).collect();
            let trace = Arc::new(crate::delivery::DeliveryTrace::parse(&text).unwrap());
            let mut queue = Queue::with_trace(Track::new(trace, 0), room);
            // The model: a list of (item, bytes left), served at each opportunity.
            let mut fifo: VecDeque<(usize, u64)> = VecDeque::new();
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            let opportunities = (0..).flat_map(|round| {
                lines.iter().map(move |line| (line + round * (ms + 1)) * 1_000_000)
            });
            let mut opportunities = opportunities.peekable();
            let mut now = 0;
            let last = (1_000_000_000_000, 0);
            for (n, (gap, bytes)) in arrivals.iter().copied().chain([last]).enumerate() {
                now += gap;
                while let Some(at) = opportunities.next_if(|at| *at <= now) {
                    let mut left = 1504_u64;
                    while let Some((item, bytes)) = fifo.front_mut().filter(|_| left > 0) {
                        let taken = left.min(*bytes);
                        (*bytes, left) = (*bytes - taken, left - taken);
                        if *bytes == 0 {
                            expected.push((*item, at));
                            fifo.pop_front();
                        }
                    }
                    if now >= 1_000_000_000_000 && fifo.is_empty() {
                        break;
                    }
                }
                got.extend(std::iter::from_fn(|| queue.pop_departed(now)).map(|w| (w.item, w.departure_ns)));
                let backlog: u64 = fifo.iter().map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(queue.backlog_bytes(now), backlog);
                let fits = backlog == 0 || backlog + bytes <= room;
                if bytes > 0 {
                    prop_assert_eq!(queue.offer(now, n, bytes).is_ok(), fits);
                    if fits {
                        fifo.push_back((n, bytes));
                    }
                }
            }
            prop_assert_eq!(got, expected);
        }
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
