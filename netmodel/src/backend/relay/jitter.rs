//! How long a packet is under way: the delay and what jitter adds or takes.
//!
//! Shapes are those of netem's tables, cut where its tables end (16-bit values of 1/8192), so that both backends mean the same.
//! Whether packets may overtake is the delay line's business.

use std::time::Duration;

use super::draw::Draws;
use crate::link::{Distribution, Jitter, LinkSpec};

/// The delay of the packet with this index.
pub(super) fn delay_ns(spec: &LinkSpec, draws: Draws, index: u64) -> u64 {
    let mean = nanoseconds(spec.delay);
    if spec.jitter.spread.is_zero() {
        return mean;
    }
    let more = shape(&spec.jitter, draws, index) * nanoseconds(spec.jitter.spread) as f64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and at most 4.1 spreads is far below 292 years"
    )]
    let more = more.round() as i64;
    mean.saturating_add_signed(more)
}

/// netem's tables hold 16-bit numbers in units of 1/8192 spread, hence end at ±4.
const CUT: f64 = 4.0;
/// Pareto with exponent 3, of mean 1.5: netem takes (x - 1.5) × 4/3.
const PARETO_MEAN: f64 = 1.5;
const PARETO_SCALE: f64 = 4.0 / 3.0;
/// What the cut at 4, where x = 4.5, takes off the mean: 4/3 × ∫ x^-3 from 4.5. Added back, so that the mean is 0.
const PARETO_CUT_OFF: f64 = PARETO_SCALE / (2.0 * 4.5 * 4.5);

/// In units of the spread, of mean 0.
fn shape(jitter: &Jitter, draws: Draws, index: u64) -> f64 {
    let unit = draws.unit(index.wrapping_mul(2));
    match jitter.distribution {
        Distribution::Uniform => 2.0 * unit - 1.0,
        Distribution::Normal => {
            let angle = std::f64::consts::TAU * draws.unit(index.wrapping_mul(2) + 1);
            // Box and Muller.
            ((-2.0 * unit.ln()).sqrt() * angle.cos()).clamp(-CUT, CUT)
        }
        Distribution::Pareto => {
            let value = (unit.cbrt().recip() - PARETO_MEAN) * PARETO_SCALE;
            value.min(CUT) + PARETO_CUT_OFF
        }
    }
}

pub(super) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::draw::Purpose;
    use super::*;
    use crate::topology::LinkId;

    const DRAWS: u64 = 200_000;

    fn delays(distribution: Distribution, delay_us: u64, spread_us: u64) -> Vec<f64> {
        let spec = LinkSpec {
            delay: Duration::from_micros(delay_us),
            jitter: Jitter {
                spread: Duration::from_micros(spread_us),
                distribution,
                reorder: false,
            },
            ..LinkSpec::default()
        };
        let draws = Draws::new(5, LinkId(1), Purpose::Jitter);
        let delay = |index| delay_ns(&spec, draws, index) as f64 / 1e3;
        (0..DRAWS).map(delay).collect()
    }

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        (mean, square.sqrt())
    }

    #[test]
    fn the_mean_is_the_delay_and_the_spread_is_netems() {
        // Uniform ±s deviates by s/√3. A cut Pareto deviates by s × √(16/9 × ∫...), computed by hand: E[x²] up to 4.5 is
        // 3 (1 - 1/4.5), beyond it 4.5² × 4.5^-3; less the square of the cut mean 1.5 - 4.5^-2/2.
        let pareto = {
            let square: f64 = 3.0 * (1.0 - 1.0 / 4.5) + 1.0 / 4.5;
            let mean: f64 = 1.5 - 0.5 / (4.5 * 4.5);
            4.0 / 3.0 * (square - mean * mean).sqrt()
        };
        let shapes = [
            (Distribution::Uniform, 1.0 / 3.0_f64.sqrt()),
            (Distribution::Normal, 1.0),
            (Distribution::Pareto, pareto),
        ];
        for (shape, deviation) in shapes {
            let (mean, got) = moments(&delays(shape, 10_000, 1_000));
            // Five standard errors of the mean; the deviation within 2 %.
            let error = 5.0 * deviation * 1_000.0 / (DRAWS as f64).sqrt();
            assert!((mean - 10_000.0).abs() < error, "{shape:?} {mean}");
            assert!(
                (got / (deviation * 1_000.0) - 1.0).abs() < 0.02,
                "{shape:?} {got}"
            );
        }
    }

    #[test]
    fn bounds_are_those_of_netems_tables() {
        let bounds = |shape| {
            let delays = delays(shape, 10_000, 1_000);
            let low = delays.iter().copied().fold(f64::MAX, f64::min);
            (low, delays.iter().copied().fold(0.0, f64::max))
        };
        let (low, high) = bounds(Distribution::Uniform);
        assert!(low >= 9_000.0 && high <= 11_000.0 && high - low > 1_990.0);
        let (low, high) = bounds(Distribution::Pareto);
        // (1 - 1.5) × 4/3 = -2/3 at the least.
        assert!((low - (10_000.0 - 666.7 + 32.9)).abs() < 1.0, "{low}");
        assert!((high - 14_032.9).abs() < 1.0, "{high}");
    }

    #[test]
    fn no_packet_arrives_before_it_was_sent() {
        let delays = delays(Distribution::Normal, 100, 1_000);
        let none = delays.iter().filter(|delay| **delay <= 0.0).count();
        // P(z < -0.1) = 0.460.
        assert!(none.abs_diff(92_000) < 1_200, "{none}");
    }
}
