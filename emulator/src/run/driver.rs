//! Drives the timeline: executes its commands on a machine, feeds it what the machine says, and
//! writes everything down.
//!
//! Inside: the loop, time and samples; `hears`, what it is told; `ends`, the run's end. Its other rooms: `migrate` (migrations), `traffic` (tenant
//! flows). Never inside: decisions; those are the timeline's, the policy's and the books'.

mod ends;
mod hears;

use super::RunError;
use super::book::Ongoing;
use super::faults::FaultBook;
use super::flows::FlowBook;
use super::grade::Grade;
use super::predict::Predictor;
use super::progress::Progress;
use super::recover::Controller;
use super::services::ServiceBook;
use super::span::{Sampling, schedule};
use crate::balance::moves::{Limits, Mover, Room, Size};
use crate::balance::view::Policy;
use crate::clock::mono_ns;
use crate::cluster::view_builder::{HostFacts, ViewBuilder};
use crate::control::message::{AuditFinding, MachineReady, ToAgent, ToMachine};
use crate::event::log::EventLog;
use crate::event::{Event, EventKind, LinkSample};
use crate::ids::{HostId, MigrationId, VmId};
use crate::machine::launch::Machine;
use crate::migration::record::MigrationRecord;
use crate::scenario::{Scenario, VmSpec};
use crate::timeline::{Command, Input, SteadyDetector, Timeline};
use replay::clock::{Clock, MonoNs, Segment, SegmentKind, TraceNs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A `Go` takes effect this far ahead, so that every agent has it in time.
pub(super) const GO_AHEAD_NS: u64 = 5_000_000;

/// An agent that does not answer for this long has hung; the run cannot go on.
const SILENCE: Duration = Duration::from_secs(60);

/// What the run came to.
#[derive(Debug)]
pub(super) struct Drive {
    /// By the user.
    pub interrupted: bool,
    /// Every migration that ended.
    pub migrations: Vec<MigrationRecord>,
    /// The grade of the run, and why it is not A.
    pub grade: (Grade, Vec<String>),
    /// This machine does not carry it, and it was run all the same.
    pub forced: bool,
    /// Things to read before trusting the numbers.
    pub warnings: Vec<String>,
    /// Trace time reached.
    pub trace_ns: u64,
    /// Hosts that were lost.
    pub hosts_lost: usize,
}

/// The loop's state.
pub(super) struct Driver<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) machine: Machine,
    pub(super) ready: MachineReady,
    pub(super) log: EventLog,
    pub(super) progress: Progress,
    pub(super) predictor: Predictor,
    timeline: Timeline,
    commands: VecDeque<Command>,
    pub(super) clock: Clock,
    pub(super) seq: u64,
    pub(super) sampling: Option<Sampling>,
    wake_ns: Option<u64>,
    hold_at_ns: Option<u64>,
    pub(super) steady: Option<SteadyDetector>,
    pub(super) poll_flows_ns: Option<u64>,
    /// Mean cores each VM was granted at its last sample.
    pub(super) cores: BTreeMap<VmId, f64>,
    view: ViewBuilder,
    policy: Option<Box<dyn Policy>>,
    tick: u64,
    planned_done: usize,
    pub(super) mover: Mover,
    pub(super) ongoing: BTreeMap<MigrationId, Ongoing>,
    pub(super) migrations: Vec<MigrationRecord>,
    pub(super) flows: FlowBook,
    pub(super) services: ServiceBook,
    pub(super) lost: BTreeSet<HostId>,
    /// Hosts of which nobody will know whether they are dead.
    pub(super) unfenced: BTreeSet<HostId>,
    pub(super) faults: FaultBook,
    pub(super) controller: Controller,
    pub(super) limits: Limits,
    pub(super) links: Vec<LinkSample>,
    findings: Vec<AuditFinding>,
    warnings: Vec<String>,
    end: Option<bool>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        machine: Machine,
        ready: MachineReady,
        log: EventLog,
        policy: Option<Box<dyn Policy>>,
        progress: Progress,
        predictor: Predictor,
    ) -> Self {
        let facts: Vec<HostFacts> = scenario
            .hosts
            .iter()
            .zip((0..).map(HostId))
            .map(|(host, id)| {
                let rate = scenario.network.up(id).rate;
                HostFacts::new(host, rate.map(|rate| rate.bps()))
            })
            .collect();
        let vcpus: Vec<u32> = scenario.vms.iter().map(|vm| vm.vcpus).collect();
        let rooms: Vec<Room> = scenario.hosts.iter().map(Room::of).collect();
        let size = |vm: &VmSpec| Size {
            ram_bytes: vm.ram_bytes,
            vcpus: vm.vcpus,
        };
        let placed: Vec<(HostId, Size)> =
            scenario.vms.iter().map(|vm| (vm.host, size(vm))).collect();
        let balancer = &scenario.balancer;
        let limits = scenario.orchestrator.limits(Limits {
            parallel: balancer.parallel,
            parallel_per_host: balancer.parallel_per_host,
            outbound_per_host: None,
        });
        let now = MonoNs(mono_ns());
        let first = Segment {
            number: 0,
            kind: SegmentKind::Hold,
            at: now,
            trace: TraceNs(0),
        };
        Self {
            timeline: Timeline::new(schedule(scenario, policy.is_some())),
            scenario,
            machine,
            ready,
            log,
            progress,
            predictor,
            commands: VecDeque::new(),
            clock: Clock::new(first),
            seq: 0,
            sampling: None,
            wake_ns: None,
            hold_at_ns: None,
            steady: None,
            poll_flows_ns: None,
            cores: BTreeMap::new(),
            view: ViewBuilder::new(&facts, &vcpus, balancer.window_ns),
            policy,
            tick: 0,
            planned_done: 0,
            mover: Mover::new(limits, &rooms, &placed),
            ongoing: BTreeMap::new(),
            migrations: Vec::new(),
            flows: FlowBook::new(scenario.flows.clone()),
            services: ServiceBook::default(),
            lost: BTreeSet::new(),
            unfenced: BTreeSet::new(),
            faults: FaultBook::new(&scenario.faults),
            controller: Controller::default(),
            limits,
            links: Vec::new(),
            findings: Vec::new(),
            warnings: Vec::new(),
            end: None,
        }
    }

    /// From the first segment to the audit. `forced` says why this machine does not carry it, and
    /// makes it invalid.
    pub(super) async fn drive(mut self, forced: Option<String>) -> Result<Drive, RunError> {
        let mut interrupts = super::interrupts()?;
        self.step(Input::Start);
        loop {
            while let Some(command) = self.commands.pop_front() {
                self.execute(command).await?;
            }
            if self.end.is_some() {
                break;
            }
            let patience = self.next_deadline_in();
            tokio::select! {
                message = tokio::time::timeout(patience, self.machine.recv()) => {
                    if let Ok(message) = message {
                        let message = message?.ok_or(RunError::MachineGone)?;
                        self.heard(message).await?;
                    }
                }
                _ = interrupts.recv() => {
                    self.progress.note("interrupted: ending in order (once more: at once)");
                    self.step(Input::Interrupt);
                }
            }
            self.deadlines().await?;
        }
        self.close(forced).await
    }

    /// Hosts that have gone.
    pub(super) fn lost_hosts(&self) -> Vec<HostId> {
        self.lost.iter().copied().collect()
    }

    /// Trace time now.
    pub(super) fn trace_ns(&self) -> u64 {
        self.clock.trace_at(MonoNs(mono_ns())).0
    }

    /// Writes an event of this instant.
    pub(super) fn write(&mut self, kind: EventKind) -> Result<(), RunError> {
        let mono_ns = mono_ns();
        let trace_ns = self.clock.trace_at(MonoNs(mono_ns)).0;
        Ok(self.log.append(&Event {
            mono_ns,
            trace_ns,
            kind,
        })?)
    }

    pub(super) fn warn(&mut self, message: String) -> Result<(), RunError> {
        tracing::warn!("{message}");
        self.warnings.push(message.clone());
        self.write(EventKind::Warning { message })
    }

    /// Tells the timeline; what it answers is executed next.
    pub(super) fn step(&mut self, input: Input) {
        let trace_ns = self.trace_ns();
        self.commands.extend(self.timeline.step(trace_ns, input));
    }

    pub(super) async fn tell(&mut self, host: HostId, message: ToAgent) -> Result<(), RunError> {
        Ok(self
            .machine
            .send(&ToMachine::Agent(host, Box::new(message)))
            .await?)
    }

    pub(super) async fn tell_all(&mut self, message: ToAgent) -> Result<(), RunError> {
        Ok(self
            .machine
            .send(&ToMachine::AllAgents(Box::new(message)))
            .await?)
    }

    /// Whether a host stands for everything outside: it has no VMs, and nobody samples it.
    fn is_outside(&self, host: HostId) -> bool {
        self.scenario.network.internet == Some(host)
    }

    fn host_name(&self, host: HostId) -> String {
        let emulated = self.scenario.hosts.get(host.index());
        let outside = || self.scenario.network.outside_name(host);
        let name = emulated.map(|host| host.name.as_str()).or_else(outside);
        name.map_or_else(|| host.to_string(), str::to_owned)
    }

    /// Hosts that are there.
    pub(super) fn hosts(&self) -> BTreeSet<HostId> {
        let all = (0u32..).map(HostId).take(self.scenario.hosts.len());
        all.filter(|host| !self.lost.contains(host)).collect()
    }

    async fn execute(&mut self, command: Command) -> Result<(), RunError> {
        match command {
            Command::Jump { to_trace_ns } => self.jump(to_trace_ns).await,
            Command::Sample => self.sample().await,
            Command::Decide { balancer } => self.decide(balancer).await,
            Command::Hold => {
                self.segment(SegmentKind::Hold, mono_ns(), false).await?;
                self.open_services().await?;
                self.open_flows().await?;
                self.settle_flows()
            }
            Command::OpenFlows => self.open_flows().await,
            Command::Run => {
                let at_ns = mono_ns() + GO_AHEAD_NS;
                self.segment(SegmentKind::Run, at_ns, true).await?;
                self.ask_services(at_ns).await
            }
            Command::StartMigrations => self.start_migrations().await,
            Command::WakeAt { trace_ns } => {
                self.wake_ns = self.clock.mono_at(TraceNs(trace_ns)).map(|at| at.0);
                Ok(())
            }
            Command::Drain => {
                self.close_services().await?;
                self.close_flows().await?;
                Ok(self.machine.send(&ToMachine::Drain).await?)
            }
            Command::CancelMigrations => self.cancel_migrations().await,
            Command::End { interrupted } => {
                self.end = Some(interrupted);
                Ok(())
            }
        }
    }

    /// Asks the policy, and takes the scenario's own migrations that are due.
    async fn decide(&mut self, balancer: bool) -> Result<(), RunError> {
        let trace_ns = self.trace_ns();
        let scenario = self.scenario;
        while let Some(planned) = scenario.migrations.get(self.planned_done)
            && planned.at_ns <= trace_ns
        {
            self.planned_done += 1;
            self.request(
                planned.vm,
                planned.destination,
                "planned by the scenario".to_owned(),
            )?;
        }
        if balancer && let Some(mut policy) = self.policy.take() {
            self.tick += 1;
            let lost: Vec<HostId> = self.lost.iter().copied().collect();
            let migrations = self.mover.migrations();
            let placements = self.mover.placements();
            let view = self
                .view
                .view(self.tick, trace_ns, placements, migrations, &lost);
            let begun_ns = mono_ns();
            let actions = policy.decide(&view);
            let took_ns = mono_ns() - begun_ns;
            self.policy = Some(policy);
            let moves = u32::try_from(actions.len()).unwrap_or(u32::MAX);
            self.write(EventKind::Tick {
                tick: self.tick,
                took_ns,
                moves,
            })?;
            for action in actions {
                self.act(action).await?;
            }
        }
        let open_migrations = self.open_migrations();
        self.step(Input::Decided { open_migrations });
        Ok(())
    }

    pub(super) fn open_migrations(&self) -> u32 {
        u32::try_from(self.mover.migrations().len()).unwrap_or(u32::MAX)
    }

    fn next_deadline_in(&self) -> Duration {
        let silence = self.sampling.as_ref().map(|sampling| {
            sampling.asked_ns + u64::try_from(SILENCE.as_nanos()).unwrap_or(u64::MAX)
        });
        let cancels = self
            .ongoing
            .values()
            .filter_map(|ongoing| ongoing.cancel_at_ns)
            .min();
        let words = self.ongoing.values().filter_map(Ongoing::word_due_ns).min();
        let faults = self.planned_instants();
        let due = [
            faults.iter().map(|(_, at_ns)| *at_ns).min(),
            self.controller_up_ns(),
            self.next_look_ns(),
            self.wake_ns,
            self.hold_at_ns,
            self.poll_flows_ns,
            silence,
            cancels,
            words,
        ];
        let due_ns = due.into_iter().flatten().min();
        // Without anything due, look around once a second: for the progress line.
        let now = mono_ns();
        let in_ns = due_ns.map_or(1_000_000_000, |due| {
            due.saturating_sub(now).min(1_000_000_000)
        });
        Duration::from_nanos(in_ns)
    }

    async fn deadlines(&mut self) -> Result<(), RunError> {
        let now = mono_ns();
        let past = |due: &mut Option<u64>| due.is_some_and(|at| at <= now) && due.take().is_some();
        if past(&mut self.wake_ns) {
            self.step(Input::Woke);
        }
        if past(&mut self.hold_at_ns) {
            self.step(Input::Drained);
        }
        if past(&mut self.poll_flows_ns) {
            self.tell_all(ToAgent::FlowStats).await?;
            self.settle_flows()?;
        }
        if let Some(sampling) = &self.sampling
            && Duration::from_nanos(now.saturating_sub(sampling.asked_ns)) > SILENCE
        {
            return Err(RunError::Silent);
        }
        self.timed_faults(now).await?;
        self.controller_asks(now).await?;
        self.looks(now).await?;
        self.cancel_overdue(now).await?;
        self.words_overdue(now).await?;
        self.progress.trace(self.trace_ns(), self.mover.running());
        Ok(())
    }
}
