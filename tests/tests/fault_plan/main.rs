//! Fault plans of scenarios through the whole program: every phase, every fault; who owns the VM,
//! never two copies, and the next migration.
//!
//! A selection runs always; the whole matrix with `--ignored` (docs/validation.md has its figures).

mod cancels;
mod dead_links;
mod orchestrators;

use migbed::event::EventKind;
use migbed::migration::record::{MigrationRecord, Owner, Phase, Status};
use migbed_tests::{Before, MOVES, Sandbox, Seen, seen, turn};
use std::collections::BTreeMap;

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

/// Runs a scenario, and gives the record of its first migration.
fn first_record(scenario: &str) -> (MigrationRecord, Seen) {
    let sandbox = Sandbox::new();
    let path = sandbox.file("plan.toml", scenario);
    let _ = sandbox.run_scenario(&path, &[]).expect_code(0);
    let events = seen(&sandbox.work().join("out"));
    assert_eq!(events.two_copies(), None, "{scenario}");
    (events.records()[&1].clone(), events)
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
    assert_eq!(events.two_copies(), None, "{what}");
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
        events.strikes(),
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
        assert_eq!(events.two_copies(), None, "{says}");
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
        assert_eq!(events.two_copies(), None, "{what}");
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
        assert_eq!(events.two_copies(), None, "{what}");
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
