//! Whether two ways to do a thing come out the same: two one-sided tests (Schuirmann 1987) on trimmed means.
//!
//! A test that finds no difference shows nothing, since few or noisy figures never do. Here the claim has to be earned: *equivalent*
//! means that a difference as large as the margin is refuted, in either direction, at 5 % each. Means are trimmed by a fifth at
//! either end with Yuen's variance (Yuen 1974), because a shared computer disturbs single repetitions by any amount.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Chance of calling two things equivalent that differ by exactly the margin.
const LEVEL: f64 = 0.05;
/// Share cut off at either end before means are taken.
const TRIM: f64 = 0.2;

/// What is still the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// A share of the second mean.
    Relative(f64),
    /// In the figures' own unit.
    Absolute(f64),
    /// The larger of the two.
    Either {
        /// A share of the second mean.
        relative: f64,
        /// In the figures' own unit.
        absolute: f64,
    },
}

impl Margin {
    fn of(self, mean: f64) -> f64 {
        match self {
            Self::Relative(share) => share * mean.abs(),
            Self::Absolute(value) => value,
            Self::Either { relative, absolute } => (relative * mean.abs()).max(absolute),
        }
    }
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Trimmed mean of the first.
    pub first: f64,
    /// Trimmed mean of the second.
    pub second: f64,
    /// First minus second: 90 % confidence interval, which two tests at 5 % amount to.
    pub difference: (f64, f64),
    /// The largest difference that is none.
    pub margin: f64,
}

impl Comparison {
    /// The whole interval lies within the margin.
    #[must_use]
    pub fn is_equivalent(&self) -> bool {
        self.difference.0 > -self.margin && self.difference.1 < self.margin
    }

    /// No part of the interval does: it is shown that they differ.
    #[must_use]
    pub fn is_different(&self) -> bool {
        self.difference.0 > self.margin || self.difference.1 < -self.margin
    }
}

/// Compares independent figures of two kinds. `None` with too few of either to know their spread (fewer than four are left).
#[must_use]
pub fn compare(first: &[f64], second: &[f64], margin: Margin) -> Option<Comparison> {
    let (a, b) = (Trimmed::of(first)?, Trimmed::of(second)?);
    let spread = (a.error2 + b.error2).sqrt();
    // Welch and Satterthwaite; without any spread there is nothing to be unsure of.
    let freedom = (a.error2 + b.error2).powi(2)
        / (a.error2.powi(2) / (a.left - 1.0) + b.error2.powi(2) / (b.left - 1.0));
    let reach = match StudentsT::new(0.0, 1.0, freedom) {
        Ok(t) if spread > 0.0 => t.inverse_cdf(1.0 - LEVEL) * spread,
        _ => 0.0,
    };
    let middle = a.mean - b.mean;
    Some(Comparison {
        first: a.mean,
        second: b.mean,
        difference: (middle - reach, middle + reach),
        margin: margin.of(b.mean),
    })
}

struct Trimmed {
    mean: f64,
    /// Squared standard error of the mean.
    error2: f64,
    /// How many were left.
    left: f64,
}

impl Trimmed {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        if sorted.last()?.is_nan() {
            return None;
        }
        let n = sorted.len();
        // TRIM of n rounded down: n × 2 / 10 in integers.
        let cut = n * 2 / 10;
        debug_assert!((TRIM - 0.2).abs() < f64::EPSILON);
        let kept = &sorted[cut..n - cut];
        let left = kept.len() as f64;
        if kept.len() < 4 {
            return None;
        }
        let mean = kept.iter().sum::<f64>() / left;
        // Winsorised: what was cut counts as the value next to it.
        let ends = (kept[0], kept[kept.len() - 1]);
        let winsorised = sorted.iter().map(|value| value.clamp(ends.0, ends.1));
        let centre = winsorised.clone().sum::<f64>() / n as f64;
        let squares: f64 = winsorised.map(|value| (value - centre).powi(2)).sum();
        Some(Self {
            mean,
            error2: squares / (left * (left - 1.0)),
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// n figures of a normal distribution, by its quantiles: a sample without luck.
    fn normal(mean: f64, deviation: f64, n: u32) -> Vec<f64> {
        let quantile = |i: u32| {
            let share = (f64::from(i) + 0.5) / f64::from(n);
            statrs::distribution::Normal::new(mean, deviation)
                .unwrap()
                .inverse_cdf(share)
        };
        (0..n).map(quantile).collect()
    }

    #[test]
    fn little_difference_and_little_noise_are_equivalent() {
        let (a, b) = (normal(100.5, 1.0, 30), normal(100.0, 1.0, 30));
        let got = compare(&a, &b, Margin::Relative(0.02)).unwrap();
        assert!(got.is_equivalent() && !got.is_different(), "{got:?}");
        assert!((got.first - 100.5).abs() < 0.01 && (got.margin - 2.0).abs() < 0.01);
    }

    #[test]
    fn noise_is_no_proof_of_equivalence() {
        let (a, b) = (normal(100.0, 10.0, 30), normal(100.0, 10.0, 30));
        let got = compare(&a, &b, Margin::Relative(0.02)).unwrap();
        assert!(!got.is_equivalent() && !got.is_different(), "{got:?}");
    }

    #[test]
    fn a_difference_of_more_than_the_margin_is_found() {
        let (a, b) = (normal(104.0, 1.0, 30), normal(100.0, 1.0, 30));
        let got = compare(&a, &b, Margin::Relative(0.02)).unwrap();
        assert!(got.is_different() && !got.is_equivalent(), "{got:?}");
    }

    #[test]
    fn disturbed_repetitions_do_not_decide() {
        let mut a = normal(100.0, 1.0, 30);
        a[..5].fill(20.0);
        let got = compare(&a, &normal(100.0, 1.0, 30), Margin::Relative(0.02)).unwrap();
        assert!(got.is_equivalent(), "{got:?}");
    }

    /// Welch's interval by hand where nothing is trimmed away: four figures, cut 0, variance 5/3 each, error
    /// sqrt(2 × (5/3) / 4) = 0.9129, 6 degrees of freedom, t = 1.9432.
    #[test]
    fn intervals_match_hand_computation() {
        let got = compare(
            &[1.0, 2.0, 3.0, 4.0],
            &[2.0, 3.0, 4.0, 5.0],
            Margin::Absolute(1.0),
        );
        let (low, high) = got.unwrap().difference;
        assert!((low + 1.0 + 1.774).abs() < 1e-3, "{low}");
        assert!((high + 1.0 - 1.774).abs() < 1e-3, "{high}");
        assert_eq!(compare(&[1.0; 3], &[1.0; 9], Margin::Absolute(1.0)), None);
    }
}
