//! Shapes of jitter as tables, the way netem draws from them: one entry at random, times the spread.
//!
//! Worked out from the quantile function at the middle of 4096 equal shares, so that a table has the moments of its
//! distribution. Cut at ±4 spreads, which is what 16 bits hold.

use crate::link::Distribution;

/// Entries of a table: what iproute2's have.
const ENTRIES: u16 = 4096;
/// NETEM_DIST_SCALE: the entry that stands for one spread.
const SCALE: f64 = 8192.0;

/// The table of a distribution, in 8192ths of the spread, ascending.
pub(crate) fn table(distribution: Distribution) -> Vec<i16> {
    let quantile: fn(f64) -> f64 = match distribution {
        Distribution::Uniform => |share| 2.0 * share - 1.0,
        Distribution::Normal => normal,
        Distribution::Pareto => pareto,
    };
    let shares = (0..ENTRIES).map(|i| (f64::from(i) + 0.5) / f64::from(ENTRIES));
    let mut values: Vec<f64> = shares.map(|share| cut(quantile(share))).collect();
    // What cutting took from one side has to leave the other, or a link would be faster than its delay. A third time
    // changes nothing that 16 bits could hold.
    for _ in 0..3 {
        let mean = values.iter().sum::<f64>() / f64::from(ENTRIES);
        for value in &mut values {
            *value = cut(*value - mean);
        }
    }
    values.into_iter().map(entry).collect()
}

fn cut(spreads: f64) -> f64 {
    spreads.clamp(-4.0, f64::from(i16::MAX) / SCALE)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "`cut` leaves what 16 bits hold"
)]
fn entry(spreads: f64) -> i16 {
    (spreads * SCALE).round() as i16
}

/// Pareto with shape 3, mean 3/2 and variance 3/4, as iproute2 and the relay have it: (x - 3/2) × 4/3.
fn pareto(share: f64) -> f64 {
    ((1.0 - share).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0
}

/// Inverse of the normal distribution function by bisection over [`below`]: exact enough for 16 bits, and no constants
/// to copy wrongly.
fn normal(share: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    // 16 / 2^40 is far below 1/8192.
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if below(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Normal distribution function: 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + …), which converges everywhere.
fn below(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (mut term, mut sum) = (x, x);
    // At |x| = 8 terms shrink below 1e-17 of the sum after some 150.
    for n in 1..200_u16 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + density * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(distribution: Distribution) -> (f64, f64) {
        let table = table(distribution);
        let n = table.len() as f64;
        let in_spreads = || table.iter().map(|&v| f64::from(v) / SCALE);
        let mean = in_spreads().sum::<f64>() / n;
        let variance = in_spreads().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    }

    #[test]
    fn tables_have_mean_zero_and_their_spread() {
        let all = [
            // Half the width is the spread: 1/√3.
            (Distribution::Uniform, 0.5774, 0.0001),
            (Distribution::Normal, 1.0, 0.002),
            // By hand, cut where x = 4.5: E[x²] = 3 (1 - 1/4.5) + 1/4.5 = 2.5556, E[x] = 1.5 - 1/40.5 = 1.4753, so
            // 4/3 × √(2.5556 - 2.1765).
            (Distribution::Pareto, 0.821, 0.01),
        ];
        for (distribution, spread, within) in all {
            let (mean, deviation) = moments(distribution);
            assert!(mean.abs() < 1e-3, "{distribution:?}: mean {mean}");
            assert!(
                (deviation - spread).abs() < within,
                "{distribution:?}: {deviation}"
            );
        }
    }

    #[test]
    fn tables_have_the_quantiles_of_their_distribution() {
        let at = |distribution, entry: usize| f64::from(table(distribution)[entry]) / SCALE;
        // 97.5 %, a half, a quarter and a half of 4096.
        assert!((at(Distribution::Normal, 3993) - 1.96).abs() < 0.01);
        assert!((at(Distribution::Normal, 2048)).abs() < 0.001);
        assert!((at(Distribution::Uniform, 1024) + 0.5).abs() < 0.001);
        // Median of Pareto(3): 2^(1/3) = 1.2599, so -0.320 spreads; the cut mean moves it by 4/3 / 40.5 = 0.033.
        assert!((at(Distribution::Pareto, 2048) + 0.287).abs() < 0.003);
    }
}
