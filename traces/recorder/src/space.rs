//! One recorded address space: its descriptors, its mappings, and reading which pages were written.
//!
//! Every method says how the kernel is asked; what the answers mean for a recording is `book`'s.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::frames::{Frames, Owner, PAGE_SHIFT, Place};
use crate::maps::{self, Mapping};
use crate::sys::pagemap::{ADDRESS_END, IS_FILE, PageRegion, Scan, Scanner};
use crate::sys::uffd::Uffd;

/// What keeps an address space from being watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Not tried yet.
    Pending,
    /// Watched.
    Yes,
    /// Cannot be: why.
    No(String),
}

/// An address space: that of a process, shared with its threads and children of `vfork`.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) number: u32,
    /// A process that has it.
    pub(crate) pid: i32,
    /// Tasks that have it.
    pub(crate) users: usize,
    /// It came by `exec`.
    pub(crate) program: bool,
    /// End of the heap as last asked for; 0 when never.
    pub(crate) brk: u64,
    /// Mappings were dropped and perhaps made anew at the same place since they were last watched.
    pub(crate) stale: bool,
    pub(crate) watch: Watch,
    only_shared: bool,
    uffd: Option<Uffd>,
    pagemap: File,
    maps_text: String,
    mappings: Vec<Mapping>,
}

/// A page found written, and where to read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) frame: u32,
    pub(crate) pid: i32,
    pub(crate) address: u64,
}

/// All addresses.
pub(crate) const EVERYWHERE: Range<u64> = 0..ADDRESS_END;

impl Space {
    pub(crate) fn open(number: u32, pid: i32, brk: u64, only_shared: bool) -> io::Result<Self> {
        Ok(Self {
            number,
            pid,
            users: 1,
            program: false,
            brk,
            stale: true,
            watch: Watch::Pending,
            only_shared,
            uffd: None,
            pagemap: File::open(format!("/proc/{pid}/pagemap"))?,
            maps_text: String::new(),
            mappings: Vec::new(),
        })
    }

    /// Takes the descriptor made inside, and watches all there is. Pages of shared mappings are
    /// protected too: a read must not look like a write.
    pub(crate) fn watch(&mut self, uffd: Uffd) {
        self.uffd = Some(uffd);
        self.watch = Watch::Yes;
        self.refresh();
        self.protect_shared(&EVERYWHERE);
    }

    /// Reads the mappings and watches those that are new. A process that is gone has none.
    pub(crate) fn refresh(&mut self) {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)) else {
            return;
        };
        if text == self.maps_text && !self.stale {
            return;
        }
        self.mappings = maps::parse(&text);
        self.maps_text = text;
        self.stale = false;
        let Some(uffd) = &self.uffd else { return };
        if self.only_shared {
            for mapping in self.mappings.iter().filter(|m| m.shared.is_some()) {
                // What cannot be watched cannot be written either, as below.
                let _ = uffd.register(&mapping.range);
            }
            return;
        }
        for range in maps::contiguous(&self.mappings) {
            if uffd.register(&range).is_err() {
                // One of them cannot be watched (a shared mapping without the right to write, or
                // one just unmapped): each by itself, those that cannot be written are no loss.
                for mapping in within(&self.mappings, &range) {
                    let _ = uffd.register(&mapping.range);
                }
            }
        }
    }

    /// Protects the shared mappings in a range, pages not yet there included.
    pub(crate) fn protect_shared(&self, range: &Range<u64>) {
        let Some(uffd) = &self.uffd else { return };
        for mapping in within(&self.mappings, range) {
            if mapping.shared.is_some() {
                // Fails where it could not be watched, so could not be written.
                let start = mapping.range.start.max(range.start);
                let _ = uffd.protect(&(start..mapping.range.end.min(range.end)));
            }
        }
    }

    /// Adds the pages a scan of `range` finds to `found`, giving frames to new ones.
    pub(crate) fn collect(
        &self,
        range: &Range<u64>,
        scan: Scan,
        scanner: &mut Scanner,
        frames: &mut Frames,
        mut found: impl FnMut(Found),
    ) -> io::Result<()> {
        let mut next = 0;
        scanner.scan(&self.pagemap, range, scan, |region| {
            // Regions ascend, so mappings before this one are not needed again.
            while self
                .mappings
                .get(next)
                .is_some_and(|m| m.range.end <= region.start)
            {
                next += 1;
            }
            self.pages_of(region, next, frames, &mut found);
        })
    }

    /// Pages that are not (or no longer) new: protects them, and forgets that they were written.
    pub(crate) fn disregard(&self, range: &Range<u64>, scanner: &mut Scanner) -> io::Result<()> {
        scanner.scan(&self.pagemap, range, Scan::WrittenAndProtect, |_| {})
    }

    fn pages_of(
        &self,
        region: PageRegion,
        first: usize,
        frames: &mut Frames,
        found: &mut impl FnMut(Found),
    ) {
        let is_file = region.categories & IS_FILE != 0;
        let mut at = region.start;
        let mut mappings = self.mappings[first.min(self.mappings.len())..].iter();
        while at < region.end {
            let mapping = mappings.next().filter(|m| m.range.start < region.end);
            // Between mappings known: mapped since, thus private (shared ones are never missed).
            let gap_end = mapping.map_or(region.end, |m| m.range.start.max(at));
            let private = Owner::Space(self.number);
            if !is_file {
                self.give(private, at..gap_end, at, frames, found);
            }
            at = gap_end;
            let Some(mapping) = mapping else { continue };
            let end = mapping.range.end.min(region.end).max(at);
            match mapping.shared {
                Some(shared) => {
                    let owner = frames.shared(shared.object);
                    let in_object = shared.offset + (at - mapping.range.start);
                    self.give(owner, at..end, in_object, frames, found);
                }
                // A private mapping's page that is still the file's was only read.
                None if is_file => {}
                None => self.give(private, at..end, at, frames, found),
            }
            at = end;
        }
    }

    /// `position` is what the frame is known by: the address, or the place in the object.
    fn give(
        &self,
        owner: Owner,
        addresses: Range<u64>,
        position: u64,
        frames: &mut Frames,
        found: &mut impl FnMut(Found),
    ) {
        let pages = (addresses.end - addresses.start) >> PAGE_SHIFT;
        for page in 0..pages {
            let place = Place {
                owner,
                page: (position >> PAGE_SHIFT) + page,
            };
            if let Some(frame) = frames.give(place) {
                found(Found {
                    frame,
                    pid: self.pid,
                    address: addresses.start + (page << PAGE_SHIFT),
                });
            }
        }
    }

    /// Calls `known` with each page that is there and has a frame.
    pub(crate) fn present(
        &self,
        scanner: &mut Scanner,
        frames: &mut Frames,
        mut known: impl FnMut(Found),
    ) -> io::Result<()> {
        let mut regions = Vec::new();
        scanner.scan(&self.pagemap, &EVERYWHERE, Scan::Present, |region| {
            regions.push(region);
        })?;
        for mapping in &self.mappings {
            let owner = match mapping.shared {
                Some(shared) => frames.shared(shared.object),
                None => Owner::Space(self.number),
            };
            let offset = mapping.shared.map_or(mapping.range.start, |s| s.offset);
            let first = regions.partition_point(|r| r.end <= mapping.range.start);
            for region in regions[first..]
                .iter()
                .take_while(|r| r.start < mapping.range.end)
            {
                let start = region.start.max(mapping.range.start);
                let end = region.end.min(mapping.range.end);
                for address in (start..end).step_by(1 << PAGE_SHIFT) {
                    let page = (offset + (address - mapping.range.start)) >> PAGE_SHIFT;
                    if let Some(frame) = frames.get(Place { owner, page }) {
                        let pid = self.pid;
                        known(Found {
                            frame,
                            pid,
                            address,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// The mapping that starts at an address.
    pub(crate) fn mapping_at(&self, start: u64) -> Option<Range<u64>> {
        let mut mappings = self.mappings.iter();
        let found = mappings.find(|mapping| mapping.range.start == start)?;
        Some(found.range.clone())
    }
}

fn within<'a>(mappings: &'a [Mapping], range: &Range<u64>) -> impl Iterator<Item = &'a Mapping> {
    let (start, end) = (range.start, range.end);
    mappings
        .iter()
        .filter(move |m| !m.special && m.range.start < end && m.range.end > start)
}
