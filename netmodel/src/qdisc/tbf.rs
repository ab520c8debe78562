//! The token bucket on a host's own device (`shaper_at = source-egress`). Pure: a spec in, parameters out.
//!
//! Never a link's shaper in the fabric: that is `shape`'s tree.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Handle, Object, Qdisc, TICK_NS};
use crate::link::{LinkSpec, ShaperAt};

/// A token bucket with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tbf {
    /// Bytes per second, as the kernel counts them: IP bytes and the Ethernet header of each segment.
    pub rate_bytes: u64,
    /// Depth of the bucket, as the time it takes to fill: in ticks of 64 ns.
    pub burst_ticks: u32,
    /// Room of the queue in bytes.
    pub limit: u32,
}

impl Tbf {
    /// What a host's device needs for a link; none if its rate is kept elsewhere.
    #[must_use]
    pub fn of(spec: &LinkSpec) -> Option<Object> {
        let (Some(rate), ShaperAt::SourceEgress { burst }) = (spec.rate, spec.shaper_at) else {
            return None;
        };
        let rate_bytes = rate.bps() / 8;
        let fill_ns = u128::from(burst.bytes()) * 1_000_000_000 / u128::from(rate_bytes.max(1));
        let ticks = fill_ns.div_ceil(u128::from(TICK_NS));
        let kind = Qdisc::Tbf(Self {
            rate_bytes,
            burst_ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
            limit: u32::try_from(spec.queue.bytes()).unwrap_or(u32::MAX),
        });
        Some(Object::Qdisc {
            parent: Handle::ROOT,
            handle: Handle::new(1, 0),
            kind,
        })
    }

    /// Depth of the bucket in bytes.
    #[must_use]
    pub fn burst_bytes(&self) -> u64 {
        let ns = u128::from(self.burst_ticks) * u128::from(TICK_NS);
        u64::try_from(u128::from(self.rate_bytes) * ns / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Every parameter the kernel tells back.
    pub(super) fn facts(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rate", self.rate_bytes),
            ("burst", self.burst_ticks.into()),
            ("limit", self.limit.into()),
        ]
    }
}

impl fmt::Display for Tbf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bps, burst) = (self.rate_bytes.saturating_mul(8), self.burst_bytes());
        write!(f, "tbf rate {bps}bit burst {burst}b limit {}", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BitRate, ByteSize};

    #[test]
    fn a_bucket_is_what_tc_would_be_told() {
        let spec = LinkSpec {
            queue: ByteSize::from_bytes(3_250_000),
            shaper_at: ShaperAt::SourceEgress {
                burst: ByteSize::from_bytes(125_000),
            },
            ..LinkSpec::with_rate(BitRate::from_bps(500_000_000).unwrap())
        };
        // 125,000 bytes at 62,500,000 a second fill in 2 ms, 31,250 ticks of 64 ns.
        let object = Tbf::of(&spec).unwrap();
        let expected = "root handle 1: tbf rate 500000000bit burst 125000b limit 3250000";
        assert_eq!(object.to_string(), expected);
        let facts = object.facts();
        assert_eq!(
            facts,
            [
                ("rate", 62_500_000),
                ("burst", 31_250),
                ("limit", 3_250_000)
            ]
        );
        assert_eq!(Tbf::of(&spec.in_fabric()), None);
        assert_eq!(Tbf::of(&LinkSpec::default()), None);
    }
}
