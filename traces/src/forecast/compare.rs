//! Is a difference between two predictors more than chance?

use statrs::function::erf::erf;

use crate::stats::quantile;

/// Diebold and Mariano's test (1995) on absolute errors.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct DieboldMariano {
    /// Mean difference over its standard error; negative when the first is better.
    pub statistic: f64,
    /// Two-sided, by the normal.
    pub p_value: f64,
}

/// Tests errors made at the same instants, `horizon` steps ahead, in order.
///
/// The variance of the mean is long-run, with Bartlett weights over the horizon − 1 lags that
/// overlapping forecasts share, at least n^(1/3). `None` for fewer than 20 pairs or equal errors.
#[must_use]
pub fn diebold_mariano(ours: &[f64], theirs: &[f64], horizon: usize) -> Option<DieboldMariano> {
    let n = ours.len().min(theirs.len());
    if n < 20 {
        return None;
    }
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let mean = differences.iter().sum::<f64>() / n as f64;
    let product = |lag: usize| -> f64 {
        let pairs = differences.iter().zip(&differences[lag..]);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / n as f64
    };
    let cube = crate::units::round_usize((n as f64).cbrt());
    let lags = (horizon.saturating_sub(1)).max(cube).min(n / 4);
    let weighted = |lag: usize| 2.0 * (1.0 - lag as f64 / (lags + 1) as f64) * product(lag);
    let variance = (product(0) + (1..=lags).map(weighted).sum::<f64>()) / n as f64;
    if variance <= 0.0 {
        return None;
    }
    let statistic = mean / variance.sqrt();
    Some(DieboldMariano {
        statistic,
        p_value: 1.0 - erf(statistic.abs() / std::f64::consts::SQRT_2),
    })
}

/// A median of paired differences with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Paired {
    /// Pairs.
    pub pairs: usize,
    /// Median of the differences.
    pub median: f64,
    /// 2.5th percentile over resamples.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Resamples pairs (VMs) with replacement, 2,000 times from a fixed seed; `None` for fewer than five.
#[must_use]
pub fn paired_bootstrap(differences: &[f64]) -> Option<Paired> {
    const RESAMPLES: usize = 2000;
    const SEED: u64 = 1;
    if differences.len() < 5 {
        return None;
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        quantile(values, 0.5)
    };
    let mut draws = crate::stats::Draws::new(SEED);
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let draw = |_: &f64| differences[draws.below(differences.len())];
        let mut sample: Vec<f64> = differences.iter().map(draw).collect();
        medians.extend(median(&mut sample));
    }
    medians.sort_unstable_by(f64::total_cmp);
    Some(Paired {
        pairs: differences.len(),
        median: median(&mut differences.to_vec())?,
        low: quantile(&medians, 0.025)?,
        high: quantile(&medians, 0.975)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    #[test]
    fn equal_predictors_are_rarely_told_apart() {
        let told = (0..200u64)
            .filter(|&seed| {
                let errors = normals(seed, 400);
                let (a, b) = errors.split_at(200);
                let abs = |part: &[f64]| part.iter().map(|v| v.abs()).collect::<Vec<f64>>();
                diebold_mariano(&abs(a), &abs(b), 1).unwrap().p_value < 0.05
            })
            .count();
        // 10 expected, deviation 3; the long-run variance is a little short of samples.
        assert!((2..=24).contains(&told), "{told}");
    }

    #[test]
    fn a_better_predictor_is_told() {
        let noise = normals(2, 600);
        let good: Vec<f64> = noise.iter().map(|v| v.abs()).collect();
        let bad: Vec<f64> = noise.iter().rev().map(|v| 1.5 * v.abs()).collect();
        let found = diebold_mariano(&good, &bad, 6).unwrap();
        assert!(found.statistic < -3.0 && found.p_value < 0.01);
        assert_eq!(diebold_mariano(&good, &good, 1), None);
        assert_eq!(diebold_mariano(&good[..5], &bad[..5], 1), None);
    }

    #[test]
    fn the_bootstrap_holds_the_median() {
        let found = paired_bootstrap(&normals(3, 100)).unwrap();
        assert!(found.low < found.median && found.median < found.high);
        assert!(found.low < 0.1 && found.high > -0.1 && found.high - found.low < 0.9);
        assert_eq!(paired_bootstrap(&[1.0]), None);
    }
}
