//! The mean of every interval is exact, values keep their bounds, lines are continuous, draws are
//! the same twice and autocorrelated.

use proptest::prelude::*;

use super::*;

const S: u64 = crate::units::NS_PER_S;

fn options(kind: Resample, step_ns: u64) -> Options {
    Options {
        kind,
        step_ns,
        cap_milli: 4000,
        seed: 7,
    }
}

fn trace(intervals: &[(u64, u32, CpuSpread)]) -> CpuTrace {
    let sample = |&(dur_ns, milli, _): &(u64, u32, CpuSpread)| CpuSample { dur_ns, milli };
    let samples = intervals.iter().map(sample).collect();
    let spreads = intervals.iter().map(|interval| interval.2).collect();
    CpuTrace::new(samples).unwrap().with_spreads(spreads)
}

fn plain(intervals: &[(u64, u32)]) -> CpuTrace {
    let all: Vec<_> = intervals
        .iter()
        .map(|&(dur_ns, milli)| (dur_ns, milli, CpuSpread::default()))
        .collect();
    trace(&all)
}

fn span(min: u32, max: u32) -> CpuSpread {
    CpuSpread {
        min: Some(min),
        p95: None,
        max: Some(max),
    }
}

/// Demand of every nanosecond-exact piece of an interval: (length, value).
fn within(trace: &CpuTrace, from_ns: u64, to_ns: u64) -> Vec<(u64, u32)> {
    let mut at = from_ns;
    let mut found = Vec::new();
    while at < to_ns {
        let demand = trace.demand_at(at);
        let until = demand.until_ns.min(to_ns);
        found.push((until - at, demand.milli));
        at = until;
    }
    found
}

fn work(pieces: &[(u64, u32)]) -> u128 {
    let one = |&(dur_ns, milli): &(u64, u32)| u128::from(dur_ns) * u128::from(milli);
    pieces.iter().map(one).sum()
}

#[test]
fn a_line_goes_through_the_shared_ends_and_keeps_the_mean() {
    // Means 100, 300, 100, …: ends at 200, so 100 has 0 in its middle and 300 has 400. Quarters of
    // the line from 200 down to 0 and back average 150, 50, 50, 150.
    let trace = plain(&[(4 * S, 100), (4 * S, 300)]);
    let found = resample(&trace, &options(Resample::Linear, S)).unwrap();
    let values: Vec<u32> = (0..8).map(|s| found.demand_at(s * S).milli).collect();
    assert_eq!(values, [150, 50, 50, 150, 250, 350, 350, 250]);
}

#[test]
fn a_line_has_no_jumps() {
    // Neighbouring steps of a continuous line differ by at most its slope: ends and middles of
    // means in 0..=1000 differ by at most 2000 in half an interval of 50 steps, one more by rounding.
    let trace = plain(&[
        (100 * S, 500),
        (100 * S, 900),
        (100 * S, 400),
        (100 * S, 450),
    ]);
    let found = resample(&trace, &options(Resample::Linear, S)).unwrap();
    let values: Vec<i64> = (0..400)
        .map(|s| i64::from(found.demand_at(s * S).milli))
        .collect();
    for (at, pair) in values.windows(2).enumerate() {
        assert!(
            (pair[1] - pair[0]).abs() <= 2000 / 50 + 1,
            "at {at} s: {pair:?}"
        );
    }
    assert!(
        values.iter().max() > Some(&900),
        "demand varies: {values:?}"
    );
}

#[test]
fn a_full_interval_leaves_room_for_a_jump_only() {
    let trace = plain(&[(10 * S, 4000), (10 * S, 0)]);
    let found = resample(&trace, &options(Resample::Linear, S)).unwrap();
    assert_eq!(within(&found, 0, 20 * S), [(10 * S, 4000), (10 * S, 0)]);
}

#[test]
fn hold_changes_nothing() {
    let held = trace(&[(10 * S, 100, span(0, 900)), (10 * S, 50, span(0, 900))]);
    assert_eq!(resample(&held, &options(Resample::Hold, S)), Ok(held));
}

#[test]
fn a_spread_reaches_towards_its_bounds() {
    // Mean 250 on [0, 1000]: a = 3, quantiles 1000 u^3. The greatest of 300 steps is at
    // u = 299.5/300 (995), a quarter of them lies below 1000/64.
    let trace = trace(&[(300 * S, 250, span(0, 1000))]);
    let found = resample(&trace, &options(Resample::Spread, S)).unwrap();
    let mut values: Vec<u32> = (0..300).map(|s| found.demand_at(s * S).milli).collect();
    values.sort_unstable();
    assert!((990..=1000).contains(&values[299]), "{}", values[299]);
    assert!(values[74] <= 17, "{}", values[74]);
    assert_eq!(values.iter().sum::<u32>(), 250 * 300);
}

#[test]
fn a_percentile_has_its_share_of_time_below_it() {
    let spread = CpuSpread {
        p95: Some(400),
        ..span(100, 2000)
    };
    let trace = trace(&[(300 * S, 300, spread)]);
    let found = resample(&trace, &options(Resample::Spread, S)).unwrap();
    let above = (0..300)
        .filter(|s| found.demand_at(s * S).milli > 400)
        .count();
    assert!((14..=16).contains(&above), "{above} of 300 steps");
}

#[test]
fn intervals_without_a_maximum_are_held() {
    let min_only = CpuSpread {
        min: Some(1),
        ..CpuSpread::default()
    };
    let trace = trace(&[(10 * S, 100, min_only), (10 * S, 100, span(50, 200))]);
    let found = resample(&trace, &options(Resample::Spread, S)).unwrap();
    assert_eq!(within(&found, 0, 10 * S), [(10 * S, 100)]);
    assert!(within(&found, 10 * S, 20 * S).len() > 3);
}

#[test]
fn demand_within_an_interval_is_autocorrelated() {
    let trace = trace(&[(3000 * S, 500, span(0, 1000))]);
    let found = resample(&trace, &options(Resample::Spread, S)).unwrap();
    let values: Vec<f64> = (0..3000)
        .map(|s| f64::from(found.demand_at(s * S).milli) - 500.0)
        .collect();
    let at_lag = |lag: usize| {
        let both: f64 = values.iter().zip(&values[lag..]).map(|(a, b)| a * b).sum();
        both / values.iter().map(|value| value * value).sum::<f64>()
    };
    // exp(−1/15) = 0.936, exp(−10/15) = 0.51; the standard error over 3000 s / 15 s is about 0.07.
    assert!(at_lag(1) > 0.85, "{}", at_lag(1));
    assert!((0.3..0.72).contains(&at_lag(10)), "{}", at_lag(10));
    assert!(at_lag(150).abs() < 0.3, "{}", at_lag(150));
}

#[test]
fn too_many_steps_are_refused_with_their_number() {
    let trace = plain(&[(3_000_000 * S, 1)]);
    let error = resample(&trace, &options(Resample::Linear, S)).unwrap_err();
    assert_eq!(error.steps, 3_000_000);
    assert!(error.to_string().contains("3000000 steps"), "{error}");
}

fn spreads() -> impl Strategy<Value = CpuSpread> {
    let any = || prop::option::of(0u32..5000);
    (any(), any(), any()).prop_map(|(min, p95, max)| CpuSpread { min, p95, max })
}

proptest! {
    #[test]
    fn the_mean_of_every_interval_is_exact_and_bounds_hold(
        intervals in prop::collection::vec((1u64..400_000, 0u32..4500, spreads()), 1..12),
        step_ns in 1u64..100_000,
        linear: bool,
        seed: u64,
    ) {
        let trace = trace(&intervals);
        let kind = if linear { Resample::Linear } else { Resample::Spread };
        // Steps of at least a thousandth of the longest interval keep the case small.
        let options = Options { step_ns: step_ns.max(400), seed, ..options(kind, 1) };
        let found = resample(&trace, &options).unwrap();
        prop_assert_eq!(&found, &resample(&trace, &options).unwrap(), "the same twice");
        prop_assert_eq!(found.period_ns(), trace.period_ns());
        let mut at = 0;
        for &(dur_ns, mean, spread) in &intervals {
            let pieces = within(&found, at, at + dur_ns);
            prop_assert_eq!(work(&pieces), u128::from(dur_ns) * u128::from(mean));
            let (least, most) = bounds(mean, spread, options.cap_milli);
            for (_, value) in pieces {
                prop_assert!((least..=most).contains(&value), "{} in {}..={}", value, least, most);
            }
            at += dur_ns;
        }
    }
}
