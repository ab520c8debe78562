//! What is worth saying of a file that is right.

use std::path::PathBuf;

use super::Format;

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
