//! The two threads: a migration's at its source, and the one at its destination.

use super::super::guests::{Guest, Place};
use super::super::holds::Holds;
use super::super::net;
use super::units::Units;
use super::{Ended, EndedSource};
use crate::clock::mono_ns;
use crate::control::channel::BlockingSender;
use crate::control::message::{FromAgent, SourceEnding};
use crate::ids::MigrationId;
use crate::migration::channels::{Channel, GATHER_LIMIT, accept_all, open_all};
use crate::migration::destination::{DestinationControl, DestinationJob, chain, run_destination};
use crate::migration::faults::HoldAt;
use crate::migration::guest::{GuestMemory, SourceGuest};
use crate::migration::params::{MigrationParams, PostcopyParams};
use crate::migration::record::{DestinationReport, Phase, Round, SourceReport};
use crate::migration::source::{Observer, Redial, SourceEnd, SourceJob, SourceOutcome, run_source};
use crate::migration::transport::SourceControl;
use crate::migration::wire::Streams;
use crate::migration::wire::hello::ChannelId;
use crate::resident::Ram;
use anyhow::Result;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use traces::units::PAGE_SIZE;

/// How long a destination waits for the next byte, and a source for the destination's word after its last byte. The
/// originals wait for TCP, as ours do, which gives up what is not acknowledged after `tcp_retries2` = 15 retransmissions:
/// with the shortest time-out that Linux has, 0.2 s, doubled up to 120 s, 924.6 s. Where nothing is under way TCP never
/// gives up, and nor do they; so that no thread waits for ever, that is the limit here too.
const PATIENCE_MS: u64 = 925_000;

/// Tells the manager of phases as they begin, and holds the source where faults are planned.
struct Phases {
    control: Arc<SourceControl>,
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

    fn pass(&self, round: &Round) {
        if !round.paused {
            let message = FromAgent::Progress {
                migration: self.migration,
                remaining_bytes: round.dirty_pages * PAGE_SIZE,
                round: round.number,
                mbps: self.control.progress().mbps,
                paused: false,
                pass: true,
            };
            let _ = self.out.send(&message);
        }
    }

    fn before_round(&self, number: u32) {
        self.holds.reach(HoldAt::Round(number));
    }
}

pub(super) struct IncomingThread {
    pub(super) migration: MigrationId,
    pub(super) memory: GuestMemory,
    pub(super) ram: Option<Arc<Ram>>,
    pub(super) channels: Vec<ChannelId>,
    pub(super) streams: Streams,
    pub(super) packet_pages: usize,
    pub(super) load_time_ms: u64,
    pub(super) postcopy: PostcopyParams,
    pub(super) place: Arc<Place>,
    pub(super) control: Arc<DestinationControl>,
    pub(super) abandoned: Arc<AtomicBool>,
    pub(super) done: Arc<Mutex<Option<DestinationReport>>>,
    pub(super) out: Arc<BlockingSender>,
}

impl IncomingThread {
    pub(super) fn run(self, listener: TcpListener) {
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
                    silence_limit_ms: PATIENCE_MS,
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

pub(super) struct OutgoingThread {
    pub(super) migration: MigrationId,
    pub(super) memory: GuestMemory,
    pub(super) ram: Option<Arc<Ram>>,
    pub(super) params: MigrationParams,
    pub(super) to: SocketAddr,
    pub(super) congestion: String,
    pub(super) units: Units,
    pub(super) guest: Arc<Guest>,
    pub(super) control: Arc<SourceControl>,
    pub(super) holds: Holds,
    pub(super) ended: Ended,
    pub(super) out: Arc<BlockingSender>,
}

impl OutgoingThread {
    pub(super) fn run(self) {
        // RAM that is there has what trace time jumped over before the command is taken.
        if let Some(vcpus) = &self.guest.vcpus {
            vcpus.settle(|| self.guest.reading());
        }
        // QMP's total-time counts from the command, connecting included.
        let begin_ns = mono_ns();
        let (migration, out) = (self.migration, Arc::clone(&self.out));
        // Without a manager nobody is left to be told.
        let _ = out.send(&FromAgent::Begun {
            migration,
            at_ns: begin_ns,
        });
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
        let keep_alive = self.params.sockets.of(self.params.engine);
        Box::new(move || net::dial(to, &congestion, keep_alive).map_err(|error| error.errno.into()))
    }

    /// The main connection, then those beside it.
    fn connect(&self) -> Result<(TcpStream, Vec<Channel>)> {
        let keep_alive = self.params.sockets.of(self.params.engine);
        let connect = || net::dial(self.to, &self.congestion, keep_alive);
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
            acknowledge_limit_ms: PATIENCE_MS,
            deadline_ns: None,
            redial: Some(redial),
            faults: Vec::new(),
        };
        let phases = Phases {
            control: Arc::clone(&job.control),
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
