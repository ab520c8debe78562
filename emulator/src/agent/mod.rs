//! An emulated host: one process in a network namespace of its own, with its VMs.
//!
//! Inside: the agent's process, its VMs' run time, its data sockets. Never inside: decisions (the
//! timeline and the balancer live in `migbed`), shaping (the fabric's).
//!
//! A VM with an address of its own has a process besides (`vm`), with its sockets and the threads that
//! answer; the CPU time that takes is its host's (`cpu`).
//!
//! Threads: the main one reads control messages and obeys; one a migration and end, one a tenant
//! flow and end, one a connection of a service and end, two a probe. All write to the control socket themselves:
//! a message that has been sent is on the socket before anything after it happens, which is what
//! makes a commit record one.

mod blows;
mod cpu;
mod ends;
mod guests;
mod holds;
mod limits;
mod migrations;
mod net;
mod probe;
mod residents;
mod runtime;
mod service;
mod tenant;
mod vm;
mod vms;

pub use self::cpu::cpu_socket;
pub use self::vm::vm_main;

use crate::clock::mono_ns;
use crate::control::channel::{
    BlockingReceiver, BlockingSender, ControlError, check_protocol, inherited,
};
use crate::control::message::{AgentSetup, FromAgent, PROTOCOL, ToAgent, VmPlacement};
use crate::ids::VmId;
use crate::scenario::Backing;
use anyhow::{Context, Result, anyhow, bail};
use ends::Ends;
use migrations::{Arriving, Departing, Migrations};
use replay::clock::{MonoNs, Segment, SegmentKind, TraceNs};
use runtime::Runtime;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tenant::{Outgoing, Tenants};
use vms::VmFactory;

/// The agent's process.
///
/// # Errors
/// When it was not started by a machine, or the machine speaks another version.
pub fn agent_main() -> Result<ExitCode> {
    let control = inherited().context("this subcommand is started by migbed itself")?;
    let out = Arc::new(BlockingSender::new(control.try_clone()?));
    let mut messages = BlockingReceiver::<ToAgent>::new(control);
    out.send(&FromAgent::Hello { protocol: PROTOCOL })?;
    let setup = match messages.recv()? {
        Some(ToAgent::Setup(setup)) => *setup,
        Some(other) => bail!("expected a setup, got {other:?}"),
        None => return Ok(ExitCode::SUCCESS),
    };
    check_protocol(setup.protocol)?;
    let mut agent = Agent::new(setup, Arc::clone(&out));
    cpu::serve_vms(&agent.runtime)?;
    let unique_bytes = crate::computer::own_unique_bytes().unwrap_or(0);
    out.send(&FromAgent::SetUp(Ok(unique_bytes)))?;
    while let Some(message) = messages.recv()? {
        if matches!(message, ToAgent::Shutdown) {
            break;
        }
        agent.obey(message)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Agent {
    setup: AgentSetup,
    out: Arc<BlockingSender>,
    runtime: Arc<Runtime>,
    vms: VmFactory,
    migrations: Migrations,
    tenants: Tenants,
    ends: Ends,
}

impl Agent {
    fn new(setup: AgentSetup, out: Arc<BlockingSender>) -> Self {
        let spec = crate::cluster::host_spec(&setup.spec);
        let runtime = Arc::new(Runtime::new(setup.host, spec, MonoNs(mono_ns())));
        let vms = VmFactory::new(setup.inputs.clone(), setup.divided_by, setup.seed);
        let migrations = Migrations::new(Arc::clone(&runtime), Arc::clone(&out));
        let any_port = SocketAddr::new(setup.address.ip(), 0);
        let ends = Ends::new(any_port, setup.congestion.clone(), Arc::clone(&out));
        Self {
            setup,
            out,
            runtime,
            vms,
            migrations,
            tenants: Tenants::default(),
            ends,
        }
    }

    /// Whether a VM runs here, as its flows ask it; nobody's always do.
    fn runs(&self, vm: Option<VmId>) -> tenant::Runs {
        let runtime = Arc::clone(&self.runtime);
        Box::new(move || vm.is_none_or(|vm| runtime.runs(vm)))
    }

    /// Any port of this host.
    fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.setup.address.ip(), 0)
    }

    /// Does what a message says. An error here is a bug of the other side or the end of it: what
    /// can go wrong in a scenario is answered in a message.
    fn obey(&mut self, message: ToAgent) -> Result<()> {
        match message {
            ToAgent::Setup(_) | ToAgent::Shutdown => bail!("out of order: {message:?}"),
            ToAgent::Place(placement) => {
                let placed = self.place(&placement).map_err(|error| format!("{error:#}"));
                self.out.send(&FromAgent::Placed(placement.vm, placed))?;
            }
            ToAgent::Advance { seq, to_trace_ns } => {
                let at = MonoNs(mono_ns());
                self.runtime.jump(seq, TraceNs(to_trace_ns), at)?;
                self.sample(seq, at)?;
            }
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
                let (at, trace) = (MonoNs(at_ns), TraceNs(trace_ns));
                self.runtime.begin(Segment {
                    number,
                    kind,
                    at,
                    trace,
                })?;
            }
            ToAgent::Sample { seq, at_ns } => self.sample(seq, MonoNs(at_ns))?,
            ToAgent::OpenServer { .. }
            | ToAgent::OpenClient { .. }
            | ToAgent::CloseServer(_)
            | ToAgent::CloseClient(_)
            | ToAgent::OpenProbe { .. }
            | ToAgent::ReadProbe { .. }
            | ToAgent::CloseProbe(_) => self.ends.obey(message, self.runs(None), None)?,
            ToAgent::OpenSink { .. }
            | ToAgent::OpenFlow { .. }
            | ToAgent::CloseFlow(_)
            | ToAgent::FlowStats => self.tenant(&message)?,
            _ => self.migrate(message)?,
        }
        Ok(())
    }

    fn place(&mut self, placement: &VmPlacement) -> Result<()> {
        let spec = self.vms.vm_spec(placement.vm, &placement.spec)?;
        if placement.spec.memory == Backing::Resident {
            self.migrations
                .make_resident(placement.vm, &spec, &self.setup)?;
        }
        Ok(self.runtime.place(placement.vm, spec)?)
    }

    fn sample(&self, seq: u64, at: MonoNs) -> Result<()> {
        let (trace_ns, host, vms) = self.runtime.sample(at)?;
        self.out.send(&FromAgent::Sampled {
            seq,
            trace_ns,
            host,
            vms,
        })?;
        Ok(self.ends.tell()?)
    }

    fn tenant(&mut self, message: &ToAgent) -> Result<(), ControlError> {
        let congestion = &self.setup.congestion;
        match *message {
            ToAgent::OpenSink { flow, vm } => {
                let (at, runs) = (self.any_port(), self.runs(vm));
                let opened = self.tenants.open_sink(flow, at, runs, congestion);
                let port = opened.map_err(|error| error.to_string());
                self.out.send(&FromAgent::SinkReady { flow, port })?;
            }
            ToAgent::OpenFlow {
                flow,
                to,
                vm,
                rate_bps,
                since_ns,
            } => {
                let out = Outgoing {
                    to,
                    rate_bps,
                    since_ns,
                };
                let runs = self.runs(vm);
                if let Err(error) = self.tenants.open_source(flow, out, runs, congestion) {
                    self.out
                        .send(&FromAgent::Warning(format!("{flow}: {error}")))?;
                }
            }
            ToAgent::CloseFlow(flow) => {
                if let Some(closed) = self.tenants.close(flow) {
                    self.out.send(&FromAgent::FlowClosed {
                        flow,
                        received_bytes: closed.received_bytes,
                        open_ns: closed.open_ns,
                        carried_ns: closed.carried_ns,
                    })?;
                }
            }
            _ => self
                .out
                .send(&FromAgent::FlowBytes(self.tenants.received()))?,
        }
        Ok(())
    }

    fn migrate(&mut self, message: ToAgent) -> Result<()> {
        match message {
            ToAgent::PrepareIncoming {
                migration,
                vm,
                params,
                source,
                holds,
            } => {
                let at = self.any_port();
                let ready = self
                    .vms
                    .vm_spec(vm.vm, &vm.spec)
                    .map_err(anyhow::Error::from);
                let ready = ready.and_then(|spec| {
                    let guest = Arriving {
                        vm: vm.vm,
                        spec,
                        backing: vm.spec.memory,
                        source,
                        holds,
                    };
                    self.migrations
                        .prepare(migration, guest, &params, at, &self.setup)
                });
                let port = ready.map_err(|error| format!("{error:#}"));
                self.out
                    .send(&FromAgent::IncomingReady { migration, port })?;
            }
            ToAgent::StartMigration {
                migration,
                vm,
                to,
                params,
                destination,
                holds,
            } => {
                let spec = self.spec_of(vm)?;
                let departing = Departing {
                    vm,
                    to,
                    destination,
                    holds,
                };
                self.migrations
                    .start(migration, departing, &spec, *params, &self.setup)?;
            }
            ToAgent::CancelMigration(migration) => {
                if !self.migrations.cancel(migration) {
                    self.out.send(&FromAgent::CancelTooLate(migration))?;
                }
            }
            ToAgent::CancelIncoming(migration) => self.migrations.cancel_incoming(migration),
            ToAgent::AbandonIncoming(migration) => self.migrations.abandon(migration),
            ToAgent::Resolve {
                migration,
                committed,
            } => {
                self.migrations.resolve(migration, committed)?;
            }
            other => self.interfere(&other)?,
        }
        Ok(())
    }

    /// What is done to a migration under way, and what a manager asks about them.
    fn interfere(&mut self, message: &ToAgent) -> Result<()> {
        let migrations = &mut self.migrations;
        match *message {
            ToAgent::SetParameters { migration, change } => {
                migrations.set_parameters(migration, change);
            }
            ToAgent::SuspendGuest(migration) => migrations.suspend(migration),
            ToAgent::StartPostcopy(migration) => migrations.start_postcopy(migration),
            ToAgent::QueryMigration(migration) => {
                if let Some(progress) = migrations.progress(migration) {
                    self.out.send(&progress)?;
                }
            }
            ToAgent::DestinationGone(migration) => migrations.destination_gone(migration),
            ToAgent::DestinationRuns(migration) => migrations.destination_runs(migration),
            ToAgent::GoOn { migration, fault } => migrations.go_on(migration, fault),
            ToAgent::Strike {
                fault,
                migration,
                end,
                blow,
            } => {
                if let Some(gone) = migrations.strike(migration, end, blow)? {
                    self.out.send(&gone)?;
                }
                self.out.send(&blows::struck(fault))?;
            }
            ToAgent::TellHolding => {
                let holding = Box::new(migrations.holding());
                self.out.send(&FromAgent::Holding(holding))?;
            }
            ref other => bail!("out of order: {other:?}"),
        }
        Ok(())
    }

    fn spec_of(&self, vm: VmId) -> Result<replay::host::VmSpec> {
        self.vms
            .known(vm)
            .cloned()
            .ok_or_else(|| anyhow!("{vm} was never on this host"))
    }
}
