use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::dirty::{PageWriteTrace, Run, Tick};
use crate::forecast::{Known, Method, Plan, backtest, forecast};
use crate::stats::{Draws, Sampled};

const TICK_NS: u64 = 100_000_000;

/// Ticks of 0.1 s, each of which writes the pages given.
fn trace(pages: u32, ticks: &[Vec<u32>]) -> PageWriteTrace {
    let tick = |(index, written): (usize, &Vec<u32>)| {
        let mut sorted = written.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let mut runs: Vec<Run> = Vec::new();
        for page in sorted {
            match runs.last_mut() {
                Some(run) if run.start + run.len == page => run.len += 1,
                _ => runs.push(Run {
                    start: page,
                    len: 1,
                }),
            }
        }
        Tick {
            t_ns: (index as u64 + 1) * TICK_NS,
            cpu_ns: 0,
            runs,
        }
    };
    let made = PageWriteTrace {
        title: String::new(),
        pages,
        interval_ns: TICK_NS,
        ticks: ticks.iter().enumerate().map(tick).collect(),
    };
    made.check().unwrap();
    made
}

/// The first second touches all pages; then 10 of 100 pages are written in each tick.
#[test]
fn ten_hot_pages_by_hand() {
    let mut ticks = vec![(0..100).collect::<Vec<u32>>()];
    ticks.extend(std::iter::repeat_n(Vec::new(), 9));
    ticks.extend(std::iter::repeat_n((0..10).collect::<Vec<u32>>(), 20));
    let found = class_windows(&trace(101, &ticks), 1000).unwrap();
    assert_eq!(found.len(), 2);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    // At first all are cold: 10 of 100 in a stretch of 1 s.
    let [first, second] = [&found.windows[0], &found.windows[1]];
    assert_eq!(first.log_rates[..8], [None; 8]);
    let cold_first = (-(1.0f64 - 10.5 / 101.0).ln()).ln();
    close(first.log_rates[8].unwrap(), cold_first);
    assert_eq!(first.sizes, [10, 0, 0, 0, 0, 0, 0, 0, 90]);
    // Then ten are hot, written in 100 of 100 (page, tick)s, and no cold one is: half a write in 90
    // looks, and in the looks that half a write took before, 0.5 of 10.5 in 101.
    let hot = (-(1.0f64 - 100.5 / 101.0).ln() / 0.1).ln();
    let cold_second = (-(1.0f64 - 0.5 / (90.0 + 0.5 * 101.0 / 10.5)).ln()).ln();
    close(second.log_rates[0].unwrap(), hot);
    close(second.log_rates[8].unwrap(), cold_second);
    assert_eq!((first.distinct, second.distinct), (10.0, 10.0));
    // Half a page in the first second, a half in a second and those before in the second.
    close(first.log_fresh.unwrap(), 0.5f64.ln());
    close(second.log_fresh.unwrap(), (0.5f64 / 2.0).ln());
    // Smoothed with a weight of one half, by hand: D(1 s) = 10 + 90 (1 − e^−r) + f pages.
    let mut levels = Levels::default();
    levels.observe(first, 0.5);
    levels.observe(second, 0.5);
    let rate = (f64::midpoint(cold_first, cold_second)).exp();
    let fresh = (0.5f64 * 0.25).sqrt();
    let by_hand = 10.0 * (1.0 - (-hot.exp()).exp()) + 90.0 * (1.0 - (-rate).exp()) + fresh;
    close(levels.distinct(&second.sizes, 1.0), by_hand);
    assert!((by_hand - 12.4).abs() < 0.1, "{by_hand}");
}

/// Pages that were never written before come as a stream, not from a class.
#[test]
fn fresh_pages_are_foretold_as_they_came() {
    let ticks: Vec<Vec<u32>> = (0..600).map(|i| (i * 4..i * 4 + 4).collect()).collect();
    let found = Arc::new(class_windows(&trace(2400, &ticks), 1000).unwrap());
    let ahead = found.ahead(&[0.1, 1.0]).unwrap();
    assert!((ahead.fresh_pages_per_s - 40.0).abs() < 0.5, "{ahead:?}");
    for (point, asked) in ahead.curve.iter().zip([4.0, 40.0]) {
        // The cold class is given half a page a window.
        assert!(
            (point.pages - asked).abs() < 0.03 * asked + 0.6,
            "{point:?}"
        );
    }
}

/// Two classes of pages written as Poisson processes: `(pages, writes a second)`.
fn poisson(seed: u64, classes: [(u32, f64); 2], ticks: usize) -> PageWriteTrace {
    let mut draws = Draws::new(seed);
    let mut unit = || (draws.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let pages = classes[0].0 + classes[1].0;
    let mut all = vec![(0..pages).collect::<Vec<u32>>()];
    for _ in 1..ticks {
        let written = (0..pages).filter(|&page| {
            let rate = classes[usize::from(page >= classes[0].0)].1;
            unit() < 1.0 - (-rate * 0.1).exp()
        });
        all.push(written.collect());
    }
    trace(pages, &all)
}

/// Of a Poisson writer D(t) is known; the forecast has it at windows it was not shown, too.
#[test]
fn a_poisson_writer_is_foretold_at_three_windows() {
    let classes = [(300, 4.0), (3000, 0.2)];
    let found = Arc::new(class_windows(&poisson(7, classes, 600), 1000).unwrap());
    let ahead = found.ahead(&[0.1, 1.0, 10.0]).unwrap();
    for point in &ahead.curve {
        let written = |(n, rate): (u32, f64)| f64::from(n) * (1.0 - (-rate * point.window_s).exp());
        let truth: f64 = classes.into_iter().map(written).sum();
        let error = (point.pages / truth - 1.0).abs();
        assert!(error < 0.06, "{point:?}, truth {truth:.1}");
    }
}

/// On a writer that does not change, the last value's error is noise twice over.
#[test]
fn steady_writers_are_foretold_better_than_by_the_last_value() {
    let trace = poisson(3, [(200, 3.0), (2000, 0.3)], 1200);
    let (values, _) = Sampled::page_writes(&trace, 1000).unwrap().filled();
    let plan = Plan {
        known: Known {
            season: None,
            classes: class_windows(&trace, 1000).map(Arc::new),
        },
        horizons: vec![1, 6],
        ..Plan::default()
    };
    let scores = backtest(&values, &[Method::Classes], &plan);
    let mae = |index: usize, horizon: usize| scores[index].horizons[horizon].mae;
    for horizon in 0..2 {
        let ratio = mae(1, horizon) / mae(0, horizon);
        assert!((0.5..0.85).contains(&ratio), "{ratio}");
    }
    assert!(forecast(&values, Method::Classes, &plan).is_some());
    // Of another series nothing is known.
    let scores = backtest(&values[1..], &[Method::Classes], &plan);
    assert_eq!(scores.len(), 1, "only the last value");
}

#[test]
fn windows_that_are_no_ticks_have_no_classes() {
    let steady = trace(3, &vec![vec![1]; 50]);
    assert_eq!(class_windows(&steady, 30), None);
    assert_eq!(class_windows(&steady, 4000), None);
    assert_eq!(class_windows(&steady, 100).unwrap().len(), 49);
    let none = trace(3, &[]);
    assert_eq!(class_windows(&none, 1000), None);
}

fn any_ticks() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0u32..40, 0..12), 20..120)
}

proptest! {
    /// Windows count what the series counts; every page known is in one class; all is finite.
    #[test]
    fn windows_are_those_of_the_series(ticks in any_ticks(), step in prop::sample::select(vec![100u32, 500, 1000])) {
        let trace = trace(40, &ticks);
        let Some(found) = class_windows(&trace, step) else { return Ok(()) };
        let (values, _) = Sampled::page_writes(&trace, step).unwrap().filled();
        let counted: Vec<f64> = found.windows.iter().map(|w| w.distinct).collect();
        prop_assert_eq!(counted, values);
        let per_window = step as usize / 100;
        for (index, window) in found.windows.iter().enumerate() {
            let mut seen: Vec<u32> = ticks[..(index + 2) * per_window].concat();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(window.sizes.iter().sum::<u32>() as usize, seen.len());
            prop_assert!(window.log_rates.iter().flatten().all(|log| log.is_finite()));
        }
        let ahead = Arc::new(found).ahead(&[0.1, 1.0, 1e6]).unwrap();
        let points: Vec<f64> = ahead.curve.iter().map(|point| point.pages).collect();
        prop_assert!(points[0] >= 0.0 && points[0] <= points[1] && points[1] <= points[2]);
        prop_assert!(points[2].is_finite());
    }

    /// What comes later changes no window before it, and so no forecast.
    #[test]
    fn later_writes_change_nothing_before(
        ticks in any_ticks(), other in any_ticks(), cut in 2usize..11,
    ) {
        let cut = cut * 10;
        prop_assume!(ticks.len() >= cut + 10 && other.len() >= 10);
        let changed = [&ticks[..cut], &other[..]].concat();
        let one = class_windows(&trace(40, &ticks), 1000).unwrap();
        let two = class_windows(&trace(40, &changed), 1000).unwrap();
        let same = cut / 10 - 1;
        prop_assert_eq!(&one.windows[..same], &two.windows[..same]);
        let predict = |all: ClassWindows| {
            let mut predictor = Classes::new(Arc::new(all));
            predictor.fit(&vec![0.0; same]);
            predictor.predict(&[1])
        };
        prop_assert_eq!(predict(one), predict(two));
    }
}
