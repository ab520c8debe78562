//! How much a guest writes: the fleet's distribution, the profile made to fit it, and what is written within hours.

use statrs::distribution::{ContinuousCDF, Normal};

use crate::class::{Coupling, PageClass, unique_pages};
use crate::units::round_u32;

/// Rule 5: pages a second over 26,247 migrations (SoCC'17 set): median, 5 % and 95 % quantile, most.
pub const FLEET_D1: [f64; 4] = [4_500.0, 60.0, 25_000.0, 37_000.0];
/// Rule 4: D(2 h) and D(24 h) as shares of touched memory (VeCycle).
pub const LONG_WINDOWS: [[f64; 2]; 2] = [[0.3, 0.5], [0.5, 0.8]];
pub(super) const LONG_S: [f64; 2] = [7_200.0, 86_400.0];
/// No more of touched memory is written in a second than this.
const MOST_IN_A_SECOND: f64 = 0.95;
/// The normal quantile of 95 %.
const Z95: f64 = 1.644_853_626_951;

/// Two halves of log-normals that meet at the median, since one cannot have both tails: 4,500 pages a
/// second, 5 % below 60, 5 % above 25,000; capped at 37,000 a virtual CPU.
pub(super) fn fleet_d1(u: f64, vcpus: u32) -> f64 {
    let [median, p5, p95, most] = FLEET_D1;
    let z = Normal::standard().inverse_cdf(u);
    let sigma = if z < 0.0 {
        (median / p5).ln() / Z95
    } else {
        (p95 / median).ln() / Z95
    };
    let vcpus = f64::from(vcpus.max(1));
    (vcpus * median * (z * sigma).exp()).min(vcpus * most)
}

/// What numbers of pages and rates are multiplied by so that D(1 s) is `wanted`: pages first, since a
/// larger load of the same kind has a larger working set, rates only when memory is used up.
pub(super) fn scale(
    classes: &[PageClass],
    touched: u32,
    clock_s: f64,
    wanted: Option<f64>,
) -> (f64, f64) {
    let pages: f64 = classes.iter().map(|class| f64::from(class.pages)).sum();
    let largest = f64::from(touched) / pages.max(1.0);
    let d1 = |rate_scale: f64| unique_pages(classes, clock_s * rate_scale);
    let Some(wanted) = wanted.filter(|_| d1(1.0) > 0.0) else {
        return (largest.min(1.0), 1.0);
    };
    let wanted = wanted.min(f64::from(touched) * MOST_IN_A_SECOND);
    let pages_scale = wanted / d1(1.0);
    if pages_scale <= largest {
        return (pages_scale, 1.0);
    }
    // D grows with the rates; 2^40 times is more than any rate needs, and 60 halvings are exact enough.
    let (mut low, mut high) = (1.0f64, (1u64 << 40) as f64);
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if largest * d1(middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    (largest, high)
}

/// Rounding may have made the classes a few pages too large.
pub(super) fn fit_into(classes: &mut [PageClass], touched: u32) {
    let pages: u64 = classes.iter().map(|class| u64::from(class.pages)).sum();
    let mut over = pages.saturating_sub(u64::from(touched));
    while over > 0 {
        let Some(largest) = classes.iter_mut().max_by_key(|class| class.pages) else {
            return;
        };
        let less = u32::try_from(over)
            .unwrap_or(u32::MAX)
            .min(largest.pages.saturating_sub(1));
        if less == 0 {
            return;
        }
        largest.pages -= less;
        over -= u64::from(less);
    }
}

/// One class of pages and a rate a second so that, with what the others write, the two windows are the
/// wanted shares of touched memory.
pub(super) fn cold(touched: u32, free: u32, wanted: [f64; 2], reached: [f64; 2]) -> Vec<PageClass> {
    let missing = [0, 1].map(|i| wanted[i] * f64::from(touched) - reached[i]);
    if free == 0 || missing[1] < 1.0 {
        return Vec::new();
    }
    let ratio = LONG_S[1] / LONG_S[0];
    // C (1 − x) = missing in 2 h and C (1 − x^12) = missing in 24 h: the quotient falls from 12 to 1 as
    // x = e^(−7200 r) falls from 1 to 0.
    let quotient = missing[1] / missing[0].max(1e-9);
    let (mut low, mut high) = (1e-9f64, 1.0 - 1e-9);
    for _ in 0..100 {
        let x = f64::midpoint(low, high);
        if (1.0 - x.powf(ratio)) / (1.0 - x) < quotient {
            low = x;
        } else {
            high = x;
        }
    }
    let pages = (missing[1] / (1.0 - low.powf(ratio))).min(f64::from(free));
    // Where there are too few pages, or the profile has dirtied enough in 2 h, the day decides.
    let rate = if pages >= f64::from(free) || missing[0] < 1.0 {
        let share = (missing[1] / pages).min(1.0 - 1e-6);
        -(-share).ln_1p() / LONG_S[1]
    } else {
        -low.ln() / LONG_S[0]
    };
    vec![PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(round_u32(pages).min(free), rate)
    }]
}
