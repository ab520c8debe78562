//! Moments, quantiles, dispersion and bursts of a series of known values.

/// Location and spread. Quantiles are linear between order statistics (Hyndman and Fan's type 7).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Values.
    pub count: usize,
    /// Least.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population (divided by n).
    pub deviation: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Deviation over mean; none when the mean is 0.
    pub coefficient_of_variation: Option<f64>,
    /// Largest over mean; none when the mean is 0.
    pub peak_to_mean: Option<f64>,
    /// 99th percentile over mean; none when the mean is 0.
    pub p99_to_mean: Option<f64>,
}

/// Computes a [`Summary`]; `None` for no values.
#[must_use]
pub fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let deviation = (square / values.len() as f64).sqrt();
    let over_mean = |value: f64| (mean > 0.0).then(|| value / mean);
    let p99 = quantile(&sorted, 0.99)?;
    Some(Summary {
        count: values.len(),
        min,
        mean,
        deviation,
        p50: quantile(&sorted, 0.5)?,
        p95: quantile(&sorted, 0.95)?,
        p99,
        max,
        coefficient_of_variation: over_mean(deviation),
        peak_to_mean: over_mean(max),
        p99_to_mean: over_mean(p99),
    })
}

/// A quantile of ascending values, linear between neighbours; `None` for no values.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = share.clamp(0.0, 1.0) * last as f64;
    let below = crate::units::round_usize(at.floor());
    let (low, high) = (*sorted.get(below)?, sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (at - below as f64))
}

/// Index of dispersion for counts over windows of `window` values: variance of the windows' sums over
/// their mean. For bytes in an interval this is the index of dispersion for bytes. `None` for fewer
/// than two windows or a mean of 0.
#[must_use]
pub fn dispersion_index(values: &[f64], window: usize) -> Option<f64> {
    let sums: Vec<f64> = values
        .chunks_exact(window.max(1))
        .map(|chunk| chunk.iter().sum())
        .collect();
    let summary = summary(&sums).filter(|s| s.count >= 2 && s.mean > 0.0)?;
    Some(summary.deviation.powi(2) / summary.mean)
}

/// Stretches above the mean plus one standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Bursts {
    /// What a value must exceed.
    pub threshold: f64,
    /// Stretches; a value not recorded ends one.
    pub count: usize,
    /// Their mean length in values; none when there is none.
    pub mean_length: Option<f64>,
    /// The longest, in values.
    pub longest: usize,
}

/// Counts bursts in a series with holes; `None` for no values.
#[must_use]
pub fn bursts(values: &[Option<f64>]) -> Option<Bursts> {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    let summary = summary(&known)?;
    let threshold = summary.mean + summary.deviation;
    let (mut count, mut total, mut longest, mut length) = (0, 0, 0, 0);
    for value in values.iter().copied().chain([None]) {
        if value.is_some_and(|v| v > threshold) {
            length += 1;
        } else if length > 0 {
            (count, total, longest) = (count + 1, total + length, longest.max(length));
            length = 0;
        }
    }
    Some(Bursts {
        threshold,
        count,
        mean_length: (count > 0).then(|| total as f64 / count as f64),
        longest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_known_series() {
        let found = summary(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((found.min, found.max, found.mean), (1.0, 4.0, 2.5));
        assert_eq!(found.p50, 2.5);
        assert!((found.deviation - 1.25f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.peak_to_mean, Some(1.6));
        assert!((found.p95 - 3.85).abs() < 1e-12);
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[0.0, 0.0]).unwrap().coefficient_of_variation, None);
    }

    #[test]
    fn holes_end_bursts() {
        let values = [0.0, 9.0, 9.0, 0.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0].map(Some);
        let found = bursts(&values).unwrap();
        assert_eq!((found.count, found.longest), (2, 3));
        assert_eq!(found.mean_length, Some(2.5));
        let mut holed = values;
        holed[5] = None;
        assert_eq!(bursts(&holed).unwrap().count, 3);
    }

    #[test]
    fn dispersion_of_a_constant_is_none_and_of_bursts_large() {
        assert_eq!(dispersion_index(&[2.0; 10], 2), Some(0.0));
        assert_eq!(dispersion_index(&[0.0, 10.0, 0.0, 10.0], 1), Some(5.0));
        assert_eq!(dispersion_index(&[0.0; 4], 1), None);
    }
}
