//! One VM's CPU: its lanes' demand, backlog, progress between two changes of their rates.
//!
//! Between changes everything is linear, so the state is kept at the last change and read off at
//! any later instant. Integrating twice over halves of a span gives to the unit what once over the
//! whole gives: rates are integers, and a backlog that runs empty does so at the first whole
//! nanosecond at which it would be below zero, where it is exactly zero.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use traces::cpu::CpuTrace;

use super::fair::{self, Claim};
use super::lane::{Holds, Lane, LaneState, Supply};
use super::requests::{RequestState, Ticket};
use super::work::{CoreWork, PER_MILLI, Throttle, Work};
use crate::clock::TraceNs;
use crate::guest::{Deal, GuestTime, MemorySpec, VcpuClocks};

/// A VM as the scenario describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmSpec {
    /// Identifies the VM, in its draws and its pages too.
    pub key: u64,
    /// vCPUs, at least 1; none gets more than one core of its host.
    pub vcpus: u32,
    /// Weight among the VMs of a host, at least 1.
    pub weight: u32,
    /// CPU demand: of all vCPUs together, which share it as they can, or one trace for each.
    pub cpu: Vec<Arc<CpuTrace>>,
    /// Where in its CPU traces the VM is at trace instant 0.
    #[serde(default)]
    pub trace_offset_ns: u64,
    /// What happens to demand that is not served at once.
    #[serde(default)]
    pub work: Work,
    /// RAM and what writes it.
    pub memory: MemorySpec,
}

impl VmSpec {
    /// Which vCPU accesses which of its pages: as many as it has of the demand on average, if that is known.
    #[must_use]
    pub fn deal(&self) -> Deal {
        if self.cpu.len() < 2 {
            return Deal::alike(self.vcpus);
        }
        let mean_milli = |cpu: &Arc<CpuTrace>| {
            let sample = |s: &traces::cpu::CpuSample| u128::from(s.dur_ns) * u128::from(s.milli);
            let sum: u128 = cpu.samples().iter().map(sample).sum();
            u64::try_from(sum / u128::from(cpu.period_ns())).unwrap_or(u64::MAX)
        };
        let weights: Vec<u64> = self.cpu.iter().map(mean_milli).collect();
        Deal::by_weight(&weights)
    }
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
    /// Demand waiting and positions, in the order of [`VmSpec::cpu`].
    pub lanes: Vec<LaneState>,
    /// Requests it is answering.
    pub requests: RequestState,
    /// How far its vCPUs have come, if some have waited while others went on.
    #[serde(default)]
    pub vcpus: VcpuClocks,
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
        let mut work = 0_u128;
        for cpu in &spec.cpu {
            let mut at_ns = 0;
            while at_ns < offset_ns {
                let demand = cpu.demand_at(at_ns);
                let until_ns = demand.until_ns.min(offset_ns);
                work += CoreWork::of(u64::from(demand.milli) * PER_MILLI, until_ns - at_ns).0;
                at_ns = until_ns;
            }
        }
        Self {
            cpu: CoreWork(work),
            run_ns: offset_ns,
            ..Self::default()
        }
    }

    /// Demand waiting, of all lanes.
    #[must_use]
    pub fn backlog(&self) -> CoreWork {
        CoreWork(self.lanes.iter().map(|lane| lane.backlog.0).sum())
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestClock {
    since: TraceNs,
    until: TraceNs,
    cpu: CoreWork,
    run_ns: u64,
    running: bool,
    lanes: Vec<Supply>,
    vcpus: VcpuClocks,
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
        let served = self.lanes.iter().map(|lane| lane.served(dur_ns).0);
        Some(GuestTime {
            cpu_ns: (self.cpu + CoreWork(served.sum())).core_ns(),
            run_ns,
        })
    }

    /// How far a vCPU has come then.
    #[must_use]
    pub fn vcpu_at(&self, vcpu: u32, now: TraceNs) -> Option<GuestTime> {
        Some(self.vcpus.time(vcpu, self.at(now)?))
    }
}

/// A VM on a host. State as of `at`; rates in force from there.
#[derive(Debug, Clone)]
pub(super) struct VmRun {
    pub(super) spec: VmSpec,
    pub(super) paused: bool,
    pub(super) throttle: Throttle,
    /// Which vCPUs wait; the whole VM stands still when all do.
    waits: Vec<bool>,
    deal: Deal,
    at: u64,
    state: VmState,
    lanes: Vec<Lane>,
    /// What a vCPU can use unthrottled, in billionths of a core.
    core: u64,
    /// Of its requests: what they want and get.
    asked: (u64, u64),
    grant: u64,
}

impl VmRun {
    /// A VM arriving at `now`, paused since it left. `core` is what a vCPU can use on this host, in
    /// billionths of a core, at most [`super::MOST_OF_A_VM`] by all of them.
    pub(super) fn new(spec: VmSpec, mut state: VmState, core: u64, now: u64) -> Self {
        let vcpus = u64::from(spec.vcpus);
        // One trace speaks of all vCPUs.
        let cap = if spec.cpu.len() == 1 {
            core * vcpus
        } else {
            core
        };
        let at = state.left_at.map_or(now, |left| left.0.min(now));
        let lane = |cpu: &Arc<CpuTrace>| Lane::new(Arc::clone(cpu), spec.work, cap);
        let lanes: Vec<Lane> = spec.cpu.iter().map(lane).collect();
        state.lanes.resize(lanes.len(), LaneState::default());
        state.requests.drop_all(&mut state.totals);
        if spec.work == Work::Batch {
            let trace_ns = at.saturating_add(spec.trace_offset_ns);
            for lane in &mut state.lanes {
                lane.batch
                    .get_or_insert(BatchPosition { trace_ns, done: 0 });
            }
        }
        let mut run = Self {
            waits: vec![false; spec.vcpus as usize],
            deal: spec.deal(),
            spec,
            paused: true,
            throttle: Throttle::NONE,
            at,
            state,
            lanes,
            core,
            asked: (0, 0),
            grant: 0,
        };
        run.refresh();
        while run.own_change() <= now {
            run.settle(run.own_change());
            run.refresh();
        }
        run.settle(now);
        run
    }

    /// What holds for a lane: of all vCPUs, or of one of them.
    fn holds(&self, lane: usize) -> Holds {
        let (vcpus, running) = match self.lanes.len() {
            1 => (self.spec.vcpus, self.running()),
            _ => (1, u32::from(!self.waits[lane])),
        };
        Holds {
            work: self.spec.work,
            throttle: self.throttle,
            paused: self.paused || running == 0,
            trace_offset_ns: self.spec.trace_offset_ns,
            at: self.at,
            vcpus,
            running,
        }
    }

    /// Each lane with its state and what holds for it.
    fn each(&self) -> impl Iterator<Item = (&Lane, &LaneState, Holds)> {
        let lanes = self.lanes.iter().zip(&self.state.lanes).enumerate();
        lanes.map(|(number, (lane, state))| (lane, state, self.holds(number)))
    }

    /// vCPUs that do not wait.
    fn running(&self) -> u32 {
        let running = self.waits.iter().filter(|&&waits| !waits).count();
        u32::try_from(running).unwrap_or(u32::MAX)
    }

    /// Whether nothing of it runs.
    pub(super) fn stands(&self) -> bool {
        self.paused || self.running() == 0
    }

    /// A vCPU begins or ceases to wait. To be followed by [`VmRun::refresh`].
    pub(super) fn set_waits(&mut self, vcpu: u32, waits: bool) {
        let at = self.state.guest_time();
        match self.waits.get_mut(vcpu as usize) {
            Some(of) if *of != waits => *of = waits,
            _ => return,
        }
        self.state.vcpus.wait(&self.deal, vcpu, waits, at);
    }

    /// Recomputes demand and want for the state as it is. To be followed by [`VmRun::set_grant`].
    pub(super) fn refresh(&mut self) {
        for number in 0..self.lanes.len() {
            let holds = self.holds(number);
            self.lanes[number].refresh(&self.state.lanes[number], &holds);
        }
        let running = self.running();
        let core = if self.stands() {
            0
        } else {
            self.throttle.left_of(self.core)
        };
        self.asked = (self.state.requests.want(core, running.max(1)), 0);
        self.grant = 0;
    }

    /// What it can use: no more than all its vCPUs together, whoever wants it.
    pub(super) fn want(&self) -> u64 {
        let lanes: u64 = self.lanes.iter().map(|lane| lane.want).sum();
        let all = self.core * u64::from(self.running());
        (lanes + self.asked.0).min(self.throttle.left_of(all))
    }

    /// Shares what the host grants among the lanes, alike.
    pub(super) fn set_grant(&mut self, grant: u64) {
        self.grant = grant;
        if let ([lane], 0) = (&mut self.lanes[..], self.asked.0) {
            lane.grant = grant;
            return;
        }
        let claim = |lane: &Lane| Claim {
            want: lane.want,
            weight: 1,
        };
        let requests = Claim {
            want: self.asked.0,
            weight: 1,
        };
        let claims: Vec<Claim> = self.lanes.iter().map(claim).chain([requests]).collect();
        let shares = fair::shares(grant, &claims);
        self.asked.1 = shares[self.lanes.len()];
        for (lane, share) in self.lanes.iter_mut().zip(shares) {
            lane.grant = share;
        }
    }

    /// Takes a request in. To be followed by [`VmRun::refresh`].
    pub(super) fn ask(&mut self, work: CoreWork) -> Ticket {
        self.state.requests.ask(work, &mut self.state.totals)
    }

    /// Takes a request back, served or not.
    pub(super) fn answered(&mut self) {
        let requests = &mut self.state.requests;
        requests.waiting = requests.waiting.saturating_sub(1);
    }

    /// When a request is served, if nothing changes; `None`: it is not.
    pub(super) fn served_at(&self, ticket: Ticket) -> Option<u64> {
        let in_ns = self.state.requests.served_in_ns(ticket, self.asked.1)?;
        Some(self.at.saturating_add(in_ns))
    }

    /// Accounts as of the last change.
    pub(super) fn settled(&self) -> &VmTotals {
        &self.state.totals
    }

    pub(super) fn grant(&self) -> u64 {
        self.grant
    }

    /// The next instant at which this VM's own doing changes its demand or want.
    pub(super) fn own_change(&self) -> u64 {
        let change =
            |(lane, state, holds): (&Lane, &LaneState, Holds)| lane.own_change(state, &holds);
        let lanes = self.each().map(change).min().unwrap_or(u64::MAX);
        // The last request is served: they want nothing more.
        let RequestState {
            pending, served, ..
        } = self.state.requests;
        let last = (pending.0 > 0).then(|| self.served_at(Ticket(served + pending)));
        lanes.min(last.flatten().unwrap_or(u64::MAX).max(self.at + 1))
    }

    /// The clock valid from the last change to `until`.
    pub(super) fn clock(&self, until: u64) -> GuestClock {
        let supply = |(lane, state, holds): (&Lane, &LaneState, Holds)| lane.supply(state, &holds);
        let requests = self.state.requests.supply(self.asked.1);
        GuestClock {
            since: TraceNs(self.at),
            until: TraceNs(until),
            cpu: self.state.cpu,
            run_ns: self.state.run_ns,
            running: !self.stands(),
            vcpus: self.state.vcpus.clone(),
            lanes: self.each().map(supply).chain([requests]).collect(),
        }
    }

    /// The state at `now`, not beyond the next change.
    pub(super) fn state_at(&self, now: u64) -> VmState {
        let mut state = self.state.clone();
        self.pass(&mut state, now);
        state
    }

    fn pass(&self, state: &mut VmState, now: u64) {
        let dur_ns = now - self.at;
        state.left_at = Some(TraceNs(now));
        if self.stands() {
            state.totals.paused_ns += dur_ns;
        } else {
            state.run_ns += dur_ns;
        }
        for (number, lane) in self.lanes.iter().enumerate() {
            let holds = self.holds(number);
            state.cpu += lane.pass(&mut state.lanes[number], &mut state.totals, &holds, dur_ns);
        }
        let requests = &mut state.requests;
        state.cpu += requests.pass(&mut state.totals, self.asked, dur_ns);
    }

    /// Moves the state to `now`, not beyond the next change.
    pub(super) fn settle(&mut self, now: u64) {
        let mut state = std::mem::take(&mut self.state);
        self.pass(&mut state, now);
        for (lane, of_lane) in self.lanes.iter().zip(&mut state.lanes) {
            lane.turn(of_lane);
        }
        self.state = state;
        self.at = now;
    }

    pub(super) fn load(&self, now: u64) -> VmLoad {
        let demand: u64 = self.lanes.iter().map(|lane| lane.demand).sum();
        VmLoad {
            demand_milli: (demand + self.asked.0) / PER_MILLI,
            wanted_milli: self.want() / PER_MILLI,
            granted_milli: self.grant / PER_MILLI,
            backlog: self.state_at(now).backlog(),
        }
    }
}
