//! The source's end of the connection: batches shaped as QEMUFile's, cancel, TCP state.
//!
//! Page bodies go to `writev` straight from the pool; headers, stamps and zero pages stand in one
//! small arena between them. Never inside: what to send, and why.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use netmodel::sys::memory::{self, Piece};
use netmodel::sys::tcpinfo;
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use super::record::{BytesByKind, TcpSample};
use super::source::{SourceError, Traffic};
use super::wire::multifd::PACKET_PAGES;
use crate::clock::mono_ns;

mod control;
mod samples;

pub use control::{Broken, Progress, SourceControl, status_word};

/// `MAX_IOV_SIZE`: at 2 a page, 32 pages a call; of a multifd packet all at once.
const MAX_PIECES: usize = 64;
/// A header, and stamps and bodies of the 128 pages of a packet, with room to round up.
const PACKET_PIECES: usize = 2 * PACKET_PAGES + 4;
/// `IO_BUF_SIZE`.
const ARENA_BYTES: usize = 32 * 1024;
/// How often a blocked call looks whether it should go on.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// TCP state is sampled at 10 Hz.
const TCP_SAMPLE_NS: u64 = 100_000_000;
/// Between two looks: a recovery lasts a round trip or more, and a look costs a microsecond.
const TCP_LOOK_NS: u64 = 10_000_000;
/// Samples after which only those every 100 ms are kept: a lossy link keeps TCP in recovery for ever.
const TCP_REPAIRS_MAX: usize = 4096;

/// Sets what every data socket needs; the congestion control by name, since machines differ in
/// their default.
///
/// # Errors
/// When the kernel refuses, for instance a congestion control that it lacks.
pub fn prepare_socket(socket: &TcpStream, congestion: Option<&str>) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?; // as QEMU does
    socket.set_write_timeout(Some(POLL))?;
    socket.set_read_timeout(Some(POLL))?;
    if let Some(name) = congestion {
        setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name))?;
    }
    Ok(())
}

/// Reads until `into` is full or the connection ends: how many bytes came. While nothing comes, `goes_on` says whether to
/// go on waiting.
pub(super) fn read_whole(
    mut socket: &TcpStream,
    into: &mut [u8],
    mut goes_on: impl FnMut() -> bool,
) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match socket.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut if goes_on() => {}
                _ => return Err(error),
            },
        }
    }
    Ok(filled)
}

/// Writes all of `bytes`. While nothing is taken, `goes_on` says whether to go on waiting.
pub(super) fn write_whole(
    mut socket: &TcpStream,
    mut bytes: &[u8],
    mut goes_on: impl FnMut() -> bool,
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut if goes_on() => {}
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// A close of this socket, whoever has the last descriptor of it, resets the connection.
pub(super) fn reset_when_closed(socket: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // A socket that is no longer connected has nothing to reset.
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
}

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Arena { start: usize, end: usize },
    Page(Piece<'a>),
}

/// The connection: the one the migration began with, or one that took it up again.
#[derive(Debug)]
enum Connection<'a> {
    First(&'a TcpStream),
    Again(TcpStream),
}

/// Bytes on their way to the socket.
#[derive(Debug)]
pub(super) struct PageStream<'a> {
    connection: Connection<'a>,
    /// ns without a byte taken after which the connection counts as broken.
    stall_ns: Option<u64>,
    control: &'a SourceControl,
    deadline_ns: Option<u64>,
    pieces_max: usize,
    arena: Vec<u8>,
    pieces: Vec<Part<'a>>,
    accepted: u64,
    /// The connections beside this one, if TCP states are to be sampled, and what they have sent.
    watched: Option<Vec<&'a TcpStream>>,
    beside: Option<&'a Traffic>,
    looked_ns: u64,
    pub(super) tcp: Vec<TcpSample>,
    pub(super) bytes: BytesByKind,
}

impl<'a> PageStream<'a> {
    pub(super) fn new(
        socket: &'a TcpStream,
        control: &'a SourceControl,
        batch_pages: usize,
        deadline_ns: Option<u64>,
    ) -> Self {
        Self {
            connection: Connection::First(socket),
            stall_ns: None,
            control,
            deadline_ns,
            pieces_max: (2 * batch_pages).clamp(2, MAX_PIECES),
            arena: Vec::with_capacity(2 * ARENA_BYTES),
            pieces: Vec::with_capacity(PACKET_PIECES),
            accepted: 0,
            watched: None,
            beside: None,
            looked_ns: 0,
            tcp: Vec::new(),
            bytes: BytesByKind::default(),
        }
    }

    /// The same, sampling the TCP state of all the migration's connections and counting what was sent
    /// over those beside this one.
    pub(super) fn watching(
        mut self,
        others: impl Iterator<Item = &'a TcpStream>,
        beside: &'a Traffic,
    ) -> Self {
        self.watched = Some(others.collect());
        self.beside = Some(beside);
        self
    }

    /// Samples one more connection beside this one.
    pub(super) fn watch(&mut self, other: &'a TcpStream) {
        if let Some(watched) = &mut self.watched {
            watched.push(other);
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match &self.connection {
            Connection::First(socket) => socket,
            Connection::Again(socket) => socket,
        }
    }

    /// Goes on over another connection. What the last one had not taken is forgotten.
    pub(super) fn reconnect(&mut self, socket: TcpStream) {
        self.connection = Connection::Again(socket);
        self.pieces.clear();
        self.arena.clear();
    }

    /// From here on a connection that takes nothing for so long is broken.
    pub(super) fn set_stall(&mut self, stall_ns: Option<u64>) {
        self.stall_ns = stall_ns;
    }

    /// Bytes the sockets have taken.
    pub(super) fn accepted(&self) -> u64 {
        let beside = self
            .beside
            .map(|traffic| traffic.accepted.load(Ordering::Relaxed));
        self.accepted + beside.unwrap_or(0)
    }

    /// Bytes taken since this was asked last.
    pub(super) fn take_accepted(&mut self) -> u64 {
        std::mem::take(&mut self.accepted)
    }

    /// Puts small things; returns how many bytes they are.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let start = self.arena.len();
        write(&mut self.arena);
        let end = self.arena.len();
        match self.pieces.last_mut() {
            Some(Part::Arena { end: last, .. }) if *last == start => *last = end,
            _ => self.pieces.push(Part::Arena { start, end }),
        }
        (end - start) as u64
    }

    /// Puts a page's body without copying it.
    pub(super) fn put_body(&mut self, body: &'a [u8]) {
        self.put_piece(Piece::of(body));
    }

    /// Puts a page, or its body, that is read when the batch is handed over.
    pub(super) fn put_piece(&mut self, piece: Piece<'a>) {
        self.pieces.push(Part::Page(piece));
    }

    /// Whether the batch is full: to be flushed before anything else is put.
    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= self.pieces_max || self.arena.len() >= ARENA_BYTES
    }

    /// Hands everything to the socket; blocks while it takes nothing, until a cancel or the
    /// deadline.
    pub(super) fn flush(&mut self) -> Result<(), SourceError> {
        let mut pieces = [Piece::of(&[]); PACKET_PIECES];
        for (piece, part) in pieces.iter_mut().zip(&self.pieces) {
            *piece = match *part {
                Part::Arena { start, end } => Piece::of(&self.arena[start..end]),
                Part::Page(page) => page,
            };
        }
        let mut left = &mut pieces[..self.pieces.len()];
        Piece::advance(&mut left, 0); // drops empty ones
        let mut stalls_at = self.stalls_at();
        while !left.is_empty() {
            match memory::write_vectored(self.socket(), left) {
                Ok(0) => return Err(SourceError::Io(ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    self.accepted += bytes as u64;
                    Piece::advance(&mut left, bytes);
                    if !left.is_empty() {
                        stalls_at = self.stalls_at();
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    // Nothing was taken within the socket's time-out; TCP's own end is another error.
                    ErrorKind::WouldBlock => {
                        self.may_go_on()?;
                        if stalls_at.is_some_and(|at| mono_ns() >= at) {
                            return Err(SourceError::Io(ErrorKind::TimedOut.into()));
                        }
                    }
                    _ if self.control.is_cancelled() => return Err(SourceError::Cancelled),
                    _ => return Err(SourceError::Io(error)),
                },
            }
        }
        self.pieces.clear();
        self.arena.clear();
        self.sample();
        Ok(())
    }

    fn stalls_at(&self) -> Option<u64> {
        self.stall_ns.map(|ns| mono_ns().saturating_add(ns))
    }

    pub(super) fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.deadline_ns = deadline_ns;
    }

    /// Cancelled, or out of time?
    pub(super) fn may_go_on(&self) -> Result<(), SourceError> {
        if self.control.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        if self
            .deadline_ns
            .is_some_and(|deadline| mono_ns() >= deadline)
        {
            return Err(SourceError::Deadline);
        }
        Ok(())
    }

    /// Looks at the connection now and then. What is kept is a look every 100 ms, and every one at which TCP is answering
    /// a loss or has just done so: a path that stands idle then is not this computer's fault.
    pub(super) fn sample(&mut self) {
        let now = mono_ns();
        let Some(watched) = &self.watched else {
            return;
        };
        // Many connections are looked at as much less often.
        let crowd = (1 + watched.len() as u64).div_ceil(8);
        if now < self.looked_ns + (TCP_LOOK_NS * crowd).min(TCP_SAMPLE_NS) {
            return;
        }
        let all = std::iter::once(self.socket()).chain(watched.iter().copied());
        let infos: Result<Vec<_>, _> = all.map(tcpinfo::read).collect();
        self.looked_ns = now;
        // A socket just reset has no state to sample; the next write tells why.
        let Ok(infos) = infos else {
            return;
        };
        let sample = samples::combined(&infos, now, self.accepted());
        let repairs = self.tcp.last().is_none_or(|last| {
            (last.recovering, last.retransmits) != (sample.recovering, sample.retransmits)
        }) || sample.recovering;
        let due = self
            .tcp
            .last()
            .is_none_or(|last| now >= last.at_ns + TCP_SAMPLE_NS);
        if due || (repairs && self.tcp.len() < TCP_REPAIRS_MAX) {
            self.tcp.push(sample);
        }
    }
}
