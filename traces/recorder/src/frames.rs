//! Guest frames: which page of the recorded guest each page of each program is.
//!
//! A frame is given to a page when it is first seen written, and stays with it. Private memory
//! belongs to an address space (a process, or what it became by `exec`; a child of `fork` has pages
//! of its own from its first write on), shared memory to its object, whoever maps it. When an address
//! space ends, its frames are free, and the next new page of any other gets one, as a kernel would do;
//! else a guest that compiles would grow for ever. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::maps::SharedObject;
use traces::dirty::Run;

/// Bytes in a page, as an address shift.
pub(crate) const PAGE_SHIFT: u32 = 12;

const CHUNK_SHIFT: u32 = 9;
const CHUNK: usize = 1 << CHUNK_SHIFT;
const NONE: u32 = u32::MAX;

/// Whose pages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The private memory of an address space, numbered in order of appearance.
    Space(u32),
    /// A shared object, numbered in order of appearance.
    Shared(u32),
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Whose page.
    pub owner: Owner,
    /// Page number: of the address for private memory, in the object for shared memory.
    pub page: u64,
}

type Chunks = HashMap<u64, Box<[u32; CHUNK]>>;

/// All frames given so far.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    owners: BTreeMap<Owner, Chunks>,
    objects: BTreeMap<SharedObject, u32>,
    places: Vec<Place>,
    /// Frames of address spaces that ended, the next to be given last.
    free: Vec<u32>,
    fresh: bool,
    only_shared: bool,
}

impl Frames {
    /// `fresh`: never give a frame twice; `only_shared`: private memory gets none.
    pub(crate) fn new(fresh: bool, only_shared: bool) -> Self {
        Self {
            fresh,
            only_shared,
            ..Self::default()
        }
    }

    /// The owner that a shared object is.
    pub(crate) fn shared(&mut self, object: SharedObject) -> Owner {
        let next = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        Owner::Shared(*self.objects.entry(object).or_insert(next))
    }

    /// The frame of a page, given now if it has none; `None` when 2^28 frames are given, or
    /// it is to have none.
    pub(crate) fn give(&mut self, place: Place) -> Option<u32> {
        if self.only_shared && matches!(place.owner, Owner::Space(_)) {
            return None;
        }
        let slot = &mut self
            .owners
            .entry(place.owner)
            .or_default()
            .entry(place.page >> CHUNK_SHIFT)
            .or_insert_with(|| Box::new([NONE; CHUNK]))[within_chunk(place.page)];
        if *slot == NONE {
            if let Some(frame) = self.free.pop() {
                *slot = frame;
                return Some(frame);
            }
            let next = u32::try_from(self.places.len()).ok()?;
            if next >= traces::store::page_write::MAX_PAGES {
                return None;
            }
            *slot = next;
            self.places.push(place);
        }
        Some(*slot)
    }

    /// The frame of a page, if it has one.
    pub(crate) fn get(&self, place: Place) -> Option<u32> {
        let chunks = self.owners.get(&place.owner)?;
        let slot = chunks.get(&(place.page >> CHUNK_SHIFT))?[within_chunk(place.page)];
        (slot != NONE).then_some(slot)
    }

    /// `mremap` moved pages: their frames go with them, frames at the new place are given up.
    pub(crate) fn move_pages(&mut self, owner: Owner, from: Range<u64>, to: u64) {
        let Some(chunks) = self.owners.get_mut(&owner) else {
            return;
        };
        let mut moved = Vec::new();
        for page in from.clone() {
            if let Some(chunk) = chunks.get_mut(&(page >> CHUNK_SHIFT)) {
                let slot = std::mem::replace(&mut chunk[within_chunk(page)], NONE);
                if slot != NONE {
                    moved.push((to + (page - from.start), slot));
                }
            }
        }
        // Frames at the new place belong to pages that are gone; they are not given again.
        for (page, frame) in moved {
            chunks
                .entry(page >> CHUNK_SHIFT)
                .or_insert_with(|| Box::new([NONE; CHUNK]))[within_chunk(page)] = frame;
            if let Some(place) = usize::try_from(frame)
                .ok()
                .and_then(|frame| self.places.get_mut(frame))
            {
                place.page = page;
            }
        }
    }

    /// An address space is gone: its pages are looked up no more, and its frames are free.
    pub(crate) fn forget(&mut self, owner: Owner) {
        let Some(chunks) = self.owners.remove(&owner).filter(|_| !self.fresh) else {
            return;
        };
        let given = chunks.into_values().flat_map(|chunk| *chunk);
        let mut frames: Vec<u32> = given.filter(|&frame| frame != NONE).collect();
        // The lowest is given first, so that neighbours stay neighbours.
        frames.sort_unstable_by(|a, b| b.cmp(a));
        self.free.extend(frames);
    }

    /// Frames given.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    /// The final numbers: frames sorted by owner and place, so that neighbours in memory are
    /// neighbours in the guest. Returns the new number of each frame, and the places in new order.
    pub(crate) fn renumber(self) -> (Vec<u32>, Vec<Place>) {
        let mut order: Vec<u32> = (0..self.len()).collect();
        let place = |frame: &u32| self.places[*frame as usize];
        order.sort_by_key(|frame| (place(frame), *frame));
        let mut number = vec![0; order.len()];
        for (new, old) in (0u32..).zip(&order) {
            number[*old as usize] = new;
        }
        let places = order.iter().map(place).collect();
        (number, places)
    }
}

fn within_chunk(page: u64) -> usize {
    usize::try_from(page % CHUNK as u64).unwrap_or(0)
}

/// Frames in any order as runs: ascending, each once.
pub(crate) fn runs(frames: &mut Vec<u32>) -> Vec<Run> {
    frames.sort_unstable();
    frames.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for &frame in frames.iter() {
        match runs.last_mut() {
            Some(run) if run.start + run.len == frame => run.len += 1,
            _ => runs.push(Run {
                start: frame,
                len: 1,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(space: u32, page: u64) -> Place {
        Place {
            owner: Owner::Space(space),
            page,
        }
    }

    #[test]
    fn a_page_keeps_its_frame_and_spaces_do_not_share() {
        let mut frames = Frames::default();
        assert_eq!(frames.give(at(0, 5)), Some(0));
        assert_eq!(frames.give(at(1, 5)), Some(1));
        assert_eq!(frames.give(at(0, 5)), Some(0));
        assert_eq!(frames.get(at(0, 6)), None);
        let object = SharedObject {
            device: (0, 1),
            inode: 9,
        };
        let owner = frames.shared(object);
        assert_eq!(owner, frames.shared(object));
    }

    #[test]
    fn moved_pages_take_their_frames_along() {
        let mut frames = Frames::default();
        frames.give(at(0, 10));
        frames.give(at(0, 11));
        frames.move_pages(Owner::Space(0), 10..12, 5000);
        assert_eq!(frames.get(at(0, 10)), None);
        assert_eq!(frames.get(at(0, 5001)), Some(1));
        assert_eq!(frames.give(at(0, 10)), Some(2));
    }

    #[test]
    fn frames_of_ended_spaces_are_given_again_unless_asked_not_to() {
        for (fresh, next) in [(false, 0), (true, 2)] {
            let mut frames = Frames::new(fresh, false);
            frames.give(at(0, 9));
            frames.give(at(0, 8));
            frames.forget(Owner::Space(0));
            assert_eq!(frames.give(at(1, 100)), Some(next));
        }
    }

    #[test]
    fn numbers_follow_addresses() {
        let mut frames = Frames::default();
        for page in [900, 3, 512, 4] {
            frames.give(at(0, page));
        }
        let (number, places) = frames.renumber();
        assert_eq!(number, [3, 0, 2, 1]);
        assert_eq!(places[2], at(0, 512));
    }

    #[test]
    fn runs_are_ascending_and_do_not_touch() {
        let mut frames = vec![7, 3, 4, 3, 9];
        let lens: Vec<(u32, u32)> = runs(&mut frames)
            .iter()
            .map(|run| (run.start, run.len))
            .collect();
        assert_eq!(lens, [(3, 2), (7, 1), (9, 1)]);
    }
}
