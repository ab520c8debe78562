//! The source: one blocking thread that walks memory, asks the engine, and stops the guest.
//!
//! The phases stand in [`Session::run`] in their order. Decisions are the engine's
//! (`engine::qemu`), bytes the encoder's (`wire`), batches the transport's. Never inside: the
//! timeline, the control plane.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use replay::{Bitmap, DirtyLog, GuestTime, Reprotect as LogReprotect};
use thiserror::Error;

use super::destination::chain;
use super::engine::qemu::{Observed, PAGE_BYTES, QemuEngine, Slice, Step};
use super::guest::{GuestMemory, SourceGuest};
use super::ownership::{SourceAction, SourceEvent, SourceSide};
use super::params::{MigrationParams, Reprotect};
use super::record::{Decision, Phase, PhaseSpan, Round, SourceReport, Status};
use super::transport::{PageStream, Progress, SourceControl, prepare_socket, status_word};
use super::usage::ThreadMeter;
use super::wire::{Encoder, Header, SHUT_BYTES, WireError, decode_shut};
use crate::clock::mono_ns;

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
    /// The connection to the destination.
    pub socket: TcpStream,
    /// Congestion control, by name; `None`: the machine's default.
    pub congestion: Option<String>,
    /// Shared with whoever may cancel or watch.
    pub control: Arc<SourceControl>,
    /// Pages of a re-protect chunk: QEMU's 1 GiB is 2^18 (a byte constant, so it scales with k).
    pub chunk_pages: u32,
    /// Milliseconds from the last byte to the destination's word, after which the control plane
    /// must decide. Above `load-time` and the time that buffers take to drain.
    pub acknowledge_limit_ms: u64,
    /// Monotonic instant at which the orchestrator gives up.
    pub deadline_ns: Option<u64>,
    /// Deliberate mistakes, so that tests can see verification fail. Empty in every run.
    #[doc(hidden)]
    pub faults: Vec<Fault>,
}

impl std::fmt::Debug for SourceJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceJob")
            .field("migration", &self.migration)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// Mistakes a source could make.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What one harvest found is thrown away; 1 is the first after the setup's.
    SkipHarvest { number: u32 },
    /// The first bits of the final round are cleared without sending their pages.
    ClearDirtyBits { pages: u64 },
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
    /// The orchestrator's time limit.
    #[error("the completion timeout passed")]
    Deadline,
    /// The destination said that it will never start the guest.
    #[error("the destination refused (SHUT {value})")]
    Refused {
        /// Value of its SHUT.
        value: u32,
    },
    /// The destination said nothing in time.
    #[error("no word from the destination within {ms} ms of the last byte")]
    NoWord {
        /// The limit.
        ms: u64,
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
    /// Everything was sent and no word came back; the guest is paused until
    /// [`SourceOutcome::resolve`].
    Undecided,
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

/// Told of what happens, as it happens, from the source's thread: must not block.
pub trait Observer: Send + Sync {
    /// A phase begins or ends.
    fn phase(&self, _phase: Phase, _begins: bool, _at_ns: u64) {}
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
/// other SHUT resumes it here, and none leaves it paused and undecided.
#[must_use]
pub fn run_source(job: &SourceJob, observer: &dyn Observer) -> SourceOutcome {
    let meter = ThreadMeter::start();
    let mut session = Session::new(job, observer);
    let result = session.run();
    job.control.detach();
    let _ = job.socket.shutdown(Shutdown::Write);
    let end = session.conclude(result.as_ref().err());
    let status = match end {
        SourceEnd::Completed => Status::Completed,
        SourceEnd::Cancelled => Status::Cancelled,
        SourceEnd::Failed | SourceEnd::Undecided => Status::Failed,
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
        end_ns: session.end_ns,
        phases: session.phases,
        rounds: session.rounds,
        decisions: session.decisions,
        bytes: session.out.bytes,
        precopy_bytes: session.precopy_bytes,
        downtime_bytes: session.downtime_bytes,
        dirty_sync_count: statistics.dirty_sync_count,
        dirty_pages_rate: statistics.dirty_pages_rate,
        pages_per_second: statistics.pages_per_second,
        tcp: std::mem::take(&mut session.out.tcp),
        cpu_ns,
        run_queue_ns,
    };
    SourceOutcome {
        report,
        end,
        side: session.side,
    }
}

struct Session<'a> {
    job: &'a SourceJob,
    observer: &'a dyn Observer,
    out: PageStream<'a>,
    encoder: Encoder,
    engine: QemuEngine,
    side: SourceSide,
    log: DirtyLog,
    dirty: Bitmap,
    remaining_pages: u64,
    /// Where the walk goes on, in address order, wrapping.
    cursor: u32,
    /// Guest time of the batch being gathered: its pages are read at that instant.
    batch_time: Option<GuestTime>,
    sent_pages: u64,
    round: Round,
    round_begin_bytes: u64,
    begin_ns: u64,
    setup_end_ns: u64,
    stop_ns: Option<u64>,
    end_ns: u64,
    precopy_bytes: u64,
    downtime_bytes: u64,
    phases: Vec<PhaseSpan>,
    rounds: Vec<Round>,
    decisions: Vec<Decision>,
    lost: u64,
}

impl<'a> Session<'a> {
    fn new(job: &'a SourceJob, observer: &'a dyn Observer) -> Self {
        let begin_ns = mono_ns();
        let pages = job.memory.pages();
        let policy = match job.params.reprotect {
            Reprotect::Lazy => LogReprotect::Lazy {
                chunk_pages: job.chunk_pages.max(1),
            },
            Reprotect::AtSync => LogReprotect::AtSync,
        };
        Self {
            job,
            observer,
            out: PageStream::new(&job.socket, &job.control, job.deadline_ns),
            encoder: Encoder::default(),
            engine: QemuEngine::new(&job.params, begin_ns, &Observed::default()),
            side: SourceSide::Running,
            log: DirtyLog::start(pages, policy, job.guest.guest_time()),
            dirty: Bitmap::full(pages),
            remaining_pages: u64::from(pages),
            cursor: 0,
            batch_time: None,
            sent_pages: 0,
            round: Round::default(),
            round_begin_bytes: 0,
            begin_ns,
            setup_end_ns: begin_ns,
            stop_ns: None,
            end_ns: begin_ns,
            precopy_bytes: 0,
            downtime_bytes: 0,
            phases: Vec::new(),
            rounds: Vec::new(),
            decisions: Vec::new(),
            lost: 0,
        }
    }

    fn run(&mut self) -> Result<(), SourceError> {
        self.phase(Phase::Handshake, Self::handshake)?;
        self.phase(Phase::Rounds, Self::rounds)?;
        let stopped_at = self.phase(Phase::Pause, Self::pause)?;
        self.phase(Phase::FinalRound, |session| session.final_round(stopped_at))?;
        self.phase(Phase::State, Self::state)?;
        self.phase(Phase::Switchover, Self::switchover)
    }

    fn phase<T>(
        &mut self,
        phase: Phase,
        act: impl FnOnce(&mut Self) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let begin_ns = mono_ns();
        self.observer.phase(phase, true, begin_ns);
        let result = act(self);
        let end_ns = mono_ns();
        self.phases.push(PhaseSpan {
            phase,
            begin_ns,
            end_ns,
        });
        self.observer.phase(phase, false, end_ns);
        result
    }

    /// Header, RAM list, dirty log. The first sync finds every page.
    fn handshake(&mut self) -> Result<(), SourceError> {
        self.job.control.attach(&self.job.socket)?;
        prepare_socket(&self.job.socket, self.job.congestion.as_deref())
            .map_err(SourceError::Io)?;
        let header = Header {
            migration: self.job.migration,
            vm_key: self.job.memory.vm_key(),
            memory_check: self.job.memory.check(),
            ram_pages: self.job.memory.pages(),
            return_path: self.job.params.return_path,
        };
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.setup(&header, bytes));
        self.out.flush()?;
        let now = mono_ns();
        self.engine = QemuEngine::new(&self.job.params, now, &self.observed());
        self.engine.synced(now, 0, self.remaining_pages);
        self.setup_end_ns = now;
        self.begin_round(now, self.remaining_pages);
        self.publish("active");
        Ok(())
    }

    /// Pages while the guest runs, until the engine says to stop it.
    fn rounds(&mut self) -> Result<(), SourceError> {
        loop {
            self.out.may_go_on()?;
            let observed = self.observed();
            let step = self.engine.next(mono_ns(), &observed);
            if let Some(decision) = self.engine.take_decision() {
                self.observer.decision(&decision);
                self.decisions.push(decision);
            }
            match step {
                Step::Sync => self.sync(self.job.guest.guest_time(), false),
                Step::SendSlice(slice) => self.send_section(slice, false)?,
                Step::SleepUntil(at_ns) => self.job.control.wait_until(at_ns)?,
                Step::Complete => return Ok(()),
            }
            self.publish("active");
        }
    }

    /// The guest stops. Until the last byte is handed over, any failure lets it run again here.
    fn pause(&mut self) -> Result<GuestTime, SourceError> {
        self.stop_ns = Some(mono_ns());
        let stopped_at = self.job.guest.pause();
        self.side = self.side.on(SourceEvent::Pause).0;
        self.precopy_bytes = self.out.bytes.total();
        self.publish("device");
        Ok(stopped_at)
    }

    /// The last harvest, and everything left, with no rate limit.
    fn final_round(&mut self, stopped_at: GuestTime) -> Result<(), SourceError> {
        self.sync(stopped_at, true);
        self.clear_dirty_bits();
        self.send_section(Slice::unlimited(), true)?;
        self.end_round(mono_ns());
        Ok(())
    }

    fn state(&mut self) -> Result<(), SourceError> {
        let state = postcard::to_stdvec(&self.job.guest.take_state())
            .expect("a guest's state is plain data");
        let total = self.job.params.device_state_bytes;
        let encoder = &mut self.encoder;
        self.out.bytes.device += self
            .out
            .put(|bytes| encoder.device_state(&state, total, bytes));
        self.out.flush()
    }

    /// The commit point of the stream. Before its last byte the destination cannot commit; once
    /// the socket has taken it (it goes alone, so that a failed write has not delivered it), nothing
    /// but the destination's word lets the guest run here again.
    fn switchover(&mut self) -> Result<(), SourceError> {
        self.job.control.enter_switchover()?;
        let limit_ms = self.job.acknowledge_limit_ms;
        let deadline_ns = mono_ns() + limit_ms * 1_000_000;
        self.out.set_deadline(Some(deadline_ns));
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.end(bytes));
        self.out.flush()?;
        self.side = self.side.on(SourceEvent::LastByte).0;
        self.downtime_bytes = self.out.bytes.total() - self.precopy_bytes;
        if !self.job.params.return_path {
            // QEMU is complete here; ours waits for the control plane's word with the guest paused.
            self.end_ns = mono_ns();
            return Ok(());
        }
        let value = self.read_shut(deadline_ns)?;
        self.end_ns = mono_ns();
        if value != 0 {
            self.side_on(SourceEvent::Refused);
            return Err(SourceError::Refused { value });
        }
        self.side_on(SourceEvent::Acknowledged);
        Ok(())
    }

    fn read_shut(&mut self, deadline_ns: u64) -> Result<u32, SourceError> {
        let mut message = [0; SHUT_BYTES];
        let mut filled = 0;
        while filled < SHUT_BYTES {
            match (&self.job.socket).read(&mut message[filled..]) {
                Ok(0) => return Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => filled += bytes,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        if mono_ns() >= deadline_ns {
                            return Err(SourceError::NoWord {
                                ms: self.job.acknowledge_limit_ms,
                            });
                        }
                    }
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
        Ok(decode_shut(&message)?)
    }

    /// Ends the ownership question as far as the source can; what QMP would call the outcome.
    fn conclude(&mut self, error: Option<&SourceError>) -> SourceEnd {
        let Some(error) = error else {
            if self.side == SourceSide::Waiting {
                self.side_on(SourceEvent::Failed); // no return path: the control plane's word
            }
            return SourceEnd::Completed;
        };
        self.end_ns = mono_ns();
        self.side_on(SourceEvent::Failed);
        if self.round.begin_ns > self.round.end_ns {
            self.end_round(self.end_ns); // the round it failed in counts too
        }
        match error {
            _ if self.side == SourceSide::Undecided => SourceEnd::Undecided,
            SourceError::Cancelled | SourceError::Deadline => SourceEnd::Cancelled,
            _ => SourceEnd::Failed,
        }
    }

    fn side_on(&mut self, event: SourceEvent) {
        let (side, action) = self.side.on(event);
        self.side = side;
        if action == SourceAction::Resume {
            self.job.guest.resume();
        }
    }

    /// Reads the dirty log: the round ends before it, the next begins after it.
    fn sync(&mut self, at: GuestTime, last: bool) {
        self.end_round(mono_ns());
        let model = self.job.memory.model();
        let skip = Fault::SkipHarvest {
            number: self.round.number + 1,
        };
        let new = if self.job.faults.contains(&skip) {
            self.log.sync(model, at, &mut Bitmap::new(self.dirty.len()));
            0
        } else {
            self.log.sync(model, at, &mut self.dirty)
        };
        self.remaining_pages += new;
        let now = mono_ns();
        self.engine.synced(now, new, self.remaining_pages);
        self.round.number += 1;
        self.round.paused = last;
        self.begin_round(now, new);
    }

    fn begin_round(&mut self, at_ns: u64, new_dirty_pages: u64) {
        let Round { number, paused, .. } = self.round;
        self.round_begin_bytes = self.out.bytes.total();
        self.round = Round {
            number,
            paused,
            begin_ns: at_ns,
            dirty_pages: self.remaining_pages,
            new_dirty_pages,
            ..Round::default()
        };
    }

    fn end_round(&mut self, at_ns: u64) {
        self.round.end_ns = at_ns;
        self.round.sent_bytes = self.out.bytes.total() - self.round_begin_bytes;
        self.observer.round(&self.round);
        self.rounds.push(self.round);
    }

    /// One slice: its mark, pages, end of section; all of it flushed.
    fn send_section(&mut self, mut slice: Slice, last: bool) -> Result<(), SourceError> {
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.section(last, bytes));
        while slice.has_credit(self.out.accepted()) {
            let Some(page) = self.dirty.next_set_wrapping(self.cursor) else {
                break;
            };
            self.send_page(page)?;
            if !slice.page_sent(mono_ns) {
                break;
            }
        }
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.end_of_section(bytes));
        self.flush()
    }

    /// Its bit is cleared as it is sent; later writes show at the next sync. The guest time of the
    /// batch is not before the chunk's clearing, so no write falls between the two.
    fn send_page(&mut self, page: u32) -> Result<(), SourceError> {
        self.dirty.clear(page);
        self.remaining_pages -= 1;
        self.cursor = if page + 1 < self.dirty.len() {
            page + 1
        } else {
            0
        };
        if self.loses(page) {
            return Ok(());
        }
        let now = match self.batch_time {
            Some(now) => now,
            None => *self.batch_time.insert(self.job.guest.guest_time()),
        };
        self.log.before_send(page, now);
        let memory: &'a GuestMemory = &self.job.memory;
        let version = memory.version_at(page, now);
        let encoder = &mut self.encoder;
        if memory.is_zero(page, version) {
            self.out.bytes.header += self.out.put(|bytes| encoder.zero_page(page, bytes));
            self.round.zero_pages += 1;
        } else {
            let (stamp, body) = memory.page(page, version);
            let stamp = stamp.encode();
            let put = self.out.put(|bytes| {
                encoder.page_header(page, bytes);
                bytes.extend_from_slice(&stamp);
            });
            self.out.put_body(body);
            self.out.bytes.header += put - stamp.len() as u64;
            self.out.bytes.normal += PAGE_BYTES;
            self.round.normal_pages += 1;
        }
        self.sent_pages += 1;
        if self.out.is_full() {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), SourceError> {
        self.batch_time = None;
        self.out.flush()
    }

    /// Whether a fault makes this page fail on its way.
    fn loses(&mut self, page: u32) -> bool {
        for fault in &self.job.faults {
            if let Fault::LosePages {
                after,
                pages,
                put_back,
            } = *fault
                && self.sent_pages >= after
                && self.lost < pages
            {
                self.lost += 1;
                if put_back {
                    let mut back = Bitmap::new(self.dirty.len());
                    back.set(page);
                    self.log.put_back(&back);
                }
                return true;
            }
        }
        false
    }

    /// The other fault of the bitmap.
    fn clear_dirty_bits(&mut self) {
        for fault in &self.job.faults {
            let Fault::ClearDirtyBits { pages } = *fault else {
                continue;
            };
            for _ in 0..pages {
                let Some(page) = self.dirty.next_set(0) else {
                    break;
                };
                self.dirty.clear(page);
                self.remaining_pages -= 1;
            }
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            dirty_pages: self.remaining_pages,
            accepted_bytes: self.out.accepted(),
            sent_pages: self.sent_pages,
        }
    }

    fn publish(&self, status: &'static str) {
        let statistics = self.engine.statistics();
        self.job.control.publish(Progress {
            status,
            transferred_bytes: self.out.accepted(),
            remaining_bytes: self.remaining_pages * PAGE_BYTES,
            round: self.round.number,
            mbps: statistics.mbps,
            expected_downtime_ms: statistics.expected_downtime_ms,
            dirty_pages_rate: statistics.dirty_pages_rate,
        });
    }
}
