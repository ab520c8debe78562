//! Orchestrators' policies through the whole program: what each does to a migration that does not converge, and
//! nothing to one that does. Asserted are decisions, never times.
//!
//! Never inside: the policies' own arithmetic (`emulator/src/orchestrator/tests`).

use super::first_record;
use migbed::migration::record::{DeedDone, MigrationRecord, Owner, Phase, Status};
use migbed_tests::{MOVES, endless, one_move, turn};

/// Everything done, and the limits set, in ms.
fn deeds(record: &MigrationRecord) -> Vec<(&str, Option<u64>)> {
    let of = |deed: &DeedDone| deed.downtime_limit_ms;
    let all = record.deeds.iter();
    all.map(|deed| (&*deed.deed, of(deed))).collect()
}

/// It ended where it should, whole.
fn moved(record: &MigrationRecord) {
    assert_eq!(record.status, Status::Completed, "{:?}", record.deeds);
    assert_eq!(record.owner, Owner::Destination, "{:?}", record.deeds);
    assert!(record.verified, "{:?}", record.destination_report);
}

/// The limits that the source took over, ms, in order.
fn obeyed(record: &MigrationRecord) -> Vec<u64> {
    let source = record.source_report.as_ref().expect("its host lives");
    let steps = source.parameters.iter();
    steps
        .filter_map(|step| step.change.downtime_limit)
        .collect()
}

#[test]
fn virsh_and_operators_end_what_never_converges() {
    let Some(_turn) = turn("virsh_and_operators_end_what_never_converges") else {
        return;
    };
    // virsh: the guest is stopped after 2 s, and then it converges.
    let libvirt = "[orchestrator]\npolicy = \"libvirt\"\ntimeout = \"2s\"\n";
    let (record, _) = first_record(&endless(libvirt));
    assert_eq!(deeds(&record), [("suspend", None)], "{record:?}");
    moved(&record);
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
    moved(&record);
    assert_eq!(record.faults[0].action, "start-postcopy");
    let phases = &record.source_report.as_ref().unwrap().phases;
    assert!(phases.iter().any(|span| span.phase == Phase::Pull));
    // An operator raises the limit: 16 MB at 20 MB/s fit into 2 s. A controller that crashes
    // meanwhile changes nothing about it.
    let raised = "[[faults]]\nmigration = 1\nafter = \"1500ms\"\ndo = \"set-parameters\"\n\
                  parameters = { downtime-limit = \"2s\" }\n\
                  [[faults]]\nmigration = 1\nat_round = 1\ndo = \"controller-crash\"\n";
    let (record, events) = first_record(&endless(raised));
    moved(&record);
    assert_eq!(obeyed(&record), [2000]);
    assert_eq!(events.strikes().len(), 2);
}

/// VEP 291: what is left after each pass takes 0.82 s, far more than the 150 ms to begin with; it completes once the
/// limit has been raised beyond that.
#[test]
fn kubevirts_downtime_tuning_raises_the_limit_until_it_completes() {
    let test = "kubevirts_downtime_tuning_raises_the_limit_until_it_completes";
    let Some(_turn) = turn(test) else {
        return;
    };
    let tuned = "[orchestrator]\npolicy = \"kubevirt\"\nmax-downtime = \"1950ms\"\n\
                 downtime-tuning = { steps = 6, cooldown = \"1s\" }\n";
    let (record, _) = first_record(&endless(tuned));
    moved(&record);
    let set: Vec<u64> = deeds(&record)
        .iter()
        .map(|(deed, limit_ms)| {
            assert_eq!(*deed, "downtime-limit", "{:?}", record.deeds);
            limit_ms.expect("of a limit")
        })
        .collect();
    // Six equal steps of 300 ms, from the default of 150.
    assert!(
        [150, 450, 750, 1050, 1350, 1650, 1950].starts_with(&set),
        "{set:?}"
    );
    // One that was set as the guest stopped came too late.
    let obeyed = obeyed(&record);
    assert!(set.starts_with(&obeyed), "{set:?}, {obeyed:?}");
    assert!(obeyed.last() >= Some(&750), "{set:?}, {obeyed:?}");
    for (last, next) in record.deeds.iter().zip(&record.deeds[1..]) {
        // Only from the third iteration on, and a cooldown apart.
        assert!(next.iteration >= Some(3), "{:?}", record.deeds);
        let apart_ns = next.at_ns - last.at_ns;
        assert!(apart_ns >= 1_000_000_000, "{:?}", record.deeds);
    }
}

/// The stall detector on a migration that gains nothing. What is done first is its own limit, what is done last what
/// should be done about the stall.
fn stalled(keys: &str) -> MigrationRecord {
    let scenario = format!(
        "[orchestrator]\npolicy = \"kubevirt\"\n\
         stall-detector = {{ stall-progress-timeout = \"2s\" }}\n{keys}"
    );
    let (record, _) = first_record(&endless(&scenario));
    let last = record.deeds.last().expect("two deeds");
    assert!(last.why.starts_with("stalled"), "{:?}", record.deeds);
    // At the end of a pass: what was left then is what the next one began with. Two have ended before,
    // the first of them so long ago.
    let iteration = last.iteration.expect("it was looked at");
    assert!(iteration >= 3, "{:?}", record.deeds);
    let source = record.source_report.as_ref().expect("its host lives");
    let round = &source.rounds[usize::try_from(iteration).expect("few rounds") - 1];
    assert_eq!(
        last.remaining_bytes,
        Some(round.dirty_pages * 4096),
        "{:?}",
        record.deeds
    );
    record
}

/// VEP 248: each of its actions, as disruption, post-copy and `max-downtime` allow them.
#[test]
fn kubevirts_stall_detector_ends_a_stall_as_it_is_allowed_to() {
    let test = "kubevirts_stall_detector_ends_a_stall_as_it_is_allowed_to";
    let Some(_turn) = turn(test) else {
        return;
    };
    // 0.82 s are less than 1.2 s, and what remains is sent within it.
    let soft = stalled("max-downtime = \"1200ms\"\n");
    let limits = [300, 1200].map(|ms| ("downtime-limit", Some(ms)));
    assert_eq!(deeds(&soft), limits);
    moved(&soft);
    assert_eq!(obeyed(&soft), [300, 1200]);
    // Far over 1.5 × 50 ms: it gives up …
    let hopeless = stalled("max-downtime = \"50ms\"\n");
    let first = ("downtime-limit", Some(50));
    assert_eq!(deeds(&hopeless), [first, ("abort", None)]);
    assert_eq!(hopeless.status, Status::Cancelled);
    assert_eq!(hopeless.owner, Owner::Source);
    assert_eq!(hopeless.error.as_deref(), Some("cancelled"));
    // … unless it may disrupt: the limit is lifted …
    let hard = stalled("max-downtime = \"50ms\"\nallow-workload-disruption = true\n");
    let lifted = ("downtime-limit", Some(2_000_000));
    assert_eq!(deeds(&hard), [first, lifted]);
    moved(&hard);
    // … or the guest is switched.
    let switched = stalled("max-downtime = \"50ms\"\nallow-post-copy = true\n");
    assert_eq!(deeds(&switched), [first, ("start-postcopy", None)]);
    moved(&switched);
    let phases = &switched.source_report.as_ref().unwrap().phases;
    assert!(phases.iter().any(|span| span.phase == Phase::Pull));
}

/// Each pass leaves a fifth of the one before: two seconds in all, and nobody has anything to do but to set its limit.
#[test]
fn kubevirts_gates_leave_alone_what_converges() {
    let test = "kubevirts_gates_leave_alone_what_converges";
    let Some(_turn) = turn(test) else {
        return;
    };
    assert!(MOVES.contains("{ pages = 500, rate = 1.0 }"), "the guest");
    for (gate, initial_ms) in [
        ("downtime-tuning = {}", 150),
        ("stall-detector = { stall-progress-timeout = \"2s\" }", 300),
    ] {
        let scenario = format!(
            "{}[migration]\nmax-bandwidth = \"5MB/s\"\n[orchestrator]\npolicy = \"kubevirt\"\n{gate}\n\
             allow-post-copy = true\n",
            one_move()
        );
        let (record, _) = first_record(&scenario);
        moved(&record);
        let limit = ("downtime-limit", Some(initial_ms));
        assert_eq!(deeds(&record), [limit], "{gate}");
        assert_eq!(obeyed(&record), [initial_ms], "{gate}");
    }
}
