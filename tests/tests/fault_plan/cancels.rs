//! Migrations that somebody cancels, or whose destination dies after the last byte: the guest runs again at once.
//!
//! Never inside: who decides to cancel by himself (`orchestrators`).

use super::{first_record, plan};
use migbed::event::EventKind;
use migbed::migration::record::{Owner, Phase, Status};
use migbed_tests::{Before, MOVES, Sandbox, json_file, one_move, seen, turn};
use nix::sys::signal::Signal;

/// Well below what a source waits by itself for a word that does not come (60 s; without a return path it
/// is the destination that waits, 120 s), and well above what a loaded computer makes of a few messages.
const STOOD_STILL_MAX_NS: u64 = 30_000_000_000;

#[test]
fn a_cancelled_run_leaves_the_vm_at_its_source_in_every_phase() {
    let test = "a_cancelled_run_leaves_the_vm_at_its_source_in_every_phase";
    let Some(_turn) = turn(test) else {
        return;
    };
    // A link that is cut for good holds it in the phase, or in the switchover once the sockets have taken
    // everything: then the destination decides, which cannot have it all. The interrupt comes meanwhile.
    let held = [
        (Phase::Handshake, false),
        (Phase::Rounds, false),
        (Phase::Pause, false),
        (Phase::FinalRound, true),
        (Phase::State, false),
        (Phase::Switchover, false),
        (Phase::Switchover, true),
    ];
    for (phase, return_path) in held {
        let what = format!("{}, return path {return_path}", phase.name());
        let sandbox = Sandbox::new();
        let before = Before::now();
        let slow = MOVES.replace("400Mbit", "20Mbit").replace("14s", "60s");
        let cut = plan("do = \"link-cut\"", phase);
        let scenario = format!("{slow}\n[migration]\nreturn-path = {return_path}\n{cut}");
        let path = sandbox.file("faults.toml", scenario);
        let mut running = sandbox.start_scenario(&path, &[]);
        let (tree, processes, namespaces) = running.holds(3);
        let out = sandbox.work().join("out");
        running.until(&out, |kind| matches!(kind, EventKind::FaultStruck { .. }));
        tree.migbed.signal(Signal::SIGINT);
        let _ = running.finish().expect_code(130);
        before.nothing_left(&sandbox, &processes, &namespaces, &["out"]);
        let events = seen(&out);
        assert_eq!(events.two_copies(), None, "{what}");
        let first = &events.records()[&1];
        let ended = (first.status, first.owner);
        assert_eq!(
            ended,
            (Status::Cancelled, Owner::Source),
            "{what}: {first:?}"
        );
        let still_ns = events.stood_still_ns().unwrap_or_default();
        assert!(still_ns < STOOD_STILL_MAX_NS, "{what}: {still_ns}");
        assert_eq!(json_file(&out.join("run.json"))["outcome"], "interrupted");
    }
}

/// The destination has everything and is loading it when its host goes: it has not committed, so the guest
/// runs again at its source as soon as that is known.
#[test]
fn a_destination_that_dies_while_it_loads_does_not_keep_the_guest_waiting() {
    let test = "a_destination_that_dies_while_it_loads_does_not_keep_the_guest_waiting";
    let Some(_turn) = turn(test) else {
        return;
    };
    for return_path in [false, true] {
        let what = format!("return path {return_path}");
        let scenario = format!(
            "{}[migration]\nload-time = \"60s\"\nreturn-path = {return_path}\n\
             [[faults]]\nmigration = 1\nafter = \"4s\"\ndo = \"host-power-loss\"\n\
             of = \"destination\"\nsilence = \"300ms\"\n",
            one_move()
        );
        let (first, events) = first_record(&scenario);
        assert_eq!(first.owner, Owner::Source, "{what}: {first:?}");
        let source = first.source_report.as_ref().expect("its host lives");
        let mut phases = source.phases.iter();
        let switchover = phases.find(|span| span.phase == Phase::Switchover);
        let struck_ns = first.faults[0].at_ns;
        let sent_ns = switchover.expect("everything was sent").begin_ns;
        assert!(sent_ns < struck_ns, "{what}: before the last byte");
        let still_ns = events.stood_still_ns().expect("it runs again");
        let bounds = 300_000_000..STOOD_STILL_MAX_NS;
        assert!(bounds.contains(&still_ns), "{what}: {still_ns}");
    }
}

#[test]
fn one_migration_can_be_cancelled_and_changed_by_hand() {
    let Some(_turn) = turn("one_migration_can_be_cancelled_and_changed_by_hand") else {
        return;
    };
    let sandbox = Sandbox::new();
    let small = [
        "migrate",
        "--ram",
        "64MiB",
        "--resident",
        "16MiB",
        "--working-set",
        "4MiB",
        "--link",
        "400Mbit",
        "--max-bandwidth",
        "1MB/s",
        "--no-calibration",
        "--json",
    ];
    let run = |more: &[&str]| sandbox.run(&[&small[..], more].concat());
    let cancelled = run(&["--cancel-after", "500ms"]).expect_code(1).json();
    assert_eq!(cancelled["query_migrate"]["status"], "cancelled");
    assert_eq!(cancelled["owner"], "source");
    // Its clock is the operator's: never early.
    let ended_ms = cancelled["query_migrate"]["total-time"].as_u64().unwrap();
    assert!((500..10_000).contains(&ended_ms), "{cancelled}");
    let timed_out = run(&["--completion-timeout", "700ms"])
        .expect_code(1)
        .json();
    assert_eq!(timed_out["query_migrate"]["status"], "cancelled");
    let ended_ms = timed_out["query_migrate"]["total-time"].as_u64().unwrap();
    assert!((700..10_000).contains(&ended_ms), "{timed_out}");
    // 20 MiB at 1 MB/s take 20 s.
    let changed = run(&["--set", "500ms:max-bandwidth=40MB/s"])
        .expect_code(0)
        .json();
    let took_ms = changed["query_migrate"]["total-time"].as_u64().unwrap();
    assert!((500..10_000).contains(&took_ms), "{changed}");
    let refused = run(&["--set", "1s:downtime=1s"]).expect_code(2);
    assert!(
        refused.stderr.contains("downtime-limit"),
        "{}",
        refused.stderr
    );
}
