use super::*;

fn series(samples: &[(i64, u32, Option<u64>)]) -> Series {
    let mut series = Series::default();
    for &(t_ms, dur_ms, cpu) in samples {
        let interval = Interval {
            t_ms,
            dur_ms,
            flags: 0,
        };
        series.push(interval, &[(Metric::CpuMilli, cpu)]).unwrap();
    }
    series
}

fn millis(trace: &CpuTrace) -> Vec<(u64, u32)> {
    trace
        .samples()
        .iter()
        .map(|s| (s.dur_ns / NS_PER_MS, s.milli))
        .collect()
}

#[test]
fn each_policy_fills_gaps_and_counts_them() {
    let series = series(&[
        (1000, 100, Some(10)),
        (1300, 100, Some(40)),
        (1400, 50, None),
    ]);
    let (hold, fill) = series.cpu_trace(GapPolicy::Hold).unwrap();
    assert_eq!(millis(&hold), [(100, 10), (200, 10), (100, 40), (50, 40)]);
    assert_eq!(
        fill,
        GapFill {
            gaps: 2,
            filled_ms: 250,
            total_ms: 450
        }
    );
    let (zero, _) = series.cpu_trace(GapPolicy::Zero).unwrap();
    assert_eq!(millis(&zero), [(100, 10), (200, 0), (100, 40), (50, 0)]);
    let (linear, _) = series.cpu_trace(GapPolicy::Linear).unwrap();
    assert_eq!(
        millis(&linear),
        [(100, 10), (100, 18), (100, 33), (100, 40), (50, 40)]
    );
}

#[test]
fn absent_values_stay_absent() {
    let series = series(&[(0, 10, None), (10, 10, Some(7)), (20, 10, None)]);
    assert_eq!(series.value(Metric::CpuMilli, 0), None);
    assert_eq!(series.value(Metric::CpuMilli, 1), Some(7));
    assert_eq!(series.value(Metric::CpuMilli, 2), None);
    assert_eq!(series.value(Metric::NetRxBytes, 1), None);
    let (trace, fill) = series.cpu_trace(GapPolicy::Hold).unwrap();
    assert_eq!(
        (millis(&trace), fill.gaps),
        (vec![(10, 7), (10, 7), (10, 7)], 2)
    );
}

#[test]
fn overlaps_are_refused() {
    let mut series = series(&[(0, 10, None)]);
    let interval = Interval {
        t_ms: 9,
        dur_ms: 1,
        flags: 0,
    };
    let overlap = SeriesError::Overlap {
        index: 1,
        t_ms: 9,
        end_ms: 10,
    };
    assert_eq!(series.push(interval, &[]), Err(overlap));
}
