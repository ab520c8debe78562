//! A VM of several vCPUs in post-copy: each waits alone, and the next migration finds exactly what they wrote.

use migbed::migration::record::{Owner, Phase};
use migbed_tests::{Sandbox, seen, turn};

/// `vm` goes to h2 in its second pass of pre-copy, switched to post-copy there, and on to h3 by pre-copy: of vCPUs that have
/// been apart since.
const MOVES: &str = r#"
name = "vcpus"
seed = 3
duration = "14s"

[network]
link = { rate = "400Mbit", queue = "512KB" }

[migration]
postcopy-ram = true
max-postcopy-bandwidth = "6MB/s"
downtime-limit = "120ms"

[[faults]]
migration = 1
at_round = 1
do = "start-postcopy"

[[hosts]]
name = "h"
count = 3
cores = 4
ram = "1GiB"

[[vms]]
name = "vm"
vcpus = 4
ram = "32MiB"
resident = "4MiB"
cpu = { cores = 3.2 }
work = "batch"
writes = { classes = [
    { pages = 2000, rate = 1.0 },
    { pages = 1000, rate = 0.5, coupling = "time", read_rate = 1.0 },
    { pages = 500, rate = 1.0, locality = "sweep" },
] }
host = "h1"

[[migrations]]
at = "2s"
vm = "vm"
to = "h2"

[[migrations]]
at = "12s"
vm = "vm"
to = "h3"
"#;

#[test]
fn vcpus_that_waited_apart_are_where_they_should_be() {
    let Some(_turn) = turn("vcpus_that_waited_apart_are_where_they_should_be") else {
        return;
    };
    // Computed, and touched for real: the kernel does not tell of what it stops how late that was seen.
    for (memory, overrun) in [("synthetic", Some(0)), ("resident", None)] {
        moved(memory, overrun);
    }
}

fn moved(memory: &str, overrun: Option<u64>) {
    let sandbox = Sandbox::new();
    let backed = format!("vcpus = 4\nmemory = \"{memory}\"");
    let path = sandbox.file("vcpus.toml", MOVES.replace("vcpus = 4", &backed));
    let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
    let records = seen(&sandbox.work().join("out")).records();
    let (first, second) = (&records[&1], &records[&2]);
    for record in [first, second] {
        assert!(record.verified, "{record:?}");
        assert_eq!(record.owner, Owner::Destination);
    }
    let phases = &first.source_report.as_ref().expect("it completed").phases;
    assert!(phases.iter().any(|span| span.phase == Phase::Pull));
    let report =
        std::fs::read_to_string(sandbox.work().join("out/report.html")).expect("it was written");
    // In both pictures, of the first migration alone.
    assert_eq!(report.matches("class=\"round pull\"").count(), 2);
    assert_eq!(second.kind, "PreCopy");
    let destination = first.destination_report.as_ref().expect("it completed");
    let pulled = destination.postcopy.as_ref().expect("it pulled");
    assert_eq!((pulled.overrun, pulled.never_came), (overrun, 0));
    let blocked: Vec<u64> = pulled.vcpus.iter().map(|vcpu| vcpu.blocktime_ns).collect();
    assert_eq!(blocked.len(), 4);
    assert!(blocked.iter().all(|&ns| ns > 0), "{blocked:?}");
    assert!(
        blocked.iter().all(|&ns| ns >= pulled.blocktime_ns),
        "{pulled:?}"
    );
    assert_ne!(
        blocked.iter().min(),
        blocked.iter().max(),
        "they were apart"
    );
    let qmp = &first.query_migrate;
    let told: Vec<u64> = blocked.iter().map(|ns| ns / 1_000_000).collect();
    assert_eq!(qmp["postcopy-vcpu-blocktime"], serde_json::json!(told));
    assert_eq!(
        qmp["postcopy-vcpu-latency"].as_array().map(Vec::len),
        Some(4)
    );
    assert!(second.query_migrate["postcopy-vcpu-blocktime"].is_null());
}
