//! From the delays of paths to the delays of links, and whether jitter has its shape.
//!
//! Pure. What a path takes too long is the sum of what its links do. Paths through a switch tell only such sums, and two
//! networks whose uplinks are all slower by what their downlinks are faster look alike; so of all errors that explain
//! the paths the smallest are taken (least norm). A link that alone is wrong is found as wrong by nearly all of it as
//! soon as each host talks to two others.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::link::{Distribution, Jitter};
use crate::topology::LinkId;

/// A path and by how much it was slower than asked, in ns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PathError {
    pub(super) links: Vec<LinkId>,
    pub(super) error_ns: f64,
}

/// Rounds over all paths. Each shrinks what is not explained; what is left after 200 on a star of 64 hosts is below a
/// hundredth (test).
const ROUNDS: usize = 200;

/// Errors of links that explain those of paths: Kaczmarz's method from zero, which comes to the explanation of least
/// norm, or, where paths contradict each other, near the one of least squares.
pub(super) fn link_errors(paths: &[PathError]) -> BTreeMap<LinkId, f64> {
    let mut errors: BTreeMap<LinkId, f64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for path in paths {
            let known: f64 = path.links.iter().filter_map(|id| errors.get(id)).sum();
            let each = (path.error_ns - known) / path.links.len().max(1) as f64;
            for id in &path.links {
                *errors.entry(*id).or_insert(0.0) += each;
            }
        }
    }
    errors
}

/// Whether delays (sorted, ns) of a path with one link of this jitter have its quartiles. `base_ns` is the path's delay
/// without jitter, `slack_ns` what the computer may add.
///
/// By the inequality of Dvoretzky, Kiefer and Wolfowitz an empirical distribution of n values is off by more than
/// `ε = √(ln(2 / α) / 2n)` anywhere with probability at most α: so the quartile q must lie between the true quantiles of
/// q - ε and q + ε.
pub(super) fn has_shape(
    delays: &[u64],
    base_ns: u64,
    jitter: &Jitter,
    alpha: f64,
    slack_ns: u64,
) -> bool {
    let Some(last) = delays.len().checked_sub(1) else {
        return false;
    };
    (1..=3_u32).all(|quarter| {
        let (low, high) = between(
            delays.len(),
            f64::from(quarter) / 4.0,
            base_ns,
            jitter,
            alpha,
        );
        let got = delays[last * quarter as usize / 4] as f64;
        let slack = slack_ns as f64;
        low - slack <= got && got <= high + slack
    })
}

/// By how much the median of such delays is off, beyond what chance explains; none without any.
pub(super) fn off_by(delays: &[u64], base_ns: u64, jitter: &Jitter, alpha: f64) -> Option<i64> {
    let got = *delays.get(delays.len() / 2)? as f64;
    let (low, high) = between(delays.len(), 0.5, base_ns, jitter, alpha);
    let off = got - got.clamp(low, high.max(low));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a difference of delays, far below 2^53 ns"
    )]
    Some(off.round() as i64)
}

/// Bounds of a quantile of n delays.
fn between(n: usize, q: f64, base_ns: u64, jitter: &Jitter, alpha: f64) -> (f64, f64) {
    let epsilon = ((2.0 / alpha).ln() / (2.0 * n as f64)).sqrt();
    let spread_ns = jitter.spread.as_nanos() as f64;
    // A delay is never negative.
    let at = |q: f64| (base_ns as f64 + quantile(jitter.distribution, q) * spread_ns).max(0.0);
    (at(q - epsilon), at(q + epsilon))
}

/// Quantiles of jitter in spreads; infinite beyond 0 and 1 where the distribution is.
fn quantile(distribution: Distribution, q: f64) -> f64 {
    match distribution {
        Distribution::Uniform => (2.0 * q - 1.0).clamp(-1.0, 1.0),
        _ if q <= 0.0 => f64::NEG_INFINITY,
        _ if q >= 1.0 => f64::INFINITY,
        Distribution::Normal => normal_quantile(q),
        // Pareto of exponent 3 and mean 3/2, scaled by 4/3 as in netem's table.
        Distribution::Pareto => ((1.0 - q).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0,
    }
}

/// By bisection of the distribution function: eight digits, far more than a handful of datagrams can tell.
fn normal_quantile(q: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_below(middle) < q {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Distribution function of the normal distribution (Abramowitz and Stegun 26.2.17, error below 7.5e-8).
fn normal_below(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let factors = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let sum = factors
        .iter()
        .rev()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    let above = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
    if x < 0.0 { above } else { 1.0 - above }
}

/// Between datagrams of a path with jitter, so that none is held up behind the one ahead: the range of a uniform
/// distribution, and of a normal one all but one in 30,000.
pub(super) fn undisturbed_gap(jitter: &Jitter) -> Duration {
    let spreads = match jitter.distribution {
        Distribution::Uniform => 2,
        Distribution::Normal | Distribution::Pareto => 8,
    };
    jitter.spread.saturating_mul(spreads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn star(hosts: u32, steps: &[u32], error: impl Fn(LinkId) -> f64) -> Vec<PathError> {
        let way = |from: u32, to: u32| {
            let links = vec![LinkId(2 * from), LinkId(2 * (to % hosts) + 1)];
            let error_ns = links.iter().map(|id| error(*id)).sum();
            PathError { links, error_ns }
        };
        let ways = |from| steps.iter().map(move |step| way(from, from + step));
        (0..hosts).flat_map(ways).collect()
    }

    #[test]
    fn a_link_that_alone_is_slow_is_found() {
        for hosts in [5, 16, 64] {
            let slow = |id| if id == LinkId(4) { 1e6 } else { 0.0 };
            let errors = link_errors(&star(hosts, &[1, 2], slow));
            let found = errors[&LinkId(4)];
            assert!(found > 0.7e6, "{hosts}: {errors:?}");
            let others = errors.iter().filter(|(id, _)| **id != LinkId(4));
            assert!(
                others.clone().all(|(_, e)| e.abs() < 0.4 * found),
                "{hosts}: {errors:?}"
            );
        }
    }

    #[test]
    fn what_every_path_adds_is_shared_evenly() {
        let errors = link_errors(&star(8, &[1, 2], |_| 30_000.0));
        assert!(
            errors.values().all(|e| (e - 30_000.0).abs() < 1.0),
            "{errors:?}"
        );
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        let near = |distribution, q, value: f64| {
            let got = quantile(distribution, q);
            assert!((got - value).abs() < 1e-4, "{distribution:?} {q}: {got}");
        };
        near(Distribution::Uniform, 0.25, -0.5);
        near(Distribution::Normal, 0.75, 0.674_49);
        near(Distribution::Normal, 0.025, -1.959_96);
        // (8^(1/3) - 1.5) × 4/3 with 1 - q = 1/8.
        near(Distribution::Pareto, 0.875, 0.666_67);
    }

    #[test]
    fn a_shape_is_told_from_a_constant_and_from_a_wider_one() {
        let jitter = |ms| Jitter {
            spread: Duration::from_millis(ms),
            ..Jitter::default()
        };
        // Evenly within 10 ms ± 2 ms.
        let delays: Vec<u64> = (0..1000).map(|n| 8_000_000 + n * 4_000).collect();
        let shaped = |ms| has_shape(&delays, 10_000_000, &jitter(ms), 1e-4, 100_000);
        assert!(shaped(2));
        assert!(
            !shaped(8) && !has_shape(&[10_000_000; 1000], 10_000_000, &jitter(8), 1e-4, 100_000)
        );
        assert!(!has_shape(&delays, 13_000_000, &jitter(2), 1e-4, 100_000));
        assert!(!has_shape(&[], 10_000_000, &jitter(2), 1e-4, 100_000));
    }
}
