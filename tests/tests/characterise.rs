//! `migbed trace stats|forecast|profiles|synth` as a user has them: what is printed agrees with itself and with figures
//! known by hand, and what was made up is marked everywhere.

use migbed_tests::{Finished, Sandbox, json_file, records, repository, skip, turn};
use serde_json::Value;
use std::fs;

const MAP: [&str; 6] = [
    "--map",
    "time=t:s",
    "--map",
    "vm=vm",
    "--map",
    "cpu=cpu:%core",
];

/// Two VMs over 200 intervals: `swings` between half a core and one and a half, `rests` at a quarter.
fn log(sandbox: &Sandbox) -> String {
    let lines = (0..200).flat_map(|i| {
        let swing = if i % 2 == 0 { 50 } else { 150 };
        [
            format!("{},swings,{swing}\n", i * 300),
            format!("{},rests,25\n", i * 300),
        ]
    });
    let text: String = std::iter::once("t,vm,cpu\n".to_owned())
        .chain(lines)
        .collect();
    sandbox.file("log.csv", text)
}

fn run(sandbox: &Sandbox, arguments: &[&[&str]]) -> Finished {
    sandbox.run(&arguments.concat())
}

#[test]
fn statistics_are_the_same_as_table_json_and_page() {
    let sandbox = Sandbox::new();
    let log = log(&sandbox);
    let json = run(&sandbox, &[&["trace", "stats", &log, "--json"], &MAP]).expect_code(0);
    let document: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(document["vms"].as_array().unwrap().len(), 2);
    let swings = document["vms"]
        .as_array()
        .unwrap()
        .iter()
        .find(|vm| vm["name"] == "swings");
    let cpu = &swings.unwrap()["quantities"][0];
    assert_eq!(cpu["quantity"], "cpu");
    let near = |value: &Value, wanted: f64| (value.as_f64().unwrap() - wanted).abs() < 1e-9;
    assert!(near(&cpu["summary"]["mean"], 1.0) && near(&cpu["summary"]["max"], 1.5));
    assert!(near(&cpu["summary"]["peak_to_mean"], 1.5));
    assert!(
        document["columns"][0]
            .as_str()
            .unwrap()
            .contains("cpu_milli")
    );
    let page = sandbox.work().join("page.html");
    let html = page.to_str().unwrap();
    let table = run(&sandbox, &[&["trace", "stats", &log, "--html", html], &MAP]).expect_code(0);
    // The same figures, rounded.
    let row = table
        .stdout
        .lines()
        .find(|line| line.contains("swings"))
        .unwrap();
    assert!(row.contains("1.00") && row.contains("1.50"), "{row}");
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("swings") && html.contains("<svg"), "no curve");
    for outside in ["src=\"http", "href=\"http", "<link", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn forecasts_stand_beside_the_last_value() {
    let sandbox = Sandbox::new();
    let log = log(&sandbox);
    let command = [
        "trace",
        "forecast",
        &log,
        "--predictor",
        "mean",
        "--horizons",
        "1",
    ];
    let json = run(&sandbox, &[&command, &MAP, &["--json", "--vm", "swings"]]).expect_code(0);
    let document: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let fleet = document["metrics"][0]["fleet"].as_array().unwrap();
    let mae = |method: &str| {
        let of = fleet
            .iter()
            .find(|score| score["method"] == method)
            .unwrap();
        of["mae_mean"].as_f64().unwrap()
    };
    // The last value is always a whole core off, the mean half a core.
    assert!((mae("last") - 1.0).abs() < 1e-9, "{}", mae("last"));
    assert!((mae("mean") - 0.5).abs() < 0.01, "{}", mae("mean"));
    let table = run(&sandbox, &[&command, &MAP, &["--vm", "swings"]]).expect_code(0);
    let row = table
        .stdout
        .lines()
        .find(|line| line.contains("| last"))
        .unwrap();
    assert!(row.contains("1.0000") || row.contains("1.00"), "{row}");
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let sandbox = Sandbox::new();
    let log = sandbox.file("log.csv", "t,vm,cpu\n0,a,50\n300,a,much\n");
    for command in ["stats", "forecast"] {
        let finished = run(&sandbox, &[&["trace", command, &log], &MAP]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains("log.csv:3"), "{finished:?}");
    }
}

#[test]
fn profiles_are_listed() {
    let sandbox = Sandbox::new();
    let json = sandbox
        .run(&["trace", "profiles", "--json"])
        .expect_code(0)
        .json();
    let table = sandbox.run(&["trace", "profiles"]).expect_code(0).stdout;
    let names = json
        .as_array()
        .unwrap()
        .iter()
        .map(|profile| profile["name"].as_str().unwrap());
    let mut count = 0;
    for name in names {
        assert!(table.contains(name), "{name}");
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn a_completed_trace_is_marked_and_its_seed_is_all_it_needs() {
    let sandbox = Sandbox::new();
    let log = log(&sandbox);
    let place = |name: &str| sandbox.work().join(name).to_str().unwrap().to_owned();
    let synth = |out: &str, seed: &str| {
        let command = [
            "trace",
            "synth",
            &log,
            "--profile",
            "kv-write",
            "--memory",
            "1GiB",
        ];
        run(&sandbox, &[&command, &MAP, &["--seed", seed, "-o", out]])
    };
    for (name, seed) in [("one", "5"), ("two", "5"), ("other", "6")] {
        synth(&place(name), seed).expect_code(0);
    }
    let table =
        |name: &str| fs::read(sandbox.work().join(name).join("dirty_profiles.parquet")).unwrap();
    assert!(table("one") == table("two") && table("one") != table("other"));
    let manifest = json_file(&sandbox.work().join("one/manifest.json"));
    let columns = &manifest["columns"];
    assert_eq!(
        columns["dirty_profiles.parquet:pages"]["provenance"],
        "synthesised"
    );
    assert_eq!(
        columns["samples.parquet:dirty_pages_w1"]["provenance"],
        "synthesised"
    );
    assert_ne!(
        columns["samples.parquet:cpu_milli"]["provenance"],
        "synthesised"
    );
    assert_eq!(manifest["importer"]["seed"], 5);
    assert_eq!(manifest["importer"]["options"]["profile"], "kv-write");
    for command in ["show", "stats"] {
        let shown = sandbox
            .run(&["trace", command, &place("one")])
            .expect_code(0)
            .stdout;
        let line = shown
            .lines()
            .find(|line| line.starts_with("synthesised: "))
            .unwrap();
        assert!(
            line.contains("dirty_pages_w1") && line.contains("mem_used_bytes"),
            "{line}"
        );
    }
}

#[test]
fn what_cannot_be_completed_is_refused() {
    let sandbox = Sandbox::new();
    let log = log(&sandbox);
    let place = |name: &str| sandbox.work().join(name).to_str().unwrap().to_owned();
    let synth = |profile: &str, more: &[&str], out: &str| {
        let command = [
            "trace",
            "synth",
            &log,
            "--profile",
            profile,
            "-o",
            &place(out),
        ];
        run(&sandbox, &[&command, &MAP, more])
    };
    synth("web", &["--memory", "1GiB"], "one").expect_code(0);
    // What is completed is not completed again.
    let again = [
        "trace",
        "synth",
        &place("one"),
        "--profile",
        "web",
        "-o",
        &place("again"),
    ];
    let again = sandbox.run(&again);
    assert_eq!(again.code, Some(2), "{again:?}");
    let unknown = synth("wbe", &["--memory", "1GiB"], "none");
    assert!(
        unknown.code == Some(2) && unknown.stderr.contains("kv-write"),
        "{unknown:?}"
    );
    let unknown = synth("web", &[], "none");
    assert!(
        unknown.code == Some(2) && unknown.stderr.contains("--memory"),
        "{unknown:?}"
    );
}

/// One VM of a completed bundle, and one whose profile the scenario names; both move.
fn two_ways(name: &str) -> String {
    format!(
        r#"
        duration = "10m"
        [traces.t]
        file = "fleet"
        vm = "{name}"
        [network]
        link = {{ rate = "500Mbit", queue = "512KB" }}
        [[hosts]]
        name = "h"
        count = 2
        cores = 2
        ram = "1GiB"
        [[vms]]
        name = "bundle"
        ram = "64MiB"
        cpu = {{ trace = "t" }}
        writes = {{ fitted = "t" }}
        host = "h1"
        [[vms]]
        name = "profile"
        ram = "64MiB"
        cpu = {{ trace = "t" }}
        writes = {{ profile = "web" }}
        host = "h1"
        [[migrations]]
        at = "5m"
        vm = "bundle"
        to = "h2"
        [[migrations]]
        at = "6m"
        vm = "profile"
        to = "h2"
        "#
    )
}

/// A fleet of which only CPU was recorded, completed, run with a migration; the results say what it was.
#[test]
fn a_planetlab_day_is_completed_and_run() {
    let test = "a_planetlab_day_is_completed_and_run";
    let day = repository().join("../shared/traces/planetlab/20110303");
    let Ok(mut names) = fs::read_dir(&day) else {
        skip(test, "shared/traces beside the repository");
        return;
    };
    let name = names
        .next()
        .unwrap()
        .unwrap()
        .file_name()
        .to_string_lossy()
        .into_owned();
    let Some(_turn) = turn(test) else {
        return;
    };
    let sandbox = Sandbox::new();
    let bundle = sandbox.input().join("fleet");
    let day = day.to_str().unwrap();
    let command = [
        "trace",
        "synth",
        day,
        "--profile",
        "web",
        "--memory",
        "64MiB",
        "-o",
        bundle.to_str().unwrap(),
    ];
    sandbox.run(&command).expect_code(0);
    let scenario = two_ways(&name);
    let scenario = sandbox.file("fleet.toml", scenario);
    let told = sandbox.run(&["check", &scenario]).expect_code(0).stdout;
    assert!(
        told.contains("writes synthesised (profile web, marginal profile, seed 1)"),
        "{told}"
    );
    let arguments = [
        "run",
        &scenario,
        "--out",
        "fleet",
        "--force",
        "--no-calibration",
    ];
    sandbox.run(&arguments).expect_code(0);
    let dir = sandbox.work().join("fleet");
    let records = records(&dir);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.verified), "{records:?}");
    let origins = json_file(&dir.join("run.json"))["origins"].clone();
    let of = |vm: &str, column: &str| {
        let all = origins.as_array().unwrap().iter();
        let mut of = all.filter(|o| o["vm"] == vm && o["column"] == column);
        of.next().unwrap()["provenance"].clone()
    };
    assert_eq!(of("bundle", "writes"), "synthesised");
    assert_eq!(of("profile", "writes"), "synthesised");
    assert_ne!(of("profile", "cpu"), "synthesised");
    let report = fs::read_to_string(dir.join("report.html")).unwrap();
    assert!(report.contains("synthesised"));
}
