//! What can be wrong with a file.

use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

use super::Format;
use super::progress::StoppedReading;
use crate::export::ExportError;
use crate::store::bundle::BundleError;
use crate::store::page_write::PageWriteError;
use crate::store::sort::SortError;

/// A file that cannot be imported.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {kind}", .file.display(), line_suffix(*.line))]
pub struct ImportError {
    /// Which file (or directory).
    pub file: PathBuf,
    /// Which line (of Parquet: which row), from 1; 0 when it is not about a line.
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

/// An import that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Because of what was read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Because of where samples were put while they were sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// Because of where it went.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What wrote an import's samples failed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A bundle.
    #[error(transparent)]
    Bundle(Box<BundleError>),
    /// Another format.
    #[error(transparent)]
    Export(Box<ExportError>),
}

impl From<BundleError> for OutputError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(Box::new(error))
    }
}

impl From<ExportError> for OutputError {
    fn from(error: ExportError) -> Self {
        Self::Export(Box::new(error))
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
        "unknown format: it starts with {starts:?}; expected {}, or a mapping for text columns",
        Format::names()
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
    /// A field of a column the user named.
    #[error("{column} is {value:?}, expected {expected}")]
    Column {
        /// Which.
        column: Box<str>,
        /// What it holds.
        value: Box<str>,
        /// What it should hold.
        expected: &'static str,
    },
    /// A header that lacks a column the user named.
    #[error("the header has no column {column:?}; it has {found}")]
    NoSuchColumn {
        /// The missing column.
        column: String,
        /// Those that are there.
        found: String,
    },
    /// A file that is none of its format.
    #[error("{found}, which is no table of {expected} that is read")]
    OtherFormat {
        /// What it is.
        found: String,
        /// What it should be.
        expected: Format,
    },
    /// A format that cannot be read without being told something.
    #[error("{format} needs {what}")]
    Needs {
        /// Which format.
        format: Format,
        /// What has to be given, and why.
        what: &'static str,
    },
    /// JSON that is none, or holds something else.
    #[error("{what}, expected {expected}")]
    Json {
        /// What is wrong.
        what: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A Parquet file that is none, or of another kind.
    #[error("not the Parquet table expected: {0}")]
    Parquet(#[source] ParquetError),
    /// The VMs wanted are not there.
    #[error("none of the VMs asked for is in the trace")]
    NoneWanted,
    /// Only arrivals, where use over time is needed.
    #[error("{format} says when VMs come and go, not what they use; import it to a bundle")]
    ArrivalsOnly {
        /// Which format.
        format: Format,
    },
    /// No VM has CPU samples, which are needed here.
    #[error("no VM has CPU samples")]
    NoCpu,
    /// Asked to stop.
    #[error("stopped")]
    Stopped,
    /// Our own format, broken.
    #[error(transparent)]
    PageWrites(#[from] PageWriteError),
    /// Our own format, broken.
    #[error(transparent)]
    Bundle(Box<BundleError>),
}

impl ImportErrorKind {
    /// What a failed read means: an early end is a cut file (gzip says so), the rest is the system.
    pub(super) fn from_read(error: io::Error) -> Self {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<StoppedReading>())
        {
            return Self::Stopped;
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Cut {
                found: "the compressed data ends".to_string(),
                expected: "the rest of the compressed data",
            };
        }
        Self::Io(error)
    }
}
