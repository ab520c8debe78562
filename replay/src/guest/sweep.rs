//! A walker that goes round its pages in address order. Closed form, no draws.

use std::ops::Range;

use super::tempo::Operational;

/// The walker over `pages` pages; operational time counts laps.
#[derive(Debug, Clone)]
pub(super) struct SweepWriter {
    pages: u32,
}

impl SweepWriter {
    pub(super) fn new(pages: u32) -> Self {
        Self { pages }
    }

    /// Steps taken: page `s % pages` is written when step s + 1 is done. Saturates at 2^64 steps.
    fn steps(&self, at: Operational) -> u64 {
        // Laps × pages in two halves: the product of both does not fit in 128 bits.
        let pages = u128::from(self.pages);
        let whole = (at >> 64) * pages;
        let part = ((at & u128::from(u64::MAX)) * pages) >> 64;
        u64::try_from(whole + part).unwrap_or(u64::MAX)
    }

    /// How often the page at `offset` has been written.
    pub(super) fn version(&self, offset: u32, at: Operational) -> u64 {
        match self.steps(at).checked_sub(u64::from(offset) + 1) {
            Some(beyond) => beyond / u64::from(self.pages) + 1,
            None => 0,
        }
    }

    /// Calls `mark` with runs of offsets within `range` written in `(from, to]`.
    pub(super) fn harvest(
        &self,
        range: &Range<u32>,
        from: Operational,
        to: Operational,
        mut mark: impl FnMut(Range<u32>),
    ) {
        let (from, to) = (self.steps(from), self.steps(to));
        if to <= from || self.pages == 0 {
            return;
        }
        let pages = u64::from(self.pages);
        let mut clipped = |first: u64, end: u64| {
            let first = u32::try_from(first).unwrap_or(u32::MAX).max(range.start);
            let end = u32::try_from(end).unwrap_or(u32::MAX).min(range.end);
            if first < end {
                mark(first..end);
            }
        };
        let first = from % pages;
        if to - from >= pages {
            clipped(0, pages);
        } else if first + (to - from) <= pages {
            clipped(first, first + (to - from));
        } else {
            clipped(0, first + (to - from) - pages);
            clipped(first, pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walker_writes_each_page_once_a_lap() {
        let sweep = SweepWriter::new(10);
        let lap = 1u128 << 64;
        let at = |tenths: u128| lap * tenths / 10 + 1;
        for tenths in 0..45 {
            for page in 0..10u32 {
                let expected = (tenths + 9 - u128::from(page)) / 10;
                let version = sweep.version(page, at(tenths));
                assert_eq!(
                    u128::from(version),
                    expected,
                    "page {page} after {tenths} steps"
                );
            }
        }
    }

    #[test]
    fn harvest_sees_what_versions_say() {
        let sweep = SweepWriter::new(13);
        for from in 0..60u128 {
            for to in from..60 {
                let (from, to) = ((from << 64) / 7, (to << 64) / 7);
                for range in [0..13, 4..9] {
                    let mut seen = [0; 13];
                    sweep.harvest(&range, from, to, |run| {
                        run.for_each(|page| seen[page as usize] += 1);
                    });
                    for page in 0..13 {
                        let written = range.contains(&page)
                            && sweep.version(page, from) != sweep.version(page, to);
                        assert_eq!(seen[page as usize], u8::from(written));
                    }
                }
            }
        }
    }
}
