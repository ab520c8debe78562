//! The relay without I/O: packets in, instants and packets out.
//!
//! ```text
//! enter ─► [queue ► serialiser ► delay line] ─► switch ─► [queue ► serialiser ► delay line] ─► deliver
//!            one timed event per hop: arrival at the hop's far end, at its logical instant
//! ```
//!
//! Events are handled in the order of their logical instants over all links, so a shared downstream queue is FIFO in
//! logical arrival and a late wake-up changes no departure. Time is an argument; packets are an opaque `P`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::line::Line;
use super::queue::Queue;
use crate::counters::LinkCounters;
use crate::link::{LinkSpec, PacketSize};
use crate::topology::{HostId, LinkId, Place, SwitchId, Topology};

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<P> {
    /// It is at its destination, logically since `at_ns`.
    Delivered { host: HostId, packet: P, at_ns: u64 },
    /// A queue was full.
    Dropped { packet: P },
}

/// All links of a fabric with what they hold.
#[derive(Debug)]
pub(super) struct Core<P> {
    links: Vec<LinkState<P>>,
    uplinks: Vec<usize>,
    /// `routes[switch][host]` is the index of the next link; a switch without one drops.
    routes: Vec<Vec<Option<usize>>>,
    /// Heads of links by instant; entries that no longer match their link's head are skipped.
    due: BinaryHeap<Reverse<(u64, usize)>>,
}

#[derive(Debug)]
struct LinkState<P> {
    to: Place,
    spec: LinkSpec,
    queue: Queue<Carried<P>>,
    line: Line<(Carried<P>, u64)>,
    counters: LinkCounters,
}

#[derive(Debug)]
struct Carried<P> {
    packet: P,
    destination: HostId,
    size: PacketSize,
}

impl<P> Core<P> {
    pub(super) fn new(topology: &Topology) -> Self {
        let place = |id: LinkId| id.0 as usize;
        let switches = (0..).map(SwitchId).take(topology.switches().len());
        let from = |switch| {
            let to_host = |(host, _)| topology.next_link(switch, host).map(place);
            topology.hosts().map(to_host).collect()
        };
        Self {
            links: topology
                .links()
                .iter()
                .map(|link| LinkState::new(link.to, link.spec))
                .collect(),
            uplinks: topology
                .hosts()
                .map(|(host, _)| place(topology.uplink(host).id))
                .collect(),
            routes: switches.map(from).collect(),
            due: BinaryHeap::new(),
        }
    }

    /// A host sends a packet at `now_ns`. Everything due before is handled first.
    pub(super) fn enter(
        &mut self,
        now_ns: u64,
        (source, destination): (HostId, HostId),
        (packet, size): (P, PacketSize),
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        self.advance(now_ns, sink);
        let first = self.uplinks[source.0 as usize];
        self.travel(
            now_ns,
            first,
            Carried {
                packet,
                destination,
                size,
            },
            sink,
        );
    }

    /// Handles every event due by `now_ns`, in logical order.
    pub(super) fn advance(&mut self, now_ns: u64, sink: &mut impl FnMut(Outcome<P>)) {
        while let Some(&Reverse((at_ns, index))) = self.due.peek() {
            if at_ns > now_ns {
                break;
            }
            self.due.pop();
            let link = &mut self.links[index];
            if link.next_delivery() != Some(at_ns) {
                continue;
            }
            let carried = link
                .deliver(at_ns)
                .expect("its head is due at this very instant");
            let to = link.to;
            if let Some(next) = link.next_delivery() {
                self.due.push(Reverse((next, index)));
            }
            self.arrive(at_ns, to, carried, sink);
        }
    }

    /// When the next event is due.
    pub(super) fn next_event(&mut self) -> Option<u64> {
        while let Some(&Reverse((at_ns, index))) = self.due.peek() {
            if self.links[index].next_delivery() == Some(at_ns) {
                return Some(at_ns);
            }
            self.due.pop();
        }
        None
    }

    fn arrive(
        &mut self,
        at_ns: u64,
        place: Place,
        carried: Carried<P>,
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        match place {
            Place::Host(host) => {
                sink(Outcome::Delivered {
                    host,
                    packet: carried.packet,
                    at_ns,
                });
            }
            Place::Switch(switch) => {
                let next = self.routes[switch.0 as usize][carried.destination.0 as usize];
                let next = next.expect("Topology checked that every switch on a way reaches all");
                self.travel(at_ns, next, carried, sink);
            }
        }
    }

    /// Puts a packet onto a link; one that has nothing to emulate passes it on at once.
    fn travel(
        &mut self,
        at_ns: u64,
        index: usize,
        carried: Carried<P>,
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        let link = &mut self.links[index];
        let was_idle = link.is_idle();
        let to = link.to;
        if was_idle && link.spec.is_transparent() {
            link.pass(carried.size);
            return self.arrive(at_ns, to, carried, sink);
        }
        match link.accept(at_ns, carried) {
            Err(carried) => sink(Outcome::Dropped {
                packet: carried.packet,
            }),
            Ok(()) if was_idle => {
                let next = link.next_delivery().expect("something was just accepted");
                self.due.push(Reverse((next, index)));
            }
            Ok(()) => {}
        }
    }

    /// Changes a link in place at `now_ns`: what is being serialised is re-timed, what is on the line stays.
    pub(super) fn change(
        &mut self,
        now_ns: u64,
        link: LinkId,
        spec: LinkSpec,
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        self.advance(now_ns, sink);
        let index = link.0 as usize;
        let link = &mut self.links[index];
        link.settle(now_ns);
        link.queue.change(now_ns, spec.rate, spec.queue.bytes());
        link.spec = spec;
        if let Some(next) = link.next_delivery() {
            self.due.push(Reverse((next, index)));
        }
    }

    /// Nothing waits, is serialised or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.links.iter().all(LinkState::is_idle)
    }

    /// Counters of all links at `now_ns`, in order of their ids.
    pub(super) fn counters(&self, now_ns: u64) -> impl Iterator<Item = LinkCounters> {
        self.links.iter().map(move |link| LinkCounters {
            busy_ns: link.queue.busy_ns(now_ns),
            ..link.counters
        })
    }
}

impl<P> LinkState<P> {
    fn new(to: Place, spec: LinkSpec) -> Self {
        let queue = Queue::new(spec.rate, spec.queue.bytes());
        Self {
            to,
            spec,
            queue,
            line: Line::new(),
            counters: LinkCounters::default(),
        }
    }

    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.queue.next_departure().is_none()
    }

    fn delay_ns(&self) -> u64 {
        u64::try_from(self.spec.delay.as_nanos()).unwrap_or(u64::MAX)
    }

    fn pass(&mut self, size: PacketSize) {
        let wire_bytes = size.wire_bytes(self.spec.overhead_bytes);
        self.counters.received.add(size.segments, wire_bytes);
        self.counters.sent.add(size.segments, wire_bytes);
    }

    fn accept(&mut self, now_ns: u64, carried: Carried<P>) -> Result<(), Carried<P>> {
        let segments = carried.size.segments;
        let wire_bytes = carried.size.wire_bytes(self.spec.overhead_bytes);
        self.counters.received.add(segments, wire_bytes);
        let accepted = self.queue.offer(now_ns, carried, wire_bytes);
        if accepted.is_ok() {
            self.counters.held.add(segments, wire_bytes);
            let backlog = self.queue.backlog_bytes(now_ns);
            self.counters.queue_bytes_max = self.counters.queue_bytes_max.max(backlog);
        } else {
            self.counters.dropped.add(segments, wire_bytes);
        }
        accepted
    }

    /// Moves what has left the serialiser onto the line.
    fn settle(&mut self, now_ns: u64) {
        let delay_ns = self.delay_ns();
        while let Some(gone) = self.queue.pop_departed(now_ns) {
            let at_ns = gone.departure_ns.saturating_add(delay_ns);
            self.line.push(at_ns, (gone.item, gone.wire_bytes));
        }
    }

    fn next_delivery(&self) -> Option<u64> {
        self.line.next_arrival().or_else(|| {
            let departure = self.queue.next_departure()?;
            Some(self.line.arrival(departure.saturating_add(self.delay_ns())))
        })
    }

    fn deliver(&mut self, at_ns: u64) -> Option<Carried<P>> {
        self.settle(at_ns);
        let (carried, wire_bytes) = self.line.pop_arrived(at_ns)?;
        self.counters.held.remove(carried.size.segments, wire_bytes);
        self.counters.sent.add(carried.size.segments, wire_bytes);
        Some(carried)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
