//! A migration's view of the dirty log of RAM: KVM's bits and what QEMU does with them.
//!
//! The same as `replay::dirty_log` computes for memory that is not there: reading the log clears
//! nothing; what a reading found is cleared, chunk by chunk, when the first page of a chunk is about to
//! be sent. Or all at once with the reading.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use replay::{Bitmap, Reprotect};

use super::Ram;

/// The dirty log of one VM during one migration.
#[derive(Debug)]
pub struct RamLog {
    ram: Arc<Ram>,
    /// `None` when protection happens at the sync.
    chunk_pages: Option<u32>,
    /// What the last sync read.
    found: Bitmap,
    /// Chunks cleared since.
    cleared: Vec<bool>,
    returned: Bitmap,
}

impl RamLog {
    /// Begins logging with the first sync, which finds every page dirty.
    ///
    /// # Panics
    /// If chunks are of no pages.
    #[must_use]
    pub fn start(ram: Arc<Ram>, policy: Reprotect) -> Self {
        let pages = ram.pages();
        let chunk_pages = match policy {
            Reprotect::Lazy { chunk_pages } => {
                assert!(chunk_pages > 0, "a chunk has at least one page");
                // `KVM_DIRTY_LOG_INITIALLY_SET`.
                ram.dirty
                    .iter()
                    .for_each(|word| word.store(u64::MAX, Ordering::Release));
                Some(chunk_pages)
            }
            Reprotect::AtSync => {
                ram.dirty
                    .iter()
                    .for_each(|word| word.store(0, Ordering::Release));
                None
            }
        };
        let chunks = pages.div_ceil(chunk_pages.unwrap_or(pages.max(1))) as usize;
        Self {
            ram,
            chunk_pages,
            found: Bitmap::full(pages),
            cleared: vec![false; chunks],
            returned: Bitmap::new(pages),
        }
    }

    /// Reads the log into the migration bitmap; how many of its pages were clear before.
    pub fn sync(&mut self, migration: &mut Bitmap) -> u64 {
        let (dirty, lazy) = (&self.ram.dirty, self.chunk_pages.is_some());
        self.found.set_words(|word| {
            if lazy {
                dirty[word].load(Ordering::Acquire)
            } else {
                dirty[word].swap(0, Ordering::AcqRel)
            }
        });
        self.cleared.fill(false);
        let new = migration.or(&self.found) + migration.or(&self.returned);
        self.returned.clear_all();
        new
    }

    /// To be called before the page is read for sending.
    pub fn before_send(&mut self, page: u32) {
        let Some(chunk_pages) = self.chunk_pages else {
            return;
        };
        let chunk = page / chunk_pages;
        if std::mem::replace(&mut self.cleared[chunk as usize], true) {
            return;
        }
        let (first, end) = (
            chunk * chunk_pages,
            (chunk * chunk_pages)
                .saturating_add(chunk_pages)
                .min(self.found.len()),
        );
        for word in first / u64::BITS..end.div_ceil(u64::BITS) {
            let bits = self.found.word_within(word as usize, &(first..end));
            self.ram.dirty[word as usize].fetch_and(!bits, Ordering::AcqRel);
        }
    }

    /// Hands pages back that never arrived: the next sync finds them dirty again.
    pub fn put_back(&mut self, pages: &Bitmap) {
        self.returned.or(pages);
    }

    /// Whether the log would find the page now.
    #[must_use]
    pub fn is_dirty(&self, page: u32) -> bool {
        self.ram.is_dirty(page)
    }
}
