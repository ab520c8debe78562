//! When bytes that wait leave: at a rate, at the opportunities of a delivery trace, or at once.
//!
//! Departures are computed on arrival, from arrivals alone. No packets, no clock.

use std::sync::Arc;

use crate::delivery::{DeliveryTrace, OPPORTUNITY_BYTES};
use crate::units::BitRate;

/// What serialises the bytes of a link.
#[derive(Debug)]
pub(super) enum Service {
    Open,
    Rate(BitRate, VirtualClock),
    Trace(Track),
}

/// When the last accepted bit has left: `ns` + `rest` / rate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct VirtualClock {
    ns: u64,
    rest: u64,
}

pub(super) const NS_PER_S: u128 = 1_000_000_000;

impl Service {
    pub(super) fn at_rate(rate: Option<BitRate>, now_ns: u64) -> Self {
        let clock = VirtualClock {
            ns: now_ns,
            rest: 0,
        };
        rate.map_or(Self::Open, |rate| Self::Rate(rate, clock))
    }

    /// Serialises `bytes` that arrived at `now_ns`; returns when they are gone, rounded down.
    pub(super) fn serialise(&mut self, now_ns: u64, bytes: u64) -> u64 {
        match self {
            Self::Open => now_ns,
            Self::Rate(rate, clock) => clock.serialise(now_ns, bytes, *rate),
            Self::Trace(track) => track.serialise(now_ns, bytes),
        }
    }

    /// When everything accepted so far has left; the past when it has.
    pub(super) fn end_ns(&self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Rate(_, clock) => clock.ns,
            Self::Trace(track) => track.end_ns,
        }
    }

    /// Bytes still to be serialised at `now_ns`, rounded up.
    pub(super) fn backlog_bytes(&self, now_ns: u64) -> u64 {
        match self {
            Self::Open => 0,
            Self::Rate(rate, clock) => {
                let bytes = clock.backlog(now_ns, *rate).div_ceil(8 * NS_PER_S);
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
            Self::Trace(track) => track.backlog_bytes(now_ns),
        }
    }
}

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
        self.work_off(work, rate)
    }

    /// `left_ns` of serialising at the old rate, done at the new one.
    pub(super) fn take_over(&mut self, left_ns: u64, old: BitRate, new: BitRate) -> u64 {
        // Both below 2^64.
        self.work_off(u128::from(left_ns) * u128::from(old.bps()), new)
    }

    fn work_off(&mut self, work: u128, rate: BitRate) -> u64 {
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

/// How far a delivery trace is used up.
#[derive(Debug)]
pub(super) struct Track {
    trace: Arc<DeliveryTrace>,
    /// The instant of the clock at which the trace begins; before it, it has been going round for ever.
    origin_ns: i64,
    /// The opportunity at which the last accepted byte leaves, and what of it is left.
    last: i128,
    left: u64,
    end_ns: u64,
}

impl Track {
    pub(super) fn new(trace: Arc<DeliveryTrace>, origin_ns: i64) -> Self {
        Self {
            trace,
            origin_ns,
            last: 0,
            left: 0,
            end_ns: 0,
        }
    }

    /// The same trace from another origin, with nothing accepted.
    pub(super) fn aligned(&self, origin_ns: i64) -> Self {
        Self::new(Arc::clone(&self.trace), origin_ns)
    }

    /// Takes opportunities after `now_ns`, and what is left of the last one while something still waits for it.
    fn serialise(&mut self, now_ns: u64, bytes: u64) -> u64 {
        if now_ns >= self.end_ns {
            self.last = self.first_after(now_ns) - 1;
            self.left = 0;
        }
        let more = bytes.saturating_sub(self.left).div_ceil(OPPORTUNITY_BYTES);
        self.last += i128::from(more);
        // More by less than one opportunity than what is taken.
        self.left = self.left + more * OPPORTUNITY_BYTES - bytes;
        let at_ns = self.trace.instant_ns(self.last) + i128::from(self.origin_ns);
        self.end_ns = u64::try_from(at_ns).unwrap_or(u64::MAX).max(now_ns);
        self.end_ns
    }

    fn backlog_bytes(&self, now_ns: u64) -> u64 {
        if now_ns >= self.end_ns {
            return 0;
        }
        // Something waited at every opportunity since, so each was used up.
        let ahead = u64::try_from(self.last + 1 - self.first_after(now_ns)).unwrap_or(0);
        ahead
            .saturating_mul(OPPORTUNITY_BYTES)
            .saturating_sub(self.left)
    }

    fn first_after(&self, now_ns: u64) -> i128 {
        let elapsed_ns = i128::from(now_ns) - i128::from(self.origin_ns);
        self.trace.first_after(elapsed_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn track(text: &str, origin_ns: i64) -> Service {
        Service::Trace(Track::new(Arc::new(text.parse().unwrap()), origin_ns))
    }

    #[test]
    fn a_packet_leaves_where_its_last_byte_fits() {
        // Opportunities at 2, 4, 4, 9 ms; then again from 10.
        let mut service = track("10 2 2x2 5", 0);
        assert_eq!(service.serialise(0, 1504), 2 * MS);
        // Half of one at 4, then all the rest of it and half of the other.
        assert_eq!(service.serialise(1, 752), 4 * MS);
        assert_eq!(service.serialise(2, 1504), 4 * MS);
        assert_eq!(service.backlog_bytes(3), 1504 + 752 + 1504);
        assert_eq!(service.backlog_bytes(2 * MS), 752 + 1504);
        assert_eq!(service.serialise(3 * MS, 753), 9 * MS);
        assert_eq!(service.serialise(3 * MS, 1504), 12 * MS);
    }

    #[test]
    fn what_nobody_waits_for_is_lost() {
        let mut service = track("10 2 2x2 5", 0);
        assert_eq!(service.serialise(0, 100), 2 * MS);
        // The rest of that opportunity is gone, the instant itself too.
        assert_eq!(service.serialise(2 * MS, 100), 4 * MS);
        assert_eq!(service.serialise(5 * MS, 100), 9 * MS);
        assert_eq!(service.serialise(9 * MS, 1504 * 5), 22 * MS);
    }

    #[test]
    fn a_trace_begins_at_its_origin_and_has_gone_round_before() {
        let ms = i64::try_from(MS).unwrap();
        let mut service = track("10 2 2x2 5", 1_000 * ms + 500_000);
        assert_eq!(service.serialise(1_000 * MS, 100), 1_002 * MS + 500_000);
        let mut service = track("10 2 2x2 5", 1_000 * ms);
        assert_eq!(service.serialise(500 * MS, 100), 502 * MS);
        let mut service = track("10 2 2x2 5", -3 * ms);
        assert_eq!(service.serialise(0, 100), MS);
    }
}
