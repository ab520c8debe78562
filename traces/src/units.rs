//! The units traces are made of.

use serde::{Deserialize, Serialize};

/// Bytes in a page. migbed emulates 4 KiB target pages only; huge pages are out of scope.
pub const PAGE_SIZE: u64 = 4096;

/// Nanoseconds in a second, for trace instants.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// The index of a page in a guest's RAM, from 0. 32 bits hold 16 TiB of 4 KiB pages.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct PageIndex(pub u32);

/// How a column of a result or a trace came to be. Every published column carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// Read from the recording as it stands.
    Recorded,
    /// Computed from recorded columns.
    Derived,
    /// Made up by a documented, seeded rule.
    Synthesised,
    /// Not there.
    Absent,
}
