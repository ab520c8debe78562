//! Requested pages on a connection of their own: QEMU's `postcopy-preempt`.
//!
//! The thread that reads the return path writes them, past whatever the main connection's buffers hold; the
//! background goes on behind them. Never inside: which pages are asked for.

use std::net::TcpStream;

use crate::clock::mono_ns;
use crate::migration::guest::GuestMemory;
use crate::migration::source::{SourceError, SourceJob};
use crate::migration::transport::write_whole;
use crate::migration::wire::{Encoder, PAGE_BYTES};
use crate::resident::Ram;
use replay::GuestTime;

/// What went over it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) header_bytes: u64,
    pub(super) normal_pages: u64,
    pub(super) zero_pages: u64,
}

/// The connection, and what pages hold.
pub(super) struct Urgent<'a> {
    socket: &'a TcpStream,
    memory: &'a GuestMemory,
    /// Pages as they lie, if they do: nobody writes them here any more.
    ram: Option<&'a Ram>,
    /// When the guest stopped here.
    at: GuestTime,
    stall_ns: u64,
    encoder: Encoder,
    bytes: Vec<u8>,
}

impl<'a> Urgent<'a> {
    pub(super) fn new(
        socket: &'a TcpStream,
        job: &'a SourceJob,
        at: GuestTime,
        stall_ns: u64,
    ) -> Self {
        Self {
            socket,
            memory: &job.memory,
            ram: job.ram.as_deref(),
            at,
            stall_ns,
            encoder: Encoder::default(),
            bytes: Vec::with_capacity(2 * 4096),
        }
    }

    /// One page, whole or as a mark, and nothing after it.
    pub(super) fn send(&mut self, page: u32) -> Result<Sent, SourceError> {
        self.bytes.clear();
        let version = self.memory.version_at(page, self.at);
        let zero = match self.ram {
            Some(ram) => ram.is_zero(page),
            None => self.memory.is_zero(page, version),
        };
        let mut sent = Sent::default();
        if zero {
            self.encoder.zero_page(page, &mut self.bytes);
            sent.zero_pages = 1;
            sent.header_bytes = self.bytes.len() as u64;
        } else {
            self.encoder.page_header(page, &mut self.bytes);
            sent.normal_pages = 1;
            sent.header_bytes = self.bytes.len() as u64;
            if let Some(ram) = self.ram {
                let mut bytes = [0; PAGE_BYTES];
                ram.read(page, &mut bytes);
                self.bytes.extend_from_slice(&bytes);
            } else {
                let (stamp, body) = self.memory.page(page, version);
                self.bytes.extend_from_slice(&stamp.encode());
                self.bytes.extend_from_slice(body);
            }
        }
        let until_ns = mono_ns().saturating_add(self.stall_ns);
        write_whole(self.socket, &self.bytes, || mono_ns() < until_ns).map_err(SourceError::Io)?;
        Ok(sent)
    }
}
