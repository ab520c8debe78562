//! Decisions computed by hand.

use super::*;
use crate::migration::params::MemoryMode;

const SECOND: u64 = 1_000_000_000;

fn params(engine: EngineKind) -> MigrationParams {
    MigrationParams {
        engine,
        downtime_limit: 300,
        timeout: 60_000,
        ..MigrationParams::default()
    }
}

/// One pass or what else was done, as text.
fn told(step: &Step, dirty: u64) -> String {
    match step {
        Step::SendPass(_) => format!("pass {dirty}"),
        Step::SendSlice(slice) => {
            assert_eq!(*slice, Slice::unlimited(), "neither clock nor credit");
            format!("round {dirty}")
        }
        Step::Sync => "sync".to_owned(),
        Step::Complete => format!("complete {dirty}"),
        Step::GiveUp => format!("give up {dirty}"),
        Step::SleepUntil(_) | Step::StartPostcopy => {
            panic!("an engine of passes: {step:?}")
        }
    }
}

/// Runs an engine over a guest of `ram` pages whose log says `found` at one sync after another and
/// then for ever its last. Pages cross at 10,000 a second; of each pass `skipped` stay.
fn run(params: &MigrationParams, ram: u64, found: &[u64], skipped: u64) -> Vec<String> {
    let mut seen = Observed {
        dirty_pages: ram,
        ..Observed::default()
    };
    let stop_pages = match params.engine {
        EngineKind::QemuRounds => 5000,
        _ => 50,
    };
    let mut engine = PassEngine::new(params, stop_pages, 0, &seen);
    engine.synced(0, ram);
    let (mut now, mut syncs, mut steps) = (0, 0, Vec::new());
    loop {
        let step = engine.next(now, &seen);
        steps.push(told(&step, seen.dirty_pages));
        match step {
            Step::SendPass(_) | Step::SendSlice(_) => {
                let skips = matches!(&step, Step::SendPass(pass) if pass.skip_rewritten);
                let left = if skips { skipped } else { 0 };
                let sent = seen.dirty_pages - left.min(seen.dirty_pages);
                now += sent * SECOND / 10_000;
                seen.sent_pages += sent;
                seen.accepted_bytes += sent * 4112;
                seen.dirty_pages -= sent;
            }
            Step::Sync => {
                let new = found[syncs.min(found.len() - 1)];
                syncs += 1;
                seen.dirty_pages = new;
                engine.synced(now, new);
            }
            _ => return steps,
        }
        assert!(steps.len() < 1000, "it never ends");
    }
}

#[test]
fn xen_sends_everything_and_four_dirty_sets_and_stops_without_reading_the_log() {
    let xen = params(EngineKind::Xen);
    assert_eq!(
        run(&xen, 10_000, &[400, 300, 200, 100], 0),
        [
            "pass 10000",
            "sync",
            "pass 400",
            "sync",
            "pass 300",
            "sync",
            "pass 200",
            "sync",
            "pass 100",
            "complete 0",
        ]
    );
}

#[test]
fn fewer_than_fifty_pages_are_sent_live_and_end_xens_passes() {
    let xen = params(EngineKind::Xen);
    assert_eq!(
        run(&xen, 10_000, &[50, 49], 0),
        [
            "pass 10000",
            "sync",
            "pass 50",
            "sync",
            "pass 49",
            "complete 0"
        ]
    );
    assert_eq!(
        run(&xen, 10_000, &[0], 0),
        ["pass 10000", "sync", "complete 0"]
    );
    // At a space scale of ten the threshold is five pages.
    let seen = Observed {
        dirty_pages: 5,
        ..Observed::default()
    };
    let mut engine = PassEngine::new(&xen, 5, 0, &seen);
    assert_eq!(engine.next(0, &seen), Step::SendPass(Pass::default()));
    assert!(!engine.take_decision().unwrap().switchover);
}

/// The first of the logs of `qemu-precopy-rounds/memcached/ram8192`, as it was, and its neighbour that went on.
#[test]
fn rounds_of_the_patched_qemu_end_at_five_thousand_pages_or_after_fifty() {
    let rounds = params(EngineKind::QemuRounds);
    assert_eq!(
        run(&rounds, 2_101_458, &[35_988, 15_815, 12_122, 5058, 3242], 0),
        [
            "round 2101458",
            "sync",
            "round 35988",
            "sync",
            "round 15815",
            "sync",
            "round 12122",
            "sync",
            "round 5058",
            "sync",
            "complete 3242",
        ]
    );
    assert_eq!(
        run(&rounds, 10_000, &[5001, 5000], 0),
        ["round 10000", "sync", "round 5001", "sync", "complete 5000"]
    );
    let steps = run(&rounds, 10_000, &[6000], 0);
    let sent = steps.iter().filter(|step| step.starts_with("round"));
    assert_eq!(sent.count(), 50);
    assert_eq!(steps.last().unwrap(), "complete 6000");
}

#[test]
fn legacy_xen_ends_after_29_passes_or_three_times_the_ram_or_a_small_pass() {
    let legacy = params(EngineKind::XenLegacy);
    // 100 pages a pass: 10,000 + 28 × 100 is below three times the RAM.
    let steps = run(&legacy, 10_000, &[100], 0);
    let passes = |steps: &[String]| steps.iter().filter(|step| step.starts_with("pass")).count();
    assert_eq!(passes(&steps), 29);
    // 10,000 + n × 6,000 > 30,000 after the fourth dirty pass (34,000).
    assert_eq!(passes(&run(&legacy, 10_000, &[6000], 0)), 5);
    // The judgement is of the pass that was, skipped pages included: 49 end it, though none was sent.
    assert_eq!(
        run(&legacy, 10_000, &[49], 49),
        ["pass 10000", "sync", "pass 49", "complete 49"]
    );
    // What was skipped is not part of the total: 5,000 of 6,000 stay, so 29 passes again.
    assert_eq!(passes(&run(&legacy, 10_000, &[6000], 5500)), 29);
}

#[test]
fn cloud_hypervisor_keeps_a_table_that_fits_into_the_downtime() {
    let cloud = params(EngineKind::CloudHypervisor);
    // 10,000 pages a second, 300 ms: 3000 pages fit, 3001 do not.
    assert_eq!(
        run(&cloud, 10_000, &[3001, 3000], 0),
        ["pass 10000", "sync", "pass 3001", "sync", "complete 3000"]
    );
    assert_eq!(
        run(&cloud, 10_000, &[0], 0),
        ["pass 10000", "sync", "complete 0"]
    );
}

#[test]
fn cloud_hypervisors_post_copy_stops_the_guest_before_the_first_page() {
    let params = MigrationParams {
        memory_mode: MemoryMode::Postcopy,
        ..params(EngineKind::CloudHypervisor)
    };
    let seen = Observed {
        dirty_pages: 10_000,
        ..Observed::default()
    };
    let mut engine = PassEngine::new(&params, 50, 0, &seen);
    engine.synced(0, 10_000);
    assert_eq!(engine.next(0, &seen), Step::StartPostcopy);
    assert!(engine.take_decision().unwrap().switchover);
    assert_eq!(engine.statistics().dirty_sync_count, 1);
}

#[test]
fn cloud_hypervisors_timeout_cancels_or_counts_as_fitting() {
    // The first pass takes 1 s, each other 0.5 s: at 60 s it has sent 118 of them.
    let cancel = params(EngineKind::CloudHypervisor);
    let steps = run(&cancel, 10_000, &[5000], 0);
    assert_eq!(steps.last().unwrap(), "give up 5000");
    assert_eq!(
        steps.iter().filter(|step| *step == "pass 5000").count(),
        118
    );
    let ignore = MigrationParams {
        timeout_strategy: TimeoutStrategy::Ignore,
        ..cancel
    };
    let steps = run(&ignore, 10_000, &[5000], 0);
    assert_eq!(steps.last().unwrap(), "complete 5000");
}

#[test]
fn cloud_hypervisor_takes_the_bandwidth_of_the_pass_before() {
    let cloud = params(EngineKind::CloudHypervisor);
    let mut seen = Observed {
        dirty_pages: 1000,
        ..Observed::default()
    };
    let mut engine = PassEngine::new(&cloud, 50, 0, &seen);
    engine.synced(0, 1000);
    assert!(matches!(engine.next(0, &seen), Step::SendPass(_)));
    // 1000 pages in 2 s.
    seen = Observed {
        dirty_pages: 0,
        accepted_bytes: 4_098_000,
        sent_pages: 1000,
        ..Observed::default()
    };
    assert_eq!(engine.next(2 * SECOND, &seen), Step::Sync);
    engine.synced(2 * SECOND, 600);
    seen.dirty_pages = 600;
    assert!(matches!(engine.next(2 * SECOND, &seen), Step::SendPass(_)));
    let decision = engine.take_decision().unwrap();
    assert_eq!(decision.bandwidth_bytes_per_s, 2_048_000);
    assert_eq!(decision.threshold_bytes, 614_400);
    assert_eq!(engine.statistics().expected_downtime_ms, 1200);
    assert_eq!(engine.statistics().dirty_pages_rate, 300);
    // The next one crosses ten times as fast: 1500 pages are 300 ms.
    seen = Observed {
        dirty_pages: 0,
        accepted_bytes: 4_098_000 + 2_458_816,
        sent_pages: 1600,
        ..Observed::default()
    };
    let later = 2 * SECOND + SECOND / 8;
    assert_eq!(engine.next(later, &seen), Step::Sync);
    engine.synced(later, 1440);
    seen.dirty_pages = 1440;
    assert_eq!(engine.next(later, &seen), Step::Complete);
    assert!(engine.take_decision().unwrap().switchover);
}

#[test]
fn stop_and_copy_stops_at_once() {
    assert_eq!(
        run(&params(EngineKind::StopAndCopy), 10_000, &[1], 0),
        ["complete 10000"]
    );
}
