//! A guest of two vCPUs by hand: who goes on when, and what is written down.

use super::*;
use replay::guest::Deal;
use replay::{Behaviour, MemorySpec};
use traces::class::{Locality, PageClass};
use traces::content::ContentProfile;

const MS: u64 = 1_000_000;

/// 128 pages written in turn, ten times a second: the first half by vCPU 0, each 100/128 ms, the other by vCPU 1.
fn model() -> MemoryModel {
    let sweep = PageClass {
        locality: Locality::Sweep,
        coupling: Coupling::Time,
        ..PageClass::new(128, 10.0)
    };
    let spec = MemorySpec {
        ram_pages: 256,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![sweep])],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    MemoryModel::new(&spec, 7, 11)
        .unwrap()
        .of_vcpus(Deal::alike(2))
}

fn at(run_ns: u64) -> GuestTime {
    GuestTime { cpu_ns: 0, run_ns }
}

fn runs(run_ns: u64) -> VcpuStanding {
    VcpuStanding {
        time: at(run_ns),
        stopped: None,
    }
}

fn stands(run_ns: u64, since_ns: u64) -> VcpuStanding {
    VcpuStanding {
        time: at(run_ns),
        stopped: Some(Stopped {
            clock: Coupling::Time,
            since_ns,
        }),
    }
}

/// It begins on a boundary: page n is next written n + 1 steps later.
fn step(number: u64) -> u64 {
    number * 100 * MS / 128
}

#[test]
fn each_vcpu_waits_by_itself_and_all_of_them_only_while_all_do() {
    let model = model();
    let mut state = State::new(&model, Bitmap::full(256), vec![at(0); 2]);
    let limits = state.begin();
    let near = |limit: Limit, ns: u64| limit.run_ns.unwrap().abs_diff(ns) <= 2;
    assert!(
        near(limits[0].1, step(1)) && near(limits[1].1, step(65)),
        "{limits:?}"
    );
    // vCPU 0 stands before page 0 from 1 ms on; noticed at 1.5 ms.
    let (first, second) = (
        limits[0].1.run_ns.unwrap() - 1,
        limits[1].1.run_ns.unwrap() - 1,
    );
    let asks = |pages: &[u32]| Look {
        limits: vec![],
        pages: pages.to_vec(),
    };
    let look = state.look(&[stands(first, MS), runs(MS)], 3 * MS / 2);
    assert_eq!(look, asks(&[0]));
    assert_eq!(
        state.look(&[stands(first, MS), runs(2 * MS)], 2 * MS),
        asks(&[]),
        "once"
    );
    // vCPU 1 goes on for 50 ms, to page 64.
    let both = [stands(first, MS), stands(second, 51 * MS)];
    assert_eq!(state.look(&both, 52 * MS), asks(&[64]));
    // Its page comes first, then one that nobody has touched, then vCPU 0's.
    let came = state.came(64, 60 * MS);
    assert_eq!(came.limits.len(), 1);
    assert!(
        came.limits[0].0 == 1 && near(came.limits[0].1, step(66)),
        "{came:?}"
    );
    state.account(&came, Some(&both));
    let came = state.came(5, 61 * MS);
    assert!(!came.changes(), "{came:?}");
    state.account(&came, None);
    let came = state.came(0, 70 * MS);
    assert!(
        came.limits[0].0 == 0 && near(came.limits[0].1, step(2)),
        "{came:?}"
    );
    state.account(&came, Some(&[stands(first, MS), runs(second + MS / 2)]));
    // vCPU 0 gets to page 1 at once, which comes before anybody looks: it waited all the same.
    let third = came.limits[0].1.run_ns.unwrap() - 1;
    let came = state.came(1, 72 * MS);
    assert!(came.changes());
    state.account(
        &came,
        Some(&[stands(third, 71 * MS), runs(second + 3 * MS / 4)]),
    );
    let figures = state.conclude(&model);
    let waits = |requests, latency_ms, blocked_ms| VcpuWaits {
        requests,
        latency_ns_sum: latency_ms * MS,
        blocktime_ns: blocked_ms * MS,
    };
    assert_eq!(figures.vcpus, [waits(1, 69, 70), waits(1, 9, 9)]);
    assert_eq!((figures.requests, figures.latency_ns_sum), (2, 78 * MS));
    assert_eq!(figures.blocktime_ns, 9 * MS, "from 51 to 60 ms");
    assert_eq!(figures.asked_late_ns_sum, Some(MS / 2 + MS));
    assert_eq!(
        (figures.overrun, figures.never_came, figures.held_ns),
        (Some(0), 252, Some(0))
    );
}

#[test]
fn the_last_page_lets_everybody_go_for_good() {
    let model = model();
    let mut missing = Bitmap::new(256);
    missing.set(0);
    let mut state = State::new(&model, missing, vec![at(0); 2]);
    let first = state.begin()[0].1.run_ns.unwrap() - 1;
    let both = [stands(first, MS), runs(MS)];
    assert_eq!(state.look(&both, MS).pages, [0]);
    let came = state.came(0, 9 * MS);
    assert_eq!(came.limits, [(0, Limit::NONE), (1, Limit::NONE)]);
    state.account(&came, Some(&both));
    let figures = state.conclude(&model);
    assert_eq!(figures.whole_ns, Some(9 * MS));
    assert_eq!(figures.blocktime_ns, 0, "vCPU 1 ran on");
}

#[test]
fn who_is_past_a_page_that_had_not_come_is_found() {
    let model = model();
    let mut state = State::new(&model, Bitmap::full(256), vec![at(0); 2]);
    state.begin();
    // By its own clock vCPU 1 is not, whatever vCPU 0's says.
    for (page, overrun) in [(64, 0), (0, 1)] {
        let came = state.came(page, 1);
        state.account(&came, Some(&[runs(step(3)), runs(step(3))]));
        let mut figures = State::new(&model, Bitmap::full(256), vec![at(0); 2]);
        figures.placed.clone_from(&state.placed);
        assert_eq!(figures.conclude(&model).overrun, Some(overrun));
    }
}
