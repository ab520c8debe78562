//! ptrace on x86-64: stops, registers, and making a stopped thread do a system call for us.
//!
//! Written on libc because nix refuses statuses with real-time signals, which the C library uses.

use std::io;

/// `PTRACE_EVENT_STOP`: a new thread's first stop, or a group stop.
pub(crate) const EVENT_STOP: i32 = 128;
/// A system call stop, with `PTRACE_O_TRACESYSGOOD`.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// The registers of a stopped thread.
pub(crate) type Registers = libc::user_regs_struct;

/// What happened to a traced thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ended. The raw wait status.
    Ended(i32),
    /// A `PTRACE_EVENT_…`, with the signal of a group stop.
    Event(i32, i32),
    /// At the end (or start) of a system call, as asked for.
    Syscall,
    /// A signal is to be delivered.
    Signal(i32),
}

/// Waits for a thread this thread traces (-1: any). `None` when there is none.
pub(crate) fn wait(tid: i32) -> Option<(i32, Stop)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one integer. __WNOTHREAD: only children and tracees of this thread.
        let got = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if got < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return None;
        }
        return Some((got, decode(status)));
    }
}

fn decode(status: i32) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Ended(status);
    }
    let signal = libc::WSTOPSIG(status);
    let event = status >> 16;
    if signal == SYSCALL_STOP {
        Stop::Syscall
    } else if event != 0 {
        Stop::Event(event, signal)
    } else {
        Stop::Signal(signal)
    }
}

fn request(request: libc::c_uint, tid: i32, data: usize) -> io::Result<()> {
    // SAFETY: only requests whose data is an integer come here; they touch no memory of ours.
    let result = unsafe { libc::ptrace(request, tid, 0usize, data) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Starts tracing a child and everything it will start. When this process dies, so do they: without
/// a tracer their filtered system calls would fail.
pub(crate) fn seize(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_EXITKILL;
    request(
        libc::PTRACE_SEIZE,
        pid,
        usize::try_from(options).unwrap_or(0),
    )
}

/// How a stopped thread goes on. A thread that is gone is no error: its end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Until the next event, delivering this signal (0: none).
    Run(i32),
    /// Until the system call it is in (or the next) stops.
    ToSyscall,
    /// Stay in a group stop, but tell when it ends.
    Listen,
}

pub(crate) fn resume(tid: i32, how: Resume) {
    let (what, data) = match how {
        Resume::Run(signal) => (libc::PTRACE_CONT, signal),
        Resume::ToSyscall => (libc::PTRACE_SYSCALL, 0),
        Resume::Listen => (libc::PTRACE_LISTEN, 0),
    };
    // ESRCH: killed meanwhile.
    let _ = request(what, tid, usize::try_from(data).unwrap_or(0));
}

/// The number that comes with an event: the new thread's, or the former one's.
pub(crate) fn event_message(tid: i32) -> Option<i32> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: PTRACE_GETEVENTMSG writes one unsigned long.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0usize, &raw mut message) };
    (result >= 0).then(|| i32::try_from(message).ok()).flatten()
}

pub(crate) fn registers(tid: i32) -> io::Result<Registers> {
    let mut registers = std::mem::MaybeUninit::<Registers>::zeroed();
    // SAFETY: PTRACE_GETREGS writes one `user_regs_struct`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0usize, registers.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of its fields are integers, for which zero bytes are values too.
    Ok(unsafe { registers.assume_init() })
}

fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
    // SAFETY: PTRACE_SETREGS reads one `user_regs_struct`.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_SETREGS,
            tid,
            0usize,
            std::ptr::from_ref(registers),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A stopped thread whose instruction before the current one is `syscall`, made to do others.
///
/// [`Injection::finish`] puts the thread back as it was, ready to be resumed.
#[derive(Debug)]
pub(crate) struct Injection {
    tid: i32,
    saved: Registers,
    /// Stopped by the filter, before its own system call.
    at_entry: bool,
    /// Signals that came in between, to be sent again.
    held: Vec<i32>,
}

/// Why a system call could not be injected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    #[error("the thread ended")]
    Ended(i32),
    #[error("ptrace: {0}")]
    Ptrace(#[from] io::Error),
    #[error("the thread stopped in an unexpected way ({0:?})")]
    Unexpected(Stop),
}

/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

impl Injection {
    /// Of a thread the filter has stopped before a system call, which will be done afterwards.
    pub(crate) fn before_syscall(tid: i32) -> io::Result<Self> {
        Self::new(tid, true)
    }

    /// Of a thread that has just returned from a system call (a new child of `fork`).
    pub(crate) fn after_syscall(tid: i32) -> io::Result<Self> {
        Self::new(tid, false)
    }

    fn new(tid: i32, at_entry: bool) -> io::Result<Self> {
        Ok(Self {
            tid,
            saved: registers(tid)?,
            at_entry,
            held: Vec::new(),
        })
    }

    /// Does one system call and returns what it returned.
    pub(crate) fn call(&mut self, number: i64, argument: u64) -> Result<i64, InjectError> {
        let mut registers = self.saved;
        registers.rdi = argument;
        if self.at_entry {
            // The call it is about to do becomes ours.
            registers.orig_rax = number.cast_unsigned();
            self.at_entry = false;
        } else {
            registers.rip = self.saved.rip - SYSCALL_LEN;
            registers.rax = number.cast_unsigned();
            registers.orig_rax = u64::MAX;
            set_registers(self.tid, &registers)?;
            self.next_syscall_stop()?;
            self.next_syscall_stop()?;
            return self.result();
        }
        set_registers(self.tid, &registers)?;
        self.next_syscall_stop()?;
        self.result()
    }

    fn result(&self) -> Result<i64, InjectError> {
        Ok(registers(self.tid)?.rax.cast_signed())
    }

    fn next_syscall_stop(&mut self) -> Result<(), InjectError> {
        resume(self.tid, Resume::ToSyscall);
        loop {
            match wait(self.tid) {
                Some((_, Stop::Syscall)) => return Ok(()),
                Some((_, Stop::Signal(signal))) => {
                    self.held.push(signal);
                    resume(self.tid, Resume::ToSyscall);
                }
                Some((_, Stop::Ended(status))) => return Err(InjectError::Ended(status)),
                // Killed: it stops once more on its way out.
                Some((_, Stop::Event(libc::PTRACE_EVENT_EXIT, _))) | None => {
                    resume(self.tid, Resume::Run(0));
                    return match wait(self.tid) {
                        Some((_, Stop::Ended(status))) => Err(InjectError::Ended(status)),
                        _ => Err(InjectError::Ended(libc::SIGKILL)),
                    };
                }
                Some((_, stop)) => return Err(InjectError::Unexpected(stop)),
            }
        }
    }

    /// Puts the registers back; a thread stopped before a system call will come to it again.
    pub(crate) fn finish(self, repeat_syscall: bool) {
        let mut registers = self.saved;
        if repeat_syscall {
            registers.rip -= SYSCALL_LEN;
            registers.rax = self.saved.orig_rax;
        }
        registers.orig_rax = u64::MAX;
        // ESRCH: killed meanwhile.
        let _ = set_registers(self.tid, &registers);
        for signal in self.held {
            // SAFETY: tkill takes two integers.
            unsafe { libc::syscall(libc::SYS_tkill, self.tid, signal) };
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, signal) };
}
