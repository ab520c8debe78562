//! The relay in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::topology::Cable;
use crate::units::{BitRate, ByteSize};

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
    Core::new(&Topology::star(hosts).unwrap())
}

#[derive(Default)]
struct Seen {
    delivered: Vec<Delivery>,
    dropped: Vec<u32>,
}

impl Seen {
    fn take(&mut self, outcome: &Outcome<u32>) {
        match *outcome {
            Outcome::Delivered {
                host,
                packet,
                at_ns,
            } => {
                self.delivered.push((host, packet, at_ns));
            }
            Outcome::Dropped { packet } => self.dropped.push(packet),
        }
    }

    fn send(&mut self, core: &mut Core<u32>, now: u64, way: (u32, u32), packet: (u32, u32)) {
        let size = PacketSize::plain(packet.1);
        let way = (HostId(way.0), HostId(way.1));
        core.enter(now, way, (packet.0, size), &mut |outcome| {
            self.take(&outcome);
        });
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
    let sent: Vec<u64> = core.counters(u64::MAX).map(|c| c.sent.packets).collect();
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

fn any_spec() -> impl Strategy<Value = LinkSpec> {
    (prop::option::of(1_u64..5_000), 0_u64..3_000, 1_u64..200_000).prop_map(
        |(mbit, delay, queue)| {
            let shaped = spec(mbit.unwrap_or(1), delay, queue);
            LinkSpec {
                rate: shaped.rate.filter(|_| mbit.is_some()),
                ..shaped
            }
        },
    )
}

#[derive(Debug, Clone)]
enum Act {
    Send {
        gap: u64,
        from: u32,
        hop: u32,
        bytes: u32,
        segments: u32,
    },
    Late {
        gap: u64,
    },
    Change {
        link: u32,
        spec: LinkSpec,
    },
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0_u64..200_000, 0_u32..3, 1_u32..3, 20_u32..65_000, 1_u32..45).prop_map(
            |(gap, from, hop, bytes, segments)| Act::Send { gap, from, hop, bytes, segments }
        ),
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
                from,
                hop,
                bytes,
                segments,
                ..
            } => {
                let size = PacketSize {
                    ip_bytes: *bytes,
                    segments: *segments,
                    header_bytes: 52,
                };
                let way = (HostId(*from), HostId((from + hop) % 3));
                core.enter(now, way, (n, size), &mut |outcome| seen.take(&outcome));
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
    fn nothing_is_lost_or_made(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let (mut core, mut seen, _) = play(&specs, &acts, false);
        for round in 0..2 {
            for c in core.counters(u64::MAX) {
                prop_assert_eq!(
                    c.received.wire_bytes,
                    c.sent.wire_bytes + c.dropped.wire_bytes + c.held.wire_bytes
                );
                prop_assert_eq!(
                    c.received.segments,
                    c.sent.segments + c.dropped.segments + c.held.segments
                );
                prop_assert!(round == 0 || c.held.packets == 0);
            }
            seen.advance(&mut core, u64::MAX);
        }
        prop_assert!(core.is_idle());
        let sent = acts.iter().filter(|act| matches!(act, Act::Send { .. })).count();
        prop_assert_eq!(seen.delivered.len() + seen.dropped.len(), sent);
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
    ) {
        let (mut core, mut late, _) = play(&specs, &acts, false);
        late.advance(&mut core, u64::MAX);
        let (mut core, mut prompt, _) = play(&specs, &acts, true);
        prompt.advance(&mut core, u64::MAX);
        prop_assert_eq!(late.delivered, prompt.delivered);
        prop_assert_eq!(late.dropped, prompt.dropped);
    }
}
