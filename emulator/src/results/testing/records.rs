//! Records of the example's migrations.

use super::*;

pub(super) struct Facts {
    pub(super) id: u32,
    pub(super) vm: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) reason: String,
    pub(super) begin: u64,
    pub(super) trace: u64,
    pub(super) failed: bool,
}

/// An orchestrator raised a limit, and gave those up that failed.
fn deeds(begin_ns: u64, failed: bool) -> Vec<DeedDone> {
    let raised = DeedDone {
        at_ns: begin_ns + 400 * MS,
        deed: "downtime-limit".into(),
        downtime_limit_ms: Some(150),
        why: "downtime tuning: initial".into(),
        iteration: Some(1),
        remaining_bytes: Some(1 << 28),
    };
    let given_up = DeedDone {
        at_ns: begin_ns + 900 * MS,
        deed: "abort".into(),
        downtime_limit_ms: None,
        why: "not completed after <1 s>".into(),
        iteration: None,
        remaining_bytes: None,
    };
    if failed {
        vec![raised, given_up]
    } else {
        Vec::new()
    }
}

pub(super) fn record(f: Facts) -> MigrationRecord {
    let id = u64::from(f.id);
    let (rounds, at) = rounds(id, f.begin + 12 * MS, f.failed);
    let stop = (!f.failed).then(|| rounds[3].begin_ns);
    let resumed = stop.map(|_| at + 9 * MS);
    let end = resumed.unwrap_or(at) + MS;
    let total = (end - f.begin) / MS;
    let outage = stop.zip(resumed).map(|(s, r)| (r - s) as f64 / 1e6);
    let normal = rounds.iter().map(|r| r.sent_bytes).sum();
    let query_migrate = serde_json::json!({
        "status": if f.failed { "failed" } else { "completed" },
        "total-time": total, "setup-time": 12, "downtime": outage.map(|o| o - 6.0),
    });
    MigrationRecord {
        faults: Vec::new(),
        deeds: deeds(f.begin, f.failed),
        schema: 2,
        id: f.id,
        vm: f.vm,
        source: f.source,
        destination: f.destination,
        reason: f.reason,
        kind: "PreCopy".into(),
        params: MigrationParams::default(),
        status: if f.failed {
            Status::Failed
        } else {
            Status::Completed
        },
        owner: if f.failed {
            Owner::Source
        } else {
            Owner::Destination
        },
        error: f
            .failed
            .then(|| "connection reset in round 1 <by peer>".into()),
        ram_bytes: 512 << 20,
        requested_trace_s: f.trace as f64 / 1e9,
        requested_ns: f.begin,
        request_to_release_ms: total as f64 + 14.0,
        query_migrate,
        engine_statistics: serde_json::Value::Null,
        observed_outage_ms: outage,
        network_downtime_ms: outage.map(|ms| ms + 1.0),
        probes: Vec::new(),
        rounds: u32::try_from(rounds.len()).unwrap(),
        verified: !f.failed,
        grade: if id % 6 == 0 { "B" } else { "A" }.into(),
        grade_reasons: Vec::new(),
        error_budget: (!f.failed).then(budget),
        predictions: predictions(f.id, total, normal),
        source_report: Some(source_report(&f.begin, end, stop, rounds, normal, f.failed)),
        destination_report: Some(DestinationReport {
            resumed_ns: resumed,
            loaded_ns: resumed,
            error: None,
            received_bytes: normal,
            bad_on_receipt: 0,
            torn_on_receipt: 0,
            postcopy: None,
            verification: None,
            cpu_ns: 1,
            run_queue_ns: 1,
        }),
    }
}

fn budget() -> ErrorBudget {
    let rate = |window_ms, p95| RateError {
        window_ms,
        link: "h1-up".into(),
        windows: 150,
        median: 0.0,
        p95,
        worst: 0.012,
    };
    ErrorBudget {
        rate: vec![rate(10, 0.004), rate(100, 0.002)],
        delay_error_us: Some(41.0),
        late_us_mean: 12.0,
        late_us_p99: 60.0,
        late_us_max: 400.0,
        run_delay_share: Some(0.002),
        emulator_limited_share: 0.003,
        path_idle_share: Some(0.02),
        path_idle_window_share: Some(0.015),
        path_idle_emulator_share: Some(0.005),
        steal_share: Some(0.0),
        samples: 180,
    }
}

fn rounds(id: u64, mut at: u64, failed: bool) -> (Vec<Round>, u64) {
    let lengths = [1400 + 60 * id, 500 + 30 * id, 190, 90 + 7 * id];
    let round = |n: usize| {
        let begin_ns = at;
        at += lengths[n] * MS;
        Round {
            number: u32::try_from(n).unwrap(),
            begin_ns,
            end_ns: at,
            dirty_pages: lengths[n] * 28,
            new_dirty_pages: lengths[n] * 20,
            normal_pages: lengths[n] * 27,
            zero_pages: lengths[n],
            xbzrle_pages: 0,
            sent_bytes: lengths[n] * 112_000,
            paused: n == 3,
        }
    };
    let rounds = (0..if failed { 2 } else { lengths.len() })
        .map(round)
        .collect();
    (rounds, at)
}

fn predictions(id: u32, total: u64, normal: u64) -> Vec<Prediction> {
    let prediction = |model: &str, bias: f64| Prediction {
        model: model.into(),
        total_time_ms: total as f64 * (1.0 + bias),
        downtime_ms: None,
        bytes: normal as f64,
        total_time_error: Some(bias),
        downtime_error: (model == "qemu").then_some(bias * 2.0),
        bytes_error: Some(bias / 3.0),
    };
    vec![
        prediction("ram-over-bandwidth", -0.4 + f64::from(id) / 100.0),
        prediction("qemu", 0.004 * f64::from(id) - 0.02),
    ]
}

fn source_report(
    begin: &u64,
    end: u64,
    stop: Option<u64>,
    rounds: Vec<Round>,
    normal: u64,
    failed: bool,
) -> SourceReport {
    SourceReport {
        status: if failed {
            Status::Failed
        } else {
            Status::Completed
        },
        error: None,
        begin_ns: *begin,
        setup_end_ns: begin + 12 * MS,
        stop_ns: stop,
        suspended_ns: None,
        parameters: Vec::new(),
        end_ns: end,
        phases: Vec::new(),
        rounds,
        decisions: Vec::new(),
        throttles: Vec::new(),
        bytes: BytesByKind {
            normal,
            header: 900,
            control: 100,
            device: 64 << 10,
            delta: 0,
        },
        multifd_bytes: 0,
        xbzrle: None,
        precopy_bytes: normal - 1_000_000,
        downtime_bytes: 1_000_000,
        dirty_sync_count: 4,
        dirty_pages_rate: 2000,
        pages_per_second: 28_000,
        tcp: vec![TcpSample::default(); 3],
        cpu_ns: 1,
        run_queue_ns: 1,
        writers: None,
        postcopy: None,
    }
}
