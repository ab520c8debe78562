//! Hosts that die in the middle of a migration: nobody doubled, every loss attributed, and the next
//! migration succeeds.
//!
//! Every phase of one migration against every way a stream can break is beside the engine
//! (`emulator/src/migration/tests.rs`); here processes of a whole run are killed.

use migbed::event::EventKind;
use migbed::ids::{HostId, VmId};
use migbed::migration::record::{MigrationRecord, Owner, Phase, Status};
use migbed_tests::{QUEUE, Sandbox, Seen, seen, turn};

/// Runs `QUEUE`, with `small` bound for `to`, kills the agent of a host while `big` is on its way,
/// and returns the record of `big`, of `small`, and all events.
fn with_host_killed(killed: u32, to: &str) -> (MigrationRecord, MigrationRecord, Seen) {
    let sandbox = Sandbox::new();
    let second = format!("\n[[migrations]]\nat = \"10s\"\nvm = \"small\"\nto = \"{to}\"\n");
    let path = sandbox.file("queue.toml", format!("{QUEUE}{second}"));
    let mut running = sandbox.start_scenario(&path, &[]);
    let tree = running.tree(3);
    let out = sandbox.work().join("out");
    running.until(&out, |kind| {
        matches!(
            kind,
            EventKind::MigrationPhase {
                phase: Phase::Rounds,
                ..
            }
        )
    });
    let agent = usize::try_from(killed).expect("three hosts");
    tree.agents[agent].kill();
    let finished = running.finish().expect_code(0);
    assert!(finished.stderr.contains("is lost"), "{}", finished.stderr);
    let events = seen(&out);
    let lost = EventKind::HostLost {
        host: HostId(killed),
    };
    assert_eq!(
        events.0.iter().filter(|event| event.kind == lost).count(),
        1
    );
    let records = events.records();
    let of = |vm: &str| {
        let mut of = records.values().filter(|record| record.vm == vm);
        let record = of
            .next()
            .unwrap_or_else(|| panic!("no record of {vm}: {records:?}"));
        assert!(of.next().is_none(), "{vm} was moved twice");
        record.clone()
    };
    (of("big"), of("small"), events)
}

/// What VMs asked for after an instant: a VM that is not emulated any more asks for nothing.
fn sampled_after(events: &Seen, vm: u32, trace_ns: u64) -> Vec<u32> {
    let sample = |event: &migbed::event::Event| match &event.kind {
        EventKind::VmSample(sample)
            if sample.vm == VmId(vm) && event.trace_ns > trace_ns && sample.span_ns > 0 =>
        {
            Some(sample.host.0)
        }
        _ => None,
    };
    events.0.iter().filter_map(sample).collect()
}

fn succeeded(record: &MigrationRecord) {
    assert_eq!(record.status, Status::Completed, "{record:?}");
    assert_eq!(record.owner, Owner::Destination);
    assert!(record.verified);
}

#[test]
fn a_destination_that_dies_before_the_switchover_costs_nothing() {
    let Some(_turn) = turn("a_destination_that_dies_before_the_switchover_costs_nothing") else {
        return;
    };
    let (big, small, events) = with_host_killed(1, "h1");
    assert_eq!(
        (big.status, big.owner),
        (Status::Failed, Owner::Source),
        "{big:?}"
    );
    assert!(big.error.is_some());
    assert!(!big.verified);
    succeeded(&small);
    // It goes on running where it was, and only there.
    let where_ = sampled_after(&events, 0, 10_000_000_000);
    assert!(
        !where_.is_empty() && where_.iter().all(|&host| host == 0),
        "{where_:?}"
    );
}

#[test]
fn a_source_that_dies_takes_its_vms_and_says_so() {
    let Some(_turn) = turn("a_source_that_dies_takes_its_vms_and_says_so") else {
        return;
    };
    let (big, small, events) = with_host_killed(0, "h2");
    assert_eq!(
        (big.status, big.owner),
        (Status::Failed, Owner::Lost),
        "{big:?}"
    );
    assert!(big.error.is_some());
    succeeded(&small);
    for vm in [0, 2] {
        let where_ = sampled_after(&events, vm, 10_000_000_000);
        assert!(
            where_.is_empty(),
            "VM {vm} died with h1 but was seen on {where_:?}"
        );
    }
}
