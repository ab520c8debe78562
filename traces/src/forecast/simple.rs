//! Predictors without parameters to fit.

use std::collections::VecDeque;

use super::Predictor;

/// The last value.
#[derive(Debug, Default)]
pub(super) struct Last(f64);

impl Predictor for Last {
    fn fit(&mut self, history: &[f64]) {
        self.0 = history.last().copied().unwrap_or(0.0);
    }

    fn observe(&mut self, value: f64) {
        self.0 = value;
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        vec![self.0; ahead.len()]
    }
}

/// The straight line from the first value through the last.
#[derive(Debug, Default)]
pub(super) struct Drift {
    first: f64,
    last: f64,
    count: usize,
}

impl Predictor for Drift {
    fn fit(&mut self, history: &[f64]) {
        *self = Self {
            first: history.first().copied().unwrap_or(0.0),
            last: history.last().copied().unwrap_or(0.0),
            count: history.len(),
        };
    }

    fn observe(&mut self, value: f64) {
        if self.count == 0 {
            self.first = value;
        }
        self.last = value;
        self.count += 1;
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let slope = if self.count > 1 {
            (self.last - self.first) / (self.count - 1) as f64
        } else {
            0.0
        };
        ahead
            .iter()
            .map(|&h| self.last + slope * h as f64)
            .collect()
    }
}

/// The mean of all values.
#[derive(Debug, Default)]
pub(super) struct Mean {
    sum: f64,
    count: usize,
}

impl Predictor for Mean {
    fn fit(&mut self, history: &[f64]) {
        *self = Self {
            sum: history.iter().sum(),
            count: history.len(),
        };
    }

    fn observe(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        vec![self.sum / self.count.max(1) as f64; ahead.len()]
    }
}

/// The last values, at most so many.
#[derive(Debug)]
pub(super) struct Tail {
    values: VecDeque<f64>,
    most: usize,
}

impl Tail {
    pub(super) fn new(most: usize) -> Self {
        Self {
            values: VecDeque::with_capacity(most),
            most: most.max(1),
        }
    }

    pub(super) fn fill(&mut self, history: &[f64]) {
        self.values.clear();
        let from = history.len().saturating_sub(self.most);
        self.values.extend(&history[from..]);
    }

    pub(super) fn push(&mut self, value: f64) {
        if self.values.len() == self.most {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// The value `back` steps before the last one; `None` when that was not seen.
    pub(super) fn back(&self, back: usize) -> Option<f64> {
        let index = self.values.len().checked_sub(back + 1)?;
        self.values.get(index).copied()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.values.iter().copied()
    }
}

/// The mean of the last values.
#[derive(Debug)]
pub(super) struct MovingAverage(Tail);

impl MovingAverage {
    pub(super) fn new(count: usize) -> Self {
        Self(Tail::new(count))
    }
}

impl Predictor for MovingAverage {
    fn fit(&mut self, history: &[f64]) {
        self.0.fill(history);
    }

    fn observe(&mut self, value: f64) {
        self.0.push(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let mean = self.0.iter().sum::<f64>() / self.0.iter().len().max(1) as f64;
        vec![mean; ahead.len()]
    }
}

/// The value a whole number of seasons before.
#[derive(Debug)]
pub(super) struct SeasonalNaive {
    season: usize,
    tail: Tail,
}

impl SeasonalNaive {
    pub(super) fn new(season: usize) -> Self {
        let season = season.max(1);
        Self {
            season,
            tail: Tail::new(season),
        }
    }
}

impl Predictor for SeasonalNaive {
    fn fit(&mut self, history: &[f64]) {
        self.tail.fill(history);
    }

    fn observe(&mut self, value: f64) {
        self.tail.push(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let last = self.tail.back(0).unwrap_or(0.0);
        // h steps ahead is season − 1 − ((h − 1) mod season) before the last value.
        let at = |&h: &usize| self.season - 1 - (h - 1) % self.season;
        ahead
            .iter()
            .map(|h| self.tail.back(at(h)).unwrap_or(last))
            .collect()
    }
}
