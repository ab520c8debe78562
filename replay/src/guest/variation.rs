//! The short-term variation of a class set: a clock that runs faster and slower than the guest's,
//! and over each lap just as fast.
//!
//! A factor m(x) on all rates of a set is a warped clock W(x) = ∫ m: by time rescaling, writes that
//! follow W with the rates of the classes are those of the varying intensity. W goes from whole
//! nanoseconds to whole nanoseconds, never back, and W(lap) = lap, so that no rounding adds up.
//! Never inside: pages, rates.

use traces::class::{Variation, VariationError};

use crate::mix;

/// Steps of a lap of drawn variation: 16 KiB a set and guest. At the default step it is half an hour.
const DRAWN_STEPS: u32 = 2048;

/// The warped clock.
#[derive(Debug, Clone)]
pub(super) struct Warp {
    key: u64,
    step_ns: u64,
    /// W at the start of each step of the series, and at its end, from its first step.
    warped: Vec<u64>,
}

impl Warp {
    pub(super) fn new(variation: &Variation, key: u64) -> Result<Self, VariationError> {
        variation.check()?;
        Ok(match variation {
            Variation::LogNormal {
                cv,
                correlation,
                step_ns,
            } => Self::of(&drawn(*cv, *correlation, key), *step_ns, key),
            Variation::Series {
                step_ns,
                intensities,
            } => Self::of(intensities, *step_ns, key),
        })
    }

    /// A checked series: no more than 2^32 steps, not all 0, and a lap below 2^63 ns.
    fn of(intensities: &[u32], step_ns: u64, key: u64) -> Self {
        let total: u128 = intensities.iter().map(|&m| u128::from(m)).sum();
        let lap = u128::from(step_ns) * intensities.len() as u128;
        let mut sum = 0u128;
        // Rounded on the sum and not step by step, so the last is the lap itself.
        let scaled = |sum: u128| u64::try_from(sum * lap / total).expect("at most a lap");
        let mut warped = vec![0];
        warped.extend(intensities.iter().map(|&m| {
            sum += u128::from(m);
            scaled(sum)
        }));
        Self {
            key,
            step_ns,
            warped,
        }
    }

    fn lap(&self) -> u64 {
        *self.warped.last().expect("a series has an end")
    }

    /// The warped clock at a reading of the guest's.
    pub(super) fn at(&self, clock: u64) -> u64 {
        let lap = self.lap();
        let (laps, within) = (clock / lap, clock % lap);
        let steps = self.warped.len() as u64 - 1;
        let from = mix::below(mix::draw(self.key, 0, laps), steps);
        // Counted from the start of step `from`, and round from the end to the first.
        let passed = from * self.step_ns + within;
        let gone = match passed.checked_sub(lap) {
            None => self.series(passed) - self.start(from),
            Some(over) => lap - self.start(from) + self.series(over),
        };
        (laps * lap).saturating_add(gone)
    }

    fn start(&self, step: u64) -> u64 {
        self.warped[usize::try_from(step).expect("below the steps held")]
    }

    /// W within the series, straight within a step.
    fn series(&self, at: u64) -> u64 {
        let (step, within) = (at / self.step_ns, at % self.step_ns);
        let from = self.start(step);
        if within == 0 {
            return from;
        }
        let whole = self.start(step + 1) - from;
        // Steps of seconds fit; dividing 128 bits costs as much as a page's draws.
        let gain = whole.checked_mul(within).map_or_else(
            || {
                let gain = u128::from(whole) * u128::from(within) / u128::from(self.step_ns);
                u64::try_from(gain).expect("less than the step's whole gain")
            },
            |product| product / self.step_ns,
        );
        from + gain
    }
}

/// A log-normal AR(1) in units of 2^-16, from a key: the logarithm z(i) = φ z(i−1) + √(1−φ²) ε, times
/// σ = √ln(1 + cv²). Sums, products and roots alone, which IEEE 754 gives to the bit, so that every
/// machine draws the same.
fn drawn(cv: f64, correlation: f64, key: u64) -> Vec<u32> {
    let sigma = ln(1.0 + cv * cv).sqrt();
    let fresh = (1.0 - correlation * correlation).sqrt();
    let normal = |i: u32| normal(mix::draw(key, 1, u64::from(i)));
    let mut z = normal(0);
    let series = (0..DRAWN_STEPS).map(|i| {
        if i > 0 {
            z = correlation * z + fresh * normal(i);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates at 65536 times the median, 0 only far below 1/65536 of it"
        )]
        let value = (exp(sigma * z) * 65_536.0) as u32;
        value.max(1)
    });
    series.collect()
}

/// Nearly standard normal: twelve uniform numbers less 6. Right in mean and variance, kurtosis 2.9,
/// and never beyond 6.
fn normal(draw: u64) -> f64 {
    let uniform = |n| mix::nth(draw, n) as f64 / mix::TWO_POW_64;
    (0..12).map(uniform).sum::<f64>() - 6.0
}

/// e^x to 1e-14, by halving and squaring.
fn exp(x: f64) -> f64 {
    // |x| ≤ 6 σ ≤ 16 here: x/64 is at most a quarter.
    let x = x / 64.0;
    let (mut sum, mut term, mut n) = (1.0, 1.0, 1.0);
    while n < 14.0 {
        term *= x / n;
        sum += term;
        n += 1.0;
    }
    for _ in 0..6 {
        sum *= sum;
    }
    sum
}

/// ln x of x ≥ 1: halved to below 2, then 2 artanh((x − 1)/(x + 1)).
fn ln(mut x: f64) -> f64 {
    let mut whole = 0.0;
    while x >= 2.0 {
        x /= 2.0;
        whole += std::f64::consts::LN_2;
    }
    let ratio = (x - 1.0) / (x + 1.0);
    let (mut sum, mut power, mut n) = (0.0, ratio, 1.0);
    while n < 40.0 {
        sum += power / n;
        power *= ratio * ratio;
        n += 2.0;
    }
    whole + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(step_ns: u64, intensities: &[u32], key: u64) -> Warp {
        let intensities = intensities.to_vec();
        let variation = Variation::Series {
            step_ns,
            intensities,
        };
        Warp::new(&variation, key).unwrap()
    }

    #[test]
    fn the_functions_are_those_of_the_library() {
        for i in -160..=160 {
            let x = f64::from(i) / 10.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "{x}");
        }
        for i in 0..1000 {
            let x = 1.0 + f64::from(i) * 0.37;
            assert!((ln(x) - x.ln()).abs() < 1e-13, "{x}");
        }
    }

    #[test]
    fn a_lap_goes_through_the_whole_series_from_some_step_on() {
        // Weights 1, 0, 3 over 3 steps of 100 ns: gains of 75, 0 and 225 ns.
        let warp = series(100, &[1, 0, 3], 7);
        for lap in 0..20u64 {
            let at = |x: u64| warp.at(lap * 300 + x) - lap * 300;
            let gains = [at(100), at(200) - at(100), at(300) - at(200)];
            let turned = [[75, 0, 225], [0, 225, 75], [225, 75, 0]];
            assert!(turned.contains(&gains), "lap {lap}: {gains:?}");
            assert_eq!(at(0), 0);
            // Straight within a step.
            assert_eq!(at(50), gains[0] / 2);
        }
        let starts: Vec<u64> = (0..20)
            .map(|lap| warp.at(lap * 300 + 100) - lap * 300)
            .collect();
        assert!(starts.iter().any(|&s| s != starts[0]), "laps differ");
    }

    #[test]
    fn drawn_variation_has_the_spread_and_the_memory_asked_for() {
        let (mut cv, mut lag) = (0.0, 0.0);
        for key in 0..40 {
            let values: Vec<f64> = drawn(0.3, 0.7, key).into_iter().map(f64::from).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let moment = |k: usize| {
                let pairs = values.iter().zip(&values[k..]);
                pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / n
            };
            cv += moment(0).sqrt() / mean / 40.0;
            lag += moment(1) / moment(0) / 40.0;
        }
        assert!((cv - 0.3).abs() < 0.01, "{cv}");
        // A correlation of 0.7 of logarithms is 0.69 of the values themselves.
        assert!((lag - 0.69).abs() < 0.02, "{lag}");
    }

    #[test]
    fn drawn_variation_never_changes_between_releases() {
        let sum = drawn(0.3, 0.7, 1)
            .into_iter()
            .fold(0, |acc, m| mix::mix(acc ^ u64::from(m)));
        assert_eq!(sum, DRAWN, "found {sum:#x}");
    }

    /// Also found by a program in another language from the same definitions.
    const DRAWN: u64 = 0xebb9_ed46_177b_99fe;

    proptest! {
        #[test]
        fn the_clock_never_goes_back_and_laps_are_exact(
            step in 1u64..1_000_000_000, key in any::<u64>(),
            intensities in prop::collection::vec(0u32..5_000, 1..40), last in 1u32..,
            mut clocks in prop::collection::vec(any::<u64>(), 2..40),
        ) {
            let mut intensities = intensities;
            intensities.push(last);
            let warp = series(step, &intensities, key);
            clocks.sort_unstable();
            let warped: Vec<u64> = clocks.iter().map(|&clock| warp.at(clock)).collect();
            prop_assert!(warped.windows(2).all(|pair| pair[0] <= pair[1]));
            let lap = step * intensities.len() as u64;
            for (&clock, &at) in clocks.iter().zip(&warped) {
                // Never a lap off: the mean in the long run is 1 to the nanosecond.
                prop_assert!(at.abs_diff(clock) <= lap);
                prop_assert_eq!(warp.at(clock / lap * lap), clock / lap * lap);
            }
        }
    }
}
