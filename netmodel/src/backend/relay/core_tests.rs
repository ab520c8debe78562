//! The relay in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::counters::Tally;
use crate::link::{Distribution, GilbertElliott, Jitter, Loss, PacketSize};
use crate::topology::{Cable, Rack};
use crate::units::{BitRate, ByteSize, Probability};

type Delivery = (HostId, u32, u64);

fn spec(mbit: u64, delay_us: u64, queue: u64) -> LinkSpec {
    LinkSpec {
        rate: BitRate::from_bps(mbit * 1_000_000),
        delay: Duration::from_micros(delay_us),
        queue: ByteSize::from_bytes(queue),
        overhead_bytes: 0,
        ..LinkSpec::default()
    }
}

fn star(hosts: &[(LinkSpec, LinkSpec)]) -> Core<u32> {
    let hosts = hosts
        .iter()
        .enumerate()
        .map(|(i, &(up, down))| (format!("h{i}"), Cable { up, down }));
    Core::new(&Topology::star(hosts).unwrap(), SEED, 0)
}

const SEED: u64 = 11;

/// A frame of one segment that may be marked.
fn plain(bytes: u32) -> Parcel {
    Parcel {
        size: PacketSize::plain(bytes),
        segment_payload: 0,
        ecn_capable: true,
    }
}

/// A frame of full segments of 1000 bytes of payload.
fn divisible(segments: u32) -> Parcel {
    Parcel {
        size: PacketSize {
            ip_bytes: 52 + segments * 1000,
            segments,
            header_bytes: 52,
        },
        segment_payload: 1000,
        ecn_capable: false,
    }
}

#[derive(Default)]
struct Seen {
    delivered: Vec<Delivery>,
    dropped: Vec<u32>,
    lost: Vec<u32>,
    heard: Vec<(Ipv4Addr, SwitchId)>,
    fates: Vec<Fate>,
}

impl Seen {
    fn take(&mut self, outcome: &Outcome<u32>) {
        match *outcome {
            Outcome::Delivered {
                host,
                packet,
                fate,
                at_ns,
            } => {
                self.delivered.push((host, packet, at_ns));
                self.fates.push(fate);
            }
            Outcome::Lost { packet } => self.lost.push(packet),
            Outcome::Heard {
                address, switch, ..
            } => self.heard.push((address, switch)),
            Outcome::Dropped { packet } => self.dropped.push(packet),
        }
    }

    fn send(&mut self, core: &mut Core<u32>, now: u64, way: (u32, u32), packet: (u32, u32)) {
        self.send_parcel(core, now, way, (packet.0, plain(packet.1)));
    }

    fn send_parcel(
        &mut self,
        core: &mut Core<u32>,
        now: u64,
        way: (u32, u32),
        packet: (u32, Parcel),
    ) {
        let way = (HostId(way.0), HostId(way.1));
        core.enter(now, way, packet, &mut |outcome| self.take(&outcome));
    }

    fn advance(&mut self, core: &mut Core<u32>, now: u64) {
        core.advance(now, &mut |outcome| self.take(&outcome));
    }
}

#[test]
fn two_hops_take_two_serialisations_and_two_delays() {
    // 1000 bytes at 8 Mbit/s are 1 ms; at 16 Mbit/s 0.5 ms.
    let mut core = star(&[
        (spec(8, 100, 10_000), spec(8, 0, 10_000)),
        (spec(8, 0, 10_000), spec(16, 30, 10_000)),
    ]);
    let mut seen = Seen::default();
    seen.send(&mut core, 5_000, (0, 1), (7, 1000));
    seen.send(&mut core, 5_000, (0, 1), (8, 1000));
    assert_eq!(core.next_event(), Some(5_000 + 1_000_000 + 100_000));
    // Woken once and very late: logical instants are unmoved.
    seen.advance(&mut core, 60_000_000);
    let first = 5_000 + 1_000_000 + 100_000 + 500_000 + 30_000;
    assert_eq!(
        seen.delivered,
        [(HostId(1), 7, first), (HostId(1), 8, first + 1_000_000)]
    );
    assert!(core.is_idle());
    assert_eq!(core.next_event(), None);
}

#[test]
fn a_shared_downlink_is_served_in_order_of_logical_arrival() {
    let (up, fast) = (spec(8, 0, 100_000), spec(80, 0, 100_000));
    let mut core = star(&[(up, up), (fast, up), (up, fast)]);
    let mut seen = Seen::default();
    // From host 0 at the switch after 1 ms, from host 1 after 0.9 ms + 0.05 ms; read in the other order.
    seen.send(&mut core, 0, (0, 2), (1, 1000));
    seen.send(&mut core, 900_000, (1, 2), (2, 500));
    seen.advance(&mut core, 90_000_000);
    let order: Vec<u32> = seen.delivered.iter().map(|d| d.1).collect();
    assert_eq!(order, [2, 1]);
}

#[test]
fn transparent_links_deliver_at_once() {
    let clear = LinkSpec::default();
    let mut core = star(&[(clear, clear), (clear, clear)]);
    let mut seen = Seen::default();
    seen.send(&mut core, 42, (0, 1), (1, 60_000));
    assert_eq!(seen.delivered, [(HostId(1), 1, 42)]);
    let sent: Vec<u64> = core.all_counters(42).map(|c| c.sent.packets).collect();
    assert_eq!(sent, [1, 0, 0, 1]);
}

#[test]
fn a_link_made_transparent_does_not_overtake_itself() {
    let mut core = star(&[
        (spec(8, 5_000, 100_000), LinkSpec::default()),
        (LinkSpec::default(), LinkSpec::default()),
    ]);
    let mut seen = Seen::default();
    seen.send(&mut core, 0, (0, 1), (1, 1000));
    core.change(2_000_000, LinkId(0), LinkSpec::default(), &mut |_| {});
    seen.send(&mut core, 3_000_000, (0, 1), (2, 1000));
    seen.advance(&mut core, u64::MAX);
    assert_eq!(
        seen.delivered,
        [(HostId(1), 1, 6_000_000), (HostId(1), 2, 6_000_000)]
    );
}

#[test]
fn a_rate_change_moves_the_event_forward_and_back() {
    let mut core = star(&[
        (spec(8, 0, 100_000), LinkSpec::default()),
        (LinkSpec::default(), LinkSpec::default()),
    ]);
    let mut seen = Seen::default();
    seen.send(&mut core, 0, (0, 1), (1, 1000));
    core.change(500_000, LinkId(0), spec(80, 0, 100_000), &mut |_| {});
    assert_eq!(core.next_event(), Some(550_000));
    core.change(525_000, LinkId(0), spec(4, 0, 100_000), &mut |_| {});
    assert_eq!(core.next_event(), Some(525_000 + 500_000));
    seen.advance(&mut core, 2_000_000);
    assert_eq!(seen.delivered, [(HostId(1), 1, 1_025_000)]);
}

/// Two hosts and one emulated link, from the first up.
fn one_link(spec: LinkSpec) -> Core<u32> {
    let clear = LinkSpec::default();
    star(&[(spec, clear), (clear, clear)])
}

fn up(core: &Core<u32>, now: u64) -> LinkCounters {
    core.counters(now, LinkId(0)).unwrap()
}

fn is_conserved(c: &LinkCounters) -> bool {
    let fields: [fn(&Tally) -> u64; 3] = [|t| t.packets, |t| t.segments, |t| t.wire_bytes];
    let parts = [&c.sent, &c.dropped, &c.lost, &c.held];
    fields
        .iter()
        .all(|field| field(&c.received) == parts.iter().map(|t| field(t)).sum::<u64>())
}

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

fn any_loss() -> impl Strategy<Value = Loss> {
    let share = || {
        let any = 0..=1_000_000_000_u32;
        any.prop_map(|parts| Probability::from_ppb(parts).unwrap())
    };
    let chain = (share(), share(), share(), share());
    prop_oneof![
        2 => Just(Loss::None),
        1 => share().prop_map(Loss::Independent),
        1 => chain.prop_map(|(good_to_bad, bad_to_good, loss_in_bad, loss_in_good)| {
            Loss::GilbertElliott(GilbertElliott { good_to_bad, bad_to_good, loss_in_bad, loss_in_good })
        }),
    ]
}

fn any_jitter() -> impl Strategy<Value = Jitter> {
    let shape = prop_oneof![
        Just(Distribution::Uniform),
        Just(Distribution::Normal),
        Just(Distribution::Pareto),
    ];
    (0_u64..2_000, shape).prop_map(|(spread, distribution)| Jitter {
        spread: Duration::from_micros(spread.saturating_sub(1_000)),
        distribution,
        reorder: false,
    })
}

fn any_spec() -> impl Strategy<Value = LinkSpec> {
    let shape = (prop::option::of(1_u64..5_000), 0_u64..3_000, 1_u64..200_000);
    let rest = (
        any_loss(),
        any_jitter(),
        prop::option::of(0_u64..9_000),
        0_u8..8,
        0_u16..40,
    );
    (shape, rest).prop_map(
        |((mbit, delay, queue), (loss, jitter, ecn, up, overhead_bytes))| {
            let shaped = spec(mbit.unwrap_or(1), delay, queue);
            LinkSpec {
                rate: shaped.rate.filter(|_| mbit.is_some()),
                loss,
                jitter,
                ecn_threshold: ecn.map(ByteSize::from_bytes),
                up: up > 0,
                overhead_bytes,
                ..shaped
            }
        },
    )
}

/// The same links where packets may overtake.
fn reordering(specs: &[LinkSpec]) -> Vec<LinkSpec> {
    let jitter = |spec: &LinkSpec| Jitter {
        reorder: true,
        ..spec.jitter
    };
    specs
        .iter()
        .map(|spec| LinkSpec {
            jitter: jitter(spec),
            ..*spec
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Act {
    Send {
        gap: u64,
        from: u32,
        hop: u32,
        parcel: Parcel,
    },
    Late {
        gap: u64,
    },
    Change {
        link: u32,
        spec: LinkSpec,
    },
}

fn any_parcel() -> impl Strategy<Value = Parcel> {
    (1_u32..65_000, 100_u32..1500, 0_u8..3, any::<bool>()).prop_map(
        |(payload, mut segment_payload, kind, ecn_capable)| {
            let mut size = PacketSize {
                ip_bytes: 52 + payload,
                segments: payload.div_ceil(segment_payload),
                header_bytes: 52,
            };
            if kind == 0 {
                size = PacketSize::plain(52 + payload);
            }
            if kind == 0 || size.segments > 128 {
                segment_payload = 0;
            }
            Parcel {
                size,
                segment_payload,
                ecn_capable,
            }
        },
    )
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0_u64..200_000, 0_u32..3, 1_u32..3, any_parcel())
            .prop_map(|(gap, from, hop, parcel)| Act::Send { gap, from, hop, parcel }),
        2 => (0_u64..5_000_000).prop_map(|gap| Act::Late { gap }),
        1 => (0_u32..6, any_spec()).prop_map(|(link, spec)| Act::Change { link, spec }),
    ]
}

/// Plays acts; `steps` wakes the core at every event on the way, otherwise only when something happens.
fn play(specs: &[LinkSpec], acts: &[Act], steps: bool) -> (Core<u32>, Seen, u64) {
    let pairs: Vec<_> = specs.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    let (mut core, mut seen, mut now) = (star(&pairs), Seen::default(), 0);
    for (n, act) in (0..).zip(acts) {
        let gap = match act {
            Act::Send { gap, .. } | Act::Late { gap } => *gap,
            Act::Change { .. } => 1,
        };
        while let Some(at) = core.next_event().filter(|at| steps && *at <= now + gap) {
            seen.advance(&mut core, at);
        }
        now += gap;
        match act {
            Act::Send {
                from, hop, parcel, ..
            } => {
                let way = (*from, (from + hop) % 3);
                seen.send_parcel(&mut core, now, way, (n, *parcel));
            }
            Act::Late { .. } => seen.advance(&mut core, now),
            Act::Change { link, spec } => {
                core.change(now, LinkId(*link), *spec, &mut |outcome| {
                    seen.take(&outcome);
                });
            }
        }
    }
    (core, seen, now)
}

proptest! {
    #[test]
    fn every_field_is_conserved_at_every_instant(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
        reorder: bool,
    ) {
        let specs = if reorder { reordering(&specs) } else { specs };
        let (mut core, mut seen, now) = play(&specs, &acts, false);
        prop_assert!(core.all_counters(now).all(|c| is_conserved(&c)));
        seen.advance(&mut core, u64::MAX);
        for c in core.all_counters(u64::MAX) {
            prop_assert!(is_conserved(&c));
            prop_assert_eq!(c.held, Tally::default());
        }
        prop_assert!(core.is_idle());
        let sent = acts.iter().filter(|act| matches!(act, Act::Send { .. })).count();
        prop_assert_eq!(seen.delivered.len() + seen.dropped.len() + seen.lost.len(), sent);
        // What arrived is what the last links sent, segment by segment.
        let lost = seen.fates.iter().map(|fate| u64::from(fate.lost.count_ones())).sum::<u64>();
        let arrived = seen.delivered.iter().map(|d| match &acts[d.1 as usize] {
            Act::Send { parcel, .. } => u64::from(parcel.size.segments),
            _ => 0,
        });
        let down = core.all_counters(u64::MAX).skip(1).step_by(2);
        prop_assert_eq!(arrived.sum::<u64>() - lost, down.map(|c| c.sent.segments).sum::<u64>());
    }

    #[test]
    fn busy_time_is_never_ahead_of_the_clock(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let (core, _, now) = play(&specs, &acts, false);
        prop_assert!(core.all_counters(now).all(|c| c.busy_ns <= now));
    }

    #[test]
    fn packets_of_one_pair_never_overtake(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let (mut core, mut seen, _) = play(&specs, &acts, false);
        seen.advance(&mut core, u64::MAX);
        let way = |n: u32| match acts[n as usize] {
            Act::Send { from, hop, .. } => Some((from, hop)),
            _ => None,
        };
        for (i, a) in seen.delivered.iter().enumerate() {
            for b in &seen.delivered[i + 1..] {
                prop_assert!(way(a.1) != way(b.1) || (a.1 < b.1 && a.2 <= b.2));
            }
        }
    }

    #[test]
    fn late_wake_ups_change_no_instant(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
        reorder: bool,
    ) {
        let specs = if reorder { reordering(&specs) } else { specs };
        let (mut core, mut late, _) = play(&specs, &acts, false);
        late.advance(&mut core, u64::MAX);
        let (mut core, mut prompt, _) = play(&specs, &acts, true);
        prompt.advance(&mut core, u64::MAX);
        prop_assert_eq!(&late.delivered, &prompt.delivered);
        prop_assert_eq!(&late.fates, &prompt.fates);
        prop_assert_eq!(&late.dropped, &prompt.dropped);
        late.lost.sort_unstable();
        prompt.lost.sort_unstable();
        prop_assert_eq!(late.lost, prompt.lost);
    }
}

/// Two racks of one host each and a third host at the core: where a packet to an address goes is each switch's own affair.
#[test]
fn each_switch_sends_an_address_where_it_believes_it_to_be() {
    let rack = |name: &str| Rack {
        name: name.to_owned(),
        uplink: Cable::default(),
        hosts: vec![(format!("{name}-h"), Cable::default())],
    };
    let topology = Topology::two_tier(["a", "b", "c"].map(rack)).unwrap();
    let mut core = Core::new(&topology, 1, 0);
    let mut seen = Seen::default();
    let vm = Ipv4Addr::new(10, 96, 0, 1);
    // Switches: the core, then the racks; hosts 0, 1 and 2 in them. The core and rack b believe b.
    assert!(!core.knows(vm));
    for (switch, host) in [(0, 1), (1, 0), (2, 1), (3, 0)] {
        let what = (SwitchId(switch), vm);
        core.teach(0, what, Some(HostId(host)), &mut |o| seen.take(&o));
    }
    let mut send = |core: &mut Core<u32>, from: u32, packet: u32, to: To| {
        let what = (packet, plain(100));
        core.enter(1, (HostId(from), to), what, &mut |o| seen.take(&o));
        seen.delivered
            .pop()
            .map(|(host, packet, _)| (host.0, packet))
    };
    let address = To::Address(vm);
    // Rack c still sends it up, as to a; the core knows better.
    assert_eq!(send(&mut core, 2, 7, address), Some((1, 7)));
    // Rack a believes that it is its own.
    assert_eq!(send(&mut core, 0, 8, address), Some((0, 8)));
    // An announcement ends at the first switch.
    assert_eq!(send(&mut core, 1, 9, To::Announcement(vm)), None);
    assert_eq!(seen.heard, [(vm, SwitchId(2))]);
    for switch in 0..4 {
        core.teach(2, (SwitchId(switch), vm), None, &mut |o| seen.take(&o));
    }
    assert!(!core.knows(vm) && seen.dropped.is_empty());
}
