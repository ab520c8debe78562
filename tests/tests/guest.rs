//! A real QEMU guest against its own recording: `traces/library/guest` holds what QEMU measured when it migrated the guest for
//! real, and the guest's memory as it was recorded from outside. docs/validation.md has all of it.

use migbed_tests::{Sandbox, repository, turn};
use serde_json::Value;
use std::fs;

/// Real runs of a program at a rate: their figures, and the median of them.
fn real(program: &str, mbit: u64, figure: &str) -> f64 {
    let lines = fs::read_to_string(repository().join("traces/library/guest/runs.jsonl"))
        .expect("as it was recorded");
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a run"));
    let of = lines.filter(|run| run["program"] == program && run["link_mbit"] == mbit);
    let completed = of.filter(|run| run["status"] == "completed");
    let mut values: Vec<f64> = completed
        .map(|run| run[figure].as_f64().expect("as it was recorded"))
        .collect();
    assert!(values.len() >= 4, "{program} at {mbit} Mbit/s: {values:?}");
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// Pages of the guest that are not zero and that the recording does not write, as bytes: all that were ever written,
/// less the zero ones among them, less those of the recording.
fn resident(sandbox: &Sandbox, program: &str) -> u64 {
    let folder = repository().join("traces/library/guest");
    let sidecar =
        fs::read(folder.join(format!("{program}-guest.json"))).expect("as it was recorded");
    let sidecar: Value = serde_json::from_slice(&sidecar).expect("as it was recorded");
    let touched = sidecar["totals"]["pages"]
        .as_u64()
        .expect("as it was recorded");
    let last = &sidecar["census"]
        .as_array()
        .expect("as it was recorded")
        .last()
        .expect("as it was recorded")["pages"];
    let (zero, looked_at) = (
        last["zero"].as_u64().expect("as it was recorded"),
        last["sampled"].as_u64().expect("as it was recorded"),
    );
    let recording = folder.join(format!("{program}-guest.mbpw"));
    let shown = [
        "trace",
        "show",
        recording.to_str().expect("as it was recorded"),
        "--json",
    ];
    let written = sandbox.run(&shown).expect_code(0).json()[0]["pages"]
        .as_u64()
        .expect("as it was recorded");
    (touched - touched * zero / looked_at - written) * 4096
}

/// Well below the link: bytes within 4 %, total time within 7 %, downtime below the limit and the switch-over. Nothing here was fitted to a
/// migration: the recording is of another boot of the guest. About 20 s.
#[test]
fn a_real_guest_s_migration_is_emulated_from_its_recording() {
    let Some(_turn) = turn("a_real_guest_s_migration_is_emulated_from_its_recording") else {
        return;
    };
    let sandbox = Sandbox::new();
    let resident = format!("{}B", resident(&sandbox, "redis"));
    let recording = repository().join("traces/library/guest/redis-guest.mbpw");
    let command = [
        "migrate",
        "--json",
        "--no-calibration",
        "--ram",
        "192MiB",
        "--resident",
        &resident,
        "--writes",
        recording.to_str().unwrap(),
        "--writes-as",
        "pages",
        "--link",
        "100Mbit",
        "--overhead-bytes",
        "14",
        "--queue",
        "256KiB",
        "--downtime-limit",
        "300ms",
        "--reprotect-at-sync",
        "--load-time",
        "2ms",
    ];
    let answer = sandbox.run(&command).expect_code(0).json();
    let emulated = |path: &str| {
        answer["query_migrate"]
            .pointer(path)
            .unwrap()
            .as_f64()
            .unwrap()
    };
    assert_eq!(answer["verified"], true);
    for (what, path, figure, most) in [
        ("bytes", "/ram/transferred", "ram_transferred", 0.04),
        ("total time", "/total-time", "total_time_ms", 0.07),
    ] {
        let (emulated, real) = (emulated(path), real("redis", 100, figure));
        let error = emulated / real - 1.0;
        println!(
            "{what}: real {real:.0}, emulated {emulated:.0} ({:+.1} %)",
            error * 100.0
        );
        assert!(
            error.abs() < most,
            "{what}: real {real}, emulated {emulated}"
        );
    }
    let outage = answer["observed_outage_ms"].as_f64().unwrap();
    assert!((150.0..600.0).contains(&outage), "{outage}");
}
