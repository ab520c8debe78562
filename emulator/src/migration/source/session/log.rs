//! The dirty log of the guest that is sent: computed, or that of RAM that is there.

use std::sync::Arc;

use replay::{Bitmap, DirtyLog, GuestTime, MemoryModel, Reprotect};
use traces::units::PAGE_SIZE;

use crate::migration::source::SourceJob;
use crate::resident::RamLog;

/// The log, whichever.
pub(super) enum Log<'a> {
    Computed {
        log: DirtyLog,
        model: &'a MemoryModel,
    },
    Ram(RamLog),
}

impl<'a> Log<'a> {
    pub(super) fn start(job: &'a SourceJob, policy: Reprotect) -> Self {
        let mut log = match &job.ram {
            Some(ram) => Self::Ram(RamLog::start(Arc::clone(ram), policy)),
            None => Self::Computed {
                log: DirtyLog::start(job.memory.pages(), policy, job.guest.guest_time()),
                model: job.memory.model(),
            },
        };
        if job.params.page_tables > 0 {
            log.put_back(&page_tables(job));
        }
        log
    }

    /// Reads the log into the migration bitmap; how many of its pages were clear before.
    pub(super) fn sync(&mut self, now: GuestTime, migration: &mut Bitmap) -> u64 {
        match self {
            Self::Computed { log, model } => log.sync(model, now, migration),
            Self::Ram(log) => log.sync(migration),
        }
    }

    /// To be called before the page is read for sending.
    pub(super) fn before_send(&mut self, page: u32, now: GuestTime) {
        match self {
            Self::Computed { log, .. } => {
                log.before_send(page, now);
            }
            Self::Ram(log) => log.before_send(page),
        }
    }

    /// Hands pages back that never arrived.
    pub(super) fn put_back(&mut self, pages: &Bitmap) {
        match self {
            Self::Computed { log, .. } => log.put_back(pages),
            Self::Ram(log) => log.put_back(pages),
        }
    }

    /// Whether the page was written since the last sync, under a log that is cleared with it.
    pub(super) fn written_since_sync(&self, page: u32, now: GuestTime) -> bool {
        match self {
            Self::Computed { log, model } => model.written_in(page, log.last_sync(), now),
            Self::Ram(log) => log.is_dirty(page),
        }
    }
}

/// The guest's page tables: so many pages among those that nothing writes and that are not zero, evenly apart. As
/// many as there are.
fn page_tables(job: &SourceJob) -> Bitmap {
    let layout = job.memory.model().layout();
    let ram = 0..job.memory.pages();
    let written = layout.behaviour(0).map(|behaviour| behaviour.start);
    let still = written.or_else(|| ram.clone().find(|&page| layout.starts_zero(page)));
    let still = still.unwrap_or(ram.end);
    let wanted = job.params.page_tables.div_ceil(PAGE_SIZE);
    let tables = u32::try_from(wanted).map_or(still, |wanted| wanted.min(still));
    let mut pages = Bitmap::new(ram.end);
    for table in 0..tables {
        let page = u64::from(table) * u64::from(still) / u64::from(tables);
        pages.set(u32::try_from(page).expect("below `still`"));
    }
    pages
}
