//! The switch to post-copy and the pull, decisions by hand in virtual time.

use super::*;
use crate::migration::params::PostcopyParams;

const MS: u64 = NS_PER_MS;

fn params(postcopy: PostcopyParams) -> MigrationParams {
    MigrationParams {
        downtime_limit: 300,
        postcopy: PostcopyParams {
            ram: true,
            ..postcopy
        },
        ..MigrationParams::default()
    }
}

fn seen(dirty_pages: u64, accepted_bytes: u64) -> Observed {
    Observed {
        dirty_pages,
        accepted_bytes,
        sent_pages: accepted_bytes / 4104,
        ..Observed::default()
    }
}

fn started(params: &MigrationParams) -> QemuEngine {
    let mut engine = QemuEngine::new(params, 0, &seen(100_000, 0));
    engine.synced(0, 0, 100_000);
    engine
}

#[test]
fn post_copy_alone_switches_before_its_first_page() {
    let all = MigrationParams {
        engine: EngineKind::PostCopy,
        ..params(PostcopyParams::default())
    };
    let mut engine = started(&all);
    assert_eq!(engine.next(0, &seen(100_000, 0)), Step::StartPostcopy);
    let decision = engine.take_decision().unwrap();
    assert!(decision.switchover);
    assert_eq!(decision.exact_bytes, 100_000 * 4096);
}

#[test]
fn an_order_is_obeyed_at_the_next_decision_whatever_is_left() {
    let mut engine = started(&params(PostcopyParams::default()));
    assert!(matches!(
        engine.next(0, &seen(90_000, 0)),
        Step::SendSlice(_)
    ));
    let ordered = Observed {
        start_postcopy: true,
        ..seen(80_000, 2_000_000)
    };
    // In the middle of the first pass, nothing measured yet.
    assert_eq!(engine.next(51 * MS, &ordered), Step::StartPostcopy);
}

#[test]
fn after_the_first_pass_means_the_decision_after_its_sync() {
    let rule = PostcopyParams {
        after_precopy: true,
        ..PostcopyParams::default()
    };
    let mut engine = started(&params(rule));
    assert!(matches!(
        engine.next(0, &seen(90_000, 0)),
        Step::SendSlice(_)
    ));
    // 5,000,000 bytes in 103 ms: the threshold is 3555 pages, as in the tests of pre-copy.
    let low = seen(3555, 5_000_000);
    assert_eq!(engine.next(103 * MS, &low), Step::Sync);
    engine.synced(103 * MS, 60_000, 63_555);
    // libvirt has just heard of it: this decision still sends a slice.
    let found = seen(63_555, 5_000_000);
    assert!(matches!(engine.next(104 * MS, &found), Step::SendSlice(_)));
    let later = seen(62_000, 7_400_000);
    assert_eq!(engine.next(155 * MS, &later), Step::StartPostcopy);
    assert_eq!(
        engine.statistics().dirty_sync_count,
        2,
        "the last one is the source's"
    );
}

#[test]
fn a_pass_that_leaves_little_completes_as_pre_copy() {
    let rule = PostcopyParams {
        after_precopy: true,
        ..PostcopyParams::default()
    };
    let mut engine = started(&params(rule));
    engine.next(0, &seen(90_000, 0));
    let low = seen(3555, 5_000_000);
    assert_eq!(engine.next(103 * MS, &low), Step::Sync);
    engine.synced(103 * MS, 0, 3555);
    assert_eq!(engine.next(104 * MS, &low), Step::Complete);
}

#[test]
fn a_timeout_switches_at_the_first_decision_past_it() {
    let rule = PostcopyParams {
        timeout: Some(200),
        ..PostcopyParams::default()
    };
    let mut engine = started(&params(rule));
    for at_ms in [0, 51, 102, 153, 199] {
        let step = engine.next(at_ms * MS, &seen(90_000, at_ms * 40_000));
        assert!(matches!(step, Step::SendSlice(_)), "{at_ms}: {step:?}");
    }
    let step = engine.next(250 * MS, &seen(90_000, 10_000_000));
    assert_eq!(step, Step::StartPostcopy);
}

/// 20,000,000 B/s are 2,000,000 a window of 100 ms.
#[test]
fn pulling_has_a_credit_of_its_own_that_requests_ignore() {
    let rule = PostcopyParams {
        max_bandwidth: 20_000_000,
        ..PostcopyParams::default()
    };
    let all = MigrationParams {
        engine: EngineKind::PostCopy,
        max_bandwidth: 1_000,
        ..params(rule)
    };
    let mut engine = started(&all);
    assert_eq!(engine.next(0, &seen(1000, 0)), Step::StartPostcopy);
    engine.postcopy_started();
    let Step::SendSlice(slice) = engine.next(MS, &seen(1000, 0)) else {
        panic!("a slice first");
    };
    assert!(slice.has_credit(2_000_000) && !slice.has_credit(2_000_001));
    // Spent after 40 ms: asleep until the window ends, unless somebody waits for a page.
    let spent = seen(500, 2_000_100);
    assert_eq!(engine.next(40 * MS, &spent), Step::SleepUntil(100 * MS));
    let urgent = Observed {
        urgent: true,
        ..spent
    };
    let Step::SendSlice(slice) = engine.next(41 * MS, &urgent) else {
        panic!("urgent pages go at once");
    };
    assert!(!slice.has_credit(2_000_100), "and only they");
    // The next window; nothing dirtied, nothing synced; then nothing is left.
    let step = engine.next(100 * MS, &seen(400, 2_004_204));
    assert!(matches!(step, Step::SendSlice(_)));
    assert_eq!(engine.next(130 * MS, &seen(0, 3_700_000)), Step::Complete);
    assert_eq!(engine.statistics().dirty_sync_count, 1);
}
