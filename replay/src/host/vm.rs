//! One VM's CPU: its lanes' demand, backlog, progress between two changes of their rates.
//!
//! Between changes everything is linear, so the state is kept at the last change and read off at
//! any later instant. Integrating twice over halves of a span gives to the unit what once over the
//! whole gives: rates are integers, and a backlog that runs empty does so at the first whole
//! nanosecond at which it would be below zero, where it is exactly zero.

use std::sync::Arc;

use traces::cpu::CpuTrace;

use super::fair::{self, Claim};
use super::lane::{Holds, Lane, LaneState, Supply};
use super::requests::{RequestState, Ticket};
use super::values::{BatchPosition, VmLoad, VmSpec, VmState, VmTotals};
use super::work::{CoreWork, PER_MILLI, Throttle, Work};
use crate::clock::TraceNs;
use crate::guest::{Deal, GuestTime, VcpuClocks};

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
