//! What a fabric counted: per link, per port and for the relay as a whole.
//!
//! Values only; every field is a total since the fabric was built, so that differences of two snapshots mean something.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::sys::procfs::ComputerTime;
use crate::topology::{HostId, LinkId, SwitchId};

/// Frames, the packets they stand for, and their bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Frames as handed over, super-frames counted once.
    pub packets: u64,
    /// Packets on the wire.
    pub segments: u64,
    /// Bytes on the wire, overhead included.
    pub wire_bytes: u64,
}

impl Tally {
    /// Counts one frame in.
    pub fn add(&mut self, segments: u32, wire_bytes: u64) {
        self.packets += 1;
        self.segments += u64::from(segments);
        self.wire_bytes += wire_bytes;
    }

    /// Takes one frame out again, of those counted in before.
    pub fn remove(&mut self, segments: u32, wire_bytes: u64) {
        self.packets -= 1;
        self.segments -= u64::from(segments);
        self.wire_bytes -= wire_bytes;
    }
}

/// One direction of a link. Conservation: `received = sent + dropped + lost + held`, in every field that the backend
/// counts (the kernel's qdiscs count what they send in segments and what they drop in frames).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Offered to the link.
    pub received: Tally,
    /// Left its far end.
    pub sent: Tally,
    /// Refused because the queue was full, or the link down.
    pub dropped: Tally,
    /// Lost on the wire, as the spec asks.
    pub lost: Tally,
    /// Waiting, being serialised, or on the delay line.
    pub held: Tally,
    /// Highest backlog, in wire bytes; the kernel's backends know only what they saw when they looked.
    pub queue_bytes_max: u64,
    /// Time the link has spent serialising, up to now; of the kernel's, what its bytes take at its rate.
    pub busy_ns: u64,
    /// Frames marked with congestion experienced.
    pub marked_packets: u64,
}

/// A few links at one instant, cheap enough to be taken every 10 ms. The kernel's backends leave frames out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The instant, on the monotonic clock.
    pub at_ns: u64,
    /// The links asked for, in that order.
    pub links: Vec<LinkCounters>,
}

/// How late the relay acted against the logical instants it computed; two significant digits.
#[derive(Debug, Clone, PartialEq)]
pub struct Lateness {
    histogram: Histogram<u64>,
}

/// 2^33 ns is 8 s: whatever is later is a catastrophe of unknown size, and counts as that.
const LATEST_NS: u64 = 1 << 33;

impl Default for Lateness {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATEST_NS, 2);
        Self {
            histogram: histogram.expect("these bounds and digits are within what the crate takes"),
        }
    }
}

impl Lateness {
    /// Records one value.
    pub fn record(&mut self, late_ns: u64) {
        self.histogram.saturating_record(late_ns);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Their mean, zero without any.
    #[must_use]
    pub fn mean_ns(&self) -> f64 {
        self.histogram.mean()
    }

    /// The largest.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.histogram.max()
    }

    /// The quantile `per_mille` / 1000, zero without any value.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u32) -> u64 {
        self.histogram
            .value_at_quantile(f64::from(per_mille) / 1000.0)
    }

    /// What was recorded after `earlier`, a former state of this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        let less = rest.histogram.subtract(&earlier.histogram);
        less.expect("a former state of the same histogram holds no more than this one");
        rest
    }
}

/// The port of one host, where frames enter and leave the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortCounters {
    /// Frames read from the host.
    pub read_packets: u64,
    /// Frames written to the host.
    pub written_packets: u64,
    /// Frames the kernel did not take back (EAGAIN, ENOBUFS).
    pub write_refused: u64,
    /// Frames no route leads to, or that would go back to where they came from.
    pub unroutable: u64,
    /// Frames that are not IPv4; counted and left.
    pub not_ipv4: u64,
    /// Frames whose headers contradict their length.
    pub malformed: u64,
    /// Frames lost before the relay could read them (PACKET_STATISTICS).
    pub socket_drops: u64,
    /// Frames the port's device dropped, either way.
    pub device_drops: u64,
}

/// The relay as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelayCounters {
    /// Actual writing against logical departure, shaped paths only.
    pub lateness: Lateness,
    /// Frames given up because the relay had no room left.
    pub no_room: u64,
    /// Time the data thread waited for a CPU, if the kernel tells.
    pub run_delay_ns: Option<u64>,
    /// Time the data thread ran, if the kernel tells.
    pub run_ns: Option<u64>,
    /// Packets the kernel's receive backlog dropped, this computer over, since the fabric was built.
    pub backlog_drops: Option<u64>,
    /// What this computer's CPUs did, if the kernel tells.
    pub computer: Option<ComputerTime>,
}

/// What the tallies of links hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Every field of every tally.
    #[default]
    Everything,
    /// Frames in every tally; segments and wire bytes of what was sent and is held, but not of what was received,
    /// dropped or lost, where they are 0: the kernel does not count them.
    Frames,
}

/// A switch in which the kernel forwards, in frames. Conservation: `entered = left` while no frame is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SwitchCounters {
    /// Came out of links that lead to it.
    pub entered: u64,
    /// Was offered to links that lead from it.
    pub left: u64,
    /// Lost in its devices outside of any queue.
    pub device_drops: u64,
}

/// All counters at one instant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// The instant, on the monotonic clock.
    pub at_ns: u64,
    /// What the tallies in `links` hold.
    pub counted: Counted,
    /// Per switch, where the kernel forwards; the relay has none.
    pub switches: BTreeMap<SwitchId, SwitchCounters>,
    /// Per direction of a link.
    pub links: BTreeMap<LinkId, LinkCounters>,
    /// Per host's port.
    pub ports: BTreeMap<HostId, PortCounters>,
    /// The relay itself.
    pub relay: RelayCounters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.quantile_ns(990), 0);
        (0..99).for_each(|_| lateness.record(1000));
        lateness.record(1_000_000);
        // Two digits: within 1 %.
        let near = |got: u64, value: u64| got.abs_diff(value) * 100 <= value;
        assert!(near(lateness.quantile_ns(500), 1000));
        assert!(near(lateness.quantile_ns(990), 1000));
        assert!(near(lateness.quantile_ns(1000), 1_000_000));
        assert!((lateness.mean_ns() / 10_990.0 - 1.0).abs() < 0.01);
        let before = lateness.clone();
        lateness.record(u64::MAX);
        assert_eq!(lateness.since(&before).count(), 1);
        assert!(near(lateness.max_ns(), LATEST_NS));
    }
}
