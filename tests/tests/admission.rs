//! `migbed links`, backends by name, and what a machine does not carry.

use migbed_tests::{Sandbox, json_file, one_of, turn, within};
use serde_json::Value;

/// Two hosts whose links differ by direction.
const PAIR: &str = r#"
name = "pair"
duration = "10s"

[network]
link = { rate = "100Mbit", delay = "4ms", queue = "256KiB", down = { rate = "60Mbit" } }

[[hosts]]
name = "h"
count = 2
cores = 2
ram = "1GiB"

[[vms]]
name = "vm"
ram = "64MiB"
host = "h1"
"#;

fn figure(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn links_are_built_measured_and_told_asked_against_got() {
    let Some(_turn) = turn("links_are_built_measured_and_told_asked_against_got") else {
        return;
    };
    let sandbox = Sandbox::new();
    let path = sandbox.file("pair.toml", PAIR);
    // Which of the narrow links, the ways down, have been seen full: a stream that has just lost a
    // burst leaves its link idle now and then, which is no fault of the link (and `rate_error` is null).
    let mut full = [false; 2];
    let mut look = || {
        let done = sandbox.run(&["links", &path, "--json", "--out", "links.json"]);
        let told = done.json();
        assert_eq!(told, json_file(&sandbox.work().join("links.json")));
        let links = told["links"].as_array().expect("a list of links");
        let names: Vec<&str> = links.iter().filter_map(|l| l["link"].as_str()).collect();
        assert_eq!(names, ["h1-up", "h1-down", "h2-up", "h2-down"]);
        assert_eq!(links[1]["asked_rate_bps"], 60_000_000);
        assert_eq!(links[1]["asked_delay_us"], 4000.0);
        assert!(figure(&told["built"]["unique_bytes"]) > 0.0);
        for link in links {
            // Too fast is wrong on any computer: 1 % is a queue's worth of a second.
            let asked = figure(&link["asked_rate_bps"]);
            assert!(figure(&link["got_rate_bps"]) <= asked * 1.01, "{link}");
        }
        // Full, they are on their rate; their delay is within 0.2 ms.
        for (link, full) in [&links[1], &links[3]].into_iter().zip(&mut full) {
            within("delay, us", figure(&link["got_delay_us"]), [3990.0, 4200.0])?;
            if !link["rate_error"].is_null() {
                within("Mbit/s", figure(&link["got_rate_bps"]) / 1e6, [59.4, 60.6])?;
                *full = true;
            }
        }
        if full != [true; 2] {
            return Err(format!("seen full: {full:?}"));
        }
        match done.code {
            Some(0) => Ok(()),
            other => Err(format!("exit {other:?}: {told:#}")),
        }
    };
    // Each look finds a given one full in two of five times or more.
    one_of(|| look().or_else(|_| look()).or_else(|_| look()));
}

#[test]
fn a_network_is_explained_without_being_built() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("pair.toml", PAIR);
    let told = sandbox.run(&["links", &path, "--explain"]).expect_code(0);
    for words in ["h1-up", "100Mbit", "ip netns add h1", "ip -n h1 link set"] {
        assert!(told.stdout.contains(words), "{words} in {}", told.stdout);
    }
    let both = sandbox.run(&["links", &path, "--explain", "--out", "x"]);
    both.expect_code(2);
}

#[test]
fn a_backend_that_cannot_is_refused_and_one_that_is_missing_is_named() {
    let Some(_turn) = turn("a_backend_that_cannot_is_refused_and_one_that_is_missing_is_named")
    else {
        return;
    };
    let sandbox = Sandbox::new();
    let path = sandbox.file("pair.toml", PAIR);
    for command in [
        &["links", &path, "--backend", "htb"][..],
        &["run", &path, "--out", "htb", "--backend", "htb"],
        &["migrate", "--delay", "4ms", "--backend", "htb"],
    ] {
        let refused = sandbox.run(command).expect_code(2);
        assert!(refused.stderr.contains("a delay"), "{}", refused.stderr);
        assert!(refused.stderr.contains("`relay` can"), "{}", refused.stderr);
    }
    // On a kernel with netem it is simply used.
    let netem = sandbox.run(&["links", &path, "--backend", "netem", "--json"]);
    match netem.code {
        Some(3) => {
            let said = &netem.stderr;
            assert!(said.contains("netem") && said.contains("remedy"), "{said}");
        }
        _ => assert_eq!(netem.json()["backend"], "netem"),
    }
}

#[test]
fn what_this_machine_does_not_carry_is_refused_or_marked() {
    let Some(_turn) = turn("what_this_machine_does_not_carry_is_refused_or_marked") else {
        return;
    };
    let sandbox = Sandbox::new();
    let balancer = "\n[balancer]\npolicy = \"equalise\"\nparallel = 2\n";
    // More than any computer moves through user space: veth alone is at 25 Gbit/s.
    let fast = PAIR
        .replace("100Mbit", "80Gbit")
        .replace("60Mbit", "80Gbit");
    let path = sandbox.file("fast.toml", format!("{fast}{balancer}"));
    let before = sandbox.run(&["check", &path]).expect_code(0).stdout;
    assert!(before.contains("admission: unknown"), "{before}");
    let refused = sandbox.run(&["run", &path, "--out", "fast"]).expect_code(2);
    let said = &refused.stderr;
    assert!(
        said.contains("160.00 Gbit/s") && said.contains("--scale"),
        "{said}"
    );
    assert!(!sandbox.work().join("fast").exists(), "nothing was run");
    let after = sandbox.run(&["check", &path]).expect_code(0).stdout;
    assert!(after.contains("admission: refused"), "{after}");
    let forced = ["run", &path, "--out", "fast", "--force", "--quiet"];
    sandbox.run(&forced).expect_code(4);
    let header = json_file(&sandbox.work().join("fast").join("run.json"));
    assert_eq!(header["grade"], "invalid");
    let reasons = header["grade_reasons"].to_string();
    assert!(reasons.contains("forced"), "{reasons}");
}
