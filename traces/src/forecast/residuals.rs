//! Errors lately made, by horizon: what prediction intervals are made of.

use std::collections::VecDeque;

use crate::stats::quantile;

/// Errors kept.
const MOST: usize = 1000;
/// Errors needed before an interval is given.
const FEWEST: usize = 20;

/// A sliding set of errors (value − forecast) that can be asked for quantiles.
#[derive(Debug, Clone, Default)]
pub(super) struct Residuals {
    order: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Residuals {
    pub(super) fn push(&mut self, error: f64) {
        if self.order.len() == MOST
            && let Some(oldest) = self.order.pop_front()
        {
            let at = self
                .sorted
                .partition_point(|v| v.total_cmp(&oldest).is_lt());
            self.sorted.remove(at);
        }
        self.order.push_back(error);
        let at = self.sorted.partition_point(|v| v.total_cmp(&error).is_lt());
        self.sorted.insert(at, error);
    }

    /// Quantiles of the errors; `None` while there are fewer than 20.
    pub(super) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[f64; N]> {
        if self.sorted.len() < FEWEST {
            return None;
        }
        Some(shares.map(|share| quantile(&self.sorted, share).unwrap_or(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_thousand_count() {
        let mut residuals = Residuals::default();
        for i in 0..19 {
            residuals.push(f64::from(i));
        }
        assert_eq!(residuals.quantiles([0.5]), None);
        for i in 0..3000 {
            residuals.push(f64::from(i % 1000) + 5000.0);
        }
        assert_eq!(residuals.sorted.len(), MOST);
        assert_eq!(residuals.quantiles([0.0, 1.0]), Some([5000.0, 5999.0]));
    }
}
