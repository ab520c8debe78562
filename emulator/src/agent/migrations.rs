//! An agent's ends of migrations: one thread each, the engine's code in it.

use super::guests::{Guest, Place, Pools};
use super::holds::{Gate, Holds};
use super::net;
use super::residents::Residents;
use super::runtime::Runtime;
use crate::clock::mono_ns;
use crate::control::channel::BlockingSender;
use crate::control::message::{AgentSetup, FromAgent, SourceEnding};
use crate::ids::{HostId, MigrationId, VmId};
use crate::migration::channels::{Channel, GATHER_LIMIT, accept_all, open_all};
use crate::migration::destination::{DestinationControl, DestinationJob, chain, run_destination};
use crate::migration::engine::EngineUnits;
use crate::migration::faults::{Hold, HoldAt};
use crate::migration::guest::{GuestMemory, SourceGuest};
use crate::migration::params::{MigrationParams, PostcopyParams};
use crate::migration::record::{DestinationReport, Phase, SourceReport};
use crate::migration::source::{Observer, Redial, SourceEnd, SourceJob, SourceOutcome, run_source};
use crate::migration::transport::SourceControl;
use crate::migration::wire::Streams;
use crate::migration::wire::hello::ChannelId;
use crate::resident::Ram;
use crate::scenario::{Backing, scale};
use anyhow::{Context, Result, anyhow};
use replay::{VmSpec, VmState};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use traces::units::PAGE_SIZE;

/// Silence after which a destination gives up: emulated hosts do not vanish without a trace, so
/// this only bounds a thread's life.
const SILENCE_MS: u64 = 120_000;

/// How long a source waits for the destination's word after its last byte before it asks the
/// manager: everything that buffers hold has to cross the slowest link first.
const ACKNOWLEDGE_MS: u64 = 60_000;

/// Tells the manager of phases as they begin, and holds the source where faults are planned.
struct Phases {
    out: Arc<BlockingSender>,
    migration: MigrationId,
    holds: Holds,
}

impl Observer for Phases {
    fn phase(&self, phase: Phase, begins: bool, at_ns: u64) {
        if begins {
            let message = FromAgent::Phase {
                migration: self.migration,
                phase,
                at_ns,
            };
            // A manager that has gone needs no news.
            let _ = self.out.send(&message);
        }
    }

    fn before_phase(&self, phase: Phase) {
        self.holds.reach(HoldAt::Phase(phase));
    }

    fn before_round(&self, number: u32) {
        self.holds.reach(HoldAt::Round(number));
    }
}

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
        memory.context("the guest's memory")
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
        let at = VmState::begun(spec).guest_time();
        self.residents
            .add(vm, &memory, ram, spec.vcpus, at, true)
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
        let memory = self.memory(spec, setup)?;
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

    /// Stops a migration, if it is not too late.
    pub(super) fn cancel(&self, migration: MigrationId) {
        if let Some(outgoing) = self.outgoing.get(&migration) {
            outgoing.control.cancel();
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

/// The engine's units of work at a space scale: as many a second as at full size.
#[derive(Debug, Clone, Copy)]
struct Units {
    chunk_pages: u32,
    batch_pages: usize,
    xen_batch_pages: usize,
    packet_pages: usize,
    data_chunk_pages: u32,
    engine: EngineUnits,
}

impl Units {
    fn at(k: u32) -> Self {
        // QEMUFile's 64 pieces are 32 pages; the buffer's scale is that of the batch.
        let batch = 32_u64.div_ceil(u64::from(k.max(1)));
        let pages = |constant: scale::Constant| constant.carried(k).unwrap_or(1);
        Self {
            chunk_pages: u32::try_from(pages(scale::REPROTECT_CHUNK)).unwrap_or(u32::MAX),
            batch_pages: usize::try_from(batch).unwrap_or(1),
            xen_batch_pages: usize::try_from(pages(scale::XEN_BATCH)).unwrap_or(1),
            data_chunk_pages: {
                let pages = pages(scale::CLH_CHUNK).div_ceil(PAGE_SIZE);
                u32::try_from(pages).unwrap_or(u32::MAX)
            },
            packet_pages: {
                let bytes = pages(scale::MULTIFD_PACKET).div_ceil(PAGE_SIZE);
                usize::try_from(bytes).unwrap_or(1)
            },
            engine: EngineUnits {
                check_pages: pages(scale::CHECK_PAGES),
                stop_pages: pages(scale::XEN_STOP_PAGES),
                rounds_stop_pages: pages(scale::ROUNDS_STOP_PAGES),
            },
        }
    }
}

struct IncomingThread {
    migration: MigrationId,
    memory: GuestMemory,
    ram: Option<Arc<Ram>>,
    channels: Vec<ChannelId>,
    streams: Streams,
    packet_pages: usize,
    load_time_ms: u64,
    postcopy: PostcopyParams,
    place: Arc<Place>,
    control: Arc<DestinationControl>,
    abandoned: Arc<AtomicBool>,
    done: Arc<Mutex<Option<DestinationReport>>>,
    out: Arc<BlockingSender>,
}

impl IncomingThread {
    fn run(self, listener: TcpListener) {
        let accepted = accept_all(
            &listener,
            self.migration.0,
            self.memory.vm_key(),
            &self.channels,
            GATHER_LIMIT,
            || self.abandoned.load(Ordering::Acquire),
        );
        let report = match accepted {
            Ok(connections) => {
                let job = DestinationJob {
                    migration: self.migration.0,
                    memory: self.memory,
                    ram: self.ram,
                    load_time_ms: self.load_time_ms,
                    guest: self.place,
                    socket: connections.main,
                    channels: connections.channels,
                    streams: self.streams,
                    packet_pages: self.packet_pages,
                    congestion: None,
                    control: self.control,
                    silence_limit_ms: SILENCE_MS,
                    postcopy: self.postcopy,
                    // Closed with the job: whoever dials then is refused, and knows that it is over.
                    recover: Some(listener),
                };
                run_destination(job).report
            }
            Err(error) => never_began(chain(&error)),
        };
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        let done = FromAgent::DestinationDone {
            migration: self.migration,
            report: Box::new(report),
        };
        // Without a manager nobody is left to be told.
        let _ = self.out.send(&done);
    }
}

fn never_began(error: String) -> DestinationReport {
    DestinationReport {
        error: Some(error),
        ..DestinationReport::empty()
    }
}

struct OutgoingThread {
    migration: MigrationId,
    memory: GuestMemory,
    ram: Option<Arc<Ram>>,
    params: MigrationParams,
    to: SocketAddr,
    congestion: String,
    units: Units,
    guest: Arc<Guest>,
    control: Arc<SourceControl>,
    holds: Holds,
    ended: Ended,
    out: Arc<BlockingSender>,
}

impl OutgoingThread {
    fn run(self) {
        // RAM that is there has what trace time jumped over before the command is taken.
        if let Some(vcpus) = &self.guest.vcpus {
            vcpus.settle(|| self.guest.guest_time());
        }
        // QMP's total-time counts from the command, connecting included.
        let begin_ns = mono_ns();
        let (migration, out) = (self.migration, Arc::clone(&self.out));
        let place = Arc::clone(&self.ended);
        let (outcome, ending, report) = match self.connect() {
            Ok((socket, channels)) => self.send(socket, channels, begin_ns),
            Err(error) => (
                None,
                SourceEnding::Failed,
                SourceReport::unsent(begin_ns, mono_ns(), format!("{error:#}")),
            ),
        };
        let released_ns = mono_ns();
        let ended = EndedSource {
            outcome,
            ending,
            report: report.clone(),
            released_ns,
        };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        let done = FromAgent::SourceDone {
            migration,
            ending,
            report: Box::new(report),
            released_ns,
        };
        // Without a manager nobody is left to be told.
        let _ = out.send(&done);
    }

    fn redial(&self) -> Redial {
        let (to, congestion) = (self.to, self.congestion.clone());
        Box::new(move || net::connect(to, &congestion).map_err(|error| error.errno.into()))
    }

    /// The main connection, then those beside it.
    fn connect(&self) -> Result<(TcpStream, Vec<Channel>)> {
        let connect = || net::connect(self.to, &self.congestion);
        let main = connect()?;
        let channels = open_all(
            self.migration.0,
            self.memory.vm_key(),
            &self.params.channels(),
            || connect().map_err(std::io::Error::other),
        )?;
        Ok((main, channels))
    }

    fn send(
        self,
        socket: TcpStream,
        channels: Vec<Channel>,
        begin_ns: u64,
    ) -> (Option<SourceOutcome>, SourceEnding, SourceReport) {
        let units = self.units;
        let redial = self.redial();
        let job = SourceJob {
            migration: self.migration.0,
            params: self.params,
            guest: Arc::clone(&self.guest) as Arc<dyn SourceGuest>,
            memory: self.memory,
            ram: self.ram,
            socket,
            channels,
            congestion: None,
            control: self.control,
            chunk_pages: units.chunk_pages,
            units: units.engine,
            xen_batch_pages: units.xen_batch_pages,
            packet_pages: units.packet_pages,
            data_chunk_pages: units.data_chunk_pages,
            batch_pages: units.batch_pages,
            acknowledge_limit_ms: ACKNOWLEDGE_MS,
            deadline_ns: None,
            redial: Some(redial),
            faults: Vec::new(),
        };
        let phases = Phases {
            out: self.out,
            migration: self.migration,
            holds: self.holds,
        };
        let outcome = run_source(&job, &phases);
        let ending = match outcome.end {
            SourceEnd::Completed => SourceEnding::Completed,
            SourceEnd::Cancelled => SourceEnding::Cancelled,
            SourceEnd::Failed => SourceEnding::Failed,
            SourceEnd::Undecided => SourceEnding::Undecided,
            SourceEnd::Crashed => SourceEnding::Crashed,
        };
        let report = SourceReport {
            begin_ns,
            writers: self.guest.vcpus.as_ref().map(|vcpus| vcpus.report()),
            ..outcome.report.clone()
        };
        (Some(outcome), ending, report)
    }
}
