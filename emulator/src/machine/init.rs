//! PID 1 of a machine: builds the fabric, starts the agents, routes control messages.

use super::agents::{AgentSays, Agents, Party};
use super::changes::{Changes, Overlay, Report};
use super::fabric::Network;
use super::timetable::Timetable;
use super::watch::Watches;
use crate::clock::mono_ns;
use crate::computer;
use crate::control::channel::{Receiver, Sender, check_protocol, split};
use crate::control::message::{
    AgentSetup, Blow, Built, FromAgent, FromMachine, MachineReady, MachineSetup, PROTOCOL, ToAgent,
    ToMachine,
};
use crate::ids::{HostId, VmId};
use crate::run::admission::better;
use anyhow::{Result, anyhow, bail};
use netmodel::capacity::{self, Capacity, Demand};
use netmodel::link::GSO_LARGEST;
use netmodel::ports::Announce;
use netmodel::schedule::Schedule;
use netmodel::sys::netns::{self, NetnsError};
use replay::clock::{MonoNs, Segment, SegmentKind, TraceNs};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;

/// Serves `migbed` from inside the namespaces.
///
/// # Errors
/// When `migbed` cannot be answered.
pub(super) fn serve(control: StdUnixStream, entered: Result<(), NetnsError>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (to, from) = split(control)?;
        let mut machine = Init {
            to,
            from,
            agents: Agents::new(),
            announce: BTreeMap::new(),
        };
        let served = match entered {
            Ok(()) => machine.serve().await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = served else {
            return Ok(ExitCode::SUCCESS);
        };
        let message = format!("{error:#}");
        let missing_capability = error.chain().any(|cause| cause.is::<NetnsError>());
        machine
            .to
            .send(&FromMachine::Failed {
                message,
                missing_capability,
            })
            .await?;
        Ok(ExitCode::FAILURE)
    })
}

pub(super) struct Init {
    to: Sender<FromMachine>,
    from: Receiver<ToMachine>,
    pub(super) agents: Agents,
    /// How VMs that are to move will tell the network.
    pub(super) announce: BTreeMap<VmId, Announce>,
}

impl Init {
    /// Builds what the first message asks for, then serves until `Shutdown` or the end of `migbed`.
    async fn serve(&mut self) -> Result<()> {
        let pid = std::process::id();
        self.to
            .send(&FromMachine::Hello {
                protocol: PROTOCOL,
                pid,
            })
            .await?;
        let begun_ns = mono_ns();
        let setup = match self.from.recv().await? {
            Some(ToMachine::Setup(setup)) => setup,
            Some(other) => bail!("expected a setup, got {other:?}"),
            None => return Ok(()),
        };
        check_protocol(setup.protocol)?;
        if let Some(demand) = &setup.demand {
            self.measure_capacity(&setup, demand).await?;
        }
        let available = computer::available_bytes().unwrap_or(0);
        let (mut network, agents_bytes) = self.build(&setup).await?;
        let mut built = Built {
            build_ns: mono_ns() - begun_ns,
            unique_bytes: agents_bytes + computer::own_unique_bytes().unwrap_or(0),
            taken_bytes: available.saturating_sub(computer::available_bytes().unwrap_or(0)),
            ..Built::default()
        };
        let (mut calibration, mut findings) = (Vec::new(), Vec::new());
        if setup.calibrate {
            self.progress("calibrating links").await?;
            let begun_ns = mono_ns();
            (calibration, findings) = network.calibrate()?;
            built.calibrate_ns = mono_ns() - begun_ns;
        }
        let ready = MachineReady {
            calibration,
            findings,
            addresses: network.addresses(),
            warnings: network.warnings(),
            built,
        };
        self.to.send(&FromMachine::Ready(Box::new(ready))).await?;
        let schedule = setup.network.schedule.clone();
        let congestion = setup.network.congestion.clone();
        self.route(&mut network, schedule, congestion).await
    }

    /// Tells what this computer carries. What does not suffice is measured once more: perhaps
    /// something else ran meanwhile.
    async fn measure_capacity(&mut self, setup: &MachineSetup, demand: &Demand) -> Result<()> {
        self.progress("measuring what this machine carries").await?;
        let gso_bytes = demand.loads.iter().map(|load| load.frame_bytes).max();
        let measure = || {
            let measured = capacity::measure(setup.backend, gso_bytes.unwrap_or(GSO_LARGEST));
            measured
                .inspect_err(|error| tracing::warn!(%error, "admission goes by nothing"))
                .ok()
        };
        let mut best = measure();
        let short = |capacity: &Capacity| !capacity.admits(demand, &[]).fits;
        if best.as_ref().is_some_and(short) {
            best = better(best, measure());
        }
        if let Some(capacity) = best {
            self.to
                .send(&FromMachine::Capacity(Box::new(capacity)))
                .await?;
        }
        Ok(())
    }

    async fn progress(&mut self, what: &str) -> Result<()> {
        Ok(self
            .to
            .send(&FromMachine::Progress(what.to_owned()))
            .await?)
    }

    /// Namespaces and agents first, then the links between them, then the agents' own setup.
    /// Returns what agents need of memory together, in bytes.
    async fn build(&mut self, setup: &MachineSetup) -> Result<(Network, u64)> {
        if !setup.agents {
            return Ok((self.build_bare(setup).await?, 0));
        }
        let hosts: Vec<HostId> = (0u32..).map(HostId).take(setup.hosts.len()).collect();
        self.progress(&format!("starting {} hosts", hosts.len()))
            .await?;
        let mut namespaces = Vec::with_capacity(hosts.len());
        for &host in &hosts {
            namespaces.push(self.agents.start(host)?);
        }
        self.progress("building the network").await?;
        let network = Network::build(setup, namespaces)?;
        let addresses = network.addresses();
        for &host in &hosts {
            let agent = AgentSetup {
                protocol: PROTOCOL,
                host,
                spec: setup.hosts[host.index()].clone(),
                address: addresses[host.index()],
                inputs: setup.inputs.clone(),
                seed: setup.seed,
                congestion: setup.network.congestion.clone(),
                divided_by: setup.divided_by,
            };
            self.agents
                .send(Party::Host(host), &ToAgent::Setup(Box::new(agent)))
                .await;
        }
        let (mut waiting, mut agents_bytes) = (hosts.len(), 0);
        while waiting > 0 {
            if let Some(bytes) = self.agent_is_up().await? {
                waiting -= 1;
                agents_bytes += bytes;
            }
        }
        Ok((network, agents_bytes))
    }

    /// A network of which hosts are namespaces and nothing else: links alone are of interest.
    async fn build_bare(&mut self, setup: &MachineSetup) -> Result<Network> {
        let hosts = setup.hosts.len();
        self.progress(&format!("making {hosts} namespaces")).await?;
        let namespaces = (0..hosts).map(|_| netns::create_netns());
        let namespaces = namespaces.collect::<Result<Vec<_>, NetnsError>>()?;
        self.progress("building the network").await?;
        Network::build(setup, namespaces)
    }

    /// One message of an agent that is being set up; with its memory when it is up.
    async fn agent_is_up(&mut self) -> Result<Option<u64>> {
        match self.agents.next().await {
            (party, AgentSays::Gone) => Err(anyhow!("{party:?} ended while it was set up")),
            (party, AgentSays::Message(message)) => match *message {
                FromAgent::Hello { protocol } => {
                    check_protocol(protocol)?;
                    Ok(None)
                }
                FromAgent::SetUp(done) => {
                    let bytes = done.map_err(|error| anyhow!("{party:?}: {error}"))?;
                    Ok(Some(bytes))
                }
                other => Err(anyhow!("{party:?}: expected its setup, got {other:?}")),
            },
        }
    }

    /// Passes messages on and keeps the schedule of links until the end.
    async fn route(
        &mut self,
        network: &mut Network,
        schedule: Schedule,
        congestion: String,
    ) -> Result<()> {
        let timetable = Timetable::new(schedule, MonoNs(mono_ns()));
        let mut watches = Watches::start(network.fabric())?;
        let mut changes = Changes::start(network.fabric(), watches.shared(), timetable)?;
        let mut later = Later::default();
        loop {
            tokio::select! {
                () = later.due() => {
                    for then in later.take(mono_ns()) {
                        match then {
                            Then::Dead(host) => self.agents.kill_dark(host),
                            Then::Restored(fault) => self.changed(changes.uncover(fault)).await?,
                        }
                    }
                }
                Some(report) = changes.next() => self.changed(report).await?,
                (migration, seen) = watches.next() => {
                    self.to.send(&FromMachine::Watched(migration, seen)).await?;
                }
                message = self.from.recv() => match message? {
                    None | Some(ToMachine::Shutdown) => break,
                    Some(ToMachine::OpenPort { vm, host }) => {
                        self.open_port(network, (vm, host), &congestion).await?;
                    }
                    Some(ToMachine::Strike { fault, blow }) => {
                        if let Blow::PowerLoss { host, .. } = &blow {
                            network.host_gone(*host)?;
                        }
                        self.strike(fault, blow, &changes, &mut later).await?;
                    }
                    Some(message) => self.obey(message, network, &changes, &watches).await?,
                },
                (party, said) = self.agents.next() => match (party, said) {
                    (Party::Host(host), AgentSays::Message(message)) => {
                        if let FromAgent::SourceDone { migration, .. } = *message {
                            watches.stop(migration)?;
                        }
                        self.follow_guest(network, host, &message).await?;
                        self.to.send(&FromMachine::Agent(host, message)).await?;
                    }
                    (Party::Vm(vm), AgentSays::Message(message)) => {
                        self.to.send(&FromMachine::Vm(vm, message)).await?;
                    }
                    (Party::Host(host), AgentSays::Gone) => {
                        self.agents.reap(party);
                        network.host_gone(host)?;
                        self.to.send(&FromMachine::AgentLost(host)).await?;
                    }
                    (Party::Vm(vm), AgentSays::Gone) => {
                        self.agents.reap(party);
                        bail!("the process of {vm} ended, unasked");
                    }
                },
            }
        }
        self.shut_down().await;
        Ok(())
    }

    async fn obey(
        &mut self,
        message: ToMachine,
        network: &Network,
        changes: &Changes,
        watches: &Watches,
    ) -> Result<()> {
        match message {
            ToMachine::Agent(host, message) => {
                self.prepare_port(network, host, &message)?;
                self.agents.send(Party::Host(host), &message).await;
            }
            ToMachine::Vm(vm, message) => self.agents.send(Party::Vm(vm), &message).await,
            ToMachine::AllAgents(message) => {
                // Links first: what an agent sends after a jump must meet them as they are then.
                if let Some(report) = follow(changes, &message) {
                    self.changed(report).await?;
                }
                self.agents.send_all(&message).await;
            }
            ToMachine::SampleLinks => {
                self.to.send(&FromMachine::Links(network.sample()?)).await?;
            }
            ToMachine::Watch {
                migration,
                path,
                back,
            } => watches.begin(migration, path, &back)?,
            ToMachine::Unwatch { migration, sending } => {
                watches.finish(migration, sending.map(|sending| *sending))?;
            }
            ToMachine::Drain => {
                network.drain()?;
                self.to.send(&FromMachine::Drained).await?;
            }
            ToMachine::Audit => {
                self.to
                    .send(&FromMachine::Audited(network.audit()?))
                    .await?;
            }
            ToMachine::Setup(_) => bail!("a machine is set up once"),
            // These are seen to where messages are received.
            ToMachine::Strike { .. } | ToMachine::OpenPort { .. } | ToMachine::Shutdown => {}
        }
        Ok(())
    }

    /// Has a fault take effect on hosts or links.
    async fn strike(
        &mut self,
        fault: u32,
        blow: Blow,
        changes: &Changes,
        later: &mut Later,
    ) -> Result<()> {
        let begun_ns = mono_ns();
        let overlay = |patch, links| Overlay {
            fault,
            links,
            patch,
        };
        match blow {
            Blow::PowerLoss {
                host,
                links,
                silence_ns,
            } => {
                self.agents.darken(host);
                self.changed(changes.cover(overlay(None, links))).await?;
                later.add(begun_ns.saturating_add(silence_ns), Then::Dead(host));
            }
            Blow::Links {
                links,
                patch,
                restored_after_ns,
            } => {
                let patch = patch.map(|patch| *patch);
                self.changed(changes.cover(overlay(patch, links))).await?;
                if let Some(after_ns) = restored_after_ns {
                    later.add(begun_ns.saturating_add(after_ns), Then::Restored(fault));
                }
            }
        }
        let at_ns = mono_ns();
        Ok(self.to.send(&FromMachine::Struck { fault, at_ns }).await?)
    }

    /// Tells of links that were changed.
    async fn changed(&mut self, report: Report) -> Result<()> {
        let changed = report?;
        if !changed.is_empty() {
            self.to.send(&FromMachine::LinksChanged(changed)).await?;
        }
        Ok(())
    }

    /// Ends the agents in order; whoever does not go in time goes with this process, which is PID 1
    /// of their namespace.
    async fn shut_down(&mut self) {
        for host in self.agents.dark() {
            self.agents.kill_dark(host);
        }
        self.agents.send_all(&ToAgent::Shutdown).await;
        let all_gone = async {
            while self.agents.len() > 0 {
                if let (party, AgentSays::Gone) = self.agents.next().await {
                    self.agents.reap(party);
                }
            }
        };
        let patience = std::time::Duration::from_secs(3);
        if tokio::time::timeout(patience, all_gone).await.is_err() {
            tracing::warn!("agents did not end in {patience:?}; they are killed");
        }
    }
}

/// What follows a fault.
enum Then {
    /// The process of a host without power goes.
    Dead(HostId),
    /// Links are what they would be without the fault of this number.
    Restored(u32),
}

/// What follows faults, and when.
#[derive(Default)]
struct Later(Vec<(u64, Then)>);

impl Later {
    fn add(&mut self, at_ns: u64, then: Then) {
        self.0.push((at_ns, then));
    }

    /// Waits until something is due; for ever, if nothing is. Cancel-safe.
    async fn due(&self) {
        match self.0.iter().map(|(at_ns, _)| *at_ns).min() {
            Some(at_ns) => crate::clock::until(at_ns).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, now_ns: u64) -> Vec<Then> {
        let due = self.0.extract_if(.., |(at_ns, _)| *at_ns <= now_ns);
        due.map(|(_, then)| then).collect()
    }
}

/// Tells the schedule of links what a message says of trace time, if it does.
fn follow(changes: &Changes, message: &ToAgent) -> Option<Report> {
    match *message {
        ToAgent::Advance { seq, to_trace_ns } => Some(changes.jump(seq, TraceNs(to_trace_ns))),
        ToAgent::Go {
            number,
            run,
            at_ns,
            trace_ns,
        } => {
            let kind = if run {
                SegmentKind::Run
            } else {
                SegmentKind::Hold
            };
            Some(changes.begin(Segment {
                number,
                kind,
                at: MonoNs(at_ns),
                trace: TraceNs(trace_ns),
            }))
        }
        _ => None,
    }
}
