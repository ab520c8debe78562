//! Reproducible draws for bootstraps and tests: SplitMix64 (Steele, Lea, Flood, 2014).
//!
//! Never inside: anything that decides what a guest does (see `replay`).

/// A stream of draws, a function of its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..n; 0 for n = 0. The bias of the product is below n / 2^64.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let product = u128::from(self.bits()) * n as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

/// Standard normal draws (Box and Muller).
#[cfg(test)]
pub(crate) fn normals(seed: u64, count: usize) -> Vec<f64> {
    let mut draws = Draws::new(seed);
    let mut uniform = || (draws.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let draw = |_| {
        let (radius, angle) = (1.0 - uniform(), uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    };
    (0..count).map(draw).collect()
}
