//! Random draws of a link: a pure function of (seed, link, purpose, index).
//!
//! Counter-based, so nothing global is drawn from and a run with the same seed and the same packets sees the same
//! losses. What a draw means is said where it is used.

use crate::topology::LinkId;

/// What is drawn, so that one does not shift the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Jitter = 1,
    Loss = 2,
}

/// The draws of one purpose of one link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    key: u64,
}

/// The odd constant of SplitMix64 (2^64 / golden ratio).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: a bijection whose output bits each depend on every input bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Draws {
    pub(super) fn new(seed: u64, link: LinkId, purpose: Purpose) -> Self {
        let parts = [seed, u64::from(link.0), purpose as u64];
        let key = parts.iter().fold(GOLDEN, |key, part| {
            mix(key.rotate_left(23) ^ mix(part.wrapping_add(GOLDEN)))
        });
        Self { key }
    }

    /// The draw of an index, evenly in (0, 1]: 53 bits, so that a logarithm is finite and 1 has its share.
    pub(super) fn unit(self, index: u64) -> f64 {
        let bits = mix(self.key ^ index.wrapping_mul(GOLDEN)) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_every_coordinate_and_nothing_else() {
        let draws = |seed, link, purpose| {
            let draws = Draws::new(seed, LinkId(link), purpose);
            [0, 1].map(|index| draws.unit(index).to_bits())
        };
        let here = draws(7, 3, Purpose::Loss);
        assert_eq!(here, draws(7, 3, Purpose::Loss));
        assert_ne!(here[0], here[1]);
        for other in [
            draws(8, 3, Purpose::Loss),
            draws(7, 4, Purpose::Loss),
            draws(7, 3, Purpose::Jitter),
        ] {
            assert!(here.iter().all(|draw| !other.contains(draw)));
        }
    }

    #[test]
    fn draws_are_even() {
        let draws = Draws::new(1, LinkId(0), Purpose::Jitter);
        let mut counts = [0_u32; 10];
        for index in 0..100_000 {
            let unit = draws.unit(index);
            assert!(unit > 0.0 && unit <= 1.0);
            let tenth = (0..10).rfind(|n| unit > f64::from(*n) / 10.0);
            counts[usize::try_from(tenth.unwrap()).unwrap()] += 1;
        }
        // 10,000 each with a deviation of 95: five of them.
        assert!(
            counts.iter().all(|n| n.abs_diff(10_000) < 475),
            "{counts:?}"
        );
    }
}
