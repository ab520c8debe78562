//! The units traces are made of.

use serde::{Deserialize, Serialize};

/// Bytes in a page. migbed emulates 4 KiB target pages only; huge pages are out of scope.
pub const PAGE_SIZE: u64 = 4096;

/// Nanoseconds in a second, for trace instants.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// Nearest whole number, saturating at both ends; not-a-number gives 0.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` from a float saturates, which is what the name promises"
)]
pub fn round_u64(value: f64) -> u64 {
    value.round() as u64
}

/// Nearest whole number that fits in 32 bits, saturating at both ends; not-a-number gives 0.
#[must_use]
pub fn round_u32(value: f64) -> u32 {
    u32::try_from(round_u64(value)).unwrap_or(u32::MAX)
}

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

/// Nearest index or count, saturating at both ends; not-a-number gives 0.
#[must_use]
pub fn round_usize(value: f64) -> usize {
    usize::try_from(round_u64(value)).unwrap_or(usize::MAX)
}
