//! What is refused, and where.

use super::*;

/// What is replaced in a right network, and what is said of it: the mistake and the remedy.
type Mistake = (Good, &'static str, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    (
        Good::Wan,
        "\"paris\", \"tokyo\"]",
        "\"paris\", \"tokio\"]",
        "`between`: there is no site `tokio`",
        "did you mean `tokyo`?",
    ),
    (
        Good::Wan,
        "between = [\"paris\", \"tokyo\"]",
        "between = [\"paris\"]",
        "`between` is a list of 1, expected two names",
        "",
    ),
    (
        Good::Wan,
        "[\"paris\", \"tokyo\"]",
        "[\"tokyo\", \"tokyo\"]",
        "`between` is both ends of the cable, expected another place",
        "",
    ),
    (
        Good::Wan,
        "between = [\"paris\", \"tokyo\"]",
        "between = [[\"paris\", \"tokyo\"], [\"tokyo\", \"paris\"]]",
        "two cables between `tokyo` and `paris`",
        "the rate of both",
    ),
    (
        Good::Wan,
        "[\"h3\", \"h4\"]",
        "[\"h3\", \"h4\", \"h3\"]",
        "host `h3` is in site `tokyo` already",
        "name each host once",
    ),
    (
        Good::Wan,
        "[\"h3\", \"h4\"]",
        "[\"h3\"]",
        "host `h4` is in no site",
        "list it in the `hosts` of a site",
    ),
    (
        Good::Wan,
        "[\"h3\", \"h4\"]",
        "3",
        "site `tokyo` is to have 3 hosts, and only 2 are left",
        "declare more",
    ),
    (
        Good::Wan,
        "[\"h3\", \"h4\"]",
        "[\"h3\", \"g4\"]",
        "there is no host `g4`",
        "there are:",
    ),
    (
        Good::Wan,
        "at = \"tokyo\"",
        "",
        "[network.internet] needs `at`",
        "write for example",
    ),
    (
        Good::Wan,
        "name = \"v\"",
        "name = \"internet\"",
        "`internet` is the name of the endpoint",
        "another name",
    ),
    (
        Good::Wan,
        "name = \"paris\"",
        "name = \"h1\"",
        "there are two places called `h1`",
        "the first is on line",
    ),
    (
        Good::Wan,
        "name = \"paris\"",
        "name = \"tokyo\"",
        "there are two sites called `tokyo`",
        "the first is on line",
    ),
    (
        Good::Wan,
        "topology = \"wan\"",
        "topology = \"wam\"",
        "there is no topology `wam`",
        "did you mean `wan`?",
    ),
    (
        Good::Wan,
        "topology = \"wan\"",
        "topology = \"star\"",
        "`sites` is for \"wan\", and this network is a `star`",
        "say `topology`",
    ),
    (
        Good::Racks,
        "name = \"b\"",
        "name = \"core\"",
        "`core` is the name of the switch between the racks",
        "another name",
    ),
    (
        Good::Racks,
        "name = \"c\"\ncount = 2",
        "name = \"c\"\ncount = 3",
        "rack `c3` has no hosts",
        "leave it out",
    ),
    (
        Good::Racks,
        "at = \"b\"",
        "at = \"zz\"",
        "`at`: there is no rack `zz`",
        "there are:",
    ),
    (
        Good::Racks,
        "link = { rate = \"1Gbit\" }",
        "",
        "`oversubscription` is 2, expected a `rate` for every link into rack `b`",
        "",
    ),
    (
        Good::Racks,
        "uplink = { rate = \"5Gbit\" }",
        "uplink = { rate = \"5Gbit\" }\noversubscription = 3",
        "`uplink` needs exactly one of a `rate`",
        "",
    ),
];

#[test]
fn mistakes_in_networks_are_shown_at_their_spots() {
    let (wan, racks) = (with_hosts(WAN, 4), racks());
    for (good, old, new, title, help) in MISTAKES {
        let good = match good {
            Good::Wan => &wan,
            Good::Racks => &racks,
        };
        let shown = refused(&replaced(good, old, new));
        assert!(shown.contains(title), "{new}: no {title} in\n{shown}");
        assert!(shown.contains(help), "{new}: no {help} in\n{shown}");
        assert!(shown.contains(" --> bad.toml:"), "{shown}");
    }
}

#[test]
fn parts_that_no_cable_joins_are_pointed_at() {
    let cable = "[[network.cables]]\nbetween = [\"paris\", \"tokyo\"]\nlink = { rate = \"100Mbit\", delay = \"20ms\", down = { rate = \"50Mbit\" } }";
    let text = with_hosts(WAN, 4);
    let text = text.replacen(cable, "", 1);
    let shown = refused(&text);
    assert!(
        shown.contains("no cables lead from site `paris` to site `tokyo`"),
        "{shown}"
    );
    assert!(shown.contains("bad.toml:16:8"), "{shown}");
}

#[test]
fn links_are_refused_where_they_are_said() {
    let star = with_hosts(
        "[network]\nlink = { rate = \"1Gbit\", ecn = \"30KB\" }\n",
        3,
    );
    for (old, new, title) in [
        (
            "30KB",
            "600KB",
            "link h1-up: its `ecn` is 600KB with a queue of 512KiB, expected less",
        ),
        (
            "30KB",
            "1KB",
            "link h1-up: at k = 1 its `ecn` of 1000 B is less than one segment",
        ),
        (
            "ecn = \"30KB\"",
            "jitter = \"61s\"",
            "`jitter` is 1m 1s, expected a one-way delay of at most 60s",
        ),
        (
            "ecn = \"30KB\"",
            "jitter = { distribution = \"normal\" }",
            "jitter needs `spread`",
        ),
        (
            "ecn = \"30KB\"",
            "jitter = { spread = \"1ms\", distribution = \"gauss\" }",
            "there is no distribution `gauss`",
        ),
        (
            "ecn = \"30KB\"",
            "loss = \"0.1\"",
            "`loss`: `` in `0.1` is not a unit of probability",
        ),
        (
            "ecn = \"30KB\"",
            "loss = { good_to_bad = \"1%\" }",
            "loss needs `bad_to_good`",
        ),
        (
            "ecn = \"30KB\"",
            "los = \"1%\"",
            "unknown key `los` in link",
        ),
        (
            "rate = \"1Gbit\"",
            "rate = \"50%\"",
            "`link`: its rate is unshaped, and 50% of that",
        ),
    ] {
        let shown = refused(&replaced(&star, old, new));
        assert!(shown.contains(title), "{new}: no {title} in\n{shown}");
        assert!(shown.contains("bad.toml:3:"), "{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{shown}");
    }
}

#[test]
fn what_a_backend_cannot_carry_is_refused_at_its_link_or_event() {
    let star = with_hosts(
        "[network]\nbackend = \"htb\"\nlink = { rate = \"1Gbit\" }\n[[events]]\nat = \"1s\"\nhost = \"h1\"\nrate = \"50%\"\n",
        3,
    );
    assert_eq!(parsed(&star).network.backend_name(), "htb");
    let shown = refused(&replaced(&star, "rate = \"1Gbit\"", "delay = \"1ms\""));
    assert!(
        shown.contains("backend `htb` cannot give link h1-up a delay; `netem` and `relay` can"),
        "{shown}"
    );
    assert!(shown.contains("bad.toml:4:8"), "{shown}");
    let shown = refused(&replaced(&star, "rate = \"50%\"", "loss = \"1%\""));
    assert!(
        shown.contains("backend `htb` cannot give link h1-up loss"),
        "{shown}"
    );
    assert!(shown.contains("bad.toml:5:1"), "{shown}");
    let scenario = parsed(&replaced(&star, "\"htb\"", "\"auto\""));
    assert!(scenario.network.check(BackendKind::Htb).is_ok());
}
