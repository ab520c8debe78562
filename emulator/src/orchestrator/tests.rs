//! Decisions computed by hand from the originals' rules.

use super::*;

const S: u64 = 1_000_000_000;

fn at(policy: &mut Patience, s: u64, remaining: u64) -> Option<Deed> {
    let seen = Look {
        remaining_bytes: remaining,
    };
    policy.look(s * S, seen)
}

fn kubevirt(params: KubevirtParams, gib: u64) -> Patience {
    Patience::new(&OrchestratorSpec::Kubevirt(params), gib * GIB, 0).unwrap()
}

fn aborted(deed: Option<Deed>) -> String {
    match deed {
        Some(Deed::Abort { why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn kubevirt_aborts_after_150_s_a_gib() {
    let mut policy = kubevirt(KubevirtParams::default(), 2);
    // 300 s: more is too long. What is left decreases all the while.
    for s in (0..=300).step_by(100) {
        assert_eq!(at(&mut policy, s, 10_000 - s), None, "{s}");
    }
    assert_eq!(
        aborted(at(&mut policy, 301, 1)),
        "not completed after 301 s"
    );
    // Less than a GiB is taken for one.
    let mut small = Patience::new(
        &OrchestratorSpec::Kubevirt(KubevirtParams::default()),
        GIB / 8,
        5 * S,
    )
    .unwrap();
    assert_eq!(at(&mut small, 155, 3), None);
    assert!(at(&mut small, 156, 2).is_some());
}

#[test]
fn kubevirt_aborts_what_gains_nothing() {
    let mut policy = kubevirt(KubevirtParams::default(), 16);
    assert_eq!(at(&mut policy, 0, 500), None);
    assert_eq!(at(&mut policy, 100, 400), None);
    // More again, and as little as before: neither is less than ever.
    assert_eq!(at(&mut policy, 150, 900), None);
    assert_eq!(at(&mut policy, 240, 400), None);
    assert_eq!(at(&mut policy, 250, 500), None);
    assert_eq!(aborted(at(&mut policy, 251, 500)), "stuck for 151 s");
    let never = KubevirtParams {
        progress_timeout: 0,
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(never, 16);
    assert_eq!(at(&mut policy, 0, 500), None);
    assert_eq!(at(&mut policy, 2000, 500), None);
}

#[test]
fn kubevirt_disrupts_where_it_may_and_gives_up_at_twice_the_time() {
    let allowed = KubevirtParams {
        allow_workload_disruption: Some(true),
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(allowed, 1);
    assert_eq!(at(&mut policy, 150, 900), None);
    assert_eq!(at(&mut policy, 151, 800), Some(Deed::Suspend));
    assert_eq!(at(&mut policy, 152, 700), None, "once");
    assert_eq!(at(&mut policy, 300, 600), None);
    assert_eq!(
        aborted(at(&mut policy, 301, 500)),
        "not completed after 301 s"
    );
}

#[test]
fn kubevirt_never_aborts_post_copy() {
    let allowed = KubevirtParams {
        allow_post_copy: true,
        ..KubevirtParams::default()
    };
    let mut policy = kubevirt(allowed, 1);
    assert_eq!(at(&mut policy, 151, 800), Some(Deed::StartPostcopy));
    for s in [152, 400, 100_000] {
        assert_eq!(at(&mut policy, s, 800), None);
    }
}

#[test]
fn nova_raises_the_limit_in_ten_steps_to_500_ms() {
    let spec = OrchestratorSpec::Nova(NovaParams::default());
    let mut policy = Patience::new(&spec, 2 * GIB, 0).unwrap();
    // 75 s a GiB: a step every 150 s, from 50 ms on by 45 ms.
    assert_eq!(at(&mut policy, 0, 0), None);
    assert_eq!(at(&mut policy, 1, 0), Some(Deed::DowntimeLimit(50)));
    assert_eq!(at(&mut policy, 150, 0), None);
    assert_eq!(at(&mut policy, 151, 0), Some(Deed::DowntimeLimit(95)));
    assert_eq!(at(&mut policy, 152, 0), None);
    assert_eq!(at(&mut policy, 601, 0), Some(Deed::DowntimeLimit(230)));
    assert_eq!(at(&mut policy, 1501, 0), Some(Deed::DowntimeLimit(500)));
    assert_eq!(at(&mut policy, 1600, 0), None);
    // 800 s a GiB.
    assert_eq!(
        aborted(at(&mut policy, 1601, 0)),
        "not completed after 1601 s"
    );
}

#[test]
fn nova_forces_what_it_is_told_to_force() {
    let params = NovaParams {
        live_migration_timeout_action: TimeoutAction::ForceComplete,
        live_migration_completion_timeout: 10_000,
        ..NovaParams::default()
    };
    // A guest of less than 2 GiB is taken for one of 2.
    let mut policy = Patience::new(&OrchestratorSpec::Nova(params), GIB, 0).unwrap();
    assert_eq!(at(&mut policy, 20, 0), Some(Deed::DowntimeLimit(50)));
    assert_eq!(at(&mut policy, 21, 0), Some(Deed::Suspend));
    assert_eq!(at(&mut policy, 5000, 0), None);
    let permitted = NovaParams {
        live_migration_permit_post_copy: true,
        ..params
    };
    let mut policy = Patience::new(&OrchestratorSpec::Nova(permitted), GIB, 0).unwrap();
    assert_eq!(at(&mut policy, 21, 0), Some(Deed::StartPostcopy));
}

#[test]
fn virsh_suspends_once() {
    let params = LibvirtParams {
        timeout: 30_000,
        on_timeout: OnTimeout::Suspend,
    };
    let mut policy = Patience::new(&OrchestratorSpec::Libvirt(params), GIB, 7 * S).unwrap();
    assert_eq!(at(&mut policy, 36, 1), None);
    assert_eq!(at(&mut policy, 37, 1), Some(Deed::Suspend));
    assert_eq!(at(&mut policy, 99, 1), None);
    assert!(Patience::new(&OrchestratorSpec::Timeout, GIB, 0).is_none());
}
