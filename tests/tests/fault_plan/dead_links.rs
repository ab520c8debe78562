//! A link that dies after the last byte, for good, with both hosts alive and nobody at hand: what ends the wait, and
//! who owns the VM then.
//!
//! Never inside: cancels by hand (`cancels`).

use super::{first_record, plan};
use migbed::migration::record::{MigrationRecord, Owner, Phase, Status};
use migbed_tests::{Seen, one_move, turn};

/// How the source's wait may end, and a run with it: far below TCP's own 925 s.
const STOOD_STILL_MAX_NS: u64 = 30_000_000_000;

/// The links are cut as the phase begins, and never come back.
fn cut(phase: Phase, migration: &str) -> (MigrationRecord, Seen) {
    let fault = plan("do = \"link-cut\"", phase);
    let scenario = format!("{}[migration]\n{migration}{fault}", one_move());
    let (record, events) = first_record(&scenario);
    assert_eq!(record.faults.len(), 1, "{migration}: {record:?}");
    assert_eq!(record.faults[0].when, format!("phase {}", phase.name()));
    (record, events)
}

/// The guest stood still at its source for a while, and runs there again.
fn stays(record: &MigrationRecord, events: &Seen, status: Status) {
    assert_eq!(
        (record.owner, record.status),
        (Owner::Source, status),
        "{record:?}"
    );
    let still_ns = events.stood_still_ns().expect("it runs again");
    assert!(still_ns < STOOD_STILL_MAX_NS, "{still_ns}");
}

/// It runs at the destination, whole, and the record says why the source did not hear of it.
fn went(record: &MigrationRecord, error: &str) {
    assert_eq!(
        (record.owner, record.status),
        (Owner::Destination, Status::Completed),
        "{record:?}"
    );
    assert!(record.verified, "{record:?}");
    let told = record.error.as_deref().expect("a reason");
    assert!(told.contains(error), "{told}");
}

/// The reason of the one thing that the orchestrator did.
fn abort(record: &MigrationRecord) -> &str {
    match &record.deeds[..] {
        [deed] if deed.deed == "abort" => &deed.why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_orchestrators_time_ends_the_wait_where_the_engine_has_none() {
    let test = "the_orchestrators_time_ends_the_wait_where_the_engine_has_none";
    let Some(_turn) = turn(test) else {
        return;
    };
    for return_path in [true, false] {
        let keys = format!("return-path = {return_path}\ncompletion-timeout = \"4s\"\n");
        let (record, events) = cut(Phase::Switchover, &keys);
        stays(&record, &events, Status::Cancelled);
        assert_eq!(record.error.as_deref(), Some("cancelled"));
        assert!(abort(&record).contains("completion-timeout"), "{keys}");
    }
    // The guest runs at the destination, and its word is lost: nothing is to be taken back.
    let (record, _) = cut(Phase::Resume, "completion-timeout = \"4s\"\n");
    went(&record, "did not come");
    assert!(abort(&record).contains("completion-timeout"));
}

#[test]
fn the_engines_own_socket_options_end_the_wait() {
    let Some(_turn) = turn("the_engines_own_socket_options_end_the_wait") else {
        return;
    };
    // Cloud Hypervisor gives up what is not acknowledged, after 120 s if nobody says otherwise.
    let cloud = "engine = \"cloud-hypervisor\"\nuser-timeout = \"2s\"\n";
    let (record, events) = cut(Phase::Switchover, cloud);
    stays(&record, &events, Status::Failed);
    let why = record.error.as_deref().expect("a reason");
    assert!(why.contains("timed out"), "{why}");
    assert!(record.deeds.is_empty(), "{:?}", record.deeds);
    // QEMU probes if it is told to. (The time-out is for an acknowledgement that the cut took.)
    let qemu = "keep-alive = true\nkeep-alive-idle = \"1s\"\nkeep-alive-interval = \"1s\"\n\
                user-timeout = \"3s\"\n";
    let (record, _) = cut(Phase::Resume, qemu);
    went(&record, "timed out");
    assert!(record.deeds.is_empty(), "{:?}", record.deeds);
}
