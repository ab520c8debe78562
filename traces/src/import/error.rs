//! What can be wrong with a file, and what is worth saying of one that is right.

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
    /// Samples that reached into the next one.
    #[error("{count} samples reached into the next one and were cut there")]
    Cut {
        /// How many.
        count: u64,
    },
    /// Samples that ran side by side.
    #[error("{count} samples of one VM ran beside another and were added to it")]
    Summed {
        /// How many.
        count: u64,
    },
    /// A cumulative counter went back.
    #[error("cumulative counters went back {count} times; nothing is known of those intervals")]
    Resets {
        /// How often.
        count: u64,
    },
    /// Marks that the source uses for "no value".
    #[error("{count} values of {column} are marks for \"invalid\" and were taken as absent")]
    Invalid {
        /// Which column.
        column: &'static str,
        /// How many.
        count: u64,
    },
    /// Samples of VMs no table describes.
    #[error("{vms} VMs have samples but no row in {table}; their size is unknown")]
    NoRow {
        /// How many.
        vms: u64,
        /// The table.
        table: &'static str,
    },
    /// Samples before the source's first or after its last instant.
    #[error("{count} rows were left out: {why}")]
    LeftOut {
        /// How many.
        count: u64,
        /// Why.
        why: &'static str,
    },
    /// A size that is a bucket.
    #[error("{vms} VMs have the open size {bucket}; taken as {taken}")]
    Bucket {
        /// How many.
        vms: u64,
        /// As the source writes it.
        bucket: &'static str,
        /// What stands for it.
        taken: &'static str,
    },
    /// A column without a unit that means anything.
    #[error("{column} is normalised and was left out: give {option} to import it")]
    Normalised {
        /// Which.
        column: &'static str,
        /// What to give.
        option: &'static str,
    },
    /// A unit that had to be guessed.
    #[error("{column} is taken as {unit}: {why}")]
    Guessed {
        /// Which column.
        column: &'static str,
        /// The unit.
        unit: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A VM without CPU samples, where they are needed.
    #[error("{vms} VMs have no CPU samples and are left out")]
    NoCpu {
        /// How many.
        vms: u64,
    },
    /// A file that is no table of the format.
    #[error("not a table of {format} that is read; left out")]
    NotRead {
        /// The format.
        format: Format,
    },
    /// More warnings than anybody reads.
    #[error("{count} more warnings")]
    More {
        /// How many.
        count: u64,
    },
    /// What the importer of a bundle had to say.
    #[error("{text}")]
    OfBundle {
        /// Its words.
        text: String,
    },
    /// Two days of one VM overlap.
    #[error("this day overlaps the one before it and was left out")]
    OverlappingDay,
}
