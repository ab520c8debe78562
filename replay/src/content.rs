//! What pages hold: a pure function of (VM, page, version) that both ends of a migration compute.
//!
//! Inside: which pages are zero, the stamp that says what a page on the wire is, and the pool of
//! ready-made page bodies, so that sending costs no generation. Never inside: which version a page
//! has (`guest`), sockets.

use serde::{Deserialize, Serialize};
use traces::units::PAGE_SIZE;

use crate::guest::Layout;
use crate::mix;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(
    PAGE_BYTES as u64 == PAGE_SIZE,
    "the stamp and body fill a target page"
);

/// Bytes of the stamp that opens every page that is not zero.
pub const STAMP_BYTES: usize = 32;

/// Bytes of a page after its stamp.
pub const BODY_BYTES: usize = PAGE_BYTES - STAMP_BYTES;

/// What a guest's pages are like. Figures: reference/migration.md §6.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContentProfile {
    /// Share of written versions that hold nothing but zeros, 0 to 1.
    pub zero_share: f64,
    /// Share of each page that is random bytes, 0 to 1; the rest repeats a motif. A compressor
    /// reaches a ratio of about 1 / share.
    pub incompressible_share: f64,
    /// Length of the motif, 1 to 64 bytes.
    pub motif_bytes: u8,
}

impl ContentProfile {
    /// Incompressible pages, none zero: what traffic generators write.
    pub const RANDOM: Self = Self::of(1.0);
    /// Memcached: zlib ratio 3.3 to 3.4.
    pub const MEMCACHED: Self = Self::of(0.30);
    /// Java heaps and PARSEC: zlib ratio about 2.5.
    pub const HEAP: Self = Self::of(0.40);
    /// A mixture: zlib ratio about 2.
    pub const MIXED: Self = Self::of(0.5);
    /// Media and encrypted data.
    pub const MEDIA: Self = Self::of(0.95);

    const fn of(incompressible_share: f64) -> Self {
        Self {
            zero_share: 0.0,
            incompressible_share,
            motif_bytes: 32,
        }
    }

    /// The built-in profile of a name: `random`, `memcached`, `heap`, `mixed`, `media`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "random" => Self::RANDOM,
            "memcached" => Self::MEMCACHED,
            "heap" => Self::HEAP,
            "mixed" => Self::MIXED,
            "media" => Self::MEDIA,
            _ => return None,
        })
    }
}

impl Default for ContentProfile {
    fn default() -> Self {
        Self::RANDOM
    }
}

/// Which pages of one guest are zero.
#[derive(Debug, Clone)]
pub struct ZeroRule {
    key: u64,
    threshold: u64,
    layout: Layout,
}

impl ZeroRule {
    /// The rule of the VM `vm_key` under a seed.
    #[must_use]
    pub fn new(profile: &ContentProfile, layout: &Layout, seed: u64, vm_key: u64) -> Self {
        Self {
            key: mix::key(&[seed, vm_key, ZERO_DOMAIN]),
            threshold: mix::threshold(profile.zero_share),
            layout: layout.clone(),
        }
    }

    /// Whether a version of a page holds nothing but zeros. Version 0 does where the guest has not
    /// filled the page before it began.
    #[must_use]
    pub fn is_zero(&self, page: u32, version: u64) -> bool {
        if version == 0 {
            return self.layout.starts_zero(page);
        }
        self.threshold > 0 && mix::draw(self.key ^ mix::mix(version), page, 0) < self.threshold
    }
}

/// Keeps these draws apart from those of writes with the same seed and VM.
const ZERO_DOMAIN: u64 = 0x7A65_726F;
const POOL_DOMAIN: u64 = 0x706F_6F6C;

/// What a page that is not zero says of itself: 32 bytes, little-endian: VM key u64, version u64,
/// page u32, body u32, CRC-32 of the body u32, CRC-32 of the 28 bytes before u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Key of the VM.
    pub vm_key: u64,
    /// Version of the page.
    pub version: u64,
    /// The page.
    pub page: u32,
    /// Which body of the pool follows.
    pub body: u32,
    /// CRC-32 of that body.
    pub body_crc: u32,
}

impl Stamp {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[0..8].copy_from_slice(&self.vm_key.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.page.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a stamp; `None` if its checksum does not hold.
    #[must_use]
    pub fn decode(bytes: &[u8; STAMP_BYTES]) -> Option<Self> {
        let four = |at: usize| {
            u32::from_le_bytes(
                bytes[at..at + 4]
                    .try_into()
                    .expect("four bytes of thirty-two"),
            )
        };
        let eight = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes of thirty-two"),
            )
        };
        (crc32fast::hash(&bytes[..28]) == four(28)).then(|| Self {
            vm_key: eight(0),
            version: eight(8),
            page: four(16),
            body: four(20),
            body_crc: four(24),
        })
    }
}

/// A received page that is not what its sender should have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not a page's length.
    #[error("a page of {len} bytes, not 4096")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// The stamp's checksum does not hold.
    #[error("the stamp of page {page} is damaged")]
    Stamp {
        /// The page expected.
        page: u32,
    },
    /// The page of another guest.
    #[error("page {page} belongs to VM {found}, not {expected}")]
    Vm {
        /// The page expected.
        page: u32,
        /// VM expected.
        expected: u64,
        /// VM in the stamp.
        found: u64,
    },
    /// Another page.
    #[error("page {found} arrived in the place of page {expected}")]
    Page {
        /// The page expected.
        expected: u32,
        /// Page in the stamp.
        found: u32,
    },
    /// A body that does not belong to the stamp.
    #[error("page {page} version {version} has a body other than its own")]
    Body {
        /// The page.
        page: u32,
        /// Version in the stamp.
        version: u64,
    },
}

/// Ready-made page bodies. Both ends build the same pool from (profile, seed, size).
#[derive(Debug, Clone)]
pub struct PagePool {
    bodies: Vec<u8>,
    crcs: Vec<u32>,
}

impl PagePool {
    /// `pages` bodies (at least one) of a profile. 256 of them are 1 MiB and stay in a cache;
    /// nothing that is measured here looks for equal pages.
    #[must_use]
    pub fn new(profile: &ContentProfile, seed: u64, pages: u32) -> Self {
        let count = pages.max(1);
        let mut bodies = vec![0; count as usize * BODY_BYTES];
        let mut crcs = Vec::with_capacity(count as usize);
        for (number, body) in (0..count).zip(bodies.chunks_exact_mut(BODY_BYTES)) {
            fill(
                profile,
                mix::draw(mix::key(&[seed, POOL_DOMAIN]), number, 0),
                body,
            );
            crcs.push(crc32fast::hash(body));
        }
        Self { bodies, crcs }
    }

    fn choose(&self, vm_key: u64, page: u32, version: u64) -> u32 {
        let draw = mix::draw(
            mix::mix(vm_key) ^ version.wrapping_mul(mix::GOLDEN),
            page,
            0,
        );
        u32::try_from(mix::below(draw, self.crcs.len() as u64)).expect("pools have u32 pages")
    }

    fn slice(&self, body: u32) -> &[u8] {
        &self.bodies[body as usize * BODY_BYTES..][..BODY_BYTES]
    }

    /// Stamp and body of a version of a page: the two parts of a `writev`.
    #[must_use]
    pub fn page(&self, vm_key: u64, page: u32, version: u64) -> (Stamp, &[u8]) {
        let body = self.choose(vm_key, page, version);
        let body_crc = self.crcs[body as usize];
        (
            Stamp {
                vm_key,
                version,
                page,
                body,
                body_crc,
            },
            self.slice(body),
        )
    }

    /// Checks a received page and returns the version it holds. Total: any bytes give a value or
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

fn fill(profile: &ContentProfile, draw: u64, body: &mut [u8]) {
    let share = profile.incompressible_share.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 4064 bytes, clamped above"
    )]
    let random = ((share * BODY_BYTES as f64).round() as usize).min(body.len());
    let (noise, rest) = body.split_at_mut(random);
    for (n, bytes) in (0..).zip(noise.chunks_mut(8)) {
        bytes.copy_from_slice(&mix::nth(draw, n).to_le_bytes()[..bytes.len()]);
    }
    // Printable, so that a page's bytes are told from its random part in a dump.
    let motif: Vec<u8> = (0..u64::from(profile.motif_bytes.clamp(1, 64)))
        .map(|n| b'A' + u8::try_from(mix::nth(!draw, n) % 26).expect("below 26"))
        .collect();
    for (byte, &pattern) in rest.iter_mut().zip(motif.iter().cycle()) {
        *byte = pattern;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::guest::MemorySpec;

    fn page_bytes(pool: &PagePool, vm: u64, page: u32, version: u64) -> Vec<u8> {
        let (stamp, body) = pool.page(vm, page, version);
        [&stamp.encode()[..], body].concat()
    }

    #[test]
    fn a_page_verifies_as_itself_and_as_nothing_else() {
        let pool = PagePool::new(&ContentProfile::MIXED, 1, 64);
        let bytes = page_bytes(&pool, 7, 123, 99);
        assert_eq!(pool.verify(&bytes, 7, 123), Ok(99));
        assert_eq!(
            pool.verify(&bytes, 8, 123),
            Err(ContentError::Vm {
                page: 123,
                expected: 8,
                found: 7
            })
        );
        assert_eq!(
            pool.verify(&bytes, 7, 124),
            Err(ContentError::Page {
                expected: 124,
                found: 123
            })
        );
        assert_eq!(
            pool.verify(&bytes[1..], 7, 123),
            Err(ContentError::Length { len: 4095 })
        );
        let same = PagePool::new(&ContentProfile::MIXED, 1, 64);
        assert_eq!(
            same.verify(&bytes, 7, 123),
            Ok(99),
            "the other end builds the same pool"
        );
    }

    #[test]
    fn compressors_reach_the_ratio_asked_for() {
        for (name, low, high) in [
            ("random", 0.98, 1.02),
            ("memcached", 2.9, 3.5),
            ("heap", 2.2, 2.6),
            ("mixed", 1.8, 2.1),
            ("media", 1.0, 1.1),
        ] {
            let pool = PagePool::new(&ContentProfile::named(name).unwrap(), 3, 16);
            let mut packed = 0usize;
            for page in 0..16 {
                let mut zlib =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(1));
                zlib.write_all(&page_bytes(&pool, 1, page, 1)).unwrap();
                packed += zlib.finish().unwrap().len();
            }
            let ratio = (16 * PAGE_BYTES) as f64 / packed as f64;
            assert!((low..high).contains(&ratio), "{name}: zlib-1 ratio {ratio}");
        }
    }

    #[test]
    fn the_zero_share_is_kept() {
        let spec = MemorySpec {
            ram_pages: 100,
            resident_pages: 40,
            behaviours: vec![],
            fresh: false,
        };
        let layout = Layout::new(&spec).unwrap();
        let profile = ContentProfile {
            zero_share: 0.3,
            ..ContentProfile::RANDOM
        };
        let rule = ZeroRule::new(&profile, &layout, 1, 2);
        assert!(!rule.is_zero(39, 0) && rule.is_zero(40, 0));
        let zero = (1..=10_000u64)
            .filter(|&version| rule.is_zero(5, version))
            .count();
        // Binomial: sigma 46; 4 of them.
        assert!((2816..3184).contains(&zero), "{zero} of 10000");
        let never = ZeroRule::new(&ContentProfile::RANDOM, &layout, 1, 2);
        assert!((1..1000u64).all(|version| !never.is_zero(50, version)));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(version in any::<u64>(), page in any::<u32>(), bit in 0usize..32768) {
            let pool = PagePool::new(&ContentProfile::HEAP, 1, 4);
            let mut bytes = page_bytes(&pool, 9, page, version);
            prop_assert_eq!(pool.verify(&bytes, 9, page), Ok(version));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(pool.verify(&bytes, 9, page).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let pool = PagePool::new(&ContentProfile::RANDOM, 1, 2);
            prop_assert!(pool.verify(&bytes, 9, 1).is_err());
        }
    }
}
