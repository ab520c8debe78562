//! The page-write trace file (`.mbpw`, version 1): which pages were written, tick by tick.
//!
//! A header, blocks of up to 64 ticks (each zstd-compressed with a checksum of its own), an index and
//! a trailer; `docs/trace-format.md` says it byte by byte. The decoder is total: whatever the bytes,
//! it returns a valid trace or an error that names the place, and never allocates by a length it has
//! not yet seen the bytes for. Never inside: other people's formats.

mod decode;
mod encode;
mod source;

use super::varint;
use std::collections::BTreeMap;
use std::io;

pub use decode::{read_page_writes, read_page_writes_with_origin};
pub use encode::{write_page_writes, write_page_writes_with_origin};

use crate::dirty::PageWriteTraceError;

/// First bytes of a file.
pub const MAGIC: [u8; 4] = *b"MBPW";
/// The version written, and the only one read.
pub const VERSION: u16 = 1;
/// Most ticks in a block.
pub const TICKS_PER_BLOCK: u32 = 64;
/// Most pages of a trace, 1 TiB of 4 KiB pages: bounds a tick to a 32 MiB bitmap.
pub const MAX_PAGES: u32 = 1 << 28;

const BLOCK_TAG: [u8; 4] = *b"BLCK";
const INDEX_TAG: [u8; 4] = *b"INDX";
const TRAILER_MAGIC: [u8; 4] = *b"WPBM";
/// Most bytes of a title or a provenance, before and after.
const MAX_TEXT: u32 = 1 << 20;
/// Most bytes of a block once decompressed: two ticks of the largest guest, with room to spare.
const MAX_BLOCK_RAW: u32 = 96 << 20;
/// A block is closed once it holds this much, so that readers need little memory.
const BLOCK_RAW_TARGET: usize = 1 << 20;
/// Most runs in one trace (1 GiB in memory): what a hostile file can make a reader allocate.
const MAX_RUNS: u64 = 1 << 27;

/// Kinds of tick sets.
mod set_kind {
    pub(super) const EMPTY: u8 = 0;
    pub(super) const RUNS: u8 = 1;
    pub(super) const BITMAP: u8 = 2;
}

/// Where a recording comes from: free keys and values, kept in the file (`source`, `licence`, …).
pub type Origin = BTreeMap<String, String>;

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Magic to the header's checksum.
    Header,
    /// A block, by number.
    Block(u32),
    /// The index.
    Index,
    /// The last 12 bytes.
    Trailer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Block(number) => write!(f, "block {number}"),
            Self::Index => f.write_str("index"),
            Self::Trailer => f.write_str("trailer"),
        }
    }
}

/// A page-write file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PageWriteError {
    /// The system refused.
    #[error("{part} at byte {offset}: {source}")]
    Io {
        /// Where.
        part: Part,
        /// Byte of the file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// Not a page-write trace at all.
    #[error("not a page-write trace: it starts with {found:02x?}, expected \"MBPW\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Written by a later migbed.
    #[error("page-write trace of version {found}; this migbed reads version {VERSION}")]
    Version {
        /// The version in the file.
        found: u16,
    },
    /// The file ends too early.
    #[error("the file is cut in its {part}: it ends at byte {offset}, {expected}")]
    Cut {
        /// Where.
        part: Part,
        /// Where the file ends.
        offset: u64,
        /// What was expected there.
        expected: &'static str,
    },
    /// A checksum does not match.
    #[error("{part} at byte {offset}: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Where.
        part: Part,
        /// Where the part starts.
        offset: u64,
        /// The checksum stored.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// A field has a value it cannot have.
    #[error("{part} at byte {offset}: {field} is {value}, expected {expected}")]
    Field {
        /// Where.
        part: Part,
        /// Where the part starts.
        offset: u64,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// The ticks of a block do not decode.
    #[error("{part} at byte {offset}: its tick {tick} has a bad {field}")]
    Tick {
        /// Where.
        part: Part,
        /// Where the block starts.
        offset: u64,
        /// Tick within the block.
        tick: u32,
        /// Which field.
        field: &'static str,
    },
    /// The title or the provenance is not the text it should be.
    #[error("header: the {field} is not {expected}")]
    Text {
        /// Which.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The trace itself is wrong.
    #[error(transparent)]
    Trace(#[from] PageWriteTraceError),
}
