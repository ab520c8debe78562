use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn star(n: usize) -> Topology {
    let cable = Cable::default();
    Topology::star((1..=n).map(|i| (format!("h{i}"), cable))).unwrap()
}

fn delayed(ms: u64) -> Cable {
    Cable::symmetric(LinkSpec {
        delay: Duration::from_millis(ms),
        ..LinkSpec::default()
    })
}

fn names(topology: &Topology, path: &[LinkId]) -> Vec<String> {
    path.iter()
        .map(|&id| topology.link(id).name.clone())
        .collect()
}

#[test]
fn a_star_path_is_up_then_down() {
    let topology = star(3);
    assert_eq!(topology.path(HostId(0), HostId(2)), [LinkId(0), LinkId(5)]);
    assert_eq!(topology.path(HostId(2), HostId(1)), [LinkId(4), LinkId(3)]);
    assert!(topology.path(HostId(1), HostId(1)).is_empty());
    assert_eq!(topology.links()[5].name, "h3-down");
    assert_eq!(topology.host("h2"), Some(HostId(1)));
}

#[test]
fn impossible_stars_are_refused() {
    let cable = Cable::default();
    let one = Topology::star([("h1".to_owned(), cable)]);
    assert_eq!(one, Err(TopologyError::TooFewHosts { hosts: 1 }));
    let twice = Topology::star([("h1".to_owned(), cable), ("h1".to_owned(), cable)]);
    let name = "h1".to_owned();
    assert_eq!(twice, Err(TopologyError::Duplicate { name }));
}

#[test]
fn racks_are_left_by_their_uplink_only_when_they_have_to_be() {
    let rack = |r: u32| Rack {
        name: format!("rack{r}"),
        uplink: Cable::default(),
        hosts: (1..=2)
            .map(|h| (format!("r{r}h{h}"), Cable::default()))
            .collect(),
    };
    let topology = Topology::two_tier([rack(1), rack(2)]).unwrap();
    let far = topology.path(HostId(0), HostId(3));
    let expected = ["r1h1-up", "rack1-up", "rack2-down", "r2h2-down"];
    assert_eq!(names(&topology, &far), expected);
    let near = topology.path(HostId(0), HostId(1));
    assert_eq!(names(&topology, &near), ["r1h1-up", "r1h2-down"]);
}

#[test]
fn sites_are_reached_over_the_fewest_cables_then_the_shortest() {
    let site = |name: &str| Site {
        name: name.to_owned(),
        hosts: vec![(format!("{name}1"), delayed(1))],
    };
    let sites = ["a", "b", "c", "d"].map(site);
    // a-b-d takes 2 + 2, a-c-d 1 + 2; b to c has no cable of its own.
    let cables = [
        (0, 1, delayed(2)),
        (1, 3, delayed(2)),
        (0, 2, delayed(1)),
        (2, 3, delayed(2)),
    ];
    let topology = Topology::wan(sites, cables).unwrap();
    let path = topology.path(HostId(0), HostId(3));
    assert_eq!(names(&topology, &path), ["a1-up", "a>c", "c>d", "d1-down"]);
    let path = topology.path(HostId(1), HostId(2));
    assert_eq!(names(&topology, &path), ["b1-up", "b>a", "a>c", "c1-down"]);
    assert_eq!(topology.longest_delay(), Duration::from_millis(1 + 3 + 1));
}

#[test]
fn parts_that_do_not_meet_are_no_network() {
    let site = |name: &str| Site {
        name: name.to_owned(),
        hosts: vec![(format!("{name}1"), Cable::default())],
    };
    let apart = Topology::wan(["a", "b"].map(site), []);
    let (from, to) = ("a1".to_owned(), "b1".to_owned());
    assert_eq!(apart, Err(TopologyError::Unreachable { from, to }));
}

#[test]
fn a_stored_network_is_checked_when_it_is_read() {
    let topology = star(2);
    let text = serde_json::to_string(&topology).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), topology);
    let cut = text.replace(r#""to":{"Host":1}"#, r#""to":{"Host":7}"#);
    assert!(serde_json::from_str::<Topology>(&cut).is_err());
}

#[test]
fn addresses_of_hosts_and_vms_do_not_meet() {
    assert_eq!(host_address(HostId(0)), Ipv4Addr::new(10, 64, 0, 1));
    assert!(host_address(HostId(HOSTS_MAX - 1)) < vm_address(0).unwrap());
    assert!(vm_address(HOSTS_MAX - 1).unwrap() < Ipv4Addr::new(10, 127, 255, 255));
    assert_eq!(vm_address(HOSTS_MAX), None);
}

proptest! {
    /// Any graph is a network whose paths lead where they should without a loop, or is refused.
    #[test]
    fn paths_of_any_graph_end_where_they_should(
        switches in 1..6_u32,
        attached in prop::collection::vec(0..6_u32, 2..8),
        cables in prop::collection::btree_set((0..6_u32, 0..6_u32), 0..12),
    ) {
        let mut builder = Builder::new();
        let places: Vec<Place> = (0..switches).map(|s| builder.switch(format!("s{s}"))).collect();
        for (n, switch) in attached.iter().enumerate() {
            let host = builder.host(format!("h{n}"));
            builder.uplink(host, places[(switch % switches) as usize], Cable::default());
        }
        let mut seen = BTreeSet::new();
        for (a, b) in cables {
            let (a, b) = (a % switches, b % switches);
            if a != b && seen.insert((a.min(b), a.max(b))) {
                builder.cable(places[a as usize], places[b as usize], Cable::default());
            }
        }
        let Ok(topology) = builder.finish() else { return Ok(()) };
        for (from, _) in topology.hosts() {
            for (to, _) in topology.hosts().filter(|(to, _)| *to != from) {
                let path = topology.path(from, to);
                let unique: BTreeSet<_> = path.iter().collect();
                prop_assert_eq!(unique.len(), path.len());
                prop_assert_eq!(topology.link(path[0]).from, Place::Host(from));
                prop_assert_eq!(topology.link(*path.last().unwrap()).to, Place::Host(to));
                for pair in path.windows(2) {
                    prop_assert_eq!(topology.link(pair[0]).to, topology.link(pair[1]).from);
                }
            }
        }
    }
}
