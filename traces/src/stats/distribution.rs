//! Which distribution describes the values: fits by maximum likelihood, compared by AIC, and told
//! honestly when none does.

use statrs::function::beta::{beta_reg, ln_beta};
use statrs::function::erf::erf;
use statrs::function::gamma::{digamma, gamma_lr, ln_gamma};

/// A family of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Mean and deviation.
    Normal,
    /// Mean and deviation of the logarithm.
    LogNormal,
    /// Shape and scale.
    Gamma,
    /// Shape and scale.
    Weibull,
    /// Two shapes, over 0 to the bound.
    Beta,
}

impl Family {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::LogNormal => "log-normal",
            Self::Gamma => "gamma",
            Self::Weibull => "Weibull",
            Self::Beta => "beta",
        }
    }
}

/// A fitted family.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Fit {
    /// Which.
    pub family: Family,
    /// Its two parameters, in the order of the family's documentation.
    pub parameters: [f64; 2],
    /// Akaike's criterion: 4 − 2 log-likelihood.
    pub aic: f64,
    /// Kolmogorov-Smirnov distance.
    pub ks: f64,
    /// Its asymptotic p-value. The parameters come from the same values and the values follow one
    /// another, so it is only a bound: a fit refused here is refused for good reason, one that passes
    /// may still be poor.
    pub p_value: f64,
}

/// All families fitted to the values above 0.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Fits {
    /// Share of values that are 0 or less, which no family but the normal has.
    pub zero_share: f64,
    /// By AIC, the best first.
    pub fits: Vec<Fit>,
    /// What a Beta is bounded by.
    pub bound: Option<f64>,
}

impl Fits {
    /// The best family, unless its p-value is below 0.01: then none fits.
    #[must_use]
    pub fn best(&self) -> Option<&Fit> {
        self.fits.first().filter(|fit| fit.p_value >= 0.01)
    }
}

/// Values needed for a fit.
const FEWEST: usize = 20;

/// Fits every family to the values above 0; `bound` is the most the quantity can be, if it has such.
///
/// No fits for fewer than 20 such values or when they are all alike.
#[must_use]
pub fn fits(values: &[f64], bound: Option<f64>) -> Fits {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|&v| v > 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let zero_share = 1.0 - sorted.len() as f64 / values.len().max(1) as f64;
    let different = sorted.first() < sorted.last();
    // A value at the bound itself has no likelihood under a Beta.
    let bound = bound.filter(|&b| sorted.last().is_some_and(|&most| most < b));
    let mut fits = Vec::new();
    if sorted.len() >= FEWEST && different {
        let families = [
            normal(&sorted),
            log_normal(&sorted),
            gamma(&sorted),
            weibull(&sorted),
            bound.and_then(|bound| beta(&sorted, bound)),
        ];
        fits = families
            .into_iter()
            .flatten()
            .map(|candidate| score(candidate, &sorted, bound))
            .filter(|fit| fit.aic.is_finite() && fit.ks.is_finite())
            .collect();
        fits.sort_by(|a, b| a.aic.total_cmp(&b.aic));
    }
    Fits {
        zero_share,
        fits,
        bound,
    }
}

/// A family, its parameters, the log-likelihood.
type Candidate = (Family, [f64; 2], f64);

fn score((family, parameters, likelihood): Candidate, sorted: &[f64], bound: Option<f64>) -> Fit {
    let n = sorted.len() as f64;
    let distance = |(i, &value): (usize, &f64)| {
        let p = cumulative(family, parameters, bound, value);
        (p - i as f64 / n).abs().max(((i + 1) as f64 / n - p).abs())
    };
    let ks = sorted.iter().enumerate().map(distance).fold(0.0, f64::max);
    Fit {
        family,
        parameters,
        aic: 4.0 - 2.0 * likelihood,
        ks,
        p_value: kolmogorov((n.sqrt() + 0.12 + 0.11 / n.sqrt()) * ks),
    }
}

/// Probability that a value is at most `x`.
#[must_use]
pub fn cumulative(family: Family, [a, b]: [f64; 2], bound: Option<f64>, x: f64) -> f64 {
    let normal = |z: f64| 0.5 * (1.0 + erf(z / std::f64::consts::SQRT_2));
    if family != Family::Normal && x <= 0.0 {
        return 0.0;
    }
    match family {
        Family::Normal => normal((x - a) / b),
        Family::LogNormal => normal((x.ln() - a) / b),
        Family::Gamma => gamma_lr(a, x / b),
        Family::Weibull => -(-(x / b).powf(a)).exp_m1(),
        Family::Beta => beta_reg(a, b, (x / bound.unwrap_or(1.0)).clamp(0.0, 1.0)),
    }
}

/// Kolmogorov's distribution: the probability of a larger distance (with Stephens' argument).
fn kolmogorov(x: f64) -> f64 {
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: u32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * x * x).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

/// Log-likelihood of a normal at its own moments.
fn normal_likelihood(n: f64, variance: f64) -> f64 {
    -0.5 * n * ((std::f64::consts::TAU * variance).ln() + 1.0)
}

fn normal(sorted: &[f64]) -> Option<Candidate> {
    let (mean, variance) = moments(sorted.iter().copied());
    let likelihood = normal_likelihood(sorted.len() as f64, variance);
    (variance > 0.0).then(|| (Family::Normal, [mean, variance.sqrt()], likelihood))
}

fn log_normal(sorted: &[f64]) -> Option<Candidate> {
    let (mean, variance) = moments(sorted.iter().map(|v| v.ln()));
    let n = sorted.len() as f64;
    let likelihood = normal_likelihood(n, variance) - n * mean;
    (variance > 0.0).then(|| (Family::LogNormal, [mean, variance.sqrt()], likelihood))
}

/// Minka's generalised Newton iteration ("Estimating a Gamma distribution", 2002).
fn gamma(sorted: &[f64]) -> Option<Candidate> {
    let n = sorted.len() as f64;
    let (mean, _) = moments(sorted.iter().copied());
    let (log_mean, _) = moments(sorted.iter().map(|v| v.ln()));
    let excess = mean.ln() - log_mean;
    if excess <= 1e-12 {
        return None;
    }
    let mut shape = 0.5 / excess;
    for _ in 0..50 {
        let slope = 1.0 / shape - trigamma(shape);
        let inverse =
            1.0 / shape + (shape.ln() - digamma(shape) - excess) / (shape * shape * slope);
        let next = 1.0 / inverse;
        if !next.is_finite() || next <= 0.0 {
            return None;
        }
        let done = (next - shape).abs() <= 1e-10 * shape;
        shape = next;
        if done {
            break;
        }
    }
    let scale = mean / shape;
    let likelihood =
        n * ((shape - 1.0) * log_mean - mean / scale - ln_gamma(shape) - shape * scale.ln());
    Some((Family::Gamma, [shape, scale], likelihood))
}

/// The derivative of [`digamma`]: recurrence up to 8, then the asymptotic series.
fn trigamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 8.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    sum + 1.0 / x + y / 2.0 + y / x * (1.0 / 6.0 - y * (1.0 / 30.0 - y * (1.0 / 42.0 - y / 30.0)))
}

/// The shape by bisection of the likelihood equation, whose left side falls with it.
fn weibull(sorted: &[f64]) -> Option<Candidate> {
    let n = sorted.len() as f64;
    let most = sorted.last().copied()?;
    let (log_mean, _) = moments(sorted.iter().map(|v| v.ln()));
    // Σ (x/most)^k and Σ (x/most)^k ln x: scaled, so that no power overflows.
    let sums = |k: f64| {
        sorted.iter().fold((0.0, 0.0), |(plain, logs), v| {
            let power = (k * (v / most).ln()).exp();
            (plain + power, logs + power * v.ln())
        })
    };
    let left = |k: f64| {
        let (plain, logs) = sums(k);
        1.0 / k + log_mean - logs / plain
    };
    let (mut low, mut high) = (1e-3, 1e3);
    if left(low) <= 0.0 || left(high) >= 0.0 {
        return None;
    }
    for _ in 0..100 {
        let middle = f64::sqrt(low * high);
        if left(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let shape = low;
    let scale = most * (sums(shape).0 / n).powf(1.0 / shape);
    let likelihood = n * (shape.ln() - shape * scale.ln() + (shape - 1.0) * log_mean - 1.0);
    Some((Family::Weibull, [shape, scale], likelihood))
}

/// Newton's method on the two likelihood equations from the moments' estimate.
fn beta(sorted: &[f64], bound: f64) -> Option<Candidate> {
    let n = sorted.len() as f64;
    let (mean, variance) = moments(sorted.iter().map(|v| v / bound));
    let (log_mean, _) = moments(sorted.iter().map(|v| (v / bound).ln()));
    let (log_rest, _) = moments(sorted.iter().map(|v| (-v / bound).ln_1p()));
    let both = mean * (1.0 - mean) / variance - 1.0;
    let (mut a, mut b) = (mean * both, (1.0 - mean) * both);
    if a <= 0.0 || b <= 0.0 {
        return None;
    }
    for _ in 0..100 {
        let shared = digamma(a + b);
        let (f, g) = (
            digamma(a) - shared - log_mean,
            digamma(b) - shared - log_rest,
        );
        let t = trigamma(a + b);
        let (aa, bb) = (trigamma(a) - t, trigamma(b) - t);
        let determinant = aa * bb - t * t;
        let (da, db) = (
            (f * bb + g * t) / determinant,
            (g * aa + f * t) / determinant,
        );
        if !da.is_finite() || !db.is_finite() {
            return None;
        }
        // Never past 0: at most four fifths of the way there.
        let step = [(a, da), (b, db)].into_iter().fold(1.0f64, |step, (x, d)| {
            if d > 0.0 { step.min(0.8 * x / d) } else { step }
        });
        (a, b) = (a - step * da, b - step * db);
        if da.abs() <= 1e-9 * a && db.abs() <= 1e-9 * b {
            break;
        }
    }
    let likelihood = n * ((a - 1.0) * log_mean + (b - 1.0) * log_rest - ln_beta(a, b) - bound.ln());
    Some((Family::Beta, [a, b], likelihood))
}

#[cfg(test)]
mod tests;
