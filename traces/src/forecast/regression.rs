//! Local linear regression, as overload detectors use it (Beloglazov and Buyya, 2012).

use super::Predictor;
use super::simple::Tail;

/// Values looked at.
const WINDOW: usize = 10;

/// A line through the last ten values by weighted least squares, carried on.
///
/// Tricube weights (Cleveland, 1979): (1 − (age / 10)³)³, age 0 for the last value. The robust form
/// weighs again by bisquares of the residuals over six of their medians, five times.
#[derive(Debug)]
pub(super) struct Loess {
    robust: bool,
    tail: Tail,
}

impl Loess {
    pub(super) fn new(robust: bool) -> Self {
        Self {
            robust,
            tail: Tail::new(WINDOW),
        }
    }

    /// Value at the last point, and slope.
    fn line(&self) -> (f64, f64) {
        let values: Vec<f64> = self.tail.iter().collect();
        let n = values.len();
        let age = |index: usize| (n - 1 - index) as f64;
        let tricube = |index: usize| (1.0 - (age(index) / WINDOW as f64).powi(3)).powi(3);
        let weights: Vec<f64> = (0..n).map(tricube).collect();
        let mut line = weighted(&values, &weights);
        for _ in 0..if self.robust { 5 } else { 0 } {
            let residual = |index: usize| values[index] - (line.0 - line.1 * age(index));
            let mut sizes: Vec<f64> = (0..n).map(|index| residual(index).abs()).collect();
            sizes.sort_unstable_by(f64::total_cmp);
            let scale = 6.0 * crate::stats::quantile(&sizes, 0.5).unwrap_or(0.0);
            if scale <= 0.0 {
                break;
            }
            let bisquare = |index: usize| {
                let part = (residual(index) / scale).clamp(-1.0, 1.0);
                (1.0 - part * part).powi(2)
            };
            let weights: Vec<f64> = (0..n).map(|i| weights[i] * bisquare(i)).collect();
            line = weighted(&values, &weights);
        }
        line
    }
}

/// Value at the last point and slope of the weighted line.
fn weighted(values: &[f64], weights: &[f64]) -> (f64, f64) {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return (values.last().copied().unwrap_or(0.0), 0.0);
    }
    let sum = |of: &dyn Fn(usize) -> f64| -> f64 {
        (0..values.len()).map(|i| weights[i] * of(i)).sum::<f64>()
    };
    let x = sum(&|i| i as f64) / total;
    let y = sum(&|i| values[i]) / total;
    let spread = sum(&|i| (i as f64 - x).powi(2));
    let slope = if spread > 1e-9 {
        sum(&|i| (i as f64 - x) * (values[i] - y)) / spread
    } else {
        0.0
    };
    (y + slope * (values.len() as f64 - 1.0 - x), slope)
}

impl Predictor for Loess {
    fn fit(&mut self, history: &[f64]) {
        self.tail.fill(history);
    }

    fn observe(&mut self, value: f64) {
        self.tail.push(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let (value, slope) = self.line();
        ahead.iter().map(|&h| value + slope * h as f64).collect()
    }
}
