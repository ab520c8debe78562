//! userfaultfd's missing mode: threads of this process that touch a page which is not there are stopped by the kernel,
//! each alone, until somebody puts the page in place.
//!
//! Without privilege (`UFFD_USER_MODE_ONLY`): the kernel's own accesses of such a page, a `writev` of it for instance,
//! fail with EFAULT instead of waiting. libc has none of its structures. Never inside: where pages come from, what is
//! done to whoever waits.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
/// Events tell the thread that was stopped.
pub(crate) const FEATURE_THREAD_ID: u64 = 1 << 8;
/// The kernel resolves write faults itself (6.7).
pub(crate) const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Bytes of `struct uffd_msg`, and where the event of a fault has its fields.
const MESSAGE_BYTES: usize = 32;
const ADDRESS: Range<usize> = 16..24;
const THREAD: Range<usize> = 24..28;
/// Messages read at once.
const MESSAGES: usize = 16;

#[repr(C)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Span,
    mode: u64,
    zeropage: i64,
}

// _IOWR(0xaa, 0x3f, 24), _IOWR(0xaa, 0, 32), _IOR(0xaa, 1, 16), _IOR(0xaa, 2, 16), _IOWR(0xaa, 3, 40) and
// _IOWR(0xaa, 4, 32) of linux/userfaultfd.h.
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::Ioctl = 0x8010_aa01;
const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04;

/// A descriptor for this process's memory that needs no privilege, with these features of the kernel's.
///
/// # Errors
/// When the kernel has no userfaultfd, or not these features.
pub(crate) fn open(features: u64) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: a system call without pointers.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    // SAFETY: a descriptor the kernel just gave us and nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut api = Handshake {
        api: API,
        features,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes one `struct uffdio_api`, which `api` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
    Ok(fd)
}

/// A thread was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where in the memory: the byte it touched.
    pub offset: usize,
    /// Which thread, as `gettid` tells it.
    pub thread: u32,
}

/// A mapping of which touched pages may be missing. It is watched until [`Userfault::let_go`], or until this is
/// dropped; whoever waits then goes on and finds zeros.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    /// Where the mapping is, and how long.
    base: u64,
    len: usize,
    /// Wakes who waits for faults.
    waker: PipeWriter,
    woken: PipeReader,
}

impl Userfault {
    /// Watches `len` bytes of mapped memory at `base`, whole pages.
    pub(super) fn watch(base: u64, len: usize) -> io::Result<Self> {
        let (woken, waker) = io::pipe()?;
        let this = Self {
            fd: open(FEATURE_THREAD_ID)?,
            base,
            len,
            waker,
            woken,
        };
        let mut register = Register {
            range: this.span(0, len),
            mode: REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes one `struct uffdio_register`. What the range holds is not changed.
        check(unsafe { libc::ioctl(this.fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) })?;
        Ok(this)
    }

    /// # Panics
    /// If it does not lie within the mapping.
    fn span(&self, offset: usize, bytes: usize) -> Span {
        assert!(offset <= self.len && bytes <= self.len - offset);
        Span {
            start: self.base + offset as u64,
            len: bytes as u64,
        }
    }

    /// Puts bytes, whole pages, where nothing is, in one step, and wakes who waits for them. False when something is
    /// there: it stays what it is.
    ///
    /// # Errors
    /// The kernel's; `NotFound` when the memory is not watched any more.
    pub fn place(&self, offset: usize, bytes: &[u8]) -> io::Result<bool> {
        let Span { start: dst, len } = self.span(offset, bytes.len());
        loop {
            let mut copy = Copy {
                dst,
                src: bytes.as_ptr() as u64,
                len,
                mode: 0,
                copy: 0,
            };
            // SAFETY: the kernel reads and writes one `struct uffdio_copy`, and reads `bytes`. It writes only into
            // ranges registered with this descriptor, whose memory is only ever seen as atomics, and only where no
            // page is.
            let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_COPY, &raw mut copy) };
            if let Some(placed) = placed(done)? {
                return Ok(placed);
            }
        }
    }

    /// The same with zeros.
    ///
    /// # Errors
    /// As [`Userfault::place`].
    pub fn place_zeros(&self, offset: usize, bytes: usize) -> io::Result<bool> {
        loop {
            let mut zero = ZeroPage {
                range: self.span(offset, bytes),
                mode: 0,
                zeropage: 0,
            };
            // SAFETY: the kernel reads and writes one `struct uffdio_zeropage`; else as in `place`.
            let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut zero) };
            if let Some(placed) = placed(done)? {
                return Ok(placed);
            }
        }
    }

    /// Lets those go on that wait in a range: they try again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wake(&self, offset: usize, bytes: usize) -> io::Result<()> {
        let mut range = self.span(offset, bytes);
        // SAFETY: the kernel reads one `struct uffdio_range`.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WAKE, &raw mut range) })
    }

    /// Ends the watch: whoever waits goes on, and finds zeros where nothing is. Doing so twice changes nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_go(&self) -> io::Result<()> {
        let mut range = self.span(0, self.len);
        // SAFETY: the kernel reads one `struct uffdio_range`.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_UNREGISTER, &raw mut range) })?;
        self.interrupt();
        Ok(())
    }

    /// Has whoever waits for faults look around.
    pub fn interrupt(&self) {
        // A pipe takes far more bytes than it is interrupted times.
        let _ = (&self.waker).write(&[0]);
    }

    /// Waits for threads to be stopped, or to be interrupted; at most so many milliseconds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn faults(&self, ms: u16) -> io::Result<Vec<Fault>> {
        let mut ready = [
            PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::from(ms)) {
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            other => drop(other?),
        }
        if ready[1].any() == Some(true) {
            let _ = (&self.woken).read(&mut [0; 64]);
        }
        let mut messages = [0; MESSAGES * MESSAGE_BYTES];
        let read = match nix::unistd::read(&self.fd, &mut messages) {
            Ok(read) => read,
            // Who was stopped has been let go meanwhile.
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let faults = messages[..read].chunks_exact(MESSAGE_BYTES);
        Ok(faults.filter_map(|message| self.fault(message)).collect())
    }

    fn fault(&self, message: &[u8]) -> Option<Fault> {
        let address = u64::from_ne_bytes(message.get(ADDRESS)?.try_into().ok()?);
        let thread = u32::from_ne_bytes(message.get(THREAD)?.try_into().ok()?);
        let offset = usize::try_from(address.checked_sub(self.base)?).ok()?;
        (message.first() == Some(&EVENT_PAGEFAULT) && offset < self.len)
            .then_some(Fault { offset, thread })
    }
}

/// What placing a page came to; `None`: to be tried again.
fn placed(done: libc::c_int) -> io::Result<Option<bool>> {
    if done == 0 {
        return Ok(Some(true));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        ErrorKind::AlreadyExists => Ok(Some(false)),
        // The process's mappings are just being changed.
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
