//! The keyed 64-bit mixer behind every draw.
//!
//! Draws are counter-based: a draw is a pure function of its key and its coordinates, so it can be
//! made in any order, any number of times, and nothing has to be stored.

/// The odd constant of SplitMix64 (2^64 / golden ratio): turns a counter into a well spread one.
pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64 (Stafford's variant 13 of MurmurHash3's): a bijection in which
/// every input bit flips every output bit with probability close to one half.
#[inline]
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A key from a list of parts; the order counts.
#[must_use]
pub(crate) fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(GOLDEN, |acc, &part| {
        mix(acc.rotate_left(23) ^ mix(part.wrapping_add(GOLDEN)))
    })
}

/// The draw at coordinates (`high`, `low`) under a key. Distinct coordinates with `low` below 2^32
/// never collide under one key, the mixer being a bijection.
#[inline]
pub(crate) const fn draw(key: u64, high: u32, low: u64) -> u64 {
    let wide = low >> 32;
    // Above 2^32 the rest of `low` moves the key; the common case costs one shift and one xor.
    let key = if wide == 0 {
        key
    } else {
        mix(key ^ wide.wrapping_mul(GOLDEN))
    };
    let counter = ((high as u64) << 32) | (low & 0xFFFF_FFFF);
    mix(key ^ counter.wrapping_mul(GOLDEN))
}

/// The `n`-th draw (from 0) that hangs on another draw.
#[inline]
pub(crate) const fn nth(draw: u64, n: u64) -> u64 {
    mix(draw.wrapping_add((n + 1).wrapping_mul(GOLDEN)))
}

/// A uniform value in `0..n`, `n` > 0, from a draw: the high half of a product, bias below n/2^64.
#[inline]
pub(crate) fn below(draw: u64, n: u64) -> u64 {
    let product = u128::from(draw) * u128::from(n);
    u64::try_from(product >> 64).expect("the high half of a 64 by 64 bit product has 64 bits")
}

/// A probability as a threshold: `draw < threshold` holds with that probability, clamped to 0..=1.
#[must_use]
pub(crate) fn threshold(probability: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float to integer casts saturate, which is the clamp wanted"
    )]
    let scaled = (probability * TWO_POW_64) as u64;
    scaled
}

/// 2^64.
pub(crate) const TWO_POW_64: f64 = 18_446_744_073_709_551_616.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_input_bit_flips_half_of_the_output_bits() {
        let samples = 4_000u64;
        for bit in 0..64 {
            let flips: u32 = (0..samples)
                .map(|i| (mix(i * 7) ^ mix((i * 7) ^ (1 << bit))).count_ones())
                .sum();
            let mean = f64::from(flips) / 4_000.0;
            // Standard deviation of the mean: 4 / sqrt(4000) = 0.063; allow 6 of them.
            assert!(
                (mean - 32.0).abs() < 0.4,
                "bit {bit}: {mean} of 64 bits flip"
            );
        }
    }

    #[test]
    fn neighbouring_coordinates_are_uncorrelated() {
        let uniform = |d: u64| d as f64 / TWO_POW_64 - 0.5;
        let (mut along, mut across, mut n) = (0.0, 0.0, 0.0);
        for high in 0..300 {
            for low in 0..300 {
                let here = uniform(draw(99, high, low));
                along += here * uniform(draw(99, high, low + 1));
                across += here * uniform(draw(99, high + 1, low));
                n += 1.0;
            }
        }
        // The product of two uniforms has variance 1/144: 4 sigma of its mean over n.
        let limit = 4.0 / 12.0 / f64::sqrt(n);
        assert!(f64::abs(along / n) < limit, "{}", along / n);
        assert!(f64::abs(across / n) < limit, "{}", across / n);
    }

    #[test]
    fn draws_are_uniform() {
        let mut bins = [0u32; 256];
        for low in 0..65_536u64 {
            bins[usize::try_from(draw(3, 1, low) >> 56).unwrap()] += 1;
        }
        let chi2: f64 = bins
            .iter()
            .map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0)
            .sum();
        // 255 degrees of freedom: mean 255, standard deviation 22.6; 5 of them.
        assert!(chi2 < 368.0 && chi2 > 142.0, "{chi2}");
    }

    #[test]
    fn thresholds_clamp() {
        assert_eq!(threshold(0.0), 0);
        assert_eq!(threshold(-1.0), 0);
        assert_eq!(threshold(2.0), u64::MAX);
        assert_eq!(threshold(0.5), 1 << 63);
    }
}
