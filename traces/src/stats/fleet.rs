//! Many VMs together: how alike they move, and what their sum peaks at.

use super::sampled::Sampled;
use super::{Summary, correlation, quantile, summary};
use crate::units::round_usize;

/// Percentiles of a figure over the VMs that have it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// VMs that have it.
    pub count: usize,
    /// 10th percentile.
    pub p10: f64,
    /// 25th.
    pub p25: f64,
    /// Median.
    pub p50: f64,
    /// 75th.
    pub p75: f64,
    /// 90th.
    pub p90: f64,
}

/// Computes a [`Spread`]; `None` when no VM has the figure.
#[must_use]
pub fn spread(figures: impl IntoIterator<Item = Option<f64>>) -> Option<Spread> {
    let mut sorted: Vec<f64> = figures.into_iter().flatten().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |share| quantile(&sorted, share);
    Some(Spread {
        count: sorted.len(),
        p10: at(0.1)?,
        p25: at(0.25)?,
        p50: at(0.5)?,
        p75: at(0.75)?,
        p90: at(0.9)?,
    })
}

/// VMs compared pair by pair; of more, every n-th is taken.
const MOST_PAIRED: usize = 100;
/// Cells of the fleet's grid; a longer one is made coarser.
const MOST_CELLS: usize = 1 << 18;

/// One quantity over all VMs, gathered VM by VM in bounded memory.
#[derive(Debug, Clone)]
pub struct Gather {
    step_ms: u64,
    origin_ms: Option<i64>,
    /// Sum and number of VMs by cell.
    cells: Vec<(f64, u32)>,
    peaks: f64,
    vms: usize,
    paired: Vec<(i64, Vec<Option<f64>>)>,
    every: usize,
}

/// What the VMs are together.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Together {
    /// VMs.
    pub vms: usize,
    /// Length of a cell in seconds.
    pub step_s: f64,
    /// Of the sum over the VMs, cell by cell.
    pub sum: Option<Summary>,
    /// Sum of the VMs' own peaks.
    pub sum_of_peaks: f64,
    /// Multiplexing gain: sum of peaks over the peak of the sum.
    pub multiplexing_gain: Option<f64>,
    /// Correlation of pairs of VMs.
    pub pairwise_correlation: Option<Spread>,
    /// VMs that were compared pair by pair.
    pub paired: usize,
}

impl Gather {
    /// For VMs sampled every `step_ms`.
    #[must_use]
    pub fn new(step_ms: u32) -> Self {
        Self {
            step_ms: u64::from(step_ms.max(1)),
            origin_ms: None,
            cells: Vec::new(),
            peaks: 0.0,
            vms: 0,
            paired: Vec::new(),
            every: 1,
        }
    }

    /// Adds a VM. Its values are held over its cells; where its steps differ from the fleet's, the
    /// value at the start of each of the fleet's cells counts.
    pub fn add(&mut self, sampled: &Sampled) {
        let origin = *self.origin_ms.get_or_insert(sampled.start_ms);
        let offset = sampled.start_ms.saturating_sub(origin);
        let step = i64::try_from(self.step_ms).unwrap_or(i64::MAX);
        // VMs that begin before the first one seen are cut at its beginning.
        let first = offset.div_euclid(step) + i64::from(offset.rem_euclid(step) != 0);
        let first = usize::try_from(first.max(0)).unwrap_or(usize::MAX);
        let length = sampled.values.len() as u64 * u64::from(sampled.step_ms);
        let end = offset.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
        let last =
            usize::try_from(end.max(0)).unwrap_or(0) / usize::try_from(self.step_ms).unwrap_or(1);
        let last = last.min(MOST_CELLS);
        if last > self.cells.len() {
            self.cells.resize(last, (0.0, 0));
        }
        let mut row = Vec::new();
        for cell in first..last {
            let at = i64::try_from(cell).unwrap_or(i64::MAX).saturating_mul(step) - offset;
            let index = usize::try_from(at.max(0)).unwrap_or(0) / (sampled.step_ms as usize).max(1);
            let value = sampled.values.get(index).copied().flatten();
            if let Some(value) = value {
                self.cells[cell].0 += value;
                self.cells[cell].1 += 1;
            }
            row.push(value);
        }
        self.peaks += sampled.known().into_iter().fold(0.0, f64::max);
        self.pair(i64::try_from(first).unwrap_or(0), row);
        self.vms += 1;
    }

    fn pair(&mut self, first: i64, row: Vec<Option<f64>>) {
        if self.vms.is_multiple_of(self.every) {
            self.paired.push((first, row));
        }
        if self.paired.len() > MOST_PAIRED {
            // Every other of those kept: still every n-th of all.
            let mut index = 0;
            self.paired.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// The figures; `None` for fewer than two VMs.
    #[must_use]
    pub fn finish(&self) -> Option<Together> {
        if self.vms < 2 {
            return None;
        }
        let sums: Vec<f64> = self
            .cells
            .iter()
            .filter(|cell| cell.1 > 0)
            .map(|cell| cell.0)
            .collect();
        let sum = summary(&sums);
        let mut correlations = Vec::new();
        for (index, a) in self.paired.iter().enumerate() {
            for b in &self.paired[index + 1..] {
                correlations.push(paired_correlation(a, b));
            }
        }
        Some(Together {
            vms: self.vms,
            step_s: self.step_ms as f64 / 1000.0,
            sum_of_peaks: self.peaks,
            multiplexing_gain: sum.filter(|s| s.max > 0.0).map(|s| self.peaks / s.max),
            pairwise_correlation: spread(correlations),
            sum,
            paired: self.paired.len(),
        })
    }
}

type Row = (i64, Vec<Option<f64>>);

fn paired_correlation(a: &Row, b: &Row) -> Option<f64> {
    let first = a.0.max(b.0);
    let from = |row: &Row| usize::try_from(first - row.0).unwrap_or(usize::MAX);
    let (a, b) = (a.1.get(from(a)..)?, b.1.get(from(b)..)?);
    let pairs = a.iter().zip(b);
    correlation(pairs.map(|(a, b)| (*a, *b)))
}

/// When VMs arrive and how long they live, in seconds, of those the source says it of.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Lives {
    /// VMs with a start.
    pub started: usize,
    /// VMs with a start and an end.
    pub ended: usize,
    /// Lifetimes of the ended ones.
    pub lifetime_s: Option<Summary>,
    /// Times between arrivals.
    pub interarrival_s: Option<Summary>,
    /// Arrivals by hour of the trace: index of dispersion, 1 for a Poisson process.
    pub hourly_dispersion: Option<f64>,
}

/// Computes [`Lives`] from starts and ends in ms; `None` when no VM has a start.
#[must_use]
pub fn lives(vms: impl Iterator<Item = (Option<i64>, Option<i64>)>) -> Option<Lives> {
    let (mut starts, mut lifetimes) = (Vec::new(), Vec::new());
    for (start, stop) in vms {
        let Some(start) = start else {
            continue;
        };
        starts.push(start);
        lifetimes.extend(stop.map(|stop| stop.saturating_sub(start) as f64 / 1000.0));
    }
    starts.sort_unstable();
    let first = *starts.first()?;
    let between = starts.windows(2);
    let between: Vec<f64> = between
        .map(|pair| pair[1].saturating_sub(pair[0]) as f64 / 1000.0)
        .collect();
    let hour = |start: &i64| round_usize((start.abs_diff(first) as f64 / 3_600_000.0).floor());
    let hours = starts.last().map_or(0, hour).min(MOST_CELLS);
    let mut hourly = vec![0.0; hours];
    for start in &starts {
        // The last hour is not whole.
        if let Some(slot) = hourly.get_mut(hour(start)) {
            *slot += 1.0;
        }
    }
    Some(Lives {
        started: starts.len(),
        ended: lifetimes.len(),
        lifetime_s: summary(&lifetimes),
        interarrival_s: summary(&between),
        hourly_dispersion: super::dispersion_index(&hourly, 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(start_ms: i64, values: &[f64]) -> Sampled {
        Sampled {
            start_ms,
            step_ms: 10,
            values: values.iter().map(|&v| Some(v)).collect(),
        }
    }

    #[test]
    fn peaks_at_different_times_share_room() {
        let mut gather = Gather::new(10);
        gather.add(&sampled(100, &[1.0, 5.0, 1.0, 1.0]));
        assert_eq!(gather.finish(), None);
        gather.add(&sampled(100, &[1.0, 1.0, 1.0, 5.0]));
        let found = gather.finish().unwrap();
        assert_eq!((found.sum_of_peaks, found.sum.unwrap().max), (10.0, 6.0));
        assert!((found.multiplexing_gain.unwrap() - 10.0 / 6.0).abs() < 1e-12);
        let r = found.pairwise_correlation.unwrap();
        assert!((r.p50 + 1.0 / 3.0).abs() < 1e-6, "{r:?}");
    }

    #[test]
    fn vms_of_other_times_are_aligned() {
        let mut gather = Gather::new(10);
        gather.add(&sampled(0, &[1.0, 2.0, 3.0, 4.0]));
        gather.add(&sampled(20, &[30.0, 40.0, 50.0]));
        gather.add(&sampled(-10, &[100.0, 200.0]));
        let found = gather.finish().unwrap();
        assert_eq!(found.sum.unwrap().max, 201.0);
        assert_eq!(found.sum.unwrap().count, 5);
    }

    #[test]
    fn lives_are_counted() {
        let vms = [(Some(0), Some(5000)), (Some(2000), None), (None, None)];
        let found = lives(vms.into_iter()).unwrap();
        assert_eq!((found.started, found.ended), (2, 1));
        assert_eq!(found.lifetime_s.unwrap().mean, 5.0);
        assert_eq!(found.interarrival_s.unwrap().mean, 2.0);
        assert_eq!(lives(std::iter::empty()), None);
    }
}
