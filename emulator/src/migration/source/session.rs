//! One migration at its source, phase by phase.
//!
//! `run` reads as the list of phases. Decisions are the engine's (`engine`), bytes the encoder's
//! (`wire`), batches the transport's; `send` walks the bitmap.

mod log;
mod on_demand;
mod pull;
mod send;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::OnceLock;

use log::Log;
use replay::{Bitmap, GuestTime, Reprotect as LogReprotect};

use super::data::Data;
use super::multifd::Multifd;
use super::traffic::{Traffic, get};
use super::xbzrle::Xbzrle;
use super::{Fault, Observer, SourceEnd, SourceError, SourceJob};
use crate::clock::mono_ns;
use crate::migration::engine::Engine;
use crate::migration::engine::step::{Observed, PAGE_BYTES, Pass, Slice, Step};
use crate::migration::ownership::{SourceAction, SourceEvent, SourceSide};
use crate::migration::params::MigrationParams;
use crate::migration::params::Reprotect;
use crate::migration::record::{
    BytesByKind, Decision, ParameterStep, Phase, PhaseSpan, PostcopySource, Round, ThrottleStep,
    XbzrleReport,
};
use crate::migration::transport::{PageStream, Progress, prepare_socket};
use crate::migration::wire::cloud_hypervisor::{self as cloud, Request};
use crate::migration::wire::{Encoder, Format, Header, SHUT_BYTES, decode_shut, xen};

pub(super) struct Session<'a> {
    job: &'a SourceJob,
    observer: &'a dyn Observer,
    pub(super) out: PageStream<'a>,
    encoder: Encoder,
    multifd: Option<Multifd<'a>>,
    data: Option<Data<'a>>,
    traffic: &'a Traffic,
    /// The connection over which pages are asked for, once there is one.
    faults: &'a OnceLock<TcpStream>,
    xbzrle: Option<Xbzrle>,
    format: Format,
    pub(super) engine: Engine,
    pub(super) side: SourceSide,
    log: Log<'a>,
    dirty: Bitmap,
    remaining_pages: u64,
    /// Where the walk goes on, in address order, wrapping.
    cursor: u32,
    /// Guest time of the batch being gathered: its pages are read at that instant.
    batch_time: Option<GuestTime>,
    /// Put into the main stream.
    sent_pages: u64,
    delta_pages: u64,
    round: Round,
    round_begin_bytes: u64,
    /// Normal and zero pages of channels when it began.
    round_begin_pages: (u64, u64),
    pub(super) begin_ns: u64,
    pub(super) setup_end_ns: u64,
    pub(super) stop_ns: Option<u64>,
    pub(super) end_ns: u64,
    pub(super) precopy_bytes: u64,
    pub(super) downtime_bytes: u64,
    pub(super) phases: Vec<PhaseSpan>,
    pub(super) rounds: Vec<Round>,
    pub(super) decisions: Vec<Decision>,
    lost: u64,
    sections: u64,
    published_ns: u64,
    pub(super) throttles: Vec<ThrottleStep>,
    pub(super) postcopy: Option<PostcopySource>,
    /// As they are now.
    params: MigrationParams,
    pub(super) changes: Vec<ParameterStep>,
    /// When the orchestrator stopped the guest, and where it was then.
    pub(super) suspended: Option<(u64, GuestTime)>,
}

/// How often live figures are renewed within a pass.
const PUBLISH_NS: u64 = 100_000_000;

fn engine(job: &SourceJob, now_ns: u64, observed: &Observed) -> Engine {
    Engine::new(&job.params, job.units, now_ns, observed)
}

impl<'a> Session<'a> {
    pub(super) fn new(
        job: &'a SourceJob,
        observer: &'a dyn Observer,
        multifd: Option<Multifd<'a>>,
        data: Option<Data<'a>>,
        traffic: &'a Traffic,
        faults: &'a OnceLock<TcpStream>,
    ) -> Self {
        let begin_ns = mono_ns();
        let pages = job.memory.pages();
        let policy = match job.params.effective_reprotect() {
            Reprotect::Lazy => LogReprotect::Lazy {
                chunk_pages: job.chunk_pages.max(1),
            },
            Reprotect::AtSync => LogReprotect::AtSync,
        };
        Self {
            job,
            observer,
            out: PageStream::new(&job.socket, &job.control, job.batch_pages, job.deadline_ns)
                .watching(job.channels.iter().map(|channel| &channel.socket), traffic),
            encoder: Encoder::default(),
            multifd,
            data,
            traffic,
            faults,
            xbzrle: (job.params.xbzrle.enabled).then(|| Xbzrle::new(job.params.xbzrle.cache_size)),
            format: job.params.engine.format(),
            engine: engine(job, begin_ns, &Observed::default()),
            side: SourceSide::Running,
            log: Log::start(job, policy),
            dirty: Bitmap::full(pages),
            remaining_pages: u64::from(pages),
            cursor: 0,
            batch_time: None,
            sent_pages: 0,
            delta_pages: 0,
            round: Round::default(),
            round_begin_bytes: 0,
            round_begin_pages: (0, 0),
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
            sections: 0,
            published_ns: begin_ns,
            throttles: Vec::new(),
            postcopy: None,
            params: job.params.clone(),
            changes: Vec::new(),
            suspended: None,
        }
    }

    pub(super) fn run(&mut self) -> Result<(), SourceError> {
        self.phase(Phase::Handshake, Self::handshake)?;
        let postcopy = self.phase(Phase::Rounds, Self::rounds)?;
        let stopped_at = self.phase(Phase::Pause, Self::pause)?;
        if postcopy && self.job.params.pages_on_demand() {
            return self.serve_on_demand(stopped_at);
        }
        if postcopy {
            let last = self.phase(Phase::State, |session| session.package(stopped_at))?;
            self.phase(Phase::Switchover, |session| session.hand_over(last))?;
            return self.phase(Phase::Pull, Self::pull);
        }
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
        self.observer.before_phase(phase);
        let result = self.out.may_go_on().and_then(|()| act(self));
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
        if self.job.params.may_postcopy() && !self.job.params.pages_on_demand() {
            self.job.control.allow_postcopy();
        }
        self.job.control.attach(self.job.sockets())?;
        for socket in self.job.sockets() {
            prepare_socket(socket, self.job.congestion.as_deref()).map_err(SourceError::Io)?;
        }
        let header = Header {
            migration: self.job.migration,
            vm_key: self.job.memory.vm_key(),
            memory_check: self.job.memory.check(),
            ram_pages: self.job.memory.pages(),
            return_path: self.job.params.waits_for_destination(),
            postcopy: self.job.params.may_postcopy(),
            format: self.format,
            streams: self.job.params.streams(),
        };
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.setup(&header, bytes));
        match self.format {
            Format::Qemu => self.sync_channels()?,
            Format::Xen => self.out.bytes.control += self.out.put(xen::opening),
            Format::CloudHypervisor => {
                self.request(Request::Start)?;
                self.request(Request::Config)?;
            }
        }
        self.out.flush()?;
        let now = mono_ns();
        self.engine = engine(self.job, now, &self.observed());
        self.engine.synced(now, 0, self.remaining_pages);
        self.setup_end_ns = now;
        self.begin_round(now, self.remaining_pages);
        self.publish("active");
        Ok(())
    }

    /// Pages while the guest runs, until the engine says to stop it: whether for post-copy.
    fn rounds(&mut self) -> Result<bool, SourceError> {
        loop {
            self.out.may_go_on()?;
            if let Some(multifd) = &self.multifd {
                multifd.check()?;
            }
            self.obey();
            let observed = self.observed();
            let step = self.engine.next(mono_ns(), &observed);
            if let Some(decision) = self.engine.take_decision() {
                self.observer.decision(&decision);
                self.decisions.push(decision);
            }
            match step {
                Step::Sync => self.sync(self.job.guest.guest_time(), false),
                Step::SendSlice(slice) => self.send_section(slice, false)?,
                Step::SendPass(pass) => self.send_pass(pass)?,
                Step::SleepUntil(at_ns) => self.job.control.wait_until(at_ns)?,
                Step::Complete => return Ok(false),
                Step::StartPostcopy => return Ok(true),
                Step::GiveUp => {
                    let ms = self.job.params.timeout;
                    return Err(SourceError::Timeout { ms });
                }
            }
            self.publish("active");
        }
    }

    /// What an operator or the orchestrator wants changed.
    fn obey(&mut self) {
        if let Some(change) = self.job.control.take_parameters() {
            change.apply(&mut self.params);
            self.engine.set_parameters(&self.params);
            let at_ns = mono_ns();
            self.changes.push(ParameterStep { at_ns, change });
        }
        if self.suspended.is_none() && self.job.control.wants_suspended() {
            let at_ns = mono_ns();
            self.suspended = Some((at_ns, self.job.guest.pause()));
            self.side = self.side.on(SourceEvent::Pause).0;
        }
    }

    /// The guest stops. Until the last byte is handed over, any failure lets it run again here.
    fn pause(&mut self) -> Result<GuestTime, SourceError> {
        self.stop_ns = Some(mono_ns());
        let stopped_at = match self.suspended {
            Some((_, stopped_at)) => stopped_at,
            None => self.job.guest.pause(),
        };
        self.side = self.side.on(SourceEvent::Pause).0;
        self.precopy_bytes = self.ram_bytes();
        self.publish("device");
        Ok(stopped_at)
    }

    /// The last harvest, and everything left, with no rate limit.
    fn final_round(&mut self, stopped_at: GuestTime) -> Result<(), SourceError> {
        self.sync(stopped_at, true);
        self.clear_dirty_bits();
        match self.format {
            Format::Qemu => self.send_section(Slice::unlimited(), true)?,
            Format::Xen | Format::CloudHypervisor => self.send_pass(Pass::default())?,
        }
        self.downtime_bytes = self.ram_bytes() - self.precopy_bytes;
        self.end_round(mono_ns());
        Ok(())
    }

    fn state(&mut self) -> Result<(), SourceError> {
        let state = postcard::to_stdvec(&self.job.guest.take_state())
            .expect("a guest's state is plain data");
        let total = self.job.params.device_state_bytes;
        let (format, encoder) = (self.format, &mut self.encoder);
        self.out.bytes.device += self.out.put(|bytes| match format {
            Format::Qemu => encoder.device_state(&state, total, bytes),
            Format::Xen => xen::context(&state, total, bytes),
            Format::CloudHypervisor => cloud::state(&state, total, bytes),
        });
        self.out.flush()?;
        if self.format == Format::CloudHypervisor {
            self.answer(None)?;
        }
        Ok(())
    }

    /// The commit point of the stream. Before its last byte the destination cannot commit; once
    /// the socket has taken it (it goes alone, so that a failed write has not delivered it), nothing
    /// but the destination's word lets the guest run here again.
    fn switchover(&mut self) -> Result<(), SourceError> {
        self.job.control.enter_switchover()?;
        let limit_ms = self.job.acknowledge_limit_ms;
        let deadline_ns = mono_ns() + limit_ms * 1_000_000;
        self.out.set_deadline(Some(deadline_ns));
        let (format, encoder) = (self.format, &mut self.encoder);
        self.out.bytes.control += self.out.put(|bytes| match format {
            Format::Qemu => encoder.end(bytes),
            Format::Xen => xen::end(bytes),
            Format::CloudHypervisor => cloud::request(Request::Complete, bytes),
        });
        self.out.flush()?;
        self.side = self.side.on(SourceEvent::LastByte).0;
        if !self.job.params.waits_for_destination() {
            // QEMU is complete here; ours waits for the control plane's word with the guest paused.
            self.end_ns = mono_ns();
            return Ok(());
        }
        let refused = match self.format {
            // Xen's toolstacks answer too, outside of libxc's stream.
            Format::Qemu | Format::Xen => {
                let mut shut = [0; SHUT_BYTES];
                self.read(&mut shut, Some(deadline_ns))?;
                decode_shut(&shut).map(|value| (value != 0).then_some(value))?
            }
            Format::CloudHypervisor => match self.answer(Some(deadline_ns)) {
                Err(SourceError::Refused { value }) => Some(value),
                answered => answered.map(|()| None)?,
            },
        };
        self.end_ns = mono_ns();
        if let Some(value) = refused {
            self.side_on(SourceEvent::Refused);
            return Err(SourceError::Refused { value });
        }
        self.side_on(SourceEvent::Acknowledged);
        Ok(())
    }

    /// Sends a request of Cloud Hypervisor's and waits for its answer.
    fn request(&mut self, request: Request) -> Result<(), SourceError> {
        self.out.bytes.control += self.out.put(|bytes| cloud::request(request, bytes));
        self.out.flush()?;
        self.answer(None)
    }

    /// Waits for an answer of Cloud Hypervisor's.
    fn answer(&mut self, deadline_ns: Option<u64>) -> Result<(), SourceError> {
        let mut answer = [0; cloud::RECORD_BYTES];
        self.read(&mut answer, deadline_ns)?;
        if cloud::decode_answer(&answer)? {
            Ok(())
        } else {
            Err(SourceError::Refused { value: 1 })
        }
    }

    /// Fills `into` from the return path: until a cancel or the orchestrator's deadline, or, past
    /// the last byte, until the deadline given.
    fn read(&self, into: &mut [u8], deadline_ns: Option<u64>) -> Result<(), SourceError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.out.socket().read(&mut into[filled..]) {
                Ok(0) if deadline_ns.is_none() && self.job.control.is_cancelled() => {
                    return Err(SourceError::Cancelled);
                }
                Ok(0) => return Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => filled += bytes,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    // Nothing came within the socket's time-out; TCP's own end is another error.
                    ErrorKind::WouldBlock => match deadline_ns {
                        None => self.out.may_go_on()?,
                        Some(_) if self.job.control.broken().is_some() => {
                            return Err(SourceError::Cancelled);
                        }
                        Some(deadline_ns) if mono_ns() >= deadline_ns => {
                            return Err(SourceError::NoWord {
                                ms: self.job.acknowledge_limit_ms,
                            });
                        }
                        Some(_) => {}
                    },
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
        Ok(())
    }

    /// Ends the ownership question as far as the source can; what QMP would call the outcome.
    pub(super) fn conclude(&mut self, error: Option<&SourceError>) -> SourceEnd {
        if !self.throttles.is_empty() {
            self.job.guest.throttle(0);
        }
        let Some(error) = error else {
            if self.side == SourceSide::Waiting {
                self.side_on(SourceEvent::Failed); // no return path: the control plane's word
            }
            return SourceEnd::Completed;
        };
        self.end_ns = mono_ns();
        if matches!(error, SourceError::Crashed) {
            self.job.guest.crash();
            self.side_on(SourceEvent::Crashed);
        } else {
            self.side_on(SourceEvent::Failed);
        }
        if self.round.begin_ns > self.round.end_ns {
            self.end_round(self.end_ns); // the round it failed in counts too
        }
        match error {
            _ if self.side == SourceSide::Dead => SourceEnd::Crashed,
            _ if self.side == SourceSide::Undecided || self.side.is_pulled_from() => {
                SourceEnd::Undecided
            }
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
        let skip = Fault::SkipHarvest {
            number: self.round.number + 1,
        };
        let new = if self.job.faults.contains(&skip) {
            self.log.sync(at, &mut Bitmap::new(self.dirty.len()));
            0
        } else {
            self.log.sync(at, &mut self.dirty)
        };
        self.remaining_pages += new;
        let now = mono_ns();
        let periods = self.engine.statistics().periods;
        self.engine.synced(now, new, self.remaining_pages);
        if let Some(xbzrle) = &mut self.xbzrle
            && self.engine.statistics().periods > periods
        {
            xbzrle.period_ended(self.sent_pages);
        }
        if let Some(percent) = self.engine.take_throttle().filter(|_| !last) {
            self.job.guest.throttle(percent);
            self.throttles.push(ThrottleStep {
                at_ns: now,
                percent,
            });
        }
        self.round.number += 1;
        self.round.paused = last;
        self.begin_round(now, new);
    }

    fn begin_round(&mut self, at_ns: u64, new_dirty_pages: u64) {
        let Round { number, paused, .. } = self.round;
        self.round_begin_bytes = self.bytes().total();
        self.round_begin_pages = self.channel_pages();
        self.round = Round {
            number,
            paused,
            begin_ns: at_ns,
            dirty_pages: self.remaining_pages,
            new_dirty_pages,
            ..Round::default()
        };
        self.observer.pass(&self.round);
        self.observer.before_round(number);
    }

    fn end_round(&mut self, at_ns: u64) {
        self.round.end_ns = at_ns;
        self.round.sent_bytes = self.bytes().total() - self.round_begin_bytes;
        let ((normal, zero), before) = (self.channel_pages(), self.round_begin_pages);
        self.round.normal_pages += normal - before.0;
        self.round.zero_pages += zero - before.1;
        self.observer.round(&self.round);
        self.rounds.push(self.round);
    }

    /// What QEMU counts as pre-copy or downtime bytes: pages of the main stream and their words, 8 for
    /// the end of each section but the last.
    fn ram_bytes(&self) -> u64 {
        let bytes = &self.out.bytes;
        bytes.normal + bytes.delta + bytes.header + 8 * self.sections
    }

    /// Bytes of all connections, by kind.
    pub(super) fn bytes(&self) -> BytesByKind {
        let (own, channels) = (self.out.bytes, self.traffic);
        BytesByKind {
            normal: own.normal + get(&channels.data_bytes),
            header: own.header + get(&channels.header_bytes),
            control: own.control + get(&channels.control_bytes),
            ..own
        }
    }

    /// Normal and zero pages that channels have sent.
    fn channel_pages(&self) -> (u64, u64) {
        let traffic = self.traffic;
        (get(&traffic.normal_pages), get(&traffic.zero_pages))
    }

    pub(super) fn xbzrle_report(&self) -> Option<XbzrleReport> {
        self.xbzrle.as_ref().map(Xbzrle::report)
    }

    /// Lets the channels' threads end.
    pub(super) fn end_channels(&self, failed: bool) {
        if let Some(multifd) = &self.multifd {
            multifd.end(failed);
        }
        if let Some(data) = &self.data {
            data.end(failed);
        }
    }

    /// `multifd_ram_flush_and_sync`: what was queued has been sent before the stream goes on, and the
    /// destination waits for it there.
    fn sync_channels(&mut self) -> Result<(), SourceError> {
        let Some(multifd) = &mut self.multifd else {
            return Ok(());
        };
        let out = &self.out;
        multifd.sync(|| out.may_go_on())?;
        Ok(())
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
        // As `ram_get_total_transferred_pages`: a page found in the cache counts whatever came of it.
        let found = self.xbzrle_report().map_or(0, |xbzrle| xbzrle.pages);
        let (normal, zero) = self.channel_pages();
        Observed {
            dirty_pages: self.remaining_pages,
            accepted_bytes: self.out.accepted(),
            sent_pages: self.sent_pages - self.delta_pages + found + normal + zero,
            start_postcopy: self.job.control.wants_postcopy(),
            urgent: false,
        }
    }

    pub(super) fn publish(&self, status: &'static str) {
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
