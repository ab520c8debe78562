//! How far an import is, for whoever watches it from another thread; and the wish that it stop.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of an import under way. Figures for people: nothing is decided by them.
#[derive(Debug, Default)]
pub struct Progress {
    total_bytes: AtomicU64,
    read_bytes: AtomicU64,
    samples_read: AtomicU64,
    samples_written: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Bytes of all files, as they lie on disk.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Relaxed)
    }

    /// Samples handed to the sort; 0 for formats that need none.
    #[must_use]
    pub fn samples_read(&self) -> u64 {
        self.samples_read.load(Relaxed)
    }

    /// Samples given out.
    #[must_use]
    pub fn samples_written(&self) -> u64 {
        self.samples_written.load(Relaxed)
    }

    /// Asks the import to end at its next read or write, with [`Stopped`](super::ImportErrorKind).
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether it was asked to.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    pub(super) fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn count_read(&self) {
        self.samples_read.fetch_add(1, Relaxed);
    }

    pub(super) fn count_written(&self) {
        self.samples_written.fetch_add(1, Relaxed);
    }
}

/// A reader whose bytes are counted, and which fails once the import is to stop.
pub(super) struct Counted<R> {
    pub(super) input: R,
    pub(super) progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_stopped() {
            return Err(io::Error::other(StoppedReading));
        }
        let read = self.input.read(buffer)?;
        self.progress.add_read(read as u64);
        Ok(read)
    }
}

/// Inside the I/O error of a reader that was asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(super) struct StoppedReading;
