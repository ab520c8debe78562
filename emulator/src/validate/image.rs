//! What the guest image of the ground truth adds to every configuration, from set A of the ground
//! truth alone (`docs/validation.md` has the derivation), so that nothing here was fitted to single runs.
//!
//! Never inside: anything that differs between runs.

use crate::validate::columns::{Left, Line};
use traces::class::{Coupling, PageClass};
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

/// CPU that QEMU took besides what goes with the bytes it sent: least squares over `src_cpu_pct` of the 30 undisturbed pre-copy
/// runs of set A, 13.8 % of a core, and for every 10,000 page writes a second 3.7 % with random pages, 4.9 % with others (and
/// 4.7 % for every Gbit/s of the link). The first is not the guest's alone: QEMU's own threads are in it.
pub(super) const CPU_SHARE: f64 = 0.138;
/// … for every 10,000 page writes a second: random pages, others.
pub(super) const CPU_PER_10000_WRITES: (f64, f64) = (0.037, 0.049);

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
