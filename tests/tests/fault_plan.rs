//! Fault plans of scenarios through the whole program: every phase, every fault; who owns the VM,
//! never two copies, and the next migration.
//!
//! A selection runs always; the whole matrix with `--ignored` (docs/validation.md has its figures).

use migbed::event::{Event, EventKind};
use migbed::migration::record::{MigrationRecord, Owner, Phase, Status};
use migbed_tests::{Before, Sandbox, Seen, json_file, seen, turn};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};

/// Three hosts; `vm` leaves h1 for h2 at 2 s of trace time, 0.3 s on the wire, and goes on to h3
/// at 12 s from wherever it is then.
const MOVES: &str = r#"
name = "faults"
seed = 3
duration = "14s"

[network]
link = { rate = "400Mbit", queue = "512KB" }

[[hosts]]
name = "h"
count = 3
cores = 2
ram = "1GiB"

[[vms]]
name = "vm"
ram = "32MiB"
resident = "8MiB"
cpu = { cores = 0.5 }
writes = { classes = [{ pages = 500, rate = 1.0 }] }
host = "h1"

[[vms]]
name = "stays"
ram = "16MiB"
host = "h3"

[[migrations]]
at = "2s"
vm = "vm"
to = "h2"

[[migrations]]
at = "12s"
vm = "vm"
to = "h3"
"#;

/// The phases of a pre-copy.
const PRE_COPY: &[Phase] = Phase::ALL.split_last().expect("some").1;

/// A fault as it stands in a scenario, and who owns the VM after it, before and from the resume on.
struct Case {
    says: &'static str,
    before: Owner,
    after: Owner,
}

const CASES: &[Case] = &[
    Case {
        says: "do = \"vm-crash\"\nof = \"source\"",
        before: Owner::Lost,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"vm-crash\"\nof = \"destination\"",
        before: Owner::Source,
        after: Owner::Lost,
    },
    Case {
        says: "do = \"host-power-loss\"\nof = \"source\"\nsilence = \"300ms\"",
        before: Owner::Lost,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"host-power-loss\"\nof = \"destination\"\nsilence = \"300ms\"",
        before: Owner::Source,
        after: Owner::Lost,
    },
    Case {
        says: "do = \"host-power-loss\"\nof = \"source\"\nsilence = \"300ms\"\nfenced = false",
        before: Owner::Stranded,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"controller-crash\"\ndown_for = \"200ms\"",
        before: Owner::Destination,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"link-cut\"\nrestored_after = \"300ms\"",
        before: Owner::Destination,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"link-change\"\nrate = \"25%\"",
        before: Owner::Destination,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"connection-reset\"",
        before: Owner::Source,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"connection-reset\"\nof = \"destination\"",
        before: Owner::Source,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"destination-refuses\"",
        before: Owner::Source,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"cancel\"",
        before: Owner::Source,
        after: Owner::Destination,
    },
    Case {
        says: "do = \"set-parameters\"\nparameters = { downtime-limit = \"100ms\" }",
        before: Owner::Destination,
        after: Owner::Destination,
    },
];

fn plan(says: &str, phase: Phase) -> String {
    format!(
        "\n[[faults]]\nmigration = 1\nat_phase = \"{}\"\n{says}\n",
        phase.name()
    )
}

/// At every instant at most one copy runs, told from the events alone: where guests are placed,
/// stop and run, and hosts that go.
fn never_two(events: &Seen, what: &str) {
    let mut order: Vec<&Event> = events.0.iter().collect();
    order.sort_by_key(|event| event.mono_ns);
    let mut running: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut placed = BTreeSet::new();
    for event in order {
        match &event.kind {
            // The first says where it begins; later ones where it has come to.
            EventKind::Placed { vm, host } if placed.insert(vm.0) => {
                running.entry(vm.0).or_default().insert(host.0);
            }
            EventKind::GuestRuns { vm, host, runs } => {
                let on = running.entry(vm.0).or_default();
                if *runs {
                    on.insert(host.0);
                } else {
                    on.remove(&host.0);
                }
            }
            EventKind::HostLost { host } => {
                for on in running.values_mut() {
                    on.remove(&host.0);
                }
            }
            EventKind::FaultStruck { struck, .. } if struck.action == "host-power-loss" => {
                let dark = struck.host.expect("of one end").0;
                for on in running.values_mut() {
                    on.remove(&dark);
                }
            }
            _ => {}
        }
        for (vm, on) in &running {
            assert!(on.len() <= 1, "{what}: VM {vm} runs on {on:?}");
        }
    }
}

fn strikes(events: &Seen) -> Vec<(String, String)> {
    let struck = |event: &Event| match &event.kind {
        EventKind::FaultStruck { struck, .. } => Some((struck.action.clone(), struck.when.clone())),
        _ => None,
    };
    events.0.iter().filter_map(struck).collect()
}

/// The second migration, of a VM that is still there.
fn next_one_succeeds(records: &BTreeMap<u32, MigrationRecord>, what: &str) {
    let next = records
        .get(&2)
        .unwrap_or_else(|| panic!("{what}: no second migration"));
    assert_eq!(next.status, Status::Completed, "{what}: {:?}", next.error);
    assert!(next.verified, "{what}");
    assert_eq!(next.owner, Owner::Destination, "{what}");
}

/// Runs one case and looks at everything.
fn runs(case: &Case, phase: Phase) {
    let what = format!("{} at {}", case.says.replace('\n', ", "), phase.name());
    let sandbox = Sandbox::new();
    let before = Before::now();
    let scenario = format!("{MOVES}{}", plan(case.says, phase));
    let path = sandbox.file("faults.toml", scenario);
    let running = sandbox.start_scenario(&path, &[]);
    let (_, processes, namespaces) = running.holds(3);
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
    before.nothing_left(&sandbox, &processes, &namespaces, &["out"]);
    let events = seen(&sandbox.work().join("out"));
    never_two(&events, &what);
    let records = events.records();
    let first = &records[&1];
    let owner = if phase == Phase::Resume {
        case.after
    } else {
        case.before
    };
    assert_eq!(first.owner, owner, "{what}: {first:?}");
    assert_eq!(first.faults.len(), 1, "{what}: {:?}", first.faults);
    assert_eq!(
        strikes(&events),
        [(
            first.faults[0].action.clone(),
            format!("phase {}", phase.name())
        )],
        "{what}"
    );
    assert!(first.faults[0].held_ns.is_some(), "{what}");
    match owner {
        Owner::Source => {
            assert!(first.error.is_some(), "{what}");
            next_one_succeeds(&records, &what);
        }
        Owner::Destination => {
            assert!(first.verified, "{what}: {:?}", first.destination_report);
            next_one_succeeds(&records, &what);
        }
        Owner::Lost | Owner::Stranded => {
            assert!(first.error.is_some(), "{what}: it is not said why");
            assert!(!records.contains_key(&2), "{what}: it is gone");
        }
    }
}

#[test]
fn faults_strike_where_they_are_planned() {
    let Some(_turn) = turn("faults_strike_where_they_are_planned") else {
        return;
    };
    // Each fault once, over all phases; the whole matrix is the test below.
    for (index, case) in CASES.iter().enumerate() {
        runs(case, PRE_COPY[index % PRE_COPY.len()]);
    }
}

/// In the middle of two seconds of pulling: the guest runs at h2, and most of its pages are at h1.
#[test]
fn a_post_copy_is_taken_up_again_or_its_loss_has_a_reason() {
    let Some(_turn) = turn("a_post_copy_is_taken_up_again_or_its_loss_has_a_reason") else {
        return;
    };
    let pulls = "\n[migration]\nengine = \"post-copy\"\nmax-postcopy-bandwidth = \"4MB/s\"\n\
                 postcopy-stall-timeout = \"300ms\"\npostcopy-recover-interval = \"100ms\"\n";
    for (says, owner) in [
        ("do = \"vm-crash\"\nof = \"source\"", Owner::Lost),
        ("do = \"vm-crash\"\nof = \"destination\"", Owner::Lost),
        (
            "do = \"host-power-loss\"\nof = \"source\"\nsilence = \"300ms\"",
            Owner::Lost,
        ),
        (
            "do = \"host-power-loss\"\nof = \"destination\"\nsilence = \"300ms\"",
            Owner::Lost,
        ),
        (
            "do = \"link-cut\"\nrestored_after = \"1s\"",
            Owner::Destination,
        ),
        ("do = \"connection-reset\"", Owner::Destination),
        ("do = \"cancel\"", Owner::Destination),
    ] {
        let sandbox = Sandbox::new();
        let fault = format!("\n[[faults]]\nmigration = 1\nafter = \"1s\"\n{says}\n");
        let path = sandbox.file("faults.toml", format!("{MOVES}{pulls}{fault}"));
        let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
        let events = seen(&sandbox.work().join("out"));
        never_two(&events, says);
        let records = events.records();
        let first = &records[&1];
        assert_eq!(first.owner, owner, "{says}: {first:?}");
        assert_eq!(first.faults.len(), 1, "{says}: {:?}", first.faults);
        if owner == Owner::Lost {
            assert!(first.error.is_some(), "{says}: it is not said why");
            assert!(!records.contains_key(&2), "{says}: it is gone");
            continue;
        }
        assert!(first.verified, "{says}: {:?}", first.destination_report);
        assert!(records[&2].verified, "{says}: {:?}", records[&2]);
        let served = first.source_report.as_ref().unwrap().postcopy.as_ref();
        let cuts = served.unwrap().interruptions.len();
        assert_eq!(cuts > 0, !says.contains("cancel"), "{says}: {served:?}");
    }
}

/// Cloud Hypervisor's is never taken up again: what ends its connection after the guest runs loses it, and before that
/// leaves it where it was.
#[test]
fn cloud_hypervisors_post_copy_is_over_with_its_connection() {
    let Some(_turn) = turn("cloud_hypervisors_post_copy_is_over_with_its_connection") else {
        return;
    };
    let pulls = "\n[migration]\nengine = \"cloud-hypervisor\"\nmemory-mode = \"postcopy\"\n\
                 postcopy-stall-timeout = \"1s\"\n";
    for (says, when, owner) in [
        (
            "do = \"connection-reset\"",
            "at_phase = \"pull\"",
            Owner::Lost,
        ),
        (
            "do = \"connection-reset\"",
            "at_phase = \"switchover\"",
            Owner::Source,
        ),
        (
            "do = \"vm-crash\"\nof = \"source\"",
            "at_phase = \"pull\"",
            Owner::Lost,
        ),
        (
            "do = \"host-power-loss\"\nof = \"destination\"\nsilence = \"300ms\"",
            "at_phase = \"pull\"",
            Owner::Lost,
        ),
        ("do = \"link-cut\"", "at_phase = \"pull\"", Owner::Lost),
        ("do = \"cancel\"", "at_phase = \"pull\"", Owner::Destination),
    ] {
        let sandbox = Sandbox::new();
        let what = format!("{when}: {says}");
        let fault = format!("\n[[faults]]\nmigration = 1\n{when}\n{says}\n");
        let path = sandbox.file("faults.toml", format!("{MOVES}{pulls}{fault}"));
        let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
        let events = seen(&sandbox.work().join("out"));
        never_two(&events, &what);
        let records = events.records();
        let first = &records[&1];
        assert_eq!(first.owner, owner, "{what}: {first:?}");
        assert_eq!(first.kind, "PostCopy", "{what}");
        assert_eq!(first.faults.len(), 1, "{what}: {:?}", first.faults);
        if owner == Owner::Lost {
            assert!(first.error.is_some(), "{what}: it is not said why");
            assert!(!records.contains_key(&2), "{what}: it is gone");
        } else {
            assert_eq!(first.verified, owner == Owner::Destination, "{what}");
            assert!(records[&2].verified, "{what}: {:?}", records[&2]);
        }
    }
}

#[test]
#[ignore = "minutes; docs/validation.md has its figures"]
fn every_phase_with_every_fault() {
    let Some(_turn) = turn("every_phase_with_every_fault") else {
        return;
    };
    let mut done = 0;
    for case in CASES {
        for &phase in PRE_COPY {
            runs(case, phase);
            done += 1;
        }
    }
    println!("{done} pairs of fault and phase, none doubled, none lost without a reason");
}

/// How long the first VM stood still at h1, ns; nothing if it was not stopped, or never ran again there.
fn stood_still_ns(events: &Seen) -> Option<u64> {
    let switched = |wanted: bool| {
        let at = |event: &Event| match event.kind {
            EventKind::GuestRuns { vm, host, runs } => {
                (vm.0 == 0 && host.0 == 0 && runs == wanted).then_some(event.mono_ns)
            }
            _ => None,
        };
        events.0.iter().find_map(at)
    };
    Some(switched(true)?.saturating_sub(switched(false)?))
}

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
        never_two(&events, &what);
        let first = &events.records()[&1];
        let ended = (first.status, first.owner);
        assert_eq!(
            ended,
            (Status::Cancelled, Owner::Source),
            "{what}: {first:?}"
        );
        let still_ns = stood_still_ns(&events).unwrap_or_default();
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
    let (one_move, _) = MOVES.rsplit_once("[[migrations]]").expect("two moves");
    for return_path in [false, true] {
        let what = format!("return path {return_path}");
        let scenario = format!(
            "{one_move}[migration]\nload-time = \"60s\"\nreturn-path = {return_path}\n\
             [[faults]]\nmigration = 1\nafter = \"4s\"\ndo = \"host-power-loss\"\n\
             of = \"destination\"\nsilence = \"300ms\"\n"
        );
        let (first, events) = first_record(&scenario);
        assert_eq!(first.owner, Owner::Source, "{what}: {first:?}");
        let source = first.source_report.as_ref().expect("its host lives");
        let mut phases = source.phases.iter();
        let switchover = phases.find(|span| span.phase == Phase::Switchover);
        let struck_ns = first.faults[0].at_ns;
        let sent_ns = switchover.expect("everything was sent").begin_ns;
        assert!(sent_ns < struck_ns, "{what}: before the last byte");
        let still_ns = stood_still_ns(&events).expect("it runs again");
        let bounds = 300_000_000..STOOD_STILL_MAX_NS;
        assert!(bounds.contains(&still_ns), "{what}: {still_ns}");
    }
}

/// A guest that writes faster than its migration may send, so that it never converges.
fn endless(more: &str) -> String {
    let busy = "{ pages = 4000, rate = 20.0, coupling = \"time\" }";
    let text = MOVES.replace("{ pages = 500, rate = 1.0 }", busy);
    let (text, _) = text.rsplit_once("[[migrations]]").expect("two moves");
    format!("{text}[migration]\nmax-bandwidth = \"20MB/s\"\ndowntime-limit = \"50ms\"\n{more}")
}

fn first_record(scenario: &str) -> (MigrationRecord, Seen) {
    let sandbox = Sandbox::new();
    let path = sandbox.file("patience.toml", scenario);
    let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
    let events = seen(&sandbox.work().join("out"));
    never_two(&events, scenario);
    (events.records()[&1].clone(), events)
}

#[test]
fn orchestrators_end_what_never_converges() {
    let Some(_turn) = turn("orchestrators_end_what_never_converges") else {
        return;
    };
    // virsh: the guest is stopped after 2 s, and then it converges.
    let libvirt = "[orchestrator]\npolicy = \"libvirt\"\ntimeout = \"2s\"\n";
    let (record, _) = first_record(&endless(libvirt));
    let deeds: Vec<&str> = record.deeds.iter().map(|deed| &*deed.deed).collect();
    assert_eq!(deeds, ["suspend"], "{record:?}");
    assert!(
        record.verified && record.owner == Owner::Destination,
        "{record:?}"
    );
    let source = record.source_report.as_ref().unwrap();
    let suspended_ns = source.suspended_ns.unwrap() - source.begin_ns;
    // Its clock started with the source's.
    assert!(suspended_ns >= 2_000_000_000, "{suspended_ns}");
    // 16 MB at 20 MB/s, guest stopped: far more than the limit of 50 ms.
    assert!(record.observed_outage_ms.unwrap() > 100.0, "{record:?}");
    // An operator: switched to post-copy as the second round begins.
    let switched =
        "postcopy-ram = true\n[[faults]]\nmigration = 1\nat_round = 1\ndo = \"start-postcopy\"\n";
    let (record, _) = first_record(&endless(switched));
    assert!(
        record.verified && record.owner == Owner::Destination,
        "{record:?}"
    );
    assert_eq!(record.faults[0].action, "start-postcopy");
    let phases = &record.source_report.as_ref().unwrap().phases;
    assert!(phases.iter().any(|span| span.phase == Phase::Pull));
    // KubeVirt: passes gain nothing, and what they leave takes 0.8 s, far more than it may: it gives up.
    let kubevirt = "[orchestrator]\npolicy = \"kubevirt\"\nmax-downtime = \"50ms\"\n\
                    stall-detector = { stall-progress-timeout = \"2s\" }\n";
    let (record, _) = first_record(&endless(kubevirt));
    assert_eq!(
        (record.status, record.owner),
        (Status::Cancelled, Owner::Source),
        "{record:?}"
    );
    // First its own limit, then the end.
    let done = |of: usize| {
        let deed = &record.deeds[of];
        (&*deed.deed, deed.detail.as_deref().unwrap_or_default())
    };
    assert_eq!(done(0), ("downtime-limit", "50"), "{:?}", record.deeds);
    let (deed, why) = done(1);
    assert!(deed == "abort" && why.contains("stalled"), "{deed}: {why}");
    assert_eq!(record.error.as_deref(), Some("cancelled"));
    // … unless it may disrupt: then the limit is lifted, and the migration is through at once.
    let lifted = format!("{kubevirt}allow-workload-disruption = true\n");
    let (record, _) = first_record(&endless(&lifted));
    assert!(
        record.verified && record.owner == Owner::Destination,
        "{:?}",
        record.deeds
    );
    let last = record.deeds.last().expect("two deeds");
    assert_eq!(last.detail.as_deref(), Some("2000000"));
    // An operator raises the limit: 16 MB at 20 MB/s fit into 2 s. A controller that crashes
    // meanwhile changes nothing about it.
    let raised = "[[faults]]\nmigration = 1\nafter = \"1500ms\"\ndo = \"set-parameters\"\n\
                  parameters = { downtime-limit = \"2s\" }\n\
                  [[faults]]\nmigration = 1\nat_round = 1\ndo = \"controller-crash\"\n";
    let (record, events) = first_record(&endless(raised));
    assert!(
        record.verified && record.owner == Owner::Destination,
        "{record:?}"
    );
    let step = &record.source_report.as_ref().unwrap().parameters[0];
    assert_eq!(step.change.downtime_limit, Some(2000));
    assert_eq!(strikes(&events).len(), 2);
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

#[test]
fn a_controller_that_crashes_in_any_phase_learns_from_the_hosts() {
    let test = "a_controller_that_crashes_in_any_phase_learns_from_the_hosts";
    let Some(_turn) = turn(test) else {
        return;
    };
    for &phase in PRE_COPY {
        let what = phase.name();
        let sandbox = Sandbox::new();
        let says = "do = \"controller-crash\"\ndown_for = \"700ms\"";
        let path = sandbox.file("faults.toml", format!("{MOVES}{}", plan(says, phase)));
        let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
        let events = seen(&sandbox.work().join("out"));
        never_two(&events, what);
        let at = |wanted: fn(&EventKind) -> bool| {
            events
                .0
                .iter()
                .find(|event| wanted(&event.kind))
                .map(|event| event.mono_ns)
        };
        let crashed = at(|kind| matches!(kind, EventKind::ControllerCrashed));
        let back = at(|kind| {
            matches!(
                kind,
                EventKind::ControllerRecovered {
                    hosts: 3,
                    migrations: 1
                }
            )
        });
        let away_ns = back.expect(what) - crashed.expect(what);
        assert!(away_ns >= 700_000_000, "{what}: {away_ns}");
        let records = events.records();
        assert!(records[&1].verified, "{what}");
        // Its account was with its host, not with the manager.
        assert!(records[&1].source_report.is_some(), "{what}");
        next_one_succeeds(&records, what);
    }
}
