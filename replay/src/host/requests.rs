//! Requests a VM answers: work from outside beside the demand of its trace, served in the order of
//! arrival, each request by one vCPU at most.
//!
//! While n requests wait, they are served as one fluid by min(n, vCPUs) cores at most; exact for one
//! request at a time and for one vCPU. Never inside: sockets, what a request is about.

use serde::{Deserialize, Serialize};

use super::lane::Supply;
use super::values::VmTotals;
use super::work::CoreWork;

/// Requests of a VM on its present host. They do not move with it: whoever waits for one asks again where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RequestState {
    /// Work not served yet.
    pub pending: CoreWork,
    /// Work served here so far.
    pub served: CoreWork,
    /// Requests that have not been taken back.
    pub waiting: u32,
}

/// A request under way: it is served when the VM's requests have been served so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(pub(super) CoreWork);

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is served.
    Served,
    /// At this trace instant, or later if the host changes first.
    At(crate::clock::TraceNs),
    /// Not while things are as they are: the VM is paused or gets nothing.
    Stalled,
}

impl RequestState {
    /// Takes a request in.
    pub(super) fn ask(&mut self, work: CoreWork, totals: &mut VmTotals) -> Ticket {
        self.pending += work;
        self.waiting += 1;
        totals.demand += work;
        Ticket(self.served + self.pending)
    }

    /// What is pending is given up, as the VM leaves.
    pub(super) fn drop_all(&mut self, totals: &mut VmTotals) {
        totals.lost += self.pending;
        *self = Self::default();
    }

    /// Most it can use, of cores that are each worth `core`.
    pub(super) fn want(&self, core: u64, vcpus: u32) -> u64 {
        if self.pending.0 == 0 {
            return 0;
        }
        core.saturating_mul(u64::from(self.waiting.clamp(1, vcpus)))
    }

    pub(super) fn supply(&self, grant: u64) -> Supply {
        Supply::of(grant, self.pending)
    }

    /// Moves it on; returns what was served.
    pub(super) fn pass(
        &mut self,
        totals: &mut VmTotals,
        (want, grant): (u64, u64),
        dur_ns: u64,
    ) -> CoreWork {
        let served = self.supply(grant).served(dur_ns);
        self.pending = CoreWork(self.pending.0 - served.0);
        self.served += served;
        totals.granted += served;
        let short = CoreWork::of(want - grant, dur_ns);
        totals.steal += short;
        totals.waiting += short;
        served
    }

    /// When `ticket` is served under `grant`, counted from the state's instant.
    pub(super) fn served_in_ns(&self, ticket: Ticket, grant: u64) -> Option<u64> {
        let left = ticket.0.0.saturating_sub(self.served.0);
        if left == 0 {
            return Some(0);
        }
        if grant == 0 {
            return None;
        }
        Some(u64::try_from(left.div_ceil(u128::from(grant))).unwrap_or(u64::MAX))
    }
}
