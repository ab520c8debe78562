//! Long memory: how fluctuations grow with the length looked at. Both estimates name their range.

use crate::units::round_usize;

/// A scaling exponent and the range of lengths it was fitted over.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Scaling {
    /// The exponent: 0.5 without memory, towards 1 with long memory.
    pub exponent: f64,
    /// Shortest length, in values.
    pub from: usize,
    /// Longest length, in values.
    pub to: usize,
}

/// Lengths a fit uses.
const LENGTHS: usize = 10;

/// Detrended fluctuation analysis of order 1 (Peng et al., 1994): the slope of log F(s) over log s,
/// F(s) the root mean square of the summed series around straight lines in boxes of s values.
///
/// Ten lengths evenly apart in the logarithm, from 5 values to a third of the series. `None` for
/// fewer than 30 values or a constant series.
#[must_use]
pub fn dfa(values: &[f64]) -> Option<Scaling> {
    if values.len() < 30 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut sum = 0.0;
    let path: Vec<f64> = values
        .iter()
        .map(|value| {
            sum += value - mean;
            sum
        })
        .collect();
    let lengths = lengths(5.0, values.len() as f64 / 3.0);
    let tiny = (mean.abs() * 1e-12).max(f64::MIN_POSITIVE);
    scaling(&lengths, |length| {
        Some(fluctuation(&path, length)).filter(|&f| f > tiny)
    })
}

/// Root mean square around straight lines in whole boxes of `length`.
fn fluctuation(path: &[f64], length: usize) -> f64 {
    let middle = (length as f64 - 1.0) / 2.0;
    let spread: f64 = (0..length).map(|i| (i as f64 - middle).powi(2)).sum();
    let (mut total, mut boxes) = (0.0, 0usize);
    for part in path.chunks_exact(length) {
        let mean = part.iter().sum::<f64>() / length as f64;
        let (mut squares, mut along) = (0.0, 0.0);
        for (i, value) in part.iter().enumerate() {
            squares += (value - mean).powi(2);
            along += (i as f64 - middle) * (value - mean);
        }
        total += (squares - along * along / spread).max(0.0);
        boxes += 1;
    }
    (total / (boxes * length) as f64).sqrt()
}

/// Hurst's exponent from aggregated variance (Taqqu, Teverovsky, Willinger, 1995): the variance of
/// means of m values falls as m^(2H−2).
///
/// Ten lengths from 1 to a tenth of the series. `None` for fewer than 50 values or a constant series.
#[must_use]
pub fn aggregated_variance(values: &[f64]) -> Option<Scaling> {
    if values.len() < 50 {
        return None;
    }
    let lengths = lengths(1.0, values.len() as f64 / 10.0);
    let variance = |length: usize| {
        let means = values.chunks_exact(length);
        let means: Vec<f64> = means
            .map(|part| part.iter().sum::<f64>() / length as f64)
            .collect();
        let summary = super::summary(&means)?;
        let tiny = (summary.mean * 1e-12).powi(2).max(f64::MIN_POSITIVE);
        Some(summary.deviation.powi(2)).filter(|&v| v > tiny)
    };
    let found = scaling(&lengths, variance)?;
    let exponent = 1.0 + found.exponent / 2.0;
    Some(Scaling { exponent, ..found })
}

/// Distinct lengths evenly apart in the logarithm.
fn lengths(from: f64, to: f64) -> Vec<usize> {
    let length = |i: usize| from * (to / from).powf(i as f64 / (LENGTHS - 1) as f64);
    let mut lengths: Vec<usize> = (0..LENGTHS).map(|i| round_usize(length(i))).collect();
    lengths.dedup();
    lengths
}

/// The slope of log `measure(length)` over log length; `None` for fewer than three lengths.
fn scaling(lengths: &[usize], measure: impl Fn(usize) -> Option<f64>) -> Option<Scaling> {
    let points = lengths.iter().filter_map(|&n| Some((n, measure(n)?)));
    let points: Vec<(usize, f64)> = points.collect();
    if points.len() < 3 {
        return None;
    }
    let mut sums = super::Normal::new(2);
    for &(length, value) in &points {
        sums.add(&[1.0, (length as f64).ln()], value.ln());
    }
    Some(Scaling {
        exponent: sums.fit(2)?.coefficients[1],
        from: points.first()?.0,
        to: points.last()?.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    #[test]
    fn white_noise_has_one_half_and_its_sum_one_and_a_half() {
        let noise = normals(1, 20_000);
        let white = dfa(&noise).unwrap();
        assert!((white.exponent - 0.5).abs() < 0.05, "{white:?}");
        let variance = aggregated_variance(&noise).unwrap();
        assert!((variance.exponent - 0.5).abs() < 0.07, "{variance:?}");
        let mut sum = 0.0;
        let walk: Vec<f64> = noise
            .iter()
            .map(|v| {
                sum += v;
                sum
            })
            .collect();
        let walk = dfa(&walk).unwrap();
        assert!((walk.exponent - 1.5).abs() < 0.1, "{walk:?}");
    }

    #[test]
    fn constant_and_short_series_have_none() {
        assert_eq!(dfa(&[3.3; 100]), None);
        assert_eq!(aggregated_variance(&[3.3; 100]), None);
        assert_eq!(dfa(&[1.0, 2.0]), None);
    }
}
