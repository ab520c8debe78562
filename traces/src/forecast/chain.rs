//! What PRESS (Gong, Gu, Wilkes, 2010) does: a signature where the load repeats, a Markov chain where
//! it does not.

use super::Predictor;
use crate::stats::{correlation, periods};
use crate::units::round_usize;

/// Bins of the chain.
const BINS: usize = 20;
/// Steps that are computed ahead; further ones are the last of these.
const LONGEST: usize = 288;

/// A first-order chain over bins of equal width; the answer is the expected value.
#[derive(Debug, Default)]
pub(super) struct Markov {
    low: f64,
    width: f64,
    /// Expected value `h` steps after bin `i` at `[h − 1][i]`.
    expected: Vec<[f64; BINS]>,
    last: f64,
}

impl Markov {
    fn bin(&self, value: f64) -> usize {
        if self.width <= 0.0 {
            return 0;
        }
        round_usize(((value - self.low) / self.width).floor().max(0.0)).min(BINS - 1)
    }
}

impl Predictor for Markov {
    fn fit(&mut self, history: &[f64]) {
        let low = history.iter().copied().fold(f64::INFINITY, f64::min);
        let high = history.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.low = if low.is_finite() { low } else { 0.0 };
        self.width = if high > low {
            (high - low) / BINS as f64
        } else {
            0.0
        };
        self.last = history.last().copied().unwrap_or(0.0);
        let mut counts = [[0.0f64; BINS]; BINS];
        for pair in history.windows(2) {
            counts[self.bin(pair[0])][self.bin(pair[1])] += 1.0;
        }
        // Each bin stands for the mean of its values, not its middle.
        let mut sums = [(0.0f64, 0usize); BINS];
        for &value in history {
            let slot = &mut sums[self.bin(value)];
            *slot = (slot.0 + value, slot.1 + 1);
        }
        let middle = |i: usize| self.low + (i as f64 + 0.5) * self.width;
        let mut values: [f64; BINS] = std::array::from_fn(|i| match sums[i] {
            (_, 0) => middle(i),
            (sum, count) => sum / count as f64,
        });
        self.expected.clear();
        for _ in 0..LONGEST {
            let next = |i: usize| {
                let total: f64 = counts[i].iter().sum();
                let sum: f64 = counts[i].iter().zip(values).map(|(c, v)| c * v).sum();
                // A bin never left stays.
                if total > 0.0 { sum / total } else { values[i] }
            };
            values = std::array::from_fn(next);
            self.expected.push(values);
        }
    }

    fn observe(&mut self, value: f64) {
        self.last = value;
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let bin = self.bin(self.last);
        let at = |&h: &usize| {
            self.expected
                .get(h.min(LONGEST) - 1)
                .map_or(self.last, |e| e[bin])
        };
        ahead.iter().map(at).collect()
    }
}

/// How alike the courses of a period must be, by correlation: PRESS's own threshold.
const ALIKE: f64 = 0.85;

/// The mean course of a period over the history; the Markov chain when there is none.
#[derive(Debug)]
pub(super) struct Signature {
    given: Option<usize>,
    course: Vec<f64>,
    /// Place of the next value in the course.
    next: usize,
    chain: Markov,
}

impl Signature {
    pub(super) fn new(given: Option<usize>) -> Self {
        Self {
            given,
            course: Vec::new(),
            next: 0,
            chain: Markov::default(),
        }
    }

    /// The period with the most alike courses, of the one given and the strongest found.
    fn course(&self, history: &[f64]) -> Vec<f64> {
        let series: Vec<Option<f64>> = history.iter().copied().map(Some).collect();
        let found = periods(&series).first().map(|p| round_usize(p.length));
        let candidates = self.given.into_iter().chain(found);
        let alike = candidates.filter_map(|period| Some((alike(history, period)?, period)));
        let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, period)) = best.filter(|(r, _)| *r >= ALIKE) else {
            return Vec::new();
        };
        let courses = history.chunks_exact(period).count() as f64;
        let mut course = vec![0.0; period];
        for part in history.chunks_exact(period) {
            for (slot, value) in course.iter_mut().zip(part) {
                *slot += value / courses;
            }
        }
        course
    }
}

/// Mean correlation of neighbouring courses; `None` for fewer than two.
fn alike(history: &[f64], period: usize) -> Option<f64> {
    if period < 3 {
        return None;
    }
    let courses: Vec<&[f64]> = history.chunks_exact(period).collect();
    let pairs = courses.windows(2).map(|pair| {
        let values = pair[0].iter().zip(pair[1]);
        correlation(values.map(|(a, b)| (Some(*a), Some(*b)))).unwrap_or(0.0)
    });
    let pairs: Vec<f64> = pairs.collect();
    (!pairs.is_empty()).then(|| pairs.iter().sum::<f64>() / pairs.len() as f64)
}

impl Predictor for Signature {
    fn fit(&mut self, history: &[f64]) {
        self.course = self.course(history);
        self.next = history.len() % self.course.len().max(1);
        self.chain.fit(history);
    }

    fn observe(&mut self, value: f64) {
        self.next = (self.next + 1) % self.course.len().max(1);
        self.chain.observe(value);
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        if self.course.is_empty() {
            return self.chain.predict(ahead);
        }
        let at = |&h: &usize| self.course[(self.next + h - 1) % self.course.len()];
        ahead.iter().map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::simple::Tail;
    use super::*;

    #[test]
    fn the_chain_learns_what_follows_what() {
        let values: Vec<f64> = (0..400).map(|i| [0.0, 100.0, 50.0][i % 3]).collect();
        let mut chain = Markov::default();
        chain.fit(&values);
        chain.observe(100.0);
        assert_eq!(chain.predict(&[1, 2, 3]), [50.0, 0.0, 100.0]);
    }

    #[test]
    fn tails_know_how_far_they_reach() {
        let mut tail = Tail::new(2);
        tail.fill(&[1.0, 2.0, 3.0]);
        assert_eq!(
            (tail.back(0), tail.back(1), tail.back(2)),
            (Some(3.0), Some(2.0), None)
        );
    }
}
