//! Asking the scheduler for what an unprivileged thread may ask.

use std::io;
use std::mem::size_of;

/// `struct sched_attr`, first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// The shortest slice the kernel takes (0.1 ms): a thread that runs briefly and often is then picked sooner when others
/// compete, for the same share of the CPU.
const SLICE_NS: u64 = 100_000;

/// Gives the calling thread short slices; kernels before 6.12 ignore the wish.
///
/// # Errors
/// The kernel's refusal.
pub fn ask_for_short_slices() -> io::Result<()> {
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        runtime: SLICE_NS,
        ..SchedAttr::default()
    };
    // SAFETY: the kernel reads `size` bytes from `attr`, a C struct that long; pid 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
