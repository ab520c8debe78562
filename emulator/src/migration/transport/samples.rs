//! The TCP state of a migration's connections, as one sample.
//!
//! Of several connections: windows, rates, bytes and retransmissions are summed; the round trip is that
//! of those which send; it is busy as long as the busiest, and held up by the receiver for the share of
//! that time in which its connections were on average. Never inside: when to look.

use std::time::Duration;

use netmodel::sys::tcpinfo::TcpInfo;

use crate::migration::record::TcpSample;

/// The sample at an instant; `accepted` are the bytes all sockets have taken.
pub(super) fn combined(infos: &[TcpInfo], at_ns: u64, accepted: u64) -> TcpSample {
    let sum = |of: fn(&TcpInfo) -> u64| infos.iter().map(of).sum::<u64>();
    let busy_us = infos
        .iter()
        .map(|info| whole_us(info.busy))
        .max()
        .unwrap_or(0);
    let busy_sum_us = sum(|info| whole_us(info.busy));
    // A mean over time and connections, scaled to the busiest one's time.
    let of_busy = |us: u64| match busy_sum_us {
        0 => 0,
        all => u64::try_from(u128::from(us) * u128::from(busy_us) / u128::from(all)).unwrap_or(0),
    };
    let rtt_us = match busy_sum_us {
        0 => infos.first().map_or(0, |info| whole_us(info.rtt)),
        all => {
            let weighted =
                |info: &TcpInfo| u128::from(whole_us(info.rtt)) * u128::from(whole_us(info.busy));
            let weighted: u128 = infos.iter().map(weighted).sum();
            u64::try_from(weighted / u128::from(all)).unwrap_or(u64::MAX)
        }
    };
    let whole_u32 = |sum: u64| u32::try_from(sum).unwrap_or(u32::MAX);
    TcpSample {
        at_ns,
        rtt_us: whole_u32(rtt_us),
        cwnd: whole_u32(sum(|info| u64::from(info.cwnd_segments))),
        retransmits: whole_u32(sum(|info| u64::from(info.retransmits))),
        recovering: infos.iter().any(|info| info.recovering),
        delivery_rate: sum(|info| info.delivery_bytes_per_s),
        busy_us,
        rwnd_limited_us: of_busy(sum(|info| whole_us(info.window_limited))),
        sndbuf_limited_us: of_busy(sum(|info| whole_us(info.buffer_limited))),
        unacked_bytes: accepted.saturating_sub(sum(|info| info.acked_bytes)),
    }
}

fn whole_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(busy_us: u64, window_limited_us: u64) -> TcpInfo {
        TcpInfo {
            rtt: Duration::from_micros(busy_us / 10),
            cwnd_segments: 10,
            retransmits: 1,
            acked_bytes: 1000,
            delivery_bytes_per_s: 500,
            busy: Duration::from_micros(busy_us),
            window_limited: Duration::from_micros(window_limited_us),
            ..TcpInfo::default()
        }
    }

    #[test]
    fn one_connection_is_as_the_kernel_says() {
        let sample = combined(&[info(1000, 300)], 7, 1500);
        assert_eq!((sample.at_ns, sample.rtt_us, sample.cwnd), (7, 100, 10));
        assert_eq!((sample.busy_us, sample.rwnd_limited_us), (1000, 300));
        assert_eq!(sample.unacked_bytes, 500);
    }

    #[test]
    fn several_are_summed_and_their_times_are_not() {
        // A main stream that is idle, two channels busy for 1000 µs, one of them held up half of it.
        let all = [info(0, 0), info(1000, 500), info(1000, 0)];
        let sample = combined(&all, 7, 4000);
        assert_eq!((sample.cwnd, sample.retransmits), (30, 3));
        assert_eq!((sample.delivery_rate, sample.unacked_bytes), (1500, 1000));
        assert_eq!((sample.busy_us, sample.rwnd_limited_us), (1000, 250));
        assert_eq!(sample.rtt_us, 100);
    }
}
