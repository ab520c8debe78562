//! From a link's rate to what one TCP flow can carry over it.
//!
//! Pure arithmetic; what several flows make of a shared link belongs here too, measuring does not.

use std::collections::BTreeMap;

use crate::link::{LinkSpec, MTU};
use crate::topology::LinkId;
use crate::units::BitRate;

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

/// Payload rate of a TCP stream that loses segments with probability `p`: with acknowledgements of two segments each and
/// Linux's least retransmission timeout of 200 ms.
pub(crate) fn lossy_stream_bps(round_trip_s: f64, p: f64) -> f64 {
    let (acknowledged, timeout_s) = (2.0, 0.2);
    let recovering = round_trip_s * (2.0 * acknowledged * p / 3.0).sqrt();
    let often = (3.0 * (3.0 * acknowledged * p / 8.0).sqrt()).min(1.0);
    let waiting = timeout_s * often * p * (1.0 + 32.0 * p * p);
    segment_payload() as f64 * 8.0 / (recovering + waiting)
}

/// Max-min fair shares of streams, bit/s, by progressive filling: the tightest link is shared out first. A stream that
/// no link limits gets `free_bps`.
pub(crate) fn fair_shares(
    paths: &[Vec<LinkId>],
    rate: impl Fn(LinkId) -> Option<BitRate>,
    free_bps: u64,
) -> Vec<f64> {
    let mut shares: Vec<Option<f64>> = vec![None; paths.len()];
    let mut links: BTreeMap<LinkId, (f64, Vec<usize>)> = BTreeMap::new();
    for (n, path) in paths.iter().enumerate() {
        for id in path {
            if let Some(rate) = rate(*id) {
                let link = links.entry(*id).or_insert((rate.bps() as f64, Vec::new()));
                link.1.push(n);
            }
        }
    }
    while let Some((id, fair)) = links
        .iter()
        .map(|(id, (left, streams))| (*id, left / streams.len() as f64))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
    {
        let (_, settled) = links.remove(&id).expect("found just now");
        for (left, streams) in links.values_mut() {
            streams.retain(|n| {
                let shared = settled.contains(n);
                if shared {
                    *left = (*left - fair).max(0.0);
                }
                !shared
            });
        }
        links.retain(|_, (_, streams)| !streams.is_empty());
        settled.into_iter().for_each(|n| shares[n] = Some(fair));
    }
    let free = |share: Option<f64>| share.unwrap_or(free_bps as f64);
    shares.into_iter().map(free).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn shares_are_max_min_fair() {
        let rate = |id: LinkId| BitRate::from_bps([100, 30, 1000][id.0 as usize]);
        let path = |ids: &[u32]| ids.iter().copied().map(LinkId).collect::<Vec<_>>();
        // Three streams over 100, one of which also crosses 30: it gets 30, the others share the rest.
        let paths = [path(&[0]), path(&[0]), path(&[0, 1]), path(&[2]), path(&[])];
        assert_eq!(
            fair_shares(&paths, rate, 7),
            [35.0, 35.0, 30.0, 1000.0, 7.0]
        );
    }
}
