//! What a fabric counted: per link, per port and for the relay as a whole.
//!
//! Values only; every field is a total since the fabric was built, so that differences of two snapshots mean something.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topology::{HostId, LinkId};

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

/// One direction of a link. Conservation: `received = sent + dropped + held`, in every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Offered to the link.
    pub received: Tally,
    /// Left its far end.
    pub sent: Tally,
    /// Refused because the queue was full.
    pub dropped: Tally,
    /// Waiting, being serialised, or on the delay line.
    pub held: Tally,
    /// Highest backlog, in wire bytes.
    pub queue_bytes_max: u64,
    /// Time the link spent serialising, of what was accepted so far.
    pub busy_ns: u64,
}

/// How late the relay acted against the logical instants it computed, in powers of two of a nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Bucket i holds values in [2^i, 2^(i+1)), bucket 0 also zero; the last is open.
    buckets: [u64; BUCKETS],
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

/// 2^32 ns is 4 s: whatever is later is a catastrophe of unknown size.
const BUCKETS: usize = 32;

impl Default for Lateness {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Lateness {
    /// Records one value.
    pub fn record(&mut self, late_ns: u64) {
        let bucket = late_ns.checked_ilog2().unwrap_or(0) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(late_ns);
        self.max_ns = self.max_ns.max(late_ns);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean, zero without any.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// The largest.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Upper bound of the bucket that holds the quantile `per_mille` / 1000 (within a factor of two), at most the maximum.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille.min(1000))).div_ceil(1000);
        let mut seen = 0_u128;
        for (i, &n) in self.buckets.iter().enumerate() {
            seen += u128::from(n);
            if n > 0 && seen >= rank.max(1) {
                return ((2_u64 << i) - 1).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// What was recorded after `earlier`, a former state of this one; the maximum stays that of the whole.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = *self;
        for (now, before) in rest.buckets.iter_mut().zip(earlier.buckets) {
            *now = now.saturating_sub(before);
        }
        rest.count = self.count.saturating_sub(earlier.count);
        rest.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
}

/// All counters at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// The instant, on the monotonic clock.
    pub at_ns: u64,
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
    fn quantiles_bound_what_was_recorded() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.quantile_ns(990), 0);
        (0..99).for_each(|_| lateness.record(1000));
        lateness.record(1_000_000);
        assert_eq!(lateness.quantile_ns(500), 1023);
        assert_eq!(lateness.quantile_ns(990), 1023);
        assert_eq!(lateness.quantile_ns(1000), 1_000_000);
        assert_eq!(lateness.mean_ns(), (99 * 1000 + 1_000_000) / 100);
        let before = lateness;
        lateness.record(u64::MAX);
        assert_eq!(lateness.since(&before).count(), 1);
        assert_eq!(lateness.max_ns(), u64::MAX);
    }
}
