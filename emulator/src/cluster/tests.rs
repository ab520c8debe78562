//! The cluster by itself, and with policies and the arbiter round it: the loop of a run in small.

use super::*;
use crate::balance::metrics::{MetricsBuilder, MigrationFact};
use crate::balance::moves::{Limits, Mover, Outcome, Room, Size};
use crate::balance::policy;
use crate::balance::view::Action;
use crate::scenario::BalancerSpec;
use proptest::prelude::*;
use replay::{MemorySpec, Work};
use std::sync::Arc;
use traces::cpu::{CpuSample, CpuTrace};

const S: u64 = 1_000_000_000;

fn hosts(cores: &[u32]) -> Vec<replay::HostSpec> {
    let spec = |&cores: &u32| {
        let ram_bytes = 8 << 30;
        host_spec(&crate::scenario::HostSpec::new("", cores, ram_bytes))
    };
    cores.iter().map(spec).collect()
}

fn vm(key: u64, cpu: CpuTrace, host: u32) -> (replay::VmSpec, HostId) {
    let memory = MemorySpec {
        ram_pages: 1 << 18,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    let spec = replay::VmSpec {
        key,
        vcpus: 2,
        weight: 1,
        cpu: vec![Arc::new(cpu)],
        trace_offset_ns: key * 7 * S,
        work: Work::default(),
        memory,
    };
    (spec, HostId(host))
}

/// Demand that changes every 20 s.
fn bursts(levels: &[u32]) -> CpuTrace {
    let sample = |&milli: &u32| CpuSample {
        dur_ns: 20 * S,
        milli,
    };
    CpuTrace::new(levels.iter().map(sample).collect()).unwrap()
}

/// Where VMs are for an arbiter.
fn placed(vms: &[(replay::VmSpec, HostId)]) -> Vec<(HostId, Size)> {
    let size = |vm: &replay::VmSpec| Size {
        ram_bytes: 1 << 30,
        vcpus: vm.vcpus,
    };
    vms.iter().map(|(vm, host)| (*host, size(vm))).collect()
}

/// Everything on host 0 of three, which is too much for it.
fn crowded() -> Vec<(replay::VmSpec, HostId)> {
    (0..6)
        .map(|key| vm(key, bursts(&[600, 1100, 300, 800]), 0))
        .collect()
}

#[test]
fn a_move_carries_load_from_host_to_host() {
    let vms = [
        vm(0, CpuTrace::constant(1000), 0),
        vm(1, CpuTrace::constant(500), 0),
    ];
    let mut cluster = Cluster::new(&hosts(&[4, 4]), &vms, 0).unwrap();
    let pause = Pause {
        from_ns: 10 * S,
        to_ns: 12 * S,
    };
    cluster.move_vm(VmId(0), HostId(1), pause).unwrap();
    assert_eq!(
        cluster.move_vm(VmId(0), HostId(1), pause),
        Err(ClusterError::Moving(VmId(0)))
    );
    cluster.advance(11 * S).unwrap();
    assert_eq!(
        cluster.home(VmId(0)),
        Some(HostId(0)),
        "the source's until the pause is over"
    );
    cluster.advance(30 * S).unwrap();
    let samples = cluster.samples();
    assert_eq!(cluster.home(VmId(0)), Some(HostId(1)));
    assert_eq!((samples.hosts[0].vms, samples.hosts[1].vms), (1, 1));
    // 10 s before and 18 s after; the demand of the pause waits in the backlog and is worked off.
    assert_eq!(samples.hosts[0].granted_core_ns, 10 * S + 15 * S);
    assert_eq!(samples.hosts[1].granted_core_ns, 20 * S);
    assert_eq!(samples.vms[0].paused_ns, 2 * S);
    assert_eq!(samples.vms[0].granted_core_ns, 30 * S);
    assert_eq!(
        cluster.samples(),
        Samples {
            t_ns: 30 * S,
            ..Samples::default()
        }
    );
}

#[test]
fn a_destination_without_room_leaves_the_vm_running_at_its_source() {
    let mut vms: Vec<_> = (0..8)
        .map(|key| vm(key, CpuTrace::constant(100), 1))
        .collect();
    vms.push(vm(8, CpuTrace::constant(1000), 0));
    let mut cluster = Cluster::new(&hosts(&[4, 4]), &vms, 0).unwrap();
    cluster
        .move_vm(
            VmId(8),
            HostId(1),
            Pause {
                from_ns: S,
                to_ns: 2 * S,
            },
        )
        .unwrap();
    let refused = cluster.advance(10 * S).unwrap_err();
    assert!(
        matches!(
            refused,
            ClusterError::Host {
                host: HostId(1),
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(
        (cluster.now_ns(), cluster.home(VmId(8))),
        (2 * S, Some(HostId(0)))
    );
    cluster.advance(10 * S).unwrap();
    assert_eq!(cluster.samples().vms[8].granted_core_ns, 10 * S);
}

#[test]
fn impossible_things_are_refused() {
    let two = [
        vm(3, CpuTrace::constant(1), 0),
        vm(3, CpuTrace::constant(1), 0),
    ];
    let twice = Cluster::new(&hosts(&[1]), &two, 0).unwrap_err();
    assert_eq!(
        twice,
        ClusterError::DuplicateKey {
            vm: VmId(1),
            key: 3
        }
    );
    let nowhere = Cluster::new(&hosts(&[1]), &[vm(0, CpuTrace::constant(1), 7)], 0).unwrap_err();
    assert_eq!(nowhere, ClusterError::UnknownHost(HostId(7)));
    let mut cluster = Cluster::new(&hosts(&[1]), &two[..1], 5 * S).unwrap();
    let pause = Pause {
        from_ns: 4 * S,
        to_ns: 6 * S,
    };
    let past = cluster.move_vm(VmId(0), HostId(0), pause).unwrap_err();
    assert!(matches!(past, ClusterError::BadPause { .. }));
    assert!(cluster.advance(4 * S).is_err());
}

/// A run in small: samples, view, policy, arbiter, moves of 1 s with 100 ms of pause.
fn run(policy_name: &str, minutes: u64) -> (crate::balance::metrics::ClusterMetrics, u64) {
    let (hosts, vms) = (hosts(&[4, 4, 4]), crowded());
    let spec = BalancerSpec {
        policy: policy_name.to_owned(),
        interval_ns: 20 * S,
        window_ns: 20 * S,
        options: BTreeMap::new(),
        parallel: 2,
        parallel_per_host: 2,
    };
    let mut policy = policy(&spec).unwrap();
    let mut cluster = Cluster::new(&hosts, &vms, 0).unwrap();
    let placed = placed(&vms);
    let limits = Limits {
        outbound_per_host: None,
        parallel: 2,
        parallel_per_host: 2,
    };
    let mut mover = Mover::new(limits, &[Room::of_ram(8 << 30); 3], &placed);
    let facts = HostFacts::new(&crate::scenario::HostSpec::new("", 4, 8 << 30), None);
    let mut builder = ViewBuilder::new(&[facts; 3], &[2; 6], spec.window_ns);
    let mut metrics = MetricsBuilder::new(&[4000; 3], 6);
    for tick in 1..=minutes * 3 {
        let now_ns = tick * spec.interval_ns;
        cluster.advance(now_ns).unwrap();
        let samples = cluster.samples();
        builder.add_samples(&samples);
        metrics.add_samples(&samples);
        let view = builder.view(tick, now_ns, mover.placements(), mover.migrations(), &[]);
        for action in policy.decide(&view) {
            if let Action::Migrate {
                vm,
                destination,
                reason,
            } = action
            {
                mover
                    .request(vm, destination, reason)
                    .expect("a policy sees what is possible");
            }
        }
        // One after another within the interval, two at a time.
        for wave in 0..10 {
            for begun in mover.start() {
                let end_ns = now_ns + (wave + 1) * S;
                let pause = Pause {
                    from_ns: end_ns - S / 10,
                    to_ns: end_ns,
                };
                cluster.move_vm(begun.vm, begun.destination, pause).unwrap();
                mover.ended(begun.id, Outcome::Moved).unwrap();
                metrics.add_migration(MigrationFact {
                    vm: begun.vm,
                    source: begun.source,
                    destination: begun.destination,
                    ended_ns: end_ns,
                    completed: true,
                    sent_bytes: 1 << 30,
                    ram_bytes: 1 << 30,
                    total_ms: 1000.0,
                    outage_ms: Some(100.0),
                });
            }
        }
        assert!(mover.is_idle());
    }
    (metrics.finish(), cluster.now_ns())
}

#[test]
fn both_policies_beat_the_baseline_without_flapping() {
    let none = baseline(&hosts(&[4, 4, 4]), &crowded(), 600 * S, 20 * S)
        .unwrap()
        .metrics;
    let (by_policy_none, _) = run("none", 10);
    assert_eq!(none, by_policy_none, "the baseline is the run under `none`");
    for name in ["equalise", "thr-mmt"] {
        let (metrics, _) = run(name, 10);
        assert!(metrics.migrations > 0, "{name} did nothing");
        assert!(
            metrics.steal_core_s < none.steal_core_s / 2.0,
            "{name}: {metrics:?}"
        );
        assert!(
            metrics.imbalance_gap < none.imbalance_gap / 2.0,
            "{name}: {metrics:?}"
        );
        assert!(
            metrics.migrations < 40,
            "{name} flaps: {}",
            metrics.migrations
        );
    }
}

proptest! {
    #[test]
    fn hosts_add_up_to_their_vms_however_time_is_cut(
        cuts in proptest::collection::vec(1u64..40, 1..12),
        moves in proptest::collection::vec((0u32..6, 0u32..3, 0u64..100, 0u64..5), 0..5),
    ) {
        let specs = hosts(&[2, 2, 4]);
        let vms: Vec<_> = (0..6u32)
            .map(|i| vm(u64::from(i), bursts(&[600, 100 * i, 900]), i % 3))
            .collect();
        let mut fine = Cluster::new(&specs, &vms, 0).unwrap();
        for (id, to, at, long) in moves {
            let pause = Pause { from_ns: at * S, to_ns: (at + long) * S };
            // A second move of one VM is refused; that is another test's business.
            let _ = fine.move_vm(VmId(id), HostId(to), pause);
        }
        let mut coarse = fine.clone();
        let end_ns = cuts.iter().sum::<u64>() * S;
        let (mut by_host, mut by_vm) = (0, 0);
        for cut in cuts {
            fine.advance(fine.now_ns() + cut * S).unwrap();
            let samples = fine.samples();
            by_host += samples.hosts.iter().map(|h| h.granted_core_ns).sum::<u64>();
            by_vm += samples.vms.iter().map(|v| v.granted_core_ns).sum::<u64>();
        }
        coarse.advance(end_ns).unwrap();
        let whole = coarse.samples();
        // Whole nanoseconds: a host's sum is rounded once, its VMs' each.
        prop_assert!(by_host.abs_diff(by_vm) <= 6, "{} {}", by_host, by_vm);
        prop_assert_eq!(by_vm, whole.vms.iter().map(|v| v.granted_core_ns).sum::<u64>());
        prop_assert_eq!(by_host, whole.hosts.iter().map(|h| h.granted_core_ns).sum::<u64>());
    }
}
