//! XBZRLE at the source: QEMU's cache of what pages held when they were sent last, and its account.
//!
//! Direct-mapped by page (`page_cache.c`): a slot goes to another page once its own has not been asked
//! for in two syncs of the log. What a computed page held is its version; of RAM a copy is kept. Never
//! inside: the encoding (`replay::content::xbzrle`), which pages are sent.

use replay::content::{STAMP_BYTES, xbzrle};

use super::SourceJob;
use super::content::{Content, copy};
use crate::migration::record::XbzrleReport;
use crate::migration::wire::PAGE_BYTES;

/// `CACHED_PAGE_LIFETIME`, in syncs.
const LIFETIME: u64 = 2;

/// What a page held when it was sent.
#[derive(Debug)]
enum Held {
    Zero,
    Version(u64),
    Bytes(Box<[u8; PAGE_BYTES]>),
}

#[derive(Debug)]
struct Slot {
    page: u32,
    age: u64,
    held: Held,
}

/// QEMU's `PageCache`.
#[derive(Debug)]
struct Cache {
    slots: Vec<Option<Slot>>,
}

impl Cache {
    fn new(bytes: u64) -> Self {
        let slots = usize::try_from(bytes / PAGE_BYTES as u64)
            .unwrap_or(usize::MAX)
            .max(1);
        Self {
            slots: std::iter::repeat_with(|| None).take(slots).collect(),
        }
    }

    fn slot(&mut self, page: u32) -> &mut Option<Slot> {
        let at = page as usize % self.slots.len();
        &mut self.slots[at]
    }

    /// `cache_is_cached`: asking for a page keeps it.
    fn find(&mut self, page: u32, generation: u64) -> Option<&mut Slot> {
        let slot = self.slot(page).as_mut().filter(|slot| slot.page == page)?;
        slot.age = generation;
        Some(slot)
    }

    /// `cache_insert`: whether the slot was free for it.
    fn insert(&mut self, page: u32, generation: u64, held: impl FnOnce() -> Held) -> bool {
        let slot = self.slot(page);
        let fresh = slot
            .as_ref()
            .is_some_and(|slot| slot.page != page && slot.age + LIFETIME > generation);
        if !fresh {
            *slot = Some(Slot {
                page,
                age: generation,
                held: held(),
            });
        }
        !fresh
    }
}

/// How a page is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it is; `copied`: as it stands in [`Xbzrle::now`], since RAM may change meanwhile.
    Whole {
        /// Whether that copy is what must be sent.
        copied: bool,
    },
    /// As [`Xbzrle::encoding`] says.
    Delta,
    /// Not at all.
    Unchanged,
}

/// The capability when it is on.
#[derive(Debug)]
pub(super) struct Xbzrle {
    cache: Cache,
    /// From the end of the first round of RAM on.
    started: bool,
    before: Box<[u8; PAGE_BYTES]>,
    pub(super) now: Box<[u8; PAGE_BYTES]>,
    pub(super) encoding: Vec<u8>,
    report: XbzrleReport,
    at_period: XbzrleReport,
    pages_at_period: u64,
}

impl Xbzrle {
    /// With a cache of so many bytes.
    pub(super) fn new(cache_bytes: u64) -> Self {
        Self {
            cache: Cache::new(cache_bytes),
            started: false,
            before: Box::new([0; PAGE_BYTES]),
            now: Box::new([0; PAGE_BYTES]),
            encoding: Vec::with_capacity(PAGE_BYTES),
            report: XbzrleReport {
                cache_size: cache_bytes,
                ..XbzrleReport::default()
            },
            at_period: XbzrleReport::default(),
            pages_at_period: 0,
        }
    }

    /// The walk has come to the end of RAM.
    pub(super) fn round_of_ram_ended(&mut self) {
        self.started = true;
    }

    /// A page of zeros is sent as such: what is held of it must not stay.
    pub(super) fn zero_page(&mut self, page: u32, generation: u64) {
        if self.started {
            self.cache.insert(page, generation, || Held::Zero);
        }
    }

    /// `save_xbzrle_page`. `generation` is the number of syncs; in the last round nothing is kept.
    pub(super) fn page(
        &mut self,
        job: &SourceJob,
        page: u32,
        content: &Content<'_>,
        generation: u64,
        last: bool,
    ) -> Outcome {
        if !self.started {
            return Outcome::Whole { copied: false };
        }
        copy(job, page, content, &mut self.now);
        let of_ram = matches!(content, Content::Ram(_));
        let held = |now: &[u8; PAGE_BYTES]| match content {
            Content::Zero => Held::Zero,
            Content::Data(stamp, _) => Held::Version(stamp.version),
            Content::Ram(_) => Held::Bytes(Box::new(*now)),
        };
        let Some(slot) = self.cache.find(page, generation) else {
            self.report.cache_miss += 1;
            let kept = !last && self.cache.insert(page, generation, || held(&self.now));
            return Outcome::Whole {
                copied: kept && of_ram,
            };
        };
        self.report.pages += 1;
        match &slot.held {
            Held::Zero => self.before.fill(0),
            Held::Bytes(bytes) => self.before.copy_from_slice(&bytes[..]),
            Held::Version(version) => {
                let (stamp, body) = job.memory.page(page, *version);
                self.before[..STAMP_BYTES].copy_from_slice(&stamp.encode());
                self.before[STAMP_BYTES..].copy_from_slice(body);
            }
        }
        let length = xbzrle::encode(&self.before[..], &self.now[..], &mut self.encoding);
        if !last && length != Some(0) {
            match (&mut slot.held, content) {
                (Held::Bytes(bytes), Content::Ram(_)) => bytes.copy_from_slice(&self.now[..]),
                (slot, _) => *slot = held(&self.now),
            }
        }
        match length {
            Some(0) => Outcome::Unchanged,
            Some(bytes) => {
                self.report.bytes += (bytes + crate::migration::wire::DELTA_HEAD_BYTES) as u64;
                Outcome::Delta
            }
            None => {
                self.report.overflow += 1;
                self.report.bytes += PAGE_BYTES as u64;
                Outcome::Whole { copied: of_ram }
            }
        }
    }

    /// `migration_update_rates`: a period of at least 1 s ended, with so many pages sent in all.
    pub(super) fn period_ended(&mut self, sent_pages: u64) {
        let pages = sent_pages - self.pages_at_period;
        if pages == 0 {
            return;
        }
        let (now, then) = (self.report, self.at_period);
        self.report.cache_miss_rate = (now.cache_miss - then.cache_miss) as f64 / pages as f64;
        let plain = (now.pages - then.pages) as f64 * PAGE_BYTES as f64;
        let encoded = (now.bytes - then.bytes) as f64;
        self.report.encoding_rate = if encoded > 0.0 { plain / encoded } else { 0.0 };
        self.at_period = self.report;
        self.pages_at_period = sent_pages;
    }

    pub(super) fn report(&self) -> XbzrleReport {
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `page_cache.c` by hand: 4 slots, pages 1 and 5 share one.
    #[test]
    fn a_slot_is_kept_for_two_syncs() {
        let mut cache = Cache::new(4 * 4096);
        assert!(cache.insert(1, 3, || Held::Version(7)));
        assert!(cache.find(5, 3).is_none(), "another page's slot");
        assert!(!cache.insert(5, 4, || Held::Zero), "3 + 2 > 4: fresh");
        assert!(cache.find(1, 4).is_some(), "asking keeps it");
        assert!(!cache.insert(5, 5, || Held::Zero), "4 + 2 > 5");
        assert!(cache.insert(5, 6, || Held::Zero), "its time is over");
        assert!(cache.find(1, 6).is_none());
        assert!(
            cache.insert(5, 6, || Held::Version(2)),
            "its own page always"
        );
    }
}
