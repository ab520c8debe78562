//! Demand within an interval drawn from what is recorded of its distribution.
//!
//! An interval's steps are the quantiles of a distribution with the recorded minimum, 95th
//! percentile, maximum and mean, corrected to the mean exactly. Their order in time is that of the
//! ranks of a Gaussian AR(1) path that goes on from interval to interval: demand is autocorrelated,
//! as it is where it was recorded finely enough to see (see [`CORRELATION_NS`]).

use crate::cpu::CpuSpread;
use crate::stats::Draws;

use super::{Options, bounds};

/// Time in which the autocorrelation of demand within five minutes falls to 1/e. Six machines of
/// Alibaba's 2018 trace, sampled every 10 s: within windows of 5 min the deviation from the
/// window's mean correlates by 0.3 to 0.4 over 10 s on four of them, by 0.1 to 0.4 over 20 s and by
/// nothing over 60 s (windows of 30 samples bias that down by about 0.1); on the other two not at
/// all.
const CORRELATION_NS: f64 = 15e9;

/// The order of steps in time, from interval to interval.
pub(super) struct Path {
    cap_milli: u32,
    seed: u64,
    interval: u64,
    /// Correlation of a step with the next.
    rho: f64,
    last: f64,
}

impl Path {
    pub(super) fn new(options: &Options) -> Self {
        let mut draws = Draws::new(options.seed);
        Self {
            cap_milli: options.cap_milli,
            seed: options.seed,
            interval: 0,
            rho: (-(options.step_ns as f64) / CORRELATION_NS).exp(),
            last: normal(&mut draws),
        }
    }

    /// The steps of the next interval.
    pub(super) fn values(&mut self, mean: u32, spread: CpuSpread, count: u64) -> Vec<u32> {
        self.interval += 1;
        // A stream of draws for each interval: a function of seed and number.
        let odd = self.interval.wrapping_mul(0xd134_2543_de82_ef95);
        let mut draws = Draws::new(self.seed ^ odd);
        let noise = (1.0 - self.rho * self.rho).sqrt();
        let path: Vec<f64> = (0..count)
            .map(|_| {
                self.last = self.rho * self.last + noise * normal(&mut draws);
                self.last
            })
            .collect();
        if spread.max.is_none() {
            return vec![mean; path.len()];
        }
        let sorted = quantiles(mean, spread, self.cap_milli, count);
        let mut order: Vec<usize> = (0..path.len()).collect();
        order.sort_by(|&a, &b| path[a].total_cmp(&path[b]));
        let mut values = vec![mean; path.len()];
        for (&at, value) in order.iter().zip(sorted) {
            values[at] = value;
        }
        values
    }
}

/// A standard normal draw (Box and Muller).
fn normal(draws: &mut Draws) -> f64 {
    let mut uniform = || (draws.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (1.0 - uniform(), uniform());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// `count` values in ascending order, within the bounds, of mean `mean` exactly.
fn quantiles(mean: u32, spread: CpuSpread, cap_milli: u32, count: u64) -> Vec<u32> {
    let (least, most) = bounds(mean, spread, cap_milli);
    let (lo, hi, m) = (f64::from(least), f64::from(most), f64::from(mean));
    let at = |share: f64| match spread.p95 {
        Some(p95) => {
            let p95 = f64::from(p95.clamp(least, most));
            // Nothing more is known of the top twentieth: evenly from the percentile to the maximum.
            let body = (m - 0.05 * f64::midpoint(p95, hi)) / 0.95;
            if share < 0.95 {
                between(lo, p95, body, share / 0.95)
            } else {
                p95 + (hi - p95) * (share - 0.95) / 0.05
            }
        }
        None => between(lo, hi, m, share),
    };
    let mut values: Vec<u32> = (0..count)
        .map(|step| {
            let value = at((step as f64 + 0.5) / count as f64);
            crate::units::round_u32(value).clamp(least, most)
        })
        .collect();
    settle(
        &mut values,
        (least, most),
        u128::from(mean) * u128::from(count),
    );
    values
}

/// Quantile `share` of a distribution on [lo, hi] of mean `mean`: a Beta(1/a, 1), whose quantile
/// function lo + (hi − lo) share^a has the mean lo + (hi − lo)/(a + 1), or its mirror image, so that
/// a ≥ 1: most of the time near the bound the mean is near, and short visits to the other.
fn between(lo: f64, hi: f64, mean: f64, share: f64) -> f64 {
    let width = hi - lo;
    if mean <= lo || width <= 0.0 {
        lo
    } else if mean >= hi {
        hi
    } else if mean - lo <= hi - mean {
        lo + width * share.powf(width / (mean - lo) - 1.0)
    } else {
        hi - width * (1.0 - share).powf(width / (hi - mean) - 1.0)
    }
}

/// Moves values within their bounds until they sum to `total`, which their bounds allow; all that
/// can move do so alike.
fn settle(values: &mut [u32], (least, most): (u32, u32), total: u128) {
    loop {
        let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
        let up = sum < total;
        let mut left = sum.abs_diff(total);
        if left == 0 {
            return;
        }
        let room = |value: u32| if up { most - value } else { value - least };
        let open = values.iter().filter(|&&value| room(value) > 0).count() as u128;
        // Each turn fills a value or leaves less than one unit for each that is open.
        let share = (left / open.max(1)).max(1);
        for value in values.iter_mut() {
            let by = share.min(left).min(u128::from(room(*value)));
            left -= by;
            let by = u32::try_from(by).expect("not above the room");
            *value = if up { *value + by } else { *value - by };
        }
    }
}
