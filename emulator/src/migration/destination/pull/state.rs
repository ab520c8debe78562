//! What the threads of a destination know of a guest whose vCPUs run while pages are missing: how far each may go, and the
//! account of what they waited for. Pure; instants and readings are arguments. Never inside: threads, the wire.

use std::ops::Range;

use super::kernel::Ended;
use super::waits::{Blocked, Standstill, Waits};
use crate::migration::guest::{Stopped, VcpuStanding};
use crate::migration::record::{LATENCY_BUCKETS, PostcopyDestination, VcpuWaits};
use crate::migration::upcoming::Limit;
use replay::{Bitmap, GuestTime, MemoryModel};
use traces::class::Coupling;

pub(super) struct State<'a> {
    pub(super) waits: Waits<'a>,
    /// How far each vCPU may run. Of one that waits: could, until then.
    limits: Vec<Limit>,
    /// The vCPUs' times when they were last asked for.
    times: Vec<GuestTime>,
    /// … when the guest was stopped at the source.
    stopped_at: Vec<GuestTime>,
    /// When each missing page was placed, in the time of its vCPU.
    placed: Vec<(u32, GuestTime)>,
    pub(super) figures: PostcopyDestination,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// These vCPUs may run to there, from where they are.
    pub(super) limits: Vec<(usize, Limit)>,
    /// These pages are to be asked for.
    pub(super) pages: Vec<u32>,
}

/// A page that has come, and whom it may let go.
#[derive(Debug)]
pub(super) struct Came {
    page: u32,
    at_ns: u64,
    vcpu: usize,
    /// What its vCPU would have waited for at the limit of each clock.
    awaited: [Option<u32>; 2],
    /// Waits that end with it.
    ended: Vec<(usize, Blocked)>,
    /// It was the last.
    whole: bool,
    /// These vCPUs may run to there, from where they are.
    pub(super) limits: Vec<(usize, Limit)>,
}

impl Came {
    /// Whether there is something new for whoever waits: a vCPU may go on, or look at what it scans, or all is there.
    pub(super) fn changes(&self) -> bool {
        self.whole || !self.ended.is_empty() || !self.limits.is_empty()
    }
}

impl<'a> State<'a> {
    /// Of a guest whose vCPUs stand at `at` without these pages.
    pub(super) fn new(model: &'a MemoryModel, missing: Bitmap, at: Vec<GuestTime>) -> Self {
        let figures = PostcopyDestination {
            missing_pages: missing.count(),
            latency_dist: vec![0; LATENCY_BUCKETS],
            vcpus: vec![VcpuWaits::default(); at.len()],
            asked_late_ns_sum: Some(0),
            held_ns: Some(0),
            overrun: Some(0),
            ..PostcopyDestination::default()
        };
        Self {
            waits: Waits::new(model, missing, &at),
            limits: vec![Limit::NONE; at.len()],
            times: at.clone(),
            stopped_at: at,
            placed: Vec::new(),
            figures,
        }
    }

    pub(super) fn vcpus(&self) -> Range<usize> {
        0..self.times.len()
    }

    /// Pages that were missing and are there.
    pub(super) fn placed(&self) -> usize {
        self.placed.len()
    }

    /// How far each vCPU may run before anything is looked at.
    pub(super) fn begin(&mut self) -> Vec<(usize, Limit)> {
        self.waits.upcoming.look_ahead(|_| true);
        for vcpu in self.vcpus() {
            self.limits[vcpu] = self.waits.upcoming.limit(vcpu);
        }
        self.limits.iter().copied().enumerate().collect()
    }

    fn looked(&mut self, vcpus: &[VcpuStanding]) {
        for (time, standing) in self.times.iter_mut().zip(vcpus) {
            *time = standing.time;
        }
    }

    /// Looks at where each vCPU stands.
    pub(super) fn look(&mut self, vcpus: &[VcpuStanding], now_ns: u64) -> Look {
        self.looked(vcpus);
        let mut look = Look::default();
        let mut short = vec![false; vcpus.len()];
        let mut freed = vec![false; vcpus.len()];
        for (vcpu, standing) in vcpus.iter().enumerate() {
            let Some(Stopped { clock, since_ns }) = standing.stopped else {
                short[vcpu] = self.waits.upcoming.is_short(vcpu, standing.time);
                continue;
            };
            if self.waits.blocked[vcpu].is_some() {
                continue;
            }
            let why = self
                .waits
                .stands(vcpu, standing.time, clock, since_ns, now_ns);
            match why {
                Standstill::Blocked(Blocked { page, since_ns }) => {
                    self.figures.requests += 1;
                    self.figures.vcpus[vcpu].requests += 1;
                    *self.figures.asked_late_ns_sum.get_or_insert(0) +=
                        now_ns.saturating_sub(since_ns);
                    look.pages.push(page);
                }
                Standstill::Free { since_ns } | Standstill::Horizon { since_ns } => {
                    // This thread was late to look on.
                    *self.figures.held_ns.get_or_insert(0) += now_ns.saturating_sub(since_ns);
                    freed[vcpu] = true;
                    short[vcpu] = matches!(why, Standstill::Horizon { .. });
                }
            }
        }
        if short.contains(&true) {
            self.waits.upcoming.look_ahead(|vcpu| short[vcpu]);
        }
        look.limits = self.renewed(self.vcpus(), now_ns, |vcpu| freed[vcpu]);
        look
    }

    /// The limits of those vCPUs that do not wait and have another one than before, or are free to go on to it.
    fn renewed(
        &mut self,
        vcpus: Range<usize>,
        now_ns: u64,
        freed: impl Fn(usize) -> bool,
    ) -> Vec<(usize, Limit)> {
        let mut renewed = Vec::new();
        for vcpu in vcpus {
            if self.waits.blocked[vcpu].is_some() {
                continue;
            }
            let limit = self.waits.limit(vcpu, now_ns, self.times[vcpu]);
            if limit != self.limits[vcpu] || freed(vcpu) {
                self.limits[vcpu] = limit;
                renewed.push((vcpu, limit));
            }
        }
        renewed
    }

    /// A missing page is there. To be followed by [`Self::account`].
    pub(super) fn came(&mut self, page: u32, now_ns: u64) -> Came {
        let vcpu = self.waits.upcoming.vcpu(page);
        let clocks = [Coupling::Cpu, Coupling::Time];
        let awaited = clocks.map(|clock| self.waits.upcoming.awaited(vcpu, clock));
        let ended = self.waits.arrived(page, now_ns);
        let whole = self.waits.upcoming.left() == 0;
        if whole {
            self.figures.whole_ns = Some(now_ns);
        }
        // One that scans is at the next page of it at once, or done: whoever looks lets it go.
        let vcpus = match (whole, self.waits.is_scanning(vcpu)) {
            (true, _) => self.vcpus(),
            (false, false) => vcpu..vcpu + 1,
            (false, true) => 0..0,
        };
        let freed = |vcpu| ended.iter().any(|(of, _)| *of == vcpu);
        let limits = self.renewed(vcpus, now_ns, freed);
        Came {
            page,
            at_ns: now_ns,
            vcpu,
            awaited,
            ended,
            whole,
            limits,
        }
    }

    /// A missing page is in RAM that is there, and these waits end with it: whether it was the last.
    pub(super) fn placed_in_ram(&mut self, page: u32, ended: &Ended, now_ns: u64) -> bool {
        self.waits.arrived(page, now_ns);
        let whole = self.waits.upcoming.left() == 0;
        if whole {
            self.figures.whole_ns = Some(now_ns);
        }
        self.figures.blocktime_ns += ended.stood_ns;
        for &(vcpu, since_ns) in &ended.waits {
            self.figures.vcpus[vcpu].blocktime_ns += now_ns.saturating_sub(since_ns);
        }
        // The first of them asked for it.
        if let Some(&(vcpu, since_ns)) = ended.waits.iter().min_by_key(|(_, since_ns)| *since_ns) {
            self.figures.waited(vcpu, now_ns.saturating_sub(since_ns));
        }
        whole
    }

    /// Writes down what ended when a page came, given where vCPUs stood then, if that is known. Before any is let go.
    pub(super) fn account(&mut self, came: &Came, vcpus: Option<&[VcpuStanding]>) {
        let vcpus = vcpus.unwrap_or_default();
        self.looked(vcpus);
        self.placed.push((came.page, self.times[came.vcpu]));
        let ended = |vcpu: usize| {
            let wait = came.ended.iter().find(|(of, _)| *of == vcpu);
            wait.map(|(_, blocked)| blocked.since_ns)
        };
        // It stood at this page, and nobody had seen it yet.
        let unseen = |vcpu: usize| {
            let Stopped { clock, since_ns } = vcpus.get(vcpu)?.stopped?;
            let [cpu, run] = came.awaited;
            let page = match clock {
                Coupling::Cpu => cpu,
                Coupling::Time => run,
            };
            let stood = vcpu == came.vcpu && page == Some(came.page);
            (stood && !came.limits.is_empty()).then_some(since_ns)
        };
        let mut since = Vec::with_capacity(self.times.len());
        let mut any = false;
        for vcpu in self.vcpus() {
            let until_now = ended(vcpu).or_else(|| unseen(vcpu));
            if let Some(since_ns) = until_now {
                self.figures.vcpus[vcpu].blocktime_ns += came.at_ns.saturating_sub(since_ns);
                any = true;
            }
            since.push(until_now.or_else(|| self.stands_since(vcpu, vcpus)));
        }
        for &(vcpu, Blocked { since_ns, .. }) in &came.ended {
            let took_ns = came.at_ns.saturating_sub(since_ns);
            self.figures.waited(vcpu, took_ns);
        }
        // All of them stood still until now, since the last of them did.
        let last = since.into_iter().collect::<Option<Vec<u64>>>();
        if let Some(last) = last
            .and_then(|since| since.into_iter().max())
            .filter(|_| any)
        {
            self.figures.blocktime_ns += came.at_ns.saturating_sub(last);
        }
    }

    /// Since when a vCPU stands for want of a page, if it does.
    fn stands_since(&mut self, vcpu: usize, vcpus: &[VcpuStanding]) -> Option<u64> {
        if let Some(blocked) = self.waits.blocked[vcpu] {
            return Some(blocked.since_ns);
        }
        let Stopped { clock, since_ns } = vcpus.get(vcpu)?.stopped?;
        self.waits.upcoming.awaited(vcpu, clock).map(|_| since_ns)
    }

    /// The account, once nothing more will come.
    pub(super) fn conclude(self, model: &MemoryModel) -> PostcopyDestination {
        let touched = |&&(page, at): &&(u32, GuestTime)| {
            let stopped_at = self.stopped_at[model.deal().vcpu(page) as usize];
            model.written_in(page, stopped_at, at) || model.read_in(page, stopped_at, at)
        };
        PostcopyDestination {
            never_came: self.waits.upcoming.left(),
            overrun: Some(self.placed.iter().filter(touched).count() as u64),
            ..self.figures
        }
    }
}

impl PostcopyDestination {
    /// A page that a vCPU asked for is there after so long.
    fn waited(&mut self, vcpu: usize, ns: u64) {
        self.vcpus[vcpu].latency_ns_sum += ns;
        self.latency_ns_sum += ns;
        self.latency_ns_max = self.latency_ns_max.max(ns);
        let us = (ns / 1_000).max(1);
        let bucket = (us.ilog2() as usize).min(LATENCY_BUCKETS - 1);
        if let Some(count) = self.latency_dist.get_mut(bucket) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests;
