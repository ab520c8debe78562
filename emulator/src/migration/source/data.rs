//! Cloud Hypervisor's further connections at the source: chunks of a pass's table, each to whoever is
//! free, acknowledged; a pass ends when all are.
//!
//! Never inside: which pages are sent, the main connection's requests.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use super::content::{Content, ZEROS, content};
use super::traffic::{Traffic, add};
use super::{SourceError, SourceJob};
use crate::migration::channels::Channel;
use crate::migration::transport::{POLL, PageStream};
use crate::migration::wire::PAGE_BYTES;
use crate::migration::wire::cloud_hypervisor::{self as cloud, RECORD_BYTES, Request};
use crate::migration::wire::hello::{ChannelKind, HELLO_BYTES};

/// Chunks that wait for a connection, for each of them.
const QUEUED_MAX: usize = 64;

/// First and one past the last page of each run of a chunk.
type Chunk = Vec<(u32, u32)>;

#[derive(Debug, Default)]
struct Work {
    chunks: VecDeque<Chunk>,
    /// Handed over and not acknowledged.
    open: usize,
    error: Option<SourceError>,
    quit: bool,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    /// A chunk was added or acknowledged, or it ends.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or a connection failed.
    fn wait(
        &self,
        go_on: impl Fn() -> Result<(), SourceError>,
        ready: impl Fn(&Work) -> bool,
    ) -> Result<MutexGuard<'_, Work>, SourceError> {
        let mut work = self.lock();
        loop {
            if let Some(error) = work.error.take() {
                return Err(error);
            }
            if ready(&work) {
                return Ok(work);
            }
            work = self
                .changed
                .wait_timeout(work, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            go_on()?;
        }
    }
}

/// The migration's side of its connections.
#[derive(Debug)]
pub(super) struct Data<'a> {
    job: &'a SourceJob,
    shared: Arc<Shared>,
    connections: usize,
}

impl<'a> Data<'a> {
    /// Starts a thread for each of the further connections.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        job: &'a SourceJob,
        traffic: &'a Traffic,
    ) -> Option<Self>
    where
        'a: 'scope,
    {
        let data = |channel: &&Channel| channel.id.kind == ChannelKind::Data;
        let channels: Vec<_> = job.channels.iter().filter(data).collect();
        let connections = channels.len();
        let shared = Arc::new(Shared::default());
        for channel in channels {
            add(&traffic.control_bytes, HELLO_BYTES as u64);
            add(&traffic.accepted, HELLO_BYTES as u64);
            let sender = Sender {
                job,
                traffic,
                channel,
                shared: Arc::clone(&shared),
            };
            let thread = Builder::new().name(format!("mig-data-{}", channel.id.number));
            if let Err(error) = thread.spawn_scoped(scope, move || sender.run()) {
                shared.lock().error = Some(SourceError::Io(error));
            }
        }
        (connections > 0).then_some(Self {
            job,
            shared,
            connections,
        })
    }

    /// Sends a pass's table in chunks, and returns when all of it is acknowledged.
    pub(super) fn send(
        &self,
        table: &[(u32, u32)],
        go_on: impl Fn() -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let most = QUEUED_MAX * self.connections;
        for chunk in chunks(table, self.job.data_chunk_pages) {
            let mut work = self.shared.wait(&go_on, |work| work.open < most)?;
            work.open += 1;
            work.chunks.push_back(chunk);
            drop(work);
            self.shared.changed.notify_all();
        }
        drop(self.shared.wait(&go_on, |work| work.open == 0)?);
        Ok(())
    }

    /// Lets the threads end; after a failure without what they still have.
    pub(super) fn end(&self, failed: bool) {
        self.shared.lock().quit = true;
        if failed {
            for channel in &self.job.channels {
                // One that is no longer connected needs no shutdown.
                let _ = channel.socket.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

/// Cuts a table into chunks of at most `most` pages, in order.
fn chunks(table: &[(u32, u32)], most: u32) -> Vec<Chunk> {
    let most = most.max(1);
    let (mut chunks, mut chunk, mut room) = (Vec::new(), Chunk::new(), most);
    for &(mut first, end) in table {
        while first < end {
            let pages = room.min(end - first);
            chunk.push((first, first + pages));
            first += pages;
            room -= pages;
            if room == 0 {
                chunks.push(std::mem::take(&mut chunk));
                room = most;
            }
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// One connection's thread.
struct Sender<'a> {
    job: &'a SourceJob,
    traffic: &'a Traffic,
    channel: &'a Channel,
    shared: Arc<Shared>,
}

impl Sender<'_> {
    fn run(&self) {
        self.traffic.metered(|| {
            if let Err(error) = self.send() {
                let mut work = self.shared.lock();
                // What the others fail with when all are shut down tells nothing.
                if !work.quit {
                    work.error.get_or_insert(error);
                }
                drop(work);
                self.shared.changed.notify_all();
            }
        });
    }

    fn send(&self) -> Result<(), SourceError> {
        let job = self.job;
        let mut out = PageStream::new(
            &self.channel.socket,
            &job.control,
            job.batch_pages,
            job.deadline_ns,
        );
        while let Some(chunk) = self.next() {
            let request = Request::Memory {
                ranges: chunk.len() as u64,
            };
            out.bytes.header += out.put(|bytes| cloud::request(request, bytes));
            for &(first, end) in &chunk {
                out.bytes.header += out.put(|bytes| cloud::range(first, end - first, bytes));
                if out.is_full() {
                    self.flush(&mut out)?;
                }
            }
            let mut now = job.guest.guest_time();
            for page in chunk.iter().flat_map(|&(first, end)| first..end) {
                match content(job, page, now, false) {
                    Content::Zero => out.put_body(&ZEROS),
                    Content::Data(stamp, body) => {
                        out.put(|bytes| bytes.extend_from_slice(&stamp.encode()));
                        out.put_body(body);
                    }
                    Content::Ram(piece) => out.put_piece(piece),
                }
                out.bytes.normal += PAGE_BYTES as u64;
                if out.is_full() {
                    self.flush(&mut out)?;
                    now = job.guest.guest_time();
                }
            }
            self.flush(&mut out)?;
            self.answer(&out)?;
            self.shared.lock().open -= 1;
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// The next chunk; `None` at the end.
    fn next(&self) -> Option<Chunk> {
        let mut work = self.shared.lock();
        loop {
            if work.quit {
                return None;
            }
            if let Some(chunk) = work.chunks.pop_front() {
                return Some(chunk);
            }
            work = self
                .shared
                .changed
                .wait(work)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&self, out: &mut PageStream<'_>) -> Result<(), SourceError> {
        out.flush()?;
        let bytes = std::mem::take(&mut out.bytes);
        add(&self.traffic.data_bytes, bytes.normal);
        add(&self.traffic.normal_pages, bytes.normal / PAGE_BYTES as u64);
        add(&self.traffic.header_bytes, bytes.header);
        add(&self.traffic.accepted, out.take_accepted());
        Ok(())
    }

    fn answer(&self, out: &PageStream<'_>) -> Result<(), SourceError> {
        let mut answer = [0; RECORD_BYTES];
        let mut filled = 0;
        while filled < answer.len() {
            match (&self.channel.socket).read(&mut answer[filled..]) {
                Ok(0) => return Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => filled += bytes,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => out.may_go_on()?,
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
        if cloud::decode_answer(&answer)? {
            Ok(())
        } else {
            Err(SourceError::Refused { value: 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_cut_into_chunks_in_order() {
        assert_eq!(
            chunks(&[(0, 5), (7, 8), (10, 16)], 4),
            [vec![(0, 4)], vec![(4, 5), (7, 8), (10, 12)], vec![(12, 16)]]
        );
        assert!(chunks(&[], 4).is_empty());
    }
}
