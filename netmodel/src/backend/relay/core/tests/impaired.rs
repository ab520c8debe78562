//! Jitter, loss, marks, links that are down, and links of packet-delivery traces.

use super::*;

fn jittery(distribution: Distribution, reorder: bool) -> LinkSpec {
    LinkSpec {
        jitter: Jitter {
            spread: Duration::from_micros(400),
            distribution,
            reorder,
        },
        ..spec(800, 1_000, 1_000_000)
    }
}

#[test]
fn jitter_keeps_the_order_unless_reordering_is_asked() {
    for shape in [
        Distribution::Uniform,
        Distribution::Normal,
        Distribution::Pareto,
    ] {
        for reorder in [false, true] {
            let mut core = one_link(jittery(shape, reorder));
            let mut seen = Seen::default();
            for n in 0..1000 {
                seen.send(&mut core, u64::from(n) * 50_000, (0, 1), (n, 1000));
            }
            seen.advance(&mut core, u64::MAX);
            assert_eq!(seen.delivered.len(), 1000);
            let order: Vec<u32> = seen.delivered.iter().map(|d| d.1).collect();
            assert_eq!(order.is_sorted(), !reorder, "{shape:?}");
            assert!(seen.delivered.is_sorted_by_key(|d| d.2));
            // Serialising takes 10 µs: nothing before 10 µs + 1 ms - 4 spreads of 0.4 ms, cut at no delay.
            let delay = |d: &Delivery| d.2 - u64::from(d.1) * 50_000;
            assert!(seen.delivered.iter().all(|d| delay(d) >= 10_000));
            if reorder {
                let mean = seen.delivered.iter().map(delay).sum::<u64>() / 1000;
                // The mean stays: five standard errors of at most 0.4 ms / √1000.
                assert!(mean.abs_diff(1_010_000) < 64_000, "{shape:?} {mean}");
            }
        }
    }
}

#[test]
fn the_same_seed_loses_and_delays_the_same() {
    let play = |seed| {
        let lossy = LinkSpec {
            loss: Loss::Independent("10%".parse().unwrap()),
            ..jittery(Distribution::Normal, false)
        };
        let cables = [lossy, LinkSpec::default()].map(Cable::symmetric);
        let hosts = ["a", "b"].map(str::to_owned).into_iter().zip(cables);
        let mut core = Core::new(&Topology::star(hosts).unwrap(), seed, 0);
        let mut seen = Seen::default();
        for n in 0..200 {
            seen.send(&mut core, u64::from(n) * 50_000, (0, 1), (n, 1000));
        }
        seen.advance(&mut core, u64::MAX);
        (seen.delivered, seen.lost)
    };
    assert_eq!(play(1), play(1));
    assert_ne!(play(1).1, play(2).1);
    assert_ne!(play(1).0, play(2).0);
}

#[test]
fn a_lost_packet_took_its_share_of_the_rate_and_no_more() {
    // Everything is lost: 1 ms each at 8 Mbit/s; the queue empties as if they had arrived.
    let lossy = LinkSpec {
        loss: Loss::Independent(Probability::ONE),
        ..spec(8, 5_000, 2_500)
    };
    let mut core = one_link(lossy);
    let mut seen = Seen::default();
    (0..3).for_each(|n| seen.send(&mut core, 0, (0, 1), (n, 1000)));
    assert_eq!(seen.dropped, [2]);
    assert_eq!(core.next_event(), Some(1_000_000));
    seen.advance(&mut core, 1_000_000);
    assert_eq!(seen.lost, [0]);
    let c = up(&core, 1_500_000);
    assert_eq!(
        (c.lost.packets, c.held.packets, c.dropped.packets),
        (1, 1, 1)
    );
    assert_eq!(c.busy_ns, 1_500_000);
    seen.send(&mut core, 1_500_000, (0, 1), (3, 1000));
    seen.advance(&mut core, 3_000_000);
    assert_eq!(seen.lost, [0, 1, 3]);
    assert!(core.is_idle() && seen.delivered.is_empty());
    assert!(is_conserved(&up(&core, 3_000_000)));
}

#[test]
fn a_super_frame_loses_segments_and_weighs_less_downstream() {
    // The second of every two segments, as the state alternates.
    let states = GilbertElliott {
        good_to_bad: Probability::ONE,
        bad_to_good: Probability::ONE,
        loss_in_bad: Probability::ONE,
        loss_in_good: Probability::default(),
    };
    let lossy = LinkSpec {
        loss: Loss::GilbertElliott(states),
        ..spec(8, 0, 100_000)
    };
    let clear = spec(8, 0, 100_000);
    let mut core = star(&[(lossy, clear), (clear, lossy)]);
    let mut seen = Seen::default();
    seen.send_parcel(&mut core, 0, (0, 1), (7, divisible(5)));
    seen.advance(&mut core, u64::MAX);
    // Segments 1 and 3 on the way up; then, of 0, 2 and 4, the second.
    let fate = Fate {
        lost: 0b01110,
        marked: false,
    };
    assert_eq!(seen.fates, [fate]);
    // Five segments of 1052 bytes, then three: 8.416 µs a segment... in ns at 8 Mbit/s: 1052 × 1000.
    assert_eq!(seen.delivered[0].2, (5 + 3) * 1_052_000);
    let tally = |packets, segments| Tally {
        packets,
        segments,
        wire_bytes: segments * 1052,
    };
    let first = core.counters(0, LinkId(0)).unwrap();
    assert_eq!((first.received, first.sent), (tally(1, 5), tally(1, 3)));
    assert_eq!(first.lost, tally(0, 2));
    let second = core.counters(0, LinkId(3)).unwrap();
    assert_eq!((second.received, second.sent), (tally(1, 3), tally(1, 2)));
}

#[test]
fn a_frame_that_cannot_be_divided_is_lost_or_kept_as_a_whole() {
    let lossy = LinkSpec {
        loss: Loss::Independent("50%".parse().unwrap()),
        ..spec(800, 0, 1_000_000)
    };
    let mut core = one_link(lossy);
    let mut seen = Seen::default();
    let whole = Parcel {
        segment_payload: 0,
        ..divisible(60)
    };
    for n in 0..1000 {
        seen.send_parcel(&mut core, u64::from(n) * 10_000_000, (0, 1), (n, whole));
    }
    seen.advance(&mut core, u64::MAX);
    assert!(seen.fates.iter().all(|fate| fate.lost == 0));
    // 500 with a deviation of 16.
    assert!(seen.lost.len().abs_diff(500) < 80, "{}", seen.lost.len());
    assert_eq!(up(&core, 0).lost.segments, 60 * seen.lost.len() as u64);
}

#[test]
fn a_packet_that_finds_a_long_queue_is_marked_if_it_may_be() {
    let marking = LinkSpec {
        ecn_threshold: Some(ByteSize::from_bytes(1_500)),
        ..spec(8, 0, 100_000)
    };
    let mut core = one_link(marking);
    let mut seen = Seen::default();
    // They find 0, 1000, 2000, 3000 bytes; the last but one cannot be marked.
    for (n, ecn_capable) in [(0, true), (1, true), (2, false), (3, true)] {
        let parcel = Parcel {
            ecn_capable,
            ..plain(1000)
        };
        seen.send_parcel(&mut core, 0, (0, 1), (n, parcel));
    }
    // After 2.5 ms there are 1500 left, which is not more than the threshold.
    seen.send(&mut core, 2_500_000, (0, 1), (4, 1000));
    seen.advance(&mut core, u64::MAX);
    let marked: Vec<bool> = seen.fates.iter().map(|fate| fate.marked).collect();
    assert_eq!(marked, [false, false, false, true, false]);
    assert_eq!(up(&core, 0).marked_packets, 1);
}

#[test]
fn a_link_that_is_down_drops_what_is_offered_and_delivers_what_is_on_it() {
    let there = spec(8, 5_000, 100_000);
    let mut core = one_link(there);
    let mut seen = Seen::default();
    seen.send(&mut core, 0, (0, 1), (1, 1000));
    seen.send(&mut core, 0, (0, 1), (2, 1000));
    let down = LinkSpec { up: false, ..there };
    core.change(500_000, LinkId(0), down, &mut |_| {});
    seen.send(&mut core, 600_000, (0, 1), (3, 1000));
    seen.advance(&mut core, 20_000_000);
    seen.send(&mut core, 20_000_000, (0, 1), (4, 1000));
    core.change(21_000_000, LinkId(0), there, &mut |_| {});
    seen.send(&mut core, 22_000_000, (0, 1), (5, 1000));
    seen.advance(&mut core, u64::MAX);
    let delivered: Vec<u32> = seen.delivered.iter().map(|d| d.1).collect();
    assert_eq!(
        (delivered, seen.dropped.clone()),
        (vec![1, 2, 5], vec![3, 4])
    );
    let c = up(&core, u64::MAX);
    assert_eq!(
        (c.received.packets, c.sent.packets, c.dropped.packets),
        (5, 3, 2)
    );
}

#[test]
fn a_transparent_link_that_is_down_drops_too() {
    let down = LinkSpec {
        up: false,
        ..LinkSpec::default()
    };
    let mut core = one_link(down);
    let mut seen = Seen::default();
    seen.send(&mut core, 0, (0, 1), (1, 1000));
    assert_eq!((seen.delivered.len(), seen.dropped.len()), (0, 1));
}

#[test]
fn a_traced_link_sends_at_its_opportunities_and_aligns_in_place() {
    let link = LinkSpec {
        rate: None,
        ..spec(1, 1_000, 4_000)
    };
    let clear = Cable::symmetric(LinkSpec::default());
    let hosts = [("a", Cable { up: link, ..clear }), ("b", clear)];
    let topology = Topology::star(hosts.map(|(name, cable)| (name.to_owned(), cable))).unwrap();
    let trace = std::sync::Arc::new("10 10".parse().unwrap());
    let topology = topology.with_delivery(LinkId(0), Some(trace)).unwrap();
    let mut core = Core::new(&topology, SEED, 3_000_000);
    let mut seen = Seen::default();
    (0..3).for_each(|n| seen.send(&mut core, 0, (0, 1), (n, 1504)));
    assert_eq!(seen.dropped, [2]);
    seen.advance(&mut core, 5_000_000);
    core.align(5_000_000, 8_000_000, &mut |_| {});
    seen.advance(&mut core, u64::MAX);
    let delivered: Vec<_> = seen.delivered.iter().map(|d| (d.1, d.2)).collect();
    // The first left at 3 ms; the other waits for 8 instead of 13. A millisecond of delay each.
    assert_eq!(delivered, [(0, 4_000_000), (1, 9_000_000)]);
    // Waiting for opportunities all that time.
    assert_eq!(up(&core, 20_000_000).busy_ns, 8_000_000);
}
