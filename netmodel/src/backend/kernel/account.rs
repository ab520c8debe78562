//! What the kernel's statistics say about a link, in the units of its spec. Pure.
//!
//! Qdiscs count what they sent in segments and bytes with the Ethernet header once per segment, and what they dropped
//! or hold in frames. Statistics of a qdisc go on over its changes, so what was counted under an earlier promise is
//! closed when it changes.

use crate::counters::{LinkCounters, Tally};
use crate::link::LinkSpec;
use crate::qdisc::wire_bytes;
use crate::sys::tc::Statistics;

/// Statistics at one instant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    /// Of the outermost qdisc.
    pub(super) root: Statistics,
    /// Of the one with the queue; netem counts its drops as its own as well.
    pub(super) inner: Statistics,
    /// Frames the device sent.
    pub(super) sent_frames: u64,
    /// Frames offered, where something counts them before the qdiscs.
    pub(super) received_frames: Option<u64>,
}

/// What was counted under earlier promises.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    /// The kernel's own counts when the promise last changed.
    bytes: u64,
    segments: u64,
    drawn: u64,
    /// What they came to.
    wire_bytes: u64,
    busy_ns: u64,
    refused: u64,
    lost: u64,
    queue_bytes_max: u64,
}

impl Account {
    /// The link's counters now, `spec` being its promise since it last changed.
    pub(super) fn counters(&mut self, spec: &LinkSpec, reading: &Reading) -> LinkCounters {
        let now = self.until(spec, reading);
        let waiting = wire_bytes(
            reading.inner.held_bytes,
            reading.inner.held_frames,
            spec.overhead_bytes,
        );
        self.queue_bytes_max = self.queue_bytes_max.max(waiting);
        let frames = |packets| Tally {
            packets,
            ..Tally::default()
        };
        let (dropped, lost) = (reading.inner.dropped_frames + now.refused, now.lost);
        let held = Tally {
            packets: reading.root.held_frames,
            segments: 0,
            wire_bytes: reading.root.held_bytes,
        };
        // Where nothing counts what is offered, it is what became of it.
        let accounted = reading.sent_frames + dropped + lost + held.packets;
        LinkCounters {
            received: frames(reading.received_frames.unwrap_or(accounted)),
            sent: Tally {
                packets: reading.sent_frames,
                segments: reading.root.segments,
                wire_bytes: now.wire_bytes,
            },
            dropped: frames(dropped),
            lost: frames(lost),
            held,
            queue_bytes_max: self.queue_bytes_max,
            busy_ns: now.busy_ns,
            marked_packets: 0,
        }
    }

    /// Closes what was counted under `spec`.
    pub(super) fn close(&mut self, spec: &LinkSpec, reading: &Reading) {
        *self = self.until(spec, reading);
    }

    fn until(&self, spec: &LinkSpec, reading: &Reading) -> Self {
        let root = &reading.root;
        let sent = wire_bytes(
            root.bytes.saturating_sub(self.bytes),
            root.segments.saturating_sub(self.segments),
            spec.overhead_bytes,
        );
        let busy_ns = spec.in_fabric().rate.map_or(0, |rate| {
            let ns = u128::from(sent) * 8_000_000_000 / u128::from(rate.bps());
            u64::try_from(ns).unwrap_or(u64::MAX)
        });
        // netem's own drops: losses it drew, or everything while the link is down.
        let drawn = root
            .dropped_frames
            .saturating_sub(reading.inner.dropped_frames);
        let more = drawn.saturating_sub(self.drawn);
        let (refused, lost) = if spec.up { (0, more) } else { (more, 0) };
        Self {
            bytes: root.bytes,
            segments: root.segments,
            drawn,
            wire_bytes: self.wire_bytes.saturating_add(sent),
            busy_ns: self.busy_ns.saturating_add(busy_ns),
            refused: self.refused + refused,
            lost: self.lost + lost,
            queue_bytes_max: self.queue_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BitRate;

    fn reading(bytes: u64, segments: u64, dropped: u64, drawn: u64) -> Reading {
        let inner = Statistics {
            dropped_frames: dropped,
            held_frames: 1,
            held_bytes: 1514,
            ..Statistics::default()
        };
        Reading {
            root: Statistics {
                bytes,
                segments,
                dropped_frames: dropped + drawn,
                ..inner
            },
            inner,
            sent_frames: segments / 2,
            received_frames: None,
        }
    }

    #[test]
    fn bytes_and_time_are_those_of_the_promise_they_were_sent_under() {
        let slow = LinkSpec::with_rate(BitRate::from_bps(1_538_000).unwrap());
        let fast = LinkSpec::with_rate(BitRate::from_bps(15_380_000).unwrap());
        let mut account = Account::default();
        // A thousand bits of wire per microsecond: 100 full segments take 0.8 s, then a tenth of it.
        account.close(&slow, &reading(100 * 1514, 100, 0, 0));
        let counters = account.counters(&fast, &reading(200 * 1514, 200, 3, 0));
        assert_eq!(counters.sent.wire_bytes, 200 * 1538);
        assert_eq!(counters.busy_ns, 800_000_000 + 80_000_000);
        assert_eq!(counters.dropped.packets, 3);
        assert_eq!(counters.received.packets, 100 + 3 + 1);
        assert_eq!(counters.queue_bytes_max, 1538);
    }

    #[test]
    fn what_netem_drops_is_lost_while_up_and_refused_while_down() {
        let up = LinkSpec::default();
        let down = LinkSpec { up: false, ..up };
        let mut account = Account::default();
        account.close(&up, &reading(0, 0, 2, 5));
        account.close(&down, &reading(0, 0, 2, 9));
        let counters = account.counters(&up, &reading(0, 0, 3, 10));
        assert_eq!(counters.lost.packets, 6);
        assert_eq!(counters.dropped.packets, 3 + 4);
    }
}
