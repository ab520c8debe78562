//! Hosts in trace time, limits by hand.

use super::*;
use proptest::prelude::*;
use replay::host::{HostSpec, VmSpec, VmState, Work};
use replay::{GuestTime, MemorySpec};
use std::sync::Arc;
use traces::content::ContentProfile;
use traces::cpu::CpuTrace;

const MS: u64 = 1_000_000;

fn host_with(milli: u32) -> Host {
    let spec = HostSpec {
        cores: 2,
        speed_milli: 1000,
        ram_pages: 100,
        ram_overcommit_milli: 1000,
        cpu_overcommit_milli: None,
    };
    let mut host = Host::new(spec, TraceNs(0));
    let vm = VmSpec {
        key: 7,
        vcpus: 1,
        weight: 1,
        cpu: vec![Arc::new(CpuTrace::constant(milli))],
        trace_offset_ns: 0,
        work: Work::default(),
        memory: MemorySpec {
            ram_pages: 10,
            resident_pages: 0,
            high_pages: 0,
            behaviours: vec![],
            fresh: false,
            content: ContentProfile::default(),
        },
    };
    host.insert(vm, VmState::default()).unwrap();
    host.resume(7).unwrap();
    host
}

fn time(host: &Host) -> GuestTime {
    host.state(7).unwrap().guest_time()
}

fn run_to(ns: u64) -> Limit {
    Limit {
        run_ns: Some(ns),
        cpu_ns: None,
    }
}

#[test]
fn a_guest_stands_at_its_limit_whenever_somebody_looks() {
    let (mut host, mut limits) = (host_with(500), Limits::default());
    limits.set(&mut host, 7, run_to(30 * MS)).unwrap();
    assert_eq!(
        limits.reaches(&host, 7).unwrap(),
        Some(TraceNs(30 * MS - 1))
    );
    // Nobody looked for 100 ms.
    limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 30 * MS - 1);
    let stop = limits.stop(7).unwrap();
    assert_eq!(stop.since, TraceNs(30 * MS - 1));
    assert_eq!(stop.clock, Coupling::Time);
    assert!(host.is_paused(7).unwrap());
    // The page comes: it goes on from there, to the next.
    limits.set(&mut host, 7, run_to(50 * MS)).unwrap();
    limits.advance(&mut host, TraceNs(110 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 40 * MS - 1);
    assert_eq!(limits.stop(7), None);
    // All are there.
    limits.set(&mut host, 7, Limit::NONE).unwrap();
    limits.advance(&mut host, TraceNs(200 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 130 * MS - 1);
}

#[test]
fn served_cpu_is_a_clock_of_its_own() {
    let (mut host, mut limits) = (host_with(500), Limits::default());
    let limit = Limit {
        cpu_ns: Some(10 * MS),
        run_ns: Some(30 * MS),
    };
    limits.set(&mut host, 7, limit).unwrap();
    limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
    // Half a core: 10 ms of CPU at 20 ms.
    let stop = limits.stop(7).unwrap();
    assert_eq!(stop.clock, Coupling::Cpu);
    assert_eq!(stop.since, TraceNs(20 * MS - 1));
    assert_eq!(time(&host).cpu_ns, 10 * MS - 1);
}

#[test]
fn a_limit_may_be_set_before_the_guest_comes_and_where_it_stands() {
    let (mut host, mut limits) = (host_with(1000), Limits::default());
    limits.set(&mut host, 8, run_to(5)).unwrap();
    limits.set(&mut host, 7, run_to(10 * MS)).unwrap();
    limits.advance(&mut host, TraceNs(20 * MS)).unwrap();
    // The next access is of the same instant: it does not move.
    limits.set(&mut host, 7, run_to(10 * MS)).unwrap();
    limits.advance(&mut host, TraceNs(30 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 10 * MS - 1);
    assert_eq!(limits.stop(7).unwrap().since, TraceNs(20 * MS));
    limits.forget(7);
    assert_eq!(limits.stop(7), None);
}

proptest! {
    /// However often somebody looks, the guest comes as far.
    #[test]
    fn looking_does_not_move_a_limit(
        milli in 1_u32..=1000,
        limit_ms in 1_u64..200,
        looks in proptest::collection::vec(1_u64..400_000_000, 0..20),
    ) {
        let run = |looks: &[u64]| {
            let (mut host, mut limits) = (host_with(milli), Limits::default());
            let limit = Limit { cpu_ns: Some(limit_ms * MS), run_ns: Some(150 * MS) };
            limits.set(&mut host, 7, limit).unwrap();
            for &at in looks {
                limits.advance(&mut host, TraceNs(at)).unwrap();
            }
            limits.advance(&mut host, TraceNs(400 * MS)).unwrap();
            (time(&host), limits.stop(7))
        };
        let mut looks = looks;
        looks.sort_unstable();
        let (at, stop) = run(&looks);
        prop_assert_eq!((at, stop), run(&[]));
        prop_assert!(at.cpu_ns < limit_ms * MS && at.run_ns < 150 * MS);
        prop_assert!(stop.is_some());
    }
}
