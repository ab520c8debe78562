//! How far pages compress: the sizes by codec, of pages that are not zero.

use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};
use zstd::bulk::Compressor;

use super::is_zero;

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
    #[must_use]
    pub fn of(values: &mut [u32]) -> Option<Self> {
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

/// Codecs, kept between pages: making one takes longer than compressing a page.
pub struct Codecs {
    zstd: Option<Compressor<'static>>,
    zlib: Compress,
    out: Vec<u8>,
}

impl Default for Codecs {
    fn default() -> Self {
        Self {
            // Memory is the only thing that can run out.
            zstd: Compressor::new(1).ok(),
            zlib: Compress::new(Compression::new(1), true),
            out: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codecs").finish_non_exhaustive()
    }
}

impl Codecs {
    /// Bytes that `bytes` take in zstd, level 1; as many as before when it fails.
    pub fn zstd_len(&mut self, bytes: &[u8]) -> usize {
        self.room(zstd::zstd_safe::compress_bound(bytes.len()));
        let packed = self
            .zstd
            .as_mut()
            .and_then(|zstd| zstd.compress_to_buffer(bytes, &mut self.out).ok());
        packed.unwrap_or(bytes.len())
    }

    /// Bytes that `bytes` take in an lz4 block.
    #[must_use]
    pub fn lz4_len(bytes: &[u8]) -> usize {
        lz4_flex::block::compress(bytes).len()
    }

    /// The same in zlib, level 1.
    pub fn zlib_len(&mut self, bytes: &[u8]) -> usize {
        // What deflate cannot shrink it stores, in blocks of up to 64 KiB with 5 bytes each.
        self.room(bytes.len() + bytes.len() / 1000 + 64);
        self.zlib.reset();
        let status = self
            .zlib
            .compress_vec(bytes, &mut self.out, FlushCompress::Finish);
        match status {
            Ok(Status::StreamEnd) => self.out.len(),
            _ => bytes.len(),
        }
    }

    fn room(&mut self, bytes: usize) {
        self.out.clear();
        self.out.reserve(bytes);
    }
}

/// Sizes being collected.
#[derive(Debug, Default)]
pub struct Tally {
    codecs: Codecs,
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
        self.lz4.push(size(Codecs::lz4_len(page)));
        self.zstd.push(size(self.codecs.zstd_len(page)));
        self.zlib.push(size(self.codecs.zlib_len(page)));
    }

    /// A page known to be zero.
    pub fn zero(&mut self) {
        self.sampled += 1;
        self.zero += 1;
    }

    /// A page that is not zero and is not compressed.
    pub fn unmeasured(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::PAGE;

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
    fn codecs_give_the_sizes_of_their_libraries_page_after_page() {
        use std::io::Write;
        let mut codecs = Codecs::default();
        for seed in 0..4u8 {
            let page: Vec<u8> = (0..PAGE)
                .map(|i| u8::try_from(i % 61).unwrap() ^ seed)
                .collect();
            let zstd = zstd::bulk::compress(&page, 1).unwrap().len();
            assert_eq!(codecs.zstd_len(&page), zstd);
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::new(1));
            zlib.write_all(&page).unwrap();
            assert_eq!(codecs.zlib_len(&page), zlib.finish().unwrap().len());
        }
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::of(&mut []), None);
    }
}
