//! A stream of demand: of a whole VM, or of one of its vCPUs. What [`super::vm`] says of a VM's
//! integration holds for each lane by itself.
//!
//! Never inside: the host's capacity, pauses as such (a paused lane is one that wants nothing).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use traces::cpu::CpuTrace;

use super::values::{BatchPosition, VmTotals};
use super::work::{CoreWork, PER_MILLI, Throttle, Work};

/// Of a lane, what moves with its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LaneState {
    /// Demand waiting.
    pub backlog: CoreWork,
    /// Position in the trace, of batch jobs.
    pub batch: Option<BatchPosition>,
}

/// Rates in force, and what they are limited by.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    cpu: Arc<CpuTrace>,
    /// Most the backlog holds.
    bound: u128,
    /// What it can use unthrottled on this host, in billionths of a core.
    cap: u64,
    pub(super) demand: u64,
    /// When the trace next changes its demand (not for batch jobs).
    demand_until: u64,
    pub(super) want: u64,
    pub(super) grant: u64,
}

/// What holds for all lanes of a VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holds {
    pub(super) work: Work,
    pub(super) throttle: Throttle,
    pub(super) paused: bool,
    pub(super) trace_offset_ns: u64,
    /// Since when.
    pub(super) at: u64,
    /// Of so many vCPUs that do its work …
    pub(super) vcpus: u32,
    /// … so many run: those that wait take no part in it.
    pub(super) running: u32,
}

impl Holds {
    /// What the vCPUs that run have of a rate.
    fn running_of(&self, rate: u64) -> u64 {
        if self.running >= self.vcpus {
            return rate;
        }
        let part = u128::from(rate) * u128::from(self.running) / u128::from(self.vcpus);
        u64::try_from(part).expect("not above the rate")
    }
}

impl Lane {
    pub(super) fn new(cpu: Arc<CpuTrace>, work: Work, cap: u64) -> Self {
        let peak = cpu.samples().iter().map(|sample| sample.milli).max();
        let bound = match work {
            Work::Service { backlog_ms } => {
                // Below 2^32 × 10^6 × 2^32 × 10^6 < 2^104.
                let (peak, ms) = (u128::from(peak.unwrap_or(0)), u128::from(backlog_ms));
                peak * u128::from(PER_MILLI) * ms * u128::from(traces::units::NS_PER_MS)
            }
            Work::Batch | Work::Open => 0,
        };
        Self {
            cpu,
            bound,
            cap,
            demand: 0,
            demand_until: 0,
            want: 0,
            grant: 0,
        }
    }

    /// Recomputes demand and want for the state as it is.
    pub(super) fn refresh(&mut self, state: &LaneState, holds: &Holds) {
        let position = match state.batch {
            Some(batch) => batch.trace_ns,
            None => holds.at.saturating_add(holds.trace_offset_ns),
        };
        let demand = self.cpu.demand_at(position);
        self.demand = u64::from(demand.milli) * PER_MILLI;
        self.demand_until = match state.batch {
            Some(_) => u64::MAX,
            // A step of a valid trace lies ahead; at the end of 64-bit time it cannot.
            None => demand
                .until_ns
                .saturating_sub(holds.trace_offset_ns)
                .max(holds.at + 1),
        };
        let left = holds.running_of(holds.throttle.left_of(self.cap));
        self.want = match holds.work {
            _ if holds.paused => 0,
            Work::Service { .. } if state.backlog.0 > 0 => left,
            Work::Service { .. } | Work::Open => self.demand.min(left),
            Work::Batch => holds.running_of(holds.throttle.job_rate(self.demand, self.cap)),
        };
        self.grant = 0;
    }

    /// Work of the batch interval under way, or its length if it asks for nothing.
    fn batch_total(&self, batch: BatchPosition) -> u128 {
        let demand = self.cpu.demand_at(batch.trace_ns);
        let length = u128::from(demand.until_ns.saturating_sub(batch.trace_ns).max(1));
        length * u128::from(self.demand.max(1))
    }

    /// The next instant at which this lane's own doing changes its demand or want.
    pub(super) fn own_change(&self, state: &LaneState, holds: &Holds) -> u64 {
        let after = |work: u128, rate: u64| {
            let dur_ns = work.div_ceil(u128::from(rate.max(1)));
            holds
                .at
                .saturating_add(u64::try_from(dur_ns).unwrap_or(u64::MAX))
                .max(holds.at + 1)
        };
        match (holds.work, state.batch) {
            (Work::Batch, Some(_)) if holds.paused => u64::MAX,
            (Work::Batch, Some(batch)) => match (self.demand, self.grant) {
                (0, _) => after(self.batch_total(batch) - batch.done, 1),
                (_, 0) => u64::MAX,
                (_, grant) => after(self.batch_total(batch) - batch.done, grant),
            },
            (Work::Service { .. }, _) if state.backlog.0 > 0 && self.grant > self.demand => {
                after(state.backlog.0, self.grant - self.demand).min(self.demand_until)
            }
            _ => self.demand_until,
        }
    }

    /// What it is served from the last change on.
    pub(super) fn supply(&self, state: &LaneState, holds: &Holds) -> Supply {
        let (rate, supply, arriving) = match (holds.work, state.batch) {
            _ if holds.paused => (0, 0, 0),
            (Work::Batch, Some(batch)) if self.demand > 0 => {
                (self.grant, self.batch_total(batch) - batch.done, 0)
            }
            (Work::Batch, _) => (0, 0, 0),
            (Work::Service { .. }, _) => (self.grant, state.backlog.0, self.demand),
            (Work::Open, _) => (holds.running_of(self.demand), u128::MAX, 0),
        };
        Supply {
            rate,
            supply: CoreWork(supply),
            arriving,
        }
    }

    /// Moves the state on by a time that does not reach beyond the next change; returns what was
    /// served.
    pub(super) fn pass(
        &self,
        state: &mut LaneState,
        totals: &mut VmTotals,
        holds: &Holds,
        dur_ns: u64,
    ) -> CoreWork {
        let served = self.supply(state, holds).served(dur_ns);
        match holds.work {
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
            Work::Batch if holds.paused => {}
            Work::Batch => {
                let batch = state.batch.as_mut().expect("batch jobs have a position");
                batch.done += if self.demand > 0 {
                    served.0
                } else {
                    u128::from(dur_ns)
                };
                let demand = holds.running_of(self.demand.min(self.cap));
                totals.demand += CoreWork::of(demand, dur_ns);
                totals.granted += served;
            }
        }
        if !holds.paused {
            let usable = match holds.work {
                Work::Batch => self.want,
                Work::Service { .. } | Work::Open => {
                    let left = holds.running_of(holds.throttle.left_of(self.cap));
                    self.demand.min(left)
                }
            };
            totals.steal += CoreWork::of(usable.saturating_sub(self.grant), dur_ns);
            totals.waiting += CoreWork::of(self.want - self.grant, dur_ns);
        }
        served
    }

    /// Goes on to the next interval of a batch job whose last one is done.
    pub(super) fn turn(&self, state: &mut LaneState) {
        let over = |batch: &BatchPosition| batch.done >= self.batch_total(*batch);
        if let Some(batch) = state.batch.filter(over) {
            let until = self.cpu.demand_at(batch.trace_ns).until_ns;
            let trace_ns = until.max(batch.trace_ns + 1);
            state.batch = Some(BatchPosition { trace_ns, done: 0 });
        }
    }
}

/// What a lane is served per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Supply {
    /// Billionths of a core.
    rate: u64,
    /// Served work never exceeds `supply + arriving × time`.
    supply: CoreWork,
    arriving: u64,
}

impl Supply {
    /// A stock that nothing is added to.
    pub(super) fn of(rate: u64, supply: CoreWork) -> Self {
        Self {
            rate,
            supply,
            arriving: 0,
        }
    }

    pub(super) fn served(&self, dur_ns: u64) -> CoreWork {
        let supplied = self
            .supply
            .0
            .saturating_add(CoreWork::of(self.arriving, dur_ns).0);
        CoreWork(CoreWork::of(self.rate, dur_ns).0.min(supplied))
    }
}
