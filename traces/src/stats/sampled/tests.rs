use super::*;
use crate::store::series::Interval;

fn series(samples: &[(i64, u32, Option<u64>)]) -> Series {
    let mut series = Series::default();
    for &(t_ms, dur_ms, value) in samples {
        let interval = Interval {
            t_ms,
            dur_ms,
            flags: 0,
        };
        series.push(interval, &[(Metric::CpuMilli, value)]).unwrap();
    }
    series
}

#[test]
fn cells_are_means_by_time_and_holes_stay_holes() {
    let series = series(&[
        (1000, 100, Some(1000)),
        (1100, 50, Some(2000)),
        (1150, 50, Some(4000)),
        (1200, 100, None),
        (1340, 60, Some(5000)),
        (1400, 100, Some(0)),
    ]);
    let found = Sampled::of(&series, Quantity::Cpu).unwrap();
    assert_eq!((found.start_ms, found.step_ms), (1000, 100));
    let expected = [Some(1.0), Some(3.0), None, Some(5.0), Some(0.0)];
    assert_eq!(found.values, expected);
    assert_eq!(found.filled(), (vec![1.0, 3.0, 3.0, 5.0, 0.0], 1));
    assert!((found.missing_share() - 0.2).abs() < 1e-12);
    let rows = Sampled::rows(&series, Quantity::Cpu).unwrap();
    assert_eq!(rows.values.len(), 6);
    assert_eq!(Sampled::of(&series, Quantity::NetRx), None);
    assert_eq!(Sampled::of(&Series::default(), Quantity::Cpu), None);
}

#[test]
fn a_hole_of_years_does_not_fill_memory() {
    let series = series(&[(0, 1, Some(1)), (1 << 40, 1, Some(1))]);
    let found = Sampled::of(&series, Quantity::Cpu);
    assert!(found.is_none_or(|f| f.values.len() <= MOST_CELLS));
}

#[test]
fn steps_and_gaps_are_counted() {
    let series = series(&[
        (0, 10, None),
        (10, 10, None),
        (20, 10, None),
        (65, 10, None),
        (1075, 10, None),
    ]);
    let found = steps(&series);
    assert_eq!(found.commonest, [(10, 2), (45, 1), (1010, 1)]);
    assert_eq!((found.gaps, found.longest_gap_ms), (2, 1000));
    assert_eq!(found.gap_histogram, [0, 1, 0, 0, 1]);
}

#[test]
fn every_quantity_has_its_name() {
    for quantity in Quantity::ALL {
        assert_eq!(Quantity::from_name(quantity.name()), Some(quantity));
    }
    assert_eq!(Quantity::from_name("x"), None);
}
