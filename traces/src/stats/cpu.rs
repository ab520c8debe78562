//! How the CPU use of a trace without gaps is spread, weighted by time.

use super::acf::autocorrelation;
use crate::cpu::CpuTrace;

/// CPU demand over one repetition of a trace, weighted by time, in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuStats {
    /// Mean.
    pub mean: f64,
    /// Standard deviation over mean; 0 when the mean is 0.
    pub coefficient_of_variation: f64,
    /// Median.
    pub p50: u32,
    /// 95th percentile.
    pub p95: u32,
    /// Largest.
    pub max: u32,
    /// Autocorrelation at a lag of one interval; `None` for a constant trace.
    pub lag1: Option<f64>,
}

/// Computes [`CpuStats`].
#[must_use]
pub fn cpu_stats(trace: &CpuTrace) -> CpuStats {
    let samples = trace.samples();
    let mean = trace.mean_milli();
    let total = trace.period_ns() as f64;
    let square = |milli: u32| (f64::from(milli) - mean).powi(2);
    let variance = samples
        .iter()
        .map(|s| square(s.milli) * s.dur_ns as f64)
        .sum::<f64>()
        / total;
    let mut sorted: Vec<(u32, u64)> = samples.iter().map(|s| (s.milli, s.dur_ns)).collect();
    sorted.sort_unstable();
    let values: Vec<f64> = samples.iter().map(|s| f64::from(s.milli)).collect();
    CpuStats {
        mean,
        coefficient_of_variation: if mean > 0.0 {
            variance.sqrt() / mean
        } else {
            0.0
        },
        p50: weighted_quantile(&sorted, 0.5),
        p95: weighted_quantile(&sorted, 0.95),
        max: sorted.last().map_or(0, |&(milli, _)| milli),
        lag1: autocorrelation(&values, 1),
    }
}

/// The least value that is not exceeded for `share` of the time.
fn weighted_quantile(sorted: &[(u32, u64)], share: f64) -> u32 {
    let total: u128 = sorted.iter().map(|&(_, weight)| u128::from(weight)).sum();
    let target = share * total as f64;
    let mut sum = 0u128;
    for &(value, weight) in sorted {
        sum += u128::from(weight);
        if sum as f64 >= target {
            return value;
        }
    }
    sorted.last().map_or(0, |&(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuSample;

    #[test]
    fn cpu_statistics_weigh_by_time() {
        let samples = [(90, 100), (5, 800), (5, 200)]
            .map(|(dur_ns, milli)| CpuSample { dur_ns, milli })
            .to_vec();
        let stats = cpu_stats(&CpuTrace::new(samples).unwrap());
        assert!((stats.mean - 140.0).abs() < 1e-9);
        assert_eq!((stats.p50, stats.p95, stats.max), (100, 200, 800));
        assert_eq!(cpu_stats(&CpuTrace::constant(7)).lag1, None);
        assert_eq!(autocorrelation(&[1.0, -1.0, 1.0, -1.0], 1), Some(-0.75));
    }
}
