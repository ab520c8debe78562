//! When the dirty log was read, and how many pages each reading found. Pure.

use super::{MigrationLog, Poll};
use crate::class::Coupling;
use crate::units::PAGE_SIZE;

/// Pages found dirty at a reading of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sync {
    /// When, ms since the migration began.
    pub at_ms: f64,
    /// Time since the reading before, s.
    pub window_s: f64,
    /// Pages that were dirty and not known to be.
    pub pages: f64,
    /// Share of what was known to be dirty after the reading before that had not been sent yet: what the guest wrote into
    /// that was not found again.
    pub unsent: f64,
    /// How far the instant may be off: the answers it lies between, s.
    pub blur_s: f64,
    /// Share of the vCPUs' time that auto-converge took in that time.
    pub throttled: f64,
}

impl Sync {
    /// The window on the clock that the guest's writes follow, s: a throttled guest has less CPU time, and no less time.
    #[must_use]
    pub fn clock_s(&self, coupling: Coupling) -> f64 {
        match coupling {
            Coupling::Cpu => self.window_s * (1.0 - self.throttled),
            Coupling::Time => self.window_s,
        }
    }
}

/// What auto-converge takes. It changes when the log is read, so what an answer says holds until the next reading.
fn throttled(poll: Poll) -> f64 {
    poll.throttle
        .map_or(0.0, |percent| percent.min(99) as f64 / 100.0)
}

impl MigrationLog {
    /// Every reading between two answers of which the log tells all: exactly one, with the guest running.
    ///
    /// Between two answers what is left changes by what was sent and what was found, so that what was found is exact
    /// whatever the step of polling: `found = Δremaining + sent`. When it was read is not said: QEMU reads when what is left falls
    /// below `limit_ms` at the rate it sends with, which is taken as the instant.
    #[must_use]
    pub fn syncs(&self, limit_ms: u64) -> Vec<Sync> {
        if !self.rounds.is_empty() {
            return self.rounds_as_syncs();
        }
        let bytes_per_ms = self.bytes_per_s().unwrap_or(0.0) / 1e3;
        let threshold = bytes_per_ms * limit_ms as f64;
        let mut syncs = Vec::new();
        // The first reading is at the very beginning, and finds everything.
        let (mut before_ms, mut known) = (0.0, self.pages() as f64);
        for pair in self.polls.windows(2) {
            let (then, now) = (pair[0], pair[1]);
            let readings = now.syncs.saturating_sub(then.syncs);
            if then.syncs == 0 || readings == 0 {
                continue;
            }
            let (from, to) = (then.at_ms as f64, now.at_ms as f64);
            let ahead = (then.remaining as f64 - threshold).max(0.0);
            let wait_ms = if bytes_per_ms > 0.0 {
                ahead / bytes_per_ms
            } else {
                0.0
            };
            let at_ms = (from + wait_ms).min(to);
            let sent = now.sent().saturating_sub(then.sent()) as f64;
            let left = (now.remaining as f64 - then.remaining as f64) / PAGE_SIZE as f64;
            let over = self.completed && now.at_ms == self.last().at_ms;
            let found = (left + sent).max(0.0);
            let unsent = (then.remaining as f64).min(threshold) / PAGE_SIZE as f64;
            if readings == 1 && at_ms > before_ms && !now.postcopy && !over {
                syncs.push(Sync {
                    at_ms,
                    window_s: (at_ms - before_ms) / 1e3,
                    pages: found,
                    unsent: (unsent / known.max(1.0)).min(1.0),
                    blur_s: (to - from) / 1e3,
                    throttled: throttled(then),
                });
            }
            known = match readings {
                1 => unsent + found,
                _ => now.remaining as f64 / PAGE_SIZE as f64,
            };
            // Of several the last is the nearest to the answer.
            before_ms = if readings == 1 { at_ms } else { to };
        }
        syncs
    }

    /// Round n + 1 was dirtied while round n was sent; lengths by the pages sent, zero ones taking no time. The last round was
    /// sent while the guest was stopped.
    fn rounds_as_syncs(&self) -> Vec<Sync> {
        let zero = self.last().zero;
        let live_ms = self
            .last()
            .at_ms
            .saturating_sub(self.downtime_ms.unwrap_or(0)) as f64;
        let Some((_, live)) = self.rounds.split_last() else {
            return Vec::new();
        };
        let sent = |round: usize| {
            let nothing = if round == 0 { zero } else { 0 };
            live[round].saturating_sub(nothing).max(1) as f64
        };
        let all: f64 = (0..live.len()).map(sent).sum();
        let mut at_ms = 0.0;
        let each = (0..live.len()).map(|round| {
            let length_ms = live_ms * sent(round) / all;
            at_ms += length_ms;
            Sync {
                at_ms,
                window_s: length_ms / 1e3,
                pages: self.rounds[round + 1] as f64,
                // A round is over when all of it is sent.
                unsent: 0.0,
                blur_s: 0.0,
                throttled: 0.0,
            }
        });
        each.filter(|sync| sync.window_s > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Poll;
    use super::super::tests::{log, poll};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_sync_found_is_what_was_left_and_sent() {
        let syncs = log().syncs(0);
        // 100 pages left 200 ms before, 800 after, 200 sent in between: 900. The last one is at the end of
        // the migration, when the guest was stopped.
        assert_eq!(syncs.len(), 1);
        assert!((syncs[0].pages - 900.0).abs() < 1e-9);
        // 100 pages at 125 MB/s are 3.3 ms.
        let at_ms = 3900.0 + 100.0 * 4096.0 / 125_000.0;
        assert!((syncs[0].at_ms - at_ms).abs() < 1e-6, "{syncs:?}");
        assert!((syncs[0].window_s - at_ms / 1e3).abs() < 1e-9);
        // A limit that lets QEMU read earlier: as soon as it was asked.
        assert!((log().syncs(1000)[0].at_ms - 3900.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_sent_when_the_log_was_read_is_known() {
        let mut log = log();
        log.completed = false;
        // 10,000 pages known at first, 100 of them not sent; then those and the 900 found. At 125 MB/s a limit of 2 ms is
        // 61 pages.
        let unsent = |limit_ms| -> Vec<f64> {
            let syncs = log.syncs(limit_ms);
            syncs.iter().map(|sync| sync.unsent).collect()
        };
        let all = unsent(1000);
        assert!((all[0] - 0.01).abs() < 1e-9, "{all:?}");
        assert!((all[1] - 0.1).abs() < 1e-9, "{all:?}");
        let some = unsent(2);
        let threshold = 125e3 * 2.0 / 4096.0;
        assert!((some[0] - threshold / 1e4).abs() < 1e-9, "{some:?}");
        assert!(
            (some[1] - threshold / (threshold + 900.0)).abs() < 1e-9,
            "{some:?}"
        );
    }

    #[test]
    fn a_throttled_guest_had_less_cpu_time() {
        let mut log = log();
        log.completed = false;
        for poll in &mut log.polls[2..] {
            poll.throttle = Some(20);
        }
        let syncs = log.syncs(0);
        assert_eq!((syncs[0].throttled, syncs[1].throttled), (0.0, 0.2));
        let share = syncs[1].clock_s(Coupling::Cpu) / syncs[1].window_s;
        assert!((share - 0.8).abs() < 1e-9);
        assert_eq!(syncs[1].clock_s(Coupling::Time), syncs[1].window_s);
    }

    #[test]
    fn several_at_once_are_no_point_but_end_a_window() {
        let mut log = log();
        log.completed = false;
        log.polls[2].syncs = 3;
        log.polls[3].syncs = 3;
        log.polls[4].syncs = 4;
        let syncs = log.syncs(0);
        assert_eq!(syncs.len(), 1);
        // From the answer that told of the two.
        let window_ms = 4800.0 + 3.2768 - 4100.0;
        assert!(
            (syncs[0].window_s * 1e3 - window_ms).abs() < 1e-6,
            "{syncs:?}"
        );
        assert!((syncs[0].pages - 300.0).abs() < 1e-9);
    }

    #[test]
    fn rounds_are_as_long_as_their_pages_take() {
        let log = MigrationLog {
            ram_bytes: 1000 * PAGE_SIZE,
            rounds: vec![1000, 200, 100],
            polls: vec![Poll {
                zero: 400,
                ..poll(1000, 4, 0, (900, 400))
            }],
            completed: true,
            downtime_ms: Some(200),
            ..MigrationLog::default()
        };
        // 800 ms for 600 + 200 pages; the third round was sent while stopped.
        let syncs = log.syncs(300);
        assert_eq!(syncs.len(), 2);
        assert!((syncs[0].window_s - 0.6).abs() < 1e-9 && (syncs[0].pages - 200.0).abs() < 1e-9);
        assert!((syncs[1].window_s - 0.2).abs() < 1e-9 && (syncs[1].pages - 100.0).abs() < 1e-9);
    }

    proptest! {
        /// Whatever the answers, windows are positive and follow one another.
        #[test]
        fn any_answers_give_windows_in_order(
            polls in prop::collection::vec((0u64..5000, 0u64..4, 0u64..1000, 0u64..500, 0u64..500), 0..40),
            limit_ms in 0u64..1000,
        ) {
            let mut at = (0, 0, 0, 0);
            let polls = polls.into_iter().map(|(ms, syncs, remaining, normal, zero)| {
                at = (at.0 + ms, at.1 + syncs, at.2 + normal, at.3 + zero);
                poll(at.0, at.1, remaining, (at.2, at.3))
            });
            let log = MigrationLog {
                ram_bytes: 1000 * PAGE_SIZE,
                polls: polls.collect(),
                ..MigrationLog::default()
            };
            let mut end_ms = 0.0;
            for sync in log.syncs(limit_ms) {
                prop_assert!(sync.window_s > 0.0 && sync.pages >= 0.0);
                prop_assert!(sync.at_ms - sync.window_s * 1e3 >= end_ms - 1e-6);
                end_ms = sync.at_ms;
            }
        }
    }
}
