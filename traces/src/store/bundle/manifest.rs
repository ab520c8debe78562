//! `manifest.json`: what a bundle is, where it comes from, how each column came to be.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{SAMPLES, VERSION};
use crate::import::Streamed;
use crate::units::{PAGE_SIZE, Provenance};

/// What `t_ms` counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TimeOrigin {
    /// The Unix epoch, UTC.
    UnixUtc,
    /// The start of the trace.
    #[default]
    Relative,
}

/// What a sample says of its interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// The mean over the interval.
    #[default]
    Average,
    /// The value at its start.
    Instant,
    /// The largest within it.
    Max,
}

/// What made the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Importer {
    /// Name of the importer.
    pub name: String,
    /// Version of the importer.
    pub version: String,
    /// Its options.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its seed, if it drew anything.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Rows of a table, ticks of a page-write trace.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// CRC-32 (IEEE) of the bytes, eight hexadecimal digits. It finds damage, not forgery: no
    /// bundle is signed, so a stronger hash would prove nothing more.
    pub crc32: String,
}

/// How a column came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnNote {
    /// Kind.
    pub provenance: Provenance,
    /// How it was derived or made up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub how: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the bundle format.
    pub version: u32,
    /// What it is, for people.
    pub title: String,
    /// Where it comes from.
    pub source: String,
    /// The source's licence.
    pub licence: String,
    /// What `t_ms` counts from.
    pub time_origin: TimeOrigin,
    /// What a sample says of its interval.
    pub sampling: Sampling,
    /// Bytes in a page, for everything counted in pages.
    pub page_size: u64,
    /// What made it.
    pub importer: Option<Importer>,
    /// What the importer warned of: to be read before trusting the numbers.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The files, by path within the bundle. Made when written.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
    /// Columns, as `TABLE:COLUMN`.
    #[serde(default)]
    pub columns: BTreeMap<String, ColumnNote>,
}

impl Manifest {
    /// A manifest without files.
    #[must_use]
    pub fn new(title: &str, source: &str, licence: &str) -> Self {
        Self {
            version: VERSION,
            title: title.to_string(),
            source: source.to_string(),
            licence: licence.to_string(),
            time_origin: TimeOrigin::default(),
            sampling: Sampling::default(),
            page_size: PAGE_SIZE,
            importer: None,
            warnings: Vec::new(),
            files: BTreeMap::new(),
            columns: BTreeMap::new(),
        }
    }

    /// The manifest of an import: how each of its columns came to be, and what was warned of.
    ///
    /// `licence` is the source's, as text: the importer cannot know it.
    #[must_use]
    pub fn of_import(streamed: &Streamed, title: &str, source: &str, licence: &str) -> Self {
        let mut manifest = Self::new(title, source, licence);
        manifest.time_origin = streamed.time_origin;
        manifest.sampling = streamed.sampling;
        manifest.importer = Some(Importer {
            name: streamed.format.name().to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            options: streamed.options.clone(),
            seed: None,
        });
        // Only the file's name: where it lay on somebody's disk says nothing to a reader.
        let name = |file: &Path| file.file_name().unwrap_or_default().display().to_string();
        let warnings = streamed.warnings.iter();
        manifest.warnings = warnings
            .map(|w| format!("{}: {}", name(&w.file), w.kind))
            .collect();
        for metric in &streamed.metrics {
            manifest.note(SAMPLES, metric.column(), Provenance::Recorded, "");
        }
        for &(column, how) in &streamed.derived {
            manifest.note(SAMPLES, column, Provenance::Derived, how);
        }
        manifest
    }

    /// States how a column came to be.
    pub fn note(&mut self, table: &str, column: &str, provenance: Provenance, how: &str) {
        let note = ColumnNote {
            provenance,
            how: how.to_string(),
        };
        self.columns.insert(format!("{table}:{column}"), note);
    }
}
