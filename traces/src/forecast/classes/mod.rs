//! Page-class parameters foretold: D(t) of the windows to come from how classes of pages were written.
//!
//! A page's class is the half decade its write rate lay in *before* a window; the class's rate in that
//! window is what its pages then did. So a rate is never taken from the writes that chose the class.
//! Logarithms of the rates are smoothed exponentially; D(t) = Σ n_k (1 − e^(−r_k t)) + f t, with the
//! sizes n_k at the origin and f first writes a second. Never inside: what comes after an origin.

mod observe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::Predictor;

pub use observe::class_windows;

/// Least writes a page and window of each class but the last, which holds the rest.
const EDGES: [f64; 8] = [
    10.0,
    ROOT_10,
    1.0,
    0.1 * ROOT_10,
    0.1,
    0.01 * ROOT_10,
    0.01,
    0.001 * ROOT_10,
];
/// Classes are half a decade wide.
const ROOT_10: f64 = 3.162_277_660_168_379_5;
/// Classes.
const CLASSES: usize = EDGES.len() + 1;

/// What the classes did in one window.
#[derive(Debug, Clone, PartialEq)]
struct ClassWindow {
    /// Distinct pages written in it.
    distinct: f64,
    /// Natural logarithm of each class's writes a page and second; `None` where no page was in it.
    log_rates: [Option<f64>; CLASSES],
    /// Natural logarithm of pages a second written for the first time; `None` in a window without ticks.
    log_fresh: Option<f64>,
    /// Pages of each class after the window.
    sizes: [u32; CLASSES],
}

/// A recording, window by window: what [`Method::Classes`](super::Method::Classes) learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassWindows {
    step_s: f64,
    windows: Vec<ClassWindow>,
}

impl ClassWindows {
    /// Number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// What comes after the last window, from all of them; `None` where there is none. `windows_s` are
    /// the lengths D is given for.
    #[must_use]
    pub fn ahead(self: &Arc<Self>, windows_s: &[f64]) -> Option<ClassForecast> {
        let mut predictor = Classes::new(Arc::clone(self));
        predictor.fit_seen(self.len());
        let last = self.windows.last()?;
        let rates = predictor.levels.rates();
        let class = |(&pages, rate): (&u32, f64)| ClassAhead { pages, rate };
        Some(ClassForecast {
            weight: predictor.weight,
            classes: last.sizes.iter().zip(rates).map(class).collect(),
            fresh_pages_per_s: predictor.levels.fresh(),
            curve: windows_s
                .iter()
                .map(|&window_s| CurveAhead {
                    window_s,
                    pages: predictor.levels.distinct(&last.sizes, window_s),
                })
                .collect(),
        })
    }
}

/// A class at the end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct ClassAhead {
    /// Pages in it.
    pub pages: u32,
    /// Writes a page and second foretold.
    pub rate: f64,
}

/// D of one length.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct CurveAhead {
    /// Length of the window.
    pub window_s: f64,
    /// Distinct pages foretold for it.
    pub pages: f64,
}

/// Parameters of the classes after the end of a recording, and the D(t) they give.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClassForecast {
    /// Weight of the newest window, chosen on the recording.
    pub weight: f64,
    /// From the hottest on.
    pub classes: Vec<ClassAhead>,
    /// Pages a second never written before.
    pub fresh_pages_per_s: f64,
    /// D(t).
    pub curve: Vec<CurveAhead>,
}

/// Smoothed logarithms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Levels {
    log_rates: [Option<f64>; CLASSES],
    log_fresh: Option<f64>,
}

impl Levels {
    fn observe(&mut self, window: &ClassWindow, weight: f64) {
        let smooth = |level: &mut Option<f64>, seen: Option<f64>| {
            if let Some(seen) = seen {
                let before = level.unwrap_or(seen);
                *level = Some(before + weight * (seen - before));
            }
        };
        for (level, seen) in self.log_rates.iter_mut().zip(window.log_rates) {
            smooth(level, seen);
        }
        smooth(&mut self.log_fresh, window.log_fresh);
    }

    /// Writes a page and second; 0 of a class that no window showed.
    fn rates(&self) -> [f64; CLASSES] {
        self.log_rates.map(|log| log.map_or(0.0, f64::exp))
    }

    fn fresh(&self) -> f64 {
        self.log_fresh.map_or(0.0, f64::exp)
    }

    /// D(t).
    fn distinct(&self, sizes: &[u32; CLASSES], t_s: f64) -> f64 {
        let written = |(&pages, rate): (&u32, f64)| f64::from(pages) * -(-rate * t_s).exp_m1();
        let known: f64 = sizes.iter().zip(self.rates()).map(written).sum();
        known + self.fresh() * t_s
    }
}

/// The predictor: exponential smoothing of the parameters, D of one window's length.
#[derive(Debug)]
pub(super) struct Classes {
    all: Arc<ClassWindows>,
    weight: f64,
    levels: Levels,
    seen: usize,
}

impl Classes {
    pub(super) fn new(all: Arc<ClassWindows>) -> Self {
        Self {
            all,
            weight: 0.3,
            levels: Levels::default(),
            seen: 0,
        }
    }

    /// Squared errors of D one window ahead over the first `seen` windows.
    fn error(&self, seen: usize, weight: f64) -> f64 {
        let mut levels = Levels::default();
        let pairs = self.all.windows[..seen].windows(2);
        let one = pairs.map(|pair| {
            levels.observe(&pair[0], weight);
            let foretold = levels.distinct(&pair[0].sizes, self.all.step_s);
            (foretold - pair[1].distinct).powi(2)
        });
        one.sum()
    }

    fn fit_seen(&mut self, seen: usize) {
        let seen = seen.min(self.all.len());
        let weights = (1..=20).map(|i| f64::from(i) / 20.0);
        let scored = weights.map(|weight| (self.error(seen, weight), weight));
        self.weight = scored
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(self.weight, |best| best.1);
        self.levels = Levels::default();
        for window in &self.all.windows[..seen] {
            self.levels.observe(window, self.weight);
        }
        self.seen = seen;
    }
}

impl Predictor for Classes {
    /// The history's length says how many windows were seen; their values are known from the recording.
    fn fit(&mut self, history: &[f64]) {
        self.fit_seen(history.len());
    }

    fn observe(&mut self, _: f64) {
        if let Some(window) = self.all.windows.get(self.seen) {
            self.levels.observe(window, self.weight);
            self.seen += 1;
        }
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let last = self
            .seen
            .checked_sub(1)
            .and_then(|i| self.all.windows.get(i));
        let foretold = last.map_or(0.0, |last| {
            self.levels.distinct(&last.sizes, self.all.step_s)
        });
        vec![foretold; ahead.len()]
    }
}
