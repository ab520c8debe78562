//! A program that says which pages it writes, and when: what the recorder is tested against.
//!
//! `known-writer LOG`. Lines of the log:
//! `region OWNER FIRST COUNT` — pages in which nothing but what is logged is written;
//! `step T0 T1 OWNER PAGE…` — these pages were written between two instants of the monotonic clock.
//! OWNER is `s0`, `s1`, … for private memory of the program, its first fork child, …, and `m0`, `m1`, …
//! for shared objects, in order of first writing.

#![expect(
    clippy::unwrap_used,
    reason = "a test program: whatever fails fails the test"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

const PAGE: usize = 4096;

struct Log(Mutex<File>);

impl Log {
    fn region(&self, owner: &str, region: &Region) {
        let line = format!(
            "region {owner} {} {}\n",
            region.first_page(owner),
            region.pages
        );
        self.put(&line);
    }

    /// Does `write` and logs it as a step on these pages of a region.
    fn step(&self, owner: &str, region: &Region, pages: &[usize], write: impl FnOnce()) {
        let (t0, ()) = (now(), write());
        self.wrote(owner, region, pages, t0..now());
    }

    fn wrote(&self, owner: &str, region: &Region, pages: &[usize], time: Range<u64>) {
        let mut line = format!("step {} {} {owner}", time.start, time.end);
        for page in pages {
            line += &format!(" {}", region.first_page(owner) + page);
        }
        self.put(&(line + "\n"));
    }

    fn put(&self, line: &str) {
        // One write: lines of several processes do not mix.
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(Duration::from(now).as_nanos()).unwrap()
}

/// Spreads the steps over ticks.
fn pause() {
    #[expect(
        clippy::disallowed_methods,
        reason = "when this program writes is logged, not assumed"
    )]
    std::thread::sleep(Duration::from_millis(7));
}

/// Pages of this program.
#[derive(Clone, Copy)]
struct Region {
    start: usize,
    pages: usize,
}

impl Region {
    /// Maps memory; private and anonymous unless told otherwise.
    fn map(pages: usize, flags: i32, file: Option<&File>) -> Self {
        Self::map_at(0, pages, flags, file)
    }

    fn map_at(at: usize, pages: usize, flags: i32, file: Option<&File>) -> Self {
        let fd = file.map_or(-1, std::os::fd::AsRawFd::as_raw_fd);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, or (MAP_FIXED) one over a region of this program's own.
        let start = unsafe { libc::mmap(at as *mut _, pages * PAGE, prot, flags, fd, 0) };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self {
            start: start as usize,
            pages,
        }
    }

    fn anonymous(pages: usize) -> Self {
        Self::map(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    fn unmap(self) {
        // SAFETY: nothing refers to the region any more.
        unsafe { libc::munmap(self.start as *mut _, self.pages * PAGE) };
    }

    fn advise(self, advice: i32) {
        // SAFETY: the region is ours; its content may go.
        unsafe { libc::madvise(self.start as *mut _, self.pages * PAGE, advice) };
    }

    /// Number of the first page: of its address, or for shared memory of the object.
    fn first_page(&self, owner: &str) -> usize {
        if owner.starts_with('m') {
            0
        } else {
            self.start / PAGE
        }
    }

    fn byte(&self, page: usize) -> *mut u8 {
        assert!(page < self.pages);
        (self.start + page * PAGE + page % PAGE) as *mut u8
    }

    fn write(&self, page: usize, value: u8) {
        // SAFETY: within the region, which is mapped writable.
        unsafe { self.byte(page).write_volatile(value) };
    }

    fn read(&self, page: usize) -> u8 {
        // SAFETY: within the region, which is mapped readable.
        unsafe { self.byte(page).read_volatile() }
    }

    fn write_all(&self, pages: &[usize], value: u8) {
        pages.iter().for_each(|&page| self.write(page, value));
    }
}

/// `count` of `of` pages, ascending, always the same for one seed.
fn some(seed: u64, count: usize, of: usize) -> Vec<usize> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pages: Vec<usize> = (0..count)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(x >> 33).unwrap() % of
        })
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

fn main() {
    let path = std::env::args().nth(1).expect("known-writer LOG");
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let log = Arc::new(Log(Mutex::new(file)));
    repeated(&log);
    threads(&log);
    heap(&log);
    short_lived(&log);
    read_first(&log);
    by_the_kernel(&log);
    moved(&log);
    dropped(&log);
    huge(&log);
    stack(&log);
    file_pages(&log);
    shared(&log);
    forked(&log);
    let program = std::process::Command::new("true").status();
    assert!(program.is_ok_and(|status| status.success()));
    repeated(&log);
}

/// The same region over and over; values do not change every time.
fn repeated(log: &Log) {
    let region = Region::anonymous(4096);
    log.region("s0", &region);
    for seed in 0..30 {
        let pages = some(seed, 300, region.pages);
        log.step("s0", &region, &pages, || region.write_all(&pages, 1));
        pause();
    }
}

/// Four threads at once, pages interleaved.
fn threads(log: &Arc<Log>) {
    let region = Region::anonymous(4096);
    log.region("s0", &region);
    let together = Arc::new(Barrier::new(4));
    let writers: Vec<_> = (0..4)
        .map(|thread| {
            let (log, together) = (Arc::clone(log), Arc::clone(&together));
            std::thread::spawn(move || {
                for seed in 0..20 {
                    let pages: Vec<usize> = some(seed + 99, 200, region.pages / 4)
                        .iter()
                        .map(|page| page * 4 + thread)
                        .collect();
                    together.wait();
                    log.step("s0", &region, &pages, || region.write_all(&pages, 2));
                    pause();
                }
            })
        })
        .collect();
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
}

/// The heap's end moves up and down; what is written may be gone before the tick ends.
fn heap(log: &Log) {
    for round in 0..10 {
        // SAFETY: the C library's own heap lies below; the pages above it come and go untouched by it,
        // as nothing else allocates in this loop's calls to sbrk.
        let end = unsafe { libc::sbrk(0) } as usize;
        let start = end.next_multiple_of(PAGE);
        let len = isize::try_from(start - end + 64 * PAGE).unwrap();
        // SAFETY: as above.
        let before = unsafe { libc::sbrk(len) };
        assert_eq!(before as usize, end);
        let region = Region { start, pages: 64 };
        let pages = some(round, 20, region.pages);
        let t0 = now();
        region.write_all(&pages, 3);
        // SAFETY: gives back what was taken.
        unsafe { libc::sbrk(-len) };
        log.wrote("s0", &region, &pages, t0..now());
        pause();
    }
}

/// Mapped, written, unmapped at once.
fn short_lived(log: &Log) {
    let mut places = BTreeSet::new();
    for round in 0..20 {
        let pages = some(round + 7, 30, 128);
        let region = Region::anonymous(128);
        places.insert(region.start);
        log.step("s0", &region, &pages, || {
            region.write_all(&pages, 4);
            region.unmap();
        });
        pause();
    }
    // Nothing else may come to lie there: `mremap` would take these pages along with its own.
    for start in places {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        Region::map_at(start, 128, flags, None);
    }
}

/// Reads are no writes, of pages never written and of written ones.
fn read_first(log: &Log) {
    let region = Region::anonymous(512);
    log.region("s0", &region);
    for round in 0..10 {
        for page in 0..region.pages {
            region.read(page);
        }
        pause();
        let pages = some(round + 31, 50, region.pages);
        log.step("s0", &region, &pages, || region.write_all(&pages, 5));
        pause();
    }
}

/// `read(2)` into pages: the kernel writes.
fn by_the_kernel(log: &Log) {
    let region = Region::anonymous(256);
    log.region("s0", &region);
    let zero = File::open("/dev/zero").unwrap();
    for round in 0..10 {
        let pages = some(round + 57, 30, region.pages);
        log.step("s0", &region, &pages, || {
            for &page in &pages {
                let fd = std::os::fd::AsRawFd::as_raw_fd(&zero);
                // SAFETY: 16 bytes within the region.
                let got = unsafe { libc::read(fd, (region.start + page * PAGE) as *mut _, 16) };
                assert_eq!(got, 16);
            }
        });
        pause();
    }
}

/// `mremap` moves pages; they stay the same pages. Logged under where they end up.
fn moved(log: &Log) {
    for round in 0..5 {
        // The lower part of a mapping: it cannot grow in place.
        let whole = Region::anonymous(65);
        let old = Region { pages: 64, ..whole };
        let behind = Region {
            start: whole.start + 64 * PAGE,
            pages: 1,
        };
        let first = some(round + 71, 20, old.pages);
        let t0 = now();
        old.write_all(&first, 6);
        let t1 = now();
        pause();
        // SAFETY: the old region is used no more.
        let start = unsafe {
            libc::mremap(
                old.start as *mut _,
                64 * PAGE,
                256 * PAGE,
                libc::MREMAP_MAYMOVE,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let new = Region {
            start: start as usize,
            pages: 256,
        };
        log.region("s0", &new);
        log.wrote("s0", &new, &first, t0..t1);
        pause();
        let second = some(round + 72, 40, new.pages);
        log.step("s0", &new, &second, || new.write_all(&second, 7));
        pause();
        behind.unmap();
    }
}

/// Written, then dropped in place: `MADV_DONTNEED`, and another mapping over it.
fn dropped(log: &Log) {
    let region = Region::anonymous(256);
    log.region("s0", &region);
    for round in 0..10 {
        let pages = some(round + 83, 40, region.pages);
        log.step("s0", &region, &pages, || {
            region.write_all(&pages, 8);
            if round % 2 == 0 {
                region.advise(libc::MADV_DONTNEED);
            } else {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                Region::map_at(region.start, region.pages, flags, None);
            }
        });
        pause();
    }
    // The mapping put over the old one stays, and is watched as any other.
    for round in 10..15 {
        let pages = some(round + 83, 40, region.pages);
        log.step("s0", &region, &pages, || region.write_all(&pages, 8));
        pause();
        pause();
        pause();
    }
}

/// Where huge pages are asked for, single pages are still told apart.
fn huge(log: &Log) {
    let whole = Region::anonymous(2048);
    whole.advise(libc::MADV_HUGEPAGE);
    log.region("s0", &whole);
    for round in 0..10 {
        let pages = some(round + 97, 60, whole.pages);
        log.step("s0", &whole, &pages, || whole.write_all(&pages, 9));
        pause();
    }
}

/// The stack, growing. Other frames lie around, so only what is written is checked.
#[inline(never)]
fn stack(log: &Log) {
    let mut block = [0u8; 600 * 1024];
    let inner = (block.as_mut_ptr() as usize).next_multiple_of(PAGE);
    let region = Region {
        start: inner,
        pages: 140,
    };
    let pages = some(5, 50, region.pages);
    log.step("s0", &region, &pages, || region.write_all(&pages, 10));
    std::hint::black_box(&mut block);
    pause();
}

/// A file of this many pages beside the log, without a name.
fn file_of(pages: usize) -> File {
    let path = std::env::args().nth(1).unwrap() + ".data";
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len((pages * PAGE) as u64).unwrap();
    file
}

/// Private pages of a file: only copies are writes.
fn file_pages(log: &Log) {
    let file = file_of(128);
    let region = Region::map(128, libc::MAP_PRIVATE, Some(&file));
    log.region("s0", &region);
    for round in 0..6 {
        for page in 0..region.pages {
            region.read(page);
        }
        pause();
        let pages = some(round + 113, 20, region.pages);
        log.step("s0", &region, &pages, || region.write_all(&pages, 11));
        pause();
    }
}

/// Shared memory and a shared file, written here and by a child: the same pages.
fn shared(log: &Arc<Log>) {
    let memory = Region::map(256, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None);
    let file = file_of(64);
    let mapped = Region::map(64, libc::MAP_SHARED, Some(&file));
    let regions = [("m0", memory), ("m1", mapped)];
    for (owner, region) in regions {
        log.region(owner, &region);
    }
    let rounds = move |log: &Log, seed: u64| {
        for round in 0..6 {
            for (owner, region) in regions {
                for page in 0..region.pages {
                    region.read(page);
                }
                pause();
                let pages = some(round + seed, 15, region.pages);
                log.step(owner, &region, &pages, || region.write_all(&pages, 12));
            }
        }
    };
    rounds(log, 127);
    child(|| rounds(log, 131));
    rounds(log, 137);
}

/// A child writes pages of its own; the parent's are not touched by that, nor by forking.
fn forked(log: &Arc<Log>) {
    let region = Region::anonymous(512);
    log.region("s0", &region);
    let all: Vec<usize> = (0..region.pages).collect();
    log.step("s0", &region, &all, || region.write_all(&all, 13));
    pause();
    pause();
    pause();
    pause();
    for (owner, seed) in [("s2", 149), ("s3", 151)] {
        log.region(owner, &region);
        let in_parent = some(seed + 1, 60, region.pages);
        child(|| {
            for round in 0..5 {
                let pages = some(seed + round, 60, region.pages);
                log.step(owner, &region, &pages, || region.write_all(&pages, 14));
                pause();
            }
            // The last thing it does: gone before any tick ends.
            let pages = some(seed + 77, 60, region.pages);
            let t0 = now();
            region.write_all(&pages, 15);
            log.wrote(owner, &region, &pages, t0..now());
        });
        log.step("s0", &region, &in_parent, || {
            region.write_all(&in_parent, 16);
        });
        pause();
    }
}

/// Does something in a child of `fork`, and waits for it.
fn child(work: impl FnOnce()) {
    // SAFETY: this program's other threads have ended, so the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        work();
        // SAFETY: ends the child without what the parent has yet to do.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: writes one integer.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(status, 0);
}
