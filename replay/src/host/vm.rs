//! One VM's CPU: demand, backlog, progress between two changes of its rates.
//!
//! Between changes everything is linear, so the state is kept at the last change and read off at
//! any later instant. Integrating twice over halves of a span gives to the unit what once over the
//! whole gives: rates are integers, and a backlog that runs empty does so at the first whole
//! nanosecond at which it would be below zero, where it is exactly zero.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use traces::cpu::CpuTrace;

use super::work::{CoreWork, PER_MILLI, Throttle, Work};
use crate::clock::TraceNs;
use crate::guest::{GuestTime, MemorySpec};

/// A VM as the scenario describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmSpec {
    /// Identifies the VM, in its draws and its pages too.
    pub key: u64,
    /// vCPUs, at least 1; none gets more than one core.
    pub vcpus: u32,
    /// Weight among the VMs of a host, at least 1.
    pub weight: u32,
    /// CPU demand.
    pub cpu: Arc<CpuTrace>,
    /// Where in its CPU trace the VM is at trace instant 0.
    #[serde(default)]
    pub trace_offset_ns: u64,
    /// What happens to demand that is not served at once.
    #[serde(default)]
    pub work: Work,
    /// RAM and what writes it.
    pub memory: MemorySpec,
}

/// What has become of a VM's demand since it first started, over all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VmTotals {
    /// Asked by the trace.
    pub demand: CoreWork,
    /// Served by hosts.
    pub granted: CoreWork,
    /// What the host withheld of the demand of the moment: min(demand, what throttled vCPUs can
    /// use) − granted, where positive.
    pub steal: CoreWork,
    /// Runnable but not run, backlog included: what the guest's own `/proc/stat` would call steal.
    pub waiting: CoreWork,
    /// Given up because the backlog was full.
    pub lost: CoreWork,
    /// Time paused.
    pub paused_ns: u64,
}

/// Where a batch job stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPosition {
    /// An instant of the CPU trace, from which `done` counts.
    pub trace_ns: u64,
    /// Work done of the interval under way; in intervals without demand, nanoseconds of it.
    pub done: u128,
}

/// Everything of a VM's CPU that moves with it at the switchover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VmState {
    /// When it left its host; demand between then and its arrival is not lost. `None`: it has
    /// never run.
    pub left_at: Option<TraceNs>,
    /// CPU time served.
    pub cpu: CoreWork,
    /// Time it has run.
    pub run_ns: u64,
    /// Demand waiting.
    pub backlog: CoreWork,
    /// Position in the trace, of batch jobs.
    pub batch: Option<BatchPosition>,
    /// Accounts.
    pub totals: VmTotals,
}

impl VmState {
    /// A VM that has been at work on its trace for `trace_offset_ns` when it first comes to a
    /// host: its guest time is what that part of the trace asked for, so that page writes clocked
    /// by it begin as far in as its CPU demand does.
    #[must_use]
    pub fn begun(spec: &VmSpec) -> Self {
        let offset_ns = spec.trace_offset_ns;
        let (mut at_ns, mut work) = (0, 0_u128);
        while at_ns < offset_ns {
            let demand = spec.cpu.demand_at(at_ns);
            let until_ns = demand.until_ns.min(offset_ns);
            work += CoreWork::of(u64::from(demand.milli) * PER_MILLI, until_ns - at_ns).0;
            at_ns = until_ns;
        }
        Self {
            cpu: CoreWork(work),
            run_ns: offset_ns,
            ..Self::default()
        }
    }

    /// Guest time when it left.
    #[must_use]
    pub fn guest_time(&self) -> GuestTime {
        GuestTime {
            cpu_ns: self.cpu.core_ns(),
            run_ns: self.run_ns,
        }
    }
}

/// What a VM asks and gets at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLoad {
    /// Demand of the trace, in thousandths of a core.
    pub demand_milli: u64,
    /// What it asks of the host: more than the demand while it works off a backlog, less when
    /// throttled or paused.
    pub wanted_milli: u64,
    /// What it gets.
    pub granted_milli: u64,
    /// Demand waiting.
    pub backlog: CoreWork,
}

/// Guest time as a function of trace time until the next change: a value to hand to another
/// thread. To be replaced after every change the host is asked for (pause, throttle, arrival).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestClock {
    since: TraceNs,
    until: TraceNs,
    cpu: CoreWork,
    run_ns: u64,
    running: bool,
    /// Billionths of a core.
    rate: u64,
    /// Served work never exceeds `supply + arriving × time`.
    supply: CoreWork,
    arriving: u64,
}

impl GuestClock {
    /// First and last instant the clock is valid for.
    #[must_use]
    pub fn valid(&self) -> (TraceNs, TraceNs) {
        (self.since, self.until)
    }

    /// Guest time at a trace instant, `None` outside [`GuestClock::valid`].
    #[must_use]
    pub fn at(&self, now: TraceNs) -> Option<GuestTime> {
        if now < self.since || now > self.until {
            return None;
        }
        let dur_ns = now.0 - self.since.0;
        let run_ns = self.run_ns + if self.running { dur_ns } else { 0 };
        Some(GuestTime {
            cpu_ns: (self.cpu + self.served(dur_ns)).core_ns(),
            run_ns,
        })
    }

    fn served(&self, dur_ns: u64) -> CoreWork {
        let supplied = self
            .supply
            .0
            .saturating_add(CoreWork::of(self.arriving, dur_ns).0);
        CoreWork(CoreWork::of(self.rate, dur_ns).0.min(supplied))
    }
}

/// A VM on a host. State as of `at`; rates in force from there.
#[derive(Debug, Clone)]
pub(super) struct VmRun {
    pub(super) spec: VmSpec,
    pub(super) paused: bool,
    pub(super) throttle: Throttle,
    at: u64,
    state: VmState,
    /// Most the backlog holds.
    bound: u128,
    /// What unthrottled vCPUs can use on this host, in billionths of a core.
    cap: u64,
    demand: u64,
    /// When the trace next changes its demand (not for batch jobs).
    demand_until: u64,
    want: u64,
    grant: u64,
}

impl VmRun {
    /// A VM arriving at `now`, paused since it left.
    pub(super) fn new(spec: VmSpec, state: VmState, cap: u64, now: u64) -> Self {
        let peak = spec
            .cpu
            .samples()
            .iter()
            .map(|sample| sample.milli)
            .max()
            .unwrap_or(0);
        let bound = match spec.work {
            Work::Service { backlog_ms } => {
                // Below 2^32 × 10^6 × 2^32 × 10^6 < 2^104.
                let (peak, ms) = (u128::from(peak), u128::from(backlog_ms));
                peak * u128::from(PER_MILLI) * ms * u128::from(traces::units::NS_PER_MS)
            }
            Work::Batch | Work::Open => 0,
        };
        let at = state.left_at.map_or(now, |left| left.0.min(now));
        let mut run = Self {
            spec,
            paused: true,
            throttle: Throttle::NONE,
            at,
            state,
            bound,
            cap,
            demand: 0,
            demand_until: 0,
            want: 0,
            grant: 0,
        };
        if run.spec.work == Work::Batch && run.state.batch.is_none() {
            let trace_ns = at.saturating_add(run.spec.trace_offset_ns);
            run.state.batch = Some(BatchPosition { trace_ns, done: 0 });
        }
        run.refresh();
        while run.own_change() <= now {
            run.settle(run.own_change());
            run.refresh();
        }
        run.settle(now);
        run
    }

    /// Recomputes demand and want for the state as it is. To be followed by [`VmRun::set_grant`].
    pub(super) fn refresh(&mut self) {
        let position = match self.state.batch {
            Some(batch) => batch.trace_ns,
            None => self.at.saturating_add(self.spec.trace_offset_ns),
        };
        let demand = self.spec.cpu.demand_at(position);
        self.demand = u64::from(demand.milli) * PER_MILLI;
        self.demand_until = match self.state.batch {
            Some(_) => u64::MAX,
            // A step of a valid trace lies ahead; at the end of 64-bit time it cannot.
            None => demand
                .until_ns
                .saturating_sub(self.spec.trace_offset_ns)
                .max(self.at + 1),
        };
        let left = self.throttle.left_of(self.cap);
        self.want = match self.spec.work {
            _ if self.paused => 0,
            Work::Service { .. } if self.state.backlog.0 > 0 => left,
            Work::Service { .. } | Work::Open => self.demand.min(left),
            Work::Batch => self.throttle.job_rate(self.demand, self.cap),
        };
        self.grant = 0;
    }

    pub(super) fn want(&self) -> u64 {
        self.want
    }

    pub(super) fn set_grant(&mut self, grant: u64) {
        self.grant = grant;
    }

    /// Accounts as of the last change.
    pub(super) fn settled(&self) -> &VmTotals {
        &self.state.totals
    }

    pub(super) fn grant(&self) -> u64 {
        self.grant
    }

    /// Work of the batch interval under way, or its length if it asks for nothing.
    fn batch_total(&self, batch: BatchPosition) -> u128 {
        let demand = self.spec.cpu.demand_at(batch.trace_ns);
        let length = u128::from(demand.until_ns.saturating_sub(batch.trace_ns).max(1));
        length * u128::from(self.demand.max(1))
    }

    /// The next instant at which this VM's own doing changes its demand or want.
    pub(super) fn own_change(&self) -> u64 {
        let after = |work: u128, rate: u64| {
            let dur_ns = work.div_ceil(u128::from(rate.max(1)));
            self.at
                .saturating_add(u64::try_from(dur_ns).unwrap_or(u64::MAX))
                .max(self.at + 1)
        };
        match (self.spec.work, self.state.batch) {
            (Work::Batch, Some(_)) if self.paused => u64::MAX,
            (Work::Batch, Some(batch)) => match (self.demand, self.grant) {
                (0, _) => after(self.batch_total(batch) - batch.done, 1),
                (_, 0) => u64::MAX,
                (_, grant) => after(self.batch_total(batch) - batch.done, grant),
            },
            (Work::Service { .. }, _) if self.state.backlog.0 > 0 && self.grant > self.demand => {
                after(self.state.backlog.0, self.grant - self.demand).min(self.demand_until)
            }
            _ => self.demand_until,
        }
    }

    /// The clock valid from the last change to `until`.
    pub(super) fn clock(&self, until: u64) -> GuestClock {
        let (rate, supply, arriving) = match (self.spec.work, self.state.batch) {
            _ if self.paused => (0, 0, 0),
            (Work::Batch, Some(batch)) if self.demand > 0 => {
                (self.grant, self.batch_total(batch) - batch.done, 0)
            }
            (Work::Batch, _) => (0, 0, 0),
            (Work::Service { .. }, _) => (self.grant, self.state.backlog.0, self.demand),
            (Work::Open, _) => (self.demand, u128::MAX, 0),
        };
        GuestClock {
            since: TraceNs(self.at),
            until: TraceNs(until),
            cpu: self.state.cpu,
            run_ns: self.state.run_ns,
            running: !self.paused,
            rate,
            supply: CoreWork(supply),
            arriving,
        }
    }

    /// The state at `now`, not beyond the next change.
    pub(super) fn state_at(&self, now: u64) -> VmState {
        let dur_ns = now - self.at;
        let served = self.clock(now).served(dur_ns);
        let mut state = self.state.clone();
        state.left_at = Some(TraceNs(now));
        state.cpu += served;
        let totals = &mut state.totals;
        if self.paused {
            totals.paused_ns += dur_ns;
        } else {
            state.run_ns += dur_ns;
        }
        match self.spec.work {
            Work::Service { .. } => {
                let arrived = CoreWork::of(self.demand, dur_ns);
                let waiting = state.backlog.0 + arrived.0 - served.0;
                state.backlog = CoreWork(waiting.min(self.bound));
                totals.demand += arrived;
                totals.granted += served;
                totals.lost += CoreWork(waiting - state.backlog.0);
            }
            Work::Open => {
                totals.demand += CoreWork::of(self.demand, dur_ns);
                totals.granted += CoreWork::of(self.grant, dur_ns);
            }
            Work::Batch if self.paused => {}
            Work::Batch => {
                let batch = state.batch.as_mut().expect("batch jobs have a position");
                batch.done += if self.demand > 0 {
                    served.0
                } else {
                    u128::from(dur_ns)
                };
                totals.demand += CoreWork::of(self.demand.min(self.cap), dur_ns);
                totals.granted += served;
            }
        }
        if !self.paused {
            let usable = match self.spec.work {
                Work::Batch => self.want,
                Work::Service { .. } | Work::Open => {
                    self.demand.min(self.throttle.left_of(self.cap))
                }
            };
            totals.steal += CoreWork::of(usable.saturating_sub(self.grant), dur_ns);
            totals.waiting += CoreWork::of(self.want - self.grant, dur_ns);
        }
        state
    }

    /// Moves the state to `now`, not beyond the next change.
    pub(super) fn settle(&mut self, now: u64) {
        self.state = self.state_at(now);
        self.at = now;
        let over = |batch: &BatchPosition| batch.done >= self.batch_total(*batch);
        if let Some(batch) = self.state.batch.filter(over) {
            let until = self.spec.cpu.demand_at(batch.trace_ns).until_ns;
            let trace_ns = until.max(batch.trace_ns + 1);
            self.state.batch = Some(BatchPosition { trace_ns, done: 0 });
        }
    }

    pub(super) fn load(&self, now: u64) -> VmLoad {
        VmLoad {
            demand_milli: self.demand / PER_MILLI,
            wanted_milli: self.want / PER_MILLI,
            granted_milli: self.grant / PER_MILLI,
            backlog: self.state_at(now).backlog,
        }
    }
}
