//! What the guest image of the ground truth adds to every configuration, from set A of the ground
//! truth alone (`docs/validation.md` has the derivation), so that nothing here was fitted to single runs.
//!
//! Never inside: anything that differs between runs.

use crate::lone::{Pattern, classes};
use crate::validate::columns::{Left, Line};
use netmodel::units::{BitRate, ByteSize};
use std::time::Duration;
use traces::class::{Coupling, Locality, PageClass, Scan};
use traces::units::{PAGE_SIZE, round_u32};

/// Pages that are not zero besides the configured ones, in a guest without RAM: kernel and
/// boot leftovers. Least squares over 256, 512 and 1024 MiB: 15,470 + 4.33 a MiB, of which 4
/// are the kernel's 64-byte descriptor of every page.
pub(super) const BASE_PAGES: f64 = 15_470.0;
/// … and for every MiB of RAM.
pub(super) const PAGES_PER_MIB: f64 = 4.33;
/// How many of those lie at the top of RAM, above the zero pages, in a guest without RAM: where the
/// first pass of a migration of set A ends, 2,150 pages of 256 MiB, 3,130 of 512, 5,080 of 1024.
pub(super) const HIGH_PAGES: f64 = 1_170.0;
/// … and for every MiB of RAM: the kernel's descriptors.
pub(super) const HIGH_PAGES_PER_MIB: f64 = 3.82;
/// QEMU's own small blocks (BIOS, ROMs): 532,480 bytes, see `ram_total`.
pub(super) const SMALL_BLOCK_BYTES: u64 = 532_480;
/// What the guest's kernel and the dirtier's process write beside the working set and the [`books`], as (pages, times a
/// second). Fitted to the four timelines of set A, whose pages outside the working set agree in every pattern and size: on
/// average 37 of them change in 0.5 s, 47 in 1 s, 54 in 2 s, 61 in 5 s, 70 in 10 s, about 26 of them in every window (at
/// every wake-up of the process, 5 ms apart).
pub(super) const BACKGROUND: [(u32, f64); 4] = [(26, 200.0), (20, 1.5), (12, 0.35), (25, 0.06)];
/// Page tables. TCG marks as written what it walks; it keeps translations of fewer pages than the working set has, so accesses
/// to that walk again and again. The last level, a page for so many of them, follows the accesses.
const MAPPED_PAGES: u32 = 512;
/// The levels above it, and those through which kernel and process reach themselves, are walked all the time: 12 pages, so that
/// at the boundary of convergence as many pages are still to be sent at any time (`remaining` of `query-migrate`) as were.
/// Without any page tables those were 200 of 600 more.
const UPPER_TABLES: u32 = 12;
/// … how often, a second.
const WALKS: f64 = 200.0;
/// Others are walked as logging begins, which empties TCG's translations, and not again: idle guests are resent 67 to 73 pages
/// more than the background says with a working set of 16 MiB, and 140 to 155 with one of 192 MiB, whether that takes 5 s or
/// 16 s; these and the upper ones are 60 of both, the last level is the rest.
pub(super) const PAGE_TABLES: u64 = 48;
/// The dirtier's books: of each page of its working set the version, 4 bytes, and a byte that says whether it was written
/// in this second. They lie behind the working set (20 pages for 64 MiB, 60 for 192, in the timelines).
const VERSION_BYTES: u32 = 4;

/// Last byte in → guest runs, ms. In set B the link is exact, so total time less the time its
/// bytes take on the wire is what the link stood idle, set-up and load together: at least
/// 3.6 ms over the 17 runs at the boundary of convergence, of which QEMU reports 2 as set-up.
pub(super) const LOAD_TIME_MS: u64 = 2;

/// More of it after a post-copy's package, ms: what QEMU does there and pre-copy does not (it throws away what the source
/// lists, registers RAM with userfaultfd, starts two threads). What is left of `stop_to_resume_ms` of set A's undisturbed
/// post-copy runs once two thirds of [`SEND_BUFFER_MAX`], half of 64 pages and the package (118 KB) have crossed at the
/// 23.1 MB/s that they had, 17 ms (15 and 18 by configuration).
pub(super) const POSTCOPY_LOAD_TIME_MS: u64 = 15;

/// What the source's send buffer had grown to, as a time of the link's rate, and the most it may be (`tcp_wmem`). In the
/// pre-copy runs of set A what stands there when the last byte is handed over drains in `stop_to_resume_ms` less
/// `downtime_ms`: 1.4 to 1.8 MB at 100 Mbit/s, 2.4 to 4.0 at 200, 3.0 to 4.2 at 500, 3.3 to 4.3 at 1000. A writer is let in
/// when a third is free, so that is two thirds to all of it: 2.1 MB, 4 MiB and no less than that.
pub(super) const SEND_BUFFER_MS: u64 = 170;
/// … at most.
pub(super) const SEND_BUFFER_MAX: u64 = 4 << 20;
/// The most a receive buffer may be (`tcp_rmem` of the recording machine).
pub(super) const RECEIVE_BUFFER_MAX: u64 = 32 << 20;

/// Every second of its clock the guest's process reports how many of its pages do not hold what it wrote there last, so it
/// reads all of them: `src_cpu_pct` of set A's undisturbed pre-copy runs grows by 1.5 % of a core (standard error 0.3) for every 64 MiB
/// of working set, 0.9 µs a page and second, idle guests' too. It looks at the clock after each batch of writes, of which there is one every 5 ms.
pub(super) const REPORT: Scan = Scan {
    every_ns: 1_000_000_000,
    after_ns: 5_000_000,
};

/// CPU that QEMU took besides what goes with the bytes it sent: least squares over `src_cpu_pct` of the 30 undisturbed pre-copy
/// runs of set A, 13.8 % of a core, and for every 10,000 page writes a second 3.7 % with random pages, 4.9 % with others (and
/// 4.7 % for every Gbit/s of the link). The first is not the guest's alone: QEMU's own threads are in it.
pub(super) const CPU_SHARE: f64 = 0.138;
/// … for every 10,000 page writes a second: random pages, others.
pub(super) const CPU_PER_10000_WRITES: (f64, f64) = (0.037, 0.049);

/// What the source's send buffer had grown to. How far TCP tunes it depends on bursts of acknowledgements, so on the noise of
/// the machine; a calm one leaves it at a third.
pub(super) fn send_buffer(rate: BitRate) -> ByteSize {
    let bytes = rate.bytes_in(Duration::from_millis(SEND_BUFFER_MS));
    ByteSize::from_bytes(bytes.min(SEND_BUFFER_MAX))
}

/// Cores that the guest keeps busy.
pub(super) fn cores(line: &Line) -> f64 {
    let (random, others) = CPU_PER_10000_WRITES;
    let each = if line.left() == Some(Left::Random) {
        random
    } else {
        others
    };
    (CPU_SHARE + each * line.rate_pps / 1e4).min(1.0)
}

/// Bytes that are not zero, besides the configured ones and what [`background`] and [`books`] write.
pub(super) fn base_bytes(line: &Line) -> u64 {
    let base = BASE_PAGES + PAGES_PER_MIB * line.ram_mib as f64;
    let classes = background().into_iter().chain(books(line));
    let written: u32 = classes.map(|class| class.pages).sum();
    u64::from(round_u32(base).saturating_sub(written)) * PAGE_SIZE
}

/// Those of them at the top of RAM.
pub(super) fn high_bytes(line: &Line) -> u64 {
    let high = HIGH_PAGES + HIGH_PAGES_PER_MIB * line.ram_mib as f64;
    u64::from(round_u32(high)) * PAGE_SIZE
}

/// What the guest writes beside working set and books.
pub(super) fn background() -> [PageClass; 4] {
    BACKGROUND.map(|(pages, rate)| PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(pages, rate)
    })
}

/// Bytes of page tables that TCG marks as logging begins and not again.
pub(super) fn page_tables() -> u64 {
    PAGE_TABLES * PAGE_SIZE
}

/// What follows the dirtier's accesses to its working set, by the pages of that. The books: the bytes, an entry for every write
/// and all of them once a second, when it reports; the versions, an entry for every write. And, while writes are logged,
/// the page tables that map it: those of every write, and all of them once a second, when it reads all. An idle dirtier only
/// reports, which it does in the same pages: versions come last.
pub(super) fn books(line: &Line) -> Vec<PageClass> {
    let pages = round_u32(((line.ws_mib << 20) / PAGE_SIZE) as f64);
    let entries = round_u32(PAGE_SIZE as f64);
    let written = |of: u32| {
        let pattern = line.pattern()?;
        // A walker enters a page of the books when it has been through as many pages as that has entries.
        let rate_pps = match pattern {
            Pattern::Seq => line.rate_pps * f64::from(of) / f64::from(pages.max(1)),
            Pattern::Uniform | Pattern::Hotcold => line.rate_pps,
        };
        Some(classes(pattern, of, rate_pps)).filter(|classes| !classes.is_empty())
    };
    // Wherever else it goes in the second, here it goes all over.
    let reported = |of: u32| {
        let classes = written(of).unwrap_or_else(|| vec![PageClass::new(of, 0.0)]);
        classes.into_iter().map(|class| PageClass {
            rate: class.rate + 1.0,
            locality: Locality::Scatter,
            coupling: Coupling::Time,
            ..class
        })
    };
    let upper = PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(UPPER_TABLES.min(pages), WALKS)
    };
    let versions = written(pages.div_ceil(entries / VERSION_BYTES));
    let all = reported(pages.div_ceil(entries))
        .chain(reported(pages.div_ceil(MAPPED_PAGES)))
        .chain([upper])
        .chain(versions.unwrap_or_default());
    all.filter(|class| class.pages > 0).collect()
}
