//! What the guest image of the ground truth adds to every configuration, from set A of the ground
//! truth alone (`docs/validation.md` has the derivation), so that nothing here was fitted to single runs.
//!
//! Never inside: anything that differs between runs.

use crate::validate::columns::{Left, Line};
use netmodel::units::{BitRate, ByteSize};
use std::time::Duration;
use traces::class::{Coupling, PageClass, Scan};
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
/// Pages written whenever the guest's process wakes up, and how often a second: every 5 ms (its
/// batches), and the kernel works for it then. With [`WARM`] this is the mean of the three
/// timelines of set A that tell background from working set: 57 pages in 0.5 s, 70 in 1 s, 78 in 2 s
/// (its README: 50 to 90 a second).
pub(super) const HOT: (u32, f64) = (40, 200.0);
/// Pages it writes now and then; idle guests of set A were resent 114 to 137 pages in 6 to 16 s.
pub(super) const WARM: (u32, f64) = (72, 0.54);
/// Last byte in → guest runs, ms. In set B the link is exact, so total time less the time its
/// bytes take on the wire is what the link stood idle, set-up and load together: at least
/// 3.6 ms over the 17 runs at the boundary of convergence, of which QEMU reports 2 as set-up.
pub(super) const LOAD_TIME_MS: u64 = 2;

/// More of it after a post-copy's package, ms: what QEMU does there and pre-copy does not (it throws away what the source
/// lists, registers RAM with userfaultfd, starts two threads).
pub(super) const POSTCOPY_LOAD_TIME_MS: u64 = 20;

/// What the source's send buffer had grown to, as a time of the link's rate, and the most it may be (`tcp_wmem`). In the
/// pre-copy runs of set A what stands there when the last byte is handed over drains in `stop_to_resume_ms` less
/// `downtime_ms`: 1.4 to 1.8 MB at 100 Mbit/s, 2.4 to 4.0 at 200, 3.0 to 4.2 at 500, 3.3 to 4.3 at 1000. A writer is let in
/// when a third is free, so that is two thirds to all of it, five sixths on average: 155 ms of the rate at 100, 149 at 200.
pub(super) const SEND_BUFFER_MS: u64 = 155;
/// … at most.
pub(super) const SEND_BUFFER_MAX: u64 = 4 << 20;

/// Every second of its clock the guest's process reports how many of its pages do not hold what it wrote there last, so it
/// reads all of them: `src_cpu_pct` of set A's undisturbed pre-copy runs grows by 1.5 % of a core (standard error 0.3) for every 64 MiB
/// of working set, 0.9 µs a page and second, idle guests' too. It looks at the clock after each batch of writes, every 5 ms.
pub(super) const REPORT: Scan = Scan {
    every_ns: 1_000_000_000,
    between_ns: 5_000_000,
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

/// Bytes that are not zero, besides the configured ones and what [`background`] writes.
pub(super) fn base_bytes(line: &Line) -> u64 {
    let base = BASE_PAGES + PAGES_PER_MIB * line.ram_mib as f64;
    u64::from(round_u32(base).saturating_sub(HOT.0 + WARM.0)) * PAGE_SIZE
}

/// Those of them at the top of RAM.
pub(super) fn high_bytes(line: &Line) -> u64 {
    let high = HIGH_PAGES + HIGH_PAGES_PER_MIB * line.ram_mib as f64;
    u64::from(round_u32(high)) * PAGE_SIZE
}

/// What the guest's kernel writes beside the dirtier.
pub(super) fn background() -> [PageClass; 2] {
    [HOT, WARM].map(|(pages, rate)| PageClass {
        coupling: Coupling::Time,
        ..PageClass::new(pages, rate)
    })
}
