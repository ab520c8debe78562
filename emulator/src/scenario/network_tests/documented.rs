//! The documentation and the examples.

use super::*;

/// The names in backticks of a message, from where they are listed.
fn listed(message: &str, from: &str) -> Vec<String> {
    let list = message
        .split(from)
        .nth(1)
        .unwrap_or_else(|| panic!("{message}"));
    let names = list.split('`').skip(1).step_by(2);
    names.map(|name| format!("`{name}`")).collect()
}

#[test]
fn the_documentation_has_every_key_of_networks() {
    let docs = include_str!("../../../../docs/scenario.md");
    let star = with_hosts("[network]\nlink = { rate = \"1Gbit\" }\n", 3);
    for (old, new) in [
        ("[network]", "[network]\n♠ = 1"),
        ("rate =", "♠ = 1, rate ="),
        ("rate = \"1Gbit\"", "jitter = { spread = \"1ms\", ♠ = 1 }"),
        (
            "rate = \"1Gbit\"",
            "loss = { good_to_bad = \"1%\", bad_to_good = \"1%\", ♠ = 1 }",
        ),
        (
            "[[hosts]]",
            "[[events]]\nat = \"1s\"\nhost = \"h1\"\n♠ = 1\n[[hosts]]",
        ),
        (
            "[[hosts]]",
            "[[events]]\nat = \"1s\"\nhost = \"h1\"\nflap = { period = \"2s\", down = \"1s\", ♠ = 1 }\n[[hosts]]",
        ),
        (
            "[[hosts]]",
            "[[events]]\nat = \"1s\"\npartition = { group = [\"h1\"], ♠ = 1 }\n[[hosts]]",
        ),
        (
            "[[hosts]]",
            "[[link_traces]]\nhost = \"h1\"\nfile = \"t\"\n♠ = 1\n[[hosts]]",
        ),
        ("[[hosts]]", "[network.internet]\n♠ = 1\n[[hosts]]"),
        ("cores = 4", "cores = 4\n♠ = 1"),
    ] {
        let keys = listed(
            &refused(&replaced(&star, old, &new.replace('♠', "\"♠\""))),
            "known here: ",
        );
        assert!(!keys.is_empty());
        for key in keys {
            assert!(docs.contains(&key), "{key} of {new}");
        }
    }
    let columns = netmodel::schedule::Rows::parse("t_s,speed\n", 1).unwrap_err();
    for column in listed(&columns.to_string(), "there are ") {
        assert!(docs.contains(&column), "{column}");
    }
}

#[test]
fn the_examples_can_be_run() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    let rack = load(&folder.join("rack.toml"))
        .unwrap_or_else(|error| panic!("{error}"))
        .scenario;
    let through =
        |m: &PlannedMigration| path(&rack, rack.vms[m.vm.index()].host.0, m.destination.0);
    let paths: Vec<_> = rack.migrations.iter().map(through).collect();
    assert_eq!(paths.len(), 8);
    assert!(
        paths
            .iter()
            .all(|path| path[1..3] == ["rack1-up", "rack2-down"]),
        "{paths:?}"
    );
    assert_eq!(bps(&rack, "rack1-up"), 36_000_000);
    let wan = load(&folder.join("wan.toml"))
        .unwrap_or_else(|error| panic!("{error}"))
        .scenario;
    assert_eq!(
        at(&wan, "paris>tokyo", 12 * S).rate.unwrap().bps(),
        40_000_000
    );
    assert_eq!(wan.flows[0].to, Endpoint::Internet);
}
