//! Memory that several threads write and read at once, and sending it from where it lies.
//!
//! Anonymous private mappings, seen as words that are read and written atomically and relaxed: a reader
//! may find a page half old and half new, and it is for its user to notice (a bit set after the write).
//! Never inside: what the memory is for.

use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::userfault::Userfault;

/// Bytes of a word.
const WORD: usize = 8;

/// A mapping of zeros at first. A page of it takes no memory until it is first written.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to no thread, and all access from Rust is through atomics.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps at least `bytes`.
    ///
    /// # Errors
    /// The kernel's, for instance when there is no address space or memory may not be overcommitted.
    pub fn map(bytes: usize) -> io::Result<Self> {
        let words = bytes.div_ceil(WORD).max(1);
        let len = NonZeroUsize::new(words * WORD).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that is there.
        let base = unsafe { mmap_anonymous(None, len, prot, flags)? };
        Ok(Self {
            base: base.cast(),
            words,
        })
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words * WORD
    }

    /// Never: at least a word is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `words` words long, aligned to a page, initialised with zeros by the kernel, and lives
        // as long as `self`; it is only ever written through these atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// Writes `bytes`, whole words, at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// If it does not lie within the mapping on whole words.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        let words = &self.words()[offset / WORD..][..bytes.len() / WORD];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact(WORD)) {
            let bytes = bytes.try_into().expect("a word's bytes");
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// Reads into `bytes`, as [`SharedMemory::store`] writes.
    ///
    /// # Panics
    /// If it does not lie within the mapping on whole words.
    pub fn load(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset.is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        let words = &self.words()[offset / WORD..][..bytes.len() / WORD];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(WORD)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Whether all words in a range of bytes are zero.
    ///
    /// # Panics
    /// If it does not lie within the mapping on whole words.
    #[must_use]
    pub fn is_zero(&self, offset: usize, bytes: usize) -> bool {
        assert!(offset.is_multiple_of(WORD) && bytes.is_multiple_of(WORD));
        let words = &self.words()[offset / WORD..][..bytes / WORD];
        // A branch for eight words: one for each took 1.4 times the instructions.
        words.chunks(8).all(|words| {
            let all = words.iter().map(|word| word.load(Ordering::Relaxed));
            all.fold(0, |all, word| all | word) == 0
        })
    }

    /// Takes ranges of bytes, whole pages, out of the mapping, and has the kernel stop whoever touches a page that is not
    /// there. A page that nobody ever touched is not there either.
    ///
    /// # Errors
    /// When the kernel has no userfaultfd, or refuses; pages may then be zero that were not.
    ///
    /// # Panics
    /// If a range does not lie within the mapping.
    pub fn trap(&self, missing: impl IntoIterator<Item = Range<usize>>) -> io::Result<Userfault> {
        let trap = Userfault::watch(self.base.as_ptr() as u64, self.len())?;
        for range in missing {
            assert!(range.start <= range.end && range.end <= self.len());
            let first = self.base.cast::<libc::c_void>().as_ptr();
            let first = NonNull::new(first.wrapping_byte_add(range.start));
            let first = first.ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: it lies within the mapping, which is anonymous and private and only ever seen as atomics: its
            // words become zero, as if another thread had stored that.
            unsafe { madvise(first, range.len(), MmapAdvise::MADV_DONTNEED)? };
        }
        Ok(trap)
    }

    /// A part of it for [`write_vectored`]: what it holds when the kernel reads it.
    ///
    /// # Panics
    /// If it does not lie within the mapping.
    #[must_use]
    pub fn piece(&self, offset: usize, bytes: usize) -> Piece<'_> {
        assert!(offset <= self.len() && bytes <= self.len() - offset);
        let base = self.base.as_ptr().cast::<u8>().wrapping_add(offset);
        Piece::new(base.cast_const(), bytes)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and nothing borrows it any more.
        // Unmapping what was mapped does not fail.
        let _ = unsafe { munmap(self.base.cast(), self.len()) };
    }
}

/// A part of what [`write_vectored`] writes: `struct iovec`, for reading only. Unlike an `IoSlice` it may
/// stand for memory that other threads write at the same time.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    iovec: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

impl std::fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} bytes)", self.iovec.iov_len)
    }
}

impl<'a> Piece<'a> {
    fn new(base: *const u8, bytes: usize) -> Self {
        Self {
            iovec: libc::iovec {
                iov_base: base.cast_mut().cast(),
                iov_len: bytes,
            },
            memory: PhantomData,
        }
    }

    /// Of bytes that nobody writes.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self::new(bytes.as_ptr(), bytes.len())
    }

    /// Takes `bytes` bytes that are written off the front, and empty pieces after them.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(pieces: &mut &mut [Self], mut bytes: usize) {
        let whole = pieces
            .iter()
            .take_while(|piece| {
                let taken = piece.iovec.iov_len <= bytes;
                bytes -= if taken { piece.iovec.iov_len } else { 0 };
                taken
            })
            .count();
        *pieces = &mut std::mem::take(pieces)[whole..];
        if let Some(first) = pieces.first_mut() {
            first.iovec.iov_base = first.iovec.iov_base.wrapping_byte_add(bytes);
            first.iovec.iov_len -= bytes;
        } else {
            assert!(bytes == 0, "more was written than there was");
        }
    }
}

/// Writes pieces with one call; how many bytes were taken.
///
/// # Errors
/// The kernel's.
pub fn write_vectored(to: impl AsFd, pieces: &[Piece<'_>]) -> io::Result<usize> {
    let count = libc::c_int::try_from(pieces.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: a `Piece` is an `iovec`; each names memory that is mapped as long as the piece's lifetime, and the kernel
    // only reads it.
    let written = unsafe { libc::writev(to.as_fd().as_raw_fd(), pieces.as_ptr().cast(), count) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_written() {
        let memory = SharedMemory::map(8192).unwrap();
        assert!(memory.is_zero(0, 8192));
        memory.store(4096, &[7; 16]);
        assert!(memory.is_zero(0, 4096) && !memory.is_zero(4096, 4096));
        let mut back = [0; 24];
        memory.load(4096, &mut back);
        assert_eq!((&back[..16], &back[16..]), (&[7; 16][..], &[0; 8][..]));
        let (mut from, to) = pipe().unwrap();
        let pieces = [Piece::of(b"ab"), memory.piece(4104, 16), Piece::of(b"c")];
        assert_eq!(write_vectored(&to, &pieces).unwrap(), 19);
        drop(to);
        let mut got = Vec::new();
        from.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"ab\x07\x07\x07\x07\x07\x07\x07\x07\0\0\0\0\0\0\0\0c");
    }

    #[test]
    fn pieces_advance_as_slices_do() {
        let mut pieces = [
            Piece::of(b""),
            Piece::of(b"abc"),
            Piece::of(b""),
            Piece::of(b"de"),
        ];
        let mut left = &mut pieces[..];
        Piece::advance(&mut left, 0);
        assert_eq!(left.len(), 3);
        Piece::advance(&mut left, 2);
        assert_eq!((left.len(), left[0].iovec.iov_len), (3, 1));
        Piece::advance(&mut left, 1);
        assert_eq!(left.len(), 1, "empty pieces go with those before them");
        Piece::advance(&mut left, 2);
        assert!(left.is_empty());
    }

    #[test]
    #[should_panic(expected = "range end index")]
    fn beyond_the_mapping_is_a_bug() {
        SharedMemory::map(4096).unwrap().store(4096, &[0; 8]);
    }
}
