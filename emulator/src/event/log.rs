//! The event log: JSON lines, zstd-compressed, rotated by size.
//!
//! Inside: the writer and the reader of `events.jsonl.zst`, `events.0001.jsonl.zst`, … The writer
//! hands compressed blocks to the kernel often, so that a `kill -9` loses at most [`FLUSH_EVENTS`]
//! samples and nothing that matters more; the reader tolerates a cut tail and says so.
//! Never inside: clocks (an event carries its instants) and meaning (see `results`).

mod reader;

pub use reader::{EventReader, read_events};

use super::{Event, EventKind, SCHEMA};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use zstd::stream::write::Encoder;

/// Compressed bytes after which a new file begins: opens in an editor's time, and a day of 1,000
/// hosts stays in a handful of files.
pub const ROTATE_BYTES: u64 = 64 << 20;
/// Events after which compressed blocks are handed to the kernel whatever they are.
pub const FLUSH_EVENTS: u32 = 256;
/// The same by the events' own clock: one second's worth.
pub const FLUSH_NS: u64 = 1_000_000_000;
/// Longest line accepted: a migration of an hour sampled at 10 Hz takes about 10 MB.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// zstd's own default; the log is written while links are being measured, so cheap matters more.
const LEVEL: i32 = 3;

/// What can go wrong with an event log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system.
    #[error("event log {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A log is there already; it is never written over.
    #[error("event log {} exists already", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// There is no log.
    #[error("no event log in {}", dir.display())]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A line is not an event.
    #[error("{}:{line}: not an event of schema {SCHEMA}: {source}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// A line is longer than any event.
    #[error("{}:{line}: longer than {LINE_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u64,
    },
    /// The log does not begin as logs do.
    #[error("{}: the first event is not run-started", path.display())]
    NoStart {
        /// Which file.
        path: PathBuf,
    },
    /// Written by another version.
    #[error("{}: event schema {got}; this migbed reads {oldest} to {SCHEMA}", path.display(), oldest = oldest_schema())]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        got: u32,
    },
    /// A file before the last ends in the middle: events are missing from the middle of the run.
    #[error("{}: cut short, though later files follow", path.display())]
    CutInside {
        /// Which file.
        path: PathBuf,
    },
}

/// The oldest schema that is still read: the one before the current.
#[must_use]
pub fn oldest_schema() -> u32 {
    SCHEMA.saturating_sub(1).max(1)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |source| LogError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The file with this number in a run directory.
fn file_name(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join("events.jsonl.zst"),
        n => dir.join(format!("events.{n:04}.jsonl.zst")),
    }
}

/// The files of a log, in order.
#[must_use]
pub fn log_files(dir: &Path) -> Vec<PathBuf> {
    (0..)
        .map(|n| file_name(dir, n))
        .take_while(|p| p.is_file())
        .collect()
}

/// Writes events.
pub struct EventLog {
    dir: PathBuf,
    number: u32,
    rotate_bytes: u64,
    path: PathBuf,
    encoder: Encoder<'static, Counted>,
    unflushed: u32,
    flushed_ns: u64,
    line: Vec<u8>,
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

struct Counted {
    file: File,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl EventLog {
    /// Begins a log in a run directory.
    ///
    /// # Errors
    /// When one is there already, or the file system refuses.
    pub fn create(dir: &Path) -> Result<Self, LogError> {
        Self::with_rotation(dir, ROTATE_BYTES)
    }

    /// Begins a log whose files are rotated over this many compressed bytes.
    ///
    /// # Errors
    /// As [`EventLog::create`].
    pub fn with_rotation(dir: &Path, rotate_bytes: u64) -> Result<Self, LogError> {
        let path = file_name(dir, 0);
        let encoder = open_encoder(&path)?;
        Ok(Self {
            dir: dir.to_owned(),
            number: 0,
            rotate_bytes,
            path,
            encoder,
            unflushed: 0,
            flushed_ns: 0,
            line: Vec::new(),
        })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn append(&mut self, event: &Event) -> Result<(), LogError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)
            .map_err(|e| io_error(&self.path)(io::Error::other(e)))?;
        self.line.push(b'\n');
        self.encoder
            .write_all(&self.line)
            .map_err(io_error(&self.path))?;
        self.unflushed += 1;
        let due = self.unflushed >= FLUSH_EVENTS
            || event.mono_ns.saturating_sub(self.flushed_ns) >= FLUSH_NS
            || is_landmark(&event.kind);
        if due {
            self.flushed_ns = event.mono_ns;
            self.flush()?;
            if self.encoder.get_ref().written >= self.rotate_bytes {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Hands everything appended so far to the kernel: from here on only the machine's death loses
    /// it. For a caller about to be quiet for long.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.unflushed = 0;
        self.encoder.flush().map_err(io_error(&self.path))
    }

    /// Ends the log and waits until it is on disk.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), LogError> {
        let path = self.path;
        let counted = self.encoder.finish().map_err(io_error(&path))?;
        counted.file.sync_all().map_err(io_error(&path))
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let path = file_name(&self.dir, self.number + 1);
        let next = open_encoder(&path)?;
        let last = std::mem::replace(&mut self.encoder, next);
        last.finish().map_err(io_error(&self.path))?;
        self.number += 1;
        self.path = path;
        Ok(())
    }
}

/// Events that are few and that nobody wants to lose: all but samples and flows.
fn is_landmark(kind: &EventKind) -> bool {
    !matches!(
        kind,
        EventKind::HostSample(_)
            | EventKind::VmSample(_)
            | EventKind::LinkSample(_)
            | EventKind::LinkCalibrated(_)
            | EventKind::LinkChanged { .. }
            | EventKind::Placed { .. }
            | EventKind::FlowOpened { .. }
            | EventKind::FlowClosed { .. }
            | EventKind::FlowMoved { .. }
            | EventKind::Requests { .. }
    )
}

fn open_encoder(path: &Path) -> Result<Encoder<'static, Counted>, LogError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| {
            if e.kind() == io::ErrorKind::AlreadyExists {
                LogError::Exists {
                    path: path.to_owned(),
                }
            } else {
                io_error(path)(e)
            }
        })?;
    let mut encoder = Encoder::new(Counted { file, written: 0 }, LEVEL).map_err(io_error(path))?;
    encoder.include_checksum(true).map_err(io_error(path))?;
    Ok(encoder)
}

#[cfg(test)]
mod tests;
