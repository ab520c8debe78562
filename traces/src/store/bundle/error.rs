//! What can be wrong with a bundle.

use std::io;
use std::path::PathBuf;

use super::VERSION;
use crate::store::page_write::PageWriteError;
use crate::store::partial::PartialError;
use crate::store::series::SeriesError;

/// A bundle that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something where the bundle should go, or it cannot be put there.
    #[error(transparent)]
    Place(#[from] PartialError),
    /// A name that would lead out of the bundle.
    #[error("{file}: not a plain file name")]
    Name {
        /// Which.
        file: String,
    },
    /// The manifest is not what it should be.
    #[error("{}: {source}", .path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a later migbed.
    #[error("bundle of version {found}; this migbed reads version {VERSION}")]
    Version {
        /// The version in the manifest.
        found: u32,
    },
    /// A table that must be there is not in the manifest.
    #[error("the manifest lists no {file}")]
    NotListed {
        /// Which.
        file: String,
    },
    /// A file is not as the manifest says.
    #[error("{file}: {found_bytes} bytes with checksum {found}, expected {bytes} with {expected}")]
    Checksum {
        /// Which file.
        file: String,
        /// Bytes stated.
        bytes: u64,
        /// Checksum stated.
        expected: String,
        /// Bytes there.
        found_bytes: u64,
        /// Checksum of the bytes.
        found: String,
    },
    /// Not a Parquet file, or one of another kind.
    #[error("{file}: {source}")]
    Parquet {
        /// Which file.
        file: String,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// A page-write file is bad.
    #[error("{file}: {source}")]
    PageWrites {
        /// Which file.
        file: String,
        /// Why.
        source: PageWriteError,
    },
    /// A column that must be there is not, or is of another type.
    #[error("{file}: no column {column} of {expected}")]
    Column {
        /// Which table.
        file: String,
        /// Which column.
        column: &'static str,
        /// Of which type.
        expected: &'static str,
    },
    /// A value that cannot be.
    #[error("{file}, row {row}: {column} is {value}, expected {expected}")]
    Value {
        /// Which table.
        file: String,
        /// Which row, from 0.
        row: usize,
        /// Which column.
        column: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A table has another number of rows than stated.
    #[error("{file}: {found} rows, but the manifest says {stated}")]
    Rows {
        /// Which table.
        file: String,
        /// Rows stated.
        stated: u64,
        /// Rows there.
        found: u64,
    },
    /// The samples of a VM are not in order.
    #[error("samples of vm {vm_id}: {source}")]
    Series {
        /// Which VM.
        vm_id: u32,
        /// Why.
        source: SeriesError,
    },
    /// Two rows for one VM.
    #[error("two VMs have the number {vm_id}")]
    DuplicateVm {
        /// Which.
        vm_id: u32,
    },
    /// Samples of a VM that is not in the table of VMs.
    #[error("there are samples of vm {vm_id}, but no such VM")]
    UnknownVm {
        /// Which.
        vm_id: u32,
    },
    /// A VM refers to something that is not there.
    #[error("vm {vm_id} refers to {what} {name:?}, which the bundle does not have")]
    Dangling {
        /// Which VM.
        vm_id: u32,
        /// What kind of thing.
        what: &'static str,
        /// Which one.
        name: String,
    },
}
