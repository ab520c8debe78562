//! Autoregression, and small ARIMA models.

use super::Predictor;
use super::simple::Tail;
use crate::stats::Normal;

/// AR(p) about the mean by Burg's method (1967), whose models are always stable.
#[derive(Debug)]
pub(super) struct Autoregressive {
    order: Option<usize>,
    mean: f64,
    coefficients: Vec<f64>,
    tail: Tail,
}

/// The largest order AIC may choose.
const MOST: usize = 24;

impl Autoregressive {
    pub(super) fn new(order: Option<usize>) -> Self {
        Self {
            order,
            mean: 0.0,
            coefficients: Vec::new(),
            tail: Tail::new(order.unwrap_or(MOST)),
        }
    }
}

impl Predictor for Autoregressive {
    fn fit(&mut self, history: &[f64]) {
        self.mean = history.iter().sum::<f64>() / history.len().max(1) as f64;
        let centred: Vec<f64> = history.iter().map(|v| v - self.mean).collect();
        let orders = burg(&centred, self.order.unwrap_or(MOST).min(history.len() / 4));
        self.coefficients = match self.order {
            Some(_) => orders.into_iter().next_back().map(|(_, c)| c),
            None => {
                let best = orders.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
                best.map(|(_, coefficients)| coefficients)
            }
        }
        .unwrap_or_default();
        self.tail.fill(history);
    }

    fn observe(&mut self, value: f64) {
        self.tail.push(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let p = self.coefficients.len();
        // The latest first.
        let known = (0..p).map(|back| self.tail.back(back).unwrap_or(self.mean) - self.mean);
        let mut path: Vec<f64> = known.collect();
        path.reverse();
        let longest = ahead.last().copied().unwrap_or(0);
        for _ in 0..longest {
            let recent = path.iter().rev().zip(&self.coefficients);
            path.push(recent.map(|(value, c)| value * c).sum());
        }
        ahead.iter().map(|&h| self.mean + path[p + h - 1]).collect()
    }
}

/// Coefficients of every order up to `most`, each with its AIC. At least order 0.
fn burg(centred: &[f64], most: usize) -> Vec<(f64, Vec<f64>)> {
    let n = centred.len();
    let mut power = centred.iter().map(|v| v * v).sum::<f64>() / n.max(1) as f64;
    let aic = |power: f64, order: usize| {
        n as f64 * power.max(f64::MIN_POSITIVE).ln() + 2.0 * order as f64
    };
    let mut orders = vec![(aic(power, 0), Vec::new())];
    let (mut forward, mut backward) = (centred.to_vec(), centred.to_vec());
    let mut coefficients: Vec<f64> = Vec::new();
    for order in 1..=most {
        let (mut product, mut squares) = (0.0, 0.0);
        for t in order..n {
            product += forward[t] * backward[t - 1];
            squares += forward[t].powi(2) + backward[t - 1].powi(2);
        }
        if squares <= 0.0 {
            break;
        }
        let reflection = 2.0 * product / squares;
        let mirrored = coefficients.iter().rev();
        let mut next: Vec<f64> = coefficients
            .iter()
            .zip(mirrored)
            .map(|(a, b)| a - reflection * b)
            .collect();
        next.push(reflection);
        coefficients = next;
        // From the end, so that backward[t − 1] is still the old one.
        for t in (order..n).rev() {
            let (f, b) = (forward[t], backward[t - 1]);
            forward[t] = f - reflection * b;
            backward[t] = b - reflection * f;
        }
        power *= 1.0 - reflection * reflection;
        orders.push((aic(power, order), coefficients.clone()));
    }
    orders
}

/// ARIMA(p, 1, q), p and q from 0 to 2 by AIC, with a drift, by Hannan and Rissanen's two regressions
/// (1982).
#[derive(Debug)]
pub(super) struct Arima {
    drift: f64,
    ar: Vec<f64>,
    ma: Vec<f64>,
    changes: Tail,
    shocks: Tail,
    last: Option<f64>,
}

impl Default for Arima {
    fn default() -> Self {
        Self {
            drift: 0.0,
            ar: Vec::new(),
            ma: Vec::new(),
            changes: Tail::new(2),
            shocks: Tail::new(2),
            last: None,
        }
    }
}

impl Arima {
    fn expected(&self) -> f64 {
        let sum = |weights: &[f64], tail: &Tail| -> f64 {
            let terms = weights.iter().enumerate();
            terms
                .map(|(back, w)| w * tail.back(back).unwrap_or(0.0))
                .sum()
        };
        self.drift + sum(&self.ar, &self.changes) + sum(&self.ma, &self.shocks)
    }

    /// Whether a shock dies out in both directions: forecasts stay finite, shocks can be found.
    fn is_stable(ar: &[f64], ma: &[f64]) -> bool {
        let dies = |weights: &[f64], sign: f64| {
            let mut path = vec![1.0];
            for t in 1..200usize {
                let terms = weights.iter().enumerate().filter(|(lag, _)| *lag < t);
                path.push(
                    terms
                        .map(|(lag, w)| sign * w * path[t - 1 - lag])
                        .sum::<f64>(),
                );
            }
            path[190..].iter().all(|v| v.abs() < 0.5)
        };
        dies(ar, 1.0) && dies(ma, -1.0)
    }

    fn choose(&mut self, changes: &[f64]) {
        (self.drift, self.ar, self.ma) = (mean(changes), Vec::new(), Vec::new());
        let average = mean(changes);
        let centred: Vec<f64> = changes.iter().map(|c| c - average).collect();
        let long = burg(&centred, 12.min(changes.len() / 4)).pop();
        let long = long
            .map(|(_, coefficients)| coefficients)
            .unwrap_or_default();
        let shock = |t: usize| {
            let expected = long
                .iter()
                .enumerate()
                .map(|(lag, c)| c * centred[t - 1 - lag]);
            centred[t] - expected.sum::<f64>()
        };
        let from = long.len();
        let shocks: Vec<f64> = (from..changes.len()).map(shock).collect();
        let start = from + 2;
        let mut best = f64::INFINITY;
        for p in 0..=2usize {
            for q in 0..=2usize {
                let mut sums = Normal::new(1 + p + q);
                let mut row = vec![1.0; 1 + p + q];
                for t in start..changes.len() {
                    for lag in 0..p {
                        row[1 + lag] = changes[t - 1 - lag];
                    }
                    for lag in 0..q {
                        row[1 + p + lag] = shocks[t - from - 1 - lag];
                    }
                    sums.add(&row, changes[t]);
                }
                let Some(fit) = sums.fit(1 + p + q) else {
                    continue;
                };
                let n = sums.count as f64;
                let noise = (fit.residual / n).max(f64::MIN_POSITIVE);
                let aic = n * noise.ln() + 2.0 * (p + q) as f64;
                let (ar, ma) = fit.coefficients[1..].split_at(p);
                if aic < best && Self::is_stable(ar, ma) {
                    best = aic;
                    self.drift = fit.coefficients[0];
                    (self.ar, self.ma) = (ar.to_vec(), ma.to_vec());
                }
            }
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Predictor for Arima {
    fn fit(&mut self, history: &[f64]) {
        let changes: Vec<f64> = history.windows(2).map(|pair| pair[1] - pair[0]).collect();
        *self = Self::default();
        if changes.len() >= 20 {
            self.choose(&changes);
        }
        for &value in history {
            self.observe(value);
        }
    }

    fn observe(&mut self, value: f64) {
        if let Some(last) = self.last {
            let change = value - last;
            let shock = change - self.expected();
            self.changes.push(change);
            self.shocks.push(shock);
        }
        self.last = Some(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let back = |tail: &Tail| [tail.back(0).unwrap_or(0.0), tail.back(1).unwrap_or(0.0)];
        let (mut changes, mut shocks) = (back(&self.changes), back(&self.shocks));
        let mut value = self.last.unwrap_or(0.0);
        let longest = ahead.last().copied().unwrap_or(0);
        let mut path = Vec::with_capacity(longest);
        for _ in 0..longest {
            let ar: f64 = self.ar.iter().zip(changes).map(|(w, c)| w * c).sum();
            let ma: f64 = self.ma.iter().zip(shocks).map(|(w, s)| w * s).sum();
            let change = self.drift + ar + ma;
            value += change;
            path.push(value);
            (changes, shocks) = ([change, changes[0]], [0.0, shocks[0]]);
        }
        ahead.iter().map(|&h| path[h - 1]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    #[test]
    fn burg_finds_the_coefficients_of_a_known_process() {
        let mut values = vec![0.0, 0.0];
        for n in normals(8, 20_000) {
            let [a, b] = [values[values.len() - 1], values[values.len() - 2]];
            values.push(0.6 * a - 0.3 * b + n);
        }
        let orders = burg(&values, 6);
        let second = &orders[2].1;
        assert!((second[0] - 0.6).abs() < 0.03 && (second[1] + 0.3).abs() < 0.03);
        let best = orders
            .iter()
            .enumerate()
            .min_by(|a, b| a.1.0.total_cmp(&b.1.0));
        assert!(best.unwrap().0 >= 2);
    }

    #[test]
    fn arima_sees_through_the_noise_on_a_walk() {
        // A walk with noise on top is ARIMA(0, 1, 1): smoothing beats the last value.
        let noise = normals(12, 8000);
        let mut level = 0.0;
        let values: Vec<f64> = noise
            .chunks(2)
            .map(|pair| {
                level += 0.2 * pair[0];
                level + pair[1]
            })
            .collect();
        let mut arima = Arima::default();
        arima.fit(&values[..2000]);
        let (mut ours, mut last) = (0.0, 0.0);
        for t in 2000..values.len() {
            ours += (arima.predict(&[1])[0] - values[t]).powi(2);
            last += (values[t - 1] - values[t]).powi(2);
            arima.observe(values[t]);
        }
        assert!(ours < 0.72 * last, "{}", ours / last);
    }
}
