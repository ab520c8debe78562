use super::*;
use crate::dirty::Run;

fn trace(sets: &[&[(u32, u32)]]) -> PageWriteTrace {
    let ticks = sets.iter().enumerate().map(|(i, runs)| Tick {
        t_ns: i as u64 * 100_000_000,
        cpu_ns: 1_000_000 * runs.len() as u64,
        runs: runs
            .iter()
            .map(|&(start, len)| Run { start, len })
            .collect(),
    });
    PageWriteTrace {
        title: String::new(),
        pages: 100,
        interval_ns: 100_000_000,
        ticks: ticks.collect(),
    }
}

#[test]
fn figures_of_a_known_recording() {
    let trace = trace(&[
        &[(0, 100)],
        &[(0, 4), (10, 1)],
        &[(2, 4)],
        &[],
        &[(2, 1), (50, 8)],
    ]);
    let found = page_stats(&trace).unwrap();
    assert_eq!((found.ticks, found.marks, found.distinct), (4, 18, 15));
    // 2 of 4 pages; the empty tick and the one after it share nothing.
    assert!((found.overlap.unwrap() - 0.25).abs() < 1e-12);
    assert_eq!(found.run_histogram, [2, 0, 2, 1]);
    assert!((found.single_run_share.unwrap() - 0.4).abs() < 1e-12);
    assert!((found.run_mean.unwrap() - 3.6).abs() < 1e-12);
    assert!((found.new_pages_per_s - 8.0 / 0.2).abs() < 1e-9);
    // Half of 15 pages, rounded up: 3 + 2 + 6 single ones.
    assert!((found.hottest_share[2] - 11.0 / 18.0).abs() < 1e-12);
}

#[test]
fn the_working_set_starts_when_its_window_is_full() {
    let sets: Vec<Vec<(u32, u32)>> = (0..20).map(|i| vec![(i % 5, 1)]).collect();
    let sets: Vec<&[(u32, u32)]> = sets.iter().map(Vec::as_slice).collect();
    let found = working_set(&trace(&sets));
    assert_eq!(found.t_s.len(), 19);
    assert_eq!(found.cumulative[..6], [1, 2, 3, 4, 5, 5]);
    assert_eq!(found.windows.len(), 1);
    assert_eq!(found.windows[0].1[8..10], [None, Some(5)]);
}

#[test]
fn quantiles_are_of_sliding_windows() {
    let sets: Vec<Vec<(u32, u32)>> = (0..100).map(|i| vec![(0, 1 + i)]).collect();
    let sets: Vec<&[(u32, u32)]> = sets.iter().map(Vec::as_slice).collect();
    let trace = trace(&sets);
    let found = window_quantiles(&trace.ticks, 100, trace.interval_ns, 0.1).unwrap();
    assert_eq!((found.windows, found.disjoint), (100, 100));
    assert!((found.p50 - 50.5).abs() < 1e-9);
    assert_eq!(
        window_quantiles(&trace.ticks, 100, trace.interval_ns, 0.04),
        None
    );
    assert_eq!(
        window_quantiles(&trace.ticks, 100, trace.interval_ns, 60.0),
        None
    );
}
