//! Starting a program under trace, with a filter that stops it before system calls that give memory
//! back or map shared memory, and at no other.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::ptrace;
use super::uffd::check;

/// A program that has been started and is traced.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    failure: File,
}

impl Spawned {
    /// Why the program could not be executed, once it has ended without being executed.
    pub(crate) fn failure(&mut self) -> Option<io::Error> {
        let mut code = [0u8; 4];
        self.failure.read_exact(&mut code).ok()?;
        Some(io::Error::from_raw_os_error(i32::from_ne_bytes(code)))
    }
}

/// Starts `command`, traced by the calling thread. Transparent huge pages are off for it and its
/// children unless `huge_pages`: a write into one would mark 512 pages.
pub(crate) fn spawn(command: &[OsString], huge_pages: bool) -> io::Result<Spawned> {
    let arguments: Vec<CString> = command
        .iter()
        .map(|argument| CString::new(argument.clone().into_vec()).map_err(io::Error::other))
        .collect::<io::Result<_>>()?;
    let mut pointers: Vec<*const libc::c_char> =
        arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let program = filter();
    let (go_read, go_write) = pipe()?;
    let (failure_read, failure_write) = pipe()?;
    adopt_orphans();
    // SAFETY: after fork the child calls only functions that are safe there (no allocation, no
    // locks) on values made before, and ends in exec or _exit.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: as above; this is the child of that fork.
        unsafe { child(&pointers, &program, huge_pages, &go_read, &failure_write) }
    }
    drop((go_read, failure_write));
    let seized = ptrace::seize(pid);
    if let Err(error) = seized {
        ptrace::kill(pid, libc::SIGKILL);
        let _ = ptrace::wait(pid);
        return Err(error);
    }
    File::from(go_write).write_all(b"g")?;
    Ok(Spawned {
        pid,
        failure: failure_read.into(),
    })
}

/// Lets the signals that end a recording through to a program that is not traced.
pub(crate) fn unblock_signals(command: &mut Command) {
    // SAFETY: between fork and exec, only sigprocmask, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                none.as_ptr(),
                std::ptr::null_mut(),
            ))
        });
    }
}

/// Daemons the program leaves behind become our children, so that they can be waited for.
fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes integers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two integers.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made both for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// What the child does between fork and exec.
///
/// # Safety
/// Only in the child of a fork. `arguments` must end in a null pointer.
unsafe fn child(
    arguments: &[*const libc::c_char],
    program: &[libc::sock_filter],
    huge_pages: bool,
    go: &OwnedFd,
    failure: &OwnedFd,
) -> ! {
    // SAFETY: every call below is async-signal-safe and gets pointers to live values.
    unsafe {
        let mut byte = 0u8;
        libc::read(go.as_raw_fd(), (&raw mut byte).cast(), 1);
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        // The Rust runtime ignores SIGPIPE; programs expect the default.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if !huge_pages {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
        if install(program) {
            libc::execvp(arguments[0], arguments.as_ptr());
        }
        let code = *libc::__errno_location();
        libc::write(failure.as_raw_fd(), (&raw const code).cast(), 4);
        libc::_exit(127);
    }
}

/// Installs the filter; without privilege that takes a promise not to gain any.
///
/// # Safety
/// Async-signal-safe; the filter stays for the process's life.
unsafe fn install(program: &[libc::sock_filter]) -> bool {
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: seccomp reads one `sock_fprog` and the instructions it points to.
    unsafe {
        let mode = libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER);
        if libc::syscall(libc::SYS_seccomp, mode, 0, &raw const fprog) == 0 {
            return true;
        }
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, mode, 0, &raw const fprog) == 0
    }
}

/// System calls that always stop: they drop memory, end or replace an address space, attach shared
/// memory. `arch_prctl` because every C library starts with it, so that no program is missed.
const STOPPING: [i64; 9] = [
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_arch_prctl,
    libc::SYS_remap_file_pages,
];

/// `madvise` that drops pages.
const DROPPING_ADVICE: [i32; 4] = [
    libc::MADV_DONTNEED,
    libc::MADV_FREE,
    libc::MADV_REMOVE,
    24, // MADV_DONTNEED_LOCKED
];

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Offset of the low half of argument `index` in `struct seccomp_data`.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// The filter: stop or allow; it never refuses anything.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const BITS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let length = 3 + STOPPING.len() + 3 + 2 + DROPPING_ADVICE.len() + 2;
    let (allow, trace) = (length - 2, length - 1);
    let mut code: Vec<libc::sock_filter> = Vec::with_capacity(length);
    let mut put = |op: u16, k: u32, yes: Option<usize>, no: Option<usize>| {
        let next = code.len() + 1;
        let offset =
            |to: Option<usize>| to.map_or(0, |to| u8::try_from(to - next).unwrap_or(u8::MAX));
        code.push(libc::sock_filter {
            code: op,
            jt: offset(yes),
            jf: offset(no),
            k,
        });
        next
    };
    put(LOAD, 4, None, None);
    put(EQUAL, AUDIT_ARCH_X86_64, None, Some(allow));
    put(LOAD, 0, None, None);
    for number in STOPPING {
        put(EQUAL, low(number), Some(trace), None);
    }
    let shared_or_fixed = (libc::MAP_SHARED | libc::MAP_FIXED).unsigned_abs();
    let mmap = 3 + STOPPING.len();
    put(EQUAL, low(libc::SYS_mmap), None, Some(mmap + 3));
    put(LOAD, argument(3), None, None);
    put(BITS, shared_or_fixed, Some(trace), Some(allow));
    put(EQUAL, low(libc::SYS_madvise), None, Some(allow));
    put(LOAD, argument(2), None, None);
    for advice in DROPPING_ADVICE {
        put(EQUAL, advice.unsigned_abs(), Some(trace), None);
    }
    put(RETURN, libc::SECCOMP_RET_ALLOW, None, None);
    put(RETURN, libc::SECCOMP_RET_TRACE, None, None);
    code
}

fn low(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on a system call as the kernel would.
    fn stops(number: i64, arguments: [u64; 6]) -> bool {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&low(number).to_le_bytes());
        data[4..8].copy_from_slice(&AUDIT_ARCH_X86_64.to_le_bytes());
        for (index, value) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&value.to_le_bytes());
        }
        let code = filter();
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let step = &code[at];
            at += 1;
            let jump = match step.code {
                0x20 => {
                    let k = usize::try_from(step.k).unwrap();
                    accumulator = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                    continue;
                }
                0x15 => accumulator == step.k,
                0x45 => accumulator & step.k != 0,
                0x06 => return step.k == libc::SECCOMP_RET_TRACE,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if jump { step.jt } else { step.jf });
        }
    }

    #[test]
    fn the_filter_stops_what_drops_memory_and_nothing_else() {
        let none = [0; 6];
        for number in STOPPING {
            assert!(stops(number, none), "{number}");
        }
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_futex,
            libc::SYS_userfaultfd,
            libc::SYS_close,
            libc::SYS_mprotect,
        ] {
            assert!(!stops(number, none), "{number}");
        }
        let mmap = |flags: i32| {
            stops(
                libc::SYS_mmap,
                [0, 4096, 3, u64::from(flags.unsigned_abs()), 0, 0],
            )
        };
        assert!(mmap(libc::MAP_SHARED));
        assert!(mmap(libc::MAP_SHARED_VALIDATE));
        assert!(mmap(libc::MAP_PRIVATE | libc::MAP_FIXED));
        assert!(!mmap(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS));
        let madvise = |advice: i32| {
            stops(
                libc::SYS_madvise,
                [0, 0, u64::from(advice.unsigned_abs()), 0, 0, 0],
            )
        };
        assert!(madvise(libc::MADV_DONTNEED) && madvise(libc::MADV_FREE));
        assert!(madvise(libc::MADV_REMOVE) && madvise(24));
        assert!(!madvise(libc::MADV_WILLNEED) && !madvise(libc::MADV_HUGEPAGE));
    }
}
