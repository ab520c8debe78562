//! Decisions computed by hand from the originals' rules.

use super::*;

mod kubevirt;

const S: u64 = 1_000_000_000;

fn acts(deeds: &[Deed]) -> Vec<Act> {
    deeds.iter().map(|deed| deed.act).collect()
}

fn seen(policy: &mut Patience, s: u64, remaining: u64) -> Vec<Deed> {
    let seen = Look {
        remaining_bytes: remaining,
        ..Look::default()
    };
    policy.look(s * S, &seen)
}

fn at(policy: &mut Patience, s: u64, remaining: u64) -> Option<Act> {
    let deeds = seen(policy, s, remaining);
    assert!(deeds.len() <= 1, "{deeds:?}");
    deeds.first().map(|deed| deed.act)
}

/// The reason of an abort that is all that is done.
fn aborted(deeds: &[Deed]) -> &str {
    match deeds {
        [deed] if deed.act == Act::Abort => &deed.why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nova_raises_the_limit_in_ten_steps_to_500_ms() {
    let spec = OrchestratorSpec::Nova(NovaParams::default());
    let mut policy = Patience::new(&spec, 2 * GIB, 0).unwrap();
    // 75 s a GiB: a step every 150 s, from 50 ms on by 45 ms.
    assert_eq!(at(&mut policy, 0, 0), None);
    assert_eq!(at(&mut policy, 1, 0), Some(Act::DowntimeLimit(50)));
    assert_eq!(at(&mut policy, 150, 0), None);
    assert_eq!(at(&mut policy, 151, 0), Some(Act::DowntimeLimit(95)));
    assert_eq!(at(&mut policy, 152, 0), None);
    assert_eq!(at(&mut policy, 601, 0), Some(Act::DowntimeLimit(230)));
    assert_eq!(at(&mut policy, 1501, 0), Some(Act::DowntimeLimit(500)));
    assert_eq!(at(&mut policy, 1600, 0), None);
    // 800 s a GiB.
    assert_eq!(
        aborted(&seen(&mut policy, 1601, 0)),
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
    assert_eq!(at(&mut policy, 20, 0), Some(Act::DowntimeLimit(50)));
    assert_eq!(at(&mut policy, 21, 0), Some(Act::Suspend));
    assert_eq!(at(&mut policy, 5000, 0), None);
    let permitted = NovaParams {
        live_migration_permit_post_copy: true,
        ..params
    };
    let mut policy = Patience::new(&OrchestratorSpec::Nova(permitted), GIB, 0).unwrap();
    assert_eq!(at(&mut policy, 21, 0), Some(Act::StartPostcopy));
}

#[test]
fn virsh_suspends_once() {
    let params = LibvirtParams {
        timeout: 30_000,
        on_timeout: OnTimeout::Suspend,
    };
    let mut policy = Patience::new(&OrchestratorSpec::Libvirt(params), GIB, 7 * S).unwrap();
    assert_eq!(at(&mut policy, 36, 1), None);
    assert_eq!(at(&mut policy, 37, 1), Some(Act::Suspend));
    assert_eq!(at(&mut policy, 99, 1), None);
    assert!(Patience::new(&OrchestratorSpec::Timeout, GIB, 0).is_none());
}

/// A source that takes 700 ms to begin loses nothing of its time: real ones were cancelled 60.000 s after the
/// command, `total-time` 60,000 ms, whatever came before.
#[test]
fn an_orchestrators_clock_starts_with_setup() {
    let setup_ns = 7 * S / 10;
    let cancel_at = |ms| match OrchestratorSpec::Timeout.begin(GIB, ms, setup_ns) {
        Time::CancelAt(at_ns) => at_ns,
        looks @ Time::Looks { .. } => panic!("{looks:?}"),
    };
    assert_eq!(cancel_at(Some(60_000)), Some(60 * S + setup_ns));
    assert_eq!(cancel_at(None), None);
    assert_eq!(cancel_at(Some(u64::MAX)), Some(u64::MAX), "never");
    let begun = |spec: OrchestratorSpec| match spec.begin(GIB, None, setup_ns) {
        Time::Looks { patience, at_ns } => (patience, at_ns),
        never @ Time::CancelAt(_) => panic!("{never:?}"),
    };
    let (_, at_ns) = begun(OrchestratorSpec::Kubevirt(KubevirtParams::default()));
    assert_eq!(at_ns, setup_ns + 400 * NS_PER_MS);
    let (_, at_ns) = begun(OrchestratorSpec::Nova(NovaParams::default()));
    assert_eq!(at_ns, setup_ns + 500 * NS_PER_MS);
    let params = LibvirtParams {
        timeout: 2000,
        on_timeout: OnTimeout::Suspend,
    };
    let (mut virsh, at_ns) = begun(OrchestratorSpec::Libvirt(params));
    assert_eq!(at_ns, setup_ns + 500 * NS_PER_MS);
    assert_eq!(virsh.look(setup_ns + 2 * S - 1, &Look::default()), []);
    let suspended = virsh.look(setup_ns + 2 * S, &Look::default());
    assert_eq!(acts(&suspended), [Act::Suspend]);
}
