//! The event log: JSON lines, zstd-compressed, rotated by size.
//!
//! Inside: the writer and the reader of `events.jsonl.zst`, `events.0001.jsonl.zst`, … The writer
//! hands compressed blocks to the kernel often, so that a `kill -9` loses at most [`FLUSH_EVENTS`]
//! samples and nothing that matters more; the reader tolerates a cut tail and says so.
//! Never inside: clocks (an event carries its instants) and meaning (see `results`).

use super::{Event, EventKind, SCHEMA};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use zstd::stream::{read::Decoder, write::Encoder};

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

/// Reads the events of a run directory, in order, in bounded memory.
///
/// # Errors
/// When there is no log. The first item tells whether its schema is one that is read.
pub fn read_events(dir: &Path) -> Result<EventReader, LogError> {
    let files = log_files(dir);
    if files.is_empty() {
        return Err(LogError::Missing {
            dir: dir.to_owned(),
        });
    }
    Ok(EventReader {
        files,
        next_file: 0,
        current: None,
        path: PathBuf::new(),
        line: 0,
        started: false,
        cut: false,
        done: false,
    })
}

/// An iterator over events. After its end [`EventReader::cut`] says whether the tail was missing.
pub struct EventReader {
    files: Vec<PathBuf>,
    next_file: usize,
    current: Option<BufReader<Decoder<'static, BufReader<File>>>>,
    path: PathBuf,
    line: u64,
    started: bool,
    cut: bool,
    done: bool,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader")
            .field("path", &self.path)
            .field("line", &self.line)
            .finish()
    }
}

impl EventReader {
    /// Whether the log ended in the middle: its writer was killed.
    #[must_use]
    pub fn cut(&self) -> bool {
        self.cut
    }

    fn read_next(&mut self) -> Result<Option<Event>, LogError> {
        loop {
            if self.current.is_none() && !self.open_next()? {
                return Ok(None);
            }
            match self.read_line()? {
                Some(line) => return self.parse(&line).map(Some),
                None if self.cut => return Ok(None),
                None => self.current = None,
            }
        }
    }

    fn open_next(&mut self) -> Result<bool, LogError> {
        let Some(path) = self.files.get(self.next_file) else {
            return Ok(false);
        };
        let file = File::open(path).map_err(io_error(path))?;
        let decoder = Decoder::new(file).map_err(io_error(path))?;
        self.path = path.clone();
        self.line = 0;
        self.next_file += 1;
        self.current = Some(BufReader::new(decoder));
        Ok(true)
    }

    /// The next whole line; `None` at the end of this file, where `cut` is then known.
    fn read_line(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        let reader = self.current.as_mut().expect("opened by read_next");
        self.line += 1;
        let mut line = Vec::new();
        match reader
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(0) => return Ok(None),
            Ok(_) if line.last() == Some(&b'\n') => return Ok(Some(line)),
            Ok(n) if n as u64 == LINE_BYTES_MAX => {
                return Err(LogError::TooLong {
                    path: self.path.clone(),
                    line: self.line,
                });
            }
            // A frame that ends in the middle of a line, or in the middle of itself.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(io_error(&self.path)(e)),
        }
        if self.next_file < self.files.len() && !self.only_empty_files_follow() {
            return Err(LogError::CutInside {
                path: self.path.clone(),
            });
        }
        self.cut = true;
        Ok(None)
    }

    /// A kill between opening the next file and ending the last leaves an empty one behind.
    fn only_empty_files_follow(&self) -> bool {
        self.files[self.next_file..]
            .iter()
            .all(|p| fs::metadata(p).is_ok_and(|m| m.len() == 0))
    }

    fn parse(&mut self, line: &[u8]) -> Result<Event, LogError> {
        if !self.started {
            self.check_start(line)?;
            self.started = true;
        }
        serde_json::from_slice(line).map_err(|source| LogError::Parse {
            path: self.path.clone(),
            line: self.line,
            source,
        })
    }

    /// Looks only at the schema, so that an unknown one is named rather than a field it changed.
    fn check_start(&self, line: &[u8]) -> Result<(), LogError> {
        #[derive(serde::Deserialize)]
        struct Start {
            event: String,
            schema: Option<u32>,
        }
        let path = || self.path.clone();
        let start: Start = serde_json::from_slice(line).map_err(|source| LogError::Parse {
            path: path(),
            line: 1,
            source,
        })?;
        match (start.event.as_str(), start.schema) {
            ("run-started", Some(got)) if (oldest_schema()..=SCHEMA).contains(&got) => Ok(()),
            ("run-started", Some(got)) => Err(LogError::Schema { path: path(), got }),
            _ => Err(LogError::NoStart { path: path() }),
        }
    }
}

impl Iterator for EventReader {
    type Item = Result<Event, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read_next().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HostId;

    fn start() -> Event {
        let kind = EventKind::RunStarted {
            schema: SCHEMA,
            version: "0".into(),
            started_unix_s: 0,
            tag: "measured".into(),
        };
        Event {
            mono_ns: 0,
            trace_ns: 0,
            kind,
        }
    }

    fn lost(n: u32) -> Event {
        let kind = EventKind::HostLost { host: HostId(n) };
        Event {
            mono_ns: u64::from(n),
            trace_ns: 0,
            kind,
        }
    }

    fn write(dir: &Path, rotate: u64, n: u32) {
        let mut log = EventLog::with_rotation(dir, rotate).unwrap();
        log.append(&start()).unwrap();
        (0..n).for_each(|i| log.append(&lost(i)).unwrap());
        log.finish().unwrap();
    }

    fn read(dir: &Path) -> (Vec<Event>, bool) {
        let mut reader = read_events(dir).unwrap();
        let events = reader.by_ref().collect::<Result<_, _>>().unwrap();
        (events, reader.cut())
    }

    #[test]
    fn rotated_files_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 200, 300);
        assert!(log_files(dir.path()).len() > 3);
        let (events, cut) = read(dir.path());
        assert!(!cut);
        assert_eq!(events[0], start());
        assert_eq!(events[1..], (0..300).map(lost).collect::<Vec<_>>());
    }

    #[test]
    fn cut_tail_yields_all_whole_events_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ROTATE_BYTES, 300);
        let file = file_name(dir.path(), 0);
        let bytes = fs::read(&file).unwrap();
        let mut longest = 0;
        for keep in (20..bytes.len() - 1).step_by(37) {
            fs::write(&file, &bytes[..keep]).unwrap();
            let (events, cut) = read(dir.path());
            assert!(cut, "cut at {keep} went unnoticed");
            assert!(events.iter().skip(1).zip(0..).all(|(e, n)| *e == lost(n)));
            longest = longest.max(events.len());
        }
        assert!(longest > 290, "only {longest} events survive a small cut");
    }

    #[test]
    fn unfinished_log_holds_every_landmark() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::create(dir.path()).unwrap();
        log.append(&start()).unwrap();
        (0..10).for_each(|i| log.append(&lost(i)).unwrap());
        // As `kill -9`: no destructor runs.
        std::mem::forget(log);
        let (events, cut) = read(dir.path());
        assert_eq!((events.len(), cut), (11, true));
    }

    #[test]
    fn a_cut_file_before_the_last_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 200, 300);
        let first = file_name(dir.path(), 0);
        let bytes = fs::read(&first).unwrap();
        fs::write(&first, &bytes[..bytes.len() - 9]).unwrap();
        let outcome: Result<Vec<_>, _> = read_events(dir.path()).unwrap().collect();
        assert!(
            matches!(outcome, Err(LogError::CutInside { .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn other_schemas_and_headless_logs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::create(dir.path()).unwrap();
        let mut event = start();
        if let EventKind::RunStarted { schema, .. } = &mut event.kind {
            *schema = SCHEMA + 1;
        }
        log.append(&event).unwrap();
        log.finish().unwrap();
        let first = read_events(dir.path()).unwrap().next().unwrap();
        assert!(matches!(first, Err(LogError::Schema { got, .. }) if got == SCHEMA + 1));

        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::create(dir.path()).unwrap();
        log.append(&lost(1)).unwrap();
        log.finish().unwrap();
        let first = read_events(dir.path()).unwrap().next().unwrap();
        assert!(matches!(first, Err(LogError::NoStart { .. })));
    }

    #[test]
    fn a_log_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ROTATE_BYTES, 1);
        assert!(matches!(
            EventLog::create(dir.path()),
            Err(LogError::Exists { .. })
        ));
    }
}
