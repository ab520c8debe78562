//! Several predictors, weighted by how well they did lately.

use super::{Known, Method, Predictor};

/// What the past counts each step: errors 30 steps ago count half of the last one's.
const MEMORY: f64 = 0.977;

/// The mean of its members' answers, weighted by the inverse square of their recent one-step error.
/// All share one scale, so weights by error are weights by recent MASE.
#[derive(Debug)]
pub(super) struct Ensemble {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    predictor: Box<dyn Predictor>,
    /// Sums of discounted errors and of their weights.
    error: f64,
    weight: f64,
    next: Option<f64>,
}

impl Ensemble {
    pub(super) fn new(known: &Known) -> Self {
        let methods = [
            Method::Last,
            Method::Ewma(None),
            Method::MovingAverage(12),
            Method::Autoregressive(None),
            Method::HoltWinters,
        ];
        let members = methods.into_iter().filter_map(|method| {
            Some(Member {
                predictor: method.predictor(known)?,
                error: 0.0,
                weight: 0.0,
                next: None,
            })
        });
        Self {
            members: members.collect(),
        }
    }
}

impl Member {
    fn judge(&mut self, value: f64) {
        if let Some(next) = self.next {
            self.error = MEMORY * self.error + (value - next).abs();
            self.weight = MEMORY * self.weight + 1.0;
        }
    }

    fn look_ahead(&mut self) {
        self.next = self.predictor.predict(&[1]).first().copied();
    }
}

impl Predictor for Ensemble {
    fn fit(&mut self, history: &[f64]) {
        // Members are judged on a part they were not fitted on, then fitted on all.
        let held_out = history.len() / 4;
        let (seen, rest) = history.split_at(history.len() - held_out);
        for member in &mut self.members {
            (member.error, member.weight, member.next) = (0.0, 0.0, None);
            member.predictor.fit(seen);
            for &value in rest {
                member.look_ahead();
                member.judge(value);
                member.predictor.observe(value);
            }
            member.predictor.fit(history);
            member.look_ahead();
        }
    }

    fn observe(&mut self, value: f64) {
        for member in &mut self.members {
            member.judge(value);
            member.predictor.observe(value);
            member.look_ahead();
        }
    }

    fn predict(&self, ahead: &[usize]) -> Vec<f64> {
        let error = |member: &Member| {
            if member.weight > 0.0 {
                member.error / member.weight
            } else {
                1.0
            }
        };
        let least = self.members.iter().map(error).fold(f64::INFINITY, f64::min);
        // Relative to the best, so that a best of 0 takes all and nothing overflows.
        let weight = |member: &Member| {
            let error = error(member);
            if error <= least {
                1.0
            } else {
                (least / error).powi(2)
            }
        };
        let mut sums = vec![0.0; ahead.len()];
        let mut total = 0.0;
        for member in &self.members {
            let weight = weight(member);
            total += weight;
            for (sum, value) in sums.iter_mut().zip(member.predictor.predict(ahead)) {
                *sum += weight * value;
            }
        }
        sums.iter()
            .map(|sum| sum / f64::max(total, f64::MIN_POSITIVE))
            .collect()
    }
}
