//! One direction of a link as the relay holds it: queue, serialiser, losses, delay line, counters.
//!
//! A packet's fate on a link (marked, which segments are lost) is drawn when it is accepted, in the order of departures; it
//! comes to pass when the packet has been serialised. Time is an argument.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::draw::{Draws, Purpose};
use super::jitter;
use super::line::Line;
use super::loss::LossProcess;
use super::queue::Queue;
use super::service::Track;
use crate::counters::LinkCounters;
use crate::link::{LinkSpec, PacketSize};
use crate::topology::{HostId, Link, Place};

/// What the relay knows of a packet beside the packet.
#[derive(Debug, Clone, Copy)]
pub struct Parcel {
    /// Its bytes, and those of its segments.
    pub size: PacketSize,
    /// Payload of each segment but the last; 0 for a frame that is lost or kept as a whole. Divisible frames have at most
    /// 128 segments.
    pub segment_payload: u32,
    /// It may be marked.
    pub ecn_capable: bool,
}

/// What has happened to a packet on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// Segments lost, a bit each, the first the lowest; never all.
    pub lost: u128,
    /// Congestion was experienced.
    pub marked: bool,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To a host: the way is fixed.
    Host(HostId),
    /// To an address that moves: each switch sends it where it believes it to be.
    Address(Ipv4Addr),
    /// To the first switch: news of where this address is now.
    Announcement(Ipv4Addr),
}

impl From<HostId> for To {
    fn from(host: HostId) -> Self {
        Self::Host(host)
    }
}

/// A packet under way.
#[derive(Debug)]
pub(super) struct Carried<P> {
    pub(super) packet: P,
    pub(super) destination: To,
    pub(super) parcel: Parcel,
    pub(super) fate: Fate,
}

/// A packet with what this link will do to it.
#[derive(Debug)]
struct Queued<P> {
    carried: Carried<P>,
    doom: Doom,
}

/// What of a packet a link loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doom {
    Nothing,
    /// These segments, which are not all that are left.
    Some(u128),
    Everything,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Hop<P> {
    pub(super) to: Place,
    spec: LinkSpec,
    transparent: bool,
    traced: bool,
    queue: Queue<Queued<P>>,
    line: Line<(Carried<P>, u64)>,
    loss: LossProcess,
    jitter: Draws,
    /// Packets that have left the serialiser: the next one's index.
    departed: u64,
    counters: LinkCounters,
}

impl<P> Carried<P> {
    /// What is left of it.
    fn size(&self) -> PacketSize {
        let Parcel {
            size,
            segment_payload,
            ..
        } = self.parcel;
        if self.fate.lost == 0 {
            return size;
        }
        let last = size.segments - 1;
        let before_last = self.fate.lost & !(1 << last);
        let mut gone = before_last.count_ones() * segment_payload;
        if self.fate.lost >> last & 1 == 1 {
            gone += size.ip_bytes - size.header_bytes - last * segment_payload;
        }
        PacketSize {
            ip_bytes: size.ip_bytes - gone,
            segments: size.segments - self.fate.lost.count_ones(),
            header_bytes: size.header_bytes,
        }
    }
}

impl<P> Hop<P> {
    /// An empty link; a delivery trace begins at `origin_ns`.
    pub(super) fn new(link: &Link, seed: u64, origin_ns: i64) -> Self {
        let (spec, room) = (link.spec.in_fabric(), link.spec.queue.bytes());
        let queue = match &link.delivery {
            Some(trace) => Queue::with_trace(Track::new(Arc::clone(trace), origin_ns), room),
            None => Queue::new(spec.rate, room),
        };
        let traced = link.delivery.is_some();
        let draws = |purpose| Draws::new(seed, link.id, purpose);
        Self {
            to: link.to,
            spec,
            transparent: spec.is_transparent() && !traced,
            traced,
            queue,
            line: Line::new(),
            loss: LossProcess::new(spec.loss, draws(Purpose::Loss)),
            jitter: draws(Purpose::Jitter),
            departed: 0,
            counters: LinkCounters::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty() && self.queue.front().is_none()
    }

    /// Lets a packet by if there is nothing to emulate and nothing ahead of it.
    pub(super) fn passes(&mut self, carried: &Carried<P>) -> bool {
        if !self.transparent || !self.is_idle() {
            return false;
        }
        let size = carried.size();
        let wire_bytes = size.wire_bytes(self.spec.overhead_bytes);
        self.counters.received.add(size.segments, wire_bytes);
        self.counters.sent.add(size.segments, wire_bytes);
        true
    }

    /// Takes a packet in, or hands back what is dropped.
    pub(super) fn accept(
        &mut self,
        now_ns: u64,
        mut carried: Carried<P>,
    ) -> Result<(), Carried<P>> {
        let size = carried.size();
        let wire_bytes = size.wire_bytes(self.spec.overhead_bytes);
        self.counters.received.add(size.segments, wire_bytes);
        let backlog = self.queue.backlog_bytes(now_ns);
        if !self.spec.up || !self.queue.admits(backlog, wire_bytes) {
            self.counters.dropped.add(size.segments, wire_bytes);
            return Err(carried);
        }
        self.counters.held.add(size.segments, wire_bytes);
        let mark = |threshold: crate::units::ByteSize| backlog > threshold.bytes();
        if self.spec.ecn_threshold.is_some_and(mark)
            && carried.parcel.ecn_capable
            && !carried.fate.marked
        {
            carried.fate.marked = true;
            self.counters.marked_packets += 1;
        }
        let doom = self.doom(&carried);
        self.queue
            .push(now_ns, Queued { carried, doom }, wire_bytes);
        if self.spec.rate.is_some() || self.traced {
            let backlog = backlog.saturating_add(wire_bytes);
            self.counters.queue_bytes_max = self.counters.queue_bytes_max.max(backlog);
        }
        Ok(())
    }

    /// Draws what this link loses of a packet. A frame that cannot be divided is one draw: lost or kept as a whole.
    fn doom(&mut self, carried: &Carried<P>) -> Doom {
        let divisible = carried.parcel.segment_payload > 0;
        let left = if divisible {
            carried.size().segments
        } else {
            1
        };
        let (mut lost, mut count) = (0_u128, 0);
        let before = carried.fate.lost;
        self.loss.pass(left, |nth| {
            lost |= nth_kept(before, nth);
            count += 1;
        });
        match count {
            0 => Doom::Nothing,
            all if all == left => Doom::Everything,
            _ => Doom::Some(lost),
        }
    }

    /// Moves what has left the serialiser onto the line; hands over what was lost on the way there.
    pub(super) fn settle(&mut self, now_ns: u64, mut lost: impl FnMut(P)) {
        while let Some(gone) = self.queue.pop_departed(now_ns) {
            let delay_ns = jitter::delay_ns(&self.spec, self.jitter, self.departed);
            self.departed += 1;
            let Queued { mut carried, doom } = gone.item;
            let mut wire_bytes = gone.wire_bytes;
            match doom {
                Doom::Nothing => {}
                Doom::Some(segments) => {
                    wire_bytes = self.lose(&mut carried, segments, wire_bytes);
                }
                Doom::Everything => {
                    let segments = carried.size().segments;
                    self.counters.held.remove(segments, wire_bytes);
                    self.counters.lost.add(segments, wire_bytes);
                    lost(carried.packet);
                    continue;
                }
            }
            let at_ns = gone.departure_ns.saturating_add(delay_ns);
            if self.spec.jitter.reorder {
                self.line.insert(at_ns, (carried, wire_bytes));
            } else {
                self.line.push(at_ns, (carried, wire_bytes));
            }
        }
    }

    /// Counts some segments of a packet as lost; the packet itself goes on. Returns the wire bytes that are left.
    fn lose(&mut self, carried: &mut Carried<P>, segments: u128, wire_bytes: u64) -> u64 {
        let before = carried.size();
        carried.fate.lost |= segments;
        let after = carried.size();
        // By difference, so that an overhead that changed meanwhile cannot break the sum.
        let part = before.wire_bytes(self.spec.overhead_bytes)
            - after.wire_bytes(self.spec.overhead_bytes);
        let (count, part) = (before.segments - after.segments, part.min(wire_bytes));
        let LinkCounters { held, lost, .. } = &mut self.counters;
        held.segments -= u64::from(count);
        held.wire_bytes -= part;
        lost.segments += u64::from(count);
        lost.wire_bytes += part;
        wire_bytes - part
    }

    /// When something happens here next: an arrival at the far end, or a departure after which it is known.
    pub(super) fn next_event(&self) -> Option<u64> {
        let arrival = self.line.next_arrival();
        if !self.spec.jitter.reorder && arrival.is_some() {
            // Nothing overtakes it.
            return arrival;
        }
        let departure = self.queue.front().map(|front| {
            if self.spec.jitter.reorder || front.item.doom == Doom::Everything {
                return front.departure_ns;
            }
            // One event a packet is enough where order is kept.
            let delay_ns = jitter::delay_ns(&self.spec, self.jitter, self.departed);
            self.line
                .arrival(front.departure_ns.saturating_add(delay_ns))
        });
        match (arrival, departure) {
            (Some(arrival), Some(departure)) => Some(arrival.min(departure)),
            (arrival, departure) => arrival.or(departure),
        }
    }

    /// What has arrived at the far end by `at_ns`, one packet.
    pub(super) fn deliver(&mut self, at_ns: u64, lost: impl FnMut(P)) -> Option<Carried<P>> {
        self.settle(at_ns, lost);
        let (carried, wire_bytes) = self.line.pop_arrived(at_ns)?;
        let segments = carried.size().segments;
        self.counters.held.remove(segments, wire_bytes);
        self.counters.sent.add(segments, wire_bytes);
        Some(carried)
    }

    /// Another promise from now on; what departed before must have been settled.
    pub(super) fn change(&mut self, now_ns: u64, spec: LinkSpec) {
        let spec = spec.in_fabric();
        self.queue.change(now_ns, spec.rate, spec.queue.bytes());
        self.loss.change(spec.loss);
        self.transparent = spec.is_transparent() && !self.traced;
        self.spec = spec;
    }

    /// Another beginning of the delivery trace; what departed before must have been settled.
    pub(super) fn align(&mut self, now_ns: u64, origin_ns: i64) {
        self.queue.align(now_ns, origin_ns);
    }

    pub(super) fn counters(&self, now_ns: u64) -> LinkCounters {
        LinkCounters {
            busy_ns: self.queue.busy_ns(now_ns),
            ..self.counters
        }
    }
}

/// The bit of the `nth` segment that is not lost yet.
fn nth_kept(lost: u128, nth: u32) -> u128 {
    let mut kept = !lost;
    for _ in 0..nth {
        kept &= kept - 1;
    }
    kept & kept.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_counted_among_those_that_are_left() {
        assert_eq!(nth_kept(0, 0), 1);
        assert_eq!(nth_kept(0b0101, 0), 0b10);
        assert_eq!(nth_kept(0b0101, 2), 0b1_0000);
        assert_eq!(nth_kept(0, 127), 1 << 127);
    }

    #[test]
    fn what_is_left_of_a_frame_weighs_what_its_segments_weigh() {
        let carried = |lost| Carried {
            packet: (),
            destination: To::Host(HostId(0)),
            parcel: Parcel {
                // Three segments of 1000 and one of 10.
                size: PacketSize {
                    ip_bytes: 52 + 3010,
                    segments: 4,
                    header_bytes: 52,
                },
                segment_payload: 1000,
                ecn_capable: false,
            },
            fate: Fate {
                lost,
                marked: false,
            },
        };
        let left = |lost| {
            let size = carried(lost).size();
            (size.segments, size.ip_bytes, size.wire_bytes(38))
        };
        assert_eq!(left(0), (4, 3062, 3010 + 4 * 90));
        assert_eq!(left(0b0010), (3, 2062, 2010 + 3 * 90));
        assert_eq!(left(0b1001), (2, 2052, 2000 + 2 * 90));
    }
}
