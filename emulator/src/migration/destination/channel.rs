//! The connections beside a destination's main one: a thread each, what they share, and where they meet.
//!
//! A multifd channel that has read a SYNC waits until the main stream has said MULTIFD_FLUSH and every
//! other channel has come to its SYNC: so no page of a later round overtakes one of an earlier. Never
//! inside: what the connections carry.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::pages::Pages;
use super::{DestinationError, DestinationJob};
use crate::clock::mono_ns;
use crate::migration::channels::Channel;
use crate::migration::ownership::DestinationSide;
use crate::migration::transport::POLL;
use crate::migration::usage::ThreadMeter;
use crate::migration::wire::hello::{ChannelKind, HELLO_BYTES};

/// Room for what the kernel has gathered; small enough to stay in a cache.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Meeting {
    /// Channels at their SYNC.
    arrived: usize,
    /// Channels whose connection ended between packets.
    gone: usize,
    /// Meetings held.
    held: u64,
    /// Threads that have ended.
    left: usize,
    ended: bool,
    error: Option<DestinationError>,
}

/// What the threads of a destination share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    received_bytes: AtomicU64,
    /// When anything came on any connection.
    heard_ns: AtomicU64,
    cpu_ns: AtomicU64,
    run_queue_ns: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came.
    pub(super) fn heard(&self) {
        self.heard_ns.store(mono_ns(), Ordering::Relaxed);
    }

    /// How long nothing has come on any connection, if that is longer than allowed.
    pub(super) fn silence(&self, ms: u64, offset: u64) -> Result<(), DestinationError> {
        let heard_ns = self.heard_ns.load(Ordering::Relaxed);
        if ms > 0 && mono_ns().saturating_sub(heard_ns) / 1_000_000 >= ms {
            return Err(DestinationError::Silence { ms, offset });
        }
        Ok(())
    }

    /// What a channel failed with.
    pub(super) fn failure(&self) -> Option<DestinationError> {
        self.lock().error.take()
    }

    /// (bytes, CPU time, run-queue delay) of the channels, once they have ended.
    pub(super) fn used(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            read(&self.received_bytes),
            read(&self.cpu_ns),
            read(&self.run_queue_ns),
        )
    }

    /// MULTIFD_FLUSH: waits until all `channels` have come, then lets them go on.
    pub(super) fn meet(
        &self,
        job: &DestinationJob,
        channels: usize,
        offset: u64,
    ) -> Result<(), DestinationError> {
        let mut meeting = self.lock();
        loop {
            if let Some(error) = meeting.error.take() {
                return Err(error);
            }
            if job.control.side() == DestinationSide::Abandoned {
                return Err(DestinationError::Abandoned);
            }
            if meeting.arrived == channels {
                meeting.arrived = 0;
                meeting.held += 1;
                self.changed.notify_all();
                return Ok(());
            }
            if meeting.gone > 0 && meeting.arrived + meeting.gone == channels {
                return Err(DestinationError::ChannelsGone { gone: meeting.gone });
            }
            self.silence(job.silence_limit_ms, offset)?;
            meeting = self
                .changed
                .wait_timeout(meeting, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// No channel is waited for any more, and none waits.
    pub(super) fn end(&self, job: &DestinationJob) {
        self.lock().ended = true;
        self.changed.notify_all();
        for channel in &job.channels {
            // One that is no longer connected needs no shutdown.
            let _ = channel.socket.shutdown(Shutdown::Both);
        }
    }

    /// The main stream has come to its end: what else a channel brings is no part of the guest. No page
    /// changes any more once this returns; what a channel had failed with is the migration's failure.
    pub(super) fn close(&self, job: &DestinationJob) -> Result<(), DestinationError> {
        let has_thread = |channel: &&Channel| {
            matches!(channel.id.kind, ChannelKind::Multifd | ChannelKind::Data)
        };
        let channels = || job.channels.iter().filter(has_thread);
        let mut meeting = self.lock();
        meeting.ended = true;
        self.changed.notify_all();
        for channel in channels() {
            // One that is no longer connected needs no shutdown.
            let _ = channel.socket.shutdown(Shutdown::Both);
        }
        let threads = channels().count();
        while meeting.left < threads {
            meeting = self
                .changed
                .wait(meeting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        meeting.error.take().map_or(Ok(()), Err)
    }

    /// A channel has read its SYNC: whether to go on.
    pub(super) fn arrive(&self) -> bool {
        let mut meeting = self.lock();
        let held = meeting.held;
        meeting.arrived += 1;
        self.changed.notify_all();
        while meeting.held == held && !meeting.ended {
            meeting = self
                .changed
                .wait(meeting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !meeting.ended
    }
}

/// Counts a thread as ended, however it ends.
struct Leaves<'a>(&'a Shared);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.lock().left += 1;
        self.0.changed.notify_all();
    }
}

/// One channel's thread.
pub(super) struct Receiver<'a> {
    pub(super) job: &'a DestinationJob,
    pub(super) channel: &'a Channel,
    pub(super) pages: &'a Pages<'a>,
    pub(super) shared: &'a Shared,
}

impl Receiver<'_> {
    pub(super) fn run(&self, receive: fn(&Self) -> Result<(), DestinationError>) {
        let meter = ThreadMeter::start();
        let _leaves = Leaves(self.shared);
        let result = receive(self);
        let mut meeting = self.shared.lock();
        match result {
            Ok(()) => {
                meeting.gone += 1;
                // A source that goes on sending is told so.
                let _ = self.channel.socket.shutdown(Shutdown::Both);
            }
            Err(error) if !meeting.ended => {
                meeting.error.get_or_insert(error);
                // Whoever reads the main stream looks here when it ends.
                let _ = self.job.socket.shutdown(Shutdown::Read);
            }
            Err(_) => {}
        }
        drop(meeting);
        self.shared.changed.notify_all();
        let (cpu_ns, run_queue_ns) = meter.used_ns();
        self.shared.cpu_ns.fetch_add(cpu_ns, Ordering::Relaxed);
        let delay = &self.shared.run_queue_ns;
        delay.fetch_add(run_queue_ns, Ordering::Relaxed);
    }

    fn count(&self, bytes: usize) {
        let received = &self.shared.received_bytes;
        received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.shared.heard();
    }
}

/// What is read of a channel and not taken yet.
pub(super) struct Input<'a> {
    receiver: &'a Receiver<'a>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Of the next byte to be taken.
    pub(super) offset: u64,
}

impl<'a> Input<'a> {
    /// Behind the hello, with room for `bytes` in one piece.
    pub(super) fn new(receiver: &'a Receiver<'a>, bytes: usize) -> Self {
        receiver.count(HELLO_BYTES);
        Self {
            receiver,
            buffer: vec![0; bytes],
            start: 0,
            end: 0,
            offset: HELLO_BYTES as u64,
        }
    }

    /// What has been read and not taken.
    pub(super) fn held(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes bytes that are held.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Reads more behind what is held; whether there was more. At most `most` are held then.
    pub(super) fn more(&mut self, most: usize) -> Result<bool, DestinationError> {
        if self.buffer.len() - self.start < most {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = self.read()?;
        self.end += read;
        Ok(read > 0)
    }

    /// The next `bytes` bytes; `None` if the connection ended before the first of them and `may_end`.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        may_end: bool,
    ) -> Result<Option<&[u8]>, DestinationError> {
        if self.start + bytes > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < bytes {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            let read = self.read()?;
            if read == 0 {
                if may_end && self.start == self.end {
                    return Ok(None);
                }
                return Err(DestinationError::Closed {
                    offset: self.offset + (self.end - self.start) as u64,
                });
            }
            self.end += read;
        }
        let start = self.start;
        self.start += bytes;
        self.offset += bytes as u64;
        Ok(Some(&self.buffer[start..start + bytes]))
    }

    /// What there is, at least one byte; 0 when the connection has ended.
    fn read(&mut self) -> Result<usize, DestinationError> {
        let mut socket: &TcpStream = &self.receiver.channel.socket;
        loop {
            if self.receiver.job.control.side() == DestinationSide::Abandoned {
                return Err(DestinationError::Abandoned);
            }
            // What the kernel holds of a connection that was shut down could be read all the same.
            if self.receiver.shared.lock().ended {
                return Ok(0);
            }
            match socket.read(&mut self.buffer[self.end..]) {
                Ok(bytes) => {
                    self.receiver.count(bytes);
                    return Ok(bytes);
                }
                Err(source) => match source.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock => {}
                    _ => {
                        return Err(DestinationError::Io {
                            offset: self.offset,
                            source,
                        });
                    }
                },
            }
        }
    }
}
