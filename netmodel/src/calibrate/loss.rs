//! Is the share of datagrams that did not arrive the share asked? Binomial tails.
//!
//! Pure. Over all lossy paths together a network as asked is called wrong with probability 10⁻⁴ at most.

use crate::link::{GilbertElliott, Loss};

/// Familywise probability of calling a good network wrong (DESIGN §10).
pub(super) const FAMILYWISE: f64 = 1e-4;

/// What a path's datagrams say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) sent: u64,
    pub(super) lost: u64,
}

/// Probability that a path of these links loses a datagram.
pub(super) fn path_loss<'l>(losses: impl IntoIterator<Item = &'l Loss>) -> f64 {
    let arrives: f64 = losses.into_iter().map(|loss| 1.0 - loss.mean()).product();
    1.0 - arrives
}

/// How much more the number of losses varies than that of independent ones: in bursts, n datagrams say as much as
/// `n / inflation` independent ones. Over steps of the two states the indicator's autocovariance is
/// `(b - g)² π_b π_g λᵏ`, λ = 1 - p - r, so that the variance of a mean grows by `1 + 2 ρ λ / (1 - λ)`, where ρ is that
/// of the states over m (1 - m).
pub(super) fn inflation(loss: &Loss) -> f64 {
    let Loss::GilbertElliott(states) = loss else {
        return 1.0;
    };
    let GilbertElliott {
        good_to_bad,
        bad_to_good,
        loss_in_bad,
        loss_in_good,
    } = states;
    let (p, r) = (good_to_bad.share(), bad_to_good.share());
    let mean = states.mean_loss();
    let variance = mean * (1.0 - mean);
    if p + r <= 0.0 || variance <= 0.0 {
        return 1.0;
    }
    let bad = p / (p + r);
    let states = (loss_in_bad.share() - loss_in_good.share()).powi(2) * bad * (1.0 - bad);
    let lambda = 1.0 - p - r;
    (1.0 + 2.0 * states / variance * lambda / (1.0 - lambda)).max(1.0)
}

/// Whether these losses are likely with probability `p` each: two-sided, `alpha` in all. `inflation` divides what the
/// datagrams say.
pub(super) fn plausible(losses: Losses, p: f64, inflation: f64, alpha: f64) -> bool {
    let count = |n: u64| n as f64 / inflation.max(1.0);
    let (sent, lost) = (count(losses.sent), count(losses.lost));
    let (below, above) = tails(sent.round(), lost.round(), p);
    below.min(above) >= alpha / 2.0
}

/// `P(X ≤ k)` and `P(X ≥ k)` of a binomial distribution, terms summed outwards from k.
fn tails(n: f64, k: f64, p: f64) -> (f64, f64) {
    if p <= 0.0 {
        return (1.0, if k > 0.0 { 0.0 } else { 1.0 });
    }
    if p >= 1.0 {
        return (if k < n { 0.0 } else { 1.0 }, 1.0);
    }
    let at_k = log_term(n, k, p).exp();
    let odds = p / (1.0 - p);
    let (mut below, mut term, mut j) = (at_k, at_k, k);
    while j > 0.0 && term > below * NEGLIGIBLE {
        term *= j / ((n - j + 1.0) * odds);
        below += term;
        j -= 1.0;
    }
    let (mut above, mut term, mut j) = (at_k, at_k, k);
    while j < n && term > above * NEGLIGIBLE {
        term *= (n - j) / (j + 1.0) * odds;
        above += term;
        j += 1.0;
    }
    // The tail that holds the bulk grows before it shrinks: then it is what the other leaves.
    if k < n * p {
        (below.min(1.0), (1.0 - below + at_k).clamp(0.0, 1.0))
    } else {
        ((1.0 - above + at_k).clamp(0.0, 1.0), above.min(1.0))
    }
}

const NEGLIGIBLE: f64 = 1e-12;

fn log_term(n: f64, k: f64, p: f64) -> f64 {
    log_factorial(n) - log_factorial(k) - log_factorial(n - k)
        + k * p.ln()
        + (n - k) * (1.0 - p).ln()
}

/// Stirling's series; exact sums below 20, where it would not be good to ten digits.
fn log_factorial(n: f64) -> f64 {
    if n < 20.0 {
        let (mut sum, mut j) = (0.0, 2.0);
        while j <= n {
            sum += f64::ln(j);
            j += 1.0;
        }
        return sum;
    }
    let tau = std::f64::consts::TAU;
    n * n.ln() - n + (tau * n).ln() / 2.0 + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Probability;

    fn probability(ppb: u32) -> Probability {
        Probability::from_ppb(ppb).unwrap()
    }

    #[test]
    fn tails_are_those_of_the_binomial_distribution() {
        // 10 fair coins: P(X ≤ 2) = 56/1024, P(X ≥ 8) the same, P(X ≥ 2) = 1013/1024.
        let near = |got: f64, value: f64| assert!((got - value).abs() < 1e-9, "{got} {value}");
        near(tails(10.0, 2.0, 0.5).0, 56.0 / 1024.0);
        near(tails(10.0, 8.0, 0.5).1, 56.0 / 1024.0);
        near(tails(10.0, 2.0, 0.5).1, 1013.0 / 1024.0);
        near(tails(10.0, 0.0, 0.5).0, 1.0 / 1024.0);
        assert_eq!(tails(10.0, 0.0, 0.0), (1.0, 1.0));
        assert_eq!(tails(10.0, 1.0, 0.0).1, 0.0);
        near(log_factorial(20.0), 42.335_616_460_753_485);
    }

    #[test]
    fn a_share_twice_as_large_is_not_plausible() {
        let of = |lost, sent, p| plausible(Losses { sent, lost }, p, 1.0, FAMILYWISE);
        assert!(of(20, 2000, 0.01) && of(33, 2000, 0.01) && of(8, 2000, 0.01));
        assert!(!of(41, 2000, 0.01) && !of(3, 2000, 0.01) && !of(2000, 2000, 0.01));
        assert!(of(0, 2000, 0.0) && !of(1, 2000, 0.0));
        assert!(of(2000, 2000, 1.0) && !of(1999, 2000, 1.0));
    }

    #[test]
    fn bursts_say_less() {
        let bursts = Loss::GilbertElliott(GilbertElliott {
            good_to_bad: probability(10_000_000),
            bad_to_good: probability(300_000_000),
            loss_in_bad: Probability::ONE,
            loss_in_good: probability(0),
        });
        // All loss in the bad state: ρ = 1, λ = 0.69, 1 + 2 × 0.69 / 0.31.
        assert!((inflation(&bursts) - (1.0 + 1.38 / 0.31)).abs() < 1e-9);
        assert_eq!(inflation(&Loss::Independent(probability(1))), 1.0);
        let p = path_loss([&bursts]);
        let many = Losses {
            sent: 2000,
            lost: 110,
        };
        assert!(!plausible(many, p, 1.0, FAMILYWISE));
        assert!(plausible(many, p, inflation(&bursts), FAMILYWISE));
    }
}
