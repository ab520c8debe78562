//! Post-copy at the source: the package that lets the guest run elsewhere, and the pages it pulls.
//!
//! ```text
//! package: last sync ─► DISCARD … ─► PACKAGED without its last byte
//! hand_over: its last byte, alone: the commit point of the stream
//! pull: ┌─► slices: requested pages first, the background goes on from there ─► END ─► SHUT 0
//!       └── connection broken: dial, ask what arrived, all else is dirty again ◄─┘
//! ```
//!
//! One thread walks and writes; another reads requests off the return path (`Shared`). Never inside:
//! decisions when to send (`engine`), who owns the guest (`ownership`).

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};

use super::send::ranges;
use super::{Session, SourceError};
use crate::clock::mono_ns;
use crate::migration::engine::step::{Observed, PAGE_BYTES, Slice, Step};
use crate::migration::ownership::{SourceEvent, SourceSide};
use crate::migration::record::{Interruption, PostcopySource};
use crate::migration::source::Fault;
use crate::migration::transport::prepare_socket;
use crate::migration::wire::hello::ChannelKind;
use crate::migration::wire::postcopy::{self as wire, Return};
use crate::migration::wire::{Header, WireError};
use replay::{Bitmap, GuestTime};
use shared::Shared;
use urgent::Urgent;

mod shared;
mod urgent;

const NS_PER_MS: u64 = 1_000_000;
/// QEMU's PINGs around the package; that within it is [`wire::PACKAGE_PING`].
const PING_BEFORE: u32 = 2;
const PING_AFTER: u32 = 4;

impl Session<'_> {
    /// The last sync, what the destination lacks, and the package but for its last byte, which is
    /// returned: without it the destination cannot run the guest, so any failure resumes it here.
    pub(super) fn package(&mut self, stopped_at: GuestTime) -> Result<u8, SourceError> {
        self.sync(stopped_at, true);
        self.clear_dirty_bits();
        let missing = ranges(&self.dirty);
        self.postcopy = Some(PostcopySource {
            discarded_pages: self.remaining_pages,
            discarded_ranges: missing.len() as u64,
            ..PostcopySource::default()
        });
        if !self.job.faults.contains(&Fault::SkipDiscard) {
            for some in missing.chunks(wire::MAX_DISCARDS) {
                self.out.bytes.control += self.out.put(|bytes| wire::discard(some, bytes));
                if self.out.is_full() {
                    self.flush()?;
                }
            }
        }
        self.out.bytes.control += self.out.put(|bytes| wire::ping(PING_BEFORE, bytes));
        let state = postcard::to_stdvec(&self.job.guest.take_state())
            .expect("a guest's state is plain data");
        let total = self.job.params.device_state_bytes;
        let (mut device, mut package) = (Vec::new(), Vec::new());
        self.encoder.device_state(&state, total, &mut device);
        wire::package(&mut self.encoder, &state, total, &mut package);
        let (last, most) = package.split_last().expect("a package ends with RUN");
        self.out.put(|bytes| bytes.extend_from_slice(most));
        self.out.bytes.device += device.len() as u64;
        self.out.bytes.control += (package.len() - device.len()) as u64;
        self.out.flush()?;
        Ok(*last)
    }

    /// The commit point of a post-copy's stream. The package's last byte goes alone, so that a failed
    /// write of it has not delivered it; once the socket has taken it, nothing but a word that the
    /// destination will never run it lets the guest run here again.
    pub(super) fn hand_over(&mut self, last: u8) -> Result<(), SourceError> {
        self.job.control.enter_postcopy()?;
        self.out.put(|bytes| bytes.push(last));
        self.out.flush()?;
        self.side_on(SourceEvent::Package);
        // A connection that breaks from here on is taken up again.
        let _ = self.job.control.pull_over(self.out.socket());
        if let Some(postcopy) = &mut self.postcopy {
            postcopy.package_ns = mono_ns();
        }
        self.out.set_deadline(None);
        self.out.set_stall(Some(self.stall_ns()));
        self.out.bytes.control += self.out.put(|bytes| wire::ping(PING_AFTER, bytes));
        Ok(())
    }

    /// Serves pages until the destination lacks none. A connection that breaks is taken up again while
    /// tries are left; the pages stay here until then.
    pub(super) fn pull(&mut self) -> Result<(), SourceError> {
        self.engine.postcopy_started();
        let dirty = std::mem::replace(&mut self.dirty, Bitmap::new(0));
        let shared = Shared::new(dirty, self.cursor);
        let mut spent = Spent::default();
        loop {
            let served = self.serve(&shared);
            self.note_started(&shared);
            self.count(&shared);
            let error = match served {
                Ok(()) => {
                    self.end_ns = mono_ns();
                    self.side_on(SourceEvent::Acknowledged);
                    self.end_round(self.end_ns);
                    return Ok(());
                }
                Err(error @ SourceError::Refused { .. }) => {
                    self.side_on(SourceEvent::Refused);
                    return Err(error);
                }
                Err(error) => error,
            };
            self.side_on(SourceEvent::Failed);
            self.publish("postcopy-paused");
            self.take_up_again(error, &shared, &mut spent)?;
            self.side_on(SourceEvent::Started);
        }
    }

    /// Over one connection, until everything is acknowledged or it breaks.
    fn serve(&mut self, shared: &Shared) -> Result<(), SourceError> {
        let socket = self.out.socket().try_clone().map_err(SourceError::Io)?;
        self.job
            .control
            .pull_over(&socket)
            .map_err(SourceError::Io)?;
        let ram_pages = self.job.memory.pages();
        // One that took the migration up again does without a connection for requested pages.
        let first =
            (self.postcopy.as_ref()).is_none_or(|postcopy| postcopy.interruptions.is_empty());
        let job = self.job;
        let mut channels = job.channels.iter().filter(|_| first);
        let channel = channels.find(|channel| channel.id.kind == ChannelKind::Preempt);
        let (at, stall_ns) = (job.guest.guest_time(), self.stall_ns());
        let urgent = channel.map(|channel| Urgent::new(&channel.socket, job, at, stall_ns));
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("mig-return".to_owned());
            reader
                .spawn_scoped(scope, || shared.listen(&socket, ram_pages, urgent))
                .map_err(SourceError::Io)?;
            let result = self.stream(shared);
            // The reader ends with the connection; all that it had to say is known by now.
            let _ = socket.shutdown(if result.is_ok() {
                Shutdown::Read
            } else {
                Shutdown::Both
            });
            result
        })
    }

    fn stream(&mut self, shared: &Shared) -> Result<(), SourceError> {
        loop {
            shared.intact()?;
            self.out.may_go_on()?;
            self.note_started(shared);
            let (dirty_pages, urgent) = shared.open();
            self.remaining_pages = dirty_pages;
            let observed = Observed {
                urgent,
                ..self.observed()
            };
            match self.engine.next(mono_ns(), &observed) {
                Step::SendSlice(slice) => self.send_pulled(slice, shared)?,
                Step::SleepUntil(at_ns) => shared.wait_for_request(at_ns),
                _ => break,
            }
            let status = if self.side == SourceSide::Handed {
                "postcopy-device"
            } else {
                "postcopy-active"
            };
            self.publish(status);
        }
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| {
            encoder.section(true, bytes);
            encoder.end_of_section(bytes);
            encoder.end(bytes);
        });
        self.sections += 1;
        self.out.flush()?;
        match shared.wait_for_shut(mono_ns().saturating_add(self.stall_ns()))? {
            0 => Ok(()),
            value => Err(SourceError::Refused { value }),
        }
    }

    /// One slice. Requested pages come before all others, whatever its credit (`get_queued_page`).
    fn send_pulled(&mut self, mut slice: Slice, shared: &Shared) -> Result<(), SourceError> {
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.section(false, bytes));
        loop {
            let credit = slice.has_credit(self.out.accepted());
            let Some(page) = shared.take(credit) else {
                break;
            };
            self.put_pulled(page)?;
            if !slice.page_sent(mono_ns) {
                break;
            }
        }
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.end_of_section(bytes));
        self.sections += 1;
        self.flush()
    }

    fn note_started(&mut self, shared: &Shared) {
        if self.side == SourceSide::Handed && shared.has_started() {
            self.side_on(SourceEvent::Started);
        }
    }

    fn count(&mut self, shared: &Shared) {
        self.remaining_pages = shared.open().0;
        let urgent = shared.take_sent();
        self.out.bytes.header += urgent.header_bytes;
        self.out.bytes.normal += urgent.normal_pages * PAGE_BYTES;
        self.round.normal_pages += urgent.normal_pages;
        self.round.zero_pages += urgent.zero_pages;
        let urgent_bytes = urgent.header_bytes + urgent.normal_pages * PAGE_BYTES;
        let bytes = self.ram_bytes() - self.precopy_bytes;
        if let Some(postcopy) = &mut self.postcopy {
            postcopy.postcopy_bytes = bytes;
            postcopy.preempt_bytes += urgent_bytes;
            postcopy.requests = shared.requests();
        }
    }

    fn stall_ns(&self) -> u64 {
        self.job
            .params
            .postcopy
            .stall_timeout
            .saturating_mul(NS_PER_MS)
    }

    /// A new connection, over which the destination has told what it holds. Until there is one the guest
    /// stands still as soon as it touches a page that is only here.
    fn take_up_again(
        &mut self,
        error: SourceError,
        shared: &Shared,
        spent: &mut Spent,
    ) -> Result<(), SourceError> {
        let params = self.job.params.postcopy;
        let from_ns = mono_ns();
        if spent.brought.is_none_or(|brought| brought) {
            let until_ns = from_ns.saturating_add(params.recover_timeout.saturating_mul(NS_PER_MS));
            (spent.tries, spent.at_ns, spent.until_ns) = (0, from_ns, until_ns);
        }
        spent.brought = Some(false);
        let mut interruption = Interruption {
            from_ns,
            to_ns: None,
            tries: 0,
            error: error.to_string(),
        };
        while spent.tries < params.recover_tries && spent.at_ns < spent.until_ns {
            let goes_on = self.job.control.wait_in_postcopy(spent.at_ns);
            let Some(redial) = self.job.redial.as_ref().filter(|_| goes_on) else {
                break;
            };
            interruption.tries += 1;
            spent.tries += 1;
            spent.at_ns =
                mono_ns().saturating_add(params.recover_interval.saturating_mul(NS_PER_MS));
            match redial() {
                Ok(socket) => {
                    if self.recover(socket, shared).is_ok() {
                        interruption.to_ns = Some(mono_ns());
                        spent.left(shared.open().0);
                        break;
                    }
                }
                // Its host is there and nobody listens: it has ended, with all pages or without.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                Err(_) => {}
            }
        }
        let (taken_up, tries) = (interruption.to_ns.is_some(), spent.tries);
        if let Some(postcopy) = &mut self.postcopy {
            postcopy.interruptions.push(interruption);
        }
        if taken_up {
            return Ok(());
        }
        Err(SourceError::NotRecovered {
            tries,
            ms: mono_ns().saturating_sub(from_ns) / NS_PER_MS,
            source: Box::new(error),
        })
    }

    /// QEMU's `postcopy-recover`: what has not arrived is dirty again, and the stream goes on.
    fn recover(&mut self, socket: TcpStream, shared: &Shared) -> Result<(), SourceError> {
        prepare_socket(&socket, self.job.congestion.as_deref()).map_err(SourceError::Io)?;
        self.job
            .control
            .pull_over(&socket)
            .map_err(SourceError::Io)?;
        self.out.reconnect(socket);
        let memory = &self.job.memory;
        let header = Header {
            migration: self.job.migration,
            vm_key: memory.vm_key(),
            memory_check: memory.check(),
            ram_pages: memory.pages(),
            return_path: true,
            postcopy: true,
            format: self.format,
            streams: self.job.params.streams(),
        };
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| {
            encoder.recovery(&header, bytes);
            wire::ask_bitmap(bytes);
        });
        self.out.flush()?;
        let Return::Received(received) = self.word()? else {
            return Err(SourceError::ReturnPath(out_of_turn("RECV_BITMAP")));
        };
        self.out.bytes.control += self.out.put(wire::resume);
        self.out.flush()?;
        let Return::ResumeAck = self.word()? else {
            return Err(SourceError::ReturnPath(out_of_turn("RESUME_ACK")));
        };
        shared.take_up(&received);
        Ok(())
    }

    /// One message of the return path, while nothing else is on it.
    fn word(&self) -> Result<Return, SourceError> {
        let ram_pages = self.job.memory.pages();
        let until_ns = mono_ns().saturating_add(self.stall_ns());
        let mut bytes = Vec::new();
        let mut socket = self.out.socket();
        loop {
            if let Some((_, said)) = wire::decode_return(&bytes, ram_pages)? {
                return Ok(said);
            }
            let mut one = [0; 1];
            match socket.read(&mut one) {
                Ok(0) => return Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(_) => bytes.push(one[0]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
                        if mono_ns() < until_ns => {}
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
    }
}

/// Tries of recovery, until one has brought pages: a destination that is always about to have them is not dialled for
/// ever.
#[derive(Debug, Default)]
struct Spent {
    tries: u32,
    /// Before the next.
    at_ns: u64,
    until_ns: u64,
    /// The fewest pages that were missing after one.
    least: Option<u64>,
    /// Whether the last brought any; `None`: there was none.
    brought: Option<bool>,
}

impl Spent {
    /// A recovery was taken up with so many pages left.
    fn left(&mut self, pages: u64) {
        let before = self.least.unwrap_or(u64::MAX);
        self.brought = Some(pages < before);
        self.least = Some(pages.min(before));
    }
}

fn out_of_turn(expected: &'static str) -> WireError {
    WireError::Unexpected {
        offset: 0,
        expected,
        found: 0,
    }
}
