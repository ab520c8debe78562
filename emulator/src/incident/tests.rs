//! What logs become, and scenarios that load.

use super::*;
use crate::scenario;
use std::path::Path;
use traces::migration_log::Poll;

const PAGES: u64 = 100_000;

/// 400 MB, 60,000 pages zero, 1 Gbit/s, a reading every second that finds 5,000 pages, until it is called off.
fn log() -> MigrationLog {
    let mut polls = Vec::new();
    let mut poll = Poll {
        remaining: PAGES * PAGE_SIZE,
        mbps: Some(1000.0),
        expected_downtime_ms: Some(200),
        syncs: 1,
        ..Poll::default()
    };
    for tenth in 1..=200u64 {
        poll.at_ms = tenth * 100;
        let sent = (125_000_000 / 10 / PAGE_SIZE).min(poll.remaining / PAGE_SIZE);
        poll.normal += sent;
        poll.remaining -= sent * PAGE_SIZE;
        if tenth == 1 {
            poll.zero = 60_000;
            poll.remaining -= 60_000 * PAGE_SIZE;
        }
        if tenth >= 20 && tenth.is_multiple_of(10) {
            poll.syncs += 1;
            poll.remaining += 5000 * PAGE_SIZE;
        }
        poll.transferred = poll.normal * 4104 + poll.zero * 9;
        polls.push(poll);
    }
    MigrationLog {
        name: "bad \"one\"".to_owned(),
        ram_bytes: PAGES * PAGE_SIZE,
        polls,
        ..MigrationLog::default()
    }
}

#[test]
fn a_log_says_what_to_emulate() {
    let incident = Incident::of(&log(), &[]).unwrap();
    assert_eq!(incident.nonzero_pages, 40_000);
    assert_eq!(incident.downtime_limit_ms, 200);
    assert_eq!(
        incident.max_bandwidth, None,
        "nothing says that it was a limit"
    );
    // 3,051 pages of 4,104 bytes in 100 ms; 1538 bytes carry 1448.
    let sent = 3051.0 * 4104.0 * 10.0 * 8.0;
    assert!((incident.rate.bps() as f64 / (sent * 1538.0 / 1448.0) - 1.0).abs() < 1e-6);
    assert_eq!(
        incident.cancel_after_ms,
        Some(20_000),
        "called off when the log ends"
    );
    let lone = incident.lone(1, 2);
    assert_eq!((lone.scale, lone.params.engine), (2, EngineKind::Qemu));
    let found = unique(&incident, 1.0);
    assert!((found / 5000.0 - 1.0).abs() < 0.1, "{found}");
    // What is written is not zero either, and counted once.
    let written: u64 = incident
        .curve
        .as_ref()
        .unwrap()
        .classes
        .iter()
        .map(|c| u64::from(c.pages))
        .sum();
    assert_eq!(lone.resident_bytes, (40_000 - written) * PAGE_SIZE);
}

fn unique(incident: &Incident, window_s: f64) -> f64 {
    let curve = incident.curve.as_ref().unwrap();
    traces::class::unique_pages(&curve.classes, window_s)
}

#[test]
fn a_last_burst_tells_a_limit_from_a_link() {
    let mut log = log();
    log.completed = true;
    log.downtime_ms = Some(20);
    let last = log.polls.last_mut().unwrap();
    last.downtime_bytes = Some(10_000_000);
    last.precopy_bytes = Some(1);
    let incident = Incident::of(&log, &[]).unwrap();
    assert_eq!(incident.max_bandwidth, Some(125_213_040));
    // 500 MB/s.
    assert!((incident.rate.bps() as f64 / (4e9 * 1538.0 / 1448.0) - 1.0).abs() < 1e-6);
    assert_eq!(incident.scale(1_100_000_000), 4);
    assert_eq!(incident.cancel_after_ms, Some(80_000));
}

#[test]
fn a_log_with_pages_of_rounds_is_of_the_qemu_that_sends_rounds() {
    let mut log = log();
    log.completed = true;
    (log.rounds, log.downtime_ms) = (vec![PAGES, 6000, 300], Some(20));
    let incident = Incident::of(&log, &[]).unwrap();
    assert_eq!(incident.lone(1, 4).params.engine, EngineKind::QemuRounds);
    let text = scenario(&incident, 4);
    assert!(text.contains("engine = \"qemu-rounds\"") && !text.contains("downtime-limit ="));
    let loaded = scenario::parse(Path::new("incident.toml"), &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded.migration, incident.lone(1, 4).scenario().migration);
    log.rounds.clear();
    let incident = Incident::of(&log, &[]).unwrap();
    assert_eq!(incident.lone(1, 4).params.engine, EngineKind::Qemu);
}

#[test]
fn what_is_written_under_a_throttle_counts_in_the_cpu_time_there_was() {
    let mut throttled = log();
    for poll in &mut throttled.polls[100..] {
        poll.throttle = Some(50);
    }
    let incident = Incident::of(&throttled, &[]).unwrap();
    assert!(incident.auto_converge);
    let (calm, throttled) = (Incident::of(&log(), &[]).unwrap(), incident);
    let points = |incident: &Incident| incident.curve.as_ref().unwrap().points;
    assert_eq!(points(&throttled), points(&calm));
    // Readings a second apart have half a second of CPU time between them.
    let shortest = |incident: &Incident| incident.curve.as_ref().unwrap().windows_s.0;
    let share = shortest(&throttled) / shortest(&calm);
    assert!((share - 0.5).abs() < 0.01, "{share}");
}

#[test]
fn what_a_log_does_not_say_is_told() {
    let without = |change: fn(&mut MigrationLog)| {
        let mut log = log();
        change(&mut log);
        Incident::of(&log, &[]).unwrap_err()
    };
    assert!(matches!(
        without(|log| log.ram_bytes = 0),
        IncidentError::NoRam { .. }
    ));
    assert!(matches!(
        without(|log| log.polls.clear()),
        IncidentError::NoBandwidth { .. }
    ));
    assert!(matches!(
        without(|log| log.polls.truncate(15)),
        IncidentError::Curve(_)
    ));
    assert!(matches!(
        without(|log| log.polls[50].postcopy = true),
        IncidentError::PostCopy { .. }
    ));
    let mut switched = log();
    (switched.completed, switched.downtime_ms) = (true, Some(2));
    for poll in &mut switched.polls[100..] {
        (poll.postcopy, poll.precopy_bytes) = (true, Some(1_270_000_000));
    }
    switched.polls.last_mut().unwrap().transferred = 6_270_000_000;
    // 125.2 MB/s: 10,143 ms, between the answers at 10.0 and 10.1 s; then 5 GB in 9.9 s.
    let incident = Incident::of(&switched, &[]).unwrap();
    let params = incident.lone(1, 4).params;
    assert_eq!(params.postcopy.timeout, Some(10_100));
    assert_eq!(params.max_bandwidth, 125_213_040);
    let payload = incident.rate.bps() as f64 * 1448.0 / 1538.0 / 8.0;
    assert!((payload / (5e9 / 9.9) - 1.0).abs() < 1e-6, "{payload}");
    let text = scenario(&incident, 4);
    let loaded = scenario::parse(Path::new("incident.toml"), &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded.migration, incident.lone(1, 4).scenario().migration);
    // Another migration of the guest says it.
    let mut short = log();
    short.polls.truncate(15);
    let incident = Incident::of(&short, &[log()]).unwrap();
    assert!((unique(&incident, 1.0) / 5000.0 - 1.0).abs() < 0.1);
}

#[test]
fn a_scenario_of_an_incident_loads_and_is_the_incident() {
    let incident = Incident::of(&log(), &[]).unwrap();
    let text = scenario(&incident, 4);
    let loaded = scenario::parse(Path::new("incident.toml"), &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let lone = incident.lone(1, 4).scenario();
    assert_eq!(loaded.scale, 4);
    assert_eq!(loaded.vms[0].ram_bytes, lone.vms[0].ram_bytes);
    assert_eq!(loaded.vms[0].resident_bytes, lone.vms[0].resident_bytes);
    let up = |scenario: &scenario::Scenario| {
        scenario
            .network
            .topology
            .link_named("source-up")
            .unwrap()
            .spec
    };
    assert_eq!(
        (up(&loaded).rate, up(&loaded).queue),
        (up(&lone).rate, up(&lone).queue)
    );
    assert_eq!(loaded.migration, lone.migration);
    // Every assumption stands above it.
    for note in &incident.notes {
        assert!(text.contains(note.as_str()), "{note}");
    }
}

#[test]
fn a_bundle_holds_the_profile() {
    let incident = Incident::of(&log(), &[]).unwrap();
    let bundle = bundle(&incident, "a log");
    assert_eq!(bundle.vms[0].dirty_profile, Some(0));
    assert_eq!(bundle.dirty_profiles[&0], incident.curve.unwrap().classes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    bundle.write(&path).unwrap();
    let back = traces::store::bundle::Bundle::read(&path).unwrap();
    assert_eq!(back.dirty_profiles, bundle.dirty_profiles);
}
