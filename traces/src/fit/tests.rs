use super::*;
use crate::class::unique_pages;
use crate::dirty::{Run, Tick};

fn points(classes: &[PageClass]) -> Vec<Point> {
    let point = |x: f64| Point {
        x,
        pages: unique_pages(classes, x),
        cores: 1.0,
        weight: 1.0,
        basis: basis(x),
    };
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0].map(point).into()
}

fn class(pages: u32, rate: f64) -> PageClass {
    PageClass::new(pages, rate)
}

#[test]
fn classes_on_the_grid_come_back() {
    let truth = [class(500, 20.0), class(40_000, 0.2)];
    assert_eq!(fit(&points(&truth), 50_000, Coupling::Cpu), truth);
}

#[test]
fn classes_between_the_grid_are_matched_within_a_few_per_cent() {
    let truth = [class(800, 50.0), class(9_000, 0.5)];
    let points = points(&truth);
    let found = fit(&points, 50_000, Coupling::Cpu);
    assert!(relative_error(&found, &points) < 0.03, "{found:?}");
}

#[test]
fn classes_never_exceed_the_pages_of_the_recording() {
    let truth = [class(1_000_000, 0.008)];
    let found = fit(&points(&truth), 90_000, Coupling::Cpu);
    assert!(
        found.iter().map(|class| class.pages).sum::<u32>() <= 90_000,
        "{found:?}"
    );
}

#[test]
fn the_load_phase_is_the_longest_busy_stretch() {
    let tick = |i: u32| {
        let second = i / 10;
        let len = if (5..8).contains(&second) || (12..20).contains(&second) {
            50
        } else {
            1
        };
        let len = if i == 0 { 900 } else { len };
        let runs = vec![Run { start: 0, len }];
        Tick {
            t_ns: u64::from(i + 1) * 100_000_000,
            cpu_ns: 10_000_000,
            runs,
        }
    };
    let mut trace = PageWriteTrace {
        title: String::new(),
        pages: 1000,
        interval_ns: 100_000_000,
        ticks: (0..250).map(tick).collect(),
    };
    assert_eq!(load_phase(&trace), Some(13 * NS_PER_S..19 * NS_PER_S));
    trace.ticks.truncate(80);
    assert_eq!(load_phase(&trace), Some(5 * NS_PER_S..8 * NS_PER_S));
    trace.ticks.clear();
    assert_eq!(load_phase(&trace), None);
}

#[test]
fn what_cannot_be_fitted_is_said() {
    let mut trace = PageWriteTrace {
        title: String::new(),
        pages: 10,
        interval_ns: 100_000_000,
        ticks: (1..100)
            .map(|i| Tick {
                t_ns: i * 100_000_000,
                cpu_ns: 0,
                runs: vec![Run { start: 0, len: 3 }],
            })
            .collect(),
    };
    assert_eq!(fit_recording(&trace, 0..u64::MAX), Err(FitError::NoCpu));
    assert!(fit_recording_with(&trace, 0..u64::MAX, Coupling::Time).is_ok());
    trace.ticks.truncate(3);
    let error = fit_recording_with(&trace, 0..u64::MAX, Coupling::Time);
    assert!(
        matches!(error, Err(FitError::TooShort { found: 0, .. })),
        "{error:?}"
    );
}
