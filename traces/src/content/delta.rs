//! What a rewrite changes: bytes and runs that differ, and what XBZRLE would send for it.

use serde::{Deserialize, Serialize};

use super::PAGE;
use super::sizes::Spread;

/// Rewrites compared with what was there before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Rewrites looked at.
    pub compared: u64,
    /// Of these, those that left the page as it was.
    pub unchanged: u64,
    /// Of these, those XBZRLE cannot send in less than a page.
    pub overflow: u64,
    /// Bytes XBZRLE would send, of changed pages that do not overflow.
    pub xbzrle: Option<Spread>,
    /// Bytes that differ, of changed pages.
    pub changed_bytes: Option<Spread>,
    /// Runs of bytes that differ, of changed pages.
    pub changed_runs: Option<Spread>,
}

/// Rewrites being collected.
#[derive(Debug, Default)]
pub struct Changes {
    unchanged: u64,
    overflow: u64,
    xbzrle: Vec<u32>,
    bytes: Vec<u32>,
    runs: Vec<u32>,
}

impl Changes {
    /// A rewrite: the page before and now.
    pub fn add(&mut self, before: &[u8], now: &[u8]) {
        let mut changed = (0u32, 0u32);
        for (_, differ) in runs(before, now) {
            changed = (changed.0 + size(differ), changed.1 + 1);
        }
        if changed.0 == 0 {
            self.unchanged += 1;
            return;
        }
        self.bytes.push(changed.0);
        self.runs.push(changed.1);
        match xbzrle_len(before, now) {
            Some(len) => self.xbzrle.push(size(len)),
            None => self.overflow += 1,
        }
    }

    /// The figures.
    #[must_use]
    pub fn finish(mut self) -> Delta {
        Delta {
            compared: self.unchanged + self.bytes.len() as u64,
            unchanged: self.unchanged,
            overflow: self.overflow,
            xbzrle: Spread::of(&mut self.xbzrle),
            changed_bytes: Spread::of(&mut self.bytes),
            changed_runs: Spread::of(&mut self.runs),
        }
    }
}

fn size(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Runs of equal bytes, each with the run of differing bytes after it, which is not empty.
fn runs<'a>(before: &'a [u8], now: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let len = before.len().min(now.len());
    let mut at = 0;
    std::iter::from_fn(move || {
        let run = |from: usize, equal: bool| {
            (from..len)
                .take_while(|&i| (before[i] == now[i]) == equal)
                .count()
        };
        let same = run(at, true);
        let differ = run(at + same, false);
        at += same + differ;
        (differ > 0).then_some((same, differ))
    })
}

/// Bytes of QEMU's XBZRLE encoding of a page: per run the length of what is equal, the length of what
/// differs (ULEB128) and its bytes; 0 of an unchanged page. `None` when it would not be shorter than
/// the page, which is then sent whole.
#[must_use]
pub fn xbzrle_len(before: &[u8], now: &[u8]) -> Option<usize> {
    let uleb128 = |value: usize| if value < 0x80 { 1 } else { 2 };
    let len = runs(before, now)
        .map(|(same, differ)| uleb128(same) + uleb128(differ) + differ)
        .sum();
    (len < PAGE).then_some(len)
}

/// Runs of bytes that differ.
#[must_use]
pub fn changed_runs(before: &[u8], now: &[u8]) -> usize {
    runs(before, now).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn xbzrle_sizes_by_hand() {
        let before = vec![0u8; PAGE];
        let mut now = before.clone();
        assert_eq!(xbzrle_len(&before, &now), Some(0));
        now[0] = 1;
        assert_eq!(xbzrle_len(&before, &now), Some(3), "0, 1, the byte");
        now[200] = 1;
        assert_eq!(
            xbzrle_len(&before, &now),
            Some(7),
            "and 199 in two bytes, 1, the byte"
        );
        assert_eq!(xbzrle_len(&before, &vec![1; PAGE]), None);
    }

    proptest! {
        #[test]
        fn runs_cover_all_that_differs(
            changes in proptest::collection::btree_map(0usize..PAGE, 1u8.., 0..200)
        ) {
            let before = vec![0u8; PAGE];
            let mut now = before.clone();
            for (&at, &byte) in &changes {
                now[at] = byte;
            }
            let differ: usize = runs(&before, &now).map(|(_, differ)| differ).sum();
            prop_assert_eq!(differ, changes.len());
        }
    }
}
