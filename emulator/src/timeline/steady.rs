//! When tenant flows have settled (DESIGN §2): throughput of two windows within 5 %, after at least
//! 2 s or 20 round trips.

use std::time::Duration;

/// How long and how even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteadyParams {
    /// At least this long: the larger of 2 s and 20 RTT.
    pub at_least: Duration,
    /// Give up waiting after this long, and say so.
    pub at_most: Duration,
}

impl SteadyParams {
    /// The rule for paths of this round-trip time.
    #[must_use]
    pub fn for_rtt(rtt: Duration) -> Self {
        let at_least = (rtt * 20).max(Duration::from_secs(2));
        Self {
            at_least,
            at_most: at_least * 5,
        }
    }
}

/// Watches the bytes that all open flows have delivered.
#[derive(Debug)]
pub struct SteadyDetector {
    params: SteadyParams,
    begun_ns: u64,
    last: Option<(u64, u64)>,
    last_rate: Option<f64>,
}

impl SteadyDetector {
    /// Starts watching.
    #[must_use]
    pub fn new(params: SteadyParams, now_ns: u64) -> Self {
        Self {
            params,
            begun_ns: now_ns,
            last: None,
            last_rate: None,
        }
    }

    /// Takes the bytes delivered so far, over all flows; `Some(true)` once they have settled,
    /// `Some(false)` when the wait has been long enough and they have not.
    pub fn sample(&mut self, now_ns: u64, delivered_bytes: u64) -> Option<bool> {
        let waited = Duration::from_nanos(now_ns.saturating_sub(self.begun_ns));
        let rate = self.last.and_then(|(then_ns, then_bytes)| {
            let seconds = now_ns.saturating_sub(then_ns) as f64 / 1e9;
            (seconds > 0.0).then(|| delivered_bytes.saturating_sub(then_bytes) as f64 / seconds)
        });
        let even = match (self.last_rate, rate) {
            (Some(before), Some(now)) => (now - before).abs() <= 0.05 * before.max(now),
            _ => false,
        };
        self.last = Some((now_ns, delivered_bytes));
        self.last_rate = rate.or(self.last_rate);
        if even && waited >= self.params.at_least {
            Some(true)
        } else if waited >= self.params.at_most {
            Some(false)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_S: u64 = 500_000_000;

    #[test]
    fn even_flows_settle_after_two_seconds() {
        let params = SteadyParams::for_rtt(Duration::from_millis(1));
        let mut detector = SteadyDetector::new(params, 0);
        let answers: Vec<_> = (1..=4)
            .map(|n| detector.sample(n * HALF_S, n * 1_000))
            .collect();
        assert_eq!(answers, [None, None, None, Some(true)]);
    }

    #[test]
    fn growing_flows_are_waited_for_but_not_for_ever() {
        let params = SteadyParams::for_rtt(Duration::from_millis(1));
        let mut detector = SteadyDetector::new(params, 0);
        let answers: Vec<_> = (1..=20)
            .map(|n| detector.sample(n * HALF_S, 1_000 << n))
            .collect();
        assert!(answers[..19].iter().all(Option::is_none));
        assert_eq!(answers[19], Some(false));
    }

    #[test]
    fn long_paths_wait_twenty_round_trips() {
        assert_eq!(
            SteadyParams::for_rtt(Duration::from_millis(300)).at_least,
            Duration::from_secs(6)
        );
    }
}
