//! The edge to the kernel: ptrace, userfaultfd, PAGEMAP_SCAN, starting a traced program, clocks.
//!
//! The only place of this crate with `unsafe`, system call numbers and clock reads. Nothing here
//! decides what a recording holds.

pub(crate) mod clock;
pub(crate) mod memory;
pub(crate) mod pagemap;
pub(crate) mod ptrace;
pub(crate) mod spawn;
pub(crate) mod uffd;
