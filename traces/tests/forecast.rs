//! Forecasts of the library's page writes, back-tested side by side.

#[path = "common/library.rs"]
mod library;

use std::sync::Arc;

use library::{LIBRARY, recorded};
use traces::dirty::PageWriteTrace;
use traces::forecast::{Known, Method, MethodScore, Plan, backtest, class_windows};
use traces::stats::Sampled;

/// Recordings nobody looked at when the classes' constants were set: printed, and held to nothing.
const HELD_OUT: [&str; 3] = ["held-out/orders", "held-out/sort", "held-out/xz"];

fn recording(name: &str) -> PageWriteTrace {
    recorded(&format!("{name}.mbpw"))
}

fn scores(trace: &PageWriteTrace, step_ms: u32, horizons: Vec<usize>) -> Vec<MethodScore> {
    let (values, _) = Sampled::page_writes(trace, step_ms)
        .expect("long enough")
        .filled();
    let plan = Plan {
        known: Known {
            season: None,
            classes: class_windows(trace, step_ms).map(Arc::new),
        },
        horizons,
        most_origins: 500,
        refits: 4,
        ..Plan::default()
    };
    let methods = [
        Method::Mean,
        Method::MovingAverage(12),
        Method::Ewma(None),
        Method::Autoregressive(None),
        Method::Ensemble,
        Method::Classes,
    ];
    backtest(&values, &methods, &plan)
}

/// Page classes are foretold for every recording, beside the other predictors.
#[test]
fn page_classes_beside_the_other_predictors() {
    for step_ms in [100, 1000] {
        let mut ratios = Vec::new();
        for name in LIBRARY.into_iter().chain(HELD_OUT) {
            let found = scores(&recording(name), step_ms, vec![1, 6]);
            for (index, horizon) in [1, 6].into_iter().enumerate() {
                let mae = |score: &MethodScore| score.horizons.get(index).map(|h| h.mae);
                let all: Vec<String> = found
                    .iter()
                    .filter_map(|score| Some(format!("{} {:.1}", score.method, mae(score)?)))
                    .collect();
                eprintln!("{step_ms} ms, {name}, {horizon} ahead: {}", all.join(", "));
            }
            let classes = found.iter().find(|score| score.method == "classes");
            let classes = &classes.expect("classes of every recording").horizons[0];
            // A stencil's seconds are all alike: the last value has no error to compare with.
            let last = found[0].horizons[0].mae;
            let counts = last > 0.1 && LIBRARY.contains(&name);
            ratios.extend(counts.then(|| classes.mae / last));
        }
        ratios.sort_by(f64::total_cmp);
        eprintln!("{step_ms} ms, classes over last: {ratios:.2?}");
        // Seen: 0.49 to 0.87 (median 0.74) and 0.58 to 1.55 (median 0.96).
        let (most, median) = [(1.1, 0.9), (2.0, 1.1)][usize::from(step_ms > 100)];
        assert!(ratios.last().is_some_and(|&worst| worst < most));
        assert!(ratios[ratios.len() / 2] < median);
    }
}

/// D of windows of another length than those watched: from classes watched second by second, beside the
/// pages of as long a window just before.
#[test]
fn longer_windows_follow_from_the_classes() {
    const ORIGINS: u64 = 12;
    // Seen: the median recording is off by 27 % and by 11 % of its pages.
    for (window_s, windows_ns, most) in [(0.1, 100_000_000u64, 0.6), (10.0, 10_000_000_000, 0.25)] {
        let mut errors = Vec::new();
        for name in LIBRARY {
            let trace = recording(name);
            let (mut ours, mut last, mut level) = (0.0, 0.0, 0.0);
            let from_ns = 20_000_000_000;
            let step_ns = (trace.duration_ns() - from_ns - windows_ns) / ORIGINS;
            for origin_ns in (1..=ORIGINS).map(|index| from_ns + index * step_ns) {
                let seen = trace.slice(0..origin_ns);
                let classes = class_windows(&seen, 1000).map(Arc::new).expect("seconds");
                let foretold = classes.ahead(&[window_s]).expect("windows").curve[0].pages;
                let pages = |from_ns: u64, to_ns: u64| {
                    let part = trace.slice(from_ns..to_ns);
                    let mut pages: Vec<u32> = part.ticks.iter().flat_map(|t| t.pages()).collect();
                    pages.sort_unstable();
                    pages.dedup();
                    pages.len() as f64
                };
                let came = pages(origin_ns, origin_ns + windows_ns);
                ours += (foretold - came).abs();
                last += (pages(origin_ns - windows_ns, origin_ns) - came).abs();
                level += came;
            }
            let origins = ORIGINS as f64;
            eprintln!(
                "D({window_s} s), {name}: {:.0} pages in the mean; error of classes {:.1}, of the last window {:.1}",
                level / origins,
                ours / origins,
                last / origins
            );
            errors.push(ours / level);
        }
        errors.sort_by(f64::total_cmp);
        eprintln!("D({window_s} s), errors of classes over the pages that came: {errors:.2?}");
        assert!(errors[errors.len() / 2] < most);
    }
}
