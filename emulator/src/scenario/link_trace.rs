//! Traces of links as files: reading them, whole and bounded. What is in them is netmodel's.

use netmodel::delivery::{DeliveryError, DeliveryTrace};
use netmodel::schedule::{Rows, RowsError};
use std::path::Path;

/// Longest file taken for a trace of a link: rows as long as lines get, up to the most a schedule holds.
const BYTES_MAX: u64 = 64 << 20;

/// Why a file is no trace of a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkTraceError {
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is too long.
    #[error("more than {limit} bytes")]
    TooLong {
        /// So many may be.
        limit: u64,
    },
    /// It is not text.
    #[error("byte {offset} is not UTF-8")]
    NotText {
        /// From 0.
        offset: usize,
    },
    /// It is text, and no trace.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// It is text, and no packet-delivery trace.
    #[error(transparent)]
    Deliveries(#[from] DeliveryError),
}

impl LinkTraceError {
    /// What to do about it.
    pub(super) fn remedy(&self) -> Option<String> {
        let words = match self {
            Self::Unreadable(_) => "`file` is looked for from the folder of the scenario",
            Self::TooLong { .. } => "thin the trace out",
            Self::NotText { .. } => "a trace of a link is text in UTF-8",
            Self::Rows(_) | Self::Deliveries(_) => return None,
        };
        Some(words.to_owned())
    }
}

/// Reads a trace of at most `rows_max` rows.
pub(super) fn read_rows(path: &Path, rows_max: usize) -> Result<Rows, LinkTraceError> {
    Ok(Rows::parse(&text(path)?, rows_max)?)
}

/// Reads a packet-delivery trace.
pub(super) fn read_deliveries(path: &Path) -> Result<DeliveryTrace, LinkTraceError> {
    Ok(DeliveryTrace::parse(&text(path)?)?)
}

fn text(path: &Path) -> Result<String, LinkTraceError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, BYTES_MAX + 1), &mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(LinkTraceError::TooLong { limit: BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|error| LinkTraceError::NotText {
        offset: error.utf8_error().valid_up_to(),
    })
}
