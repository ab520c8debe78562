//! Where the level of a series changes: exact segmentation by PELT (Killick, Fearnhead, Eckley, 2012).

/// Longest series segmented as it is; longer ones are averaged down to this many values.
const MOST: usize = 4096;

/// Ends of the segments with one mean each, the last one the end of the series: the segmentation that
/// minimises Σ (squared distances from the segments' means, all dimensions) + `penalty` a segment.
///
/// `series` holds the dimensions, all of one length, each scaled to unit noise by the caller. No
/// segment is shorter than `shortest`. O(n) when changes are many, O(n²) when there are none.
#[must_use]
pub fn change_points(series: &[Vec<f64>], penalty: f64, shortest: usize) -> Vec<usize> {
    let n = series.first().map_or(0, Vec::len);
    let shortest = shortest.max(1);
    if n < 2 * shortest {
        return if n == 0 { Vec::new() } else { vec![n] };
    }
    let sums: Vec<Sums> = series.iter().map(|values| Sums::new(values)).collect();
    let cost = |from: usize, to: usize| sums.iter().map(|s| s.cost(from, to)).sum::<f64>();
    // best[t]: the least cost of the first t values, and where its last segment starts.
    let mut best = vec![(f64::INFINITY, 0usize); n + 1];
    best[0] = (-penalty, 0);
    let mut starts = vec![0usize];
    for end in shortest..=n {
        let total = |start: usize| best[start].0 + cost(start, end) + penalty;
        let found = starts
            .iter()
            .map(|&start| (total(start), start))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        best[end] = found.unwrap_or((f64::INFINITY, 0));
        // A start that is worse than the best even without a penalty never wins again.
        let bound = best[end].0;
        starts.retain(|&start| best[start].0 + cost(start, end) <= bound);
        let next = end + 1 - shortest;
        if next >= shortest && best[next].0.is_finite() {
            starts.push(next);
        }
    }
    let mut ends = Vec::new();
    let mut end = n;
    while end > 0 {
        ends.push(end);
        end = best[end].1;
    }
    ends.reverse();
    ends
}

/// Running sums, from which the cost of any segment follows.
struct Sums {
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl Sums {
    fn new(values: &[f64]) -> Self {
        // Centred, so that differences of running squares keep their digits.
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (mut sum, mut square) = (vec![0.0], vec![0.0]);
        for value in values {
            let value = value - mean;
            sum.push(sum.last().copied().unwrap_or(0.0) + value);
            square.push(square.last().copied().unwrap_or(0.0) + value * value);
        }
        Self { sum, square }
    }

    fn cost(&self, from: usize, to: usize) -> f64 {
        let sum = self.sum[to] - self.sum[from];
        (self.square[to] - self.square[from] - sum * sum / (to - from) as f64).max(0.0)
    }
}

/// How many times the level of a series shifts for good, beyond what its short memory explains.
///
/// PELT on the mean with a penalty of 3 ln n (three parameters a change: its place and two levels) times the
/// long-run variance. That is taken from differences, which a shift touches once: with memory of the
/// AR(1) kind, E(x(t) − x(t−1))² = 2σ²(1 − ρ) and E(x(t) − x(t−2))² = 2σ²(1 − ρ²). Levels last at
/// least 12 values. Series longer than 4096 values are averaged down. `None` for fewer than 48 values.
#[must_use]
pub fn level_shifts(values: &[f64]) -> Option<usize> {
    const SHORTEST: usize = 12;
    let chunk = values.len().div_ceil(MOST).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let values: Vec<f64> = values.chunks(chunk).map(mean).collect();
    if values.len() < 4 * SHORTEST {
        return None;
    }
    let step = |lag: usize| {
        let pairs = values.iter().zip(&values[lag..]);
        pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>() / (values.len() - lag) as f64
    };
    let (one, two) = (step(1), step(2));
    if one <= 0.0 {
        return Some(0);
    }
    let memory = (two / one - 1.0).clamp(0.0, 0.95);
    let variance = one / (2.0 * (1.0 - memory));
    let long_run = variance * (1.0 + memory) / (1.0 - memory);
    let scaled: Vec<f64> = values.iter().map(|v| v / long_run.sqrt()).collect();
    let penalty = 3.0 * (values.len() as f64).ln();
    Some(change_points(&[scaled], penalty, SHORTEST).len() - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::noise::normals;

    /// The definition: every segmentation tried.
    fn by_hand(values: &[f64], penalty: f64, shortest: usize) -> f64 {
        let n = values.len();
        let sums = Sums::new(values);
        let mut best = vec![f64::INFINITY; n + 1];
        best[0] = -penalty;
        for end in shortest..=n {
            for start in 0..=end - shortest {
                best[end] = best[end].min(best[start] + sums.cost(start, end) + penalty);
            }
        }
        best[n]
    }

    proptest! {
        #[test]
        fn pruning_loses_nothing(
            values in proptest::collection::vec(-5.0..5.0f64, 6..40),
            penalty in 0.1..30.0f64,
        ) {
            let ends = change_points(std::slice::from_ref(&values), penalty, 1);
            let sums = Sums::new(&values);
            let mut total = -penalty;
            let mut start = 0;
            for &end in &ends {
                total += sums.cost(start, end) + penalty;
                start = end;
            }
            prop_assert!((total - by_hand(&values, penalty, 1)).abs() < 1e-9);
        }
    }

    #[test]
    fn shifts_are_counted_and_noise_has_none() {
        let noise = normals(5, 2000);
        assert_eq!(level_shifts(&noise), Some(0));
        let level = |i: usize| if (700..1500).contains(&i) { 2.0 } else { 0.0 };
        let shifted: Vec<f64> = noise
            .iter()
            .enumerate()
            .map(|(i, n)| n + level(i))
            .collect();
        assert_eq!(level_shifts(&shifted), Some(2));
        assert_eq!(level_shifts(&[1.0; 100]), Some(0));
        assert_eq!(level_shifts(&[1.0; 10]), None);
    }

    #[test]
    fn short_memory_is_not_taken_for_shifts() {
        let mut last = 0.0;
        let values: Vec<f64> = normals(6, 3000)
            .iter()
            .map(|n| {
                last = 0.8 * last + n;
                last
            })
            .collect();
        assert!(level_shifts(&values).unwrap() <= 1);
    }

    #[test]
    fn short_series_are_one_segment() {
        assert_eq!(change_points(&[vec![1.0, 9.0, 1.0]], 1.0, 2), [3]);
        assert_eq!(change_points(&[vec![]], 1.0, 2), Vec::<usize>::new());
        assert_eq!(change_points(&[], 1.0, 2), Vec::<usize>::new());
    }
}
