//! Samples tidied by hand-computed examples, and by properties that hold for any.

use proptest::prelude::*;

use super::*;
use crate::store::series::{Interval, Series};

fn sample(t_ms: i64, dur_ms: u32, cpu: u64, rx: Option<u64>) -> Sample {
    let interval = Interval {
        t_ms,
        dur_ms,
        flags: 0,
    };
    let values = Values::of(&[
        (Metric::CpuMilli, Some(cpu)),
        (Metric::CpuMaxMilli, Some(cpu)),
        (Metric::NetRxBytes, rx),
    ]);
    Sample {
        vm: 0,
        interval,
        values,
    }
}

fn tidy(rule: Rule, samples: &[Sample]) -> (Vec<Sample>, TidyCounts) {
    let (mut tidy, mut out) = (Tidy::new(rule), Vec::new());
    for &sample in samples {
        tidy.sample(sample, &mut out);
    }
    tidy.end(&mut out);
    (out, tidy.counts)
}

/// Start, length, CPU, received.
fn short(samples: &[Sample]) -> Vec<(i64, u32, Option<u64>, Option<u64>)> {
    let short = |s: &Sample| {
        let get = |metric| s.values.get(metric);
        let (cpu, rx) = (get(Metric::CpuMilli), get(Metric::NetRxBytes));
        (s.interval.t_ms, s.interval.dur_ms, cpu, rx)
    };
    samples.iter().map(short).collect()
}

fn instants(step_ms: Option<(u32, u32)>, counters: Counters) -> Rule {
    Rule::Hold(Hold {
        step_ms,
        counters,
        rates: false,
    })
}

#[test]
fn of_one_instant_the_last_counts_and_overlaps_are_cut() {
    let (out, counts) = tidy(
        Rule::Given,
        &[
            sample(0, 10, 1, Some(100)),
            sample(0, 10, 2, Some(100)),
            sample(5, 10, 3, None),
        ],
    );
    assert_eq!(
        short(&out),
        [(0, 5, Some(2), Some(50)), (5, 10, Some(3), None)]
    );
    assert_eq!((counts.duplicates, counts.cut), (1, 1));
}

#[test]
fn what_ran_side_by_side_is_added_up() {
    let (out, counts) = tidy(
        Rule::Sum,
        &[
            sample(0, 300, 10, Some(300)),
            sample(100, 100, 5, Some(50)),
            sample(400, 100, 7, None),
        ],
    );
    let expected = [
        (0, 100, Some(10), Some(100)),
        (100, 100, Some(15), Some(150)),
        (200, 100, Some(10), Some(100)),
        (400, 100, Some(7), None),
    ];
    assert_eq!(short(&out), expected);
    assert_eq!(counts.summed, 1);
    let most = |s: &Sample| s.values.get(Metric::CpuMaxMilli);
    assert_eq!(
        out.iter().map(most).collect::<Vec<_>>(),
        [Some(10), None, Some(10), Some(7)],
        "the largest of two is not the sum of their largest"
    );
}

#[test]
fn instants_hold_to_the_next_unless_it_is_late() {
    let samples: Vec<Sample> = [0, 60, 120, 400, 460]
        .map(|t| sample(t, 1, 1, None))
        .to_vec();
    let expected = [
        (0, 60, Some(1), None),
        (60, 60, Some(1), None),
        (120, 60, Some(1), None),
        (400, 60, Some(1), None),
        (460, 60, Some(1), None),
    ];
    let (out, _) = tidy(instants(None, Counters::No), &samples);
    assert_eq!(short(&out), expected);
    let (out, _) = tidy(instants(Some((10, 300)), Counters::No), &samples);
    assert_eq!(short(&out)[2], (120, 280, Some(1), None));
    assert_eq!(short(&out)[4], (460, 10, Some(1), None));
}

#[test]
fn counters_are_differenced_over_their_window_and_resets_are_flagged() {
    let counter = [
        (0, 100),
        (60, 100),
        (100, 130),
        (200, 150),
        (300, 20),
        (400, 30),
    ];
    let samples: Vec<Sample> = counter
        .iter()
        .map(|&(t, rx)| sample(t, 1, 1, Some(rx)))
        .collect();
    let rule = instants(Some((100, 150)), Counters::Bytes { window_ms: 100 });
    let (out, counts) = tidy(rule, &samples);
    let expected = [
        (0, 60, Some(1), Some(18)),
        (60, 40, Some(1), Some(12)),
        (100, 100, Some(1), Some(20)),
        (200, 100, Some(1), None),
        (300, 100, Some(1), Some(10)),
        (400, 100, Some(1), None),
    ];
    assert_eq!(short(&out), expected);
    assert_eq!(counts.resets, 1);
    assert_eq!(out[3].interval.flags, flags::COUNTER_RESET);
}

#[test]
fn cpu_time_becomes_cores() {
    let samples = [
        sample(0, 1, 1_000_000, None),
        sample(1000, 1, 2_500_000, None),
        sample(2000, 1, 2_500_000, None),
    ];
    let (out, _) = tidy(instants(None, Counters::CpuAndBytes), &samples);
    let expected = [
        (0, 1000, Some(1500), None),
        (1000, 1000, Some(0), None),
        (2000, 1000, None, None),
    ];
    assert_eq!(short(&out), expected);
}

proptest! {
    /// Whatever comes in sorted goes out as a series: ascending, without overlap, no length of zero.
    #[test]
    fn everything_becomes_a_series(
        rows in proptest::collection::vec((0i64..5000, 1u32..2000, any::<u64>()), 1..400),
        which in 0usize..6,
    ) {
        let mut rows = rows;
        rows.sort_by_key(|row| row.0);
        let samples: Vec<Sample> =
            rows.iter().map(|&(t, dur, v)| sample(t, dur, v % 1000, Some(v))).collect();
        let rules = [
            Rule::Given,
            Rule::Sum,
            instants(None, Counters::No),
            instants(Some((10, 50)), Counters::Bytes { window_ms: 100 }),
            instants(None, Counters::CpuAndBytes),
            Rule::Hold(Hold { step_ms: None, counters: Counters::No, rates: true }),
        ];
        let (out, _) = tidy(rules[which], &samples);
        let mut series = Series::default();
        for sample in &out {
            let values: Vec<_> = sample.values.iter().map(|(m, v)| (m, Some(v))).collect();
            prop_assert!(series.push(sample.interval, &values).is_ok());
        }
        prop_assert!(!out.is_empty());
    }

    /// Added up or not, CPU time is neither made nor lost.
    #[test]
    fn sums_keep_the_work(rows in proptest::collection::vec((0i64..500, 1u32..200, 0u64..100), 1..60)) {
        let mut rows = rows;
        rows.sort_by_key(|row| row.0);
        let samples: Vec<Sample> = rows.iter().map(|&(t, dur, v)| sample(t, dur, v, None)).collect();
        let work = |samples: &[Sample]| -> u64 {
            let one = |s: &Sample| s.values.get(Metric::CpuMilli).unwrap_or(0) * u64::from(s.interval.dur_ms);
            samples.iter().map(one).sum()
        };
        prop_assert_eq!(work(&tidy(Rule::Sum, &samples).0), work(&samples));
    }
}
