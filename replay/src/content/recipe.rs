//! From a profile to the making of pages that meet it: solved by measuring with the codecs themselves.
//!
//! Three ratios are met by four values of a texture, found by the simplex of Nelder and Mead; bytes and
//! runs of a rewrite by correcting what was asked of a family by what came out. The stamp is part of
//! every page measured: its 32 bytes hardly shrink, and between two versions of a page about 14 of them
//! differ. Never inside: bodies (`pool`).

use traces::content::{ContentProfile, PAGE, Spread, Tally, changed_runs, xbzrle_len};

use super::BODY_BYTES;
use super::body::Texture;
use super::family::{Change, Maker};
use super::stamp::Stamp;
use super::{simplex, solved};
use crate::mix;

/// How the pages of a profile are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Share of pages of pure noise.
    pub(super) incompressible: f64,
    /// Share of pages that a rewrite changes wholly.
    pub(super) wholly: f64,
    /// Share of versions that are as the page was before all writes.
    pub(super) base: f64,
    /// Of the pages that are no noise.
    pub(super) texture: Texture,
    /// Of a rewrite that changes a part.
    pub(super) change: Change,
}

/// A profile that no texture meets.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// A figure out of its bounds.
    #[error(transparent)]
    Profile(#[from] traces::content::ProfileError),
    /// Figures that do not go together.
    #[error(
        "no page meets {key} = {asked:.3} beside the other figures; {reached:.3} is the nearest"
    )]
    OutOfReach {
        /// The figure, as scenarios call it.
        key: &'static str,
        /// What was asked for.
        asked: f64,
        /// What came nearest.
        reached: f64,
    },
}

/// Codecs, in this order throughout.
const CODECS: [&str; 3] = ["lz4_ratio", "zlib_ratio", "zstd_ratio"];
/// Relative deviation at which a search ends, and that it may have at its end.
const GOOD: f64 = 0.005;
const ENOUGH: f64 = 0.03;
/// Families measured.
const FAMILIES: u32 = 64;
/// Textures tried.
const TRIALS: usize = 240;
/// Changes tried.
const CHANGES: usize = 10;
/// Draws of pages that are measured, apart from those of pools.
const SOLVE_DOMAIN: u64 = 0x736F_6C76;

impl Recipe {
    /// The recipe of a profile: known for the built-in ones, solved for others (a tenth of a second
    /// to a second).
    ///
    /// # Errors
    /// When no page can be so.
    pub fn of(profile: &ContentProfile) -> Result<Self, RecipeError> {
        profile.check()?;
        let shares = Shares::of(profile);
        if let Some((texture, change)) = solved::known(profile) {
            return Ok(shares.with(texture, change));
        }
        Self::solve(profile)
    }

    /// Solves, whether the profile is known or not.
    ///
    /// # Errors
    /// When no page can be so.
    pub fn solve(profile: &ContentProfile) -> Result<Self, RecipeError> {
        profile.check()?;
        let shares = Shares::of(profile);
        let rewrite = &profile.rewrite;
        let mut change = Change {
            bytes: 0.0,
            runs: 0.0,
        };
        let wanted = wanted(profile);
        let mut texture = Texture::NOISE;
        // The change alters the sizes a little, and the texture the runs.
        for _ in 0..2 {
            if shares.wholly < 1.0 {
                change = changed(texture, &shares, rewrite)?;
            }
            if wanted.iter().any(Option::is_some) && shares.incompressible < 1.0 {
                texture = textured(&wanted, change, &shares, texture)?;
            }
        }
        if shares.wholly < 1.0 {
            change = changed(texture, &shares, rewrite)?;
        }
        Ok(shares.with(texture, change))
    }
}

/// What needs no search.
#[derive(Debug, Clone, Copy)]
struct Shares {
    incompressible: f64,
    wholly: f64,
    base: f64,
}

impl Shares {
    fn of(profile: &ContentProfile) -> Self {
        let zero = profile.zero_share;
        // Zero pages stay as they are. Of the others, two versions are alike if both are the base.
        let unchanged = (profile.rewrite.unchanged_share - zero) / (1.0 - zero).max(1e-9);
        Self {
            incompressible: profile.incompressible_share,
            wholly: profile.rewrite.overflow_share,
            base: unchanged.clamp(0.0, 1.0).sqrt(),
        }
    }

    fn with(self, texture: Texture, change: Change) -> Recipe {
        Recipe {
            incompressible: self.incompressible,
            wholly: self.wholly,
            base: self.base,
            texture,
            change,
        }
    }

    /// Of two different versions of a page, how often both have the same variant: then only their
    /// stamps differ.
    fn same_variant(&self, change: Change) -> f64 {
        let others = change.bodies() as f64 - 1.0;
        (1.0 - self.base) / ((1.0 + self.base) * others)
    }
}

/// Mean bytes wanted of a page that is no noise, by each codec.
fn wanted(profile: &ContentProfile) -> [Option<f64>; 3] {
    let noise = sizes(
        Texture::NOISE,
        Change {
            bytes: 0.0,
            runs: 0.0,
        },
        1.0,
    );
    let ratios = [profile.lz4_ratio, profile.zlib_ratio, profile.zstd_ratio];
    let share = profile.incompressible_share;
    std::array::from_fn(|codec| {
        let mean = PAGE as f64 / ratios[codec]?;
        Some((mean - share * noise[codec]) / (1.0 - share).max(1e-9))
    })
}

/// The bodies of each family, or single ones.
fn bodies(texture: Texture, change: Option<Change>) -> Vec<Vec<u8>> {
    let key = mix::key(&[SOLVE_DOMAIN]);
    let count = change.map_or(1, |change| change.bodies());
    let mut maker = change.map(|change| Maker::new(texture, change));
    let family = |number| {
        let draw = mix::nth(key, number);
        let mut bodies = vec![0; count * BODY_BYTES];
        match &mut maker {
            Some(maker) => maker.fill(draw, &mut bodies),
            None => texture.fill(draw, &mut bodies),
        }
        bodies
    };
    (0..u64::from(FAMILIES)).map(family).collect()
}

fn body(bodies: &[u8], which: usize) -> &[u8] {
    &bodies[which * BODY_BYTES..][..BODY_BYTES]
}

/// A page with a body, stamped as one on the wire is.
fn stamped(bodies: &[u8], which: usize, number: u32, write: u64) -> Vec<u8> {
    let body = body(bodies, which);
    let stamp = Stamp {
        vm_key: mix::key(&[SOLVE_DOMAIN, 1]),
        version: 1 + mix::draw(write, number, 0) % 100_000,
        page: number * 37,
        body: number * 16 + u32::try_from(which).unwrap_or(0),
        body_crc: crc32fast::hash(body),
    };
    [&stamp.encode()[..], body].concat()
}

/// Mean bytes of a page by each codec; the share `plain` of pages is as the texture makes them, the
/// others are variants of that.
fn sizes(texture: Texture, change: Change, plain: f64) -> [f64; 3] {
    let (mut as_made, mut changed) = (Tally::default(), Tally::default());
    let families = bodies(texture, (plain < 1.0).then_some(change));
    for (number, family) in (0u32..).zip(&families) {
        let variants = family.len() / BODY_BYTES;
        if plain > 0.0 {
            as_made.add(&stamped(family, 0, number, 1));
        }
        if variants > 1 {
            let which = 1 + number as usize % (variants - 1);
            changed.add(&stamped(family, which, number, 2));
        }
    }
    let means = |tally: Tally| {
        let sizes = tally.finish();
        [sizes.lz4, sizes.zlib, sizes.zstd].map(|spread| spread.map_or(0.0, |s: Spread| s.mean))
    };
    let (as_made, changed) = (means(as_made), means(changed));
    std::array::from_fn(|codec| plain * as_made[codec] + (1.0 - plain) * changed[codec])
}

/// The texture whose pages have the sizes wanted.
fn textured(
    wanted: &[Option<f64>; 3],
    change: Change,
    shares: &Shares,
    near: Texture,
) -> Result<Texture, RecipeError> {
    // As they are made: pages that a rewrite changes wholly, and others where it changes nothing.
    let plain = shares.wholly + (1.0 - shares.wholly) * shares.base;
    let measured = |at: &[f64; 4]| sizes(texture_at(at), change, plain);
    let deviation = |found: &[f64; 3]| {
        let of = |codec: usize| {
            let wanted = wanted[codec]?;
            Some((found[codec] / wanted.max(1.0)).ln().abs())
        };
        let deviations = (0..3).filter_map(of);
        deviations.map(|d| d * d).sum::<f64>().sqrt()
    };
    let start = if near == Texture::NOISE {
        let lz4 = wanted.iter().flatten().fold(0.0f64, |a, &b| a.max(b)) / PAGE as f64;
        [1.0 - lz4.clamp(0.03, 0.97), 0.5, 3.0, 0.3]
    } else {
        [near.copied, near.narrow, near.copy_bytes.ln(), near.strided]
    };
    let mut best = (f64::INFINITY, start);
    let others = [
        [start[0], 0.9, 2.2, 0.8],
        [start[0], 0.2, 4.5, 0.1],
        [0.98, 0.5, 6.0, 0.5],
        [start[0], 1.0, 3.8, 0.5],
        [start[0], 0.9, 3.0, 1.0],
    ];
    for start in std::iter::once(start).chain(others) {
        let step = [
            0.01 + (1.0 - start[0]).clamp(0.0, 0.2) / 2.0,
            -0.3,
            0.6,
            0.3,
        ];
        let found = simplex::least(start, step, TRIALS / 3, GOOD, |at| deviation(&measured(at)));
        if found.0 < best.0 {
            best = found;
        }
        if best.0 < GOOD {
            break;
        }
    }
    // A simplex that has shrunk on a ledge is given room again.
    for size in [0.3, 0.1] {
        if best.0 >= GOOD {
            let step = [size * (1.0 - best.1[0]), size, 2.0 * size, size];
            best = simplex::least(best.1, step, TRIALS / 3, GOOD, |at| {
                deviation(&measured(at))
            });
        }
    }
    let found = measured(&best.1);
    for (codec, key) in CODECS.into_iter().enumerate() {
        let Some(wanted) = wanted[codec] else {
            continue;
        };
        if wanted <= 0.0 || (found[codec] / wanted).ln().abs() > ENOUGH {
            return Err(RecipeError::OutOfReach {
                key,
                asked: PAGE as f64 / wanted,
                reached: PAGE as f64 / found[codec],
            });
        }
    }
    Ok(texture_at(&best.1))
}

/// Any four numbers as a texture.
fn texture_at(at: &[f64; 4]) -> Texture {
    Texture {
        copied: at[0].clamp(0.0, 0.9999),
        narrow: at[1].clamp(0.0, 1.0),
        copy_bytes: at[2].clamp(1.0, 7.0).exp(),
        strided: at[3].clamp(0.0, 1.0),
    }
}

/// The change whose rewrites have the bytes and runs wanted.
fn changed(
    texture: Texture,
    shares: &Shares,
    wanted: &traces::content::Rewrite,
) -> Result<Change, RecipeError> {
    let off = |found: f64, wanted: f64| (found / wanted.max(1e-9)).ln().abs();
    let mut asked = Change {
        bytes: wanted.xbzrle_bytes,
        runs: wanted.changed_runs,
    };
    let mut best = (f64::INFINITY, asked, (0.0, 0.0));
    for _ in 0..CHANGES {
        let (bytes, runs) = rewritten(texture, asked, shares);
        let deviation = off(bytes, wanted.xbzrle_bytes).max(off(runs, wanted.changed_runs));
        if deviation < best.0 {
            best = (deviation, asked, (bytes, runs));
        }
        if deviation < GOOD {
            break;
        }
        // The stamp's bytes and runs come off; what the families did not reach comes on top.
        asked.bytes = (asked.bytes + wanted.xbzrle_bytes - bytes).clamp(0.0, PAGE as f64);
        asked.runs = (asked.runs + wanted.changed_runs - runs).clamp(0.0, PAGE as f64);
    }
    let (deviation, change, (bytes, runs)) = best;
    if deviation <= ENOUGH {
        return Ok(change);
    }
    let bytes_off = (bytes / wanted.xbzrle_bytes.max(1e-9)).ln().abs() > ENOUGH;
    Err(if bytes_off {
        RecipeError::OutOfReach {
            key: "xbzrle_bytes",
            asked: wanted.xbzrle_bytes,
            reached: bytes,
        }
    } else {
        RecipeError::OutOfReach {
            key: "changed_runs",
            asked: wanted.changed_runs,
            reached: runs,
        }
    })
}

/// Mean XBZRLE bytes and runs of rewrites that change a part.
fn rewritten(texture: Texture, change: Change, shares: &Shares) -> (f64, f64) {
    let (mut bytes, mut runs) = ([0.0; 2], [0.0; 2]);
    for (number, family) in (0u32..).zip(&bodies(texture, Some(change))) {
        let one = number as usize % change.bodies();
        let other = (one + 1) % change.bodies();
        let before = stamped(family, one, number, 1);
        for (same, which) in [other, one].into_iter().enumerate() {
            let now = stamped(family, which, number, 2);
            bytes[same] += xbzrle_len(&before, &now).unwrap_or(PAGE) as f64;
            runs[same] += changed_runs(&before, &now) as f64;
        }
    }
    let same = shares.same_variant(change);
    let mean = |sums: [f64; 2]| ((1.0 - same) * sums[0] + same * sums[1]) / f64::from(FAMILIES);
    (mean(bytes), mean(runs))
}
