//! How values hang together: with themselves later, and with another series.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// Autocorrelation of a series at a lag; `None` when it is constant or shorter than the lag.
///
/// The sum of products at the lag over the sum of squares: biased towards 0 by (n − lag)/n, as the
/// textbook estimator is (Box and Jenkins). [`autocorrelations`] is not.
#[must_use]
pub fn autocorrelation(values: &[f64], lag: usize) -> Option<f64> {
    if values.len() <= lag {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let pairs = values.iter().zip(&values[lag..]);
    let covariance: f64 = pairs.map(|(a, b)| (a - mean) * (b - mean)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

/// Autocorrelations at lags `0..=longest` of a series with holes: the mean product of the pairs that
/// are both known, over the variance of what is known. A lag without pairs has none.
///
/// By Fourier transforms of the values and of the mask of what is known, in O(n log n). Empty when
/// the series is constant or has no value.
#[must_use]
pub fn autocorrelations(values: &[Option<f64>], longest: usize) -> Vec<Option<f64>> {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    if known.is_empty() {
        return Vec::new();
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let variance = known.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / known.len() as f64;
    // A series that is constant to the last bit or two has no shape to speak of.
    if variance <= (mean * 1e-12).powi(2) {
        return Vec::new();
    }
    let longest = longest.min(values.len() - 1);
    let centred = values.iter().map(|v| v.map_or(0.0, |v| v - mean));
    let products = self_products(centred, values.len(), longest);
    let mask = values.iter().map(|v| f64::from(u8::from(v.is_some())));
    let pairs = self_products(mask, values.len(), longest);
    let both = products.into_iter().zip(pairs);
    // Half a pair is rounding of none.
    both.map(|(product, pairs)| (pairs > 0.5).then(|| product / pairs.round() / variance))
        .collect()
}

/// Σ x(i) x(i + lag) for lags `0..=longest`.
fn self_products(values: impl Iterator<Item = f64>, len: usize, longest: usize) -> Vec<f64> {
    // Padded, so that the end does not wrap round to the start.
    let size = (len + longest + 1).next_power_of_two();
    let mut buffer: Vec<Complex<f64>> = values.map(|v| Complex::new(v, 0.0)).collect();
    buffer.resize(size, Complex::default());
    let mut planner = FftPlanner::new();
    planner.plan_fft_forward(size).process(&mut buffer);
    for value in &mut buffer {
        *value = Complex::new(value.norm_sqr(), 0.0);
    }
    planner.plan_fft_inverse(size).process(&mut buffer);
    let first = buffer.into_iter().take(longest + 1);
    first.map(|value| value.re / size as f64).collect()
}

/// Pearson's correlation over the pairs that are both known; `None` for fewer than three pairs or
/// when either side is constant.
#[must_use]
pub fn correlation(pairs: impl Iterator<Item = (Option<f64>, Option<f64>)>) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = pairs.filter_map(|(a, b)| Some((a?, b?))).collect();
    if pairs.len() < 3 {
        return None;
    }
    let n = pairs.len() as f64;
    let (sum_a, sum_b) = pairs
        .iter()
        .fold((0.0, 0.0), |(a, b), pair| (a + pair.0, b + pair.1));
    let (mean_a, mean_b) = (sum_a / n, sum_b / n);
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        let (a, b) = (a - mean_a, b - mean_b);
        (aa, bb, ab) = (aa + a * a, bb + b * b, ab + a * b);
    }
    let flat = |sum: f64, mean: f64| sum / n <= (mean * 1e-12).powi(2);
    (!flat(aa, mean_a) && !flat(bb, mean_b)).then(|| ab / (aa * bb).sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_fast_autocorrelation_is_the_definition(
            values in proptest::collection::vec(proptest::option::weighted(0.8, -5.0..5.0f64), 3..60),
            longest in 0usize..20,
        ) {
            let found = autocorrelations(&values, longest);
            let known: Vec<f64> = values.iter().flatten().copied().collect();
            prop_assume!(known.len() > 1);
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let variance =
                known.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / known.len() as f64;
            prop_assume!(variance > 1e-6);
            for (lag, found) in found.iter().enumerate() {
                let pairs: Vec<f64> = values
                    .iter()
                    .zip(&values[lag..])
                    .filter_map(|(a, b)| Some(((*a)? - mean) * ((*b)? - mean)))
                    .collect();
                let expected = (!pairs.is_empty())
                    .then(|| pairs.iter().sum::<f64>() / pairs.len() as f64 / variance);
                match (found, expected) {
                    (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9, "{lag}: {a} {b}"),
                    (a, b) => prop_assert_eq!(a.is_some(), b.is_some()),
                }
            }
        }

        #[test]
        fn a_correlation_is_between_minus_one_and_one(
            pairs in proptest::collection::vec((-9.0..9.0f64, -9.0..9.0f64), 3..40),
        ) {
            let found = correlation(pairs.iter().map(|&(a, b)| (Some(a), Some(b))));
            prop_assert!(found.is_none_or(|r| r.abs() <= 1.0 + 1e-9));
        }
    }

    #[test]
    fn constant_series_have_no_correlation() {
        assert_eq!(autocorrelations(&[Some(3.1); 9], 3), []);
        assert_eq!(autocorrelations(&[None; 9], 3), []);
        let pairs = (0..9).map(|i| (Some(3.1), Some(f64::from(i))));
        assert_eq!(correlation(pairs), None);
        let pairs = (0..9).map(|i| (Some(f64::from(i)), Some(-2.0 * f64::from(i))));
        assert!((correlation(pairs).unwrap() + 1.0).abs() < 1e-12);
    }
}
