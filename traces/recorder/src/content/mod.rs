//! What pages hold: how many are zero, alike, how far they compress, how much a rewrite changes.
//!
//! Pages are chosen by a hash of their frame, so that the same pages are looked at again and a rewrite
//! can be compared with what was there before. Never inside: how pages are found or read.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use serde::{Deserialize, Serialize};

use traces::content::{Changes, Codecs, is_zero};
pub use traces::content::{Delta, Sizes, Tally, xbzrle_len};

use crate::space::Found;

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;

/// Written pages looked at in a tick.
const PER_TICK: usize = 32;
/// Pages whose last content is kept to compare with: 32 MiB.
const KEPT: usize = 8192;
/// Pages in a packet, as QEMU's multifd compresses them.
const PACKET: usize = 128;
/// Most packets compressed in one census.
const PACKETS: usize = 8;

/// Pages with the lowest hashes of all offered.
#[derive(Debug)]
pub(crate) struct Lowest {
    limit: usize,
    heap: BinaryHeap<(u64, u32, i32, u64)>,
}

impl Lowest {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn offer(&mut self, found: Found) {
        let key = (hash(found.frame), found.frame, found.pid, found.address);
        if self.heap.len() < self.limit {
            self.heap.push(key);
        } else if self.heap.peek().is_some_and(|highest| key < *highest) {
            self.heap.pop();
            self.heap.push(key);
        }
    }

    /// The pages chosen, each frame once, and an empty choice from here on.
    pub(crate) fn take(&mut self) -> Vec<Found> {
        let mut chosen = std::mem::take(&mut self.heap).into_sorted_vec();
        chosen.dedup_by_key(|key| key.1);
        let found = |(_, frame, pid, address)| Found {
            frame,
            pid,
            address,
        };
        chosen.into_iter().map(found).collect()
    }
}

/// `SplitMix64`'s finaliser: any fixed, well-mixing function will do.
fn hash(frame: u32) -> u64 {
    let mut x = u64::from(frame).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Which of the written pages are looked at, and the figures so far.
#[derive(Debug)]
pub(crate) struct Sampler {
    tick: Lowest,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            tick: Lowest::new(PER_TICK),
        }
    }
}

impl Sampler {
    /// A page was written.
    pub(crate) fn offer(&mut self, found: Found) {
        self.tick.offer(found);
    }

    /// The pages to look at for the tick that ends.
    pub(crate) fn take(&mut self) -> Vec<Found> {
        self.tick.take()
    }
}

/// Written pages: what they held at the end of the tick, and what the rewrite changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Content of the pages.
    pub pages: Sizes,
    /// Change against the content seen last of the same page.
    pub rewrites: Delta,
}

/// All pages known that are resident, at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Census {
    /// When, from the start of the recording.
    pub t_ms: u64,
    /// Pages written since the start that are still there.
    pub resident_pages: u64,
    /// Content of those looked at.
    pub pages: Sizes,
    /// Pages that are a copy of another one looked at, zero pages apart.
    pub duplicates: u64,
    /// Input over output of zstd level 1 on packets of 128 pages that are not zero.
    pub zstd_packet_ratio: Option<f64>,
    /// The same by zlib level 1.
    pub zlib_packet_ratio: Option<f64>,
}

/// What the pages looked at held.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pages: Tally,
    delta: Changes,
    kept: BTreeMap<(u64, u32), Box<[u8]>>,
}

impl Contents {
    /// A written page as it is now.
    pub(crate) fn look(&mut self, frame: u32, page: &[u8]) {
        self.pages.add(page);
        let key = (hash(frame), frame);
        if let Some(before) = self.kept.get_mut(&key) {
            self.delta.add(before, page);
            before.copy_from_slice(page);
            return;
        }
        self.kept.insert(key, page.into());
        if self.kept.len() > KEPT {
            self.kept.pop_last();
        }
    }

    pub(crate) fn finish(self) -> Written {
        Written {
            pages: self.pages.finish(),
            rewrites: self.delta.finish(),
        }
    }
}

/// Counts the resident pages given.
pub(crate) fn census(t_ms: u64, resident_pages: u64, pages: &[Box<[u8]>]) -> Census {
    let mut tally = Tally::default();
    let mut seen = BTreeSet::new();
    let mut duplicates = 0;
    let mut filled = Vec::new();
    // Few of them are compressed: that costs ten times as much as looking.
    let stride = (pages.len() / (PACKET * PACKETS)).max(1);
    for (index, page) in pages.iter().enumerate() {
        if is_zero(page) {
            tally.zero();
            continue;
        }
        if !seen.insert(fingerprint(page)) {
            duplicates += 1;
        }
        if index % stride == 0 {
            tally.add(page);
            filled.extend_from_slice(page);
        } else {
            tally.unmeasured();
        }
    }
    let mut codecs = Codecs::default();
    let mut ratio = |pack: fn(&mut Codecs, &[u8]) -> usize| {
        let mut packed = 0;
        let packets = filled.chunks_exact(PACKET * PAGE);
        let input = packets.len() * PACKET * PAGE;
        for packet in packets {
            packed += pack(&mut codecs, packet);
        }
        (packed > 0).then(|| input as f64 / packed as f64)
    };
    Census {
        t_ms,
        resident_pages,
        pages: tally.finish(),
        duplicates,
        zstd_packet_ratio: ratio(Codecs::zstd_len),
        zlib_packet_ratio: ratio(Codecs::zlib_len),
    }
}

/// 128 bits of a page's content: equal pages, with certainty for all purposes here.
fn fingerprint(page: &[u8]) -> (u64, u64) {
    let (mut a, mut b) = (0u64, 0x517c_c1b7_2722_0a95u64);
    for word in page.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().unwrap_or([0; 8]));
        a = (a.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        b = (b.rotate_left(23) ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(frame: u32) -> Found {
        Found {
            frame,
            pid: 1,
            address: u64::from(frame) << 12,
        }
    }

    #[test]
    fn the_same_pages_are_chosen_whatever_the_order() {
        let mut up = Lowest::new(5);
        let mut down = Lowest::new(5);
        (0..100).for_each(|frame| up.offer(found(frame)));
        (0..100).rev().for_each(|frame| down.offer(found(frame)));
        let frames = |lowest: &mut Lowest| -> Vec<u32> {
            lowest.take().iter().map(|found| found.frame).collect()
        };
        let chosen = frames(&mut up);
        assert_eq!(chosen.len(), 5);
        assert_eq!(chosen, frames(&mut down));
        assert!(frames(&mut up).is_empty());
    }

    #[test]
    fn rewrites_are_compared_with_what_was_there() {
        let mut contents = Contents::default();
        let mut page = vec![7u8; PAGE];
        contents.look(3, &page);
        contents.look(3, &page);
        page[100] = 8;
        contents.look(3, &page);
        let written = contents.finish();
        assert_eq!(written.pages.sampled, 3);
        assert_eq!(written.rewrites.compared, 2);
        assert_eq!(written.rewrites.unchanged, 1);
    }

    #[test]
    fn a_census_counts_zero_pages_and_copies() {
        let page = |byte: u8| vec![byte; PAGE].into_boxed_slice();
        let census = census(
            5,
            40,
            &[page(0), page(1), page(1), page(1), page(2), page(0)],
        );
        assert_eq!(census.pages.sampled, 6);
        assert_eq!(census.pages.zero, 2);
        assert_eq!(census.duplicates, 2);
        assert_eq!(census.zstd_packet_ratio, None, "no whole packet");
    }
}
