//! An agent's ends of migrations: one thread each, the engine's code in it.

mod threads;
mod units;

use super::guests::{Guest, Place, Pools};
use super::holds::{Gate, Holds};
use super::net;
use super::residents::Residents;
use super::runtime::Runtime;
use crate::control::channel::BlockingSender;
use crate::control::message::{AgentSetup, FromAgent, SourceEnding};
use crate::ids::{HostId, MigrationId, VmId};
use crate::migration::destination::DestinationControl;
use crate::migration::faults::Hold;
use crate::migration::guest::{GuestMemory, Reading};
use crate::migration::params::MigrationParams;
use crate::migration::record::{DestinationReport, SourceReport};
use crate::migration::source::{SourceEnd, SourceOutcome};
use crate::migration::transport::SourceControl;
use crate::resident::Ram;
use crate::scenario::Backing;
use anyhow::{Context, Result, anyhow};
use replay::{VmSpec, VmState};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use threads::{IncomingThread, OutgoingThread};
use units::Units;

/// A source that has ended, kept until the manager says what became of the guest, and for one that
/// has forgotten what it was told.
pub(super) struct EndedSource {
    /// `None`: it could not even connect.
    outcome: Option<SourceOutcome>,
    pub(super) ending: SourceEnding,
    pub(super) report: SourceReport,
    pub(super) released_ns: u64,
}

pub(super) type Ended = Arc<Mutex<Option<EndedSource>>>;

pub(super) struct Outgoing {
    pub(super) vm: VmId,
    pub(super) destination: HostId,
    pub(super) control: Arc<SourceControl>,
    pub(super) ended: Ended,
    pub(super) gate: Arc<Gate>,
    /// It was told what became of the guest.
    pub(super) resolved: bool,
    thread: JoinHandle<()>,
}

impl Outgoing {
    /// Nothing will be asked of it any more: it ended with the guest still running here.
    fn is_history(&self) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let awaits_word = matches!(
            ended.as_ref().map(|ended| ended.ending),
            Some(SourceEnding::Completed | SourceEnding::Undecided)
        );
        self.thread.is_finished() && (self.resolved || !awaits_word)
    }
}

pub(super) struct Incoming {
    pub(super) vm: VmId,
    pub(super) source: HostId,
    pub(super) control: Arc<DestinationControl>,
    pub(super) gate: Arc<Gate>,
    /// The guest ran here, and its process died.
    pub(super) crashed: bool,
    /// Its account, once it has ended.
    pub(super) done: Arc<Mutex<Option<DestinationReport>>>,
    abandoned: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A VM that a migration is to bring.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) vm: VmId,
    pub(super) spec: VmSpec,
    pub(super) backing: Backing,
    pub(super) source: HostId,
    pub(super) holds: Vec<Hold>,
}

/// Where a VM goes.
#[derive(Debug)]
pub(super) struct Departing {
    pub(super) vm: VmId,
    pub(super) to: SocketAddr,
    pub(super) destination: HostId,
    pub(super) holds: Vec<Hold>,
}

/// The migrations this agent has a part in.
pub(super) struct Migrations {
    pub(super) runtime: Arc<Runtime>,
    pub(super) residents: Arc<Residents>,
    out: Arc<BlockingSender>,
    pools: Pools,
    pub(super) outgoing: BTreeMap<MigrationId, Outgoing>,
    pub(super) incoming: BTreeMap<MigrationId, Incoming>,
}

impl Migrations {
    pub(super) fn new(runtime: Arc<Runtime>, out: Arc<BlockingSender>) -> Self {
        Self {
            residents: Arc::new(Residents::new(Arc::clone(&runtime))),
            runtime,
            out,
            pools: Pools::default(),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
        }
    }

    fn memory(&mut self, spec: &VmSpec, setup: &AgentSetup) -> Result<GuestMemory> {
        let pools = &mut self.pools;
        let memory = GuestMemory::new(&spec.memory, setup.seed, spec.key, |profile| {
            pools.get(profile, setup.seed)
        });
        let memory = memory.context("the guest's memory")?;
        Ok(memory.of_vcpus(spec.deal()))
    }

    /// Makes the RAM of a VM that begins on this host, and starts its threads.
    pub(super) fn make_resident(
        &mut self,
        vm: VmId,
        spec: &VmSpec,
        setup: &AgentSetup,
    ) -> Result<()> {
        let memory = self.memory(spec, setup)?;
        let ram = new_ram(&memory)?;
        let at = Reading::from(&VmState::begun(spec));
        self.residents
            .add(vm, &memory, ram, spec.vcpus, &at, true)
            .context("threads for its vCPUs")
    }

    /// Listens for a migration; returns the port.
    pub(super) fn prepare(
        &mut self,
        migration: MigrationId,
        guest: Arriving,
        params: &MigrationParams,
        at: SocketAddr,
        setup: &AgentSetup,
    ) -> Result<u16> {
        let Arriving {
            vm,
            spec,
            backing,
            source,
            holds,
        } = guest;
        self.runtime.admits(&spec)?;
        let memory = self.memory(&spec, setup)?;
        let ram = match backing {
            Backing::Synthetic => None,
            Backing::Resident => Some(new_ram(&memory)?),
        };
        let listener = net::listen(at, &setup.congestion)?;
        let keep_alive = params.sockets.of(params.engine);
        net::keep_alive(&listener, keep_alive).context("keep-alive of the listening socket")?;
        let port = listener.local_addr()?.port();
        let control = Arc::new(DestinationControl::default());
        let abandoned = Arc::new(AtomicBool::new(false));
        let gate = Arc::<Gate>::default();
        let done = Arc::default();
        let place = Place {
            holds: self.holds(migration, holds, &gate),
            runtime: Arc::clone(&self.runtime),
            out: Arc::clone(&self.out),
            migration,
            vm,
            spec,
            ram: ram.clone().map(|ram| (ram, memory.clone())),
            residents: Arc::clone(&self.residents),
        };
        let receiver = IncomingThread {
            migration,
            memory,
            ram,
            channels: params.channels(),
            streams: params.streams(),
            packet_pages: Units::at(setup.divided_by).packet_pages,
            load_time_ms: params.load_time,
            postcopy: params.postcopy,
            place: Arc::new(place),
            control: Arc::clone(&control),
            abandoned: Arc::clone(&abandoned),
            done: Arc::clone(&done),
            out: Arc::clone(&self.out),
        };
        let thread = std::thread::Builder::new()
            .name(format!("mig-in-{}", migration.0))
            .spawn(move || receiver.run(listener))?;
        self.incoming
            .retain(|_, incoming| !incoming.thread.is_finished());
        self.incoming.insert(
            migration,
            Incoming {
                vm,
                source,
                control,
                gate,
                crashed: false,
                done,
                abandoned,
                thread,
            },
        );
        Ok(port)
    }

    /// Begins to send a VM.
    pub(super) fn start(
        &mut self,
        migration: MigrationId,
        departing: Departing,
        spec: &VmSpec,
        params: MigrationParams,
        setup: &AgentSetup,
    ) -> Result<()> {
        let Departing {
            vm,
            to,
            destination,
            holds,
        } = departing;
        // They are as far apart until it is somewhere else.
        let clocks = self.runtime.vcpu_clocks(vm)?;
        let memory = self.memory(spec, setup)?.apart(&clocks);
        let resident = self.residents.get(vm);
        let control = Arc::new(SourceControl::default());
        let ended = Ended::default();
        let gate = Arc::<Gate>::default();
        let sender = OutgoingThread {
            migration,
            memory,
            ram: resident.as_ref().map(|resident| Arc::clone(&resident.ram)),
            params,
            to,
            congestion: setup.congestion.clone(),
            units: Units::at(setup.divided_by),
            guest: Arc::new(Guest {
                runtime: Arc::clone(&self.runtime),
                residents: Arc::clone(&self.residents),
                out: Arc::clone(&self.out),
                vm,
                vcpus: resident.map(|resident| resident.vcpus),
            }),
            control: Arc::clone(&control),
            holds: self.holds(migration, holds, &gate),
            ended: Arc::clone(&ended),
            out: Arc::clone(&self.out),
        };
        let thread = std::thread::Builder::new()
            .name(format!("mig-out-{}", migration.0))
            .spawn(move || sender.run())?;
        self.outgoing.retain(|_, outgoing| !outgoing.is_history());
        self.outgoing.insert(
            migration,
            Outgoing {
                vm,
                destination,
                control,
                ended,
                gate,
                resolved: false,
                thread,
            },
        );
        Ok(())
    }

    fn holds(&self, migration: MigrationId, planned: Vec<Hold>, gate: &Arc<Gate>) -> Holds {
        Holds {
            out: Arc::clone(&self.out),
            migration,
            planned,
            gate: Arc::clone(gate),
        }
    }

    /// Stops a migration: whether it was not too late.
    pub(super) fn cancel(&self, migration: MigrationId) -> bool {
        let outgoing = self.outgoing.get(&migration);
        outgoing.is_none_or(|outgoing| outgoing.control.cancel())
    }

    /// Promises never to start a guest whose source was told to cancel, unless it was started.
    pub(super) fn cancel_incoming(&self, migration: MigrationId) {
        if let Some(incoming) = self.incoming.get(&migration) {
            incoming.abandoned.store(true, Ordering::Release);
            // A commit already made stays made; the manager has its record.
            let _ = incoming.control.cancel();
        }
    }

    /// Stops waiting for a migration whose source will not come, or has gone.
    pub(super) fn abandon(&self, migration: MigrationId) {
        if let Some(incoming) = self.incoming.get(&migration) {
            incoming.abandoned.store(true, Ordering::Release);
            // A commit already made stays made; the manager has its record.
            let _ = incoming.control.abandon();
        }
    }

    /// `migrate-start-postcopy`.
    pub(super) fn start_postcopy(&self, migration: MigrationId) {
        let outgoing = self.outgoing.get(&migration);
        if !outgoing.is_none_or(|outgoing| outgoing.control.start_postcopy()) {
            let warning =
                format!("{migration}: it is too late for post-copy, or it was not enabled");
            // Without a manager nobody is left to be told.
            let _ = self.out.send(&FromAgent::Warning(warning));
        }
    }

    /// The manager knows whether the destination committed: let the VM go, or run it here.
    pub(super) fn resolve(&mut self, migration: MigrationId, committed: bool) -> Result<()> {
        let outgoing = self
            .outgoing
            .get_mut(&migration)
            .ok_or_else(|| anyhow!("{migration} did not begin here"))?;
        if std::mem::replace(&mut outgoing.resolved, true) {
            // By a manager that has forgotten that it said so.
            return Ok(());
        }
        let guest = Guest {
            runtime: Arc::clone(&self.runtime),
            residents: Arc::clone(&self.residents),
            out: Arc::clone(&self.out),
            vm: outgoing.vm,
            vcpus: self
                .residents
                .get(outgoing.vm)
                .map(|resident| resident.vcpus),
        };
        let mut ended = outgoing
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ended = ended
            .as_mut()
            .ok_or_else(|| anyhow!("{migration} is still under way"))?;
        if let Some(outcome) = &mut ended.outcome
            && (outcome.end == SourceEnd::Undecided || !committed)
        {
            outcome.resolve(&guest, committed);
        }
        if committed {
            self.runtime.release(outgoing.vm)?;
            self.residents.remove(outgoing.vm);
        }
        Ok(())
    }
}

fn new_ram(memory: &GuestMemory) -> Result<Arc<Ram>> {
    let ram = Ram::new(memory.pages()).context("the guest's RAM")?;
    Ok(Arc::new(ram))
}
