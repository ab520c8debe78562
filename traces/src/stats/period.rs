//! Periods: peaks of the autocorrelation that the periodogram confirms.
//!
//! After AUTOPERIOD (Vlachos, Yu, Castelli, 2005): the periodogram is exact about short periods and
//! vague about long ones, the autocorrelation the other way round and blind to harmonics; a period is
//! told only when both see it.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use super::autocorrelations;

/// A period of a series.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Period {
    /// Length, in values; not whole when multiples of it fall between values.
    pub length: f64,
    /// Autocorrelation at the best of its multiples.
    pub autocorrelation: f64,
    /// Share of the variance that its frequency and harmonics below the eighth hold.
    pub power_share: f64,
}

/// Chance that noise without memory has any peak taken for a period.
const LEVEL: f64 = 0.01;
/// Harmonics of a period that are looked for in the periodogram: a spike a day has little power at
/// one a day.
const HARMONICS: usize = 8;
/// Peaks of the autocorrelation that are looked at, highest first.
const CANDIDATES: usize = 64;

/// Periods of a series, the strongest first: at least three whole cycles, a peak of the
/// autocorrelation that stands out on both sides, and a significant peak of the periodogram at its
/// frequency or a harmonic. Multiples of a shorter period are left out unless clearly stronger.
#[must_use]
pub fn periods(values: &[Option<f64>]) -> Vec<Period> {
    let longest = values.len() / 3;
    let acf: Vec<f64> = autocorrelations(values, longest)
        .into_iter()
        .map(|r| r.unwrap_or(0.0))
        .collect();
    if acf.len() < 5 {
        return Vec::new();
    }
    let spectrum = Spectrum::new(values);
    let peaks = peaks(&acf, values.len());
    let told = peaks.into_iter().filter_map(|lag| {
        let power_share = spectrum.confirms(lag)?;
        let (length, autocorrelation) = refine(&acf, lag);
        Some(Period {
            length,
            autocorrelation,
            power_share,
        })
    });
    let mut told: Vec<Period> = told.collect();
    told.sort_by(|a, b| a.length.total_cmp(&b.length));
    let mut kept: Vec<Period> = Vec::new();
    for period in told {
        if !kept.iter().any(|shorter| repeats(&period, shorter)) {
            kept.push(period);
        }
    }
    kept.sort_by(|a, b| b.autocorrelation.total_cmp(&a.autocorrelation));
    kept
}

/// The length of a period by its multiples: the k-th peak tells it k times finer than the first.
///
/// Follows the peaks as long as they stay at least half as high as the first.
fn refine(acf: &[f64], lag: usize) -> (f64, f64) {
    const MULTIPLES: usize = 16;
    let (mut length, mut highest) = (lag as f64, acf[lag]);
    for times in 2..=MULTIPLES {
        let at = length * times as f64;
        // The multiple before was known to half a value; peaks of broad hills wander with noise.
        let slack = (0.03 * length).max(1.5);
        let from = crate::units::round_usize(at - slack);
        let to = crate::units::round_usize(at + slack);
        let Some(part) = acf.get(from..=to) else {
            break;
        };
        let best = part.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let Some((offset, &value)) = best.filter(|(_, value)| **value >= 0.5 * acf[lag]) else {
            break;
        };
        length = (from + offset) as f64 / times as f64;
        highest = highest.max(value);
    }
    (length, highest)
}

/// Share of the variance by frequency: `i + 1` cycles in the whole series at index `i`. Holes count as
/// the mean. Empty for a constant series.
#[must_use]
pub fn periodogram(values: &[Option<f64>]) -> Vec<f64> {
    let spectrum = Spectrum::new(values);
    let known = values.iter().flatten().count();
    if known == 0 || spectrum.total <= 0.0 {
        return Vec::new();
    }
    let powers = spectrum.power.iter().skip(1);
    powers.map(|power| power / spectrum.total).collect()
}

/// Whether a period is a multiple of a shorter one and not clearly (by a quarter) stronger.
fn repeats(period: &Period, shorter: &Period) -> bool {
    let times = period.length / shorter.length;
    // A peak of a broad hill is off by some values, at most a twentieth of its period.
    let multiple = (times - times.round()).abs() <= 0.05 * times.round().max(1.0);
    multiple && period.autocorrelation <= 1.25 * shorter.autocorrelation
}

/// Lags of peaks that stand out by two standard errors of noise from both valleys beside them, and
/// are themselves as high; the highest first.
fn peaks(acf: &[f64], count: usize) -> Vec<usize> {
    let stands_out = 2.0 * 1.96 / (count as f64).sqrt();
    let lowest =
        |range: std::ops::Range<usize>| acf[range].iter().fold(f64::INFINITY, |low, &r| low.min(r));
    let peak = |lag: usize| {
        let value = acf[lag];
        let top = value > acf[lag - 1] && value >= acf[lag + 1];
        let half = (lag / 2).max(1);
        let right = (lag + half + 1).min(acf.len());
        // Nothing within half a period may be higher: the side peaks of a hill are not it.
        let highest = (lag - half + 1..right).all(|other| acf[other] <= value);
        top && highest
            && value > stands_out
            && value - lowest(lag - half..lag) > stands_out
            && value - lowest(lag + 1..right) > stands_out
    };
    let mut peaks: Vec<usize> = (2..acf.len() - 1).filter(|&lag| peak(lag)).collect();
    peaks.sort_by(|&a, &b| acf[b].total_cmp(&acf[a]));
    peaks.truncate(CANDIDATES);
    peaks
}

struct Spectrum {
    /// Power at i cycles in the whole series.
    power: Vec<f64>,
    total: f64,
    /// What noise of that total exceeds anywhere with a chance of [`LEVEL`].
    bound: f64,
    count: usize,
}

impl Spectrum {
    fn new(values: &[Option<f64>]) -> Self {
        let known = values.iter().flatten();
        let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
        let centred = values.iter().map(|v| v.map_or(0.0, |v| v - mean));
        let mut buffer: Vec<Complex<f64>> = centred.map(|v| Complex::new(v, 0.0)).collect();
        if !buffer.is_empty() {
            let mut planner = FftPlanner::new();
            planner.plan_fft_forward(buffer.len()).process(&mut buffer);
        }
        let half = values.len() / 2;
        let power: Vec<f64> = buffer[..half.max(1).min(buffer.len())]
            .iter()
            .map(|v| v.norm_sqr())
            .collect();
        let total: f64 = power.iter().skip(1).sum();
        let bins = power.len().saturating_sub(1).max(1) as f64;
        // Powers of white noise are exponential: Fisher's bound for the largest of so many.
        let bound = total / bins * -(-(1.0 - LEVEL).ln() / bins).ln();
        Self {
            power,
            total,
            bound,
            count: values.len(),
        }
    }

    /// The share of power at a period and its harmonics, if one of them is significant.
    fn confirms(&self, lag: usize) -> Option<f64> {
        let (mut share, mut significant) = (0.0, false);
        for harmonic in 1..=HARMONICS {
            let at = self.count as f64 * harmonic as f64 / lag as f64;
            // The period is a whole number of values: its frequency is known to that.
            let width = (0.5 * at / lag as f64).max(0.5);
            let from = crate::units::round_usize((at - width).floor()).max(1);
            let to = crate::units::round_usize((at + width).ceil()).min(self.power.len() - 1);
            if from > to || harmonic * 2 > lag {
                break;
            }
            let best = self.power[from..=to].iter().fold(0.0f64, |a, &b| a.max(b));
            share += best / self.total;
            significant |= best > self.bound;
        }
        significant.then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    fn with_noise(count: usize, signal: impl Fn(usize) -> f64) -> Vec<Option<f64>> {
        let noise = normals(7, count).into_iter().enumerate();
        noise.map(|(i, n)| Some(signal(i) + n)).collect()
    }

    #[test]
    fn a_sine_in_noise_is_found_to_a_twentieth() {
        let found = periods(&with_noise(2000, |i| (i as f64 / 24.0).sin() * 1.5));
        assert!((found[0].length - 150.8).abs() < 7.5, "{found:?}");
    }

    #[test]
    fn a_spike_a_day_is_a_day_and_not_its_harmonics() {
        let values = with_noise(288 * 10, |i| if i % 288 < 2 { 40.0 } else { 0.0 });
        let found = periods(&values);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0].length - 288.0).abs() < 0.5, "{found:?}");
    }

    #[test]
    fn a_period_between_whole_values_is_told_by_its_multiples() {
        let values = with_noise(4000, |i| if (i as f64 % 12.25) < 1.0 { 9.0 } else { 0.0 });
        let found = periods(&values);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0].length - 12.25).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn noise_and_constants_have_none() {
        assert_eq!(periods(&with_noise(3000, |_| 0.0)), []);
        assert_eq!(periods(&[Some(4.0); 500]), []);
        assert_eq!(periods(&[None; 5]), []);
        assert_eq!(periods(&[]), []);
    }

    #[test]
    fn holes_do_not_hide_a_period() {
        let mut values = with_noise(2000, |i| if i % 40 < 20 { 3.0 } else { 0.0 });
        for at in (0..2000).step_by(7) {
            values[at] = None;
        }
        assert!((periods(&values)[0].length - 40.0).abs() < 0.2);
    }
}
