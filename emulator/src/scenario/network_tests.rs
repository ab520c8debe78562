//! Networks in scenario files: topologies, links, what happens to them, and what mistakes print.

mod documented;
mod events;
mod mistakes;

use super::*;
use netmodel::backend::BackendKind;
use netmodel::link::{Distribution, GilbertElliott, LinkSpec, Loss};
use netmodel::topology::LinkId;
use netmodel::units::ByteSize;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What every scenario needs beside its network: `count` hosts h1, h2, …, and a VM.
fn with_hosts(network: &str, count: u32) -> String {
    format!(
        "duration = \"100s\"\n{network}\n[[hosts]]\nname = \"h\"\ncount = {count}\ncores = 4\nram = \"4GiB\"\n\
         [[vms]]\nname = \"v\"\nram = \"1GiB\"\n"
    )
}

fn parsed(text: &str) -> Scenario {
    parse(Path::new("x.toml"), text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    match parse(Path::new("bad.toml"), text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

fn path(scenario: &Scenario, from: u32, to: u32) -> Vec<String> {
    let path = scenario.network.path(HostId(from), HostId(to));
    path.into_iter().map(|link| link.name.clone()).collect()
}

fn spec(scenario: &Scenario, link: &str) -> LinkSpec {
    let link = scenario.network.topology.link_named(link);
    link.unwrap_or_else(|| panic!("no such link")).spec
}

fn bps(scenario: &Scenario, link: &str) -> u64 {
    spec(scenario, link).rate.unwrap().bps()
}

/// A link's spec from an instant on.
fn at(scenario: &Scenario, link: &str, ns: u64) -> LinkSpec {
    let link = scenario.network.topology.link_named(link).unwrap();
    let changed = scenario.network.schedule.at(ns);
    changed.get(&link.id).copied().unwrap_or(link.spec)
}

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

#[test]
fn every_property_of_a_link_can_be_said_for_each_direction() {
    let scenario = parsed(&with_hosts(
        r#"
        [network]
        link = { rate = "100Mbit", delay = "5ms", jitter = "1ms", loss = "0.1%", queue = "512KB", ecn = "30KB", overhead_bytes = 14, super_frame = "1ms", up = { jitter = { spread = "2ms", distribution = "normal", reorder = true } }, down = { rate = "50%", loss = { good_to_bad = "1%", bad_to_good = "30%" }, ecn = "off" } }
        "#,
        2,
    ));
    let (up, down) = (spec(&scenario, "h1-up"), spec(&scenario, "h1-down"));
    assert_eq!(bps(&scenario, "h1-up"), 100_000_000);
    assert_eq!(bps(&scenario, "h1-down"), 50_000_000);
    assert_eq!(up.jitter.spread, Duration::from_millis(2));
    assert_eq!(
        (up.jitter.distribution, up.jitter.reorder),
        (Distribution::Normal, true)
    );
    assert_eq!(down.jitter.spread, Duration::from_millis(1));
    assert_eq!(
        (down.jitter.distribution, down.jitter.reorder),
        (Distribution::Uniform, false)
    );
    let share = |text: &str| text.parse().unwrap();
    assert_eq!(up.loss, Loss::Independent(share("0.1%")));
    let states = GilbertElliott {
        good_to_bad: share("1%"),
        bad_to_good: share("30%"),
        loss_in_bad: share("100%"),
        loss_in_good: share("0%"),
    };
    assert_eq!(down.loss, Loss::GilbertElliott(states));
    assert_eq!(up.ecn_threshold.unwrap().bytes(), 30_000);
    assert_eq!(down.ecn_threshold, None);
    assert_eq!((up.overhead_bytes, down.overhead_bytes), (14, 14));
    // A millisecond of 100 and of 50 Mbit/s.
    assert_eq!((up.gso_bytes(), down.gso_bytes()), (12_500, 6_250));
}

#[test]
fn buffers_are_the_kernels_unless_they_are_given_and_scale_with_space() {
    let of = |given: &str| with_hosts(&format!("[network]\n{given}\n"), 2);
    assert_eq!(parsed(&of("")).network.send_buffer, None);
    let given = parsed(&of("send_buffer = \"2MiB\""));
    let bytes = ByteSize::from_bytes;
    assert_eq!(given.network.send_buffer, Some(bytes(2 << 20)));
    assert!(explain(&given).contains(", send buffers to begin with 2 MiB"));
    let carried = scale::apply(&given, 4).unwrap();
    assert_eq!(carried.network.send_buffer, Some(bytes(512 << 10)));
    let limits = parsed(&of(
        "send_buffer_max = \"4MiB\"\nreceive_buffer_max = \"32MiB\"",
    ));
    let network = &limits.network;
    let both = (network.send_buffer_max, network.receive_buffer_max);
    assert_eq!(both, (Some(bytes(4 << 20)), Some(bytes(32 << 20))));
    let said = ", send buffers at most 4 MiB, receive buffers at most 32 MiB";
    assert!(explain(&limits).contains(said));
    let carried = scale::apply(&limits, 4).unwrap().network;
    let both = (carried.send_buffer_max, carried.receive_buffer_max);
    assert_eq!(both, (Some(bytes(1 << 20)), Some(bytes(8 << 20))));
    let text = refused(&of("send_buffer = \"1KiB\""));
    assert!(text.contains("from 4KiB up to 1GiB"), "{text}");
}

#[test]
fn a_thousand_hosts_in_racks_take_a_few_lines() {
    let scenario = parsed(&with_hosts(
        r#"
        [network]
        topology = "two-tier"
        link = { rate = "1Gbit", down = { rate = "500Mbit" } }
        racks = 25
        oversubscription = 4
        uplink = { delay = "50us", queue = "2MB" }
        "#,
        1000,
    ));
    let topology = &scenario.network.topology;
    assert_eq!(
        (topology.host_count(), topology.switches().len()),
        (1000, 26)
    );
    // 40 hosts a rack.
    assert_eq!(bps(&scenario, "rack1-up"), 10_000_000_000);
    assert_eq!(bps(&scenario, "rack25-down"), 5_000_000_000);
    assert_eq!(spec(&scenario, "rack7-up").queue.bytes(), 2_000_000);
    assert_eq!(path(&scenario, 0, 39), ["h1-up", "h40-down"]);
    assert_eq!(
        path(&scenario, 0, 40),
        ["h1-up", "rack1-up", "rack2-down", "h41-down"]
    );
    // Hosts keep their numbers, and links begin with theirs.
    assert_eq!(topology.host("h1000"), Some(net_host(HostId(999))));
    assert_eq!(topology.link(LinkId(3)).name, "h2-down");
}

const RACKS: &str = r#"
[network]
topology = "two-tier"
link = { rate = "1Gbit" }
oversubscription = 2

[[network.racks]]
name = "a"
hosts = ["h1", "big"]
uplink = { rate = "5Gbit" }

[[network.racks]]
name = "b"
hosts = 2

[[network.racks]]
name = "c"
count = 2
oversubscription = 1

[[hosts]]
name = "big"
count = 2
cores = 8
ram = "8GiB"
link = { rate = "10Gbit" }

[[hosts]]
name = "own"
cores = 8
ram = "8GiB"
at = "b"

[[hosts]]
name = "round"
count = 3
cores = 8
ram = "8GiB"
at = ["a", "b"]
"#;

/// [`RACKS`] with five more hosts.
fn racks() -> String {
    let rest = with_hosts("", 5).replacen("duration = \"100s\"\n", "", 1);
    format!("duration = \"100s\"\n{RACKS}{rest}")
}

#[test]
fn hosts_go_where_they_are_named_counted_or_dealt() {
    let scenario = parsed(&racks());
    let topology = &scenario.network.topology;
    let of = |rack: &str| {
        let index = topology
            .switches()
            .iter()
            .position(|name| name == rack)
            .unwrap();
        let here = |link: &netmodel::topology::Place| match link {
            netmodel::topology::Place::Switch(switch) => switch.0 as usize == index,
            netmodel::topology::Place::Host(_) => false,
        };
        let hosts = topology
            .hosts()
            .filter(|(id, _)| here(&topology.uplink(*id).to));
        hosts.map(|(_, name)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), ["big1", "big2", "round1", "round3", "h1"]);
    assert_eq!(of("b"), ["own", "round2", "h2", "h3"]);
    assert_eq!(
        (of("c1"), of("c2")),
        (vec!["h4".to_owned()], vec!["h5".to_owned()])
    );
    assert_eq!(bps(&scenario, "a-up"), 5_000_000_000);
    assert_eq!(bps(&scenario, "b-up"), 2_000_000_000);
    assert_eq!(bps(&scenario, "c1-down"), 1_000_000_000);
}

const WAN: &str = r#"
[network]
topology = "wan"
link = { rate = "1Gbit" }

[network.internet]
at = "tokyo"
link = { rate = "50Mbit", delay = "10ms" }

[[network.sites]]
name = "paris"
hosts = 2

[[network.sites]]
name = "tokyo"
hosts = ["h3", "h4"]

[[network.cables]]
between = ["paris", "tokyo"]
link = { rate = "100Mbit", delay = "20ms", down = { rate = "50Mbit" } }

[[flows]]
from = "internet"
to = "v"
rate = "elastic"
"#;

#[test]
fn sites_have_cables_and_an_internet_beyond() {
    let scenario = parsed(&with_hosts(WAN, 4));
    assert_eq!(path(&scenario, 0, 2), ["h1-up", "paris>tokyo", "h3-down"]);
    assert_eq!(bps(&scenario, "paris>tokyo"), 100_000_000);
    assert_eq!(bps(&scenario, "tokyo>paris"), 50_000_000);
    assert_eq!(scenario.network.internet, Some(HostId(4)));
    let expected = ["internet-up", "tokyo>paris", "h1-down"];
    assert_eq!(path(&scenario, 4, 0), expected);
    assert_eq!(scenario.flows[0].from, Endpoint::Internet);
    assert_eq!(scenario.hosts.len(), 4);
    assert_eq!(scenario.network.outside_name(HostId(4)), Some("internet"));
    let text = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
}

#[test]
fn graphs_are_routed_along_the_fewest_cables() {
    let ring = r#"
        [network]
        topology = "graph"
        [[network.switches]]
        name = "s"
        count = 5
        [[network.cables]]
        between = [["s1", "s2"], ["s2", "s3"], ["s3", "s4"], ["s4", "s5"], ["s5", "s1"]]
        link = { rate = "1Gbit" }
    "#;
    let text = with_hosts(ring, 5).replacen(
        "count = 5\ncores",
        "count = 5\nat = [\"s1\", \"s2\", \"s3\", \"s4\", \"s5\"]\ncores",
        1,
    );
    let scenario = parsed(&text);
    assert_eq!(
        path(&scenario, 0, 3),
        ["h1-up", "s1>s5", "s5>s4", "h4-down"]
    );
    assert_eq!(
        path(&scenario, 3, 1),
        ["h4-up", "s4>s3", "s3>s2", "h2-down"]
    );
}

/// A right network to make mistakes in.
#[derive(Clone, Copy)]
enum Good {
    Wan,
    Racks,
}

/// A text with a replacement that must be made.
fn replaced(good: &str, old: &str, new: &str) -> String {
    assert!(good.contains(old), "{old}");
    good.replacen(old, new, 1)
}

#[test]
fn k_divides_links_of_every_topology_and_what_happens_to_them() {
    let text = with_hosts(WAN, 4)
        .replacen("duration", "scale = 2\nduration", 1)
        .replacen(
            "rate = \"100Mbit\", delay",
            "rate = \"100Mbit\", ecn = \"40KB\", delay",
            1,
        )
        + "[[events]]\nat = \"1s\"\nlink = \"paris>tokyo\"\nrate = \"50%\"\n";
    let full = parsed(&text);
    let carried = scale::apply(&full, 2).unwrap();
    assert_eq!(bps(&carried, "paris>tokyo"), 50_000_000);
    assert_eq!(
        at(&carried, "paris>tokyo", S).rate.unwrap().bps(),
        25_000_000
    );
    assert_eq!(
        spec(&carried, "paris>tokyo").ecn_threshold.unwrap().bytes(),
        20_000
    );
    assert_eq!(
        spec(&carried, "paris>tokyo").delay,
        Duration::from_millis(20)
    );
    assert_eq!(bps(&carried, "internet-down"), 25_000_000);
    let refused = scale::apply(&full, 30);
    assert!(
        matches!(refused, Err(scale::ScaleError::Queue { .. })),
        "{refused:?}"
    );
}

/// Everything networks can be told, for damage.
fn everything() -> String {
    with_hosts(WAN, 4)
        + r#"
[[link_traces]]
link = "h1-up"
file = "t.csv"
at = "3s"
loop = true
[[events]]
at = "1s"
links = ["paris>tokyo", "h1-up"]
rate = "50%"
jitter = { spread = "1ms", distribution = "pareto", reorder = true }
loss = { good_to_bad = "1%", bad_to_good = "30%", loss_in_bad = "90%", loss_in_good = "0%" }
ecn = "off"
[[events]]
at = "10s"
host = "internet"
flap = { period = "2s", down = "200ms", until = "60s" }
[[events]]
at = "20s"
partition = { group = ["paris", "h3"], heal_at = "30s" }
[[events]]
at = "40s"
link = "tokyo>paris"
down = true
"#
}

proptest! {
    #[test]
    fn any_damage_to_a_network_gives_a_scenario_or_an_error(
        cuts in prop::collection::vec((0..3000usize, 0..12usize, "[a-z0-9.%>\\[\\]{}=\" \n]{0,6}"), 1..4),
        racked: bool,
    ) {
        let mut text = if racked { racks() } else { everything() };
        for (at, len, new) in cuts {
            let at = at % text.len();
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &new);
        }
        if let Err(error) = parse(Path::new("x.toml"), &text) {
            prop_assert!(error.to_string().contains("x.toml:"));
        }
    }

    /// Lines left out or said twice: what is missing or doubled is found, and nothing panics.
    #[test]
    fn any_lines_of_a_network_give_a_scenario_or_an_error(
        times in prop::collection::vec(prop_oneof![8 => Just(1usize), 1 => Just(0), 1 => Just(2)], 120),
        racked: bool,
    ) {
        let text = if racked { racks() } else { everything() };
        let lines = text.lines().zip(times.iter().cycle());
        let text: String = lines.map(|(line, n)| format!("{line}\n").repeat(*n)).collect();
        if let Err(error) = parse(Path::new("x.toml"), &text) {
            prop_assert!(error.to_string().contains("x.toml:"));
        }
    }
}
