//! What the two threads of a source share while pages are pulled: the bitmap of pages that only the
//! source has, requests, and the destination's words.
//!
//! Never inside: writing pages.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::urgent::{Sent, Urgent};
use crate::clock::mono_ns;
use crate::migration::source::SourceError;
use crate::migration::wire::WireError;
use crate::migration::wire::postcopy::{PACKAGE_PING, Return, decode_return, max_message_bytes};
use replay::Bitmap;

/// Requests that may wait: a guest has one a vCPU, and may ask again after a recovery.
const QUEUE_MAX: usize = 65_536;

#[derive(Debug)]
struct Inner {
    /// Pages that have not been sent since the guest stopped here.
    dirty: Bitmap,
    remaining: u64,
    /// Where the background goes on: behind the page sent last.
    cursor: u32,
    queue: VecDeque<u32>,
    requests: u64,
    started: bool,
    shut: Option<u32>,
    broken: Option<SourceError>,
    sent: Sent,
}

/// Shared by the thread that writes and the one that reads.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl Shared {
    pub(super) fn new(dirty: Bitmap, cursor: u32) -> Self {
        Self {
            inner: Mutex::new(Inner {
                remaining: dirty.count(),
                dirty,
                cursor,
                queue: VecDeque::new(),
                requests: 0,
                started: false,
                shut: None,
                broken: None,
                sent: Sent::default(),
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every method leaves `Inner` consistent before it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the connection and everything said on it are as they should be.
    pub(super) fn intact(&self) -> Result<(), SourceError> {
        let mut inner = self.lock();
        if let Some(value) = inner.shut.filter(|&value| value != 0) {
            return Err(SourceError::Refused { value });
        }
        inner.broken.take().map_or(Ok(()), Err)
    }

    /// Pages left, and whether any of them is waited for.
    pub(super) fn open(&self) -> (u64, bool) {
        let inner = self.lock();
        (inner.remaining, !inner.queue.is_empty())
    }

    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub(super) fn has_started(&self) -> bool {
        self.lock().started
    }

    fn count(&self, sent: Sent) {
        let all = &mut self.lock().sent;
        all.header_bytes += sent.header_bytes;
        all.normal_pages += sent.normal_pages;
        all.zero_pages += sent.zero_pages;
    }

    /// What went over the connection for requested pages since it was last asked.
    pub(super) fn take_sent(&self) -> Sent {
        std::mem::take(&mut self.lock().sent)
    }

    /// The next page to send, its bit cleared: a requested one, else with `background` the next in
    /// address order after the last.
    pub(super) fn take(&self, background: bool) -> Option<u32> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let requested = std::iter::from_fn(|| inner.queue.pop_front());
        // One that has gone already is on its way.
        let requested = requested.into_iter().find(|&page| inner.dirty.get(page));
        let next = requested.or_else(|| {
            let next = inner.dirty.next_set_wrapping(inner.cursor);
            next.filter(|_| background)
        })?;
        inner.dirty.clear(next);
        inner.remaining -= 1;
        inner.cursor = if next + 1 < inner.dirty.len() {
            next + 1
        } else {
            0
        };
        Some(next)
    }

    /// Waits for an instant, a request, or the end of the connection.
    pub(super) fn wait_for_request(&self, at_ns: u64) {
        let mut inner = self.lock();
        loop {
            let left = at_ns.saturating_sub(mono_ns());
            if left == 0 || !inner.queue.is_empty() || inner.broken.is_some() {
                return;
            }
            inner = self
                .wake
                .wait_timeout(inner, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The destination's last word, if it comes before an instant.
    pub(super) fn wait_for_shut(&self, until_ns: u64) -> Result<u32, SourceError> {
        let mut inner = self.lock();
        loop {
            if let Some(value) = inner.shut {
                return Ok(value);
            }
            if let Some(error) = inner.broken.take() {
                return Err(error);
            }
            let left = until_ns.saturating_sub(mono_ns());
            if left == 0 {
                return Err(SourceError::Io(ErrorKind::TimedOut.into()));
            }
            inner = self
                .wake
                .wait_timeout(inner, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The destination has told what it holds: all else is to be sent, by whatever path it was lost.
    pub(super) fn take_up(&self, received: &Bitmap) {
        let mut inner = self.lock();
        let all = 0..received.len();
        inner
            .dirty
            .set_words(|word| !received.word_within(word, &all));
        inner.remaining = inner.dirty.count();
        inner.queue.clear();
        (inner.broken, inner.shut) = (None, None);
        inner.started = true;
    }

    /// Reads the return path until its last word, or until it breaks.
    /// With `urgent`, requested pages are sent at once.
    pub(super) fn listen(&self, socket: &TcpStream, ram_pages: u32, urgent: Option<Urgent<'_>>) {
        if let Err(error) = self.hear(socket, ram_pages, urgent) {
            self.lock().broken = Some(error);
        }
        self.wake.notify_all();
    }

    fn hear(
        &self,
        mut socket: &TcpStream,
        ram_pages: u32,
        mut urgent: Option<Urgent<'_>>,
    ) -> Result<(), SourceError> {
        let mut buffer = vec![0; max_message_bytes(ram_pages).max(4096)];
        let (mut start, mut end) = (0, 0);
        loop {
            while let Some((taken, said)) = decode_return(&buffer[start..end], ram_pages)? {
                start += taken;
                if self.note(&said)? {
                    return Ok(());
                }
                while let Some(urgent) = &mut urgent
                    && let Some(page) = self.take(false)
                {
                    self.count(urgent.send(page)?);
                }
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match socket.read(&mut buffer[end..]) {
                Ok(0) => return Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => end += bytes,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
    }

    /// Whether that was its last word.
    fn note(&self, said: &Return) -> Result<bool, SourceError> {
        let mut inner = self.lock();
        match *said {
            Return::Pong(number) => inner.started |= number == PACKAGE_PING,
            Return::Request { page, pages } => {
                if inner.queue.len() + pages as usize > QUEUE_MAX {
                    return Err(SourceError::ReturnPath(WireError::Unexpected {
                        offset: 0,
                        expected: "no more requests than pages can be waited for",
                        found: u64::from(pages),
                    }));
                }
                inner.requests += 1;
                inner.queue.extend(page..page + pages);
            }
            Return::Shut(value) => inner.shut = Some(value),
            Return::Received(_) | Return::ResumeAck => {
                return Err(SourceError::ReturnPath(WireError::Unexpected {
                    offset: 0,
                    expected: "PONG, a request or SHUT",
                    found: 0,
                }));
            }
        }
        self.wake.notify_all();
        Ok(inner.shut.is_some())
    }
}
