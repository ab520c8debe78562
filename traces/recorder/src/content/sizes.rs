//! How far pages compress: the sizes by codec, of pages that are not zero.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::{PAGE, is_zero};

/// Sizes of pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Pages looked at.
    pub sampled: u64,
    /// Of these, all zero.
    pub zero: u64,
    /// Of those that are not zero, how many were compressed.
    pub compressed: u64,
    /// Bytes a page compresses to, each page by itself: mean, and quantiles 10, 50, 90 %.
    pub lz4: Option<Spread>,
    /// By zstd, level 1.
    pub zstd: Option<Spread>,
    /// By zlib, level 1.
    pub zlib: Option<Spread>,
}

/// A distribution in brief.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// 10 % are at most this.
    pub p10: u32,
    /// Median.
    pub p50: u32,
    /// 90 % are at most this.
    pub p90: u32,
}

impl Spread {
    /// Of all values; `None` of none.
    pub(crate) fn of(values: &mut [u32]) -> Option<Self> {
        let last = values.len().checked_sub(1)?;
        values.sort_unstable();
        let at = |tenths: usize| values[last * tenths / 10];
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        Some(Self {
            mean: sum / values.len() as f64,
            p10: at(1),
            p50: at(5),
            p90: at(9),
        })
    }
}

/// Sizes being collected.
#[derive(Debug, Default)]
pub struct Tally {
    sampled: u64,
    zero: u64,
    lz4: Vec<u32>,
    zstd: Vec<u32>,
    zlib: Vec<u32>,
}

impl Tally {
    /// A page.
    pub fn add(&mut self, page: &[u8]) {
        if is_zero(page) {
            self.zero();
            return;
        }
        self.sampled += 1;
        let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.lz4.push(size(lz4_flex::block::compress(page).len()));
        self.zstd.push(size(zstd_len(page)));
        self.zlib.push(size(zlib_len(page)));
    }

    /// A page known to be zero.
    pub(crate) fn zero(&mut self) {
        self.sampled += 1;
        self.zero += 1;
    }

    /// A page that is not zero and is not compressed.
    pub(crate) fn unmeasured(&mut self) {
        self.sampled += 1;
    }

    /// The figures.
    #[must_use]
    pub fn finish(mut self) -> Sizes {
        Sizes {
            sampled: self.sampled,
            zero: self.zero,
            compressed: self.zstd.len() as u64,
            lz4: Spread::of(&mut self.lz4),
            zstd: Spread::of(&mut self.zstd),
            zlib: Spread::of(&mut self.zlib),
        }
    }
}

pub(super) fn zstd_len(bytes: &[u8]) -> usize {
    // Memory is the only thing that can run out.
    zstd::bulk::compress(bytes, 1).map_or(bytes.len(), |packed| packed.len())
}

pub(super) fn zlib_len(bytes: &[u8]) -> usize {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(PAGE), Compression::new(1));
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().map_or(bytes.len(), |packed| packed.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_of_pages_that_are_not_zero() {
        let mut tally = Tally::default();
        tally.add(&[0; PAGE]);
        tally.add(&[b'x'; PAGE]);
        let noise: Vec<u8> = (0..1024u32)
            .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        tally.add(&noise);
        let sizes = tally.finish();
        assert_eq!((sizes.sampled, sizes.zero, sizes.compressed), (3, 1, 2));
        let zstd = sizes.zstd.unwrap();
        assert!(zstd.p10 < 100, "{zstd:?}");
        assert!(sizes.lz4.is_some() && sizes.zlib.is_some());
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::of(&mut []), None);
    }
}
