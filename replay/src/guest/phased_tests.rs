//! Phases, variation, reads and cold classes, asked of whole guests.

use proptest::prelude::*;
use traces::class::{
    ClassPhase, Coupling, Locality, PageClass, PhasedClasses, Variation, unique_pages,
};

use super::{Access, AccessKind, Behaviour, GuestTime, MemoryError, MemoryModel, MemorySpec};
use crate::bitmap::Bitmap;

const SECOND: u64 = 1_000_000_000;

fn timed(pages: u32, rate: f64) -> PageClass {
    PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(pages, rate)
    }
}

fn phase(length_ns: u64, first_page: u32, classes: Vec<PageClass>) -> ClassPhase {
    ClassPhase {
        length_ns,
        first_page,
        classes,
        variation: None,
    }
}

fn phased(coupling: Coupling, phases: Vec<ClassPhase>) -> Behaviour {
    Behaviour::Phases(PhasedClasses { coupling, phases })
}

fn guest(behaviours: Vec<Behaviour>, seed: u64) -> MemoryModel {
    try_guest(behaviours, seed).unwrap()
}

fn try_guest(behaviours: Vec<Behaviour>, seed: u64) -> Result<MemoryModel, MemoryError> {
    let pages: u64 = behaviours.iter().map(Behaviour::pages).sum();
    let spec = MemorySpec {
        ram_pages: u32::try_from(pages).unwrap() + 7,
        resident_pages: 0,
        high_pages: 0,
        behaviours,
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    MemoryModel::new(&spec, seed, 1)
}

fn run(ns: u64) -> GuestTime {
    GuestTime {
        cpu_ns: 0,
        run_ns: ns,
    }
}

fn written(model: &MemoryModel, from: GuestTime, to: GuestTime) -> Bitmap {
    let mut bitmap = Bitmap::new(model.pages());
    model.harvest(from, to, &mut bitmap);
    bitmap
}

/// Phases on both clocks, each locality in some of them, over pages shared and not, varied and not,
/// read and not, beside a plain class set.
fn mixed_guest(seed: u64) -> MemoryModel {
    let class = |pages, rate, read_rate, coupling, locality| PageClass {
        read_rate,
        coupling,
        locality,
        ..PageClass::new(pages, rate)
    };
    let runs = Locality::Runs { pages: 8 };
    let varied = |phase: ClassPhase, variation| ClassPhase {
        variation: Some(variation),
        ..phase
    };
    let cpu = vec![
        class(40, 3.0, 5.0, Coupling::Cpu, Locality::Scatter),
        class(61, 0.3, 0.0, Coupling::Cpu, runs),
    ];
    let sweep = vec![class(90, 0.7, 0.2, Coupling::Cpu, Locality::Sweep)];
    let log_normal = Variation::LogNormal {
        cv: 0.5,
        correlation: 0.7,
        step_ns: SECOND / 10,
    };
    let series = Variation::Series {
        step_ns: SECOND / 7,
        intensities: vec![3, 0, 0, 9, 1],
    };
    let time = vec![class(50, 1.0, 2.0, Coupling::Time, runs)];
    guest(
        vec![
            phased(
                Coupling::Cpu,
                vec![
                    varied(phase(SECOND / 3, 0, cpu), log_normal),
                    phase(SECOND / 5, 25, sweep),
                    phase(SECOND / 9, 0, Vec::new()),
                ],
            ),
            Behaviour::Classes(vec![class(30, 0.5, 1.0, Coupling::Cpu, Locality::Scatter)]),
            phased(Coupling::Time, vec![varied(phase(SECOND, 5, time), series)]),
        ],
        seed,
    )
}

#[test]
fn only_the_classes_of_the_phase_that_is_on_write() {
    // 1 s of a hot class of 100 pages before a slow one; 2 s of a class from page 60 on; 1 s of rest.
    let model = guest(
        vec![phased(
            Coupling::Time,
            vec![
                phase(SECOND, 0, vec![timed(100, 30.0), timed(200, 0.5)]),
                phase(2 * SECOND, 60, vec![timed(40, 20.0)]),
                phase(SECOND, 0, Vec::new()),
            ],
        )],
        3,
    );
    assert_eq!(model.layout().behaviour(0), Some(0..300));
    for lap in 0..5 {
        let at = |quarters: u64| run(lap * 4 * SECOND + quarters * SECOND / 4);
        let first = written(&model, at(0), at(4));
        assert_eq!(first.count_range(0..100), 100);
        // 200 pages of which 1 − e^−0.5 = 39 % are written: 79 ± 6.9.
        let slow = first.count_range(100..300);
        assert!((51..107).contains(&slow), "{slow}");
        let second = written(&model, at(4), at(12));
        assert_eq!(
            second.count_range(60..100),
            40,
            "the phases share these pages"
        );
        assert_eq!(second.count(), 40);
        assert_eq!(written(&model, at(12), at(16)).count(), 0);
        // Through the end of a phase: the union of both.
        assert_eq!(
            written(&model, at(0), at(12)),
            first,
            "what the second writes is among it"
        );
    }
}

#[test]
fn a_phase_that_never_ends_is_its_class_set() {
    let classes = vec![timed(2_000, 20.0), timed(20_000, 0.3)];
    let one = vec![phase(SECOND, 0, classes.clone())];
    let model = guest(vec![phased(Coupling::Time, one)], 9);
    for window in [0.05, 0.4, 2.0, 9.0] {
        let ns = std::time::Duration::from_secs_f64(window).as_nanos();
        let to = 777_777 + u64::try_from(ns).unwrap();
        let found = written(&model, run(777_777), run(to)).count() as f64;
        let expected = unique_pages(&classes, window);
        assert!(
            (found - expected).abs() < 4.0 * expected.sqrt(),
            "{found}, expected {expected}"
        );
    }
}

/// Distinct pages in windows, and in each the mean factor of the series.
#[test]
fn windows_vary_as_their_intensity_and_their_mean_stays() {
    let factors = [1u32, 4, 9, 2, 0, 8];
    let classes = vec![timed(4_000, 0.2)];
    let varied = ClassPhase {
        variation: Some(Variation::Series {
            step_ns: SECOND,
            intensities: factors.to_vec(),
        }),
        ..phase(SECOND, 0, classes)
    };
    let model = guest(vec![phased(Coupling::Time, vec![varied])], 4);
    let mean_factor = 4.0;
    for lap in 0..10u64 {
        let counts: Vec<u64> = (0..6)
            .map(|i| {
                let at = (lap * 6 + i) * SECOND;
                written(&model, run(at), run(at + SECOND)).count()
            })
            .collect();
        let near = |count: u64, factor: u32| {
            let p = 1.0 - f64::exp(-0.2 * f64::from(factor) / mean_factor);
            (count as f64 - 4_000.0 * p).abs() <= 4.5 * (4_000.0 * p * (1.0 - p)).sqrt()
        };
        let turned = |by: usize| {
            let pairs = counts.iter().enumerate();
            pairs.fold(true, |all, (i, &count)| {
                all & near(count, factors[(i + by) % 6])
            })
        };
        assert!(
            (0..6).any(turned),
            "lap {lap}: {counts:?} is no turn of {factors:?}"
        );
    }
}

#[test]
fn guests_that_differ_vary_apart_and_the_classes_of_a_set_together() {
    let varied = |seed| {
        let variation = Some(Variation::LogNormal {
            cv: 1.0,
            correlation: 0.5,
            step_ns: SECOND,
        });
        let classes = vec![timed(3_000, 0.1), timed(3_000, 0.1)];
        let phase = ClassPhase {
            variation,
            ..phase(SECOND, 0, classes)
        };
        let model = guest(vec![phased(Coupling::Time, vec![phase])], seed);
        let count = |i: u64, range| {
            let found = written(&model, run(i * SECOND), run((i + 1) * SECOND));
            found.count_range(range) as f64
        };
        let of = |range: std::ops::Range<u32>| -> Vec<f64> {
            (0..150).map(|i| count(i, range.clone())).collect()
        };
        [of(0..3_000), of(3_000..6_000)]
    };
    let correlation = |a: &[f64], b: &[f64]| {
        let n = a.len() as f64;
        let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
        let moment = |x: &[f64], y: &[f64]| {
            x.iter()
                .zip(y)
                .map(|(x, y)| (x - mean(a)) * (y - mean(b)))
                .sum::<f64>()
        };
        let own = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>();
        moment(a, b) / (own(a) * own(b)).sqrt()
    };
    let (one, other) = (varied(1), varied(2));
    assert!(correlation(&one[0], &one[1]) > 0.9);
    assert!(correlation(&one[0], &other[0]).abs() < 0.4);
}

#[test]
fn reads_are_drawn_apart_from_writes() {
    let with = |read_rate| PageClass {
        read_rate,
        ..timed(5_000, 0.5)
    };
    let quiet = guest(vec![Behaviour::Classes(vec![with(0.0)])], 5);
    let read = guest(vec![Behaviour::Classes(vec![with(0.5)])], 5);
    let (from, to) = (run(3 * SECOND), run(5 * SECOND));
    assert_eq!(written(&quiet, from, to), written(&read, from, to));
    let mut reads = Bitmap::new(read.pages());
    quiet.reads_range(0..quiet.pages(), from, to, &mut reads);
    assert_eq!(reads.count(), 0);
    read.reads_range(0..read.pages(), from, to, &mut reads);
    // Both happen with p = 1 − 1/e, apart: the overlap is p², ± 35.
    let p = 1.0 - f64::exp(-1.0);
    let both = reads
        .iter()
        .filter(|&page| read.written_in(page, from, to))
        .count() as f64;
    assert!(
        (reads.count() as f64 - 5_000.0 * p).abs() < 140.0,
        "{}",
        reads.count()
    );
    assert!((both - 5_000.0 * p * p).abs() < 140.0, "{both}");
}

#[test]
fn a_page_that_is_only_read_is_accessed_by_reads() {
    let class = PageClass {
        read_rate: 1.0,
        ..timed(3, 0.0)
    };
    let model = guest(vec![Behaviour::Classes(vec![class])], 5);
    let first = model.first_access(1, run(0)).unwrap();
    assert_eq!(
        (first.kind, first.coupling),
        (AccessKind::Read, Coupling::Time)
    );
    assert_eq!(model.version_at(1, run(1000 * SECOND)), 0);
    assert_eq!(model.first_access(5, run(0)), None, "nothing is there");
}

#[test]
fn a_class_on_the_other_clock_is_refused_in_a_phase() {
    let wrong = phased(Coupling::Cpu, vec![phase(SECOND, 0, vec![timed(10, 1.0)])]);
    assert_eq!(
        try_guest(vec![wrong], 1).unwrap_err(),
        MemoryError::MixedClocks
    );
    let empty = phased(Coupling::Cpu, Vec::new());
    assert_eq!(
        try_guest(vec![empty], 1).unwrap_err(),
        MemoryError::PhaseLength
    );
    let nothing = ClassPhase {
        variation: Some(Variation::Series {
            step_ns: 1,
            intensities: vec![0, 0],
        }),
        ..phase(SECOND, 0, vec![timed(10, 1.0)])
    };
    let none = try_guest(vec![phased(Coupling::Time, vec![nothing])], 1).unwrap_err();
    assert!(matches!(none, MemoryError::Variation(_)), "{none}");
}

/// D(2 h) of 30 to 50 % and D(24 h) of 50 to 80 % of the used pages (VeCycle): two cold classes and
/// one that is written once in a lifetime, beside a hot one.
#[test]
fn cold_classes_reach_the_long_end_of_the_curve() {
    let classes = vec![
        timed(2_000, 1.0),
        timed(38_000, 2e-4),
        timed(30_000, 1.2e-5),
        timed(30_000, 1e-8),
    ];
    let hour = 3600 * SECOND;
    let model = guest(vec![Behaviour::Classes(classes.clone())], 12);
    // From the middle of some week: nothing hangs on the beginning.
    let start = 100 * hour + 12_345_678_901;
    for (hours, share) in [(2, 0.3..0.5), (24, 0.5..0.8)] {
        let found = written(&model, run(start), run(start + hours * hour)).count() as f64;
        let expected = unique_pages(&classes, hours as f64 * 3600.0);
        assert!(
            (found - expected).abs() < 4.0 * expected.sqrt(),
            "{found}, expected {expected}"
        );
        assert!(
            share.contains(&(found / 100_000.0)),
            "D({hours} h) = {found}"
        );
    }
}

/// The rate is held in 2^-64 writes a ns, 5.4e-11 a second.
#[test]
fn very_low_rates_are_as_asked_for() {
    let day = 86_400 * SECOND;
    for (rate, days) in [(1e-5f64, 1u64), (1e-6, 3), (1e-7, 30), (1e-8, 300)] {
        let pages = 200_000;
        let model = guest(vec![Behaviour::Classes(vec![timed(pages, rate)])], 8);
        let found = written(&model, run(day / 3), run(day / 3 + days * day)).count() as f64;
        let expected = unique_pages(&[timed(pages, rate)], days as f64 * 86_400.0);
        assert!(
            (found - expected).abs() < 4.0 * expected.sqrt(),
            "rate {rate}: {found} pages, expected {expected}"
        );
        // What rounding the rate costs is far below what the draws differ by.
        assert!(5.5e-11 / rate < 0.006);
    }
}

fn times(cuts: &[(u64, u64)]) -> Vec<GuestTime> {
    let mut cpu: Vec<u64> = cuts.iter().map(|cut| cut.0).collect();
    let mut run: Vec<u64> = cuts.iter().map(|cut| cut.1).collect();
    cpu.sort_unstable();
    run.sort_unstable();
    let pair = |(cpu_ns, run_ns)| GuestTime { cpu_ns, run_ns };
    cpu.into_iter().zip(run).map(pair).collect()
}

fn cuts() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..4_000_000_000, 0u64..4_000_000_000), 2..9)
}

proptest! {
    #[test]
    fn any_split_of_an_interval_harvests_the_same(seed in any::<u64>(), cuts in cuts()) {
        let model = mixed_guest(seed);
        let at = times(&cuts);
        let (first, last) = (at[0], at[at.len() - 1]);
        let (whole, mut parts) = (written(&model, first, last), Bitmap::new(model.pages()));
        let (mut reads, mut read_parts) = (parts.clone(), parts.clone());
        model.reads_range(0..model.pages(), first, last, &mut reads);
        for pair in at.windows(2) {
            model.harvest_range(0..77, pair[0], pair[1], &mut parts);
            model.harvest_range(77..model.pages(), pair[0], pair[1], &mut parts);
            model.reads_range(0..31, pair[0], pair[1], &mut read_parts);
            model.reads_range(31..model.pages(), pair[0], pair[1], &mut read_parts);
        }
        prop_assert_eq!(&whole, &parts);
        prop_assert_eq!(&reads, &read_parts);
        for page in 0..model.pages() {
            let versions: Vec<u64> = at.iter().map(|&t| model.version_at(page, t)).collect();
            prop_assert!(versions.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert_eq!(whole.get(page), versions[0] != versions[versions.len() - 1]);
            prop_assert_eq!(whole.get(page), model.written_in(page, first, last));
            prop_assert_eq!(reads.get(page), model.read_in(page, first, last));
        }
    }

    #[test]
    fn nothing_happens_before_the_first_access(
        seed in any::<u64>(), page in 0u32..190, cpu in 0u64..4 * SECOND, time in 0u64..4 * SECOND,
    ) {
        let model = mixed_guest(seed);
        let after = GuestTime { cpu_ns: cpu, run_ns: time };
        let touched = |to| model.written_in(page, after, to) || model.read_in(page, after, to);
        let at = |access: &Access, clock_ns| match access.coupling {
            Coupling::Cpu => GuestTime { cpu_ns: clock_ns, ..after },
            Coupling::Time => GuestTime { run_ns: clock_ns, ..after },
        };
        match model.first_access(page, after) {
            None => {
                let end = GuestTime { cpu_ns: u64::MAX / 4, run_ns: u64::MAX / 4 };
                prop_assert!(!touched(end));
            }
            Some(access) => {
                prop_assert!(!touched(at(&access, access.clock_ns - 1)));
                let then = at(&access, access.clock_ns);
                prop_assert!(touched(then));
                let wrote = model.written_in(page, after, then);
                prop_assert_eq!(access.kind == AccessKind::Write, wrote);
            }
        }
    }
}
