//! The run directory: what a run leaves behind, and everything computed from its events.
//!
//! Inside: `run.json` ([`RunHeader`]), one pass over the event log ([`collect`]), tables, metrics,
//! summary, the sentence that sums it up. Never inside: measuring. Whatever is here can be deleted
//! and rebuilt from `run.json`, `inputs/` and the events.

pub mod collect;
pub mod columns;
pub mod metrics;
pub mod run_json;
pub mod services;
pub mod summary;
pub mod table;
mod tables;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;

pub use run_json::{RunHeader, ScenarioFile};
pub use summary::{Metric, Summary, verdict};
pub use terminal::table_of_migrations;

use crate::event::log::LogError;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What can go wrong with a run directory.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory asked for holds something.
    #[error("{} exists and is not empty; choose another directory with --out", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// There is no run here.
    #[error("{} is not a run directory: it has no run.json", path.display())]
    NotARun {
        /// Which.
        path: PathBuf,
    },
    /// A JSON file is not what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("{}: schema {got}; this migbed reads {oldest} to {newest}", path.display())]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        got: u64,
        /// Oldest read.
        oldest: u32,
        /// Newest read.
        newest: u32,
    },
    /// The event log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Writing a Parquet file.
    #[error("{}: {source}", path.display())]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: parquet::errors::ParquetError,
    },
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ResultsError + '_ {
    move |source| ResultsError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the directory of a new run, `inputs/` and `run.json` with it.
    ///
    /// # Errors
    /// When the directory holds something already, or cannot be made.
    pub fn create(path: &Path, header: &RunHeader) -> Result<Self, ResultsError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        let mut entries = fs::read_dir(path).map_err(io_error(path))?;
        if entries.next().is_some() {
            return Err(ResultsError::NotEmpty {
                path: path.to_owned(),
            });
        }
        let run = Self {
            path: path.to_owned(),
        };
        fs::create_dir(run.inputs()).map_err(io_error(path))?;
        run.write_header(header)?;
        Ok(run)
    }

    /// Opens the directory of a run, finished or not.
    ///
    /// # Errors
    /// When it has no `run.json`.
    pub fn open(path: &Path) -> Result<Self, ResultsError> {
        let run = Self {
            path: path.to_owned(),
        };
        if run.file("run.json").is_file() {
            Ok(run)
        } else {
            Err(ResultsError::NotARun {
                path: path.to_owned(),
            })
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies of the traces a rerun needs.
    #[must_use]
    pub fn inputs(&self) -> PathBuf {
        self.file("inputs")
    }

    /// A file of it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// When it cannot be read, or is of a schema that is not read.
    pub fn header(&self) -> Result<RunHeader, ResultsError> {
        RunHeader::read(&self.file("run.json"))
    }

    /// Replaces `run.json` in one step: a reader sees the old or the new one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_header(&self, header: &RunHeader) -> Result<(), ResultsError> {
        let path = self.file("run.json");
        let text = serde_json::to_string_pretty(header).map_err(|source| ResultsError::Json {
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, text.as_bytes())
    }

    /// Reads `summary.json`.
    ///
    /// # Errors
    /// When it is missing (see [`rebuild`]), or is of a schema that is not read.
    pub fn summary(&self) -> Result<Summary, ResultsError> {
        let path = self.file("summary.json");
        read_versioned(&path, summary::SCHEMA)
    }
}

/// Rebuilds every table and `summary.json` of a run from `run.json` and its events. The same input
/// gives the same bytes.
///
/// # Errors
/// When the run cannot be read or the files cannot be written; what was there before stays.
pub fn rebuild(run: &RunDir) -> Result<(), ResultsError> {
    let header = run.header()?;
    let mut writer = tables::Tables::create(run, &header)?;
    let collected = collect::collect(run, &header, |event| writer.event(event))?;
    writer.finish(&services::rows(&header, &collected))?;
    let summary = summary::summarise(&header, &collected);
    let path = run.file("summary.json");
    let mut text = serde_json::to_string_pretty(&summary).map_err(|source| ResultsError::Json {
        path: path.clone(),
        source,
    })?;
    text.push('\n');
    write_atomically(&path, text.as_bytes())
}

/// Reads a JSON file whose `schema` is the newest or the one before it.
pub(crate) fn read_versioned<T: serde::de::DeserializeOwned>(
    path: &Path,
    newest: u32,
) -> Result<T, ResultsError> {
    read_upgraded(path, newest, |_| {})
}

/// As [`read_versioned`]; what is of the schema before the newest is made what that would have written.
pub(crate) fn read_upgraded<T: serde::de::DeserializeOwned>(
    path: &Path,
    newest: u32,
    upgrade: impl FnOnce(&mut serde_json::Value),
) -> Result<T, ResultsError> {
    let json = |source| ResultsError::Json {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(io_error(path))?;
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(json)?;
    let got = value
        .get("schema")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    let oldest = newest.saturating_sub(1).max(1);
    if !(u64::from(oldest)..=u64::from(newest)).contains(&got) {
        return Err(ResultsError::Schema {
            path: path.to_owned(),
            got,
            oldest,
            newest,
        });
    }
    if got < u64::from(newest) {
        upgrade(&mut value);
    }
    serde_json::from_value(value).map_err(json)
}

/// The place a file is written to before it takes its name.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ResultsError> {
    let part = temporary(path);
    let mut file = fs::File::create(&part).map_err(io_error(&part))?;
    file.write_all(bytes).map_err(io_error(&part))?;
    file.sync_all().map_err(io_error(&part))?;
    fs::rename(&part, path).map_err(io_error(path))
}

#[cfg(test)]
mod tests;
