//! QEMU's pre-copy decisions (`migration/migration.c`, `migration/ram.c`, version 10), sans I/O.
//!
//! ```text
//!           ┌──────────── credit left ───────────┐
//!           ▼                                    │
//!   Decide ── estimate < threshold ──► Sync ──► judge ── pending ≤ threshold ──► Complete
//!     │                                          │
//!     └────────── otherwise: judge ──────────────┤
//!                                                ▼
//!   counters (every 100 ms) ◄──────────── SendSlice (≤ 50 ms)
//!     └── no credit: SleepUntil the window's end, counters, Decide
//! ```
//!
//! Post-copy, once asked for, is begun by the next decision, whatever is left (`must_precopy` of RAM is
//! 0 under `postcopy-ram`): StartPostcopy. From then on the log is not read any more, windows have the
//! credit of `max-postcopy-bandwidth`, requests go without credit, and it is complete when no page is
//! left.
//!
//! The remarkable points: it decides in the middle of a pass, every slice; the log is read only
//! when the *estimate* falls under the threshold; the threshold comes from one 100 ms sample of
//! the bytes the socket accepted. QEMU computes the bandwidth in floating point; the products here
//! are exact, which differs by less than a byte.
//!
//! Never inside: clocks, sockets, the guest. Time is an argument; milliseconds are truncated as
//! QEMU's `qemu_clock_get_ms` truncates them.

use super::step::{
    CLOCK_CHECK_PAGES, NS_PER_MS, Observed, PAGE_BYTES, Slice, Statistics, Step, saturate,
};
use super::throttle::AutoConverge;
use crate::migration::params::{EngineKind, MigrationParams, PostcopyParams};
use crate::migration::record::Decision;

#[cfg(test)]
mod postcopy_tests;
#[cfg(test)]
mod tests;

/// `BUFFER_DELAY`: the bandwidth and credit window.
pub const WINDOW_MS: u64 = 100;
/// Windows that carried no more than this do not update `expected-downtime`.
const EXPECTED_DOWNTIME_MIN_BYTES: u64 = 10_000;
/// The dirty rate is renewed by the first sync later than this after the last renewal.
const RATE_PERIOD_MS: u64 = 1000;

/// Bytes in a number of milliseconds; kept as a fraction so that products stay exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bandwidth {
    bytes: u64,
    ms: u64,
}

impl Bandwidth {
    const NONE: Self = Self { bytes: 0, ms: 1 };

    /// Bytes that cross in `ms`; saturates.
    fn bytes_in(self, ms: u64) -> u64 {
        saturate(u128::from(self.bytes) * u128::from(ms) / u128::from(self.ms))
    }

    /// Milliseconds that `bytes` take; saturates, and for ever when nothing crosses.
    fn ms_for(self, bytes: u64) -> u64 {
        if self.bytes == 0 {
            return u64::MAX;
        }
        saturate(u128::from(bytes) * u128::from(self.ms) / u128::from(self.bytes))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Decide,
    /// The log was asked for; what the estimate had been.
    Exact {
        estimate_bytes: u64,
    },
    AfterSlice,
    Completing,
}

/// When to switch to post-copy, and whether that is done.
#[derive(Debug, Clone, Copy)]
struct Postcopy {
    params: PostcopyParams,
    /// Monotonic instant of virsh's `--timeout-postcopy`.
    timeout_ns: Option<u64>,
    asked: bool,
    pulling: bool,
}

impl Postcopy {
    fn new(params: &MigrationParams, now_ns: u64) -> Self {
        let timeout = params.postcopy.timeout;
        Self {
            params: params.postcopy,
            timeout_ns: timeout.map(|ms| now_ns.saturating_add(ms.saturating_mul(NS_PER_MS))),
            asked: params.engine == EngineKind::PostCopy,
            pulling: false,
        }
    }

    /// Whether the order has come by now. libvirt gives it when it hears of the second sync, which
    /// ends the first pass; so the decision after that one is the first to know.
    fn look(&mut self, now_ns: u64, syncs: u64, ordered: bool) {
        let first_pass = self.params.after_precopy && syncs >= SYNCS_OF_FIRST_PASS;
        self.asked |= ordered || first_pass || self.timeout_ns.is_some_and(|at| now_ns >= at);
    }
}

/// The setup's, and the one after the first pass.
const SYNCS_OF_FIRST_PASS: u64 = 2;

/// The decision core.
#[derive(Debug, Clone)]
pub struct QemuEngine {
    max_bandwidth: u64,
    downtime_limit_ms: u64,
    avail_switchover_bandwidth: u64,
    check_pages: u64,
    state: State,
    window_begin_ms: u64,
    window_begin_bytes: u64,
    window_begin_pages: u64,
    switchover_bandwidth: Bandwidth,
    statistics: Statistics,
    dirty_bytes_last_sync: u64,
    period_begin_ms: Option<u64>,
    period_dirty_pages: u64,
    decision: Option<Decision>,
    converge: Option<AutoConverge>,
    throttle: Option<u8>,
    postcopy: Postcopy,
    accepted_bytes: u64,
}

impl QemuEngine {
    /// The same, looking at the clock once in so many pages: [`CLOCK_CHECK_PAGES`] at a space
    /// scale, so that the look comes as often as at full size.
    #[must_use]
    pub fn with_check_pages(self, check_pages: u64) -> Self {
        Self {
            check_pages: check_pages.max(1),
            ..self
        }
    }

    /// A migration whose rounds begin at `now_ns`, with what the stream carried in its setup.
    #[must_use]
    pub fn new(params: &MigrationParams, now_ns: u64, observed: &Observed) -> Self {
        Self {
            max_bandwidth: params.max_bandwidth,
            downtime_limit_ms: params.downtime_limit,
            avail_switchover_bandwidth: params.avail_switchover_bandwidth,
            check_pages: CLOCK_CHECK_PAGES,
            state: State::Decide,
            window_begin_ms: now_ns / NS_PER_MS,
            window_begin_bytes: observed.accepted_bytes,
            window_begin_pages: observed.sent_pages,
            switchover_bandwidth: Bandwidth::NONE,
            statistics: Statistics {
                dirty_sync_count: 0,
                dirty_pages_rate: 0,
                periods: 0,
                expected_downtime_ms: params.downtime_limit,
                mbps: 0.0,
                pages_per_second: 0,
                threshold_bytes: 0,
            },
            dirty_bytes_last_sync: 0,
            period_begin_ms: None,
            period_dirty_pages: 0,
            decision: None,
            converge: (params.auto_converge.enabled)
                .then(|| AutoConverge::new(params.auto_converge, now_ns / NS_PER_MS)),
            throttle: None,
            postcopy: Postcopy::new(params, now_ns),
            accepted_bytes: observed.accepted_bytes,
        }
    }

    /// `migrate-set-parameters` while it runs. As in QEMU: `max-bandwidth` is the credit of the window
    /// under way too; the downtime limit and the switchover bandwidth make the next window's
    /// threshold; the throttle's are looked up when it next acts.
    pub fn set_parameters(&mut self, params: &MigrationParams) {
        self.max_bandwidth = params.max_bandwidth;
        self.downtime_limit_ms = params.downtime_limit;
        self.avail_switchover_bandwidth = params.avail_switchover_bandwidth;
        if let Some(converge) = &mut self.converge {
            converge.set_parameters(params.auto_converge);
        }
    }

    /// What to do at `now_ns`. The caller does it before it asks again.
    pub fn next(&mut self, now_ns: u64, observed: &Observed) -> Step {
        self.accepted_bytes = observed.accepted_bytes;
        if self.postcopy.pulling {
            return self.pull(now_ns, observed);
        }
        let syncs = self.statistics.dirty_sync_count;
        let between = matches!(self.state, State::Decide | State::AfterSlice);
        if let Some(converge) = self.converge.as_mut().filter(|_| between)
            && converge.wants_sync(now_ns / NS_PER_MS, syncs)
        {
            return Step::Sync; // and then what it was about to do
        }
        match self.state {
            State::Exact { estimate_bytes } => {
                return self.judge(now_ns, Some(estimate_bytes), observed);
            }
            State::Completing => return Step::Complete,
            State::Decide => {}
            State::AfterSlice => {
                self.update_counters(now_ns, observed);
                if !self.has_credit(observed.accepted_bytes) {
                    // The state stays: after the sleep the counters come first again.
                    return Step::SleepUntil((self.window_begin_ms + WINDOW_MS) * NS_PER_MS);
                }
                self.state = State::Decide;
            }
        }
        self.postcopy.look(now_ns, syncs, observed.start_postcopy);
        let estimate_bytes = observed.dirty_pages * PAGE_BYTES;
        if estimate_bytes < self.statistics.threshold_bytes {
            self.state = State::Exact { estimate_bytes };
            return Step::Sync;
        }
        self.judge(now_ns, None, observed)
    }

    /// The guest runs at the destination: windows have another credit from now on.
    pub fn postcopy_started(&mut self) {
        self.postcopy.pulling = true;
        self.max_bandwidth = self.postcopy.params.max_bandwidth;
        self.state = State::Decide;
    }

    /// `migration_iteration_run` and the wait after it, in post-copy.
    fn pull(&mut self, now_ns: u64, observed: &Observed) -> Step {
        if self.state == State::AfterSlice {
            self.update_counters(now_ns, observed);
            if !self.has_credit(observed.accepted_bytes) && !observed.urgent {
                return Step::SleepUntil((self.window_begin_ms + WINDOW_MS) * NS_PER_MS);
            }
        }
        if observed.dirty_pages == 0 {
            return Step::Complete;
        }
        self.state = State::AfterSlice;
        Step::SendSlice(Slice::new(
            now_ns,
            self.check_pages,
            self.credit_end_bytes(),
        ))
    }

    /// A sync of the dirty log ended: the setup's, one asked for by [`Step::Sync`], or the final.
    pub fn synced(&mut self, now_ns: u64, new_dirty_pages: u64, dirty_pages: u64) {
        let now_ms = now_ns / NS_PER_MS;
        self.statistics.dirty_sync_count += 1;
        self.dirty_bytes_last_sync = dirty_pages * PAGE_BYTES;
        self.period_dirty_pages += new_dirty_pages;
        let begin_ms = *self.period_begin_ms.get_or_insert(now_ms);
        if now_ms > begin_ms + RATE_PERIOD_MS {
            self.statistics.dirty_pages_rate = saturate(
                u128::from(self.period_dirty_pages) * 1000 / u128::from(now_ms - begin_ms),
            );
            if let Some(converge) = &mut self.converge {
                let dirty_bytes = self.period_dirty_pages * PAGE_BYTES;
                let throttle = converge.look(dirty_bytes, self.accepted_bytes);
                self.throttle = throttle.or(self.throttle);
            }
            self.statistics.periods += 1;
            self.period_begin_ms = Some(now_ms);
            self.period_dirty_pages = 0;
        }
    }

    /// The statistics so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The decision just taken, if it read the log or ended the rounds.
    pub fn take_decision(&mut self) -> Option<Decision> {
        self.decision.take()
    }

    /// The throttle that the guest's CPUs are to have from now on, in percent, if it changed.
    pub fn take_throttle(&mut self) -> Option<u8> {
        self.throttle.take()
    }

    /// `complete_ready`, else one more slice.
    fn judge(&mut self, now_ns: u64, estimate_bytes: Option<u64>, observed: &Observed) -> Step {
        let pending_bytes = observed.dirty_pages * PAGE_BYTES;
        let postcopy = self.postcopy.asked;
        let switchover = postcopy || pending_bytes <= self.statistics.threshold_bytes;
        if switchover || estimate_bytes.is_some() {
            self.decision = Some(Decision {
                at_ns: now_ns,
                estimate_bytes: estimate_bytes.unwrap_or(pending_bytes),
                exact_bytes: pending_bytes,
                bandwidth_bytes_per_s: self.switchover_bandwidth.bytes_in(1000),
                threshold_bytes: self.statistics.threshold_bytes,
                switchover,
            });
        }
        if postcopy {
            return Step::StartPostcopy;
        }
        if switchover {
            self.state = State::Completing;
            return Step::Complete;
        }
        self.state = State::AfterSlice;
        Step::SendSlice(Slice::new(
            now_ns,
            self.check_pages,
            self.credit_end_bytes(),
        ))
    }

    /// `migration_update_counters`: once a window of at least 100 ms has passed.
    fn update_counters(&mut self, now_ns: u64, observed: &Observed) {
        let now_ms = now_ns / NS_PER_MS;
        if now_ms < self.window_begin_ms + WINDOW_MS {
            return;
        }
        let ms = now_ms - self.window_begin_ms;
        let bytes = observed.accepted_bytes - self.window_begin_bytes;
        let pages = observed.sent_pages - self.window_begin_pages;
        self.switchover_bandwidth = if self.avail_switchover_bandwidth > 0 {
            Bandwidth {
                bytes: self.avail_switchover_bandwidth,
                ms: 1000,
            }
        } else {
            Bandwidth { bytes, ms }
        };
        let statistics = &mut self.statistics;
        statistics.threshold_bytes = self.switchover_bandwidth.bytes_in(self.downtime_limit_ms);
        statistics.mbps = bytes as f64 * 8.0 / (ms as f64 / 1000.0) / 1e6;
        statistics.pages_per_second = saturate(u128::from(pages) * 1000 / u128::from(ms));
        if statistics.dirty_pages_rate > 0 && bytes > EXPECTED_DOWNTIME_MIN_BYTES {
            statistics.expected_downtime_ms =
                self.switchover_bandwidth.ms_for(self.dirty_bytes_last_sync);
        }
        self.window_begin_ms = now_ms;
        self.window_begin_bytes = observed.accepted_bytes;
        self.window_begin_pages = observed.sent_pages;
    }

    fn has_credit(&self, accepted_bytes: u64) -> bool {
        self.credit_end_bytes()
            .is_none_or(|end| accepted_bytes <= end)
    }

    /// A tenth of max-bandwidth a window (`XFER_LIMIT_RATIO`); 0 is unlimited.
    fn credit_end_bytes(&self) -> Option<u64> {
        let credit = self.max_bandwidth / (1000 / WINDOW_MS);
        (credit > 0).then(|| self.window_begin_bytes.saturating_add(credit))
    }
}
