//! What each vCPU of a guest waits for that runs while pages are missing: its accesses, one after another, and one vCPU's
//! scans. Pure; instants and readings are arguments. Never inside: threads, the wire.

use crate::migration::upcoming::{Limit, Scans, Upcoming};
use replay::{Bitmap, GuestTime, MemoryModel};
use traces::class::Coupling;

/// A vCPU waits for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) page: u32,
    pub(super) since_ns: u64,
}

/// Why a vCPU stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standstill {
    /// For want of a page.
    Blocked(Blocked),
    /// For nothing: it may go on, to [`Waits::limit`].
    Free {
        /// Since when, ns.
        since_ns: u64,
    },
    /// At the end of what is known of its accesses.
    Horizon {
        /// Since when, ns.
        since_ns: u64,
    },
}

pub(super) struct Waits<'a> {
    pub(super) upcoming: Upcoming<'a>,
    scans: Scans,
    /// The vCPU that does them: that of the first page of the first.
    scanner: usize,
    /// Reading of its own time at which it sees that a scan is due.
    sees_at: Option<u64>,
    /// When the page came that the scan under way waited for.
    came_ns: Option<u64>,
    /// What each vCPU waits for.
    pub(super) blocked: Vec<Option<Blocked>>,
}

impl<'a> Waits<'a> {
    /// Of a guest whose vCPUs stand at `at`.
    pub(super) fn new(model: &'a MemoryModel, missing: Bitmap, at: &[GuestTime]) -> Self {
        let first = model.scans().first();
        let scanner = first.map_or(0, |job| model.deal().vcpu(job.pages.start));
        Self {
            upcoming: Upcoming::new(model, missing, at),
            scans: Scans::new(&[], 0),
            scanner: scanner as usize,
            sees_at: None,
            came_ns: None,
            blocked: vec![None; at.len()],
        }
    }

    /// The guest runs from this instant on.
    pub(super) fn started(&mut self, model: &MemoryModel, now_ns: u64) {
        self.scans = Scans::new(model.scans(), now_ns);
    }

    /// When a scan is due next.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.scans.due_ns()
    }

    /// Whether a vCPU stands at a scan, and is not to be let go by what comes but through [`Self::stands`].
    pub(super) fn is_scanning(&self, vcpu: usize) -> bool {
        vcpu == self.scanner && self.scans.is_under_way()
    }

    /// How far a vCPU that has come to `at` may run.
    pub(super) fn limit(&mut self, vcpu: usize, now_ns: u64, at: GuestTime) -> Limit {
        let limit = self.upcoming.limit(vcpu);
        if limit == Limit::NONE || vcpu != self.scanner {
            return limit;
        }
        if self.sees_at.is_none() {
            self.sees_at = self.scans.seen_at(now_ns, at.run_ns);
        }
        let run_ns = [limit.run_ns, self.sees_at].into_iter().flatten().min();
        Limit { run_ns, ..limit }
    }

    /// A page came: the waits that end with it, by vCPU.
    pub(super) fn arrived(&mut self, page: u32, now_ns: u64) -> Vec<(usize, Blocked)> {
        self.upcoming.arrived(page);
        let mut ended = Vec::new();
        for (vcpu, waits) in self.blocked.iter_mut().enumerate() {
            if let Some(blocked) = waits.take_if(|blocked| blocked.page == page) {
                ended.push((vcpu, blocked));
                if vcpu == self.scanner {
                    self.came_ns = Some(now_ns);
                }
            }
        }
        ended
    }

    /// A vCPU has come to its limit `at`, which a clock reached, and stands since then.
    pub(super) fn stands(
        &mut self,
        vcpu: usize,
        at: GuestTime,
        clock: Coupling,
        since_ns: u64,
        now_ns: u64,
    ) -> Standstill {
        let timely = clock == Coupling::Time && vcpu == self.scanner;
        let sees = self
            .sees_at
            .is_some_and(|at_ns| timely && at.run_ns + 1 >= at_ns);
        if sees {
            self.sees_at = None;
            self.came_ns = None;
            self.scans.begin(now_ns);
        }
        if self.is_scanning(vcpu) {
            let touched_ns = self.came_ns.unwrap_or(since_ns);
            return match self.scans.awaited(self.upcoming.missing()) {
                Some(page) => self.block(vcpu, page, touched_ns),
                None => Standstill::Free {
                    since_ns: touched_ns,
                },
            };
        }
        if sees {
            return Standstill::Free { since_ns };
        }
        match self.upcoming.awaited(vcpu, clock) {
            Some(page) => self.block(vcpu, page, since_ns),
            None => Standstill::Horizon { since_ns },
        }
    }

    fn block(&mut self, vcpu: usize, page: u32, since_ns: u64) -> Standstill {
        Standstill::Blocked(*self.blocked[vcpu].insert(Blocked { page, since_ns }))
    }
}

#[cfg(test)]
mod tests;
