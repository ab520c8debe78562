//! Bytes of a page with a given texture.
//!
//! A page is fresh bytes and copies of what stands before, in turn. Fresh bytes are random ones (no
//! codec gains) or of sixteen values (entropy coders halve them, lz4 gains nothing); copies shrink by
//! every codec, but not alike: zlib spells each distance out, zstd has a code for "as far as before".
//! Never inside: which texture meets a profile (`recipe`).

use serde::{Deserialize, Serialize};

use crate::mix;

/// How a page is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Texture {
    /// Share of the bytes that are copies.
    pub copied: f64,
    /// Share of the fresh bytes that have one of sixteen values.
    pub narrow: f64,
    /// Mean bytes of a copy.
    pub copy_bytes: f64,
    /// Share of the copies from one same distance; the others are from anywhere before.
    pub strided: f64,
}

impl Texture {
    /// No codec gains.
    pub const NOISE: Self = Self {
        copied: 0.0,
        narrow: 0.0,
        copy_bytes: 16.0,
        strided: 0.0,
    };

    /// Fills `bytes`, as `draw` has it.
    pub fn fill(&self, draw: u64, bytes: &mut [u8]) {
        let mut draws = Draws { draw, next: 0 };
        let narrow = mix::threshold(self.narrow);
        let stride = 24 + usize_of(mix::below(draws.draw(), 200));
        // Copies owed: kept so that shares hold for each page, not only on average.
        let (mut at, mut owed) = (0usize, 0.0f64);
        while at < bytes.len() {
            let copy = self.copy_bytes * (0.5 + draws.unit());
            let fresh = if self.copied > 0.0 {
                copy * (1.0 - self.copied) / self.copied - owed
            } else {
                bytes.len() as f64
            };
            let end = (at + whole(fresh)).min(bytes.len());
            owed += (end - at) as f64 - fresh.max(0.0) + (fresh.max(0.0) - fresh);
            for byte in &mut bytes[at..end] {
                *byte = Self::byte(narrow, &mut draws);
            }
            at = end;
            let end = (at + whole(copy).max(1)).min(bytes.len());
            if self.copied > 0.0 && at > 0 {
                let from = if draws.unit() < self.strided {
                    at.saturating_sub(stride)
                } else {
                    usize_of(mix::below(draws.draw(), at as u64))
                };
                for to in at..end {
                    bytes[to] = bytes[from + (to - at)];
                }
                at = end;
            }
        }
    }

    /// A fresh byte.
    fn byte(narrow: u64, draws: &mut Draws) -> u8 {
        let draw = draws.draw();
        let [low, high, ..] = draw.to_le_bytes();
        if mix::nth(draw, 0) < narrow {
            NARROW[usize::from(high % 16)]
        } else {
            low
        }
    }
}

/// Sixteen values, zero among them, as in the fields of structures.
pub(super) const NARROW: [u8; 16] = [0, 1, 2, 3, 4, 8, 16, 32, 48, 49, 64, 97, 101, 116, 128, 255];

struct Draws {
    draw: u64,
    next: u64,
}

impl Draws {
    fn draw(&mut self) -> u64 {
        self.next += 1;
        mix::nth(self.draw, self.next)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.draw() as f64 / mix::TWO_POW_64
    }
}

fn usize_of(small: u64) -> usize {
    usize::try_from(small).unwrap_or(usize::MAX)
}

/// Bytes, none if it is less than one.
pub(super) fn whole(bytes: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float to integer casts saturate"
    )]
    let whole = bytes.round() as usize;
    whole
}
