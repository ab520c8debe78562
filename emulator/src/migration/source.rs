//! The source: one blocking thread that walks memory, asks the engine, and stops the guest.
//!
//! Inside: what a source is given, how it ends. The phases, in their order, stand in
//! `session.rs`. Never inside: the timeline, the control plane.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};

use thiserror::Error;

use super::channels::{Channel, OpenError};
use super::codec::CodecError;
use super::destination::chain;
use super::engine::EngineUnits;
use super::guest::{GuestMemory, SourceGuest};
use super::ownership::{SourceAction, SourceEvent, SourceSide};
use super::params::MigrationParams;
use super::record::{Decision, Phase, Round, SourceReport, Status};
use super::transport::{Broken, SourceControl, reset_when_closed, status_word};
use super::usage::ThreadMeter;
use super::wire::WireError;
use crate::resident::Ram;
use data::Data;
use multifd::Multifd;
use session::Session;
use traffic::get;

mod content;
mod data;
mod multifd;
mod server;
mod session;
mod traffic;
mod xbzrle;

pub(super) use traffic::Traffic;

/// What a source is to send.
pub struct SourceJob {
    /// Number of the migration in the run.
    pub migration: u32,
    /// Options.
    pub params: MigrationParams,
    /// The guest.
    pub guest: Arc<dyn SourceGuest>,
    /// Its memory.
    pub memory: GuestMemory,
    /// Its RAM, if it is there; else pages are computed.
    pub ram: Option<Arc<Ram>>,
    /// The connection to the destination.
    pub socket: TcpStream,
    /// Its further connections, in the order of [`MigrationParams::channels`].
    pub channels: Vec<Channel>,
    /// Congestion control, by name; `None`: the machine's default.
    pub congestion: Option<String>,
    /// Shared with whoever may cancel or watch.
    pub control: Arc<SourceControl>,
    /// Pages of a re-protect chunk: QEMU's 1 GiB is 2^18 (a byte constant, so it scales with k).
    pub chunk_pages: u32,
    /// The engine's own units at this space scale.
    pub units: EngineUnits,
    /// Pages of a batch under Xen: 1024 at full size.
    pub xen_batch_pages: usize,
    /// Pages of a chunk on Cloud Hypervisor's further connections: 64 MiB at full size.
    pub data_chunk_pages: u32,
    /// Pages of a multifd packet: 128 at full size.
    pub packet_pages: usize,
    /// Pages handed to the socket at once: 32 at full size, QEMUFile's 64 pieces of 2 a page.
    pub batch_pages: usize,
    /// Milliseconds from the last byte to the destination's word, after which the control plane
    /// must decide. Above `load-time` and the time that buffers take to drain.
    pub acknowledge_limit_ms: u64,
    /// Monotonic instant at which the orchestrator gives up.
    pub deadline_ns: Option<u64>,
    /// Dials the destination again, for a post-copy whose connection broke; `None`: it never does.
    pub redial: Option<Redial>,
    /// Deliberate mistakes, so that tests can see verification fail. Empty in every run.
    #[doc(hidden)]
    pub faults: Vec<Fault>,
}

impl SourceJob {
    /// All connections of the migration.
    fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        std::iter::once(&self.socket).chain(self.channels.iter().map(|channel| &channel.socket))
    }
}

impl std::fmt::Debug for SourceJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceJob")
            .field("migration", &self.migration)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// Connects to the destination once more; bounded in time by itself.
pub type Redial = Box<dyn Fn() -> std::io::Result<TcpStream> + Send + Sync>;

/// Mistakes a source could make.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What one harvest found is thrown away; 1 is the first after the setup's.
    SkipHarvest { number: u32 },
    /// The first bits of the final round are cleared without sending their pages.
    ClearDirtyBits { pages: u64 },
    /// Post-copy: the destination is not told which pages it lacks.
    SkipDiscard,
    /// Pages on demand: they are as they were when the guest began.
    ServeStale,
    /// A batch of pages fails after so many were sent: put back into the log, or forgotten.
    LosePages {
        after: u64,
        pages: u64,
        put_back: bool,
    },
}

/// Why a migration did not complete.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The connection broke.
    #[error("the connection to the destination")]
    Io(#[source] std::io::Error),
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A fault: the guest's process died.
    #[error("the process of the VM died at the source")]
    Crashed,
    /// The manager says so.
    #[error("the destination is dead or has given up: no word will come from it")]
    DestinationGone,
    /// The manager says so.
    #[error("the destination's word did not come, and the manager knows that the guest runs there")]
    Unheard,
    /// The orchestrator's time limit.
    #[error("the completion timeout passed")]
    Deadline,
    /// The engine's own.
    #[error(
        "the engine's timeout of {ms} ms passed and what is left does not fit into the downtime"
    )]
    Timeout {
        /// The limit.
        ms: u64,
    },
    /// The destination said that it will never start the guest.
    #[error("the destination refused ({value})")]
    Refused {
        /// Value of its SHUT; 1 where the format has none.
        value: u32,
    },
    /// The destination said nothing in time.
    #[error("no word from the destination within {ms} ms of the last byte")]
    NoWord {
        /// The limit.
        ms: u64,
    },
    /// A channel's codec.
    #[error(transparent)]
    Codec(CodecError),
    /// Post-copy: the connection broke and could not be taken up again. The guest runs at the
    /// destination or is lost.
    #[error("post-copy was interrupted and not taken up again within {tries} tries in {ms} ms")]
    NotRecovered {
        /// So often.
        tries: u32,
        /// For so long.
        ms: u64,
        /// What broke it.
        #[source]
        source: Box<SourceError>,
    },
    /// A connection that belongs to it could not be opened.
    #[error("a connection beside the stream could not be opened")]
    Channel(#[from] OpenError),
    /// Pages on demand: the destination closed the connection over which it asks for them. The guest runs
    /// there or is lost.
    #[error(
        "the destination closed the fault connection, and {pages} pages had not been asked for"
    )]
    PagesUnserved {
        /// So many.
        pages: u64,
    },
    /// The destination said something else.
    #[error(transparent)]
    ReturnPath(#[from] WireError),
}

/// How it ended, for the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceEnd {
    /// QEMU would say `completed`. Without a return path nobody has vouched for the destination
    /// yet: [`SourceOutcome::side`] tells whether it was released.
    Completed,
    /// Cancelled, or out of time; the guest runs here.
    Cancelled,
    /// Failed; the guest runs here.
    Failed,
    /// Everything was sent and no word came back, or a post-copy was interrupted for good; the guest
    /// is paused until [`SourceOutcome::resolve`].
    Undecided,
    /// The guest's process died here.
    Crashed,
}

/// What a source ends with.
#[derive(Debug)]
pub struct SourceOutcome {
    /// The account.
    pub report: SourceReport,
    /// How it ended.
    pub end: SourceEnd,
    /// The source's claim to the guest.
    pub side: SourceSide,
}

impl SourceOutcome {
    /// The control plane knows whether the destination committed (`false` only if it also cannot
    /// any more: abandoned, or dead without a commit record). `false` lets the guest run here.
    pub fn resolve(&mut self, guest: &dyn SourceGuest, committed: bool) {
        let (side, action) = self.side.on(SourceEvent::Resolved { committed });
        self.side = side;
        if action == SourceAction::Resume {
            guest.resume();
        }
    }
}

/// Told of what happens, as it happens, from the source's thread. Only `before_phase` and
/// `before_round` may block.
pub trait Observer: Send + Sync {
    /// A phase has begun and nothing of it is done: a fault plan holds the source here until what is
    /// planned is in effect.
    fn before_phase(&self, _phase: Phase) {}
    /// The same of a round.
    fn before_round(&self, _number: u32) {}
    /// A phase begins or ends.
    fn phase(&self, _phase: Phase, _begins: bool, _at_ns: u64) {}
    /// The log was read and a round begins: QMP's `MIGRATION_PASS`.
    fn pass(&self, _round: &Round) {}
    /// A round ended.
    fn round(&self, _round: &Round) {}
    /// The switchover rule read the log or ended the rounds.
    fn decision(&self, _decision: &Decision) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// Sends one migration. Blocks until it has ended.
///
/// Ownership: while the last byte has not been handed to the socket, every failure leaves the
/// guest running here. Afterwards only the destination's word decides: SHUT 0 releases it, any
/// other SHUT resumes it here, and none leaves it paused and undecided. In post-copy the same holds
/// of the package's last byte until the destination says that the guest runs there; from then on it
/// never runs here again, and its pages are kept until the destination has them all.
#[must_use]
pub fn run_source(job: &SourceJob, observer: &dyn Observer) -> SourceOutcome {
    let meter = ThreadMeter::start();
    let traffic = Traffic::default();
    let faults = OnceLock::new();
    let (mut session, result, end) = std::thread::scope(|scope| {
        let multifd = Multifd::start(scope, job, &traffic);
        let data = Data::start(scope, job, &traffic);
        let mut session = Session::new(job, observer, multifd, data, &traffic, &faults);
        let result = session.run().map_err(|error| job.control.explain(error));
        job.control.detach();
        let broken = job.control.broken();
        if let Some(Broken::Reset | Broken::Crashed) = broken {
            let all = job.sockets().chain(faults.get());
            all.for_each(reset_when_closed);
        }
        session.end_channels(result.is_err());
        if matches!(broken, Some(Broken::PeerGone | Broken::PeerRuns) | None) {
            for socket in job.sockets().chain(faults.get()) {
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
        let end = session.conclude(result.as_ref().err());
        (session, result, end)
    });
    let status = match end {
        SourceEnd::Completed => Status::Completed,
        SourceEnd::Cancelled => Status::Cancelled,
        // Too late for the source alone; the guest is at the destination if that had started it.
        SourceEnd::Undecided if matches!(result, Err(SourceError::Cancelled)) => Status::Cancelled,
        SourceEnd::Failed | SourceEnd::Undecided | SourceEnd::Crashed => Status::Failed,
    };
    session.publish(status_word(status));
    let (cpu_ns, run_queue_ns) = meter.used_ns();
    let statistics = session.engine.statistics();
    let report = SourceReport {
        status,
        error: result.err().map(|error| chain(&error)),
        begin_ns: session.begin_ns,
        setup_end_ns: session.setup_end_ns,
        stop_ns: session.stop_ns,
        suspended_ns: session.suspended.map(|(at_ns, _)| at_ns),
        end_ns: session.end_ns,
        bytes: session.bytes(),
        multifd_bytes: if job.params.multifd.enabled {
            get(&traffic.accepted)
        } else {
            0
        },
        xbzrle: session.xbzrle_report(),
        parameters: session.changes,
        phases: session.phases,
        rounds: session.rounds,
        decisions: session.decisions,
        throttles: session.throttles,
        precopy_bytes: session.precopy_bytes,
        downtime_bytes: session.downtime_bytes,
        dirty_sync_count: statistics.dirty_sync_count,
        dirty_pages_rate: statistics.dirty_pages_rate,
        pages_per_second: statistics.pages_per_second,
        tcp: std::mem::take(&mut session.out.tcp),
        cpu_ns: cpu_ns + get(&traffic.cpu_ns),
        run_queue_ns: run_queue_ns + get(&traffic.run_queue_ns),
        writers: None,
        postcopy: session.postcopy,
    };
    SourceOutcome {
        report,
        end,
        side: session.side,
    }
}
