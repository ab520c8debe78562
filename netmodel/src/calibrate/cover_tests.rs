use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::link::Loss;
use crate::topology::{Cable, Rack, Site};
use crate::units::{ByteSize, Probability};

const MBIT: u64 = 1_000_000;

fn spec(mbit: u64) -> LinkSpec {
    LinkSpec::with_rate(BitRate::from_bps(mbit * MBIT).unwrap())
}

fn cable(mbit: u64) -> Cable {
    Cable::symmetric(spec(mbit))
}

fn star(rates: &[u64]) -> Topology {
    let hosts = rates.iter().enumerate();
    Topology::star(hosts.map(|(n, mbit)| (format!("h{n}"), cable(*mbit)))).unwrap()
}

fn racks(racks: usize, hosts: usize, host: u64, uplink: u64) -> Topology {
    let rack = |r: usize| Rack {
        name: format!("r{r}"),
        uplink: cable(uplink),
        hosts: (0..hosts)
            .map(|h| (format!("r{r}h{h}"), cable(host)))
            .collect(),
    };
    Topology::two_tier((0..racks).map(rack)).unwrap()
}

fn cover_of(topology: &Topology) -> Cover {
    let cover = cover(topology, &Settings::default());
    for part in &cover.parts {
        assert!(part.ways.len() <= STREAMS_MAX, "{part:?}");
    }
    assert!(cover.parts.len() <= Settings::default().parts_max);
    cover
}

/// What streams of a part bring each link to, relative to its rate.
fn fill(topology: &Topology, part: &Part, link: LinkId) -> f64 {
    let paths: Vec<_> = part.ways.iter().map(|w| topology.path(w.0, w.1)).collect();
    let flows = fair_shares(&paths, |id| topology.link(id).spec.rate, u64::MAX);
    let crossing = paths.iter().zip(&flows).filter(|(p, _)| p.contains(&link));
    let carried: f64 = crossing.map(|(_, flow)| flow).sum();
    carried / topology.link(link).spec.rate.unwrap().bps() as f64
}

fn assert_all_filled(topology: &Topology) {
    let cover = cover_of(topology);
    for link in topology.links() {
        let here = |part: &&Part| part.targets.contains(&link.id);
        let best = cover.parts.iter().filter(here);
        let best = best.map(|p| fill(topology, p, link.id)).fold(0.0, f64::max);
        assert!(best > 0.999, "{} {best} {cover:?}", link.name);
    }
    assert!(cover.stands_for.is_empty());
}

#[test]
fn every_host_of_a_star_streams_to_the_next() {
    let cover = cover_of(&star(&[100, 100, 100]));
    let h = HostId;
    assert_eq!(cover.parts.len(), 1);
    let ring = [(h(0), h(1)), (h(1), h(2)), (h(2), h(0))];
    assert_eq!(cover.parts[0].ways, ring);
    assert_eq!(cover.parts[0].targets.len(), 6);
}

#[test]
fn an_oversubscribed_uplink_is_filled_by_several_hosts() {
    // Four hosts at 200 Mbit/s behind 400.
    let topology = racks(2, 4, 200, 400);
    assert_all_filled(&topology);
}

#[test]
fn an_uplink_as_wide_as_all_its_hosts_is_filled_in_a_part_without_the_ring() {
    let topology = racks(2, 4, 100, 400);
    assert_all_filled(&topology);
    assert!(cover_of(&topology).parts.len() > 1);
}

#[test]
fn links_of_unlike_rates_are_filled_by_several_streams() {
    assert_all_filled(&star(&[10, 10, 10, 30]));
    assert_all_filled(&star(&[100, 50, 50]));
}

#[test]
fn sites_with_one_host_each_fill_the_links_between_them() {
    let site = |n: usize| Site {
        name: format!("s{n}"),
        hosts: vec![(format!("h{n}"), cable(100))],
    };
    let between = [(0, 1, cable(100)), (1, 2, cable(50)), (2, 0, cable(100))];
    assert_all_filled(&Topology::wan((0..3).map(site), between).unwrap());
}

#[test]
fn what_a_computer_cannot_carry_is_represented_by_its_class() {
    let topology = racks(20, 50, 1000, 5000);
    let cover = cover_of(&topology);
    let measured = cover.measured();
    assert!(measured < 100, "{measured}");
    assert_eq!(measured + cover.stands_for.len(), topology.links().len());
    for (link, other) in &cover.stands_for {
        let (link, other) = (topology.link(*link), topology.link(*other));
        assert_eq!(link.spec, other.spec);
        assert_eq!(position(link), position(other));
    }
}

#[test]
fn a_thousand_slow_hosts_are_sampled_all_over() {
    let topology = racks(20, 50, 10, 100);
    let cover = cover_of(&topology);
    let measured: Vec<_> = cover.parts.iter().flat_map(|p| &p.ways).collect();
    assert!(measured.len() > 100, "{}", measured.len());
    let racks: BTreeSet<u32> = measured.iter().map(|way| way.0.0 / 50).collect();
    assert_eq!(racks.len(), 20);
}

#[test]
fn links_that_are_down_are_left_alone() {
    let topology = star(&[100, 100, 100]);
    let topology = topology.with_specs(|link| {
        let up = link.name != "h1-down";
        Ok::<_, ()>(LinkSpec { up, ..link.spec })
    });
    let topology = topology.unwrap();
    let cover = cover_of(&topology);
    let ways: BTreeSet<Way> = cover.parts.iter().flat_map(|p| p.ways.clone()).collect();
    assert_eq!(
        ways,
        BTreeSet::from([(HostId(0), HostId(2)), (HostId(2), HostId(0))])
    );
    assert!(!cover.is_measured(topology.link_named("h1-down").unwrap().id));
}

#[test]
fn lossy_and_shallow_paths_get_more_streams() {
    let two = |change: fn(&mut LinkSpec)| {
        let mut spec = LinkSpec {
            delay: Duration::from_millis(5),
            queue: ByteSize::from_bytes(10 << 20),
            ..spec(100)
        };
        change(&mut spec);
        let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::symmetric(spec)));
        cover_of(&Topology::star(hosts).unwrap()).parts[0]
            .ways
            .len()
    };
    assert_eq!(two(|_| ()), 2);
    // 100 Mbit/s × 20 ms hold 250 KB; a queue of 64 KiB is below 3/7 of it.
    assert_eq!(two(|s| s.queue = ByteSize::from_bytes(64 << 10)), 8);
    // Over both links 0.2 %: a segment each 20 ms × √(4 × 0.002 / 3) + 200 ms × 3 √(0.0015) × 0.002 = 1.08 ms are
    // 10.7 Mbit/s a stream; 125 Mbit/s want 12.
    let lossy = two(|s| s.loss = Loss::Independent(Probability::from_ppb(1_000_000).unwrap()));
    assert_eq!(lossy, 24);
}

#[test]
fn unshaped_networks_are_loaded_too() {
    let hosts = ["a", "b", "c"].map(|name| (name.to_owned(), Cable::default()));
    let cover = cover_of(&Topology::star(hosts).unwrap());
    assert_eq!(cover.parts.len(), 3);
    assert_eq!(cover.measured(), 6);
}

#[test]
fn datagrams_see_hosts_in_more_than_one_pairing() {
    let topology = star(&[100; 5]);
    let ways = cover_of(&topology).ways(&topology);
    assert_eq!(ways.len(), 10);
    let out = |host: u32| ways.iter().filter(|way| way.0 == HostId(host)).count();
    assert!((0..5).all(|host| out(host) == 2));
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

proptest! {
    #[test]
    fn every_link_that_is_up_is_measured_or_represented_or_out_of_reach(
        rates in prop::collection::vec(prop::collection::vec(1..2000_u64, 1..6), 2..5),
        uplinks in prop::collection::vec(1..5000_u64, 4),
    ) {
        let rack = |(r, hosts): (usize, &Vec<u64>)| Rack {
            name: format!("r{r}"),
            uplink: cable(uplinks[r % 4]),
            hosts: hosts.iter().enumerate().map(|(h, mbit)| (format!("r{r}h{h}"), cable(*mbit))).collect(),
        };
        let topology = Topology::two_tier(rates.iter().enumerate().map(rack)).unwrap();
        let cover = cover(&topology, &Settings::default());
        for part in &cover.parts {
            prop_assert!(part.ways.len() <= STREAMS_MAX);
            for id in &part.fills {
                let fill = fill(&topology, part, *id);
                prop_assert!(fill > 1.0 - 1e-6, "{id} {fill}");
            }
        }
        let again = super::cover(&topology, &Settings::default());
        prop_assert_eq!(cover, again);
    }
}
