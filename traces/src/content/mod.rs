//! What pages hold, as measured: the target that generated contents have to meet.
//!
//! Inside: the profile and the built-in ones, each with where its figures are from; how pages are
//! measured, the same way for recorded and for generated ones. Never inside: making pages
//! (`replay::content`), reading those of a real program (`recorder`).

mod delta;
mod named;
mod sizes;

pub use delta::{Changes, Delta, changed_runs, xbzrle_len};
pub use named::{NAMES, named};
pub use sizes::{Codecs, Sizes, Spread, Tally};

use serde::{Deserialize, Serialize};

use crate::units::PAGE_SIZE;

/// Bytes in a page.
pub const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE, "pages of x86");

static ZEROS: [u8; PAGE] = [0; PAGE];

/// Whether a page holds nothing but zeros.
///
/// By comparison with zeros: a loop over bytes that ends early is not made into wide instructions.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    page.chunks(PAGE).all(|part| *part == ZEROS[..part.len()])
}

/// Pages of one guest or of one class of its pages. What was not measured is `None`, and whoever
/// makes pages is free in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ContentProfile {
    /// Share of written versions that hold nothing but zeros, 0 to 1.
    #[serde(default)]
    pub zero_share: f64,
    /// Share of zero pages among those that are filled before the guest begins and not yet written.
    /// Pages nobody has filled are zero whatever this says.
    #[serde(default)]
    pub filled_zero_share: f64,
    /// Share of pages, zero ones apart, that are a copy of another.
    #[serde(default)]
    pub duplicate_share: Option<f64>,
    /// Share of pages, zero ones apart, that no codec makes smaller.
    #[serde(default)]
    pub incompressible_share: f64,
    /// 4096 over the mean bytes of a page that is not zero, each page packed by itself (those no codec
    /// makes smaller included), by lz4.
    #[serde(default)]
    pub lz4_ratio: Option<f64>,
    /// The same by zlib, level 1.
    #[serde(default)]
    pub zlib_ratio: Option<f64>,
    /// The same by zstd, level 1.
    #[serde(default)]
    pub zstd_ratio: Option<f64>,
    /// What a rewrite changes.
    #[serde(default)]
    pub rewrite: Rewrite,
}

/// What differs between two versions of a page that somebody has looked at, be it a recorder or a
/// migration; how many writes lie between them is not told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rewrite {
    /// Share of rewrites that leave the page as it was; zero pages that stay zero are among them.
    #[serde(default)]
    pub unchanged_share: f64,
    /// Of those that change it, the share that XBZRLE cannot send in less than a page.
    #[serde(default)]
    pub overflow_share: f64,
    /// Mean bytes of the XBZRLE encoding of those that change it and do not overflow.
    #[serde(default)]
    pub xbzrle_bytes: f64,
    /// Their mean runs of bytes that differ.
    #[serde(default)]
    pub changed_runs: f64,
}

impl Rewrite {
    /// Every rewrite is a wholly new page.
    pub const WHOLE: Self = Self {
        unchanged_share: 0.0,
        overflow_share: 1.0,
        xbzrle_bytes: 0.0,
        changed_runs: 0.0,
    };
}

impl Default for Rewrite {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl ContentProfile {
    /// No page is zero, no codec gains, a rewrite is a new page: what traffic generators send.
    pub const RANDOM: Self = Self {
        zero_share: 0.0,
        filled_zero_share: 0.0,
        duplicate_share: None,
        incompressible_share: 1.0,
        lz4_ratio: None,
        zlib_ratio: None,
        zstd_ratio: None,
        rewrite: Rewrite::WHOLE,
    };
}

impl Default for ContentProfile {
    fn default() -> Self {
        Self::RANDOM
    }
}

/// Figures of a profile that no memory can have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} = {value} is not {bounds}")]
pub struct ProfileError {
    /// The figure, as scenarios call it.
    pub key: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub bounds: &'static str,
}

impl ContentProfile {
    /// Looks at each figure by itself.
    ///
    /// # Errors
    /// The first that is out of its bounds.
    pub fn check(&self) -> Result<(), ProfileError> {
        let rewrite = &self.rewrite;
        let shares = [
            ("zero_share", self.zero_share),
            ("filled_zero_share", self.filled_zero_share),
            ("duplicate_share", self.duplicate_share.unwrap_or(0.0)),
            ("incompressible_share", self.incompressible_share),
            ("unchanged_share", rewrite.unchanged_share),
            ("overflow_share", rewrite.overflow_share),
        ];
        let within = |key, value: f64, low: f64, high: f64, bounds| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ProfileError { key, value, bounds })
            }
        };
        for (key, value) in shares {
            within(key, value, 0.0, 1.0, "a share from 0 to 1")?;
        }
        for (key, ratio) in [
            ("lz4_ratio", self.lz4_ratio),
            ("zlib_ratio", self.zlib_ratio),
            ("zstd_ratio", self.zstd_ratio),
        ] {
            within(
                key,
                ratio.unwrap_or(1.0),
                0.95,
                200.0,
                "a ratio from 0.95 to 200",
            )?;
        }
        let page = PAGE_SIZE as f64;
        within(
            "xbzrle_bytes",
            rewrite.xbzrle_bytes,
            0.0,
            page,
            "from 0 to 4096 bytes",
        )?;
        within(
            "changed_runs",
            rewrite.changed_runs,
            0.0,
            page / 2.0,
            "from 0 to 2048 runs",
        )
    }
}
