//! The dirty log of the guest that is sent: computed, or that of RAM that is there.

use std::sync::Arc;

use replay::{Bitmap, DirtyLog, GuestTime, MemoryModel, Reprotect};

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
        match &job.ram {
            Some(ram) => Self::Ram(RamLog::start(Arc::clone(ram), policy)),
            None => Self::Computed {
                log: DirtyLog::start(job.memory.pages(), policy, job.guest.guest_time()),
                model: job.memory.model(),
            },
        }
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
