//! Writes against a continuous Poisson process, statistically: what no look at the code could prove.
//!
//! By the time-rescaling theorem (Brown et al. 2002) instants t are Poisson of intensity λ(t) exactly if
//! Λ(t) = ∫ λ are Poisson of rate 1. So every writer is asked for its instants through the model's
//! public face ([`MemoryModel::first_access`]), these are read on Λ, and nine tests ask whether they
//! are a unit Poisson process, continuous and independent from page to page. All p-values of all
//! writers are one family, tested at 1 % with Bonferroni's correction. The draws are fixed, so is the
//! outcome. That the tests can see something is tested too: five wrong writers must fail.

use statrs::distribution::{ChiSquared, ContinuousCDF, DiscreteCDF, Normal, Poisson};
use traces::class::{ClassPhase, Coupling, PageClass, PhasedClasses, Variation};

use super::build::set_key;
use super::tempo::{SetClock, Tempo};
use super::{Behaviour, GuestTime, MemoryModel, MemorySpec};
use crate::mix;

/// Pages asked of each writer, and how far on Λ: 24,000 writes.
const PAGES: u32 = 400;
const UNTIL: f64 = 60.0;
/// Chance of a false alarm in the whole family.
const FAMILY: f64 = 0.01;
const SECOND: u64 = 1_000_000_000;

/// For each page its instants on Λ, ascending, up to [`UNTIL`].
type Instants = Vec<Vec<f64>>;

/// Name and p-value of each test.
fn tests(pages: &Instants) -> Vec<(&'static str, f64)> {
    let gaps: Vec<Vec<f64>> = pages.iter().map(|at| gaps(at)).collect();
    let uniform = |gap: f64| -(-gap).exp_m1();
    let all: Vec<f64> = gaps.iter().flatten().map(|&gap| uniform(gap)).collect();
    let within = pages.iter().flatten().map(|at| at.fract()).collect();
    let pairs = |of: &[Vec<f64>]| -> Vec<(f64, f64)> {
        let pairs = of.iter().flat_map(|v| v.windows(2).map(|p| (p[0], p[1])));
        pairs.collect()
    };
    let gap_pairs: Vec<(f64, f64)> = pairs(&gaps)
        .into_iter()
        .map(|(a, b)| (uniform(a), uniform(b)))
        .collect();
    // Windows that no cell's edge falls together with.
    let counts =
        |window: f64| -> Vec<Vec<f64>> { pages.iter().map(|at| counts(at, window)).collect() };
    let (short, long) = (counts(0.37), counts(2.61));
    let neighbours: Vec<(f64, f64)> = long
        .windows(2)
        .flat_map(|two| two[0].iter().copied().zip(two[1].iter().copied()))
        .collect();
    vec![
        ("gaps are exponential (KS)", kolmogorov(all)),
        ("places in a cell are uniform (KS)", kolmogorov(within)),
        (
            "counts in 0.37 are Poisson (chi-square)",
            chi_square(&short, 0.37),
        ),
        (
            "counts in 2.61 are Poisson (chi-square)",
            chi_square(&long, 2.61),
        ),
        (
            "dispersion of counts in 0.37 is 1",
            dispersion(&short, 0.37),
        ),
        ("dispersion of counts in 2.61 is 1", dispersion(&long, 2.61)),
        (
            "a gap and the next are uncorrelated",
            uncorrelated(&gap_pairs),
        ),
        (
            "a window and the next are uncorrelated",
            uncorrelated(&pairs(&long)),
        ),
        (
            "neighbouring pages are uncorrelated",
            uncorrelated(&neighbours),
        ),
    ]
}

/// From 0 to the first write, and from write to write. The last, which `UNTIL` cuts, is left out, and
/// with it a bias of one gap in [`UNTIL`] towards short ones: so gaps are taken up to a number that
/// nearly no page lacks, whatever they are.
fn gaps(at: &[f64]) -> Vec<f64> {
    // P(Poisson(60) < 25) = 1e-7.
    const SURE: usize = 25;
    let mut before = 0.0;
    let gap = |&at: &f64| {
        let gap = at - before;
        before = at;
        gap
    };
    at.iter().take(SURE).map(gap).collect()
}

fn counts(at: &[f64], window: f64) -> Vec<f64> {
    let mut counts = Vec::new();
    let mut from = 0.23;
    while from + window <= UNTIL {
        let until = |x: f64| at.partition_point(|&t| t <= x);
        counts.push((until(from + window) - until(from)) as f64);
        from += window;
    }
    counts
}

/// Of values that should be uniform in 0..1.
fn kolmogorov(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len() as f64;
    let off = values.iter().enumerate().map(|(i, &u)| {
        let (below, above) = (i as f64 / n, (i as f64 + 1.0) / n);
        (u - below).abs().max((above - u).abs())
    });
    let d = off.fold(0.0, f64::max);
    // Stephens' small-sample form of the limit law.
    let x = d * (n.sqrt() + 0.12 + 0.11 / n.sqrt());
    let term = |k: i32| {
        let k2 = f64::from(k * k);
        2.0 * (-1f64).powi(k - 1) * (-2.0 * k2 * x * x).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

fn chi_square(counts: &[Vec<f64>], mean: f64) -> f64 {
    let poisson = Poisson::new(mean).unwrap();
    let total = counts.iter().flatten().count() as f64;
    let (mut chi2, mut bins, mut below) = (0.0, 0, 0u64);
    while below < 40 {
        // Bins of at least ten expected; the last takes the rest.
        let floor = if below == 0 {
            0.0
        } else {
            poisson.cdf(below - 1)
        };
        let mut end = below;
        while end < 40 && (poisson.cdf(end) - floor) * total < 10.0 {
            end += 1;
        }
        let last = (1.0 - poisson.cdf(end)) * total < 10.0;
        let expected = (if last { 1.0 } else { poisson.cdf(end) } - floor) * total;
        let inside = |&&n: &&f64| n >= below as f64 && (last || n <= end as f64);
        let seen = counts.iter().flatten().filter(inside).count() as f64;
        chi2 += (seen - expected).powi(2) / expected;
        bins += 1;
        below = if last { 40 } else { end + 1 };
    }
    1.0 - ChiSquared::new(f64::from(bins - 1)).unwrap().cdf(chi2)
}

/// Σ (n − μ)² / μ, nearly normal for so many windows: mean N, variance N (2 + 1/μ). Two-sided.
fn dispersion(counts: &[Vec<f64>], mean: f64) -> f64 {
    let n = counts.iter().flatten().count() as f64;
    let sum: f64 = counts
        .iter()
        .flatten()
        .map(|c| (c - mean).powi(2) / mean)
        .sum();
    two_sided((sum - n) / (n * (2.0 + 1.0 / mean)).sqrt())
}

/// Pearson's r times √n is nearly standard normal.
fn uncorrelated(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let (a, b) = (mean(|p| p.0), mean(|p| p.1));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| -> f64 { pairs.iter().map(|p| of(p.0 - a, p.1 - b)).sum() };
    let r = sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    two_sided(r * n.sqrt())
}

fn two_sided(z: f64) -> f64 {
    2.0 * Normal::standard().cdf(-z.abs())
}

/// The instants of a guest's pages, on Λ.
fn instants(behaviour: Behaviour, seed: u64, tempo: &Tempo) -> Instants {
    let spec = MemorySpec {
        ram_pages: PAGES,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![behaviour],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    let model = MemoryModel::new(&spec, seed, 1).unwrap();
    let of = |page: u32| {
        let (mut all, mut after) = (Vec::new(), GuestTime::default());
        loop {
            let next = model.first_access(page, after).expect("it writes for ever");
            let at = tempo.at(next.clock_ns) as f64 / mix::TWO_POW_64;
            if at > UNTIL {
                return all;
            }
            all.push(at);
            after.run_ns = next.clock_ns;
        }
    };
    (0..PAGES).map(of).collect()
}

fn timed(rate: f64) -> PageClass {
    PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(PAGES, rate)
    }
}

/// Two phases, the first of which varies, over the same pages: intensities between 0 and 60 a second.
fn changing(seed: u64) -> Instants {
    let phase = |length_ns, rate, variation| ClassPhase {
        length_ns,
        first_page: 0,
        classes: vec![timed(rate)],
        variation,
    };
    let series = Variation::Series {
        step_ns: 70_000_000,
        intensities: vec![1, 5, 0, 3],
    };
    let phased = PhasedClasses {
        coupling: Coupling::Time,
        phases: vec![
            phase(SECOND / 3, 27.0, Some(series)),
            phase(SECOND / 2, 4.0, None),
        ],
    };
    let clocks = SetClock::of(&phased, |phase| set_key(seed, 1, 0, phase)).unwrap();
    let tempos: Vec<Tempo> = [27.0, 4.0]
        .into_iter()
        .zip(clocks)
        .map(|(rate, clock)| Tempo::new(rate, Some(clock)).unwrap())
        .collect();
    let spec = MemorySpec {
        ram_pages: PAGES,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![Behaviour::Phases(phased)],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    let model = MemoryModel::new(&spec, seed, 1).unwrap();
    let of = |page: u32| {
        let (mut all, mut after) = (Vec::new(), GuestTime::default());
        loop {
            let next = model.first_access(page, after).expect("it writes for ever");
            // Both phases' processes together: their intensities add up.
            let at = |tempo: &Tempo| tempo.at(next.clock_ns) as f64 / mix::TWO_POW_64;
            let at: f64 = tempos.iter().map(at).sum();
            if at > UNTIL {
                return all;
            }
            all.push(at);
            after.run_ns = next.clock_ns;
        }
    };
    (0..PAGES).map(of).collect()
}

#[test]
fn writes_cannot_be_told_from_a_continuous_poisson_process() {
    let steady = |rate: f64, seed| {
        let tempo = Tempo::new(rate, None).unwrap();
        instants(Behaviour::Classes(vec![timed(rate)]), seed, &tempo)
    };
    let writers = [
        ("3 a second", steady(3.0, 1)),
        ("1e-4 a second", steady(1e-4, 2)),
        ("phases and variation", changing(3)),
    ];
    let mut family = Vec::new();
    for (writer, pages) in &writers {
        family.extend(tests(pages).into_iter().map(|(test, p)| (*writer, test, p)));
    }
    let limit = FAMILY / family.len() as f64;
    for (writer, test, p) in family {
        eprintln!("{writer}: {test}: p = {p:.4}");
        assert!(p >= limit, "{writer}: {test}: p = {p:e}, below {limit:e}");
    }
}

/// Writers that are wrong, each in one way.
fn wrong() -> Vec<(&'static str, Instants)> {
    let cells = |of: &dyn Fn(u32, u64) -> Vec<f64>| -> Instants {
        let page = |page| {
            let mut all: Vec<f64> = (0..60).flat_map(|cell| of(page, cell)).collect();
            all.sort_unstable_by(f64::total_cmp);
            all
        };
        (0..PAGES).map(page).collect()
    };
    let draw = |page, cell, n| mix::nth(mix::draw(5, page, cell), n) as f64 / mix::TWO_POW_64;
    let many = |page, cell| {
        // Knuth's product of uniforms.
        let (mut n, mut product) = (0, draw(page, cell, 100));
        while product > f64::exp(-1.0) {
            n += 1;
            product *= draw(page, cell, 100 + n);
        }
        n
    };
    let spread = |page, cell, n: u64, place: &dyn Fn(u64) -> f64| -> Vec<f64> {
        let _ = page;
        (0..n).map(|i| cell as f64 + place(i)).collect()
    };
    vec![
        (
            "one write a cell",
            cells(&|page, cell| vec![cell as f64 + draw(page, cell, 0)]),
        ),
        (
            "writes at the start of their cell",
            cells(&|page, cell| spread(page, cell, many(page, cell), &|i| i as f64 * 1e-6)),
        ),
        (
            "pages two by two alike",
            cells(&|page, cell| {
                let page = page / 2;
                spread(page, cell, many(page, cell), &|i| draw(page, cell, i))
            }),
        ),
        (
            "a cell's writes in its first nine tenths",
            cells(&|page, cell| {
                spread(page, cell, many(page, cell), &|i| 0.9 * draw(page, cell, i))
            }),
        ),
        (
            "three in a hundred lost",
            cells(&|page, cell| {
                let all = spread(page, cell, many(page, cell), &|i| draw(page, cell, i));
                let kept = all.into_iter().enumerate();
                let kept = kept.filter(|(i, _)| draw(page, cell, 50 + *i as u64) >= 0.03);
                kept.map(|(_, at)| at).collect()
            }),
        ),
    ]
}

#[test]
fn the_tests_see_writers_that_are_wrong() {
    for (what, pages) in wrong() {
        let found = tests(&pages);
        let limit = FAMILY / (3 * found.len()) as f64;
        let caught: Vec<_> = found.iter().filter(|(_, p)| *p < limit).collect();
        eprintln!("{what}: {caught:?}");
        assert!(!caught.is_empty(), "{what} passes: {found:?}");
    }
}
