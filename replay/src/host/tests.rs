//! Shares, backlog, throttles and moves, by hand.

mod properties;
mod requests;
mod vcpus;

use std::sync::Arc;

use proptest::prelude::*;
use traces::class::Coupling;
use traces::cpu::{CpuSample, CpuTrace};

use super::*;
use crate::guest::MemorySpec;

const S: u64 = 1_000_000_000;

fn host(cores: u32) -> Host {
    let spec = HostSpec {
        cores,
        speed_milli: 1000,
        ram_pages: 1000,
        ram_overcommit_milli: 1000,
        cpu_overcommit_milli: None,
    };
    Host::new(spec, TraceNs(0))
}

fn vm(key: u64, cpu: CpuTrace, work: Work) -> VmSpec {
    VmSpec {
        key,
        vcpus: 1,
        weight: 1,
        cpu: vec![Arc::new(cpu)],
        trace_offset_ns: 0,
        work,
        memory: MemorySpec {
            ram_pages: 10,
            resident_pages: 0,
            high_pages: 0,
            behaviours: vec![],
            fresh: false,
            content: traces::content::ContentProfile::default(),
        },
    }
}

fn steady(key: u64, milli: u32, work: Work) -> VmSpec {
    vm(key, CpuTrace::constant(milli), work)
}

fn start(host: &mut Host, spec: VmSpec) {
    let key = spec.key;
    host.insert(spec, VmState::default()).unwrap();
    host.resume(key).unwrap();
}

fn after(host: &mut Host, seconds: u64, key: u64) -> VmState {
    host.advance(TraceNs(seconds * S)).unwrap();
    host.state(key).unwrap()
}

fn service() -> Work {
    Work::default()
}

#[test]
fn a_host_with_room_grants_what_is_asked() {
    let mut host = host(2);
    start(&mut host, steady(1, 900, service()));
    start(&mut host, steady(2, 700, Work::Batch));
    let one = after(&mut host, 100, 1);
    assert_eq!(
        one.guest_time(),
        GuestTime {
            cpu_ns: 90 * S,
            run_ns: 100 * S
        }
    );
    let two = host.state(2).unwrap();
    assert_eq!(
        two.guest_time(),
        GuestTime {
            cpu_ns: 70 * S,
            run_ns: 100 * S
        }
    );
    assert_eq!(one.totals.steal, CoreWork(0));
    assert_eq!(two.totals.waiting, CoreWork(0));
    assert_eq!(host.load().totals.pressure_some_ns, 0);
    assert_eq!(host.load().granted_milli, 1600);
}

#[test]
fn a_vm_begun_in_its_trace_has_the_guest_time_of_what_came_before() {
    let samples = vec![
        CpuSample {
            dur_ns: S,
            milli: 500,
        },
        CpuSample {
            dur_ns: S,
            milli: 100,
        },
    ];
    let mut spec = vm(1, CpuTrace::new(samples).unwrap(), service());
    spec.trace_offset_ns = 3 * S + S / 2;
    // 0.5 + 0.1 + 0.5 + half of 0.1 core-seconds.
    let expected = GuestTime {
        cpu_ns: 1_150_000_000,
        run_ns: 3 * S + S / 2,
    };
    assert_eq!(VmState::begun(&spec).guest_time(), expected);
}

#[test]
fn overload_shows_as_steal_and_pressure() {
    let mut host = host(1);
    start(&mut host, steady(1, 600, service()));
    start(&mut host, steady(2, 600, service()));
    let state = after(&mut host, 10, 1);
    assert_eq!(state.guest_time().cpu_ns, 5 * S);
    assert_eq!(state.totals.steal.core_ns(), S, "600 asked, 500 granted");
    assert_eq!(state.totals.demand.core_ns(), 6 * S);
    assert_eq!(state.backlog().core_ns(), S);
    assert_eq!(host.load().totals.pressure_some_ns, 10 * S);
    assert_eq!(host.load().granted_milli, 1000);
}

#[test]
fn a_host_keeps_the_accounts_of_vms_that_left() {
    let mut host = host(1);
    start(&mut host, steady(1, 800, service()));
    start(&mut host, steady(2, 800, service()));
    host.advance(TraceNs(10 * S)).unwrap();
    let (spec, state) = host.remove(1).unwrap();
    host.advance(TraceNs(12 * S)).unwrap();
    let totals = host.load().totals;
    assert_eq!(totals.demand.core_ns(), 16 * S + 1_600_000_000);
    assert_eq!(
        totals.granted.core_ns(),
        12 * S,
        "the one that stays works off its backlog"
    );
    assert_eq!(totals.steal.core_ns(), 6 * S);
    // Demand met on the way here is not this host's.
    host.insert(spec, state).unwrap();
    assert_eq!(host.load().totals, totals);
}

#[test]
fn weights_divide_what_is_short() {
    let mut host = host(3);
    for (key, weight) in [(1, 1), (2, 2), (3, 3)] {
        let spec = VmSpec {
            weight,
            vcpus: 4,
            ..steady(key, 4000, Work::Open)
        };
        start(&mut host, spec);
    }
    let granted: Vec<u64> = (1..4)
        .map(|key| host.vm_load(key).unwrap().granted_milli)
        .collect();
    assert_eq!(granted, [500, 1000, 1500]);
}

#[test]
fn no_vcpu_gets_more_than_a_core() {
    let mut host = host(8);
    start(
        &mut host,
        VmSpec {
            vcpus: 2,
            ..steady(1, 5000, service())
        },
    );
    assert_eq!(host.vm_load(1).unwrap().granted_milli, 2000);
}

#[test]
fn a_slower_host_slows_writes_coupled_to_cpu() {
    let page = |coupling| traces::class::PageClass {
        coupling,
        ..traces::class::PageClass::new(5000, 0.02)
    };
    let written = |coupling, speed_milli| {
        let memory = MemorySpec {
            ram_pages: 5000,
            behaviours: vec![crate::guest::Behaviour::Classes(vec![page(coupling)])],
            ..steady(1, 0, service()).memory
        };
        let spec = HostSpec {
            speed_milli,
            ram_pages: 5000,
            ..host(1).spec().clone()
        };
        let mut host = Host::new(spec, TraceNs(0));
        let model = crate::guest::MemoryModel::new(&memory, 3, 1).unwrap();
        start(
            &mut host,
            VmSpec {
                memory,
                ..steady(1, 1000, service())
            },
        );
        let time = after(&mut host, 10, 1).guest_time();
        let begin = GuestTime::default();
        (0..5000)
            .filter(|&page| model.written_in(page, begin, time))
            .count()
    };
    // 5000 (1 − e^(−0.2)) = 906 pages in ten CPU seconds, 476 in five; standard deviation 27.
    let (fast, slow) = (written(Coupling::Cpu, 1000), written(Coupling::Cpu, 500));
    assert!((800..1020).contains(&fast), "{fast}");
    assert!((380..580).contains(&slow), "{slow}");
    assert_eq!(
        written(Coupling::Time, 1000),
        written(Coupling::Time, 500),
        "time passes alike"
    );
}

#[test]
fn a_pause_is_made_up_for_by_services_only() {
    for (work, cpu_s) in [(service(), 5), (Work::Batch, 4), (Work::Open, 4)] {
        let mut host = host(1);
        start(&mut host, steady(1, 500, work));
        host.advance(TraceNs(S)).unwrap();
        let stopped = host.pause(1).unwrap();
        host.advance(TraceNs(3 * S)).unwrap();
        assert_eq!(
            host.state(1).unwrap().guest_time(),
            stopped,
            "a paused guest stands still"
        );
        host.resume(1).unwrap();
        let state = after(&mut host, 10, 1);
        assert_eq!(
            state.guest_time(),
            GuestTime {
                cpu_ns: cpu_s * S,
                run_ns: 8 * S
            },
            "{work:?}"
        );
        assert_eq!(state.totals.paused_ns, 2 * S);
        assert_eq!(state.totals.lost, CoreWork(0));
    }
}

#[test]
fn a_full_backlog_loses_demand_and_nothing_vanishes() {
    let mut host = host(1);
    start(
        &mut host,
        steady(1, 500, Work::Service { backlog_ms: 1000 }),
    );
    host.pause(1).unwrap();
    let paused = after(&mut host, 5, 1);
    assert_eq!(
        paused.backlog().core_ns(),
        S / 2,
        "a second of the highest demand"
    );
    assert_eq!(paused.totals.lost.core_ns(), 2 * S);
    host.resume(1).unwrap();
    let state = after(&mut host, 20, 1);
    assert_eq!(state.backlog(), CoreWork(0));
    assert_eq!(
        state.totals.demand.0,
        state.totals.granted.0 + state.totals.lost.0
    );
}

#[test]
fn a_throttle_costs_an_idle_service_nothing_and_a_job_its_computing_time() {
    let served = |work, milli, percent| {
        let mut host = host(1);
        start(&mut host, steady(1, milli, work));
        host.set_throttle(1, Throttle::new(percent).unwrap())
            .unwrap();
        let state = after(&mut host, 1000, 1);
        assert_eq!(
            state.totals.steal,
            CoreWork(0),
            "a throttle is not the host's fault"
        );
        state.guest_time().cpu_ns / S
    };
    assert_eq!(served(service(), 100, 20), 100);
    assert_eq!(served(Work::Batch, 100, 20), 97);
    assert_eq!(served(Work::Open, 100, 20), 100);
    // A guest that computes all the time loses the throttle's share, whatever its work.
    assert_eq!(served(service(), 1000, 20), 800);
    assert_eq!(served(Work::Batch, 1000, 20), 800);
    assert_eq!(
        served(Work::Open, 1000, 20),
        1000,
        "open writes follow trace time"
    );
}

#[test]
fn a_job_goes_through_its_whole_trace_when_it_gets_less() {
    let busy = CpuSample {
        dur_ns: 10 * S,
        milli: 1000,
    };
    let idle = CpuSample {
        dur_ns: 10 * S,
        milli: 0,
    };
    let trace = CpuTrace::new(vec![busy, idle]).unwrap();
    let mut host = host(1);
    start(&mut host, vm(1, trace, Work::Batch));
    start(&mut host, steady(2, 1000, Work::Open));
    assert_eq!(
        after(&mut host, 20, 1).guest_time().cpu_ns,
        10 * S,
        "10 s of work in 20 s"
    );
    assert_eq!(host.vm_load(1).unwrap().wanted_milli, 0);
    assert_eq!(
        after(&mut host, 30, 1).guest_time().cpu_ns,
        10 * S,
        "then its idle 10 s"
    );
    assert_eq!(host.vm_load(1).unwrap().wanted_milli, 1000);
    assert_eq!(after(&mut host, 50, 1).guest_time().cpu_ns, 20 * S);
}

#[test]
fn slow_cores_and_migrations_leave_less() {
    let spec = HostSpec {
        cores: 2,
        speed_milli: 500,
        ram_pages: 100,
        ram_overcommit_milli: 1000,
        cpu_overcommit_milli: None,
    };
    let mut host = Host::new(spec, TraceNs(0));
    start(&mut host, steady(1, 800, service()));
    assert_eq!(host.vm_load(1).unwrap().granted_milli, 500);
    host.set_overhead_milli(700);
    assert_eq!(host.vm_load(1).unwrap().granted_milli, 300);
}

#[test]
fn ram_is_admitted_up_to_the_limit() {
    let spec = HostSpec {
        cores: 1,
        speed_milli: 1000,
        ram_pages: 10,
        ram_overcommit_milli: 1500,
        cpu_overcommit_milli: None,
    };
    let mut host = Host::new(spec, TraceNs(0));
    start(&mut host, steady(1, 1, service()));
    let error = host
        .insert(steady(2, 1, service()), VmState::default())
        .unwrap_err();
    assert!(
        matches!(
            error,
            HostError::Ram {
                vm: 2,
                needed_pages: 10,
                used_pages: 10,
                admitted_pages: 15,
                ..
            }
        ),
        "{error}"
    );
    let twice = host.insert(steady(1, 1, service()), VmState::default());
    assert_eq!(twice, Err(HostError::Present { vm: 1 }));
    let none = host.insert(
        VmSpec {
            vcpus: 0,
            ..steady(3, 1, service())
        },
        VmState::default(),
    );
    assert!(matches!(none, Err(HostError::Shape { .. })));
    assert_eq!(host.pause(9), Err(HostError::Absent { vm: 9 }));
    host.advance(TraceNs(5)).unwrap();
    assert_eq!(
        host.advance(TraceNs(4)),
        Err(HostError::Passed { now: 5, asked: 4 })
    );
}

#[test]
fn a_vm_moves_with_everything_it_has() {
    for work in [service(), Work::Batch, Work::Open] {
        let trace = CpuTrace::new(vec![
            CpuSample {
                dur_ns: 3 * S,
                milli: 700,
            },
            CpuSample {
                dur_ns: 2 * S + 7,
                milli: 200,
            },
        ])
        .unwrap();
        let (mut stays, mut source, mut destination) = (host(1), host(1), host(1));
        start(&mut stays, vm(1, trace.clone(), work));
        start(&mut source, vm(1, trace, work));
        for host in [&mut stays, &mut source, &mut destination] {
            host.advance(TraceNs(4 * S)).unwrap();
        }
        stays.pause(1).unwrap();
        source.pause(1).unwrap();
        source.advance(TraceNs(4 * S + 100)).unwrap();
        let (spec, state) = source.remove(1).unwrap();
        assert!(source.state(1).is_err());
        destination.advance(TraceNs(7 * S)).unwrap();
        destination.insert(spec, state).unwrap();
        stays.advance(TraceNs(7 * S)).unwrap();
        stays.resume(1).unwrap();
        destination.resume(1).unwrap();
        assert_eq!(
            after(&mut stays, 50, 1),
            after(&mut destination, 50, 1),
            "{work:?}"
        );
    }
}

#[test]
fn a_clock_handed_out_says_what_the_host_will_say() {
    let mut host = host(1);
    start(&mut host, steady(1, 300, service()));
    host.pause(1).unwrap();
    host.advance(TraceNs(S)).unwrap();
    host.resume(1).unwrap();
    let clock = host.guest_clock(1).unwrap();
    let (since, until) = clock.valid();
    assert_eq!(since, TraceNs(S));
    // 0.3 core-seconds waiting, worked off at 0.7 core: 428571428.57 ns, so the next nanosecond.
    assert_eq!(until, TraceNs(S + 428_571_429));
    for at in [S, S + 1, S + 123_456_789, until.0 - 1, until.0] {
        host.advance(TraceNs(at)).unwrap();
        assert_eq!(
            clock.at(TraceNs(at)),
            Some(host.state(1).unwrap().guest_time())
        );
    }
    assert_eq!(clock.at(TraceNs(until.0 + 1)), None);
    assert_eq!(clock.at(TraceNs(S - 1)), None);
    assert_eq!(
        host.guest_time_at(1, TraceNs(until.0 + 5))
            .unwrap()
            .map(|t| t.run_ns),
        Some(428_571_434)
    );
}
