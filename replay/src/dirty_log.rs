//! What KVM and QEMU keep of a guest's writes.
//!
//! KVM (with `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`) holds one bit a page: written since the page was
//! last protected. Reading the log (`KVM_GET_DIRTY_LOG`) clears nothing. `KVM_CLEAR_DIRTY_LOG`
//! clears, and protects anew, *the bits it is handed*, and QEMU hands it what its last reading
//! held, chunk by chunk, when the first page of a chunk is about to be sent. Therefore
//! - a page found dirty at sync S1 whose chunk is cleared at C > S1 is dirty at S2 if written in
//!   (C, S2]: what was written in (S1, C] is in the copy sent after C;
//! - a page found dirty at S1 whose chunk is not cleared before S2 is dirty at S2, written or not;
//! - a page not found dirty at S1 is dirty at S2 if written in (S1, S2], whatever was cleared.
//!
//! Never inside: deciding when to sync, sending.

use std::ops::Range;

use crate::bitmap::Bitmap;
use crate::guest::{GuestTime, MemoryModel};

/// When pages found dirty are protected anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reprotect {
    /// When the first page of their chunk is sent (QEMU's clear bitmap).
    Lazy {
        /// Pages a chunk, at least 1.
        chunk_pages: u32,
    },
    /// With the harvest itself (Cloud Hypervisor, Xen, KVM without manual protection).
    AtSync,
}

impl Reprotect {
    /// QEMU's default: chunks of 2^18 pages, 1 GiB (`CLEAR_BITMAP_SHIFT_DEFAULT`).
    pub const QEMU: Self = Self::Lazy {
        chunk_pages: 1 << 18,
    };
}

/// The dirty log of one guest during one migration. Dropped with it; the guest loses nothing,
/// since its writes do not depend on being looked at.
#[derive(Debug, Clone)]
pub struct DirtyLog {
    /// Pages a chunk; `None` when protection happens at the sync.
    chunk_pages: Option<u32>,
    last_sync: GuestTime,
    /// KVM's bits as the last sync read them. All clear under [`Reprotect::AtSync`].
    found: Bitmap,
    /// When each chunk was cleared since the last sync.
    cleared: Vec<Option<GuestTime>>,
    /// Pages handed back, to be found at the next sync whatever was written.
    returned: Bitmap,
    /// Scratch of a sync.
    fresh: Bitmap,
}

impl DirtyLog {
    /// Begins logging with the first sync, which finds every page dirty (the log is initially all
    /// ones): the caller's migration bitmap is [`Bitmap::full`].
    ///
    /// # Panics
    /// If chunks are of no pages.
    #[must_use]
    pub fn start(pages: u32, policy: Reprotect, now: GuestTime) -> Self {
        let (chunk_pages, found) = match policy {
            Reprotect::Lazy { chunk_pages } => {
                assert!(chunk_pages > 0, "a chunk has at least one page");
                (Some(chunk_pages), Bitmap::full(pages))
            }
            Reprotect::AtSync => (None, Bitmap::new(pages)),
        };
        let chunks = pages.div_ceil(chunk_pages.unwrap_or(pages.max(1))) as usize;
        Self {
            chunk_pages,
            last_sync: now,
            found,
            cleared: vec![None; chunks],
            returned: Bitmap::new(pages),
            fresh: Bitmap::new(pages),
        }
    }

    /// Reads the log at `now` into the migration bitmap; how many of its pages were clear before
    /// (QEMU's `num_dirty_pages_period` counts these).
    ///
    /// # Panics
    /// If the model or the bitmap is of another guest, or `now` lies before the last sync.
    pub fn sync(&mut self, model: &MemoryModel, now: GuestTime, migration: &mut Bitmap) -> u64 {
        assert_eq!(model.pages(), self.found.len(), "the log of another guest");
        assert!(
            now.not_before(&self.last_sync),
            "sync at {now:?} after {:?}",
            self.last_sync
        );
        self.fresh.clear_all();
        model.harvest(self.last_sync, now, &mut self.fresh);
        for chunk in 0..self.cleared.len() {
            let range = self.chunk_range(chunk);
            match self.cleared[chunk].take() {
                Some(cleared_at) => self.drop_written_before(model, range, cleared_at, now),
                None => {
                    self.fresh.or_range(&self.found, range);
                }
            }
        }
        self.fresh.or(&self.returned);
        self.returned.clear_all();
        self.last_sync = now;
        if self.chunk_pages.is_some() {
            std::mem::swap(&mut self.found, &mut self.fresh);
            migration.or(&self.found)
        } else {
            migration.or(&self.fresh)
        }
    }

    /// Takes out of `fresh` what a chunk's clearing covers: pages found before it and not written
    /// since.
    fn drop_written_before(
        &mut self,
        model: &MemoryModel,
        range: Range<u32>,
        cleared_at: GuestTime,
        now: GuestTime,
    ) {
        let mut next = self.fresh.next_set(range.start);
        while let Some(page) = next.filter(|&page| page < range.end) {
            if self.found.get(page) && !model.written_in(page, cleared_at, now) {
                self.fresh.clear(page);
            }
            next = self.fresh.next_set(page + 1);
        }
    }

    /// To be called before the page's content is read for sending. Under [`Reprotect::Lazy`] the
    /// first such page of a chunk since the last sync clears the chunk's found pages at `now`;
    /// whether it did.
    ///
    /// # Panics
    /// If the page is beyond RAM, or `now` lies before the last sync.
    pub fn before_send(&mut self, page: u32, now: GuestTime) -> bool {
        let Some(chunk_pages) = self.chunk_pages else {
            return false;
        };
        let cleared = &mut self.cleared[(page / chunk_pages) as usize];
        if cleared.is_some() {
            return false;
        }
        assert!(
            now.not_before(&self.last_sync),
            "send at {now:?} after {:?}",
            self.last_sync
        );
        *cleared = Some(now);
        true
    }

    /// Hands pages back that were taken from the migration bitmap and never arrived (a failed
    /// round): the next sync finds them dirty again.
    ///
    /// # Panics
    /// If the bitmap is of another guest.
    pub fn put_back(&mut self, pages: &Bitmap) {
        self.returned.or(pages);
    }

    /// Guest time of the last sync.
    #[must_use]
    pub fn last_sync(&self) -> GuestTime {
        self.last_sync
    }

    fn chunk_range(&self, chunk: usize) -> Range<u32> {
        let pages = self.found.len();
        let Some(size) = self.chunk_pages else {
            return 0..pages;
        };
        let start = u32::try_from(chunk).expect("there are fewer chunks than pages") * size;
        start..start.saturating_add(size).min(pages)
    }
}

#[cfg(test)]
mod tests;
