//! The arbiter: refusals, limits, lost hosts, and any sequence of steps.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ROOM: u64 = 8;

fn size(ram_bytes: u64) -> Size {
    let vcpus = 2;
    Size { ram_bytes, vcpus }
}

fn mover(parallel: u32, parallel_per_host: u32) -> Mover {
    let vms: Vec<_> = (0..9)
        .map(|i| (HostId(i % 3), size(u64::from(i % 3 + 1))))
        .collect();
    Mover::new(
        Limits {
            outbound_per_host: None,
            parallel,
            parallel_per_host,
        },
        &[ROOM, ROOM, ROOM + 2].map(Room::of_ram),
        &vms,
    )
}

fn ask(mover: &mut Mover, vm: u32, host: u32) -> Result<MigrationId, Rejection> {
    mover.request(VmId(vm), HostId(host), "test".to_owned())
}

#[test]
fn each_reason_for_refusal_is_named() {
    let mut m = mover(1, 1);
    assert_eq!(ask(&mut m, 99, 0), Err(Rejection::UnknownVm(VmId(99))));
    assert_eq!(ask(&mut m, 0, 9), Err(Rejection::UnknownHost(HostId(9))));
    assert_eq!(
        ask(&mut m, 0, 0),
        Err(Rejection::SameHost {
            vm: VmId(0),
            host: HostId(0)
        })
    );
    let first = ask(&mut m, 0, 1).unwrap();
    assert_eq!(
        ask(&mut m, 0, 2),
        Err(Rejection::AlreadyMigrating {
            vm: VmId(0),
            migration: first
        })
    );
    // Host 1 holds 3 × 2 of 8 and 1 is on its way: 1 is left, not 3.
    let refused = ask(&mut m, 2, 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "vm#2 needs 3 bytes of RAM; host#1 has 1 left",
    );
    assert_eq!(
        m.cancel(MigrationId(7)),
        Err(Rejection::UnknownMigration(MigrationId(7)))
    );
}

#[test]
fn vcpus_on_their_way_count() {
    let limits = Limits {
        outbound_per_host: None,
        parallel: 1,
        parallel_per_host: 1,
    };
    let narrow = Room {
        vcpus: Some(3),
        ..Room::of_ram(9)
    };
    let vms: Vec<_> = (0..3).map(|_| (HostId(0), size(1))).collect();
    let mut m = Mover::new(limits, &[Room::of_ram(9), narrow], &vms);
    let first = ask(&mut m, 0, 1).unwrap();
    let refused = ask(&mut m, 1, 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "vm#1 has 2 vCPUs; host#1 admits 1 more"
    );
    m.cancel(first).unwrap();
    let second = ask(&mut m, 1, 1).unwrap();
    m.start();
    m.ended(second, Outcome::Moved).unwrap();
    assert!(
        ask(&mut m, 2, 1).is_err(),
        "the one that came stays counted"
    );
    let back = ask(&mut m, 1, 0).unwrap();
    m.start();
    m.ended(back, Outcome::Moved).unwrap();
    assert!(ask(&mut m, 2, 1).is_ok(), "the one that went is not");
}

#[test]
fn a_busy_host_does_not_hold_up_the_others() {
    let vms: Vec<_> = (0..4).map(|i| (HostId(i / 2), size(1))).collect();
    let mut m = Mover::new(
        Limits {
            outbound_per_host: None,
            parallel: 2,
            parallel_per_host: 1,
        },
        &[Room::of_ram(9); 4],
        &vms,
    );
    let a = ask(&mut m, 0, 1).unwrap();
    let b = ask(&mut m, 1, 2).unwrap(); // source host 0 is busy with a
    assert_eq!(m.start().iter().map(|s| s.id).collect::<Vec<_>>(), [a]);
    m.ended(a, Outcome::Stayed).unwrap();
    let c = ask(&mut m, 2, 3).unwrap();
    assert_eq!(m.start().iter().map(|s| s.id).collect::<Vec<_>>(), [b, c]);
}

#[test]
fn a_failed_move_leaves_everything_as_it_was() {
    let mut m = mover(1, 1);
    let before = (m.placements().to_vec(), m.ram_committed_bytes(HostId(1)));
    let id = ask(&mut m, 0, 1).unwrap();
    assert_eq!(m.start().len(), 1);
    assert_eq!(m.cancel(id), Ok(Cancelled::Stop(id)));
    m.ended(id, Outcome::Stayed).unwrap();
    assert_eq!(
        (m.placements().to_vec(), m.ram_committed_bytes(HostId(1))),
        before
    );
    assert_eq!(
        m.ended(id, Outcome::Moved),
        Err(Rejection::UnknownMigration(id))
    );
    ask(&mut m, 0, 1).unwrap();
}

#[test]
fn a_lost_host_takes_its_vms_but_not_those_on_their_way_out() {
    let mut m = mover(1, 1);
    let leaving = ask(&mut m, 0, 1).unwrap();
    m.start();
    let queued = ask(&mut m, 3, 2).unwrap();
    let (gone, dropped) = m.host_lost(HostId(0));
    assert_eq!(gone, [VmId(3), VmId(6)]);
    assert_eq!(dropped.iter().map(|d| d.id).collect::<Vec<_>>(), [queued]);
    m.ended(leaving, Outcome::Moved).unwrap();
    assert_eq!(
        m.placements()[0],
        Placement {
            host: HostId(1),
            ram_bytes: 1,
            vcpus: 2,
            gone: false
        }
    );
    let stuck = ask(&mut m, 0, 2).unwrap();
    m.start();
    assert_eq!(m.host_lost(HostId(1)).0, [VmId(1), VmId(4), VmId(7)]);
    m.ended(stuck, Outcome::Stayed).unwrap();
    assert!(m.placements()[0].gone, "it stayed on a host that has died");
    assert_eq!(ask(&mut m, 2, 0), Err(Rejection::HostLost(HostId(0))));
    assert_eq!(ask(&mut m, 3, 1), Err(Rejection::Gone(VmId(3))));
    assert_eq!(m.ram_committed_bytes(HostId(0)), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u32, u32),
    Start,
    End(usize, Outcome),
    Cancel(usize),
    Lose(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![4 => Just(Outcome::Moved), 2 => Just(Outcome::Stayed), 1 => Just(Outcome::Gone)];
    let step = prop_oneof![
        6 => (0..10u32, 0..4u32).prop_map(|(v, h)| Step::Ask(v, h)),
        4 => Just(Step::Start),
        4 => (0..8usize, outcome).prop_map(|(i, o)| Step::End(i, o)),
        1 => (0..8usize).prop_map(Step::Cancel),
        1 => (0..40u32).prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 0..80)
}

/// What the mover says against a count made from its answers alone.
fn holds(m: &Mover, open: &BTreeSet<MigrationId>, parallel: u32, per_host: u32) {
    let now = m.migrations();
    assert_eq!(now.iter().map(|v| v.id).collect::<BTreeSet<_>>(), *open);
    let running: Vec<_> = now.iter().filter(|v| v.running).collect();
    assert!(running.len() <= parallel as usize);
    assert_eq!(running.len(), m.running() as usize);
    let vms: BTreeSet<_> = now.iter().map(|v| v.vm).collect();
    assert_eq!(vms.len(), now.len(), "two migrations of one VM");
    for host in (0..3).map(HostId) {
        let at = |v: &&&MigrationView| v.source == host || v.destination == host;
        assert!(running.iter().filter(at).count() <= per_host as usize);
        let placed = m.placements().iter().filter(|p| p.host == host && !p.gone);
        let incoming = now.iter().filter(|v| v.destination == host);
        let ram: u64 = placed.map(|p| p.ram_bytes).sum::<u64>()
            + incoming
                .map(|v| m.placements()[v.vm.index()].ram_bytes)
                .sum::<u64>();
        assert_eq!(ram, m.ram_committed_bytes(host));
        assert!(ram <= if host.0 == 2 { ROOM + 2 } else { ROOM });
    }
}

proptest! {
    #[test]
    fn limits_and_ram_hold_and_every_accepted_move_ends_once(
        steps in steps(), parallel in 1..4u32, per_host in 1..3u32,
    ) {
        let mut m = mover(parallel, per_host);
        let mut open = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for step in steps {
            let done = match step {
                Step::Ask(vm, host) => {
                    open.extend(ask(&mut m, vm, host).ok());
                    vec![]
                }
                Step::Start => { m.start(); vec![] }
                Step::End(i, outcome) => {
                    let id = m.migrations().get(i).map_or(MigrationId(0), |v| v.id);
                    m.ended(id, outcome).ok().into_iter().collect()
                }
                Step::Cancel(i) => {
                    let id = m.migrations().get(i).map_or(MigrationId(0), |v| v.id);
                    match m.cancel(id) {
                        Ok(Cancelled::Dequeued(done)) => vec![done],
                        _ => vec![],
                    }
                }
                Step::Lose(host) => m.host_lost(HostId(host)).1,
            };
            for done in done {
                prop_assert!(open.remove(&done.id), "{} ended but was not open", done.id);
                prop_assert!(ended.insert(done.id), "{} ended twice", done.id);
            }
            holds(&m, &open, parallel, per_host);
        }
        // Whatever is left can be run to its end.
        for _ in 0..open.len() {
            m.start();
            let running: Vec<_> = m.migrations().into_iter().filter(|v| v.running).collect();
            for view in running { m.ended(view.id, Outcome::Stayed).unwrap(); }
        }
        prop_assert!(m.is_idle());
    }
}

#[test]
fn limits_out_of_a_host_leave_room_into_it() {
    let limits = Limits {
        parallel: 9,
        parallel_per_host: u32::MAX,
        outbound_per_host: Some(2),
    };
    let rooms = [ROOM, 3 * ROOM, 3 * ROOM].map(Room::of_ram);
    // Three VMs on host 0, one on each of the others.
    let at = [0, 0, 0, 1, 2].map(|host| (HostId(host), size(1)));
    let mut m = Mover::new(limits, &rooms, &at);
    for vm in 0..3 {
        ask(&mut m, vm, 1).unwrap();
    }
    ask(&mut m, 3, 0).unwrap();
    ask(&mut m, 4, 0).unwrap();
    let started: Vec<u32> = m.start().iter().map(|of| of.vm.0).collect();
    assert_eq!(
        started,
        [0, 1, 3, 4],
        "two out of host 0, any number into it"
    );
    m.ended(MigrationId(1), Outcome::Moved).unwrap();
    let started: Vec<u32> = m.start().iter().map(|of| of.vm.0).collect();
    assert_eq!(started, [2]);
}

/// An arbiter that was made from what hosts hold goes on as the one before would have.
#[test]
fn a_recovered_arbiter_goes_on() {
    let limits = Limits {
        parallel: 2,
        parallel_per_host: 1,
        outbound_per_host: None,
    };
    let rooms = [ROOM; 3].map(Room::of_ram);
    let at = [0, 0, 1].map(|host| (HostId(host), size(3)));
    let mut before = Mover::new(limits, &rooms, &at);
    let first = ask(&mut before, 0, 2).unwrap();
    let running = before.start();
    let found: Vec<_> = at.iter().map(|&(host, size)| (Some(host), size)).collect();
    let mut after = Mover::recovered(limits, &rooms, &found, running, [], before.last_id());
    assert_eq!(after.placements(), before.placements());
    assert_eq!(after.migrations(), before.migrations());
    for host in (0..3).map(HostId) {
        let committed = before.ram_committed_bytes(host);
        assert_eq!(after.ram_committed_bytes(host), committed);
    }
    assert_eq!(ask(&mut after, 2, 2), ask(&mut before, 2, 2));
    after.ended(first, Outcome::Moved).unwrap();
    assert_eq!(after.placements()[0].host, HostId(2));
    // Nowhere to be found: gone, and a host that does not answer takes nobody.
    let found = [(None, size(3)), (Some(HostId(1)), size(3))];
    let mut less = Mover::recovered(limits, &rooms, &found, Vec::new(), [HostId(2)], 7);
    assert_eq!(ask(&mut less, 0, 1), Err(Rejection::Gone(VmId(0))));
    assert_eq!(ask(&mut less, 1, 2), Err(Rejection::HostLost(HostId(2))));
    assert_eq!(ask(&mut less, 1, 0), Ok(MigrationId(8)));
}
