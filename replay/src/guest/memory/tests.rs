use std::sync::Arc;

use proptest::prelude::*;
use traces::class::{Coupling, Locality, PageClass, unique_pages};
use traces::dirty::{PageWriteTrace, Run, Tick};

use super::super::Behaviour;
use super::*;
use crate::mix;

fn class(pages: u32, rate: f64, coupling: Coupling, locality: Locality) -> PageClass {
    PageClass {
        coupling,
        locality,
        ..PageClass::new(pages, rate)
    }
}

fn scatter(pages: u32, rate: f64) -> PageClass {
    class(pages, rate, Coupling::Time, Locality::Scatter)
}

fn model_of(classes: Vec<PageClass>, seed: u64) -> MemoryModel {
    let pages: u32 = classes.iter().map(|class| class.pages).sum();
    let spec = MemorySpec {
        ram_pages: pages,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(classes)],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    MemoryModel::new(&spec, seed, 1).unwrap()
}

fn seconds(s: f64) -> GuestTime {
    let ns = u64::try_from(std::time::Duration::from_secs_f64(s).as_nanos()).unwrap();
    GuestTime {
        cpu_ns: ns / 2,
        run_ns: ns,
    }
}

/// A guest with a behaviour of every kind, at odd offsets.
fn mixed_guest(seed: u64, vm: u64) -> MemoryModel {
    let tick = |n: u64| Tick {
        t_ns: n * 100_000_000,
        cpu_ns: (n % 3) * 20_000_000,
        runs: vec![
            Run {
                start: u32::try_from(n * 7 % 50).unwrap(),
                len: 13,
            },
            Run {
                start: 70,
                len: 1 + u32::try_from(n % 5).unwrap(),
            },
        ],
    };
    let trace = PageWriteTrace {
        title: "made".into(),
        pages: 80,
        interval_ns: 100_000_000,
        ticks: (1..40).map(tick).collect(),
    };
    let spec = MemorySpec {
        ram_pages: 700,
        resident_pages: 37,
        high_pages: 0,
        behaviours: vec![
            Behaviour::Classes(vec![
                class(101, 3.0, Coupling::Cpu, Locality::Scatter),
                class(99, 0.2, Coupling::Time, Locality::Runs { pages: 8 }),
                class(50, 0.7, Coupling::Cpu, Locality::Sweep),
            ]),
            Behaviour::Idle,
            Behaviour::Pages {
                trace: Arc::new(trace),
                coupling: Coupling::Cpu,
                loop_from_ns: 300_000_000,
            },
            Behaviour::Classes(vec![scatter(64, 40.0), scatter(33, 0.0)]),
        ],
        fresh: true,
        content: traces::content::ContentProfile::default(),
    };
    MemoryModel::new(&spec, seed, vm).unwrap()
}

fn harvest(model: &MemoryModel, from: GuestTime, to: GuestTime) -> Bitmap {
    let mut bitmap = Bitmap::new(model.pages());
    model.harvest(from, to, &mut bitmap);
    bitmap
}

#[test]
fn what_lies_high_is_resident_and_above_the_zeros() {
    let spec = |high_pages, fresh| MemorySpec {
        ram_pages: 100,
        resident_pages: 30,
        high_pages,
        behaviours: vec![Behaviour::Classes(vec![scatter(20, 1.0)])],
        fresh,
        content: traces::content::ContentProfile::default(),
    };
    let layout = |high, fresh| Layout::new(&spec(high, fresh)).unwrap();
    let zeros = |layout: &Layout| (0..100).filter(|&page| layout.starts_zero(page)).collect();
    let all: Vec<u32> = zeros(&layout(0, false));
    assert_eq!(all, (50..100).collect::<Vec<_>>());
    let some: Vec<u32> = zeros(&layout(10, false));
    assert_eq!(some, (40..90).collect::<Vec<_>>());
    assert_eq!(layout(10, false).behaviour(0), Some(20..40));
    let fresh: Vec<u32> = zeros(&layout(10, true));
    assert_eq!(fresh, (20..90).collect::<Vec<_>>());
    // More than there is resident is all of it.
    assert_eq!(layout(99, false).behaviour(0), Some(0..20));
}

#[test]
fn parts_lie_in_the_order_of_the_spec() {
    let model = mixed_guest(1, 1);
    let layout = model.layout();
    assert_eq!(layout.behaviour(0), Some(37..287));
    assert_eq!(layout.behaviour(1), Some(287..287));
    assert_eq!(layout.behaviour(2), Some(287..367));
    assert_eq!(layout.behaviour(3), Some(367..464));
    assert!(!layout.starts_zero(36) && layout.starts_zero(37));
    let all = harvest(&model, GuestTime::default(), seconds(1e5));
    assert_eq!(all.count_range(0..37) + all.count_range(464..700), 0);
    assert_eq!(
        all.count_range(431..464),
        0,
        "a class of rate 0 is never written"
    );
    assert_eq!(all.count_range(37..287), 250);
}

#[test]
fn a_memory_that_cannot_be_is_refused() {
    let spec = |resident_pages, behaviours| MemorySpec {
        ram_pages: 100,
        resident_pages,
        high_pages: 0,
        behaviours,
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    let big = MemoryModel::new(
        &spec(50, vec![Behaviour::Classes(vec![scatter(51, 1.0)])]),
        1,
        1,
    );
    assert_eq!(
        big.unwrap_err(),
        MemoryError::TooSmall {
            needed: 101,
            ram_pages: 100
        }
    );
    for rate in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
        let bad = spec(0, vec![Behaviour::Classes(vec![scatter(5, rate)])]);
        assert!(
            matches!(MemoryModel::new(&bad, 1, 1), Err(MemoryError::Rate { .. })),
            "{rate}"
        );
    }
    let runs = class(5, 1.0, Coupling::Cpu, Locality::Runs { pages: 0 });
    let empty = MemoryModel::new(&spec(0, vec![Behaviour::Classes(vec![runs])]), 1, 1);
    assert_eq!(empty.unwrap_err(), MemoryError::EmptyRuns);
}

#[test]
fn unique_pages_follow_the_curve_of_the_classes() {
    let classes = vec![
        scatter(2_000, 20.0),
        scatter(8_000, 0.5),
        scatter(30_000, 0.01),
    ];
    let model = model_of(classes.clone(), 5);
    for window in [0.013, 0.1, 0.77, 3.0, 11.0, 40.0] {
        let start = 1.234;
        let found = harvest(&model, seconds(start), seconds(start + window)).count() as f64;
        // Pages are independent: the variance is the sum of n p (1 − p).
        let variance: f64 = classes
            .iter()
            .map(|c| {
                let p = 1.0 - (-c.rate * window).exp();
                f64::from(c.pages) * p * (1.0 - p)
            })
            .sum();
        let expected = unique_pages(&classes, window);
        assert!(
            (found - expected).abs() <= 4.0 * variance.sqrt() + 1.0,
            "window {window} s: {found} pages, expected {expected} ± {}",
            variance.sqrt()
        );
    }
}

#[test]
fn disjoint_windows_are_independent() {
    // The pages written in one window and in the next: for a Poisson process the overlap is p².
    let model = model_of(vec![scatter(40_000, 1.0)], 8);
    let at: Vec<GuestTime> = (0..6).map(|i| seconds(0.3 + 0.45 * f64::from(i))).collect();
    for pair in at.windows(3) {
        let first = harvest(&model, pair[0], pair[1]);
        let both = first
            .iter()
            .filter(|&page| model.written_in(page, pair[1], pair[2]))
            .count() as f64;
        let p = 1.0 - f64::exp(-0.45);
        let (mean, n) = (p * p, 40_000.0);
        let sigma = (n * mean * (1.0 - mean)).sqrt();
        assert!(
            (both - n * mean).abs() < 4.0 * sigma,
            "{both} against {}",
            n * mean
        );
    }
}

#[test]
fn pages_of_a_run_are_written_together() {
    let runs = class(1_000, 1.0, Coupling::Time, Locality::Runs { pages: 16 });
    let model = model_of(vec![runs], 3);
    let found = harvest(&model, seconds(1.0), seconds(1.5));
    for page in 0..1_000 {
        assert_eq!(found.get(page), found.get(page / 16 * 16), "page {page}");
    }
    assert!((250..550).contains(&found.count()), "{}", found.count());
}

#[test]
fn a_guest_that_gets_no_cpu_writes_only_what_follows_time() {
    let model = mixed_guest(4, 4);
    let from = seconds(5.0);
    let to = GuestTime {
        run_ns: from.run_ns + 3_000_000_000,
        ..from
    };
    let found = harvest(&model, from, to);
    assert_eq!(found.count_range(37..138), 0);
    assert_eq!(
        found.count_range(238..367),
        0,
        "the sweep and the recording follow CPU time"
    );
    assert!(found.count_range(138..237) > 20);
    assert_eq!(found.count_range(367..431), 64);
}

#[test]
fn seed_and_vm_make_the_guest() {
    let (from, to) = (seconds(1.0), seconds(2.0));
    let one = harvest(&mixed_guest(1, 1), from, to);
    assert_eq!(one, harvest(&mixed_guest(1, 1), from, to));
    assert_ne!(one, harvest(&mixed_guest(2, 1), from, to));
    assert_ne!(one, harvest(&mixed_guest(1, 2), from, to));
}

#[test]
fn draws_never_change_between_releases() {
    // A results directory of last year has to be replayable: these are the draws of version 1.
    let model = mixed_guest(1, 1);
    let at = seconds(2.5);
    let sum = (0..700).fold(0u64, |acc, page| mix::mix(acc ^ model.version_at(page, at)));
    assert_eq!(sum, DRAWS_OF_VERSION_1, "found {sum:#x}");
}

const DRAWS_OF_VERSION_1: u64 = 0xf615_7f65_58f5_de7f;

proptest! {
    #[test]
    fn any_split_of_an_interval_harvests_the_same(
        seed in any::<u64>(),
        cuts in prop::collection::vec((0u64..4_000_000_000, 0u64..4_000_000_000), 2..9),
    ) {
        let model = mixed_guest(seed, 9);
        let mut cpu: Vec<u64> = cuts.iter().map(|cut| cut.0).collect();
        let mut run: Vec<u64> = cuts.iter().map(|cut| cut.1).collect();
        cpu.sort_unstable();
        run.sort_unstable();
        let at: Vec<GuestTime> = cpu
            .into_iter()
            .zip(run)
            .map(|(cpu_ns, run_ns)| GuestTime { cpu_ns, run_ns })
            .collect();
        let (first, last) = (at[0], at[at.len() - 1]);
        let whole = harvest(&model, first, last);
        let mut parts = Bitmap::new(model.pages());
        for pair in at.windows(2) {
            model.harvest_range(0..333, pair[0], pair[1], &mut parts);
            model.harvest_range(333..700, pair[0], pair[1], &mut parts);
        }
        prop_assert_eq!(&whole, &parts);
        for page in 0..model.pages() {
            let versions: Vec<u64> = at.iter().map(|&t| model.version_at(page, t)).collect();
            prop_assert!(versions.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert_eq!(whole.get(page), versions[0] != versions[versions.len() - 1]);
            prop_assert_eq!(whole.get(page), model.written_in(page, first, last));
        }
    }
}

#[test]
fn scans_are_told_with_their_pages_and_change_no_access() {
    let scan = Some(Scan {
        every_ns: 1_000_000_000,
        after_ns: 5_000_000,
    });
    let class = |scan| PageClass {
        scan,
        ..PageClass::new(20, 3.0)
    };
    let of = |classes: Vec<PageClass>, seed| {
        let spec = MemorySpec {
            ram_pages: 100,
            resident_pages: 10,
            high_pages: 0,
            behaviours: vec![Behaviour::Classes(classes)],
            fresh: false,
            content: traces::content::ContentProfile::RANDOM,
        };
        MemoryModel::new(&spec, seed, 1)
    };
    let with = of(vec![class(scan), class(None), class(scan)], 1).unwrap();
    let jobs: Vec<_> = with.scans().iter().map(|job| job.pages.clone()).collect();
    assert_eq!(jobs, [10..30, 50..70]);
    let first = |model: &MemoryModel| model.scans()[0].first_ns;
    assert_eq!(first(&with), with.scans()[1].first_ns, "at the same time");
    assert!(first(&with) < 1_000_000_000);
    assert_ne!(first(&with), first(&of(vec![class(scan)], 2).unwrap()));
    let without = of(vec![class(None); 3], 1).unwrap();
    assert!(without.scans().is_empty());
    let at = GuestTime {
        cpu_ns: 5_000_000_000,
        run_ns: 5_000_000_000,
    };
    for page in 0..100 {
        assert_eq!(with.version_at(page, at), without.version_at(page, at));
        assert_eq!(with.first_access(page, at), without.first_access(page, at));
    }
    let never = scan.map(|scan| Scan {
        every_ns: 0,
        ..scan
    });
    assert!(matches!(
        of(vec![class(never)], 1),
        Err(MemoryError::ScanTimes)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Of vCPUs that have parted every page, whatever writes it, follows its own's clocks, and a harvest finds just that.
    #[test]
    fn who_waited_is_behind_with_its_pages_and_nobody_else(
        seed in any::<u64>(),
        vcpus in 2_u32..5,
        waits in prop::collection::vec((0_u32..5, any::<bool>(), 0.0..0.5_f64), 1..8),
        stretch in 0.0..3.0_f64,
        cut in 0_u32..700,
    ) {
        let deal = Deal::alike(vcpus);
        let base = mixed_guest(seed, 4).of_vcpus(deal.clone());
        let (mut clocks, mut at) = (VcpuClocks::default(), 1.0);
        for (vcpu, begins, after) in waits {
            clocks.wait(&deal, vcpu % vcpus, begins, seconds(at));
            at += after;
        }
        for vcpu in 0..vcpus {
            clocks.wait(&deal, vcpu, false, seconds(at));
        }
        let (from, to) = (seconds(at + 0.1), seconds(at + 0.1 + stretch));
        let apart = base.clone().apart(clocks.clone());
        let mut found = Bitmap::new(700);
        apart.harvest_range(0..cut, from, to, &mut found);
        apart.harvest_range(cut..700, from, to, &mut found);
        for page in 0..700 {
            let own = |at| clocks.time(deal.vcpu(page), at);
            let (first, last) = (base.version_at(page, own(from)), base.version_at(page, own(to)));
            prop_assert_eq!(apart.version_at(page, from), first);
            prop_assert_eq!(apart.version_at(page, to), last);
            prop_assert_eq!(found.get(page), first != last, "page {}", page);
            prop_assert_eq!(apart.written_in(page, from, to), first != last);
        }
    }
}
