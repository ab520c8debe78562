//! Classes whose intensity varies: what of the spread of D(w) the CPU time of a window does not show.
//!
//! Given its classes, a tick's distinct pages say how far the set's clock must have come in it: solve
//! Σ n_k (1 − e^(−r_k e)) = pages for e. That effective clock over the guest's own, tick by tick, is
//! the intensity; programs differ in it more than chance allows, for stretches longer than a tick,
//! because a second of CPU does not always serve the same requests (docs/characterisation.md). The
//! series is kept as it was recorded, since no small family of distributions has its shapes.
//!
//! Never inside: how a guest replays it (`replay::guest`).

use std::ops::Range;

use super::halves::moments;
use super::{FitError, Point, RATES, WINDOWS, basis, curve, fit};
use crate::class::{Coupling, PageClass, Variation, unique_pages};
use crate::dirty::{PageWriteTrace, Tick};
use crate::stats::{autocorrelation, dirty_curve};
use crate::units::{NS_PER_S, round_u32, round_u64};

/// A class set and how its intensity varies.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Varied {
    /// The classes.
    pub classes: Vec<PageClass>,
    /// How the intensity varies.
    pub variation: Variation,
    /// Standard deviation over mean of the intensity, tick by tick.
    pub cv: f64,
    /// Its correlation from tick to tick; none when it does not vary.
    pub correlation: Option<f64>,
}

/// Rounds of classes given the intensity and intensity given the classes. The first moves the means of
/// D(w) by a few per cent, the third by less than 0.1.
const ROUNDS: usize = 3;
/// Most times the mean that a tick's intensity is believed to be. What takes more is a burst over other
/// pages (a checkpoint, a collection of garbage) and no faster run of these classes: one of memcached's
/// had its coldest pages stand for hours. Two values were compared on the recordings at hand, 3 and 20: out
/// of sample 3 was as good or better, but for java in one direction (a score of 0.58 against 0.55).
const MOST: f64 = 3.0;
/// What an intensity of 1 is kept as.
const UNIT: f64 = 1000.0;
/// Most steps of a series that is kept: of longer stretches several ticks make a step.
const STEPS: usize = 4096;

/// Fits classes and their variation to the part of a recording in `range`.
///
/// # Errors
/// When the range is too short, or holds no CPU time and is coupled to it.
pub fn fit_varied(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    coupling: Coupling,
) -> Result<Varied, FitError> {
    let points = curve(trace, range.clone(), coupling)?;
    let mut classes = fit(&points, trace.pages, coupling);
    let part = trace.slice(range.clone());
    let clocks = clocks(&part.ticks, coupling);
    let total: f64 = clocks.iter().sum();
    let mut effective = clocks.clone();
    for _ in 0..ROUNDS {
        effective = effective_clocks(&part.ticks, &clocks, &classes);
        let scale = total / effective.iter().sum::<f64>();
        if !scale.is_finite() {
            return Err(FitError::NoCpu);
        }
        effective.iter_mut().for_each(|e| *e *= scale);
        let points = points_of(&part, &effective);
        classes = fit(&points, trace.pages, coupling);
    }
    let series = Series::of(&clocks, &effective);
    let intensities: Vec<f64> = series
        .gains
        .iter()
        .map(|gain| gain / series.step_s)
        .collect();
    let mean = intensities.iter().sum::<f64>() / intensities.len() as f64;
    let variance = intensities.iter().map(|m| (m - mean).powi(2)).sum::<f64>();
    Ok(Varied {
        classes,
        cv: (variance / intensities.len() as f64).sqrt() / mean,
        correlation: autocorrelation(&intensities, 1),
        variation: series.variation(),
    })
}

/// Ticks on the clock of the classes, in seconds.
fn clocks(ticks: &[Tick], coupling: Coupling) -> Vec<f64> {
    let mut before = 0;
    let clock = |tick: &Tick| {
        let ns = match coupling {
            Coupling::Cpu => tick.cpu_ns,
            Coupling::Time => tick.t_ns - before,
        };
        before = tick.t_ns;
        ns as f64 / NS_PER_S as f64
    };
    ticks.iter().map(clock).collect()
}

/// How far the clock of the classes must have come in each tick.
///
/// What chance alone does to a tick's pages, Σ n p (1 − p), makes its effective clock uncertain, the
/// more so the nearer all pages are to being dirty. So each is drawn towards the guest's clock by its
/// share of chance: e = c + (x − c) τ² / (τ² + s²), s² the variance by chance of x/c and τ² what is left
/// of the variance of x/c over ticks (empirical Bayes). A set that is dirty in every tick then varies
/// not at all, instead of by whatever its last page did.
fn effective_clocks(ticks: &[Tick], clocks: &[f64], classes: &[PageClass]) -> Vec<f64> {
    let mean = clocks.iter().sum::<f64>() / clocks.len() as f64;
    let most = MOST * mean;
    let found: Vec<(f64, f64)> = ticks
        .iter()
        .map(|tick| {
            let x = clock_of(classes, tick.page_count() as f64).min(most);
            let slope = (unique_pages(classes, x + mean / 100.0) - unique_pages(classes, x))
                / (mean / 100.0);
            // At no pages the chance is that of one.
            let chance = moments(classes, x).1.max(1.0) / slope.max(f64::MIN_POSITIVE);
            (x, (chance / mean).powi(2))
        })
        .collect();
    let n = found.len() as f64;
    let off = |(&clock, &(x, _)): (&f64, &(f64, f64))| ((x - clock) / mean).powi(2);
    let spread = clocks.iter().zip(&found).map(off).sum::<f64>() / n;
    // Half of the ticks are less certain than this: a few that say nothing must not hide the others.
    let mut chances: Vec<f64> = found.iter().map(|f| f.1).collect();
    chances.sort_unstable_by(f64::total_cmp);
    let between = (spread - chances[chances.len() / 2]).max(0.0);
    let drawn = clocks.iter().zip(found).map(|(&clock, (x, chance))| {
        let share = between / (between + chance).max(f64::MIN_POSITIVE);
        clock + (x - clock) * share
    });
    drawn.collect()
}

/// The clock at which the classes have dirtied so many pages; where they have not so many, that of
/// all but one in a thousand.
fn clock_of(classes: &[PageClass], pages: f64) -> f64 {
    let all: f64 = classes.iter().map(|class| f64::from(class.pages)).sum();
    let wanted = pages.min(all * 0.999);
    let (mut low, mut high) = (0.0, 1.0);
    while unique_pages(classes, high) < wanted {
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if unique_pages(classes, middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The curve with each window's own effective clock.
fn points_of(part: &PageWriteTrace, effective: &[f64]) -> Vec<Point> {
    let mut before = vec![0.0];
    for gain in effective {
        before.push(before[before.len() - 1] + gain);
    }
    let ticks = part.ticks.len();
    let windows: Vec<usize> = WINDOWS.into_iter().filter(|w| w * 2 <= ticks).collect();
    let curve = dirty_curve(part, &windows, 0..u64::MAX);
    let points = windows.iter().zip(curve).map(|(&window, point)| {
        let starts = 0..=ticks - window;
        let count = starts.clone().count() as f64;
        let mut mean = [0.0; RATES.len()];
        for start in starts {
            let own = basis(before[start + window] - before[start]);
            mean.iter_mut()
                .zip(own)
                .for_each(|(sum, b)| *sum += b / count);
        }
        Point {
            x: before[ticks] / ticks as f64 * window as f64,
            pages: point.pages,
            cores: point.window_cpu_s / point.window_s,
            weight: 1.0,
            basis: mean,
        }
    });
    points.filter(|point| point.pages > 0.0).collect()
}

/// An intensity over the clock of the classes: the effective clock gained in each of equal steps.
#[derive(Debug, Clone)]
pub(super) struct Series {
    step_s: f64,
    gains: Vec<f64>,
    /// Sums of the gains before each step, and of all.
    before: Vec<f64>,
}

impl Series {
    /// From ticks of unequal length on the clock: straight lines between them, read at equal steps.
    fn of(clocks: &[f64], effective: &[f64]) -> Self {
        let steps = clocks.len().min(STEPS);
        let total: f64 = clocks.iter().sum();
        let step_s = total / steps as f64;
        let mut gains = vec![0.0; steps];
        let mut at = 0.0;
        for (&clock, &gain) in clocks.iter().zip(effective) {
            let (from, to) = (at, at + clock);
            let mut step = step_at(from / step_s, steps);
            let last = step_at(to / step_s, steps);
            if clock <= 0.0 {
                gains[step] += gain;
            }
            while clock > 0.0 && step <= last {
                let start = step as f64 * step_s;
                let end = if step + 1 == steps {
                    total
                } else {
                    start + step_s
                };
                let share = (to.min(end) - from.max(start)).max(0.0) / clock;
                gains[step] += gain * share;
                step += 1;
            }
            at = to;
        }
        Self::new(step_s, gains)
    }

    fn new(step_s: f64, gains: Vec<f64>) -> Self {
        let mut before = vec![0.0];
        for gain in &gains {
            before.push(before[before.len() - 1] + gain);
        }
        Self {
            step_s,
            gains,
            before,
        }
    }

    /// What [`Series::variation`] made, with a mean intensity of 1. `None` of another kind.
    pub(super) fn read(variation: &Variation) -> Option<Self> {
        let Variation::Series {
            step_ns,
            intensities,
        } = variation
        else {
            return None;
        };
        let step_s = *step_ns as f64 / NS_PER_S as f64;
        let sum: f64 = intensities.iter().map(|&m| f64::from(m)).sum();
        let unit = step_s * intensities.len() as f64 / sum;
        let gains = intensities.iter().map(|&m| f64::from(m) * unit).collect();
        Some(Self::new(step_s, gains))
    }

    fn variation(&self) -> Variation {
        let intensity = |gain: &f64| round_u32(gain / self.step_s * UNIT);
        Variation::Series {
            step_ns: round_u64(self.step_s * NS_PER_S as f64).max(1),
            intensities: self.gains.iter().map(intensity).collect(),
        }
    }

    /// The effective clock gained in `clock_s` from a place in the series, 0 to 1, which begins again at
    /// its end.
    pub(super) fn gained(&self, place: f64, clock_s: f64) -> f64 {
        let lap = self.step_s * self.gains.len() as f64;
        let of_lap = self.before[self.gains.len()];
        let at = |clock: f64| {
            let laps = (clock / lap).floor();
            let within = (clock - laps * lap) / self.step_s;
            let step = step_at(within, self.gains.len());
            let part = (within - step as f64).clamp(0.0, 1.0);
            laps * of_lap + self.before[step] + part * self.gains[step]
        };
        let from = lap * place;
        at(from + clock_s) - at(from)
    }
}

/// The step a place is in.
fn step_at(place: f64, steps: usize) -> usize {
    crate::units::round_usize(place.floor().max(0.0)).min(steps - 1)
}
