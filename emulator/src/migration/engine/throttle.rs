//! QEMU's auto-converge (`migration/ram.c`, `migration/cpu-throttle.c`): when the guest's CPUs are
//! throttled, and by how much. Sans I/O.
//!
//! Looked at when a sync ends more than a second after the last look: if more was dirtied than the
//! trigger's share of what was sent, for the second time (not necessarily in a row), the guest is
//! throttled, or throttled further. A timer makes a sync every 5 s if there was none, but not during
//! the first pass. Never inside: putting the guest's CPUs to sleep (`replay::Host`).

use crate::migration::params::AutoConvergeParams;

#[cfg(test)]
mod tests;

/// `CPU_THROTTLE_DIRTY_SYNC_TIMESLICE_MS`.
pub(super) const TIMER_MS: u64 = 5000;

/// The state of it.
#[derive(Debug, Clone)]
pub(super) struct AutoConverge {
    params: AutoConvergeParams,
    percent: u8,
    /// Looks that found too much dirtied since the last step.
    high: u32,
    sent_before: u64,
    next_tick_ms: u64,
    syncs_at_tick: u64,
}

impl AutoConverge {
    pub(super) fn new(params: AutoConvergeParams, now_ms: u64) -> Self {
        Self {
            params,
            percent: 0,
            high: 0,
            sent_before: 0,
            next_tick_ms: now_ms + TIMER_MS,
            syncs_at_tick: 0,
        }
    }

    /// Parameters were changed; the throttle stays what it is until it next acts.
    pub(super) fn set_parameters(&mut self, params: AutoConvergeParams) {
        self.params = params;
    }

    /// A period of at least a second is over: the throttle to set, if it changes.
    pub(super) fn look(&mut self, dirty_bytes: u64, sent_bytes: u64) -> Option<u8> {
        let sent = sent_bytes - std::mem::replace(&mut self.sent_before, sent_bytes);
        let threshold = sent.saturating_mul(self.params.throttle_trigger_threshold) / 100;
        if dirty_bytes <= threshold {
            return None;
        }
        self.high += 1;
        if self.high < 2 {
            return None;
        }
        self.high = 0;
        let before = self.percent;
        self.percent = if before == 0 {
            self.params.cpu_throttle_initial
        } else {
            let step = self.step(threshold, dirty_bytes);
            before
                .saturating_add(step)
                .min(self.params.max_cpu_throttle)
        };
        (self.percent != before).then_some(self.percent)
    }

    fn step(&self, threshold: u64, dirty_bytes: u64) -> u8 {
        let most = self.params.cpu_throttle_increment;
        if !self.params.cpu_throttle_tailslow {
            return most;
        }
        // What is left to the guest that would dirty just the threshold.
        let now = 100 - u128::from(self.percent);
        let ideal = now * u128::from(threshold) / u128::from(dirty_bytes.max(1));
        u8::try_from(now - ideal.min(now)).map_or(most, |step| step.min(most))
    }

    /// Whether the timer asks for a sync now.
    pub(super) fn wants_sync(&mut self, now_ms: u64, syncs: u64) -> bool {
        if now_ms < self.next_tick_ms {
            return false;
        }
        self.next_tick_ms = now_ms + TIMER_MS;
        let sync = syncs > 1 && syncs == self.syncs_at_tick;
        // As QEMU does, the count is noted after the sync that the tick makes.
        self.syncs_at_tick = syncs + u64::from(sync);
        sync
    }
}
