//! Cloud Hypervisor's post-copy at the source: the thread that answers what the destination asks for.
//!
//! One page after another, each as it was when the guest stopped, zeros whole like the others. Whether the guest runs
//! there already is nothing to it: as in the original pages are served from before the state is sent. Never inside: who
//! owns the guest, when to end.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replay::{Bitmap, GuestTime};

use super::content::{content, copy};
use super::traffic::add;
use super::{Fault, SourceError, SourceJob, Traffic};
use crate::clock::mono_ns;
use crate::migration::transport::{read_whole, write_whole};
use crate::migration::wire::cloud_hypervisor::fault::{REQUEST_BYTES, answer, decode_request};
use crate::migration::wire::{PAGE_BYTES, cloud_hypervisor::RECORD_BYTES};

const NS_PER_MS: u64 = 1_000_000;

/// How far it has come.
#[derive(Debug)]
struct State {
    /// Pages that have not been served.
    unserved: Bitmap,
    left: u64,
    requests: u64,
    quit: bool,
    ended: Option<Result<(), SourceError>>,
}

/// Shared by the thread that serves and the session's.
#[derive(Debug)]
pub(super) struct Server<'a> {
    job: &'a SourceJob,
    traffic: &'a Traffic,
    at: GuestTime,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Server<'a> {
    /// Of a guest that stopped at a guest time.
    pub(super) fn new(job: &'a SourceJob, traffic: &'a Traffic, stopped_at: GuestTime) -> Self {
        let pages = job.memory.pages();
        let stale = job.faults.contains(&Fault::ServeStale);
        Self {
            job,
            traffic,
            at: if stale {
                GuestTime::default()
            } else {
                stopped_at
            },
            state: Mutex::new(State {
                unserved: Bitmap::full(pages),
                left: u64::from(pages),
                requests: 0,
                quit: false,
                ended: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every method leaves `State` consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until the destination closes the connection, or it breaks.
    pub(super) fn run(&self, socket: &TcpStream) {
        self.traffic.metered(|| {
            let served = self.serve(socket);
            self.lock().ended = Some(served);
            self.changed.notify_all();
        });
    }

    /// Requests answered, and pages that were not asked for.
    pub(super) fn figures(&self) -> (u64, u64) {
        let state = self.lock();
        (state.requests, state.left)
    }

    /// Waits a while for the end of the connection: how it ended.
    pub(super) fn wait(&self, most: Duration) -> Option<Result<(), SourceError>> {
        let mut state = self.lock();
        if state.ended.is_none() {
            let waited = self.changed.wait_timeout(state, most);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended.take()
    }

    /// Has the thread end at its next look.
    pub(super) fn quit(&self) {
        self.lock().quit = true;
    }

    fn serve(&self, socket: &TcpStream) -> Result<(), SourceError> {
        let mut bytes = [0; PAGE_BYTES];
        while let Some(page) = self.next(socket)? {
            let held = content(self.job, page, self.at, false);
            copy(self.job, page, &held, &mut bytes);
            self.send(socket, &bytes)?;
            let mut state = self.lock();
            state.requests += 1;
            if state.unserved.get(page) {
                state.unserved.clear(page);
                state.left -= 1;
            }
            if state.quit {
                return Err(SourceError::Cancelled);
            }
        }
        Ok(())
    }

    /// The page that is asked for; `None`: the destination has closed the connection and lacks nothing.
    fn next(&self, socket: &TcpStream) -> Result<Option<u32>, SourceError> {
        let mut request = [0; REQUEST_BYTES];
        let read = read_whole(socket, &mut request, self.patience());
        match read.map_err(SourceError::Io)? {
            REQUEST_BYTES => Ok(Some(decode_request(&request, self.job.memory.pages())?)),
            0 => match self.lock().left {
                0 => Ok(None),
                pages => Err(SourceError::PagesUnserved { pages }),
            },
            _ => Err(SourceError::Io(ErrorKind::UnexpectedEof.into())),
        }
    }

    fn send(&self, socket: &TcpStream, page: &[u8; PAGE_BYTES]) -> Result<(), SourceError> {
        for part in [&answer()[..], &page[..]] {
            write_whole(socket, part, self.patience()).map_err(SourceError::Io)?;
            add(&self.traffic.accepted, part.len() as u64);
        }
        add(&self.traffic.header_bytes, RECORD_BYTES as u64);
        add(&self.traffic.data_bytes, PAGE_BYTES as u64);
        add(&self.traffic.normal_pages, 1);
        Ok(())
    }

    /// A silence as long as the connection's limit breaks it.
    fn patience(&self) -> impl FnMut() -> bool {
        let ms = self.job.params.postcopy.stall_timeout;
        let until_ns = mono_ns().saturating_add(ms.saturating_mul(NS_PER_MS));
        move || mono_ns() < until_ns && !self.lock().quit
    }
}
