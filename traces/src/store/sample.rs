//! One interval of one VM as a value of fixed size: what importers hand on and sorts move about.
//!
//! Never inside: files, and what the metrics mean.

use super::series::{Interval, Metric};

/// The metrics of one interval. A metric that is not set was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Values {
    present: u32,
    values: [u64; Metric::ALL.len()],
}

impl Values {
    /// Of these metrics; those without a value stay absent.
    #[must_use]
    pub fn of(metrics: &[(Metric, Option<u64>)]) -> Self {
        let mut values = Self::default();
        for &(metric, value) in metrics {
            values.set(metric, value);
        }
        values
    }

    /// The value, if it was recorded.
    #[must_use]
    pub fn get(&self, metric: Metric) -> Option<u64> {
        let index = metric as usize;
        (self.present & (1 << index) != 0).then(|| self.values[index])
    }

    /// Sets or takes away a value.
    pub fn set(&mut self, metric: Metric, value: Option<u64>) {
        let index = metric as usize;
        self.values[index] = value.unwrap_or(0);
        if value.is_some() {
            self.present |= 1 << index;
        } else {
            self.present &= !(1 << index);
        }
    }

    /// The metrics that have a value, with it.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, u64)> + '_ {
        Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric, self.get(metric)?)))
    }
}

/// One interval of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Whose: a number the one who made it gave out.
    pub vm: u32,
    /// When.
    pub interval: Interval,
    /// What was used.
    pub values: Values,
}
