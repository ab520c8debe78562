//! What happens to networks: events and traces of links.

use super::*;

/// Three hosts on a star, and what happens to their links.
fn eventful(events: &str) -> String {
    with_hosts(
        &format!("[network]\nlink = {{ rate = \"1Gbit\", delay = \"1ms\" }}\n{events}"),
        3,
    )
}

#[test]
fn events_change_what_holds_at_their_instants() {
    let scenario = parsed(&eventful(
        r#"
        [[events]]
        at = "10s"
        links = ["h1-up", "h2-down"]
        rate = "50%"
        [[events]]
        at = "20s"
        host = "h1"
        rate = "50%"
        delay = "300%"
        loss = "1%"
        [[events]]
        at = "30s"
        link = "h1-up"
        down = true
        [[events]]
        at = "40s"
        link = "h1-up"
        up = true
        rate = "unshaped"
        "#,
    ));
    let rate = |link: &str, s: u64| {
        at(&scenario, link, s * S)
            .rate
            .map(|rate| rate.bps() / 1_000_000)
    };
    assert_eq!(rate("h1-up", 9), Some(1000));
    assert_eq!(
        (rate("h1-up", 10), rate("h2-down", 10), rate("h2-up", 10)),
        (Some(500), Some(500), Some(1000))
    );
    assert_eq!(
        (rate("h1-up", 20), rate("h1-down", 20)),
        (Some(250), Some(500))
    );
    assert_eq!(
        at(&scenario, "h1-down", 20 * S).delay,
        Duration::from_millis(3)
    );
    assert!(!at(&scenario, "h1-up", 35 * S).up && at(&scenario, "h1-up", 40 * S).up);
    assert_eq!(rate("h1-up", 40), None);
    assert_eq!(scenario.network.schedule.changes().len(), 6);
}

#[test]
fn flaps_and_partitions_overlap_without_ending_each_other() {
    let scenario = parsed(&eventful(
        r#"
        [[events]]
        at = "10s"
        host = "h1"
        flap = { period = "2s", down = "200ms", until = "21s" }
        [[events]]
        at = "11s"
        partition = { group = ["h1"], heal_at = "15s" }
        [[events]]
        at = "12s"
        host = "h1"
        rate = "10%"
        "#,
    ));
    let up = |ms: u64| at(&scenario, "h1-down", ms * MS).up;
    assert!(up(9_999) && !up(10_000) && up(10_200) && !up(11_000) && !up(12_300));
    assert!(!up(14_999) && up(15_000) && !up(16_000) && up(16_200));
    assert!(!up(20_000) && up(20_200) && up(22_000));
    assert_eq!(
        at(&scenario, "h1-down", 16 * S).rate.unwrap().bps(),
        100_000_000
    );
    let others = scenario.network.schedule.changes().iter();
    let others = others.filter(|change| change.link > LinkId(1)).count();
    assert_eq!(others, 0);
}

#[test]
fn a_partition_takes_racks_sites_and_the_internet_by_name() {
    let text = with_hosts(WAN, 4)
        + "[[events]]\nat = \"1s\"\npartition = { group = [\"paris\"] }\n\
           [[events]]\nat = \"2s\"\npartition = { group = [\"internet\", \"h3\"] }\n";
    let scenario = parsed(&text);
    let cut = |s: u64| {
        let now = scenario
            .network
            .schedule
            .settled(s * S - 1, s * S)
            .into_keys();
        let names = now.map(|id| scenario.network.topology.link(id).name.as_str());
        names.collect::<Vec<_>>()
    };
    assert_eq!(cut(1), ["paris>tokyo", "tokyo>paris"]);
    assert_eq!(cut(2), ["h3-up", "h3-down", "internet-up", "internet-down"]);
}

/// An event, and what is said of it: the mistake and the remedy.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "link = \"h1-upp\"\nrate = \"50%\"",
        "`link`: there is no link `h1-upp`",
        "did you mean `h1-up`?",
    ),
    (
        "host = \"x\"\nrate = \"50%\"",
        "`host`: there is no host `x`",
        "there are: `h1`, `h2`, `h3`",
    ),
    (
        "link = \"h1-up\"",
        "`[[events]]` needs exactly one of a change",
        "",
    ),
    (
        "rate = \"50%\"",
        "`[[events]]` needs exactly one of `link`, `links` and `host`",
        "",
    ),
    (
        "link = \"h1-up\"\nhost = \"h1\"\nrate = \"50%\"",
        "`host` needs exactly one of `link`",
        "",
    ),
    (
        "link = \"h1-up\"\ndown = true\nup = true",
        "`[[events]]` needs exactly one of",
        "",
    ),
    (
        "link = \"h1-up\"\ndown = false",
        "`down` is false, expected `down = true`",
        "",
    ),
    (
        "link = \"h1-up\"\nrate = \"50\"",
        "`rate`: `` in `50` is not a unit of rate",
        "accepted: a rate in bits",
    ),
    (
        "link = \"h1-up\"\nrate = \"0%\"",
        "link h1-up: 0% of its rate, 1000000000 bit/s, is nothing",
        "with its unit",
    ),
    (
        "link = \"h1-up\"\nqueue = \"3%\"",
        "holds 10 segments of 1538 B",
        "give the link a `queue`",
    ),
    (
        "link = \"h1-up\"\necn = \"50%\"",
        "link h1-up: it marks nothing, and there is no threshold",
        "",
    ),
    (
        "link = \"h1-up\"\ndelay = \"100000000%\"",
        "is no percentage",
        "",
    ),
    (
        "flap = { period = \"2s\", down = \"200ms\" }\nlink = \"h1-up\"\nrate = \"1Gbit\"",
        "`[[events]]` needs exactly one of",
        "",
    ),
    (
        "link = \"h1-up\"\nflap = { period = \"1s\", down = \"1s\" }",
        "`down` is 1s, expected less than `period`",
        "",
    ),
    (
        "link = \"h1-up\"\nflap = { period = \"1us\", down = \"1ns\" }",
        "180000000 changes of links are more than the 100000",
        "end flaps and traces sooner",
    ),
    (
        "link = \"h1-up\"\nflap = { period = \"1s\", down = \"1ms\", until = \"10s\" }",
        "`until` is 10s, expected after `at`, 10s",
        "",
    ),
    (
        "link = \"h1-up\"\npartition = { group = [\"h1\"] }",
        "a `partition` finds the links",
        "leave this out",
    ),
    (
        "partition = { group = [\"h1\", \"rack\"] }",
        "`group`: there is no host `rack`",
        "there are",
    ),
    (
        "partition = { group = [\"h\", \"switch\"] }",
        "`group` is everything, expected some",
        "",
    ),
    (
        "partition = { group = [] }",
        "`group` is empty, expected some",
        "",
    ),
    (
        "partition = { group = [\"h1\"], heal_at = \"1s\" }",
        "`heal_at` is 1s, expected after `at`, 10s",
        "",
    ),
    (
        "partition = { grup = [\"h1\"] }",
        "unknown key `grup` in partition",
        "did you mean `group`?",
    ),
];

#[test]
fn mistakes_in_events_are_shown_at_their_spots() {
    for (event, title, help) in MISTAKES {
        let text = eventful(&format!("[[events]]\nat = \"10s\"\n{event}\n"));
        let shown = refused(&text);
        assert!(shown.contains(title), "{event}: no {title} in\n{shown}");
        assert!(shown.contains(help), "{event}: no {help} in\n{shown}");
        let line = shown
            .split("bad.toml:")
            .nth(1)
            .unwrap()
            .split(':')
            .next()
            .unwrap();
        assert!((4..10).contains(&line.parse::<u32>().unwrap()), "{shown}");
    }
    let late = eventful("[[events]]\nat = \"100s\"\nhost = \"h1\"\ndown = true\n");
    assert!(refused(&late).contains("`at` is 1m 40s, expected before the end at 1m 40s"));
}

/// A star in a folder, with the trace of a link.
fn traced(folder: &Path, trace: &str, more: &str) -> PathBuf {
    fs::write(folder.join("t.csv"), trace).unwrap();
    let text = eventful(&format!(
        "[[link_traces]]\nlink = \"h1-up\"\nfile = \"t.csv\"\n{more}"
    ));
    let path = folder.join("s.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn links_follow_traces_and_events_follow_them() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "t_s,rate_mbit,delay_ms,up\n0,100,2,1\n5,50,,0\n10,200,3,1\n";
    let event = "loop = true\n[[events]]\nat = \"5s\"\nlink = \"h1-up\"\nrate = \"50%\"\n";
    let scenario = load(&traced(folder.path(), rows, event)).unwrap().scenario;
    // What a trace says of the beginning is the link the network is made with.
    assert_eq!(bps(&scenario, "h1-up"), 100_000_000);
    assert_eq!(spec(&scenario, "h1-up").delay, Duration::from_millis(2));
    let rate = |s: u64| at(&scenario, "h1-up", s * S).rate.unwrap().bps() / 1_000_000;
    assert_eq!(
        (rate(4), rate(5), rate(10), rate(15), rate(20)),
        (100, 25, 200, 100, 50)
    );
    let up = |s: u64| at(&scenario, "h1-up", s * S).up;
    assert!(up(4) && !up(5) && up(10) && !up(20));
}

#[test]
fn traces_of_links_that_cannot_be_used_are_shown_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |trace: &str, more: &str| match load(&traced(folder.path(), trace, more)) {
        Ok(_) => panic!("accepted {trace}"),
        Err(error) => error.to_string(),
    };
    let text = shown("t_s,rate_mbit\n1,10\n2,ten\n", "");
    assert!(
        text.contains("t.csv: line 3: column `rate_mbit`: `ten` is no number"),
        "{text}"
    );
    assert!(text.contains("s.toml:6:8"), "{text}");
    let text = shown("t_s,delay_ms\n1,70000\n", "");
    assert!(
        text.contains("link h1-up: its delay is 1m 10s, expected at most 60s"),
        "{text}"
    );
    let text = shown("t_s,up\n1,1\n", "loop = true\n");
    assert!(
        text.contains("t.csv has one row: there is nothing to repeat"),
        "{text}"
    );
    let text = shown("t_s,up\n1,1\n", "format = \"csw\"\n");
    assert!(text.contains("there is no format `csw`"), "{text}");
    let text = shown("", "file = \"u.csv\"\n");
    assert!(text.contains("s.toml:"), "{text}");
    let path = traced(folder.path(), "", "");
    fs::remove_file(folder.path().join("t.csv")).unwrap();
    let text = load(&path).unwrap_err().to_string();
    assert!(text.contains("t.csv: cannot read: No such file"), "{text}");
    assert!(text.contains("from the folder of the scenario"), "{text}");
}

#[test]
fn links_send_when_packet_delivery_traces_let_them() {
    let folder = tempfile::tempdir().unwrap();
    // Three opportunities of 1504 bytes in 2 ms: 18.048 Mbit/s.
    let trace = "1\n2\n2\n";
    let path = traced(folder.path(), trace, "format = \"mahimahi\"\n");
    let shown = load(&path).unwrap_err().to_string();
    assert!(
        shown.contains("link `h1-up` has a rate and a packet-delivery trace"),
        "{shown}"
    );
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replacen("rate = \"1Gbit\", ", "", 1);
    fs::write(&path, &text).unwrap();
    let scenario = load(&path).unwrap().scenario;
    let link = scenario.network.topology.link_named("h1-up").unwrap();
    assert_eq!(
        link.delivery.as_ref().unwrap().mean_rate().bps(),
        18_048_000
    );
    assert!(explain(&scenario).contains("sends as its trace, "));
    let carried = scale::apply(&scenario, 3).unwrap();
    let link = carried.network.topology.link_named("h1-up").unwrap();
    assert_eq!(link.delivery.as_ref().unwrap().opportunities(), 1);
    for (old, new, title) in [
        (
            "\"mahimahi\"",
            "\"mahimahi\"\nloop = true",
            "`loop` has no meaning for a `mahimahi` trace",
        ),
        (
            "[network]",
            "[network]\nbackend = \"netem\"",
            "backend `netem` cannot give link h1-up a packet-delivery trace",
        ),
        (
            "[[hosts]]",
            "[[events]]\nat = \"1s\"\nlink = \"h1-up\"\nrate = \"1Gbit\"\n[[hosts]]",
            "link h1-up: its rate is 1Gbit, expected none",
        ),
        ("t.csv", "s.toml", "s.toml: line 1: `duration = "),
    ] {
        fs::write(&path, replaced(&text, old, new)).unwrap();
        let shown = load(&path).unwrap_err().to_string();
        assert!(shown.contains(title), "{new}: no {title} in\n{shown}");
    }
}
