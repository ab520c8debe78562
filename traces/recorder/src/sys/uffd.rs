//! userfaultfd in asynchronous write-protect mode: the descriptor of another process's memory.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Create a descriptor that needs no privilege. Asynchronous write protection never hands a fault to
/// user space, so the restriction to user-mode faults changes nothing: a `read(2)` into a protected
/// page is resolved by the kernel and counted as a write.
pub(crate) const USER_MODE_ONLY: u64 = 1;

const UFFD_API: u64 = 0xaa;
/// Write-protect marks on file and shared pages.
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// Write-protect marks on pages that are not there yet.
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// The kernel resolves write faults itself (6.7).
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

// _IOWR(0xaa, 0x3f, 24), _IOWR(0xaa, 0, 32), _IOWR(0xaa, 6, 24) of linux/userfaultfd.h.
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::Ioctl = 0xc018_aa06;

/// A userfaultfd of some process's memory.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl Uffd {
    /// Makes a descriptor for this process's own memory: how the probe knows that there is one.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        // SAFETY: userfaultfd takes one integer and returns a descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, USER_MODE_ONLY | o_cloexec()) };
        Self::enable(owned(fd)?)
    }

    /// Takes descriptor number `fd` of process `pid`, which this process traces.
    pub(crate) fn of_process(pid: i32, fd: i64) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a descriptor or -1.
        let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY: pidfd_getfd takes three integers and returns a descriptor or -1.
        let own = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
        Self::enable(owned(own)?)
    }

    /// The handshake, asking for what a recording needs.
    fn enable(fd: OwnedFd) -> io::Result<Self> {
        let mut api = Api {
            api: UFFD_API,
            features: FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the descriptor is ours, and UFFDIO_API reads and writes one `Api`.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
        Ok(Self(fd))
    }

    /// Watches a range, which must be all mapped. Watching twice is harmless.
    pub(crate) fn register(&self, range: &Range<u64>) -> io::Result<()> {
        let mut register = Register {
            start: range.start,
            len: range.end - range.start,
            mode: REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the descriptor is ours, and UFFDIO_REGISTER reads and writes one `Register`. The
        // range is in the traced program's memory, whose contents registering does not change.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) })
    }

    /// Protects a watched range, pages that are not there yet included.
    pub(crate) fn protect(&self, range: &Range<u64>) -> io::Result<()> {
        let mut protect = WriteProtect {
            start: range.start,
            len: range.end - range.start,
            mode: WRITEPROTECT_MODE_WP,
        };
        // SAFETY: as in `register`; the kernel lifts the protection by itself on a write.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WRITEPROTECT, &raw mut protect) })
    }
}

fn o_cloexec() -> u64 {
    u64::from(libc::O_CLOEXEC.unsigned_abs())
}

/// The flags for a descriptor made inside a traced program.
pub(crate) fn creation_flags() -> u64 {
    USER_MODE_ONLY | o_cloexec()
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
