//! KubeVirt's monitor, its downtime tuning and its stall detector, by hand from their rules.

use super::*;

const GIGA: u64 = 1_000_000_000;
const MB: u64 = 1_000_000;

fn kubevirt(params: KubevirtParams, bytes: u64) -> Patience {
    Patience::new(&OrchestratorSpec::Kubevirt(params), bytes, 0).unwrap()
}

#[test]
fn it_aborts_after_150_s_a_giga() {
    let mut policy = kubevirt(KubevirtParams::default(), 2 * GIGA);
    // 300 s, in whole seconds: more is too long. What is left decreases all the while.
    for s in (0..=300).step_by(100) {
        assert_eq!(at(&mut policy, s, 10_000 - s), None, "{s}");
    }
    let nearly = Look {
        remaining_bytes: 2,
        ..Look::default()
    };
    assert_eq!(policy.look(301 * S - 1, &nearly), []);
    assert_eq!(
        aborted(&seen(&mut policy, 301, 1)),
        "not completed after 301 s"
    );
    assert_eq!(at(&mut policy, 302, 1), None, "once");
    // `ScaledValue(Giga)` rounds up: 1 GiB is 1.07 × 10⁹ bytes, so 2.
    let mut gib = kubevirt(KubevirtParams::default(), GIB);
    assert_eq!(at(&mut gib, 300, 2), None);
    assert!(at(&mut gib, 301, 1).is_some());
    let mut small = kubevirt(KubevirtParams::default(), GIB / 8);
    assert_eq!(at(&mut small, 150, 3), None);
    assert!(at(&mut small, 151, 2).is_some());
}

#[test]
fn it_aborts_what_does_not_get_less() {
    let mut policy = kubevirt(KubevirtParams::default(), 16 * GIGA);
    assert_eq!(at(&mut policy, 0, 500), None);
    // More, then less than that: its timer knows the look before, not the best.
    assert_eq!(at(&mut policy, 100, 900), None);
    assert_eq!(at(&mut policy, 140, 800), None);
    assert_eq!(at(&mut policy, 150, 800), None);
    assert_eq!(at(&mut policy, 290, 900), None);
    assert_eq!(aborted(&seen(&mut policy, 291, 900)), "stuck for 151 s");
    let never = KubevirtParams {
        progress_timeout: 0,
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(never, 16 * GIGA);
    assert_eq!(at(&mut policy, 0, 500), None);
    assert_eq!(at(&mut policy, 2000, 500), None);
}

#[test]
fn it_disrupts_where_it_may_and_gives_up_at_twice_the_time() {
    let allowed = KubevirtParams {
        allow_workload_disruption: Some(true),
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(allowed, GIGA);
    assert_eq!(at(&mut policy, 150, 900), None);
    assert_eq!(at(&mut policy, 151, 800), Some(Act::Suspend));
    assert_eq!(at(&mut policy, 152, 700), None, "once");
    assert_eq!(at(&mut policy, 300, 600), None);
    assert_eq!(
        aborted(&seen(&mut policy, 301, 500)),
        "not completed after 301 s"
    );
}

#[test]
fn it_never_aborts_post_copy_and_disruption_must_be_allowed_too() {
    let allowed = KubevirtParams {
        allow_post_copy: true,
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(allowed, GIGA);
    assert_eq!(at(&mut policy, 151, 800), Some(Act::StartPostcopy));
    for s in [152, 400, 100_000] {
        assert_eq!(at(&mut policy, s, 800), None);
    }
    let undisrupted = KubevirtParams {
        allow_workload_disruption: Some(false),
        ..allowed
    };
    assert!(!OrchestratorSpec::Kubevirt(undisrupted).wants_postcopy());
    let mut policy = kubevirt(undisrupted, GIGA);
    assert_eq!(
        aborted(&seen(&mut policy, 151, 800)),
        "not completed after 151 s"
    );
}

/// VEP 291's own example: 1050 ms in 7 steps from 150 ms, 10 s apart, once the third iteration is there.
#[test]
fn downtime_is_tuned_in_steps() {
    let tuned = KubevirtParams {
        max_downtime: 1050,
        downtime_tuning: Some(DowntimeTuningParams::default()),
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(tuned, 50 * GIGA);
    let mut left = 100_000;
    let mut look = |s: u64, iteration| {
        left -= 1;
        let seen = Look {
            remaining_bytes: left,
            iteration,
            ..Look::default()
        };
        acts(&policy.look(s * S, &seen))
    };
    assert_eq!(look(0, 1), [Act::DowntimeLimit(150)]);
    assert_eq!(look(70, 2), [], "below the third");
    // (1050 − 150) / 7 = 128 ms; the cooldown has long passed since the first change.
    assert_eq!(look(75, 3), [Act::DowntimeLimit(278)]);
    assert_eq!(look(84, 9), [], "9 s");
    for (s, ms) in [
        (85, 406),
        (95, 534),
        (105, 662),
        (115, 790),
        (125, 918),
        (135, 1046),
        (145, 1050),
    ] {
        assert_eq!(look(s, s), [Act::DowntimeLimit(ms)]);
    }
    assert_eq!(look(300, 300), [], "the most");
}

/// Seconds, whether a pass ended, MB left, MB/s.
fn stalls(policy: &mut Patience, s: u64, boundary: bool, left: u64, bandwidth: u64) -> Vec<Act> {
    acts(&shown(policy, s, boundary, left, bandwidth))
}

/// The same, with the reasons.
fn shown(policy: &mut Patience, s: u64, boundary: bool, left: u64, bandwidth: u64) -> Vec<Deed> {
    let seen = Look {
        remaining_bytes: left * MB,
        iteration: s,
        bandwidth: (bandwidth * MB) as f64,
        boundary,
        ..Look::default()
    };
    policy.look(s * S, &seen)
}

fn stalling(more: impl FnOnce(&mut KubevirtParams)) -> Patience {
    let mut params = KubevirtParams {
        stall_detector: Some(StallDetectorParams::default()),
        ..KubevirtParams::default()
    };
    more(&mut params);
    let mut policy = kubevirt(params, 16 * GIGA);
    // min(max-downtime, 300) at the first look, which also is the first sample of the bandwidth.
    let first = stalls(&mut policy, 1, false, 9000, 100);
    let limit = params.max_downtime.min(300);
    assert_eq!(first, [Act::DowntimeLimit(limit)]);
    policy
}

/// Passes that gain until 30 s, and then come and go between 80 and 95 MB; 100 MB/s.
fn plateau(policy: &mut Patience) -> Vec<(u64, Vec<Act>)> {
    let left = [
        (10, 1000),
        (20, 400),
        (30, 80),
        (40, 95),
        (50, 90),
        (60, 92),
    ];
    let look = |(s, left)| (s, stalls(policy, s, true, left, 0));
    left.map(look).into_iter().collect()
}

#[test]
fn a_plateau_is_a_stall_and_is_left_where_little_remains() {
    let mut policy = stalling(|_| {});
    for (s, deeds) in plateau(&mut policy) {
        assert_eq!(deeds, [], "{s}");
    }
    // At 70 s the least at least 40 s ago is 80 MB, of the pass at 30 s: 76.8 MB or more is a stall. 81 MB
    // is within 4 % of the best, 80 MB, and takes 810 ms: it fits into 900.
    assert_eq!(
        stalls(&mut policy, 70, true, 81, 0),
        [Act::DowntimeLimit(900)]
    );
    assert_eq!(stalls(&mut policy, 80, true, 80, 0), [], "it is on its way");
    // It has 60 s to happen.
    assert_eq!(stalls(&mut policy, 130, false, 80, 100), []);
    let late = shown(&mut policy, 131, false, 80, 100);
    assert_eq!(aborted(&late), "not completed after 131 s");
}

#[test]
fn a_migration_that_still_gains_is_left_alone() {
    let mut policy = stalling(|_| {});
    let mut left = 10_000;
    for s in (10..=600).step_by(10) {
        // 5 % a pass: at 40 s ago there was more by far.
        left = left * 95 / 100;
        assert_eq!(stalls(&mut policy, s, true, left, 0), [], "{s}");
    }
}

#[test]
fn what_is_done_about_a_stall_depends_on_what_is_allowed() {
    let decided = |more: fn(&mut KubevirtParams)| {
        let mut policy = stalling(more);
        let _gained = plateau(&mut policy);
        shown(&mut policy, 70, true, 81, 0)
    };
    let post_copy = decided(|of| of.allow_post_copy = true);
    assert_eq!(acts(&post_copy), [Act::StartPostcopy]);
    let disrupted = decided(|of| of.allow_workload_disruption = Some(true));
    assert_eq!(acts(&disrupted), [Act::DowntimeLimit(2_000_000)]);
    let undisrupted = decided(|of| {
        of.allow_post_copy = true;
        of.allow_workload_disruption = Some(false);
    });
    assert_eq!(acts(&undisrupted), [Act::DowntimeLimit(900)]);
    // 810 ms are within 1.5 × 540 ms, and beyond 1.5 × 539 ms.
    let lucky = decided(|of| of.max_downtime = 540);
    assert_eq!(acts(&lucky), [Act::DowntimeLimit(540)]);
    let hopeless = decided(|of| of.max_downtime = 539);
    let why = aborted(&hopeless);
    assert!(why.contains("810 ms"), "{why}");
    // The reasons name KubeVirt's actions.
    for (deeds, action) in [
        (&lucky, "soft stop-and-copy"),
        (&disrupted, "hard stop-and-copy"),
    ] {
        assert!(deeds[0].why.ends_with(action), "{}", deeds[0].why);
    }
}

/// The detector asks for post-copy when the completion timeout passes, disruption allowed or not, as KubeVirt's code does: so
/// the migration must be one that can be switched.
#[test]
fn the_detector_may_switch_whatever_it_may_ask_to_switch() {
    let allowed = |detector| KubevirtParams {
        allow_post_copy: true,
        allow_workload_disruption: Some(false),
        stall_detector: detector,
        ..KubevirtParams::default()
    };
    let wants = |params| OrchestratorSpec::Kubevirt(params).wants_postcopy();
    assert!(!wants(allowed(None)));
    assert!(wants(allowed(Some(StallDetectorParams::default()))));
}

#[test]
fn a_best_that_never_comes_again_is_given_up_for_the_next() {
    let mut policy = stalling(|_| {});
    let _gained = plateau(&mut policy);
    // Stalled at 70 s with 80 MB as the best, and never below 84 again: 40 s of patience, until 110 s.
    for (s, left) in [(70, 95), (80, 90), (90, 92), (100, 91), (109, 94)] {
        assert_eq!(stalls(&mut policy, s, true, left, 0), [], "{s}");
    }
    // The least since is 90 MB: 93.6 MB will do, 96 MB does not.
    assert_eq!(stalls(&mut policy, 110, true, 96, 0), []);
    assert_eq!(
        stalls(&mut policy, 111, true, 93, 0),
        [Act::DowntimeLimit(900)]
    );
}

#[test]
fn a_switch_that_would_take_too_long_waits_for_the_link() {
    // 150 s a giga, 16 of them, twice: 4800 s. At 70 s 4730 are left; 81 MB at 17 kB/s take 4764 s.
    let mut policy = stalling(|of| of.allow_workload_disruption = Some(true));
    for (s, deeds) in plateau(&mut policy) {
        assert_eq!(deeds, [], "{s}");
    }
    for _ in 0..200 {
        let slow = Look {
            remaining_bytes: 81 * MB,
            bandwidth: 17_000.0,
            ..Look::default()
        };
        assert_eq!(policy.look(69 * S, &slow), []);
    }
    assert_eq!(stalls(&mut policy, 70, true, 81, 0), []);
    // 0.4 of 100 MB/s, and it is fast again.
    assert_eq!(stalls(&mut policy, 71, false, 81, 100), []);
    assert_eq!(
        stalls(&mut policy, 80, true, 81, 0),
        [Act::DowntimeLimit(2_000_000)]
    );
}

#[test]
fn the_completion_timeout_forces_what_may_be_forced() {
    let late = |more: fn(&mut KubevirtParams), s: u64| {
        let mut policy = stalling(more);
        assert_eq!(stalls(&mut policy, 2400, false, 9000, 100), [], "in time");
        let deeds = shown(&mut policy, s, false, 9000, 100);
        (policy, deeds)
    };
    let (_, nothing) = late(|_| {}, 2401);
    assert_eq!(aborted(&nothing), "not completed after 2401 s");
    let (mut policy, post_copy) = late(|of| of.allow_post_copy = true, 2401);
    assert_eq!(acts(&post_copy), [Act::StartPostcopy]);
    assert_eq!(stalls(&mut policy, 9999, false, 9000, 100), []);
    let (mut policy, stop) = late(|of| of.allow_workload_disruption = Some(true), 2401);
    assert_eq!(acts(&stop), [Act::DowntimeLimit(2_000_000)]);
    // The guest is stopped: it has until twice the time.
    let stopped = Look {
        remaining_bytes: 9000 * MB,
        bandwidth: 1e8,
        paused: true,
        ..Look::default()
    };
    assert_eq!(policy.look(4800 * S, &stopped), []);
    let late = policy.look(4801 * S, &stopped);
    assert_eq!(aborted(&late), "not completed after 4801 s");
}

#[test]
fn without_the_search_a_stall_is_left_at_once() {
    let mut policy = stalling(|of| {
        let detector = of.stall_detector.as_mut().expect("it is on");
        detector.search_local_minima = false;
        of.max_downtime = 1000;
    });
    let _gained = plateau(&mut policy);
    assert_eq!(
        stalls(&mut policy, 70, true, 95, 0),
        [Act::DowntimeLimit(1000)]
    );
}

proptest::proptest! {
    /// Whatever it sees: no panic, at most two deeds at once, and after an abort or post-copy none.
    #[test]
    fn nothing_follows_the_end(
        steps in proptest::collection::vec((0u64..100, proptest::bool::ANY, 0u64..2000, 0u64..200), 1..200),
        post_copy in proptest::bool::ANY,
        disrupts in proptest::option::of(proptest::bool::ANY),
    ) {
        let mut policy = stalling(|of| {
            of.allow_post_copy = post_copy;
            of.allow_workload_disruption = disrupts;
        });
        let (mut s, mut over) = (1, false);
        for (wait, boundary, left, bandwidth) in steps {
            s += wait;
            let deeds = stalls(&mut policy, s, boundary, left, bandwidth);
            proptest::prop_assert!(deeds.len() <= 2 && (deeds.is_empty() || !over));
            over |= deeds.iter().any(|deed| matches!(deed, Act::Abort | Act::StartPostcopy));
        }
    }
}
