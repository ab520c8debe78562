//! The relay in virtual time.

mod impaired;
mod properties;

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
