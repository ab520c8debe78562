//! Ready-made page bodies. Both ends build the same pool from (recipe, seed, size).
//!
//! Pages come in up to four kinds: those codecs shrink and those they do not, each with rewrites that
//! change a part and with rewrites that change all. A page is of one kind, and of one family if its
//! rewrites change a part, for ever. A version of it is the family's base (what the page held before
//! all writes: such a rewrite changed nothing) or one of the variants. Two versions apart by one write
//! or by many differ in the same bytes: right for counters and slots written in place, and too little
//! for a page in which every write meets another record; the figures of recordings are of versions
//! some writes apart already.

use super::body::{Texture, whole};
use super::family::{Change, Maker};
use super::recipe::Recipe;
use super::stamp::{ContentError, STAMP_BYTES, Stamp};
use super::{BODY_BYTES, PAGE_BYTES};
use crate::mix;

const POOL_DOMAIN: u64 = 0x706F_6F6C;
const KIND_DOMAIN: u64 = 0x6B69_6E64;

/// Bodies of one kind of pages.
#[derive(Debug, Clone, Copy)]
struct Kind {
    first: u32,
    /// 0: versions choose among all bodies, which have nothing in common.
    families: u32,
    /// Bodies a family; else of the kind.
    bodies: u32,
}

/// Ready-made page bodies.
#[derive(Debug, Clone)]
pub struct PagePool {
    bodies: Vec<u8>,
    crcs: Vec<u32>,
    kinds: Vec<Kind>,
    /// Which of `kinds` a page is of, by (incompressible, rewritten wholly).
    kind_of: [[usize; 2]; 2],
    incompressible: u64,
    wholly: u64,
    /// Below it, a draw of a version makes it the base.
    base: u64,
}

impl PagePool {
    /// At least `pages` bodies of a recipe. 256 of them are 1 MiB and stay in a cache.
    #[must_use]
    pub fn new(recipe: &Recipe, seed: u64, pages: u32) -> Self {
        let mut pool = Self {
            bodies: Vec::new(),
            crcs: Vec::new(),
            kinds: Vec::new(),
            kind_of: [[0; 2]; 2],
            incompressible: mix::threshold(recipe.incompressible),
            wholly: mix::threshold(recipe.wholly),
            base: mix::threshold(recipe.base),
        };
        let key = mix::key(&[seed, POOL_DOMAIN]);
        let shares = [1.0 - recipe.incompressible, recipe.incompressible];
        let rewrites = [1.0 - recipe.wholly, recipe.wholly];
        let mut largest = (0.0, 0);
        let mut missing = Vec::new();
        for (noise, share) in (0..).zip(shares) {
            for (wholly, rewrite) in (0..).zip(rewrites) {
                let weight = share * rewrite;
                if weight <= 0.0 {
                    missing.push((noise, wholly));
                    continue;
                }
                let texture = if noise == 1 {
                    Texture::NOISE
                } else {
                    recipe.texture
                };
                let room = whole(weight * f64::from(pages)).max(RARE);
                let index = pool.kinds.len();
                pool.kind_of[noise][wholly] = index;
                if weight > largest.0 {
                    largest = (weight, index);
                }
                let change = (wholly == 0).then_some(recipe.change);
                pool.add(texture, change, room, key);
            }
        }
        for (noise, wholly) in missing {
            pool.kind_of[noise][wholly] = largest.1;
        }
        pool
    }

    /// A kind with at least `room` bodies.
    fn add(&mut self, texture: Texture, change: Option<Change>, room: usize, key: u64) {
        let begin = self.crcs.len();
        // Of a family, or by itself.
        let together = change.map_or(1, |change| change.bodies());
        let groups = room.div_ceil(together);
        let mut made = vec![0; groups * together * BODY_BYTES];
        let mut maker = change.map(|change| Maker::new(texture, change));
        for (number, bodies) in (begin as u64..).zip(made.chunks_exact_mut(together * BODY_BYTES)) {
            let draw = mix::nth(key, number);
            match &mut maker {
                Some(maker) => maker.fill(draw, bodies),
                None => texture.fill(draw, bodies),
            }
        }
        self.crcs
            .extend(made.chunks_exact(BODY_BYTES).map(crc32fast::hash));
        self.bodies.append(&mut made);
        let count = |bodies: usize| u32::try_from(bodies).expect("pools have u32 bodies");
        self.kinds.push(Kind {
            first: count(begin),
            families: change.map_or(0, |_| count(groups)),
            bodies: count(if change.is_some() { together } else { groups }),
        });
    }

    /// Version of the content and body.
    fn choose(&self, vm_key: u64, page: u32, version: u64) -> (u64, u32) {
        let vm = mix::mix(vm_key);
        let of_page = mix::draw(vm ^ KIND_DOMAIN, page, 0);
        let noise = usize::from(mix::nth(of_page, 0) < self.incompressible);
        let whole = usize::from(mix::nth(of_page, 1) < self.wholly);
        let kind = &self.kinds[self.kind_of[noise][whole]];
        let of_version = mix::draw(vm ^ version.wrapping_mul(mix::GOLDEN), page, 0);
        let is_base = version == 0 || mix::nth(of_version, 0) < self.base;
        let below =
            |draw: u64, n: u32| u32::try_from(mix::below(draw, u64::from(n))).expect("below a u32");
        let body = match (kind.families, is_base) {
            (0, true) => below(mix::nth(of_page, 2), kind.bodies),
            (0, false) => below(of_version, kind.bodies),
            (families, is_base) => {
                let variant = if is_base {
                    0
                } else {
                    1 + below(of_version, kind.bodies - 1)
                };
                below(mix::nth(of_page, 2), families) * kind.bodies + variant
            }
        };
        (if is_base { 0 } else { version }, kind.first + body)
    }

    /// The version whose content a version of a page has: itself, or 0 if the write left the page as it
    /// was before all writes.
    #[must_use]
    pub fn content_version(&self, vm_key: u64, page: u32, version: u64) -> u64 {
        self.choose(vm_key, page, version).0
    }

    /// Stamp and body of a version of a page: the two parts of a `writev`.
    #[must_use]
    pub fn page(&self, vm_key: u64, page: u32, version: u64) -> (Stamp, &[u8]) {
        let (version, body) = self.choose(vm_key, page, version);
        let stamp = Stamp {
            vm_key,
            version,
            page,
            body,
            body_crc: self.crcs[body as usize],
        };
        (
            stamp,
            &self.bodies[body as usize * BODY_BYTES..][..BODY_BYTES],
        )
    }

    /// Checks a received page and returns the version of its content. Total: any bytes give a value or
    /// an error.
    ///
    /// # Errors
    /// When stamp or body are not those of a version of this page of this VM.
    pub fn verify(&self, bytes: &[u8], vm_key: u64, page: u32) -> Result<u64, ContentError> {
        if bytes.len() != PAGE_BYTES {
            return Err(ContentError::Length { len: bytes.len() });
        }
        let (head, body) = bytes
            .split_first_chunk::<STAMP_BYTES>()
            .expect("a page is longer than its stamp");
        let stamp = Stamp::decode(head).ok_or(ContentError::Stamp { page })?;
        if stamp.vm_key != vm_key {
            return Err(ContentError::Vm {
                page,
                expected: vm_key,
                found: stamp.vm_key,
            });
        }
        if stamp.page != page {
            return Err(ContentError::Page {
                expected: page,
                found: stamp.page,
            });
        }
        let (expected, own) = self.page(vm_key, page, stamp.version);
        if stamp != expected || body != own {
            return Err(ContentError::Body {
                page,
                version: stamp.version,
            });
        }
        Ok(stamp.version)
    }
}

/// Bodies of a kind of pages however rare it is.
const RARE: usize = 128;
