//! A migration as somebody watched it from outside: answers of QEMU's `query-migrate`, or of libvirt's
//! `virsh domjobinfo`, asked again and again while it went on.
//!
//! Inside: the answers (here), where one sync of the dirty log follows another and how many pages each found (`syncs`),
//! page classes that write so (`fitted`). Reading files is `import`'s (`import::migration_logs`). Never inside: what an emulation
//! makes of it.

mod fitted;
mod syncs;

pub use fitted::{Curve, CurveError};
pub use syncs::Sync;

use crate::units::PAGE_SIZE;

/// One answer. What it did not say is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Poll {
    /// Since the migration began, ms (`total-time`, `Time elapsed`).
    pub at_ms: u64,
    /// Bytes not sent yet, as far as the dirty log had been read (`ram.remaining`).
    pub remaining: u64,
    /// Bytes sent (`ram.transferred`).
    pub transferred: u64,
    /// Pages sent whole (`ram.normal`).
    pub normal: u64,
    /// Pages sent as a mark that they are zero (`ram.duplicate`, `Constant pages`).
    pub zero: u64,
    /// Times the dirty log has been read (`ram.dirty-sync-count`, `Iteration`).
    pub syncs: u64,
    /// QEMU's estimate over its last 100 ms, 10^6 bit/s.
    pub mbps: Option<f64>,
    /// Percent of the vCPUs' time that auto-converge takes.
    pub throttle: Option<u64>,
    /// `expected-downtime`, ms: the limit itself until there is an estimate.
    pub expected_downtime_ms: Option<u64>,
    /// Bytes sent while the guest was stopped (`ram.downtime-bytes`).
    pub downtime_bytes: Option<u64>,
    /// Bytes sent before (`ram.precopy-bytes`).
    pub precopy_bytes: Option<u64>,
    /// The guest had been switched to post-copy.
    pub postcopy: bool,
}

impl Poll {
    /// Pages sent, as whatever.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.normal.saturating_add(self.zero)
    }
}

/// A migration and how it ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MigrationLog {
    /// Its name: the file's, with a number where it holds several.
    pub name: String,
    /// RAM of the guest, QEMU's small blocks included.
    pub ram_bytes: u64,
    /// The answers, in order of time.
    pub polls: Vec<Poll>,
    /// Pages of each round, where a patched QEMU says them (`page-count`); the last was sent while the guest was stopped.
    pub rounds: Vec<u64>,
    /// Whether it says that the migration completed.
    pub completed: bool,
    /// The downtime it says at its end, ms.
    pub downtime_ms: Option<u64>,
    /// Whether libvirt told it, and QEMU was run as libvirt runs it.
    pub libvirt: bool,
}

impl MigrationLog {
    /// Its last answer.
    #[must_use]
    pub fn last(&self) -> Poll {
        self.polls.last().copied().unwrap_or_default()
    }

    /// Pages of RAM.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ram_bytes / PAGE_SIZE
    }

    /// Pages that are not zero when the migration begins: all but those that its first pass sent as zero. Where
    /// it did not get to the end of that pass, the same share of the rest.
    #[must_use]
    pub fn nonzero_pages(&self) -> u64 {
        let pages = self.pages();
        // Of one that went on with post-copy everything is sent by its end, and what was zero once.
        if self.completed && self.postcopy_at_ms().is_some() {
            return pages.saturating_sub(self.last().zero);
        }
        let passed = self.polls.iter().find(|poll| poll.syncs > 1);
        let Some(passed) = passed else {
            let last = self.last();
            let share = last.normal as f64 / last.sent().max(1) as f64;
            return crate::units::round_u64(pages as f64 * share).min(pages);
        };
        pages.saturating_sub(passed.zero)
    }

    /// Whether the guest was stopped before anything was sent (`stop`, then `migrate`).
    #[must_use]
    pub fn was_stopped(&self) -> bool {
        let live = |poll: &Poll| poll.downtime_bytes.is_none() || poll.precopy_bytes != Some(0);
        let mut sending = self
            .polls
            .iter()
            .filter(|poll| poll.transferred > 0)
            .peekable();
        sending.peek().is_some() && !sending.any(live)
    }

    /// When post-copy began, ms: by what had been sent before, at the rate it was sent with, between the answers it lies between.
    #[must_use]
    pub fn postcopy_at_ms(&self) -> Option<u64> {
        let after = self.polls.iter().position(|poll| poll.postcopy)?;
        let before = after
            .checked_sub(1)
            .map_or(0, |before| self.polls[before].at_ms);
        let sent = self.polls[after].precopy_bytes.zip(self.bytes_per_s());
        let told = sent.filter(|(_, rate)| *rate > 0.0);
        let at_ms = told.map_or(before, |(bytes, rate)| {
            crate::units::round_u64(bytes as f64 * 1e3 / rate)
        });
        Some(at_ms.clamp(before, self.polls[after].at_ms))
    }

    /// Bytes a second after the switch to post-copy, on average to the end; `None` if it did not get there.
    #[must_use]
    pub fn pulled_bytes_per_s(&self) -> Option<f64> {
        let (last, began_ms) = (self.last(), self.postcopy_at_ms()?);
        let ms = last.at_ms.checked_sub(began_ms).filter(|ms| *ms > 0)?;
        let bytes = last.transferred.checked_sub(last.precopy_bytes?)?;
        self.completed.then_some(bytes as f64 * 1e3 / ms as f64)
    }

    /// Whether auto-converge was on, as far as it can be told: once it throttles it says so.
    #[must_use]
    pub fn has_throttle(&self) -> bool {
        self.polls.iter().any(|poll| poll.throttle.is_some())
    }

    /// `downtime-limit`, ms: QEMU answers it as the expected downtime until its first estimate.
    #[must_use]
    pub fn downtime_limit_ms(&self) -> Option<u64> {
        let first = self
            .polls
            .iter()
            .find(|poll| poll.expected_downtime_ms.is_some())?;
        first.expected_downtime_ms.filter(|_| first.syncs <= 1)
    }

    /// Bytes a second while the guest ran: the median of what was sent from answer to answer; QEMU's own estimates, of 100 ms
    /// and a little high under a limit that it oversteps, where that says nothing.
    #[must_use]
    pub fn bytes_per_s(&self) -> Option<f64> {
        let median = |mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied()
        };
        let between: Vec<f64> = self.between().filter(|rate| *rate > 0.0).collect();
        if between.len() >= BETWEEN_ENOUGH {
            return median(between);
        }
        let live = self.before_postcopy().iter().filter(|poll| poll.syncs > 0);
        let told = live.filter_map(|poll| poll.mbps).filter(|mbps| *mbps > 0.0);
        let told: Vec<f64> = told.map(|mbps| mbps * 1e6 / 8.0).collect();
        median(if told.is_empty() { between } else { told })
    }

    /// The answers until the guest was switched to post-copy: all of them if it never was.
    fn before_postcopy(&self) -> &[Poll] {
        let switched = self.polls.iter().position(|poll| poll.postcopy);
        &self.polls[..switched.unwrap_or(self.polls.len())]
    }

    fn between(&self) -> impl Iterator<Item = f64> {
        self.before_postcopy().windows(2).filter_map(|pair| {
            let ms = pair[1]
                .at_ms
                .checked_sub(pair[0].at_ms)
                .filter(|ms| *ms > 0)?;
            let bytes = pair[1].transferred.checked_sub(pair[0].transferred)?;
            Some(bytes as f64 * 1e3 / ms as f64)
        })
    }

    /// Bytes a second of the last burst, sent while the guest was stopped, when no limit on bandwidth holds: what
    /// the link carries. `None` where it is not said, or too short to tell (a millisecond of a handful).
    #[must_use]
    pub fn burst_bytes_per_s(&self) -> Option<f64> {
        let bytes = self.last().downtime_bytes.filter(|_| !self.was_stopped())?;
        let ms = self.downtime_ms.filter(|ms| *ms >= 5)?;
        Some(bytes as f64 * 1e3 / ms as f64)
    }
}

/// Fewest stretches between answers that say more than QEMU's estimates.
const BETWEEN_ENOUGH: usize = 10;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn poll(at_ms: u64, syncs: u64, remaining_pages: u64, sent: (u64, u64)) -> Poll {
        let (normal, zero) = sent;
        Poll {
            at_ms,
            syncs,
            remaining: remaining_pages * PAGE_SIZE,
            normal,
            zero,
            transferred: normal * 4104 + zero * 9,
            mbps: Some(1000.0),
            ..Poll::default()
        }
    }

    /// 10,000 pages, 6,000 of them zero, 1,000 pages a second.
    pub(crate) fn log() -> MigrationLog {
        let mut log = MigrationLog {
            name: "m".to_owned(),
            ram_bytes: 10_000 * PAGE_SIZE,
            polls: vec![
                poll(1000, 1, 8000, (1000, 1000)),
                poll(3900, 1, 100, (3900, 6000)),
                // Synced in between: 100 sent, 900 found; 100 more sent.
                poll(4100, 2, 800, (4100, 6000)),
                poll(4800, 2, 100, (4800, 6000)),
                poll(5000, 3, 200, (5000, 6000)),
            ],
            completed: true,
            downtime_ms: Some(50),
            ..MigrationLog::default()
        };
        log.polls[0].expected_downtime_ms = Some(300);
        log
    }

    #[test]
    fn what_a_log_says_of_guest_and_link() {
        let mut log = log();
        assert_eq!(log.nonzero_pages(), 4000);
        assert_eq!(log.downtime_limit_ms(), Some(300));
        assert_eq!(log.bytes_per_s(), Some(125e6));
        assert!(!log.was_stopped() && !log.has_throttle());
        assert_eq!(log.burst_bytes_per_s(), None, "not said");
        log.polls[4].downtime_bytes = Some(100_000_000);
        assert_eq!(log.burst_bytes_per_s(), Some(2e9));
        log.downtime_ms = Some(1);
        assert_eq!(log.burst_bytes_per_s(), None, "too short to tell");
        // Cut in the first pass: half of what passed was not zero.
        log.polls.truncate(1);
        assert_eq!(log.nonzero_pages(), 5000);
        log.polls[0].mbps = None;
        assert_eq!(log.bytes_per_s(), None);
    }

    #[test]
    fn a_switch_to_post_copy_is_dated_by_what_was_sent_before() {
        let mut log = log();
        assert_eq!(
            (log.postcopy_at_ms(), log.pulled_bytes_per_s()),
            (None, None)
        );
        for poll in &mut log.polls[3..] {
            (poll.postcopy, poll.precopy_bytes) = (true, Some(537_500_000));
        }
        // 125 MB/s: 4,300 ms, between the answers at 4,100 and 4,800.
        assert_eq!(log.postcopy_at_ms(), Some(4300));
        let pulled = log.last().transferred as f64 - 537.5e6;
        assert!(pulled < 0.0);
        assert_eq!(log.pulled_bytes_per_s(), None, "less than before");
        log.polls[4].transferred = 1_237_500_000;
        assert_eq!(log.pulled_bytes_per_s(), Some(1e9));
        assert_eq!(log.nonzero_pages(), 4000);
        log.completed = false;
        assert_eq!(log.pulled_bytes_per_s(), None);
        // The last answer says `completed`, and a rate that no limit held.
        (log.polls[4].postcopy, log.polls[4].mbps) = (false, Some(9000.0));
        (log.polls[0].mbps, log.polls[1].mbps, log.polls[2].mbps) = (None, None, Some(1000.0));
        assert_eq!(log.bytes_per_s(), Some(125e6));
    }

    #[test]
    fn what_was_sent_says_more_than_estimates() {
        let polls = (1..=12).map(|n| Poll {
            transferred: n * 100_000,
            mbps: Some(8.5),
            ..poll(n * 100, 1, 10, (0, 0))
        });
        let log = MigrationLog {
            polls: polls.collect(),
            ..MigrationLog::default()
        };
        assert_eq!(log.bytes_per_s(), Some(1e6));
    }

    #[test]
    fn a_guest_stopped_before_is_told_by_what_was_sent_while_it_ran() {
        let mut log = log();
        for poll in &mut log.polls {
            (poll.downtime_bytes, poll.precopy_bytes) = (Some(poll.transferred), Some(0));
        }
        assert!(log.was_stopped());
        log.polls[1].precopy_bytes = Some(4104);
        assert!(!log.was_stopped());
        assert!(!MigrationLog::default().was_stopped());
    }
}
