//! Pages read, by idle page tracking: pages chosen are marked idle, and a sample later the kernel says which of
//! them were accessed since.
//!
//! Inside: the bitmap's format (Documentation/admin-guide/mm/idle_page_tracking.rst), the choice's tally.
//! Never inside: which pages there are, when a sample is due.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::frames::PAGE_SHIFT;
use crate::recording::Reads;
use crate::space::Found;
use traces::dirty::Run;

/// Where the kernel has it, if it was built in; root's alone.
pub(crate) const BITMAP: &str = "/sys/kernel/mm/page_idle/bitmap";
/// Pages watched at a time.
pub(crate) const WATCHED: usize = 1024;

/// The kernel's bitmap of idle page frames: 64 of them a word in the machine's order, page frame n in bit n mod 64.
#[derive(Debug)]
struct IdleBits(File);

impl IdleBits {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn place(pfn: u64) -> (u64, u64) {
        (pfn / 64 * 8, 1 << (pfn % 64))
    }

    /// Marks frames idle. Bits that are not set change nothing.
    fn mark(&self, pfns: impl Iterator<Item = u64>) -> io::Result<()> {
        let mut words: BTreeMap<u64, u64> = BTreeMap::new();
        for (offset, bit) in pfns.map(Self::place) {
            *words.entry(offset).or_insert(0) |= bit;
        }
        let mut all = words.into_iter();
        all.try_for_each(|(offset, word)| self.0.write_all_at(&word.to_ne_bytes(), offset))
    }

    /// Whether a frame is still idle: not accessed since it was marked.
    fn is_idle(&self, pfn: u64) -> io::Result<bool> {
        let (offset, bit) = Self::place(pfn);
        let mut word = [0; 8];
        self.0.read_exact_at(&mut word, offset)?;
        Ok(u64::from_ne_bytes(word) & bit != 0)
    }
}

/// The page frame in an entry of `/proc/PID/pagemap`; `None` of a page that is not there, and where the kernel
/// hides frames (without CAP_SYS_ADMIN they read as 0).
fn pfn_of(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    let pfn = entry & ((1 << 55) - 1);
    (entry & PRESENT != 0 && pfn != 0).then_some(pfn)
}

/// The page frame at an address now.
pub(crate) fn frame_at(pid: i32, address: u64) -> Option<u64> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let mut entry = [0; 8];
    let offset = (address >> PAGE_SHIFT) * 8;
    pagemap.read_exact_at(&mut entry, offset).ok()?;
    pfn_of(u64::from_ne_bytes(entry))
}

/// Pages of the recording under watch, and what was seen of them.
#[derive(Debug)]
pub(crate) struct ReadSampling {
    bits: Result<IdleBits, String>,
    marked: Vec<(Found, u64)>,
    written: HashSet<u32>,
    tally: Reads,
}

impl ReadSampling {
    pub(crate) fn open(path: &Path) -> Self {
        let bits = IdleBits::open(path).map_err(|error| {
            format!(
                "{}: {error}; pages read are sampled by root on kernels with CONFIG_IDLE_PAGE_TRACKING",
                path.display()
            )
        });
        Self {
            bits,
            marked: Vec::new(),
            written: HashSet::new(),
            tally: Reads::default(),
        }
    }

    pub(crate) fn works(&self) -> bool {
        self.bits.is_ok()
    }

    /// Pages written in a tick.
    pub(crate) fn wrote(&mut self, runs: &[Run]) {
        if !self.works() {
            return;
        }
        let pages = runs.iter().flat_map(|run| run.start..run.start + run.len);
        self.written.extend(pages);
    }

    /// Ends a sample: reads what the kernel says of the pages under watch.
    pub(crate) fn look(&mut self, frame_at: impl Fn(i32, u64) -> Option<u64>) {
        for (found, pfn) in self.marked.drain(..) {
            let Ok(bits) = &self.bits else { break };
            // Moved, swapped or gone: nothing is known of it.
            let same = frame_at(found.pid, found.address) == Some(pfn);
            let idle = bits.is_idle(pfn);
            let (true, Ok(idle)) = (same, idle) else {
                self.tally.lost += 1;
                continue;
            };
            self.tally.sampled += 1;
            if self.written.contains(&found.frame) {
                self.tally.written += 1;
            } else {
                self.tally.read += u64::from(!idle);
            }
        }
        self.written.clear();
    }

    /// Begins a sample with these pages.
    pub(crate) fn watch(&mut self, pages: Vec<Found>, frame_at: impl Fn(i32, u64) -> Option<u64>) {
        let Ok(bits) = &self.bits else { return };
        let known = |found: Found| Some((found, frame_at(found.pid, found.address)?));
        self.marked = pages.into_iter().filter_map(known).collect();
        if let Err(error) = bits.mark(self.marked.iter().map(|(_, pfn)| *pfn)) {
            self.marked.clear();
            self.bits = Err(format!(
                "the bitmap of idle pages cannot be written: {error}"
            ));
        }
    }

    pub(crate) fn finish(self) -> Reads {
        let unwritten = self.tally.sampled - self.tally.written;
        let share = (unwritten > 0).then(|| self.tally.read as f64 / unwritten as f64);
        Reads {
            unavailable: self.bits.err(),
            share,
            standard_error: share.map(|share| (share * (1.0 - share) / unwritten as f64).sqrt()),
            ..self.tally
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(frame: u32) -> Found {
        Found {
            frame,
            pid: 1,
            address: u64::from(frame) << PAGE_SHIFT,
        }
    }

    /// Page frames of the fixture: frame f of the recording lies in 100 + f.
    fn at(_: i32, address: u64) -> Option<u64> {
        Some(100 + (address >> PAGE_SHIFT))
    }

    #[test]
    fn bits_are_where_the_kernel_has_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64).unwrap();
        let bits = IdleBits::open(file.path()).unwrap();
        bits.mark([64, 65, 127, 128].into_iter()).unwrap();
        let word = |index: usize| {
            let bytes = std::fs::read(file.path()).unwrap();
            u64::from_ne_bytes(bytes[index * 8..][..8].try_into().unwrap())
        };
        assert_eq!((word(0), word(1), word(2)), (0, 1 << 63 | 3, 1));
        assert!(bits.is_idle(127).unwrap() && !bits.is_idle(126).unwrap());
        assert!(bits.is_idle(8 * 64).is_err(), "beyond the end of memory");
    }

    #[test]
    fn entries_of_pagemap() {
        assert_eq!(pfn_of(1 << 63 | 1 << 55 | 0x1234), Some(0x1234));
        assert_eq!(pfn_of(0x1234), None, "swapped out");
        assert_eq!(pfn_of(1 << 63), None, "hidden");
    }

    /// Six pages watched: one read, one written, one moved, three idle.
    #[test]
    fn accessed_and_not_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64).unwrap();
        let mut reads = ReadSampling::open(file.path());
        assert!(reads.works());
        reads.wrote(&[Run { start: 4, len: 1 }]);
        reads.look(at);
        assert_eq!(reads.tally, Reads::default(), "nothing was watched");
        reads.watch((0..6).map(found).collect(), at);
        // The program reads page 1 and writes page 2: the kernel clears their bits.
        let bits = IdleBits::open(file.path()).unwrap();
        let (offset, _) = IdleBits::place(100);
        let marked: u64 = (100..106).map(|pfn| IdleBits::place(pfn).1).sum();
        let left = marked & !(IdleBits::place(101).1 | IdleBits::place(102).1);
        bits.0.write_all_at(&left.to_ne_bytes(), offset).unwrap();
        reads.wrote(&[Run { start: 2, len: 1 }]);
        reads.wrote(&[Run { start: 2, len: 1 }]);
        let moved = |pid, address| at(pid, address).map(|pfn| pfn + u64::from(pfn == 105));
        reads.look(moved);
        let found = reads.finish();
        assert_eq!(
            (found.sampled, found.written, found.read, found.lost),
            (5, 1, 1, 1)
        );
        assert_eq!(found.share, Some(0.25));
        assert!((found.standard_error.unwrap() - (0.25f64 * 0.75 / 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(found.unavailable, None);
    }

    #[test]
    fn a_kernel_without_it_is_told() {
        let mut reads = ReadSampling::open(Path::new("/no/such/bitmap"));
        assert!(!reads.works());
        reads.watch(vec![found(1)], at);
        reads.wrote(&[Run { start: 0, len: 7 }]);
        reads.look(at);
        let found = reads.finish();
        assert!(found.unavailable.unwrap().contains("/no/such/bitmap"));
        assert_eq!((found.sampled, found.share), (0, None));
    }

    #[test]
    fn frames_of_ones_own_pages_are_hidden_or_real() {
        let value = Box::new([1u8; 8192]);
        let own = i32::try_from(std::process::id()).unwrap();
        let address = value.as_ptr() as u64;
        let entry = frame_at(own, address);
        // By root a frame, by others none; never another page's.
        assert_eq!(entry, frame_at(own, address));
        assert_eq!(frame_at(own, 0), None);
    }
}
