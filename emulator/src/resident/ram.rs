//! RAM and its dirty log, and what of it has not come yet.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use netmodel::sys::memory::{Piece, SharedMemory};
use netmodel::sys::userfault::Userfault;
use replay::Bitmap;
use replay::content::{PAGE_BYTES, STAMP_BYTES};

use crate::migration::guest::GuestMemory;

/// A VM's RAM, and a bit a page: written since the bit was cleared.
#[derive(Debug)]
pub struct Ram {
    memory: SharedMemory,
    pub(super) dirty: Box<[AtomicU64]>,
    pages: u32,
    lacking: Mutex<Option<Arc<Lacking>>>,
}

/// RAM of which pages are missing: the kernel stops whoever touches one.
#[derive(Debug)]
pub struct Lacking {
    trap: Userfault,
    /// What was missing in the beginning.
    pages: Bitmap,
}

/// A thread was stopped at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// Which page.
    pub page: u32,
    /// Which thread, as the kernel numbers it.
    pub thread: u32,
}

impl Lacking {
    /// Pages that were missing in the beginning.
    #[must_use]
    pub fn pages(&self) -> &Bitmap {
        &self.pages
    }

    /// A page arrives, in one step; who waits for it goes on. False when a page is there, which stays what it is.
    ///
    /// # Errors
    /// The kernel's, for instance when RAM was let go of.
    pub fn place(&self, page: u32, bytes: &[u8; PAGE_BYTES]) -> io::Result<bool> {
        self.trap.place(page as usize * PAGE_BYTES, bytes)
    }

    /// A page of zeros arrives.
    ///
    /// # Errors
    /// As [`Lacking::place`].
    pub fn place_zero(&self, page: u32) -> io::Result<bool> {
        self.trap
            .place_zeros(page as usize * PAGE_BYTES, PAGE_BYTES)
    }

    /// Threads stopped since it was last asked; waits for one, or for [`Lacking::interrupt`], so many milliseconds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn touched(&self, ms: u16) -> io::Result<Vec<Touch>> {
        let touch = |fault: netmodel::sys::userfault::Fault| {
            let page = u32::try_from(fault.offset / PAGE_BYTES).ok()?;
            let thread = fault.thread;
            Some(Touch { page, thread })
        };
        let faults = self.trap.faults(ms)?;
        Ok(faults.into_iter().filter_map(touch).collect())
    }

    /// Has whoever waits in [`Lacking::touched`] look around.
    pub fn interrupt(&self) {
        self.trap.interrupt();
    }

    /// Lets those go on that wait for a page which is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wake(&self, page: u32) -> io::Result<()> {
        self.trap.wake(page as usize * PAGE_BYTES, PAGE_BYTES)
    }
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
            lacking: Mutex::default(),
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

    /// Takes these pages away, whatever they hold, and has the kernel stop whoever touches one of them, until it is
    /// placed or RAM is let go of.
    ///
    /// # Errors
    /// When the kernel has no userfaultfd, or refuses.
    pub fn lack(&self, pages: Bitmap) -> io::Result<Arc<Lacking>> {
        let trap = self.memory.trap(runs(&pages))?;
        let lacking = Arc::new(Lacking { trap, pages });
        *self.lock() = Some(Arc::clone(&lacking));
        Ok(lacking)
    }

    /// What is missing of it, if anything may be.
    #[must_use]
    pub fn lacking(&self) -> Option<Arc<Lacking>> {
        self.lock().clone()
    }

    /// Nothing is missing any more, or nobody needs what is: who waits for a page goes on, and finds zeros.
    pub fn let_go(&self) {
        if let Some(lacking) = self.lock().take() {
            // It fails for memory that is not mapped, for which nobody waits.
            let _ = lacking.trap.let_go();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Lacking>>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a word of the page, as a vCPU that looks something up: it is there afterwards.
    pub fn touch(&self, page: u32) {
        let mut word = [0; 8];
        self.memory.load(page as usize * PAGE_BYTES, &mut word);
        std::hint::black_box(word);
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

/// Pages side by side, as ranges of bytes.
fn runs(pages: &Bitmap) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = pages.next_set(from)?;
        from = first + 1;
        while from < pages.len() && pages.get(from) {
            from += 1;
        }
        Some(first as usize * PAGE_BYTES..from as usize * PAGE_BYTES)
    })
}
