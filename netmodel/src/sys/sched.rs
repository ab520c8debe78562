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

/// The nice value that is left where there are no slices to ask for: whatever wakes is picked at once then.
const NICEST: i32 = -20;

/// Gives the calling thread short slices; kernels before 6.12, which ignore the wish, are asked for precedence instead.
///
/// # Errors
/// The kernel's refusal: precedence takes `CAP_SYS_NICE` over the whole computer.
pub fn ask_for_short_slices() -> io::Result<()> {
    let mut attr = SchedAttr {
        size: SIZE,
        runtime: SLICE_NS,
        ..SchedAttr::default()
    };
    set(&attr)?;
    if get()?.runtime == SLICE_NS {
        return Ok(());
    }
    attr.nice = NICEST;
    set(&attr)
}

/// Of `struct sched_attr`, first version.
const SIZE: u32 = 48;
const _: () = assert!(SIZE as usize == size_of::<SchedAttr>());

fn set(attr: &SchedAttr) -> io::Result<()> {
    // SAFETY: the kernel reads `size` bytes from `attr`, a C struct that long; pid 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) };
    checked(result)
}

fn get() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most `SIZE` bytes to `attr`, a C struct that long; pid 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, SIZE, 0) };
    checked(result).map(|()| attr)
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
