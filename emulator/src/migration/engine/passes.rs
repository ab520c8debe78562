//! Engines that decide at the end of a pass over memory: Xen (current and legacy), Cloud
//! Hypervisor, a QEMU patched to, stop-and-copy. Sans I/O.
//!
//! ```text
//!            ┌──────────────────────── Sync ◄─────────────────────┐
//!            ▼                                                    │
//!   Judge ── not yet ──► SendPass ── it was not to be the last ───┤
//!     │                     └── its rule says that was enough ────┼──► Complete
//!     └── few enough (Cloud Hypervisor: unsent) ──────────────────┘
//! ```
//!
//! - **Xen** (`tools/libs/guest/xg_sr_save.c`, `simple_precopy_policy`): asks before each pass with
//!   the count it has just read, and again after it without one. Fewer than 50 dirty pages: these are
//!   sent live, and it stops. Five passes: it stops without reading the log again.
//! - **Xen, legacy** (`xc_domain_save`, until 4.5): leaves out what is found written again. Stops after
//!   29 passes, after one of fewer than 50 pages, or when more than 3 times the RAM was sent.
//! - **Cloud Hypervisor** (`vmm`, 2026): the table just read, at the bandwidth of the pass before,
//!   against the downtime; it stays unsent if it fits. Its timeout cancels, or counts as fitting. With `memory_mode=postcopy`
//!   it stops the guest at once and sends no memory.
//! - **QEMU in rounds** (8.1.2, patched by the study of `traces/qemu-precopy-rounds`): its slices have no
//!   clock and no credit, so the log is read when all is sent; 5000 pages found or fewer stay unsent, and
//!   it stops after 50 rounds whatever is found. No bandwidth and no downtime limit is in it.
//! - **Stop-and-copy**: at once.
//!
//! Never inside: clocks, sockets, the guest.

use super::step::{NS_PER_MS, Observed, PAGE_BYTES, Pass, Slice, Statistics, Step, saturate};
use crate::migration::params::{EngineKind, MigrationParams, TimeoutStrategy};
use crate::migration::record::Decision;

#[cfg(test)]
mod tests;

/// `SPP_MAX_ITERATIONS`.
pub const XEN_MAX_ITERATIONS: u32 = 5;
/// `DEF_MAX_ITERS`.
pub const XEN_LEGACY_MAX_ITERATIONS: u32 = 29;
/// `DEF_MAX_FACTOR`: of the RAM.
pub const XEN_LEGACY_MAX_FACTOR: u64 = 3;
/// `qemu-rounds`: rounds while the guest runs.
pub const QEMU_ROUNDS_MAX: u32 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Xen,
    XenLegacy,
    CloudHypervisor {
        downtime_ms: u64,
        /// Monotonic.
        timeout_ns: u64,
        strategy: TimeoutStrategy,
    },
    QemuRounds,
    StopAndCopy,
    /// Cloud Hypervisor's post-copy.
    OnDemand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The bitmap holds what the log said (or every page).
    Judge,
    /// A pass has been sent; whether it was to be the last.
    Sent {
        last: bool,
    },
    Completing,
}

/// A pass under way, or the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sending {
    begin_ns: u64,
    dirty_pages: u64,
    begin_sent_pages: u64,
    begin_accepted_bytes: u64,
}

/// What the last pass carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Carried {
    bytes: u64,
    ns: u64,
}

impl Carried {
    /// Bytes that cross in `ms`.
    fn bytes_in(self, ms: u64) -> u64 {
        if self.ns == 0 {
            return 0;
        }
        saturate(
            u128::from(self.bytes) * u128::from(ms) * u128::from(NS_PER_MS) / u128::from(self.ns),
        )
    }

    /// ns that `bytes` take; for ever when nothing crossed.
    fn ns_for(self, bytes: u64) -> u64 {
        if self.bytes == 0 {
            return u64::MAX;
        }
        saturate(u128::from(bytes) * u128::from(self.ns) / u128::from(self.bytes))
    }
}

/// The decision core of an engine of passes.
#[derive(Debug, Clone)]
pub struct PassEngine {
    rule: Rule,
    stop_pages: u64,
    ram_pages: u64,
    state: State,
    /// Passes sent.
    passes: u32,
    sending: Sending,
    carried: Carried,
    last_sync_ns: u64,
    statistics: Statistics,
    decision: Option<Decision>,
}

impl PassEngine {
    /// A migration whose passes begin at `now_ns`, with every page of the guest in the bitmap.
    #[must_use]
    pub fn new(
        params: &MigrationParams,
        stop_pages: u64,
        now_ns: u64,
        observed: &Observed,
    ) -> Self {
        let rule = match params.engine {
            EngineKind::Xen => Rule::Xen,
            EngineKind::XenLegacy => Rule::XenLegacy,
            EngineKind::CloudHypervisor if params.pages_on_demand() => Rule::OnDemand,
            EngineKind::CloudHypervisor => Rule::CloudHypervisor {
                downtime_ms: params.downtime_limit,
                timeout_ns: now_ns.saturating_add(params.timeout.saturating_mul(NS_PER_MS)),
                strategy: params.timeout_strategy,
            },
            EngineKind::QemuRounds => Rule::QemuRounds,
            EngineKind::StopAndCopy | EngineKind::Qemu | EngineKind::PostCopy => Rule::StopAndCopy,
        };
        let stop_bytes = match rule {
            Rule::Xen | Rule::XenLegacy => stop_pages.saturating_sub(1) * PAGE_BYTES,
            Rule::QemuRounds => stop_pages.saturating_mul(PAGE_BYTES),
            Rule::CloudHypervisor { .. } => 0,
            Rule::StopAndCopy | Rule::OnDemand => u64::MAX,
        };
        Self {
            rule,
            stop_pages,
            ram_pages: observed.dirty_pages,
            state: State::Judge,
            passes: 0,
            sending: Sending::default(),
            carried: Carried::default(),
            last_sync_ns: now_ns,
            statistics: Statistics {
                dirty_sync_count: 0,
                dirty_pages_rate: 0,
                periods: 0,
                expected_downtime_ms: params.downtime_limit,
                mbps: 0.0,
                pages_per_second: 0,
                threshold_bytes: stop_bytes,
            },
            decision: None,
        }
    }

    /// What to do at `now_ns`. The caller does it before it asks again.
    pub fn next(&mut self, now_ns: u64, observed: &Observed) -> Step {
        match self.state {
            State::Judge => self.judge(now_ns, observed),
            State::Sent { last } => self.sent(now_ns, last, observed),
            State::Completing => Step::Complete,
        }
    }

    /// A sync of the dirty log ended: the setup's, one asked for by [`Step::Sync`], or the final.
    pub fn synced(&mut self, now_ns: u64, new_dirty_pages: u64) {
        self.statistics.dirty_sync_count += 1;
        let elapsed_ns = now_ns.saturating_sub(self.last_sync_ns);
        if elapsed_ns > 0 {
            let rate = u128::from(new_dirty_pages) * 1_000_000_000 / u128::from(elapsed_ns);
            self.statistics.dirty_pages_rate = saturate(rate);
        }
        self.last_sync_ns = now_ns;
    }

    /// The statistics so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The decision just taken: one a judgement.
    pub fn take_decision(&mut self) -> Option<Decision> {
        self.decision.take()
    }

    /// The bitmap is fresh: send it, and is that the last pass; or leave it to the final round?
    fn judge(&mut self, now_ns: u64, observed: &Observed) -> Step {
        let dirty = observed.dirty_pages;
        match self.rule {
            Rule::StopAndCopy => {
                self.decide(now_ns, dirty, true);
                self.complete()
            }
            Rule::OnDemand => {
                self.decide(now_ns, dirty, true);
                self.state = State::Completing;
                Step::StartPostcopy
            }
            Rule::Xen => {
                let stop = dirty < self.stop_pages || self.passes >= XEN_MAX_ITERATIONS;
                self.decide(now_ns, dirty, stop);
                if dirty == 0 {
                    return self.complete();
                }
                self.send(now_ns, stop, observed)
            }
            Rule::QemuRounds => {
                let stop = dirty <= self.stop_pages || self.passes >= QEMU_ROUNDS_MAX;
                self.decide(now_ns, dirty, stop);
                if stop {
                    return self.complete();
                }
                self.send(now_ns, false, observed)
            }
            // It judges a pass by what it was, once it is over.
            Rule::XenLegacy => self.send(now_ns, false, observed),
            Rule::CloudHypervisor { .. } if self.passes == 0 => self.send(now_ns, false, observed),
            Rule::CloudHypervisor {
                downtime_ms,
                timeout_ns,
                strategy,
            } => {
                let down_ns = self.carried.ns_for(dirty * PAGE_BYTES);
                self.statistics.expected_downtime_ms = down_ns / NS_PER_MS;
                let fits = dirty == 0 || down_ns <= downtime_ms.saturating_mul(NS_PER_MS);
                let late = now_ns >= timeout_ns;
                if !fits && late && strategy == TimeoutStrategy::Cancel {
                    self.decide(now_ns, dirty, false);
                    return Step::GiveUp;
                }
                self.decide(now_ns, dirty, fits || late);
                if fits || late {
                    return self.complete();
                }
                self.send(now_ns, false, observed)
            }
        }
    }

    /// A pass is over: enough, or read the log?
    fn sent(&mut self, now_ns: u64, last: bool, observed: &Observed) -> Step {
        self.passes += 1;
        let pages = observed.sent_pages - self.sending.begin_sent_pages;
        self.carried = Carried {
            bytes: pages * PAGE_BYTES,
            ns: now_ns.saturating_sub(self.sending.begin_ns).max(1),
        };
        self.count(observed, pages);
        let enough = match self.rule {
            Rule::Xen => last || self.passes >= XEN_MAX_ITERATIONS,
            Rule::XenLegacy => {
                let enough = self.passes >= XEN_LEGACY_MAX_ITERATIONS
                    || self.sending.dirty_pages < self.stop_pages
                    || observed.sent_pages > self.ram_pages * XEN_LEGACY_MAX_FACTOR;
                self.decide(now_ns, self.sending.dirty_pages, enough);
                enough
            }
            Rule::CloudHypervisor { .. } | Rule::QemuRounds => false,
            Rule::StopAndCopy | Rule::OnDemand => true,
        };
        if enough {
            return self.complete();
        }
        self.state = State::Judge;
        Step::Sync
    }

    fn send(&mut self, now_ns: u64, last: bool, observed: &Observed) -> Step {
        self.sending = Sending {
            begin_ns: now_ns,
            dirty_pages: observed.dirty_pages,
            begin_sent_pages: observed.sent_pages,
            begin_accepted_bytes: observed.accepted_bytes,
        };
        self.state = State::Sent { last };
        if self.rule == Rule::QemuRounds {
            return Step::SendSlice(Slice::unlimited());
        }
        Step::SendPass(Pass {
            skip_rewritten: self.rule == Rule::XenLegacy,
        })
    }

    fn complete(&mut self) -> Step {
        self.state = State::Completing;
        Step::Complete
    }

    /// Statistics of the pass that is over.
    fn count(&mut self, observed: &Observed, pages: u64) {
        let seconds = self.carried.ns as f64 / 1e9;
        let bytes = observed.accepted_bytes - self.sending.begin_accepted_bytes;
        self.statistics.mbps = bytes as f64 * 8.0 / seconds / 1e6;
        let rate = u128::from(pages) * 1_000_000_000 / u128::from(self.carried.ns);
        self.statistics.pages_per_second = saturate(rate);
        if let Rule::CloudHypervisor { downtime_ms, .. } = self.rule {
            self.statistics.threshold_bytes = self.carried.bytes_in(downtime_ms);
        }
    }

    fn decide(&mut self, now_ns: u64, dirty_pages: u64, switchover: bool) {
        let bytes = dirty_pages * PAGE_BYTES;
        self.decision = Some(Decision {
            at_ns: now_ns,
            estimate_bytes: bytes,
            exact_bytes: bytes,
            bandwidth_bytes_per_s: self.carried.bytes_in(1000),
            threshold_bytes: self.statistics.threshold_bytes,
            switchover,
        });
    }
}
