//! A profile fitted on one half of a stretch, held against the other half: mean and spread of D(w).

use std::ops::Range;

use statrs::function::erf::erf;

use super::varied::{Series, Varied, fit_varied};
use super::{FitError, curve, fit};
use crate::class::{Coupling, Locality, PageClass, Variation, unique_pages};
use crate::dirty::{PageWriteTrace, Tick};
use crate::stats::{Quantiles, ticks_of, window_quantiles};
use crate::units::NS_PER_S;

/// Windows at which halves are compared, in seconds.
pub const WINDOWS_S: [f64; 3] = [0.1, 1.0, 10.0];

/// One window length in the half that was not fitted.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct HalfWindow {
    /// Length in seconds.
    pub window_s: f64,
    /// D(w) as recorded.
    pub measured: Quantiles,
    /// D(w) as the profile gives it for the CPU time of the same windows.
    pub predicted: Quantiles,
    /// |predicted − measured| / measured, of the means.
    pub error: f64,
}

/// Fitted here, scored there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Direction {
    /// The profile.
    pub classes: Vec<PageClass>,
    /// How its intensity varies, where that was fitted.
    pub variation: Option<Variation>,
    /// The other half by window; windows longer than it are left out.
    pub windows: Vec<HalfWindow>,
}

impl Direction {
    /// How far off it is: the mean over windows of the error of the mean and of the mean error of p10,
    /// p50, p90 and p99 over the recorded mean, half each.
    #[must_use]
    pub fn score(&self) -> f64 {
        let one = |w: &HalfWindow| 0.5 * (w.error + spread_error(&w.measured, &w.predicted));
        self.windows.iter().map(one).sum::<f64>() / self.windows.len().max(1) as f64
    }
}

/// Both directions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Halves {
    /// The clock of the classes.
    pub coupling: Coupling,
    /// Fitted on the first half, scored on the second.
    pub forward: Direction,
    /// Fitted on the second half, scored on the first.
    pub backward: Direction,
}

/// Fits a class set on each half of `range` and scores it on the other.
///
/// # Errors
/// When a half is too short, or holds no CPU time and is coupled to it.
pub fn halves(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    coupling: Coupling,
) -> Result<Halves, FitError> {
    both(trace, range, coupling, |half| {
        let points = curve(trace, half.clone(), coupling)?;
        Ok((fit(&points, trace.pages, coupling), None))
    })
}

/// Fits a class set and its variation on each half of `range` and scores it on the other.
///
/// # Errors
/// As [`halves`].
pub fn varied_halves(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    coupling: Coupling,
) -> Result<Halves, FitError> {
    both(trace, range, coupling, |half| {
        let Varied {
            classes, variation, ..
        } = fit_varied(trace, half, coupling)?;
        Ok((classes, Some(variation)))
    })
}

fn both(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    coupling: Coupling,
    fitted: impl Fn(&Range<u64>) -> Result<(Vec<PageClass>, Option<Variation>), FitError>,
) -> Result<Halves, FitError> {
    let (first, second) = split(trace, range);
    let one = |from: &Range<u64>, to: &Range<u64>| {
        let (classes, variation) = fitted(from)?;
        let windows = score(trace, to, &classes, variation.as_ref());
        Ok(Direction {
            classes,
            variation,
            windows,
        })
    };
    Ok(Halves {
        coupling,
        forward: one(&first, &second)?,
        backward: one(&second, &first)?,
    })
}

/// Mean error of p10, p50, p90 and p99, over the measured mean.
pub(super) fn spread_error(measured: &Quantiles, predicted: &Quantiles) -> f64 {
    let (m, p) = (measured, predicted);
    let pairs = [
        (m.p10, p.p10),
        (m.p50, p.p50),
        (m.p90, p.p90),
        (m.p99, p.p99),
    ];
    let errors = pairs.map(|(a, b)| (a - b).abs() / m.mean / 4.0);
    errors.iter().sum()
}

/// The halves of a range that ends with the recording at the latest.
pub(super) fn split(trace: &PageWriteTrace, range: &Range<u64>) -> (Range<u64>, Range<u64>) {
    let end = range.end.min(trace.duration_ns());
    let middle = range.start + end.saturating_sub(range.start) / 2;
    (range.start..middle, middle..end)
}

/// Holds a profile against the part of a recording in `range`.
pub(super) fn score(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    classes: &[PageClass],
    variation: Option<&Variation>,
) -> Vec<HalfWindow> {
    let series = variation.and_then(Series::read);
    let part = trace.slice(range.clone());
    let window = |window_s: f64| {
        let measured = window_quantiles(&part.ticks, part.pages, part.interval_ns, window_s)?;
        let predicted = predict(
            &part.ticks,
            part.interval_ns,
            (classes, series.as_ref()),
            &measured,
        )?;
        let error = (predicted.mean - measured.mean).abs() / measured.mean;
        error.is_finite().then_some(HalfWindow {
            window_s,
            measured,
            predicted,
            error,
        })
    };
    WINDOWS_S.into_iter().filter_map(window).collect()
}

/// Windows whose distributions are added up; of more, every n-th.
const MOST: usize = 2000;
/// Pairs of a window and a place in the series of a variation: the windows in turn, the places by
/// multiples of the golden section, which cover a series evenly however many there are.
const PAIRS: usize = 4000;
const GOLDEN_SECTION: f64 = 0.618_033_988_749_894_9;

/// The distribution of D(w) a profile gives, over the windows that were measured.
///
/// Given its CPU time and its place in the series of the variation, a window's count is a sum of
/// independent pages, nearly normal with variance Σ n p (1 − p); the quantiles are of the mixture over
/// windows and places.
fn predict(
    ticks: &[Tick],
    interval_ns: u64,
    (classes, series): (&[PageClass], Option<&Series>),
    measured: &Quantiles,
) -> Option<Quantiles> {
    let window = ticks_of(interval_ns, measured.window_s)?;
    let mut before = vec![0u64];
    for tick in ticks {
        before.push(before.last()? + tick.cpu_ns);
    }
    let span_s = ticks.last()?.t_ns as f64 / NS_PER_S as f64;
    let window_s = span_s / ticks.len() as f64 * window as f64;
    let coupling = classes.first()?.coupling;
    let clock_s = |start: usize| match coupling {
        Coupling::Cpu => (before[start + window] - before[start]) as f64 / NS_PER_S as f64,
        Coupling::Time => window_s,
    };
    let parts: Vec<(f64, f64)> = match series {
        None => {
            let every = measured.windows.div_ceil(MOST).max(1);
            let starts = (0..measured.windows).step_by(every);
            starts
                .map(|start| moments(classes, clock_s(start)))
                .collect()
        }
        Some(series) => {
            let pair = |i: usize| {
                let place = (i as f64 * GOLDEN_SECTION).fract();
                let effective_s = series.gained(place, clock_s(i % measured.windows));
                moments(classes, effective_s)
            };
            (0..PAIRS.max(measured.windows)).map(pair).collect()
        }
    };
    let mean = parts.iter().map(|part| part.0).sum::<f64>() / parts.len() as f64;
    let at = Quantiles::SHARES.map(|share| mixture_quantile(&parts, share));
    let sizes = (measured.windows, measured.disjoint);
    Some(Quantiles::from_shares(measured.window_s, sizes, mean, at))
}

/// Mean and deviation of the pages dirtied while the clock of the classes comes so far.
pub(super) fn moments(classes: &[PageClass], clock_s: f64) -> (f64, f64) {
    let (mut mean, mut variance) = (0.0, 0.0);
    for class in classes {
        let expected = unique_pages(std::slice::from_ref(class), clock_s);
        mean += expected;
        // Whole blocks are written or not; a sweep is not random.
        let block = match class.locality {
            Locality::Scatter => 1.0,
            Locality::Runs { pages } => f64::from(pages),
            Locality::Sweep => 0.0,
        };
        variance += block * expected * (1.0 - expected / f64::from(class.pages.max(1)));
    }
    (mean, variance.max(0.0).sqrt())
}

fn mixture_quantile(parts: &[(f64, f64)], share: f64) -> f64 {
    let below = |x: f64| {
        let part = |&(mean, deviation): &(f64, f64)| {
            if deviation > 0.0 {
                0.5 * (1.0 + erf((x - mean) / deviation / std::f64::consts::SQRT_2))
            } else {
                f64::from(u8::from(x >= mean))
            }
        };
        parts.iter().map(part).sum::<f64>() / parts.len() as f64
    };
    let mut low = 0.0;
    let reach = parts.iter().map(|(mean, deviation)| mean + 6.0 * deviation);
    let mut high = reach.fold(0.0, f64::max);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if below(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noise::normals;

    #[test]
    fn the_mixture_of_one_normal_is_that_normal() {
        let parts = [(100.0, 10.0)];
        for (share, z) in [(0.1, -1.2816), (0.5, 0.0), (0.99, 2.3263)] {
            assert!((mixture_quantile(&parts, share) - (100.0 + 10.0 * z)).abs() < 0.01);
        }
        assert!((mixture_quantile(&[(7.0, 0.0)], 0.5) - 7.0).abs() < 1e-6);
    }

    /// A generated Poisson writer is predicted in mean and spread.
    #[test]
    fn a_poisson_writer_is_predicted_with_its_spread() {
        use crate::dirty::Run;
        // 400 pages at 5 writes a second: in 100 ms each is written with p = 1 − e^(−0.5).
        let p = -(-0.5f64).exp_m1();
        let draws = normals(11, 400 * 400);
        // Below the quantile of p, by bisection on the normal distribution itself.
        let limit = {
            let (mut low, mut high) = (-4.0f64, 4.0f64);
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if 0.5 * (1.0 + erf(middle / std::f64::consts::SQRT_2)) < p {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            low
        };
        let ticks = draws.chunks(400).enumerate().map(|(i, draws)| {
            let mut runs: Vec<Run> = Vec::new();
            for (page, _) in draws.iter().enumerate().filter(|(_, d)| **d < limit) {
                let start = u32::try_from(page).unwrap();
                match runs.last_mut() {
                    Some(run) if run.start + run.len == start => run.len += 1,
                    _ => runs.push(Run { start, len: 1 }),
                }
            }
            Tick {
                t_ns: (i as u64 + 1) * 100_000_000,
                cpu_ns: 100_000_000,
                runs,
            }
        });
        let trace = PageWriteTrace {
            title: String::new(),
            pages: 400,
            interval_ns: 100_000_000,
            ticks: ticks.collect(),
        };
        let found = halves(&trace, &(0..u64::MAX), Coupling::Cpu).unwrap();
        for window in &found.forward.windows {
            assert!(window.error < 0.06, "{window:?}");
        }
        let tick = found.forward.windows[0];
        let measured = tick.measured.p90 - tick.measured.p10;
        let predicted = tick.predicted.p90 - tick.predicted.p10;
        assert!((predicted / measured - 1.0).abs() < 0.25, "{tick:?}");
    }
}
