//! Hosts in trace time, limits by hand.

use super::*;
use crate::migration::upcoming::Upcoming;
use proptest::prelude::*;
use replay::guest::Deal;
use replay::host::{HostSpec, Progress, VmSpec, VmState, Work};
use replay::{Behaviour, Bitmap, GuestTime, MemoryModel, MemorySpec};
use std::sync::Arc;
use traces::class::{Locality, PageClass};
use traces::content::ContentProfile;
use traces::cpu::CpuTrace;

const MS: u64 = 1_000_000;

fn host_with(milli: u32) -> Host {
    host_of(1, milli, Work::default())
}

/// A guest of so many vCPUs that asks for so much of a host of four cores.
fn host_of(vcpus: u32, milli: u32, work: Work) -> Host {
    let spec = HostSpec {
        cores: 4,
        speed_milli: 1000,
        ram_pages: 100,
        ram_overcommit_milli: 1000,
        cpu_overcommit_milli: None,
    };
    let mut host = Host::new(spec, TraceNs(0));
    let vm = VmSpec {
        key: 7,
        vcpus,
        weight: 1,
        cpu: vec![Arc::new(CpuTrace::constant(milli))],
        trace_offset_ns: 0,
        work,
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
    limits.set(&mut host, 7, &[(0, run_to(30 * MS))]).unwrap();
    assert_eq!(
        limits.reaches(&host, 7).unwrap(),
        Some(TraceNs(30 * MS - 1))
    );
    // Nobody looked for 100 ms.
    limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 30 * MS - 1);
    let stop = limits.stop(7, 0).unwrap();
    assert_eq!(stop.since, TraceNs(30 * MS - 1));
    assert_eq!(stop.clock, Coupling::Time);
    assert!(host.is_paused(7).unwrap());
    // The page comes: it goes on from there, to the next.
    limits.set(&mut host, 7, &[(0, run_to(50 * MS))]).unwrap();
    limits.advance(&mut host, TraceNs(110 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 40 * MS - 1);
    assert_eq!(limits.stop(7, 0), None);
    // All are there.
    limits.set(&mut host, 7, &[(0, Limit::NONE)]).unwrap();
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
    limits.set(&mut host, 7, &[(0, limit)]).unwrap();
    limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
    // Half a core: 10 ms of CPU at 20 ms.
    let stop = limits.stop(7, 0).unwrap();
    assert_eq!(stop.clock, Coupling::Cpu);
    assert_eq!(stop.since, TraceNs(20 * MS - 1));
    assert_eq!(time(&host).cpu_ns, 10 * MS - 1);
}

#[test]
fn a_limit_may_be_set_before_the_guest_comes_and_where_it_stands() {
    let (mut host, mut limits) = (host_with(1000), Limits::default());
    limits.set(&mut host, 8, &[(0, run_to(5))]).unwrap();
    limits.set(&mut host, 7, &[(0, run_to(10 * MS))]).unwrap();
    limits.advance(&mut host, TraceNs(20 * MS)).unwrap();
    // The next access is of the same instant: it does not move.
    limits.set(&mut host, 7, &[(0, run_to(10 * MS))]).unwrap();
    limits.advance(&mut host, TraceNs(30 * MS)).unwrap();
    assert_eq!(time(&host).run_ns, 10 * MS - 1);
    assert_eq!(limits.stop(7, 0).unwrap().since, TraceNs(20 * MS));
    limits.forget(7);
    assert_eq!(limits.stop(7, 0), None);
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
            limits.set(&mut host, 7, &[(0, limit)]).unwrap();
            for &at in looks {
                limits.advance(&mut host, TraceNs(at)).unwrap();
            }
            limits.advance(&mut host, TraceNs(400 * MS)).unwrap();
            (time(&host), limits.stop(7, 0))
        };
        let mut looks = looks;
        looks.sort_unstable();
        let (at, stop) = run(&looks);
        prop_assert_eq!((at, stop), run(&[]));
        prop_assert!(at.cpu_ns < limit_ms * MS && at.run_ns < 150 * MS);
        prop_assert!(stop.is_some());
    }
}

fn own(host: &Host, vcpu: u32) -> GuestTime {
    let state = host.state(7).unwrap();
    state.vcpus.time(vcpu, state.guest_time())
}

fn at(cpu_ns: u64, run_ns: u64) -> GuestTime {
    GuestTime { cpu_ns, run_ns }
}

#[test]
fn one_vcpu_stands_and_the_other_goes_on_as_if_nobody_did() {
    let (mut host, mut limits) = (host_of(2, 2000, Work::default()), Limits::default());
    limits
        .set(&mut host, 7, &[(0, run_to(30 * MS)), (1, run_to(120 * MS))])
        .unwrap();
    assert_eq!(
        limits.reaches(&host, 7).unwrap(),
        Some(TraceNs(30 * MS - 1))
    );
    limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
    // Both cores until 30 ms (less 1 ns), then one of them.
    assert_eq!(own(&host, 0), at(60 * MS - 2, 30 * MS - 1));
    assert_eq!(own(&host, 1), at(200 * MS, 100 * MS));
    assert_eq!(time(&host), at(130 * MS - 1, 100 * MS));
    assert_eq!(limits.stop(7, 0).unwrap().since, TraceNs(30 * MS - 1));
    assert!(limits.stop(7, 1).is_none() && !host.is_paused(7).unwrap());
    // Its page comes: it goes on from where it stood, and both have a core again.
    limits.set(&mut host, 7, &[(0, run_to(50 * MS))]).unwrap();
    limits.advance(&mut host, TraceNs(110 * MS)).unwrap();
    assert_eq!(own(&host, 0), at(80 * MS - 2, 40 * MS - 1));
    assert_eq!(own(&host, 1), at(220 * MS, 110 * MS));
    // Both stand in the end, and only then does the guest.
    limits.advance(&mut host, TraceNs(200 * MS)).unwrap();
    let since = |vcpu| limits.stop(7, vcpu).unwrap().since;
    assert_eq!(
        (since(0), since(1)),
        (TraceNs(120 * MS), TraceNs(120 * MS - 1))
    );
    assert!(host.is_paused(7).unwrap());
    assert_eq!(limits.reaches(&host, 7).unwrap(), None);
    let state = host.state(7).unwrap();
    assert_eq!((state.run_ns, state.totals.paused_ns), (120 * MS, 80 * MS));
    limits.set(&mut host, 7, &[(0, Limit::NONE)]).unwrap();
    limits.advance(&mut host, TraceNs(210 * MS)).unwrap();
    assert_eq!(own(&host, 0).run_ns, 60 * MS - 1);
    assert_eq!(own(&host, 1).run_ns, 120 * MS - 1);
    limits.forget(7);
    assert_eq!(limits.stop(7, 1), None);
}

/// What a vCPU that waits leaves undone, by kind of work: two vCPUs that ask for 1.2 cores; one waits for 60 of 100 ms.
#[test]
fn what_is_served_meanwhile_is_the_other_vcpus_work() {
    let served = |work, stops: &[u32]| {
        let (mut host, mut limits) = (host_of(2, 1200, work), Limits::default());
        let stops: Vec<_> = stops
            .iter()
            .map(|&v| (v as usize, run_to(20 * MS + 1)))
            .collect();
        limits.set(&mut host, 7, &stops).unwrap();
        limits.advance(&mut host, TraceNs(80 * MS)).unwrap();
        let freely: Vec<_> = stops.iter().map(|(v, _)| (*v, Limit::NONE)).collect();
        limits.set(&mut host, 7, &freely).unwrap();
        limits.advance(&mut host, TraceNs(100 * MS)).unwrap();
        time(&host).cpu_ns
    };
    let service = Work::Service { backlog_ms: 1000 };
    // Requests are the other's, up to its core: 24 + 60 ms, then both work off 12 ms of backlog beside 24.
    assert_eq!(served(service, &[0]), 120 * MS);
    assert_eq!(
        served(service, &[0, 1]),
        (24 + 40) * MS,
        "the whole guest: both cores busy afterwards"
    );
    // A job's share waits: 24 + 36 + 24.
    assert_eq!(served(Work::Batch, &[0]), 84 * MS);
    assert_eq!(served(Work::Batch, &[0, 1]), 48 * MS);
    assert_eq!(served(Work::Open, &[1]), 84 * MS);
}

/// A request is answered by a vCPU that runs, and by none if none does.
#[test]
fn requests_are_answered_by_who_runs() {
    let mut host = host_of(2, 0, Work::default());
    host.set_waits(7, 1, true).unwrap();
    let tickets = [host.ask(7, 10 * MS).unwrap(), host.ask(7, 10 * MS).unwrap()];
    host.advance(TraceNs(10 * MS)).unwrap();
    let progress = |host: &Host| tickets.map(|ticket| host.progress(7, ticket).unwrap());
    assert_eq!(
        progress(&host),
        [Progress::Served, Progress::At(TraceNs(20 * MS))]
    );
    host.set_waits(7, 0, true).unwrap();
    assert_eq!(progress(&host)[1], Progress::Stalled);
}

/// 128 pages written in turn, once a second: the first half by vCPU 0, the other by vCPU 1.
fn sweep() -> MemoryModel {
    let sweep = PageClass {
        locality: Locality::Sweep,
        coupling: Coupling::Time,
        ..PageClass::new(128, 1.0)
    };
    model(vec![sweep], 2)
}

fn model(classes: Vec<PageClass>, vcpus: u32) -> MemoryModel {
    let spec = MemorySpec {
        ram_pages: classes.iter().map(|class| class.pages).sum(),
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(classes)],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    MemoryModel::new(&spec, 5, 9)
        .unwrap()
        .of_vcpus(Deal::alike(vcpus))
}

/// Page 0, which vCPU 0 writes at 1/128 s, comes at 500 ms: its writes are that much later from then on, and the other's are not.
#[test]
fn the_writes_of_the_vcpu_that_waited_are_later_and_no_others() {
    let (base, mut missing) = (sweep(), Bitmap::new(128));
    missing.set(0);
    let (mut host, mut limits) = (host_of(2, 2000, Work::default()), Limits::default());
    let mut upcoming = Upcoming::new(&base, missing, &[own(&host, 0), own(&host, 1)]);
    for _ in 0..8 {
        upcoming.look_ahead(|_| true);
    }
    let set = |upcoming: &mut Upcoming<'_>, limits: &mut Limits, host: &mut Host| {
        let all: Vec<_> = (0..2).map(|vcpu| (vcpu, upcoming.limit(vcpu))).collect();
        limits.set(host, 7, &all).unwrap();
    };
    set(&mut upcoming, &mut limits, &mut host);
    limits.advance(&mut host, TraceNs(500 * MS)).unwrap();
    let stood = own(&host, 0).run_ns;
    assert!(stood.abs_diff(7_812_500) <= 2, "{stood}");
    assert_eq!(upcoming.awaited(0, Coupling::Time), Some(0));
    upcoming.arrived(0);
    set(&mut upcoming, &mut limits, &mut host);
    let before = host.state(7).unwrap();
    limits.advance(&mut host, TraceNs(752 * MS)).unwrap();
    let after = host.state(7).unwrap();
    // vCPU 0 is at 7.8125 + 252 = 259.8 ms: 33 steps of 128 a second. vCPU 1 at 752 ms: 96 of them, 32 its own.
    let model = base.clone().apart(after.vcpus.clone());
    let written: Vec<u32> = (0..128)
        .filter(|&page| model.version_at(page, after.guest_time()) > 0)
        .collect();
    let expected: Vec<u32> = (0..33).chain(64..96).collect();
    assert_eq!(written, expected);
    // The next migration's dirty log finds the same: nothing of it was before 500 ms.
    let mut dirty = Bitmap::new(128);
    model.harvest(before.guest_time(), after.guest_time(), &mut dirty);
    assert_eq!(dirty.iter().collect::<Vec<_>>(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Pages come in any order and at any pace: no vCPU ever gets past an access of a page that is missing, each loses
    /// exactly the time that it stood, and afterwards every page has the version that its vCPU's own time says.
    #[test]
    fn whatever_comes_when_every_page_ends_in_its_version(
        seed in any::<u64>(),
        vcpus in 1_u32..5,
        milli in 0_u32..4000,
        work in prop::sample::select(vec![Work::default(), Work::Batch, Work::Open]),
        rate in 0.2..30.0_f64,
        reads in 0.0..30.0_f64,
        pace_us in 10_u64..4_000,
    ) {
        let class = |pages, coupling, locality| PageClass {
            coupling,
            locality,
            read_rate: reads,
            ..PageClass::new(pages, rate)
        };
        let base = model(vec![
            class(150, Coupling::Time, Locality::Scatter),
            class(130, Coupling::Cpu, Locality::Runs { pages: 7 }),
            class(90, Coupling::Cpu, Locality::Sweep),
        ], vcpus);
        let (mut host, mut limits) = (host_of(vcpus, milli, work), Limits::default());
        // It has run before.
        host.advance(TraceNs(seed % 1_000 * MS)).unwrap();
        let all = 0..vcpus;
        let begin = host.now().0;
        let began: Vec<_> = all.clone().map(|vcpu| own(&host, vcpu)).collect();
        let mut upcoming = Upcoming::new(&base, Bitmap::full(370), &began);
        let mut stood = vec![0; vcpus as usize];
        let (mut order, mut fresh) = (seed, true);
        while upcoming.left() > 0 {
            let mut draw = || {
                order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order >> 33
            };
            let came = upcoming.missing().next_set_wrapping((draw() % 370) as u32).unwrap();
            let short: Vec<bool> = all.clone().map(|vcpu| {
                let waits = limits.stop(7, vcpu as usize);
                let horizon = waits.is_some_and(|stop| upcoming.awaited(vcpu as usize, stop.clock).is_none());
                fresh || horizon || upcoming.is_short(vcpu as usize, own(&host, vcpu))
            }).collect();
            upcoming.look_ahead(|vcpu| short[vcpu]);
            fresh = false;
            upcoming.arrived(came);
            let owner = upcoming.vcpu(came);
            for vcpu in all.clone().map(|vcpu| vcpu as usize) {
                let stop = limits.stop(7, vcpu);
                let waits = stop.is_some_and(|stop| upcoming.awaited(vcpu, stop.clock).is_some());
                if waits && vcpu != owner {
                    continue; // for another page
                }
                if let Some(stop) = stop {
                    stood[vcpu] += host.now().0 - stop.since.0;
                }
                let limit = upcoming.limit(vcpu);
                limits.set(&mut host, 7, &[(vcpu, limit)]).unwrap();
            }
            let to = host.now().0 + draw() % (pace_us * 1_000);
            limits.advance(&mut host, TraceNs(to)).unwrap();
            for page in upcoming.missing().iter() {
                let vcpu = base.deal().vcpu(page);
                let (from, to) = (began[vcpu as usize], own(&host, vcpu));
                prop_assert!(!base.written_in(page, from, to), "page {} was written", page);
                prop_assert!(!base.read_in(page, from, to), "page {} was read", page);
            }
        }
        let freely: Vec<_> = all.clone().map(|vcpu| (vcpu as usize, Limit::NONE)).collect();
        for vcpu in all.clone() {
            if let Some(stop) = limits.stop(7, vcpu as usize) {
                stood[vcpu as usize] += host.now().0 - stop.since.0;
            }
        }
        limits.set(&mut host, 7, &freely).unwrap();
        let (first, firsts) = (host.state(7).unwrap(), all.clone().map(|v| own(&host, v)).collect::<Vec<_>>());
        host.advance(TraceNs(host.now().0 + 80 * MS)).unwrap();
        let last = host.state(7).unwrap();
        for vcpu in all {
            let ran = own(&host, vcpu).run_ns - began[vcpu as usize].run_ns;
            prop_assert_eq!(ran + stood[vcpu as usize], host.now().0 - begin, "vCPU {}", vcpu);
        }
        let later = base.clone().apart(last.vcpus.clone());
        let mut dirty = Bitmap::new(370);
        later.harvest(first.guest_time(), last.guest_time(), &mut dirty);
        for page in 0..370 {
            let vcpu = base.deal().vcpu(page);
            let (from, to) = (firsts[vcpu as usize], own(&host, vcpu));
            prop_assert_eq!(later.version_at(page, last.guest_time()), base.version_at(page, to));
            prop_assert_eq!(dirty.get(page), base.version_at(page, from) != base.version_at(page, to));
        }
    }
}
