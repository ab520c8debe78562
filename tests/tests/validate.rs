//! Migrations measured elsewhere, replayed by the binary: ground truth, and logs.

use migbed_tests::{Sandbox, skip, turn};
use serde_json::{Value, json};

/// What a real run of set A's kind would have measured, by arithmetic: an idle guest of 128 MiB over 500 Mbit/s.
fn line(more: &Value) -> String {
    let mut line = json!({
        "run_id": "a-0", "config_id": "a", "repeat": 0, "set": "A", "ram_mib": 128, "resident_mib": 8, "ws_mib": 8,
        "rate_pps": 0, "pattern": "uniform", "content": "random", "on_ms": 0, "off_ms": 0, "link_mbit": 500,
        "downtime_limit_ms": 300, "mode": "precopy", "cancel_after_s": 60, "status": "completed",
        "total_time_ms": 1300, "downtime_ms": 5, "stop_to_resume_ms": 60, "ram_transferred": 82_700_000,
        "ram_normal": 20_150, "ram_duplicate": 12_900, "ram_dirty_sync_count": 3, "guest_distinct_pps_before": 50.0,
        "shaper": "tbf", "shaper_at": "source-egress", "overhead_bytes": 14, "burst_bytes": 125_000,
        "queue_bytes": 3_250_000, "congestion": "cubic", "return_path": false, "disturbed": false,
    });
    line.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    line.to_string()
}

#[test]
fn a_file_of_ground_truth_is_replayed_and_what_is_not_says_why() {
    const NAME: &str = "a_file_of_ground_truth_is_replayed_and_what_is_not_says_why";
    let Some(_turn) = turn(NAME) else {
        return;
    };
    let sandbox = Sandbox::new();
    let unknown = line(&json!({"run_id": "b-0", "config_id": "b", "mode": "background-snapshot"}));
    let text = format!("{}\n{unknown}\n", line(&json!({})));
    let file = sandbox.file("runs.jsonl", text);
    let out = sandbox.work().join("out");
    let out_text = out.to_str().expect("a path of ours");
    let finished = sandbox.run(&["validate", "qemu", &file, "--json", "--out", out_text]);
    if finished.code == Some(3) && finished.stderr.contains("tbf") {
        return skip(NAME, "tbf");
    }
    let all = finished.expect_code(0).json();
    let left_out = all["left_out"].as_object().expect("reasons");
    assert!(
        left_out
            .keys()
            .any(|why| why.contains("background-snapshot")),
        "{left_out:?}"
    );
    let one = &all["comparisons"][0];
    assert_eq!(
        (&one["verified"], &one["emulated"]["completed"]),
        (&json!(true), &json!(true))
    );
    // Pages are the guest's, whatever this computer does: 15,470 + 4.33 a MiB, the configured ones, and what is sent again.
    let normal = one["emulated"]["normal"].as_f64().expect("pages");
    let first = 15_470.0 + 4.33 * 128.0 + 16.0 * 256.0;
    assert!(
        (first - 200.0..first + 400.0).contains(&normal),
        "{normal}, {first}"
    );
    let page = std::fs::read_to_string(out.join("index.html")).expect("a page");
    for part in [
        "Bars",
        "Emulated against real",
        "Models",
        "background-snapshot",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_file_that_is_none_says_where() {
    let sandbox = Sandbox::new();
    let file = sandbox.file(
        "runs.jsonl",
        format!("{}\n{{\"run_id\": 5}}\n", line(&json!({}))),
    );
    let finished = sandbox.run(&["validate", "qemu", &file]);
    let told = finished.expect_code(2).stderr;
    assert!(
        told.contains("runs.jsonl:2") && told.contains("one JSON object a line"),
        "{told}"
    );
    let file = sandbox.file("log.json", "[{\"query_migrate\": {\"ram\": {}}}]");
    let finished = sandbox.run(&["trace", "incident", &file, "-o", "x"]);
    let told = finished.expect_code(2).stderr;
    assert!(
        told.contains("log.json:1") && told.contains("total-time"),
        "{told}"
    );
}
