//! Room for the packets a relay holds: slots of a few sizes, made once, reused last-in first-out.
//!
//! Slots are zero pages until first written, so an idle fabric costs address space and no memory.

/// A slot with the length of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    class: usize,
    index: usize,
    length: usize,
}

/// Slots of all sizes.
#[derive(Debug)]
pub(super) struct Slab {
    classes: [Class; SIZES.len()],
}

/// Doubling from a plain MTU frame to the largest there is, with room for headers, so that a frame fills half its slot
/// or more: super-frames are of any size, by their link's rate (link.rs).
const SIZES: [usize; 6] = [2 << 10, 4 << 10, 8 << 10, 17 << 10, 34 << 10, 66 << 10];

#[derive(Debug)]
struct Class {
    bytes: Vec<u8>,
    size: usize,
    free: Vec<usize>,
}

impl Slab {
    /// Room for `held_bytes` of full frames of any size, within bounds: at least some thousand frames, at most about
    /// 256 MiB per size.
    pub(super) fn new(held_bytes: u64) -> Self {
        Self {
            classes: SIZES.map(|size| Class::new(size, held_bytes)),
        }
    }

    /// A free slot of the largest size, to read a frame into; `None` when there is none.
    pub(super) fn spare(&mut self) -> Option<&mut [u8]> {
        let largest = &mut self.classes[SIZES.len() - 1];
        let start = largest.free.last()? * largest.size;
        Some(&mut largest.bytes[start..start + largest.size])
    }

    /// Keeps the frame that was read into the spare slot: there if it fills half of it, otherwise in a slot of its size. A
    /// small frame stays in the large slot when the small ones are out.
    ///
    /// # Panics
    /// When there was no spare slot, or the frame is larger.
    pub(super) fn keep(&mut self, length: usize) -> Slot {
        let (smaller, largest) = self.classes.split_at_mut(SIZES.len() - 1);
        let largest = &mut largest[0];
        assert!(length <= largest.size, "a frame was read into a slot");
        let spare = *largest
            .free
            .last()
            .expect("a frame was read into the spare");
        let start = spare * largest.size;
        for (class, slots) in smaller.iter_mut().enumerate() {
            if length > slots.size {
                continue;
            }
            if let Some(index) = slots.free.pop() {
                let to = index * slots.size;
                slots.bytes[to..to + length].copy_from_slice(&largest.bytes[start..start + length]);
                return Slot {
                    class,
                    index,
                    length,
                };
            }
        }
        largest.free.pop();
        Slot {
            class: SIZES.len() - 1,
            index: spare,
            length,
        }
    }

    /// The frame in a slot.
    pub(super) fn frame(&mut self, slot: Slot) -> &mut [u8] {
        let class = &mut self.classes[slot.class];
        let start = slot.index * class.size;
        &mut class.bytes[start..start + slot.length]
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, slot: Slot) {
        self.classes[slot.class].free.push(slot.index);
    }
}

impl Class {
    fn new(size: usize, held_bytes: u64) -> Self {
        const LEAST: usize = 4 << 20;
        const MOST: usize = 256 << 20;
        // Twice, because frames may fill no more than half their slots.
        let wanted = usize::try_from(held_bytes.saturating_mul(2)).unwrap_or(usize::MAX);
        let count = wanted.clamp(LEAST, MOST).div_ceil(size);
        Self {
            bytes: vec![0; count * size],
            size,
            free: (0..count).rev().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a frame and keeps it.
    fn store(slab: &mut Slab, frame: &[u8]) -> Option<Slot> {
        slab.spare()?[..frame.len()].copy_from_slice(frame);
        Some(slab.keep(frame.len()))
    }

    #[test]
    fn slots_keep_frames_apart_and_run_out() {
        let mut slab = Slab::new(0);
        let a = store(&mut slab, &[1; 100]).unwrap();
        let b = store(&mut slab, &[2; 60_000]).unwrap();
        assert_eq!(slab.frame(a), [1; 100]);
        assert_eq!(slab.frame(b), [2; 60_000]);
        let mut large = 1;
        while store(&mut slab, &[3; 60_000]).is_some() {
            large += 1;
        }
        assert_eq!(large, (4_usize << 20).div_ceil(66 << 10));
        // Without a spare slot nothing can be read, however small.
        assert!(slab.spare().is_none());
        slab.release(b);
        assert!(store(&mut slab, &[4; 60_000]).is_some());
        assert_eq!(slab.frame(a), [1; 100]);
    }

    #[test]
    fn a_small_frame_takes_a_larger_slot_when_its_own_are_out() {
        let mut slab = Slab::new(0);
        let small = (4_usize << 20).div_ceil(2 << 10);
        let stored: Vec<_> = (0..=small)
            .map(|_| store(&mut slab, &[5; 1500]).unwrap())
            .collect();
        assert_eq!(slab.frame(stored[small]), [5; 1500]);
        assert_eq!(stored[small].class, 1);
    }

    #[test]
    fn a_full_line_fits_whatever_the_size_of_its_frames() {
        let held = 20 << 20;
        for size in [1500, 3100, 6200, 15_000, 31_000, 65_000] {
            let mut slab = Slab::new(held);
            let frames = usize::try_from(held).unwrap() / size;
            let stored = (0..frames).filter(|_| store(&mut slab, &vec![7; size]).is_some());
            assert_eq!(stored.count(), frames, "frames of {size} bytes");
        }
    }
}
