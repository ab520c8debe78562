//! The destination: one blocking thread that reads, checks, commits, and then compares.
//!
//! Every page's stamp and body are checked as they arrive; what is kept of a page is the version
//! it held (`pages`). A guest of which a page never came whole is refused. After the commit, outside
//! the timed path, each version is compared with what the guest's own time says it must be. The dirty
//! log never comes here. Channels have threads of their own (`channel`). Never inside: the decision
//! who owns the guest (`ownership`).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, Scope};

use replay::VmState;
use replay::content::xbzrle::XbzrleError;
use thiserror::Error;

use super::channels::{AcceptError, Channel};
use super::codec::CodecError;
use super::guest::{CommitRefused, DestinationGuest, GuestMemory};
use super::ownership::DestinationSide;
use super::params::PostcopyParams;
use super::record::DestinationReport;
use super::transport::{prepare_socket, reset_when_closed};
use super::usage::ThreadMeter;
use super::wire::cloud_hypervisor::encode_answer;
use super::wire::hello::ChannelKind;
use super::wire::postcopy::{self, Command};
use super::wire::{
    Decoder, Event, Format, Header, MAX_RECORD_BYTES, Streams, WireError, encode_shut,
};
use crate::clock::mono_ns;
use crate::resident::Ram;
use channel::Shared;
use pages::Pages;

mod channel;
mod control;
mod data;
mod multifd;
mod pages;
mod pull;

pub use control::DestinationControl;

/// Large enough that a read takes what the kernel has gathered, small enough to stay in a cache.
const BUFFER_BYTES: usize = 512 * 1024;
const _: () = assert!(
    BUFFER_BYTES >= 2 * MAX_RECORD_BYTES,
    "a record fits beside the one before"
);
/// What is on its way from a source that has gone comes within this, or never.
const GIVEN_UP_SILENCE_MS: u64 = 1_000;

/// What a destination is to take in.
pub struct DestinationJob {
    /// Number of the migration in the run.
    pub migration: u32,
    /// The guest's memory, computed from the same values as the source's.
    pub memory: GuestMemory,
    /// RAM to receive into, if it is to be there.
    pub ram: Option<Arc<Ram>>,
    /// Milliseconds that loading the device state takes.
    pub load_time_ms: u64,
    /// The place for the guest.
    pub guest: Arc<dyn DestinationGuest>,
    /// The connection, accepted.
    pub socket: TcpStream,
    /// Its further connections.
    pub channels: Vec<Channel>,
    /// How pages are to come.
    pub streams: Streams,
    /// Pages of a multifd packet: 128 at full size.
    pub packet_pages: usize,
    /// Congestion control of the return path.
    pub congestion: Option<String>,
    /// Shared with the control plane.
    pub control: Arc<DestinationControl>,
    /// Milliseconds without a byte after which it gives up; 0 waits for ever, as QEMU does.
    pub silence_limit_ms: u64,
    /// How long a post-copy without a connection is waited for.
    pub postcopy: PostcopyParams,
    /// Where a post-copy whose connection broke is taken up again; `None`: nowhere.
    pub recover: Option<TcpListener>,
}

impl DestinationJob {
    /// All connections of the migration.
    fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        std::iter::once(&self.socket).chain(self.channels.iter().map(|channel| &channel.socket))
    }
}

impl std::fmt::Debug for DestinationJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DestinationJob")
            .field("migration", &self.migration)
            .finish_non_exhaustive()
    }
}

/// Why a stream did not lead to a commit.
#[derive(Debug, Error)]
pub enum DestinationError {
    /// The connection broke.
    #[error("reading the stream at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The source closed before the end.
    #[error("the source closed the stream at byte {offset}, before its end")]
    Closed {
        /// Where.
        offset: u64,
    },
    /// Not a migration stream.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A stream of another migration or guest.
    #[error("the stream brings {found:?}, expected {expected:?}")]
    OtherGuest {
        /// What was expected.
        expected: Box<Header>,
        /// What came.
        found: Box<Header>,
    },
    /// The guest's state cannot be read.
    #[error("the guest's state cannot be read")]
    State(#[from] postcard::Error),
    /// Nothing came.
    #[error("no byte for {ms} ms at byte {offset}")]
    Silence {
        /// The limit.
        ms: u64,
        /// Where.
        offset: u64,
    },
    /// A packet's data.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A delta that is none.
    #[error("page {page} came as a delta that cannot be applied")]
    Delta {
        /// The page.
        page: u32,
        /// Why.
        #[source]
        source: XbzrleError,
    },
    /// Channels ended and the main stream waits for them.
    #[error("{gone} multifd channels ended before the stream did")]
    ChannelsGone {
        /// How many.
        gone: usize,
    },
    /// Post-copy: a page that the guest may be waiting for is none.
    #[error("page {page} came, and what came is no page of this guest")]
    Damaged {
        /// The page.
        page: u32,
    },
    /// Post-copy of RAM that is there: the kernel does not stop the guest at missing pages.
    #[error("the guest cannot run without its pages: userfaultfd")]
    Userfault(#[source] std::io::Error),
    /// Post-copy of RAM that is there: the kernel does not take a page.
    #[error("page {page} could not be put in its place")]
    Place {
        /// The page.
        page: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Post-copy: the stream ended and pages were missing. The guest is lost.
    #[error("the stream ended and {pages} pages had not come; the guest is lost")]
    PagesMissing {
        /// So many.
        pages: u64,
    },
    /// Post-copy: the connection broke and nobody took it up again. The guest is lost.
    #[error(
        "post-copy was interrupted, nobody took it up again, and {pages} pages had not come; the guest is lost"
    )]
    NotRecovered {
        /// So many.
        pages: u64,
        /// What broke it.
        #[source]
        source: Box<DestinationError>,
    },
    /// Pages on demand: the connection over which they are asked for did not come.
    #[error("the connection for page faults")]
    FaultConnection(#[from] AcceptError),
    /// Pages on demand: that connection broke, and nothing takes it up again. The guest is lost.
    #[error("the fault connection broke and {pages} pages had not come; the guest is lost")]
    FaultsUnanswered {
        /// So many.
        pages: u64,
        /// What broke it.
        #[source]
        source: Box<DestinationError>,
    },
    /// The control plane abandoned it.
    #[error("abandoned before the commit")]
    Abandoned,
    /// The stream has ended, and not every page is there.
    #[error(
        "the stream ended with {pages} pages missing or damaged on the way, the first of them page {first}"
    )]
    Incomplete {
        /// How many.
        pages: u64,
        /// The first.
        first: u32,
    },
    /// A fault: the process that was to run the guest died.
    #[error("the process of the VM died at the destination")]
    Crashed,
    /// A fault.
    #[error("the connection was reset")]
    Reset,
    /// The agent could not commit.
    #[error(transparent)]
    Refused(#[from] CommitRefused),
}

/// How it ended.
#[derive(Debug)]
pub struct DestinationOutcome {
    /// The account.
    pub report: DestinationReport,
    /// `None`: the guest runs here. Else it never will, under this migration.
    pub error: Option<DestinationError>,
}

/// Receives one migration. Blocks until it has ended and every page is compared. Its connections close
/// with it: a source that fills the buffers of one that nobody reads is told so by nothing else.
///
/// Ownership: until [`DestinationGuest::commit_and_resume`] succeeds the source owns the guest,
/// and every error of this function promises that the guest was not started here and will not be.
/// After it the guest is here whatever happens to the connection, so nothing fails any more.
#[expect(
    clippy::needless_pass_by_value,
    reason = "its connections close with it"
)]
#[must_use]
pub fn run_destination(job: DestinationJob) -> DestinationOutcome {
    let job = &job;
    let meter = ThreadMeter::start();
    let (pages, shared) = (Pages::new(&job.memory, job.ram.as_ref()), Shared::default());
    let (mut report, error, stopped, again) = std::thread::scope(|scope| {
        let mut receiver = Receiver::new(job, &pages, &shared);
        let result = receiver
            .start_channels(scope)
            .and_then(|()| receiver.receive());
        let error = match result {
            Ok(Received::Whole(header, state)) => receiver.commit(header, state).err(),
            Ok(Received::Package(state)) => receiver.pull(state).err(),
            Ok(Received::OnDemand(state)) => receiver.pull_on_demand(state).err(),
            Err(error) => {
                // The promise first, then the word of it.
                let committed = job.control.gate.abandon();
                assert!(!committed, "nobody else commits this migration");
                Some(error)
            }
        };
        let error = error.map(|error| job.control.explain(error));
        if error.is_some() && job.control.broken().is_none() {
            // Best effort: the source learns it from the closed connection otherwise.
            let _ = receiver.tell(1);
        }
        shared.end(job);
        (receiver.report, error, receiver.stopped, receiver.again)
    });
    let broken = job.control.broken().is_some();
    job.control.attach(Vec::new());
    for socket in job.sockets().chain(again.as_ref()) {
        if broken {
            reset_when_closed(socket);
        } else {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }
    let (cpu_ns, run_queue_ns) = meter.used_ns();
    let (channel_bytes, channel_cpu_ns, channel_run_queue_ns) = shared.used();
    report.error = error.as_ref().map(|error| chain(error));
    report.received_bytes += channel_bytes;
    report.cpu_ns += cpu_ns + channel_cpu_ns;
    report.run_queue_ns += run_queue_ns + channel_run_queue_ns;
    (report.bad_on_receipt, report.torn_on_receipt) = pages.bad_and_torn();
    report.verification = stopped.map(|stopped| {
        let guest = error.is_none().then_some(&*job.guest);
        pages.compare(&stopped, guest)
    });
    DestinationOutcome { report, error }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// What has come when the guest may be committed.
enum Received {
    /// All of it.
    Whole(Header, VmState),
    /// Post-copy: its state, and some of its pages.
    Package(VmState),
    /// Cloud Hypervisor's: its state, and no page. The source waits for an answer.
    OnDemand(VmState),
}

/// Bytes read and not yet decoded.
struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

struct Receiver<'a> {
    job: &'a DestinationJob,
    pages: &'a Pages<'a>,
    shared: &'a Shared,
    /// A connection that took an interrupted post-copy up again.
    again: Option<TcpStream>,
    inbox: Inbox,
    silence_limit_ms: u64,
    decoder: Decoder,
    /// The guest as it was stopped, once it runs here.
    stopped: Option<VmState>,
    format: Format,
    report: DestinationReport,
}

impl<'a> Receiver<'a> {
    fn new(job: &'a DestinationJob, pages: &'a Pages<'a>, shared: &'a Shared) -> Self {
        Self {
            job,
            pages,
            shared,
            again: None,
            inbox: Inbox {
                buffer: vec![0; BUFFER_BYTES],
                start: 0,
                end: 0,
            },
            silence_limit_ms: job.silence_limit_ms,
            decoder: Decoder::default(),
            stopped: None,
            format: Format::Qemu,
            report: DestinationReport::empty(),
        }
    }

    /// Prepares the connections, and gives each of those beside the main one its thread.
    fn start_channels<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<(), DestinationError>
    where
        'a: 'scope,
    {
        let failed = |source| DestinationError::Io { offset: 0, source };
        self.shared.heard();
        self.prepare().map_err(failed)?;
        for channel in &self.job.channels {
            let receiver = channel::Receiver {
                job: self.job,
                channel,
                pages: self.pages,
                shared: self.shared,
            };
            let receive = match channel.id.kind {
                ChannelKind::Multifd => multifd::receive,
                ChannelKind::Data => data::receive,
                ChannelKind::Preempt | ChannelKind::Fault => continue,
            };
            Builder::new()
                .name(format!("mig-ch-{}", channel.id.number))
                .spawn_scoped(scope, move || receiver.run(receive))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Reads to the last byte and loads the state; the guest is still the source's.
    fn receive(&mut self) -> Result<Received, DestinationError> {
        let mut buffer = std::mem::take(&mut self.inbox.buffer);
        let (mut start, mut end) = (0, 0);
        let (mut header, mut state) = (None, None);
        loop {
            while let Some((taken, event)) = self.decoder.decode(&buffer[start..end])? {
                start += taken;
                match event {
                    Event::Header(found) => header = Some(self.begin(found)?),
                    Event::Page { page, bytes } => {
                        self.pages.take(page, bytes);
                    }
                    Event::ZeroPage { page } => self.pages.take_zero(page),
                    Event::Delta { page, encoding } => self.pages.take_delta(page, encoding)?,
                    Event::RamList | Event::MultifdFlush => self.meet()?,
                    Event::AnswerWanted => {
                        let on_demand = header.is_some_and(|header: Header| header.postcopy);
                        if let Some(state) = state.take_if(|_| on_demand) {
                            self.inbox = Inbox { buffer, start, end };
                            return Ok(Received::OnDemand(state));
                        }
                        self.tell(0)?;
                    }
                    Event::State(bytes) => state = Some(postcard::from_bytes(bytes)?),
                    Event::End => {
                        let (header, state) = header.zip(state).expect("the decoder keeps order");
                        self.shared.close(self.job)?;
                        self.load()?;
                        return Ok(Received::Whole(header, state));
                    }
                    Event::Postcopy(Command::Ping(number)) => self.pong(number)?,
                    Event::Postcopy(Command::Discard(gone)) => {
                        for range in gone.ranges() {
                            range.for_each(|page| self.pages.forget(page));
                        }
                    }
                    Event::Postcopy(Command::Run) => {
                        self.report.loaded_ns = Some(mono_ns());
                        self.inbox = Inbox { buffer, start, end };
                        return Ok(Received::Package(state.expect("the decoder keeps order")));
                    }
                    _ => {}
                }
            }
            if BUFFER_BYTES - end < MAX_RECORD_BYTES {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            } else if start == end {
                (start, end) = (0, 0);
            }
            end += self.read(&mut buffer[end..])?;
        }
    }

    fn prepare(&self) -> std::io::Result<()> {
        for socket in self.job.sockets() {
            prepare_socket(socket, self.job.congestion.as_deref())?;
        }
        let clones: std::io::Result<Vec<_>> =
            self.job.sockets().map(TcpStream::try_clone).collect();
        self.job.control.attach(clones?);
        Ok(())
    }

    /// At least one byte, or why there will be none.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, DestinationError> {
        let offset = self.report.received_bytes;
        self.shared.heard();
        loop {
            self.job.control.may_go_on()?;
            match self.socket().read(into) {
                Ok(bytes) if bytes > 0 => {
                    self.shared.heard();
                    self.report.received_bytes += bytes as u64;
                    return Ok(bytes);
                }
                // Abandoning shuts the socket down, which ends or breaks the stream.
                _ if self.job.control.side() == DestinationSide::Abandoned => {
                    return Err(DestinationError::Abandoned);
                }
                Ok(_) => {
                    let failure = self.shared.failure();
                    return Err(failure.unwrap_or(DestinationError::Closed { offset }));
                }
                Err(source) => match source.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock => {}
                    _ => return Err(DestinationError::Io { offset, source }),
                },
            }
            let ms = match self.job.control.is_given_up() {
                true => GIVEN_UP_SILENCE_MS,
                false => self.silence_limit_ms,
            };
            self.shared.silence(ms, offset)?;
        }
    }

    fn socket(&self) -> &TcpStream {
        self.again.as_ref().unwrap_or(&self.job.socket)
    }

    /// The answer to a PING; in the package it is sent once the guest runs.
    fn pong(&self, number: u32) -> Result<(), DestinationError> {
        if number == postcopy::PACKAGE_PING {
            return Ok(());
        }
        let mut bytes = Vec::new();
        postcopy::pong(number, &mut bytes);
        self.say(&bytes)
    }

    fn say(&self, bytes: &[u8]) -> Result<(), DestinationError> {
        self.socket()
            .write_all(bytes)
            .map_err(|source| DestinationError::Io {
                offset: self.report.received_bytes,
                source,
            })
    }

    fn begin(&mut self, found: Header) -> Result<Header, DestinationError> {
        let header = self.own_guest(found)?;
        self.format = header.format;
        if self.format == Format::CloudHypervisor && !header.postcopy {
            // Its memory is zero where nothing is sent.
            self.pages.begin_zero();
        }
        Ok(header)
    }

    /// A word to the source: 0 is yes.
    fn tell(&self, value: u32) -> Result<(), DestinationError> {
        match self.format {
            Format::Qemu | Format::Xen => self.say(&encode_shut(value)),
            Format::CloudHypervisor => self.say(&encode_answer(value == 0)),
        }
    }

    fn own_guest(&self, found: Header) -> Result<Header, DestinationError> {
        let expected = Header {
            migration: self.job.migration,
            vm_key: self.job.memory.vm_key(),
            memory_check: self.job.memory.check(),
            ram_pages: self.job.memory.pages(),
            return_path: found.return_path,
            postcopy: found.postcopy,
            format: found.format,
            streams: self.job.streams,
        };
        if found == expected {
            return Ok(found);
        }
        Err(DestinationError::OtherGuest {
            expected: expected.into(),
            found: found.into(),
        })
    }

    /// Waits for all multifd channels at their SYNC.
    fn meet(&self) -> Result<(), DestinationError> {
        let channels = usize::from(self.job.streams.multifd);
        if channels == 0 {
            return Ok(());
        }
        self.shared
            .meet(self.job, channels, self.report.received_bytes)
    }

    /// The device state takes its time, counted from the last byte, whenever this thread woke. A guest
    /// of which pages are missing, or were damaged on the way and not sent again, is refused meanwhile.
    fn load(&mut self) -> Result<(), DestinationError> {
        let loaded_ns = mono_ns();
        self.report.loaded_ns = Some(loaded_ns);
        if let Some((pages, first)) = self.pages.missing() {
            return Err(DestinationError::Incomplete { pages, first });
        }
        self.job
            .control
            .wait_until(loaded_ns + self.job.load_time_ms * 1_000_000)
    }

    /// The commit point. On an error the guest was not started and never will be; otherwise it
    /// runs here, and SHUT 0 tells the source so.
    fn commit(&mut self, header: Header, state: VmState) -> Result<(), DestinationError> {
        let stopped = state.clone();
        let guest = &self.job.guest;
        self.job.control.may_go_on()?;
        let resumed_ns = self
            .job
            .control
            .gate
            .commit(|| guest.commit_and_resume(state))?
            .ok_or(DestinationError::Abandoned)?;
        self.report.resumed_ns = Some(resumed_ns);
        self.stopped = Some(stopped);
        self.job.guest.resumed();
        if header.return_path && self.job.control.broken().is_none() {
            // If the connection is gone the source asks the control plane.
            let _ = self.tell(0);
        }
        Ok(())
    }
}
