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
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;

use super::hop::{Carried, Fate, Hop, Parcel, To};
use crate::counters::LinkCounters;
use crate::link::LinkSpec;
use crate::topology::{HostId, LinkId, Place, SwitchId, Topology};

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<P> {
    /// It is at its destination, logically since `at_ns`.
    Delivered {
        /// There.
        host: HostId,
        /// The caller's.
        packet: P,
        /// What the links did to it.
        fate: Fate,
        /// Since then.
        at_ns: u64,
    },
    /// A queue was full, or a link down.
    Dropped {
        /// The caller's.
        packet: P,
    },
    /// It was lost on the wire, all of it.
    Lost {
        /// The caller's.
        packet: P,
    },
    /// A switch has heard where an address is now.
    Heard {
        /// The announcement.
        packet: P,
        /// Whose.
        address: Ipv4Addr,
        /// Which.
        switch: SwitchId,
    },
}

/// All links of a fabric with what they hold.
#[derive(Debug)]
pub struct Core<P> {
    links: Vec<Hop<P>>,
    uplinks: Vec<usize>,
    /// `routes[switch][host]` is the index of the next link; a switch without one drops.
    routes: Vec<Vec<Option<usize>>>,
    /// Where each switch believes an address that moves to be.
    beliefs: HashMap<Ipv4Addr, Vec<Option<HostId>>>,
    /// Heads of links by instant; entries that no longer match their link's head are skipped.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// Packets on all links.
    held: usize,
}

impl<P> Core<P> {
    /// Empty links. Everything random is drawn from `seed`; delivery traces begin at `origin_ns`.
    pub fn new(topology: &Topology, seed: u64, origin_ns: i64) -> Self {
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
                .map(|link| Hop::new(link, seed, origin_ns))
                .collect(),
            uplinks: topology
                .hosts()
                .map(|(host, _)| place(topology.uplink(host).id))
                .collect(),
            routes: switches.map(from).collect(),
            beliefs: HashMap::new(),
            due: BinaryHeap::new(),
            held: 0,
        }
    }

    /// A host sends a packet at `now_ns`. Everything due before is handled first.
    pub fn enter(
        &mut self,
        now_ns: u64,
        (source, destination): (HostId, impl Into<To>),
        (packet, parcel): (P, Parcel),
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        self.advance(now_ns, sink);
        let first = self.uplinks[source.0 as usize];
        let carried = Carried {
            packet,
            destination: destination.into(),
            parcel,
            fate: Fate::default(),
        };
        self.travel(now_ns, first, carried, sink);
    }

    /// Handles every event due by `now_ns`, in logical order.
    pub fn advance(&mut self, now_ns: u64, sink: &mut impl FnMut(Outcome<P>)) {
        while let Some(&Reverse((at_ns, index))) = self.due.peek() {
            if at_ns > now_ns {
                break;
            }
            self.due.pop();
            let link = &mut self.links[index];
            if link.next_event() != Some(at_ns) {
                continue;
            }
            let (held, to) = (&mut self.held, link.to);
            let arrived = link.deliver(at_ns, |packet| {
                *held -= 1;
                sink(Outcome::Lost { packet });
            });
            if let Some(next) = link.next_event() {
                self.due.push(Reverse((next, index)));
            }
            if let Some(carried) = arrived {
                self.held -= 1;
                self.arrive(at_ns, to, carried, sink);
            }
        }
    }

    /// When the next event is due.
    pub(super) fn next_event(&mut self) -> Option<u64> {
        while let Some(&Reverse((at_ns, index))) = self.due.peek() {
            if self.links[index].next_event() == Some(at_ns) {
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
                    fate: carried.fate,
                    at_ns,
                });
            }
            Place::Switch(switch) => {
                let packet = match carried.destination {
                    To::Announcement(address) => {
                        let packet = carried.packet;
                        return sink(Outcome::Heard {
                            packet,
                            address,
                            switch,
                        });
                    }
                    To::Host(host) => Ok((host, carried)),
                    To::Address(address) => match self.believed(switch, address) {
                        Some(host) => Ok((host, carried)),
                        None => Err(carried.packet),
                    },
                };
                match packet {
                    Ok((host, carried)) => {
                        let next = self.routes[switch.0 as usize][host.0 as usize];
                        let next =
                            next.expect("Topology checked that every switch on a way reaches all");
                        self.travel(at_ns, next, carried, sink);
                    }
                    Err(packet) => sink(Outcome::Dropped { packet }),
                }
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
        let to = link.to;
        if link.passes(&carried) {
            return self.arrive(at_ns, to, carried, sink);
        }
        let before = link.next_event();
        match link.accept(at_ns, carried) {
            Err(carried) => sink(Outcome::Dropped {
                packet: carried.packet,
            }),
            Ok(()) => {
                self.held += 1;
                let next = link.next_event();
                if let Some(next) = next.filter(|_| next != before) {
                    self.due.push(Reverse((next, index)));
                }
            }
        }
    }

    /// Whether any switch knows an address that moves.
    pub(super) fn knows(&self, address: Ipv4Addr) -> bool {
        self.beliefs.contains_key(&address)
    }

    fn believed(&self, switch: SwitchId, address: Ipv4Addr) -> Option<HostId> {
        *self.beliefs.get(&address)?.get(switch.0 as usize)?
    }

    /// One switch learns at `now_ns` where an address is; everything due before goes the old way.
    pub(super) fn teach(
        &mut self,
        now_ns: u64,
        (switch, address): (SwitchId, Ipv4Addr),
        host: Option<HostId>,
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        self.advance(now_ns, sink);
        let switches = self.routes.len();
        let beliefs = self.beliefs.entry(address);
        let beliefs = beliefs.or_insert_with(|| vec![None; switches]);
        if let Some(belief) = beliefs.get_mut(switch.0 as usize) {
            *belief = host;
        }
        if beliefs.iter().all(Option::is_none) {
            self.beliefs.remove(&address);
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
        self.alter(now_ns, index, |link| link.change(now_ns, spec), sink);
    }

    /// Lets delivery traces begin at `origin_ns`; what waits is re-timed.
    pub(super) fn align(&mut self, now_ns: u64, origin_ns: i64, sink: &mut impl FnMut(Outcome<P>)) {
        self.advance(now_ns, sink);
        for index in 0..self.links.len() {
            self.alter(now_ns, index, |link| link.align(now_ns, origin_ns), sink);
        }
    }

    fn alter(
        &mut self,
        now_ns: u64,
        index: usize,
        change: impl FnOnce(&mut Hop<P>),
        sink: &mut impl FnMut(Outcome<P>),
    ) {
        let (link, held) = (&mut self.links[index], &mut self.held);
        link.settle(now_ns, |packet| {
            *held -= 1;
            sink(Outcome::Lost { packet });
        });
        change(link);
        if let Some(next) = link.next_event() {
            self.due.push(Reverse((next, index)));
        }
    }

    /// Nothing waits, is serialised or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.held == 0
    }

    /// Counters of a link at `now_ns`.
    pub(super) fn counters(&self, now_ns: u64, link: LinkId) -> Option<LinkCounters> {
        let link = self.links.get(link.0 as usize)?;
        Some(link.counters(now_ns))
    }

    /// Counters of all links at `now_ns`, in order of their ids.
    pub(super) fn all_counters(&self, now_ns: u64) -> impl Iterator<Item = LinkCounters> {
        self.links.iter().map(move |link| link.counters(now_ns))
    }
}

#[cfg(test)]
mod tests;
