//! PAGEMAP_SCAN: which pages of a process were written, and write-protecting them again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Page of a file or of shared memory, in a scan's answer.
pub(crate) const IS_FILE: u64 = 1 << 2;
const IS_WRITTEN: u64 = 1 << 1;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;
const SCAN_WP_MATCHING: u64 = 1;

/// The end of a process's addresses on x86-64 with four-level page tables.
pub(crate) const ADDRESS_END: u64 = 0x7fff_ffff_f000;

/// Runs of pages in one answer of the kernel. Short vectors make scans several times slower.
const VECTOR: usize = 16_384;

/// A run of pages of one kind.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

// _IOWR('f', 16, 96) of linux/fs.h.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Written pages, which are write-protected again in the same step.
    WrittenAndProtect,
    /// Written pages; nothing is changed. In memory that is not watched: pages that are there.
    Written,
    /// Pages that are there.
    Present,
}

/// Scans ranges of one process's memory. Zero pages mapped by a read are never answered.
#[derive(Debug)]
pub(crate) struct Scanner {
    vector: Vec<PageRegion>,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self {
            vector: vec![PageRegion::default(); VECTOR],
        }
    }

    /// Calls `found` with each run of pages, in ascending order.
    pub(crate) fn scan(
        &mut self,
        pagemap: &File,
        range: &Range<u64>,
        scan: Scan,
        mut found: impl FnMut(PageRegion),
    ) -> io::Result<()> {
        let wanted = match scan {
            Scan::WrittenAndProtect | Scan::Written => IS_WRITTEN,
            Scan::Present => 0,
        };
        let mut start = range.start;
        while start < range.end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: if scan == Scan::WrittenAndProtect {
                    SCAN_WP_MATCHING
                } else {
                    0
                },
                start,
                end: range.end,
                vec: self.vector.as_mut_ptr() as u64,
                vec_len: self.vector.len() as u64,
                category_inverted: IS_PFNZERO,
                category_mask: wanted | IS_PFNZERO,
                // Pages that are not there count as written too (seen on 6.18) until protected, which
                // would then take a page table entry each: they are left alone.
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
                return_mask: wanted | IS_FILE,
                ..ScanArg::default()
            };
            // SAFETY: the descriptor is open; the kernel reads and writes one `ScanArg` and writes
            // at most `vec_len` regions to the vector, which lives until after the call.
            let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
            if count < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            let count = usize::try_from(count).unwrap_or(0).min(self.vector.len());
            self.vector[..count].iter().copied().for_each(&mut found);
            if arg.walk_end <= start {
                break;
            }
            start = arg.walk_end;
        }
        Ok(())
    }
}

/// Whether the kernel has the ioctl at all (6.7).
pub(crate) fn probe() -> io::Result<()> {
    let own = File::open("/proc/self/pagemap")?;
    Scanner::new().scan(&own, &(0..4096), Scan::Written, |_| {})
}
