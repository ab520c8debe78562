//! What can be wrong with a file, and what is worth saying of one that is right.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::page_write::PageWriteError;

/// A file that cannot be imported.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {kind}", .file.display(), line_suffix(*.line))]
pub struct ImportError {
    /// Which file (or directory).
    pub file: PathBuf,
    /// Which line, from 1; 0 when it is not about a line.
    pub line: u64,
    /// What is wrong.
    #[source]
    pub kind: ImportErrorKind,
}

fn line_suffix(line: u64) -> String {
    if line == 0 {
        String::new()
    } else {
        format!(":{line}")
    }
}

impl ImportError {
    pub(super) fn new(file: &Path, line: u64, kind: ImportErrorKind) -> Self {
        Self {
            file: file.to_path_buf(),
            line,
            kind,
        }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ImportErrorKind {
    /// The system refused.
    #[error("cannot read: {0}")]
    Io(#[source] io::Error),
    /// Nothing in it.
    #[error("the file is empty; expected a trace")]
    Empty,
    /// A directory without files.
    #[error("no trace files in the directory")]
    NoFiles,
    /// Nothing but headers.
    #[error("no samples, only headers; expected at least one line of values")]
    NoSamples,
    /// None of the formats known.
    #[error(
        "unknown format: it starts with {starts:?}; expected planetlab, bitbrains, \
         recorded-page-writes or page-writes"
    )]
    UnknownFormat {
        /// How the file starts.
        starts: String,
    },
    /// The file ends in the middle of something.
    #[error("the file is cut here: {found}; expected {expected}")]
    Cut {
        /// What there is.
        found: String,
        /// What should have followed.
        expected: &'static str,
    },
    /// Not text.
    #[error("not UTF-8 text")]
    NotText,
    /// A line beyond any sense.
    #[error("a line of more than {limit} bytes")]
    LongLine {
        /// The longest allowed.
        limit: u64,
    },
    /// A header that lacks a column.
    #[error("the header has no column {column:?}")]
    NoColumn {
        /// The missing column.
        column: &'static str,
    },
    /// A line of too few or too many fields.
    #[error("{found} fields, expected {expected}")]
    Fields {
        /// Fields in the line.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A field that is not what it should be.
    #[error("{column} is {value:?}, expected {expected}")]
    Field {
        /// Which.
        column: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Time or a cumulative counter that decreases.
    #[error("{column} goes back from {previous} to {found}")]
    GoesBack {
        /// Which.
        column: &'static str,
        /// The value in the line before.
        previous: u64,
        /// The value here.
        found: u64,
    },
    /// Two statements of one line that disagree.
    #[error("{column} says {stated}, but the line holds {counted}")]
    Disagrees {
        /// The column that states it.
        column: &'static str,
        /// What it states.
        stated: u64,
        /// What was counted.
        counted: u64,
    },
    /// Our own format, broken.
    #[error(transparent)]
    PageWrites(#[from] PageWriteError),
}

impl ImportErrorKind {
    /// What a failed read means: an early end is a cut file (gzip says so), the rest is the system.
    pub(super) fn from_read(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Cut {
                found: "the compressed data ends".to_string(),
                expected: "the rest of the compressed data",
            };
        }
        Self::Io(error)
    }
}

/// Something to know about a file that was imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", .file.display())]
pub struct Warning {
    /// Which file.
    pub file: PathBuf,
    /// What.
    pub kind: WarningKind,
}

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarningKind {
    /// Nothing in it; left out.
    #[error("no samples; the VM is left out")]
    NoSamples,
    /// Not as many samples as the format usually has.
    #[error("{found} samples, usually {usual}")]
    UnusualCount {
        /// In the file.
        found: u64,
        /// As a rule.
        usual: u64,
    },
    /// Several lines of one time.
    #[error("{count} samples dropped: a later line has the same time")]
    Duplicates {
        /// How many were dropped.
        count: u64,
    },
    /// Stretches without samples.
    #[error("{gaps} gaps, {missing_ms} ms together, were filled for CPU demand")]
    Gaps {
        /// How many.
        gaps: u64,
        /// Their length.
        missing_ms: u64,
    },
    /// More CPU than there is.
    #[error("{samples} samples above 100 % of the stated CPU (kept, flagged)")]
    OverCapacity {
        /// How many.
        samples: u64,
    },
    /// The source gives no size.
    #[error("the source gives no number of cores; CPU use is taken as of one core")]
    UnknownCores,
    /// Seconds in a column that says milliseconds.
    #[error("times are seconds, although the header says milliseconds")]
    SecondsNotMs,
    /// Two days of one VM overlap.
    #[error("this day overlaps the one before it and was left out")]
    OverlappingDay,
}
