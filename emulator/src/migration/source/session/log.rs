//! The dirty log of the guest that is sent: computed, or that of RAM that is there.

use std::sync::Arc;

use replay::{Bitmap, DirtyLog, GuestTime, MemoryModel, Reprotect};
use traces::units::PAGE_SIZE;

use crate::migration::source::SourceJob;
use crate::resident::RamLog;

/// The log, whichever.
pub(super) struct Log<'a> {
    source: Source<'a>,
    /// Page tables that are marked whenever the guest has run.
    walked: Option<Bitmap>,
    synced: GuestTime,
}

enum Source<'a> {
    Computed {
        log: DirtyLog,
        model: &'a MemoryModel,
    },
    Ram(RamLog),
}

impl<'a> Log<'a> {
    pub(super) fn start(job: &'a SourceJob, policy: Reprotect) -> Self {
        let now = job.guest.guest_time();
        let source = match &job.ram {
            Some(ram) => Source::Ram(RamLog::start(Arc::clone(ram), policy)),
            None => Source::Computed {
                log: DirtyLog::start(job.memory.pages(), policy, now),
                model: job.memory.model(),
            },
        };
        let params = &job.params;
        let walked = params.page_tables_walked;
        let mut log = Self {
            source,
            walked: (walked > 0).then(|| page_tables(job, walked)),
            synced: now,
        };
        if params.page_tables > 0 {
            log.put_back(&page_tables(job, params.page_tables));
        }
        log
    }

    /// Reads the log into the migration bitmap; how many of its pages were clear before.
    pub(super) fn sync(&mut self, now: GuestTime, migration: &mut Bitmap) -> u64 {
        if now != self.synced
            && let Some(walked) = &self.walked
        {
            self.source.put_back(walked);
        }
        self.synced = now;
        match &mut self.source {
            Source::Computed { log, model } => log.sync(model, now, migration),
            Source::Ram(log) => log.sync(migration),
        }
    }

    /// To be called before the page is read for sending.
    pub(super) fn before_send(&mut self, page: u32, now: GuestTime) {
        match &mut self.source {
            Source::Computed { log, .. } => {
                log.before_send(page, now);
            }
            Source::Ram(log) => log.before_send(page),
        }
    }

    /// Hands pages back that never arrived.
    pub(super) fn put_back(&mut self, pages: &Bitmap) {
        self.source.put_back(pages);
    }

    /// Whether the page was written since the last sync, under a log that is cleared with it.
    pub(super) fn written_since_sync(&self, page: u32, now: GuestTime) -> bool {
        match &self.source {
            Source::Computed { log, model } => model.written_in(page, log.last_sync(), now),
            Source::Ram(log) => log.is_dirty(page),
        }
    }
}

impl Source<'_> {
    fn put_back(&mut self, pages: &Bitmap) {
        match self {
            Self::Computed { log, .. } => log.put_back(pages),
            Self::Ram(log) => log.put_back(pages),
        }
    }
}

/// Page tables of the guest: so many pages among those that nothing writes and that are not zero, evenly apart. As
/// many as there are.
fn page_tables(job: &SourceJob, bytes: u64) -> Bitmap {
    let layout = job.memory.model().layout();
    let ram = 0..job.memory.pages();
    let written = layout.behaviour(0).map(|behaviour| behaviour.start);
    let still = written.or_else(|| ram.clone().find(|&page| layout.starts_zero(page)));
    let still = still.unwrap_or(ram.end);
    let wanted = bytes.div_ceil(PAGE_SIZE);
    let tables = u32::try_from(wanted).map_or(still, |wanted| wanted.min(still));
    let mut pages = Bitmap::new(ram.end);
    for table in 0..tables {
        let page = u64::from(table) * u64::from(still) / u64::from(tables);
        pages.set(u32::try_from(page).expect("below `still`"));
    }
    pages
}
