//! Reading a log: in order, in bounded memory, a cut tail told.

use super::{LINE_BYTES_MAX, LogError, io_error, log_files, oldest_schema};
use crate::event::{Event, SCHEMA};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use zstd::stream::read::Decoder;

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
