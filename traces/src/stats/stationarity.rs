//! Is a series stationary? Two tests that ask from opposite sides.

use super::Normal;
use crate::units::round_usize;

/// A test's statistic against its 5 % critical value.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct UnitRoot {
    /// The statistic.
    pub statistic: f64,
    /// Its 5 % critical value.
    pub critical_5: f64,
    /// Lags used.
    pub lags: usize,
    /// Whether the null hypothesis is rejected at 5 %.
    pub rejected: bool,
}

/// Augmented Dickey-Fuller with a constant; null hypothesis: a unit root (not stationary).
///
/// Lags up to Schwert's 12 (n/100)^(1/4), at most 24, chosen by AIC on one sample. Critical value
/// by MacKinnon's (2010) response surface. `None` for fewer than 30 values or a constant series.
#[must_use]
pub fn adf(values: &[f64]) -> Option<UnitRoot> {
    let n = values.len();
    if n < 30 {
        return None;
    }
    let most = round_usize((12.0 * (n as f64 / 100.0).powf(0.25)).floor())
        .min(24)
        .min(n / 4);
    // Centred: the constant keeps its meaning, the sums keep their digits.
    let mean = values.iter().sum::<f64>() / n as f64;
    let change = |t: usize| values[t] - values[t - 1];
    let mut sums = Normal::new(2 + most);
    let mut row = vec![1.0; 2 + most];
    for t in most + 1..n {
        row[1] = values[t - 1] - mean;
        for lag in 1..=most {
            row[1 + lag] = change(t - lag);
        }
        sums.add(&row, change(t));
    }
    let score = |lags: usize| {
        let fit = sums.fit(2 + lags)?;
        let rows = sums.count as f64;
        let aic =
            rows * (fit.residual / rows).max(f64::MIN_POSITIVE).ln() + 2.0 * (2 + lags) as f64;
        Some((aic, lags, fit))
    };
    let best = (0..=most)
        .filter_map(score)
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    let (_, lags, fit) = best;
    if fit.errors[1] <= 0.0 {
        return None;
    }
    let statistic = fit.coefficients[1] / fit.errors[1];
    let rows = sums.count as f64;
    let critical_5 = -2.86154 - 2.8903 / rows - 4.234 / rows.powi(2) - 40.04 / rows.powi(3);
    Some(UnitRoot {
        statistic,
        critical_5,
        lags,
        rejected: statistic < critical_5,
    })
}

/// KPSS for a level (Kwiatkowski et al., 1992); null hypothesis: stationary.
///
/// Long-run variance with Bartlett weights over 12 (n/100)^(1/4) lags. `None` for fewer than 30
/// values or a constant series.
#[must_use]
pub fn kpss(values: &[f64]) -> Option<UnitRoot> {
    const CRITICAL_5: f64 = 0.463;
    let n = values.len();
    if n < 30 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let residuals: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let lags = round_usize((12.0 * (n as f64 / 100.0).powf(0.25)).floor()).min(n - 1);
    let product = |lag: usize| -> f64 {
        let pairs = residuals.iter().zip(&residuals[lag..]);
        pairs.map(|(a, b)| a * b).sum()
    };
    let variance = product(0);
    if variance / n as f64 <= (mean * 1e-12).powi(2) {
        return None;
    }
    let weighted = |lag: usize| 2.0 * (1.0 - lag as f64 / (lags + 1) as f64) * product(lag);
    let long_run = variance + (1..=lags).map(weighted).sum::<f64>();
    let (mut sum, mut squares) = (0.0, 0.0);
    for residual in &residuals {
        sum += residual;
        squares += sum * sum;
    }
    // Both sums still to be divided by n: the statistic is Σ S² / n² over the long-run variance.
    let statistic = squares / n as f64 / long_run.max(f64::MIN_POSITIVE);
    Some(UnitRoot {
        statistic,
        critical_5: CRITICAL_5,
        lags,
        rejected: statistic > CRITICAL_5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    #[test]
    fn noise_is_stationary_and_a_walk_is_not() {
        let noise = normals(3, 2000);
        assert!(adf(&noise).unwrap().rejected);
        assert!(!kpss(&noise).unwrap().rejected);
        let mut sum = 0.0;
        let walk: Vec<f64> = noise
            .iter()
            .map(|v| {
                sum += v;
                sum
            })
            .collect();
        assert!(!adf(&walk).unwrap().rejected);
        assert!(kpss(&walk).unwrap().rejected);
    }

    /// Under the null hypothesis a 5 % test rejects about one time in twenty.
    #[test]
    fn false_alarms_are_about_five_per_cent() {
        let rejected = |test: fn(&[f64]) -> Option<UnitRoot>, walk: bool| {
            let run = |seed: u64| {
                let mut sum = 0.0;
                let step = |v: &f64| {
                    sum += v;
                    if walk { sum } else { *v }
                };
                let values: Vec<f64> = normals(seed, 300).iter().map(step).collect();
                test(&values).unwrap().rejected
            };
            (0..300u64).filter(|&seed| run(seed)).count()
        };
        // 300 trials at 5 %: 15 expected, standard deviation 3.8.
        let (adf, kpss) = (rejected(adf, true), rejected(kpss, false));
        assert!((4..=30).contains(&adf), "{adf}");
        assert!((4..=30).contains(&kpss), "{kpss}");
    }

    #[test]
    fn constant_and_short_series_have_none() {
        assert_eq!(adf(&[2.5; 100]), None);
        assert_eq!(kpss(&[2.5; 100]), None);
        assert_eq!(adf(&[1.0; 5]), None);
    }
}
