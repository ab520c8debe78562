//! Records assembled from accounts that are known, and what they say.

use super::*;
use crate::migration::record::{BytesByKind, Verification};

fn source() -> SourceReport {
    let round = |normal_pages, zero_pages, paused| Round {
        normal_pages,
        zero_pages,
        paused,
        dirty_pages: normal_pages + zero_pages + 5,
        ..Round::default()
    };
    SourceReport {
        status: Status::Completed,
        error: None,
        begin_ns: 1_000_000_000,
        setup_end_ns: 1_010_000_000,
        stop_ns: Some(2_000_000_000),
        suspended_ns: None,
        parameters: Vec::new(),
        end_ns: 2_250_900_000,
        phases: Vec::new(),
        rounds: vec![round(1000, 500, false), round(200, 0, true)],
        decisions: Vec::new(),
        throttles: Vec::new(),
        bytes: BytesByKind {
            normal: 4_915_200,
            header: 14_100,
            control: 200,
            device: 65_536,
            delta: 0,
        },
        multifd_bytes: 0,
        xbzrle: None,
        precopy_bytes: 4_100_000,
        downtime_bytes: 895_036,
        dirty_sync_count: 3,
        dirty_pages_rate: 200,
        pages_per_second: 1200,
        tcp: Vec::new(),
        cpu_ns: 0,
        run_queue_ns: 0,
        writers: None,
        postcopy: None,
    }
}

fn destination() -> DestinationReport {
    DestinationReport {
        resumed_ns: Some(2_249_500_000),
        loaded_ns: Some(2_240_000_000),
        error: None,
        received_bytes: 4_995_036,
        bad_on_receipt: 0,
        torn_on_receipt: 0,
        postcopy: None,
        verification: Some(Verification {
            pages: 1500,
            bad: 0,
            examples: Vec::new(),
        }),
        cpu_ns: 0,
        run_queue_ns: 0,
    }
}

fn parts() -> RecordParts {
    RecordParts {
        id: 3,
        vm: "web".into(),
        source: "h1".into(),
        destination: "h2".into(),
        reason: "test".into(),
        params: MigrationParams::default(),
        ram_bytes: 1500 * 4096,
        requested_trace_s: 60.0,
        requested_ns: 990_000_000,
        released_ns: None,
        owner: None,
        error: None,
        predictions: vec![Prediction {
            model: "naive".into(),
            total_time_ms: 2501.8,
            downtime_ms: Some(124.75),
            bytes: 4_995_036.0,
            total_time_error: None,
            downtime_error: None,
            bytes_error: None,
        }],
        side: Some(SourceSide::Released),
        source_report: Some(source()),
        destination_report: Some(destination()),
    }
}

#[test]
fn the_answer_has_every_key_of_qmp_and_its_units() {
    let answer = query_migrate(&source(), 1500 * 4096);
    assert_eq!(answer["total-time"], 1250);
    assert_eq!(answer["downtime"], 250);
    assert_eq!(answer["setup-time"], 10);
    let ram = answer["ram"].as_object().unwrap();
    let mut keys: Vec<&str> = ram.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "dirty-pages-rate",
            "dirty-sync-count",
            "dirty-sync-missed-zero-copy",
            "downtime-bytes",
            "duplicate",
            "mbps",
            "multifd-bytes",
            "normal",
            "normal-bytes",
            "page-size",
            "pages-per-second",
            "postcopy-bytes",
            "postcopy-requests",
            "precopy-bytes",
            "remaining",
            "total",
            "transferred"
        ]
    );
    assert_eq!(
        (&ram["normal"], &ram["duplicate"]),
        (&json!(1200), &json!(500))
    );
    assert_eq!(ram["remaining"], 0);
    // 4,995,036 bytes × 8 in 1240 ms.
    assert!((ram["mbps"].as_f64().unwrap() - 32.226).abs() < 0.001);
}

#[test]
fn a_post_copy_tells_what_each_vcpu_waited_and_what_all_did_at_once() {
    let waits = |requests, latency_ns_sum, blocktime_ns| VcpuWaits {
        requests,
        latency_ns_sum,
        blocktime_ns,
    };
    let pulled = PostcopyDestination {
        requests: 3,
        latency_ns_sum: 9_300_000,
        blocktime_ns: 1_999_999,
        vcpus: vec![
            waits(2, 7_300_001, 7_900_000),
            waits(1, 2_000_000, 2_000_000),
            waits(0, 0, 0),
        ],
        ..PostcopyDestination::default()
    };
    let mut report = destination();
    report.postcopy = Some(pulled);
    let record = assemble(RecordParts {
        destination_report: Some(report),
        ..parts()
    });
    let answer = &record.query_migrate;
    assert_eq!(answer["postcopy-blocktime"], 1, "QEMU cuts off");
    assert_eq!(answer["postcopy-vcpu-blocktime"], json!([7, 2, 0]));
    assert_eq!(answer["postcopy-latency"], 3_100_000);
    assert_eq!(
        answer["postcopy-vcpu-latency"],
        json!([3_650_000, 2_000_000, 0])
    );
}

#[test]
fn a_failure_has_no_downtime_and_something_remaining() {
    let failed = SourceReport {
        status: Status::Failed,
        error: Some("the connection to the destination".into()),
        ..source()
    };
    let answer = query_migrate(&failed, 1500 * 4096);
    assert!(answer.get("downtime").is_none());
    assert_eq!(answer["ram"]["remaining"], 5 * 4096);
    assert_eq!(answer["error-desc"], "the connection to the destination");
}

#[test]
fn a_record_scores_predictions_and_measures_the_outage_on_one_clock() {
    let record = assemble(parts());
    assert_eq!(
        (record.status, record.owner),
        (Status::Completed, Owner::Destination)
    );
    assert_eq!(record.observed_outage_ms, Some(249.5));
    assert!(record.verified);
    assert_eq!(record.rounds, 2);
    assert!((record.request_to_release_ms - 1260.9).abs() < 1e-9);
    let prediction = &record.predictions[0];
    assert!((prediction.total_time_error.unwrap() - 1.0).abs() < 1e-9);
    assert!((prediction.downtime_error.unwrap() + 0.5).abs() < 1e-9);
    assert!(prediction.bytes_error.unwrap().abs() < 1e-9);
}

#[test]
fn one_bad_page_is_not_verified() {
    let mut bad = parts();
    bad.destination_report
        .as_mut()
        .unwrap()
        .verification
        .as_mut()
        .unwrap()
        .bad = 1;
    assert!(!assemble(bad).verified);
    let mut damaged = parts();
    damaged.destination_report.as_mut().unwrap().bad_on_receipt = 1;
    assert!(!assemble(damaged).verified);
    let mut silent = parts();
    silent.destination_report = None;
    assert!(!assemble(silent).verified);
}

#[test]
fn an_undecided_guest_that_nobody_vouches_for_is_stranded() {
    let mut lost = parts();
    lost.side = Some(SourceSide::Undecided);
    lost.destination_report = None;
    lost.source_report.as_mut().unwrap().status = Status::Failed;
    let record = assemble(lost.clone());
    assert_eq!(
        (record.status, record.owner),
        (Status::Failed, Owner::Stranded)
    );
    lost.side = Some(SourceSide::Running);
    assert_eq!(assemble(lost).owner, Owner::Source);
}
