//! A small run from end to end, and everything that can be done with its directory afterwards.

use migbed::migration::record::{Owner, Status};
use migbed_tests::{DAY, Finished, Sandbox, json_file, records, seen, trace, turn};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What DESIGN §8 promises of a run directory.
const FILES: [&str; 10] = [
    "run.json",
    "events.jsonl.zst",
    "migrations.jsonl",
    "hosts.parquet",
    "vms.parquet",
    "migrations.parquet",
    "services.parquet",
    "links.parquet",
    "summary.json",
    "report.html",
];

fn scenario(sandbox: &Sandbox, policy: &str) -> String {
    sandbox.file("redis.mbpw", trace("redis.mbpw"));
    let balancer = format!("\n[balancer]\npolicy = \"{policy}\"\ninterval = \"60s\"\n");
    sandbox.file(&format!("{policy}.toml"), format!("{DAY}{balancer}"))
}

/// Grades depend on how busy this computer is, and are not what these tests are about.
fn run(sandbox: &Sandbox, scenario: &str, out: &str) -> Finished {
    let arguments = ["run", scenario, "--out", out, "--force", "--no-calibration"];
    sandbox.run(&arguments).expect_code(0)
}

#[test]
fn a_run_leaves_every_file_and_every_migration_verified() {
    let Some(_turn) = turn("a_run_leaves_every_file_and_every_migration_verified") else {
        return;
    };
    let sandbox = Sandbox::new();
    let scenario = scenario(&sandbox, "thr-mmt");
    let arguments = ["run", &scenario, "--out", "day", "--force"];
    let finished = sandbox.run(&arguments).expect_code(0);
    let dir = sandbox.work().join("day");
    for name in FILES {
        let bytes = fs::metadata(dir.join(name)).map(|file| file.len());
        assert!(bytes.is_ok_and(|bytes| bytes > 0), "{name}");
    }
    let records = records(&dir);
    assert!(!records.is_empty());
    for record in &records {
        assert_eq!(record.status, Status::Completed, "{record:?}");
        assert_eq!(record.owner, Owner::Destination);
        assert!(record.verified, "{record:?}");
        let report = record.destination_report.as_ref().unwrap();
        let verification = report.verification.as_ref().unwrap();
        assert_eq!(verification.pages, record.ram_bytes / 4096);
        assert_eq!((verification.bad, report.bad_on_receipt), (0, 0));
    }
    let header = json_file(&dir.join("run.json"));
    assert_eq!(header["outcome"], "completed");
    assert_eq!(header["seed"], 7);
    assert_eq!(header["schema"], 3);
    let summary = json_file(&dir.join("summary.json"));
    assert_eq!(summary["trace_s"], 240.0);
    let completed = &summary["metrics"]["migrations_completed"]["value"];
    assert_eq!(completed.as_f64(), Some(records.len() as f64), "{summary}");
    // A person gets a table, the report's path and the sentence against `none`.
    assert!(finished.stdout.contains("busy"), "{}", finished.stdout);
    assert!(finished.stdout.contains("report.html"));
    let verdict = summary["verdict"].as_str().unwrap();
    assert!(verdict.contains("none"), "{verdict}");
    assert!(
        verdict.contains("modelled") && verdict.contains("measured"),
        "{verdict}"
    );
    assert!(finished.stdout.contains(verdict));
}

/// The report of a run must not need the program that wrote it, nor the network.
fn self_contained(report: &Path) {
    let html = fs::read_to_string(report).expect("the report is there");
    for outside in ["src=\"http", "href=\"http", "@import", "<script src"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_can_be_repeated_and_reported_from_its_directory_alone() {
    let Some(_turn) = turn("a_run_can_be_repeated_and_reported_from_its_directory_alone") else {
        return;
    };
    let sandbox = Sandbox::new();
    let scenario = scenario(&sandbox, "thr-mmt");
    run(&sandbox, &scenario, "first");
    let moved = sandbox.work().join("elsewhere");
    fs::rename(sandbox.work().join("first"), &moved).unwrap();
    fs::remove_dir_all(sandbox.input()).unwrap();

    let arguments = [
        "rerun",
        "elsewhere",
        "--out",
        "again",
        "--force",
        "--no-calibration",
    ];
    sandbox.run(&arguments).expect_code(0);
    let again = sandbox.work().join("again");
    let (first, second) = (seen(&moved).moves(), seen(&again).moves());
    assert!(!first.is_empty());
    assert_eq!(first, second, "the same seed and demand decide the same");

    // Everything but the header, the inputs and the events can be deleted and rebuilt.
    let derived = &FILES[2..];
    let before: Vec<_> = derived
        .iter()
        .map(|name| fs::read(moved.join(name)).unwrap())
        .collect();
    for name in derived {
        fs::remove_file(moved.join(name)).unwrap();
    }
    sandbox.run(&["report", "elsewhere"]).expect_code(0);
    for (name, before) in derived.iter().zip(before) {
        assert!(
            fs::read(moved.join(name)).unwrap() == before,
            "{name} was not rebuilt the same"
        );
    }
    self_contained(&moved.join("report.html"));
}

#[test]
fn the_same_seed_gives_the_same_guests_whatever_the_policy() {
    let Some(_turn) = turn("the_same_seed_gives_the_same_guests_whatever_the_policy") else {
        return;
    };
    // That page versions do not depend on harvests is shown in replay/src/guest/memory/tests.rs;
    // here: what guests ask for does not depend on where they are or how often they moved.
    let sandbox = Sandbox::new();
    let demands: Vec<(usize, BTreeMap<u32, u64>)> = ["none", "equalise"]
        .into_iter()
        .map(|policy| {
            run(&sandbox, &scenario(&sandbox, policy), policy);
            let events = seen(&sandbox.work().join(policy));
            let mut demand = BTreeMap::new();
            for (vm, samples) in events.vm_samples() {
                let spans: u64 = samples.iter().map(|sample| sample.span_ns).sum();
                assert_eq!(spans, 240_000_000_000, "{vm:?} is sampled throughout");
                demand.insert(
                    vm.0,
                    samples.iter().map(|sample| sample.demand_core_ns).sum(),
                );
            }
            (events.records().len(), demand)
        })
        .collect();
    let [(stayed, under_none), (moved, under_equalise)] = demands.try_into().unwrap();
    assert_eq!(stayed, 0);
    assert!(
        moved > 0,
        "equalise had nothing to do, so this shows nothing"
    );
    assert_eq!(under_none.len(), 6);
    for (vm, none) in &under_none {
        // Each sample rounds to a nanosecond, and where samples fall depends on the migrations.
        let difference = none.abs_diff(under_equalise[vm]);
        assert!(
            difference < 1_000,
            "VM {vm}: {none} against {}",
            under_equalise[vm]
        );
    }
}

#[test]
fn json_is_for_scripts() {
    let Some(_turn) = turn("json_is_for_scripts") else {
        return;
    };
    let sandbox = Sandbox::new();
    let scenario = scenario(&sandbox, "none");
    let arguments = [
        "run",
        &scenario,
        "--out",
        "x",
        "--force",
        "--no-calibration",
        "--json",
    ];
    let summary = sandbox.run(&arguments).expect_code(0).json();
    assert_eq!(summary["policy"], "none");
    let reported = sandbox
        .run(&["report", "x", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(reported, summary);
}

#[test]
fn a_directory_that_holds_something_is_not_written_to() {
    let Some(_turn) = turn("a_directory_that_holds_something_is_not_written_to") else {
        return;
    };
    let sandbox = Sandbox::new();
    let scenario = scenario(&sandbox, "none");
    let full = sandbox.work().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "precious").unwrap();
    let finished = sandbox.run(&["run", &scenario, "--out", "full"]);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("--out"), "{}", finished.stderr);
    let names: Vec<_> = fs::read_dir(&full)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["mine"]);
}

/// A socket holds a few hundred answers; `migbed` once wrote a thousand requests before it read any.
#[test]
fn a_thousand_vms_are_placed_without_a_standstill() {
    let Some(_turn) = turn("a_thousand_vms_are_placed_without_a_standstill") else {
        return;
    };
    let sandbox = Sandbox::new();
    let scenario = sandbox.file(
        "many.toml",
        r#"
name = "many"
duration = "10s"

[[hosts]]
name = "h"
count = 2
cores = 4
ram = "64GiB"

[[vms]]
name = "v"
count = 1000
ram = "64MiB"
cpu = { cores = 0.001 }
writes = "idle"

[balancer]
policy = "none"
"#,
    );
    run(&sandbox, &scenario, "many");
    let summary = json_file(&sandbox.work().join("many/summary.json"));
    assert_eq!(summary["outcome"], "completed");
}
