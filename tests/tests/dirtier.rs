//! Migrations of real QEMU that nothing was fitted to (`traces/library/dirtier`), replayed. docs/validation.md has all of them.

use migbed_tests::{Sandbox, repository, turn};
use serde_json::Value;

/// Idle, and over two channels: bytes within 2 %, total time within 8 % on a machine that is busy with other tests.
#[test]
fn migrations_of_a_real_qemu_are_replayed_from_their_configurations() {
    let Some(_turn) = turn("migrations_of_a_real_qemu_are_replayed_from_their_configurations")
    else {
        return;
    };
    let sandbox = Sandbox::new();
    let runs = repository().join("traces/library/dirtier/runs.jsonl");
    let out = sandbox.work().join("compared");
    let command = [
        "validate",
        "qemu",
        runs.to_str().unwrap(),
        "--select",
        "config_id=idle|multifd,repeat=0",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ];
    let answer = sandbox.run(&command).expect_code(0).json();
    let comparisons = answer["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 2, "{answer}");
    for comparison in comparisons {
        assert_eq!(comparison["verified"], true);
        for (figure, most) in [("bytes", 0.02), ("total_time_ms", 0.08)] {
            let of = |who: &str| comparison[who][figure].as_f64().unwrap();
            let error = of("emulated") / of("real") - 1.0;
            println!("{}: {figure} {error:+.4}", comparison["run_id"]);
            assert!(error.abs() < most, "{comparison}");
        }
    }
    let page = std::fs::read_to_string(out.join("index.html")).unwrap();
    let drawn = |field: &str| page.contains(&format!("<figcaption>{field}</figcaption>"));
    assert!(drawn("Total time") && !drawn("Post-copy requests"));
    // The records of what was emulated stand beside the comparisons, one a migration.
    let records = std::fs::read_to_string(out.join("migrations.jsonl")).unwrap();
    let records: Vec<Value> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seeds: Vec<&Value> = records.iter().map(|record| &record["seed"]).collect();
    assert_eq!(seeds, [1, 1]);
    assert!(
        records
            .iter()
            .all(|record| record["migration"]["status"] == "completed")
    );
}
