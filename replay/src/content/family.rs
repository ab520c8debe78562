//! Bodies that are versions of one page: a base, and variants that differ from it and from one another
//! in the same bytes.
//!
//! Some byte values are hot. Within one stretch of the page, a variant replaces every hot value by
//! another hot one, by the same rule throughout: what repeated before still repeats, so codecs gain as
//! they did. The more values are hot, the longer the runs of changed bytes; the longer the stretch,
//! the more of them. Never inside: which page has which family.

use super::BODY_BYTES;
use super::body::{NARROW, Texture, whole};
use crate::mix;

/// What the variants of a family differ in, on average over the families of a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// Bytes that XBZRLE takes for the body.
    pub(super) bytes: f64,
    /// Runs of bytes that differ.
    pub(super) runs: f64,
}

/// Fewest and most bodies of a family.
const BODIES: std::ops::RangeInclusive<usize> = 4..=14;

impl Change {
    /// How many bodies a family has: no more than there are hot values among the sixteen narrow ones,
    /// so that no two bodies share a changed byte. Runs of changed bytes end where a value is not hot;
    /// each takes two bytes of lengths.
    pub(super) fn bodies(&self) -> usize {
        let run = (self.bytes / self.runs.max(1.0) - 2.0).max(1.0);
        let hot = NARROW.len() as f64 * (1.0 - 1.0 / run);
        whole(hot - 2.0).clamp(*BODIES.start(), *BODIES.end())
    }
}

/// Makes families one after another, so that bytes and runs hold over all of them.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    texture: Texture,
    change: Change,
    /// Bytes and runs that the families so far fall short by.
    owed: (f64, f64),
}

impl Maker {
    pub(super) fn new(texture: Texture, change: Change) -> Self {
        let owed = (0.0, 0.0);
        Self {
            texture,
            change,
            owed,
        }
    }

    /// Fills a family's bodies, which stand one after another, the base first.
    pub(super) fn fill(&mut self, draw: u64, bodies: &mut [u8]) {
        let (base, variants) = bodies.split_at_mut(BODY_BYTES);
        self.texture.fill(draw, base);
        let (bytes, runs) = (
            self.change.bytes + self.owed.0,
            self.change.runs + self.owed.1,
        );
        // As many values hot as come nearest to both.
        let stretches = (self.change.bodies()..=NARROW.len()).map(|narrow| {
            let hot = Hot::new(narrow, mix::nth(!draw, 0));
            let stretch = Stretch::new(base, &hot, bytes, mix::nth(!draw, 1));
            (hot, stretch)
        });
        let miss = |stretch: &Stretch| {
            let short = (bytes - stretch.bytes as f64).max(0.0);
            short + (runs - stretch.runs as f64).abs()
        };
        let (hot, stretch) = stretches
            .min_by(|(_, a), (_, b)| miss(a).total_cmp(&miss(b)))
            .expect("at most fourteen of sixteen values are the fewest");
        self.owed = (bytes - stretch.bytes as f64, runs - stretch.runs as f64);
        for (number, variant) in (1..).zip(variants.chunks_exact_mut(BODY_BYTES)) {
            variant.copy_from_slice(base);
            let rule = hot.rule(number);
            for &at in &stretch.places {
                variant[at] = rule[usize::from(base[at])];
            }
        }
    }
}

/// Hot values, narrow and other ones apart: a change keeps each to its kind.
struct Hot {
    narrow: Vec<u8>,
    wide: Vec<u8>,
}

impl Hot {
    /// So many of the narrow values, and the same share of the others.
    fn new(narrow: usize, draw: u64) -> Self {
        let pick = |mut values: Vec<u8>, count: usize| {
            values.sort_by_key(|&value| mix::nth(draw, u64::from(value)));
            values.truncate(count);
            values
        };
        let wide: Vec<u8> = (0..=u8::MAX).filter(|v| !NARROW.contains(v)).collect();
        let count = wide.len() * narrow / NARROW.len();
        Self {
            narrow: pick(NARROW.to_vec(), narrow),
            wide: pick(wide, count),
        }
    }

    /// What variant `number` makes of each value.
    fn rule(&self, number: usize) -> [u8; 256] {
        let mut rule: [u8; 256] =
            std::array::from_fn(|value| u8::try_from(value).expect("256 values"));
        for values in [&self.narrow, &self.wide] {
            for (at, &value) in values.iter().enumerate() {
                rule[usize::from(value)] = values[(at + number) % values.len()];
            }
        }
        rule
    }
}

/// Where variants differ.
struct Stretch {
    places: Vec<usize>,
    /// What XBZRLE takes for it.
    bytes: usize,
    runs: usize,
}

impl Stretch {
    /// Hot bytes from some place on, and on from the page's beginning when it comes to its end, until
    /// XBZRLE wants `bytes`.
    fn new(base: &[u8], hot: &Hot, wanted: f64, draw: u64) -> Self {
        let rule = hot.rule(1);
        let start = usize::try_from(mix::below(draw, base.len() as u64)).expect("within a page");
        let (mut places, mut bytes, mut runs) = (Vec::new(), 0, 0);
        let mut last = None;
        for at in (start..base.len()).chain(0..start) {
            if bytes as f64 >= wanted {
                break;
            }
            if rule[usize::from(base[at])] == base[at] {
                continue;
            }
            let gap = last.map_or(base.len(), |last| at.abs_diff(last + 1));
            // A run costs two lengths; that of what is equal has a second byte from 128 on.
            bytes += match gap {
                0 => 1,
                1..128 => 3,
                _ => 4,
            };
            runs += usize::from(gap > 0);
            last = Some(at);
            places.push(at);
        }
        Self {
            places,
            bytes,
            runs,
        }
    }
}
