//! From a link's rate to what one TCP flow can carry over it.
//!
//! Pure arithmetic; what several flows make of a shared link belongs here too, measuring does not.

use crate::link::{LinkSpec, MTU};

/// IPv4 and TCP headers without options.
const HEADERS_PLAIN: u64 = 40;
/// The timestamp option, padded: on by default in Linux.
const TIMESTAMPS: u64 = 12;

/// Payload of a full TCP segment with timestamps on a 1500-byte MTU: 1448.
#[must_use]
pub fn segment_payload() -> u64 {
    u64::from(MTU) - HEADERS_PLAIN - TIMESTAMPS
}

/// Share of the wire rate that is TCP payload when all segments are full: 1448/1538 for Ethernet.
#[must_use]
pub fn payload_share(overhead_bytes: u16) -> f64 {
    let wire = u64::from(MTU) + u64::from(overhead_bytes);
    // Both are below 2^17: exact in a float.
    segment_payload() as f64 / wire as f64
}

/// Payload bit/s of one TCP flow that fills the link; `None` when it is unshaped.
#[must_use]
pub fn goodput_bps(spec: &LinkSpec) -> Option<f64> {
    spec.rate
        .map(|rate| rate.bps() as f64 * payload_share(spec.overhead_bytes))
}

/// Payload bit/s of one TCP flow that fills the slowest of these links; `None` when all are unshaped.
#[must_use]
pub fn path_goodput_bps<'a>(links: impl IntoIterator<Item = &'a LinkSpec>) -> Option<f64> {
    links
        .into_iter()
        .filter_map(goodput_bps)
        .min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BitRate;

    #[test]
    fn goodput_is_what_headers_leave() {
        let gigabit = LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).unwrap());
        assert!((goodput_bps(&gigabit).unwrap() - 941_482_444.7).abs() < 1.0);
        let as_tbf = LinkSpec {
            overhead_bytes: 14,
            ..gigabit
        };
        assert!((goodput_bps(&as_tbf).unwrap() - 956_406_869.2).abs() < 1.0);
        assert_eq!(path_goodput_bps([&LinkSpec::default()]), None);
        assert_eq!(path_goodput_bps([&as_tbf, &gigabit]), goodput_bps(&gigabit));
    }
}
