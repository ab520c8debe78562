//! Scenario files, right and wrong: what a mistake prints, and what a good file becomes.

mod scaled;
mod traced;

use super::inputs::{Inputs, Needs, vm_key, vm_specs};
use super::*;
use crate::ids::FlowId;
use netmodel::link::LinkSpec;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use traces::content::ContentProfile;

const GOOD: &str = r#"
name = "good"
seed = 7
duration = "2h"
scale = 2
placement = "round-robin"

[network]
congestion = "reno"
link = { rate = "1Gbit", delay = "100us", queue = "512KB", down = { rate = "500Mbit" } }

[[hosts]]
name = "h"
count = 3
cores = 4
ram = "4GiB"

[[hosts]]
name = "big"
cores = 8
ram = "8GiB"
link = { rate = "2.5Gbit" }

[[vms]]
name = "web"
count = 4
vcpus = 2
ram = "512MiB"
resident = "128MiB"
cpu = { cores = 0.4, scale = 1.5 }
writes = { classes = [{ pages = 1000, rate = 0.5, coupling = "time", locality = "sweep" }, { pages = 9, rate = 20, locality = { runs = 3 } }] }
offset = "1s"
stagger = "7s"

[[vms]]
name = "db"
ram = "1GiB"
host = "big"
work = "batch"

[[flows]]
from = "web1"
to = "db"
rate = "50Mbit"

[[flows]]
from = "db"
to = "web2"
rate = "elastic"

[balancer]
policy = "thr-mmt"
interval = "30s"
threshold = 0.7

[migration]
downtime-limit = "50ms"
max-bandwidth = "64MiB/s"
return-path = false

[[migrations]]
at = "10s"
vm = "web1"
to = "big"
"#;

fn good() -> Scenario {
    parse(Path::new("dir/good.toml"), GOOD).unwrap_or_else(|error| panic!("{error}"))
}

/// What a text prints when it is refused.
pub(super) fn refused(text: &str) -> String {
    match parse(Path::new("bad.toml"), text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// [`GOOD`] with a replacement that must be made.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

/// Where a byte of a text is, as messages say it.
fn place(text: &str, offset: usize) -> String {
    let before = &text[..offset];
    let column = offset - before.rfind('\n').map_or(0, |at| at + 1) + 1;
    format!("bad.toml:{}:{column}\n", before.lines().count())
}

#[test]
fn a_good_file_becomes_what_it_says() {
    let scenario = good();
    let names: Vec<_> = scenario
        .hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(names, ["h1", "h2", "h3", "big"]);
    let hosts: Vec<_> = scenario
        .vms
        .iter()
        .map(|vm| (vm.name.as_str(), vm.host.0))
        .collect();
    assert_eq!(
        hosts,
        [
            ("web1", 0),
            ("web2", 1),
            ("web3", 2),
            ("web4", 3),
            ("db", 3)
        ]
    );
    assert_eq!(scenario.vms[3].offset_ns, 22_000_000_000);
    let rate = |link: &LinkSpec| link.rate.unwrap().bps();
    assert_eq!(rate(scenario.network.up(HostId(0))), 1_000_000_000);
    assert_eq!(rate(scenario.network.down(HostId(0))), 500_000_000);
    assert_eq!(rate(scenario.network.down(HostId(3))), 2_500_000_000);
    assert_eq!(scenario.network.up(HostId(3)).queue.bytes(), 512_000);
    assert_eq!(scenario.flows[FlowId(1).index()].rate_bps, None);
    assert_eq!(scenario.balancer.options.get("threshold"), Some(&0.7));
    assert_eq!(scenario.balancer.window_ns, 30_000_000_000);
    assert_eq!(
        (
            scenario.migration.downtime_limit,
            scenario.migration.return_path
        ),
        (50, false)
    );
    assert_eq!(scenario.migration.max_bandwidth, 64 << 20);
    assert_eq!((scenario.scale, scenario.divided_by), (2, 1));
    assert!(explain(&scenario).contains("web1 … web4 (4)"));
}

#[test]
fn a_scenario_survives_json() {
    let scenario = good();
    let text = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_key_meant() {
    let text = refused(
        "duration = \"2h\"\n[[hosts]]\nname = \"h\"\ncroes = 4\ncount = 2\ncores = 2\nram = \"4GiB\"\n",
    );
    let expected = "\
error: unknown key `croes` in [[hosts]]
 --> bad.toml:4:1
  |
4 | croes = 4
  | ^^^^^ unknown key
  |
  = help: did you mean `cores`?";
    assert_eq!(text, expected);
}

#[test]
fn wrong_units_say_what_is_accepted() {
    for (old, new, accepted) in [
        ("\"2h\"", "\"300\"", "a time with its unit"),
        (
            "\"2h\"",
            "300",
            "a bare integer, expected a time with its unit",
        ),
        ("\"1Gbit\"", "\"200MB/s\"", "a rate in bits with its unit"),
        ("\"512KB\"", "\"512Kbit\"", "a size in bytes with its unit"),
        ("\"64MiB/s\"", "\"9Gbit\"", "bytes a second"),
        ("\"4GiB\"", "\"1000B\"", "a multiple of 4KiB"),
        ("\"50ms\"", "\"50us\"", "whole milliseconds"),
        (
            "interval = \"30s\"",
            "interval = \"0s\"",
            "a time above zero",
        ),
        (
            "rate = \"50Mbit\"",
            "rate = \"0bit\"",
            "a rate must be above zero",
        ),
        ("vcpus = 2", "vcpus = 0", "a whole number, 1 to 1024"),
        ("cores = 0.4", "cores = nan", "a number, 0 to 4096"),
    ] {
        let bad = with(old, new);
        let text = refused(&bad);
        // The spot is the value, after the key where the replacement has one.
        let spot = bad.find(new).unwrap() + new.find("= ").map_or(0, |at| at + 2);
        assert!(
            text.contains(&place(&bad, spot)),
            "{new}: another place than in\n{text}"
        );
        assert!(text.contains(accepted), "{new}: no {accepted} in\n{text}");
        assert_eq!(text.matches("error:").count(), 1, "{text}");
    }
}

#[test]
fn several_mistakes_are_reported_at_once_in_order() {
    let text = refused(
        &with("policy = \"thr-mmt\"", "policy = \"thr-mtm\"")
            .replacen("vm = \"web1\"", "vm = \"web9\"", 1)
            .replacen("seed = 7", "sead = 7", 1),
    );
    let titles: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("error"))
        .collect();
    assert_eq!(
        titles,
        [
            "error: unknown key `sead` in the scenario",
            "error: `policy`: there is no policy `thr-mtm`",
            "error: `vm`: there is no VM `web9`",
        ]
    );
    for help in [
        "did you mean `seed`?",
        "did you mean `thr-mmt`?",
        "did you mean `web",
    ] {
        assert!(text.contains(help), "{help} in\n{text}");
    }
}

#[test]
fn policy_options_are_those_of_the_policy() {
    let text = refused(&with("threshold = 0.7", "treshold = 0.7"));
    assert!(
        text.contains("unknown key `treshold` in [balancer]"),
        "{text}"
    );
    assert!(text.contains("did you mean `threshold`?"), "{text}");
    let text = refused(&with("threshold = 0.7", "threshold = 7"));
    assert!(
        text.contains("`threshold` is 7, expected a number, 0.01 to 1"),
        "{text}"
    );
    let text = refused(&with("threshold = 0.7", "moves = 1.5"));
    assert!(text.contains("expected a whole number"), "{text}");
}

#[test]
fn ways_of_pages_are_qemus_and_refused_as_qemu_does() {
    let of = |keys: &str| with("[migration]", &format!("[migration]\n{keys}"));
    let scenario = parse(Path::new("dir/ways.toml"), &of(
        "multifd = true\nmultifd-channels = 4\nmultifd-compression = \"zstd\"\nmultifd-zstd-level = 3\n\
         zero-page-detection = \"legacy\"\nxbzrle-cache-size = \"32MiB\"",
    ))
    .unwrap();
    let params = &scenario.migration;
    assert_eq!((params.multifd.channels, params.multifd.level()), (4, 3));
    assert_eq!(params.channels().len(), 4);
    assert_eq!(params.xbzrle.cache_size, 32 << 20);
    let text = refused(&of("multifd = true\nxbzrle = true"));
    assert!(
        text.contains("Multifd is not compatible with xbzrle"),
        "{text}"
    );
    let text = refused(&of("xbzrle = true\nxbzrle-cache-size = \"48MiB\""));
    assert!(text.contains("a power of two"), "{text}");
    let text = refused(&of("multifd-channels = 256\nmultifd-zlib-level = 10"));
    assert!(
        text.contains("multifd-channels") && text.contains("multifd-zlib-level"),
        "{text}"
    );
    let text = refused(&of("connections = 4"));
    assert!(
        text.contains("engine `qemu` has no `connections`"),
        "{text}"
    );
}

#[test]
fn connections_have_options_that_do_something() {
    let of = |keys: &str| with("[migration]", &format!("[migration]\n{keys}"));
    let probed = of(
        "keep-alive = true\nkeep-alive-count = 3\nkeep-alive-idle = \"10s\"\nkeep-alive-interval = \"2s\"\n\
         user-timeout = \"1500ms\"",
    );
    let params = parse(Path::new("dir/probed.toml"), &probed)
        .unwrap()
        .migration;
    let given = params.sockets.of(params.engine);
    assert!(given.on);
    assert_eq!((given.count, given.idle_s), (Some(3), Some(10)));
    assert_eq!(
        (given.interval_s, given.user_timeout_ms),
        (Some(2), Some(1500))
    );
    let text = refused(&of("keep-alive-idle = \"10s\""));
    assert!(text.contains("nothing without keep-alive = true"), "{text}");
    for wrong in [
        "keep-alive = true\nkeep-alive-idle = \"1500ms\"",
        "keep-alive = true\nkeep-alive-interval = \"10h\"",
        "keep-alive = true\nkeep-alive-count = 128",
        "user-timeout = \"0s\"",
        "user-timeout = \"60d\"",
    ] {
        let text = refused(&of(wrong));
        let key = wrong.rsplit('\n').next().unwrap();
        let key = key.split(' ').next().unwrap();
        assert!(text.contains(key), "{wrong}: {text}");
    }
}

#[test]
fn an_engine_has_its_own_options_only() {
    let text = refused(&with("[migration]", "[migration]\nengine = \"xen\""));
    for key in ["max-bandwidth", "downtime-limit", "return-path"] {
        let told = format!("engine `xen` has no `{key}`");
        assert!(text.contains(&told), "{key} in\n{text}");
    }
    assert!(text.contains("it is an option of qemu, cloud-hypervisor"));
    let text = refused(&with("downtime-limit", "timeout = \"5s\"\ndowntime-limit"));
    assert!(text.contains("engine `qemu` has no `timeout`"), "{text}");
}

#[test]
fn cloud_hypervisors_post_copy_is_an_option_of_it_alone() {
    let (before, rest) = GOOD.split_once("[migration]").unwrap();
    let after = rest.split_once("\n\n").unwrap().1;
    let of = |keys: &str| format!("{before}[migration]\n{keys}\n\n{after}");
    let read = |keys| parse(Path::new("dir/ways.toml"), &of(keys)).unwrap();
    let engine = "engine = \"cloud-hypervisor\"\n";
    let on_demand = format!("{engine}memory-mode = \"postcopy\"\nconnections = 4");
    let params = read(&on_demand).migration;
    assert!(params.pages_on_demand() && params.may_postcopy());
    // The original takes `connections`, and has one.
    assert!(params.channels().is_empty());
    assert_eq!(params.postcopy.stall_timeout, 120_000);
    let stall = format!("{on_demand}\npostcopy-stall-timeout = \"3s\"");
    assert_eq!(read(&stall).migration.postcopy.stall_timeout, 3000);
    assert!(!read(engine).migration.may_postcopy());
    let text = refused(&of("memory-mode = \"postcopy\""));
    assert!(
        text.contains("engine `qemu` has no `memory-mode`"),
        "{text}"
    );
    let text = refused(&of(&format!("{engine}memory-mode = \"postcpy\"")));
    assert!(text.contains("did you mean `postcopy`?"), "{text}");
}

#[test]
fn impossible_placements_give_figures() {
    let text = refused(&with("ram = \"1GiB\"\nhost", "ram = \"9GiB\"\nhost"));
    assert!(
        text.contains("VM `db` needs 9 GiB of RAM, but its host `big` has 8 GiB left of 8 GiB"),
        "{text}"
    );
    assert!(text.contains("bad.toml:36:8"), "{text}");
    let text = refused(&with("ram = \"512MiB\"", "ram = \"5GiB\""));
    assert!(
        text.contains("VM `web2` needs 5 GiB of RAM, but the emptiest host"),
        "{text}"
    );
    let high = "resident = \"128MiB\"\nresident_high = \"129MiB\"";
    let text = refused(&with("resident = \"128MiB\"", high));
    assert!(
        text.contains("`resident_high` is 129 MiB, expected at most `resident`"),
        "{text}"
    );
    let text = refused(&with("resident = \"128MiB\"", "resident = \"512MiB\""));
    assert!(
        text.contains("VM `web` needs 515.9 MiB for its resident"),
        "{text}"
    );
}

#[test]
fn names_are_unique_and_plain() {
    let text = refused(&with("name = \"db\"", "name = \"web3\""));
    assert!(text.contains("there are two VMs called `web3`"), "{text}");
    assert!(text.contains("the first is on line 25"), "{text}");
    let text = refused(&with("name = \"db\"", "name = \"../db\""));
    assert!(text.contains("`../db` cannot be a name"), "{text}");
}

#[test]
fn contents_are_a_name_or_figures_of_a_vm_or_a_class() {
    use traces::content::named;
    let read = |text: &str| parse(Path::new("good.toml"), text).unwrap();
    assert_eq!(good().vms[0].content, ContentProfile::RANDOM);
    assert_eq!(good().vms[0].memory, Backing::Synthetic);
    let text = with(
        "work = \"batch\"",
        "memory = \"resident\"\ncontent = \"memcached\"",
    );
    let vm = read(&text).vms.pop().unwrap();
    assert_eq!(Some(vm.content), named("memcached"));
    assert_eq!(vm.memory, Backing::Resident);
    let figures = "content = { like = \"redis\", zlib_ratio = 2.5, unchanged_share = 0.25 }";
    let vm = read(&with("work = \"batch\"", figures)).vms.pop().unwrap();
    let redis = named("redis").unwrap();
    assert_eq!(vm.content.zlib_ratio, Some(2.5));
    assert_eq!(vm.content.rewrite.unchanged_share, 0.25);
    assert_eq!(vm.content.rewrite.xbzrle_bytes, redis.rewrite.xbzrle_bytes);
    let class = with(
        "pages = 9, rate = 20,",
        "pages = 9, rate = 20, content = \"media\",",
    );
    let WriteSource::Classes(classes) = &read(&class).vms[0].writes else {
        panic!("classes as given");
    };
    assert_eq!(classes[1].content, named("media"));
    assert_eq!(classes[0].content, None);
    let near = refused(&with("work = \"batch\"", "content = \"memcachd\""));
    assert!(near.contains("did you mean `memcached`?"), "{near}");
    let share = refused(&with("work = \"batch\"", "content = { zero_share = 1.5 }"));
    assert!(share.contains("zero_share"), "{share}");
}

#[test]
fn contents_that_cannot_be_are_refused_with_what_is_nearest() {
    let odd = "content = { lz4_ratio = 10, zlib_ratio = 1.1 }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.toml");
    fs::write(&path, with("work = \"batch\"", odd)).unwrap();
    let error = load_error(&path);
    assert!(error.contains("no page meets"), "{error}");
    assert!(error.contains("measured together"), "{error}");
}

#[test]
fn links_too_small_for_tcp_are_refused_at_their_k() {
    let text = refused(&with("queue = \"512KB\"", "queue = \"48KB\""));
    assert!(
        text.contains("holds 15 segments of 1538 B, fewer than 16"),
        "{text}"
    );
    assert!(text.contains("bad.toml:10:8"), "{text}");
    // 16 segments of queue and less than 4 in flight: 1 Mbit/s over 200 µs is 25 B.
    let small = with("queue = \"512KB\"", "queue = \"50KB\"").replacen("1Gbit", "1Mbit", 1);
    assert!(refused(&small).contains("fewer than 20"));
}

#[test]
fn syntax_errors_have_a_place() {
    let text = refused("duration = \"2h\"\nseed = = 3\n");
    assert!(text.contains("bad.toml:2:8"), "{text}");
    let text = refused("duration = \"2h");
    assert!(text.contains("bad.toml:1:"), "{text}");
}

#[test]
fn every_migration_parameter_can_be_set() {
    // A parameter added to `MigrationParams` and forgotten in `parameters` fails here.
    let json = serde_json::to_value(MigrationParams::default()).unwrap();
    let keys = json.as_object().unwrap().iter().flat_map(|(key, value)| {
        let of_group =
            |group: &serde_json::Value| group.as_object().unwrap().keys().cloned().collect();
        match key.as_str() {
            // Groups whose own name is no key.
            "announce" | "sockets" => of_group(value),
            "postcopy" => vec!["postcopy-ram".to_owned()],
            _ => vec![key.clone()],
        }
    });
    for key in keys {
        // Nothing is an empty list, so it is refused; not as a key that nobody reads.
        let text = refused(&with("return-path = false", &format!("{key} = []")));
        assert!(!text.contains("unknown key"), "{key} in\n{text}");
    }
}

fn load_error(path: &Path) -> String {
    match load(path) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

proptest! {
    #[test]
    fn any_text_is_a_scenario_or_an_error(text: String) {
        if let Err(error) = parse(Path::new("x.toml"), &text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// Damage to a good file: a few bytes replaced, so that most of it still parses.
    #[test]
    fn any_damage_gives_a_scenario_or_an_error(
        cuts in prop::collection::vec((0..GOOD.len(), 0..12usize, "[a-z0-9.\\[\\]{}=\" \n]{0,6}"), 1..4)
    ) {
        let mut text = GOOD.to_owned();
        for (at, len, new) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &new);
        }
        if let Err(error) = parse(Path::new("x.toml"), &text) {
            prop_assert!(error.to_string().contains("x.toml:"));
        }
    }
}
