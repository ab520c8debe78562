//! RAM and its dirty log.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use netmodel::sys::memory::{Piece, SharedMemory};
use replay::content::{PAGE_BYTES, STAMP_BYTES};

use crate::migration::guest::GuestMemory;

/// A VM's RAM, and a bit a page: written since the bit was cleared.
#[derive(Debug)]
pub struct Ram {
    memory: SharedMemory,
    pub(super) dirty: Box<[AtomicU64]>,
    pages: u32,
}

impl Ram {
    /// RAM of zeros. It takes no memory until it is written.
    ///
    /// # Errors
    /// When the kernel has none to give.
    pub fn new(pages: u32) -> io::Result<Self> {
        let words = pages.div_ceil(u64::BITS).max(1);
        Ok(Self {
            memory: SharedMemory::map(pages as usize * PAGE_BYTES)?,
            dirty: (0..words).map(|_| AtomicU64::new(0)).collect(),
            pages,
        })
    }

    /// RAM in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// A vCPU's write: the page becomes what its version holds, then its bit is set.
    pub fn write(&self, memory: &GuestMemory, page: u32, version: u64) {
        self.store(memory, page, version);
        self.mark(page);
    }

    /// The data alone.
    pub(super) fn store(&self, memory: &GuestMemory, page: u32, version: u64) {
        let at = page as usize * PAGE_BYTES;
        if memory.is_zero(page, version) {
            self.receive_zero(page);
        } else {
            let (stamp, body) = memory.page(page, version);
            self.memory.store(at, &stamp.encode());
            self.memory.store(at + STAMP_BYTES, body);
        }
    }

    /// The bit alone. Unconditional: to look first whether it is set would let the data become visible
    /// after somebody cleared it.
    pub(super) fn mark(&self, page: u32) {
        self.dirty[(page / u64::BITS) as usize].fetch_or(1 << (page % u64::BITS), Ordering::AcqRel);
    }

    /// A page arrives from elsewhere; nothing runs here yet, so no bit is set.
    pub fn receive(&self, page: u32, bytes: &[u8]) {
        self.memory.store(page as usize * PAGE_BYTES, bytes);
    }

    /// A page of zeros arrives; as in QEMU, one that is zero already is not touched.
    pub fn receive_zero(&self, page: u32) {
        if !self.is_zero(page) {
            self.receive(page, &[0; PAGE_BYTES]);
        }
    }

    /// Whether the page holds nothing but zeros.
    #[must_use]
    pub fn is_zero(&self, page: u32) -> bool {
        self.memory.is_zero(page as usize * PAGE_BYTES, PAGE_BYTES)
    }

    /// The page, for sending: what it holds when the kernel reads it.
    #[must_use]
    pub fn piece(&self, page: u32) -> Piece<'_> {
        self.memory.piece(page as usize * PAGE_BYTES, PAGE_BYTES)
    }

    /// What the page holds.
    pub fn read(&self, page: u32, into: &mut [u8; PAGE_BYTES]) {
        self.memory.load(page as usize * PAGE_BYTES, into);
    }

    /// Whether the page's bit is set.
    #[must_use]
    pub fn is_dirty(&self, page: u32) -> bool {
        let word = self.dirty[(page / u64::BITS) as usize].load(Ordering::Acquire);
        word >> (page % u64::BITS) & 1 == 1
    }
}
