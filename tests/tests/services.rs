//! VMs that answer real requests, before, during and after they move.

use migbed::event::EventKind;
use migbed_tests::{Sandbox, far_hosts, json_file, moves, records, seen, shop, turn};

#[test]
fn a_service_is_answered_before_during_and_after_its_vm_moves() {
    let Some(_turn) = turn("a_service_is_answered_before_during_and_after_its_vm_moves") else {
        return;
    };
    let sandbox = Sandbox::new();
    // 8 MiB over 100 Mbit/s, most of a second.
    let served = [
        far_hosts("served", 3, false),
        shop("", ""),
        moves("web", "h2"),
    ]
    .concat();
    let path = sandbox.file("served.toml", served);
    sandbox.run_scenario(&path, &[]).expect_code(0);
    let out = sandbox.work().join("out");
    let record = records(&out).into_iter().next().expect("one migration");
    assert!(record.verified, "{record:?}");
    let outage_ms = record.observed_outage_ms.expect("the guest was paused");
    let summary = json_file(&out.join("summary.json"));
    let rows = summary["services"].as_array().expect("a list");
    let window = |name: &str| {
        let row = rows.iter().find(|row| row["window"] == name);
        row.unwrap_or_else(|| panic!("no window {name} in {rows:?}"))
    };
    // Fifty a second for two seconds; a window may begin within a request's 20 ms.
    for name in ["before", "after"] {
        let answered = window(name)["answered"].as_u64().expect("a number");
        assert!((90..=101).contains(&answered), "{name}: {answered}");
        // 4 ms of CPU and two round trips of 4 ms over the switch, at the least.
        let p50_ms = window(name)["latency"]["p50_ms"]
            .as_f64()
            .expect("a number");
        assert!((8.0..200.0).contains(&p50_ms), "{name}: {p50_ms} ms");
    }
    let during = window("during");
    assert!(during["answered"].as_u64() > Some(20), "{during}");
    let max_ms = during["latency"]["max_ms"].as_f64().expect("a number");
    assert!(
        max_ms >= outage_ms - 20.0,
        "who asked as the guest stopped waited for it: {max_ms} ms, outage {outage_ms} ms"
    );
    // Nobody is left out: what was due in the 2 s, the migration and the 2 s is answered or cut.
    let whole = window("run");
    let (answered, cut) = (whole["answered"].as_u64(), whole["cut"].as_u64());
    let counted = answered.zip(cut).map(|(a, b)| a + b).expect("numbers");
    let events = seen(&out).0;
    let in_events: usize = events
        .iter()
        .map(|event| match &event.kind {
            EventKind::Requests { answered, cut, .. } => answered.len() + cut.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(counted, in_events as u64);
    assert!(cut < Some(5), "{cut:?}");
    // The guest has been served what they took: 4 ms each.
    let served = seen(&out).vm_samples()[&migbed::ids::VmId(0)]
        .iter()
        .map(|sample| sample.granted_core_ns)
        .sum::<u64>();
    let asked = answered.expect("a number") * 4_000_000;
    assert!(served >= asked, "{served} ns for {asked} ns");
    assert!(out.join("services.parquet").exists());
}
