//! Exponential smoothing: level, level with trend, level with trend and season.
//!
//! Weights are chosen on a fixed grid by the squared one-step errors over the history, so that a fit is
//! deterministic and cannot swing.

use super::Predictor;

/// Exponentially weighted moving average.
#[derive(Debug)]
pub(super) struct Ewma {
    fixed: Option<f64>,
    weight: f64,
    level: Option<f64>,
}

impl Ewma {
    pub(super) fn new(fixed: Option<f64>) -> Self {
        Self {
            fixed,
            weight: fixed.unwrap_or(0.3),
            level: None,
        }
    }
}

fn ewma_error(history: &[f64], weight: f64) -> f64 {
    let mut level = history.first().copied().unwrap_or(0.0);
    let mut sum = 0.0;
    for value in history.iter().skip(1) {
        sum += (value - level).powi(2);
        level += weight * (value - level);
    }
    sum
}

impl Predictor for Ewma {
    fn fit(&mut self, history: &[f64]) {
        self.weight = self.fixed.unwrap_or_else(|| {
            let weights = (1..=20).map(|i| f64::from(i) / 20.0);
            let scored = weights.map(|w| (ewma_error(history, w), w));
            scored
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map_or(0.3, |best| best.1)
        });
        self.level = None;
        for &value in history {
            self.observe(value);
        }
    }

    fn observe(&mut self, value: f64) {
        let level = self.level.unwrap_or(value);
        self.level = Some(level + self.weight * (value - level));
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        vec![self.level.unwrap_or(0.0); ahead.len()]
    }
}

/// What a trend keeps of itself each step (Gardner and McKenzie, 1985): undamped, 288 steps ahead
/// would be a straight line through noise.
const DAMPING: f64 = 0.98;

/// φ + φ² + … + φ^h.
fn damped(ahead: usize) -> f64 {
    DAMPING * (1.0 - DAMPING.powf(ahead as f64)) / (1.0 - DAMPING)
}

/// Level and damped trend.
#[derive(Debug, Clone, Default)]
pub(super) struct Holt {
    level_weight: f64,
    trend_weight: f64,
    state: Option<(f64, f64)>,
}

impl Holt {
    fn with(level_weight: f64, trend_weight: f64) -> Self {
        Self {
            level_weight,
            trend_weight,
            state: None,
        }
    }

    fn run(&mut self, history: &[f64]) -> f64 {
        let mut sum = 0.0;
        for &value in history {
            if let Some((level, trend)) = self.state {
                sum += (value - level - DAMPING * trend).powi(2);
            }
            self.observe(value);
        }
        sum
    }
}

impl Predictor for Holt {
    fn fit(&mut self, history: &[f64]) {
        let mut best: Option<(f64, Self)> = None;
        for level in [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9] {
            for trend in [0.01, 0.05, 0.1, 0.3] {
                let mut candidate = Self::with(level, trend);
                let error = candidate.run(history);
                if best.as_ref().is_none_or(|(least, _)| error < *least) {
                    best = Some((error, candidate));
                }
            }
        }
        if let Some((_, candidate)) = best {
            *self = candidate;
        }
    }

    fn observe(&mut self, value: f64) {
        let Some((level, trend)) = self.state else {
            self.state = Some((value, 0.0));
            return;
        };
        let expected = level + DAMPING * trend;
        let next = expected + self.level_weight * (value - expected);
        let trend = DAMPING * trend + self.trend_weight * (next - level - DAMPING * trend);
        self.state = Some((next, trend));
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let (level, trend) = self.state.unwrap_or((0.0, 0.0));
        ahead.iter().map(|&h| level + damped(h) * trend).collect()
    }
}

/// Level, damped trend and additive season.
#[derive(Debug, Clone)]
pub(super) struct HoltWinters {
    season: usize,
    weights: [f64; 3],
    level: f64,
    trend: f64,
    /// The next value's season first.
    seasonal: Vec<f64>,
    next: usize,
    fitted: bool,
}

impl HoltWinters {
    pub(super) fn new(season: usize) -> Self {
        Self {
            season: season.max(1),
            weights: [0.2, 0.01, 0.1],
            level: 0.0,
            trend: 0.0,
            seasonal: vec![0.0; season.max(1)],
            next: 0,
            fitted: false,
        }
    }

    /// Level and season from the first two seasons; less than that: the mean and no season.
    fn start(&mut self, history: &[f64]) -> usize {
        let used = history.len().min(2 * self.season);
        let part = &history[..used];
        self.level = part.iter().sum::<f64>() / used.max(1) as f64;
        (self.trend, self.next) = (0.0, 0);
        self.seasonal = vec![0.0; self.season];
        if used == 2 * self.season {
            for (index, slot) in self.seasonal.iter_mut().enumerate() {
                *slot = (part[index] + part[index + self.season]) / 2.0 - self.level;
            }
        }
        self.next = used % self.season;
        used
    }

    fn run(&mut self, history: &[f64]) -> f64 {
        let mut sum = 0.0;
        for &value in history {
            let expected = self.level + DAMPING * self.trend + self.seasonal[self.next];
            sum += (value - expected).powi(2);
            self.observe(value);
        }
        sum
    }
}

impl Predictor for HoltWinters {
    fn fit(&mut self, history: &[f64]) {
        let mut best: Option<(f64, Self)> = None;
        let grid = [0.02, 0.1, 0.3, 0.7].into_iter().flat_map(|level| {
            let trends = [0.0, 0.05].into_iter();
            trends.flat_map(move |trend| [0.05, 0.2, 0.5].map(|season| [level, trend, season]))
        });
        for weights in grid {
            let mut candidate = Self::new(self.season);
            candidate.weights = weights;
            let used = candidate.start(history);
            let error = candidate.run(&history[used..]);
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, candidate));
            }
        }
        if let Some((_, candidate)) = best {
            *self = candidate;
        }
        self.fitted = !history.is_empty();
    }

    fn observe(&mut self, value: f64) {
        if !self.fitted && self.level == 0.0 {
            (self.level, self.fitted) = (value, true);
        }
        let [level_weight, trend_weight, season_weight] = self.weights;
        let trend = DAMPING * self.trend;
        let season = self.seasonal[self.next];
        let level = self.level + trend + level_weight * (value - season - self.level - trend);
        self.trend = trend + trend_weight * (level - self.level - trend);
        self.seasonal[self.next] = season + season_weight * (value - level - season);
        self.level = level;
        self.next = (self.next + 1) % self.season;
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let at = |&h: &usize| {
            let season = self.seasonal[(self.next + h - 1) % self.season];
            self.level + damped(h) * self.trend + season
        };
        ahead.iter().map(at).collect()
    }
}
