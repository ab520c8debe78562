//! The tracer: follows the program and what it starts from stop to stop.
//!
//! A thread stops for us when it forks, starts a program, ends, or is about to drop memory (the filter
//! in `sys::spawn`). What was written there is noted before it is gone. A new address space gets its
//! userfaultfd by a system call injected at such a stop; from then on the ticks read it.
//!
//! All of it on one thread, as ptrace demands; the books are locked while a stop is handled.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::SyncSender;

use crate::book::{After, Book, Task};
use crate::space::{EVERYWHERE, Watch};
use crate::sys::clock;
use crate::sys::ptrace::{self, EVENT_STOP, InjectError, Injection, Resume, Stop};
use crate::sys::spawn::{self, Spawned};
use crate::syscalls::{clone_flags, syscall_begins, syscall_ended, watch};

/// How the program ended: its wait status, or why it never ran.
pub(crate) type Ending = Result<Option<i32>, io::Error>;

/// Starts the program and follows it until nothing of it is left. Says on `started` when it runs.
pub(crate) fn trace(
    command: &[OsString],
    huge_pages: bool,
    book: &Mutex<Book>,
    started: &SyncSender<io::Result<()>>,
) -> Ending {
    let spawned = spawn::spawn(command, huge_pages);
    let spawned = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ok(None);
        }
    };
    let mut tracer = Tracer {
        root: spawned.pid,
        spawned,
        root_status: None,
        root_ran: false,
        early: BTreeSet::new(),
    };
    let mut opened = lock(book).begin(tracer.root);
    if let Err(error) = &mut opened {
        ptrace::kill(tracer.root, libc::SIGKILL);
        let _ = started.send(Err(io::Error::new(error.kind(), error.to_string())));
    } else {
        let _ = started.send(Ok(()));
    }
    while let Some((tid, stop)) = ptrace::wait(-1) {
        let mut book = lock(book);
        book.work.stops += 1;
        tracer.handle(&mut book, tid, stop);
        book.work.tracer_cpu_ns = clock::thread_cpu_ns();
    }
    match (tracer.root_ran, tracer.spawned.failure()) {
        (false, Some(error)) => Err(error),
        _ => Ok(tracer.root_status),
    }
}

/// A panic while the books were held is ours and ends the recording anyway.
pub(crate) fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Tracer {
    root: i32,
    spawned: Spawned,
    root_status: Option<i32>,
    root_ran: bool,
    /// Threads that stopped before the event that announces them.
    early: BTreeSet<i32>,
}

impl Book {
    /// The child that will become the program: nothing of it is recorded before it does.
    fn begin(&mut self, root: i32) -> io::Result<()> {
        let space = self.open_space(root, 0)?;
        self.spaces
            .entry(space)
            .and_modify(|space| space.watch = Watch::No("not executed".into()));
        self.start_cpu(root);
        self.work.processes = 1;
        self.tasks.insert(
            root,
            Task {
                pid: root,
                space,
                after: After::Nothing,
                started: true,
            },
        );
        Ok(())
    }
}

impl Tracer {
    fn handle(&mut self, book: &mut Book, tid: i32, stop: Stop) {
        let how = match stop {
            Stop::Ended(status) => return self.ended(book, tid, status),
            Stop::Syscall => {
                syscall_ended(book, tid);
                Resume::Run(0)
            }
            Stop::Signal(signal) => Resume::Run(signal),
            Stop::Event(event, signal) => match self.event(book, tid, event, signal) {
                Ok(how) => how,
                Err(InjectError::Ended(status)) => return self.ended(book, tid, status),
                // The thread is as it was; it goes on unwatched, which is said at the end.
                Err(_) => Resume::Run(0),
            },
        };
        if let Some(how) = Some(how).filter(|_| !self.early.contains(&tid)) {
            ptrace::resume(tid, how);
        }
    }

    fn event(
        &mut self,
        book: &mut Book,
        tid: i32,
        event: i32,
        signal: i32,
    ) -> Result<Resume, InjectError> {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.new_task(book, tid)?;
            }
            libc::PTRACE_EVENT_EXEC => self.executed(book, tid),
            libc::PTRACE_EVENT_EXIT => leaving(book, tid),
            libc::PTRACE_EVENT_SECCOMP => return syscall_begins(book, tid),
            EVENT_STOP => return self.event_stop(book, tid, signal),
            _ => {}
        }
        Ok(Resume::Run(0))
    }

    fn event_stop(
        &mut self,
        book: &mut Book,
        tid: i32,
        signal: i32,
    ) -> Result<Resume, InjectError> {
        let Some(task) = book.tasks.get(&tid) else {
            self.early.insert(tid);
            return Ok(Resume::Run(0));
        };
        if !task.started {
            start(book, tid)?;
        } else if signal != libc::SIGTRAP {
            return Ok(Resume::Listen);
        }
        Ok(Resume::Run(0))
    }

    /// A thread or process was made; its first stop may have come before.
    fn new_task(&mut self, book: &mut Book, parent: i32) -> Result<(), InjectError> {
        let Some(child) = ptrace::event_message(parent) else {
            return Ok(());
        };
        let flags = clone_flags(parent, &ptrace::registers(parent)?);
        let Some(from) = book.tasks.get(&parent) else {
            return Ok(());
        };
        let (pid, space) = (from.pid, from.space);
        let is_thread = flags & libc::CLONE_THREAD.unsigned_abs() != 0;
        let shares = flags & libc::CLONE_VM.unsigned_abs() != 0;
        let pid = if is_thread { pid } else { child };
        if !is_thread {
            book.work.processes += 1;
            book.start_cpu(pid);
        }
        let space = if shares {
            if let Some(space) = book.spaces.get_mut(&space) {
                space.users += 1;
            }
            space
        } else {
            let brk = book.spaces.get(&space).map_or(0, |space| space.brk);
            book.open_space(pid, brk)?
        };
        let task = Task {
            pid,
            space,
            after: After::Nothing,
            started: false,
        };
        book.tasks.insert(child, task);
        if self.early.remove(&child) {
            match start(book, child) {
                Err(InjectError::Ended(status)) => self.ended(book, child, status),
                _ => ptrace::resume(child, Resume::Run(0)),
            }
        }
        Ok(())
    }

    /// A process became another program: a new address space, and no thread but this one.
    fn executed(&mut self, book: &mut Book, pid: i32) {
        self.root_ran |= pid == self.root;
        book.work.images += 1;
        let gone: Vec<i32> = book
            .tasks
            .iter()
            .filter(|(_, task)| task.pid == pid)
            .map(|(&tid, _)| tid)
            .collect();
        for tid in gone {
            if let Some(task) = book.tasks.remove(&tid) {
                book.release_space(task.space);
            }
        }
        if let Ok(space) = book.open_space(pid, 0) {
            book.spaces
                .entry(space)
                .and_modify(|space| space.program = true);
            let task = Task {
                pid,
                space,
                after: After::Nothing,
                started: true,
            };
            book.tasks.insert(pid, task);
        }
    }

    fn ended(&mut self, book: &mut Book, tid: i32, status: i32) {
        self.early.remove(&tid);
        if tid == self.root {
            self.root_status = Some(status);
        }
        if let Some(task) = book.tasks.remove(&tid) {
            book.release_space(task.space);
            if tid == task.pid {
                book.end_cpu(tid);
            }
        }
    }
}

/// The first stop of a thread or process. A child of `fork` has an address space of its own, whose
/// pages are its parent's until it writes them: watched from here, and nothing counted yet.
fn start(book: &mut Book, tid: i32) -> Result<(), InjectError> {
    let Some(task) = book.tasks.get_mut(&tid) else {
        return Ok(());
    };
    task.started = true;
    let (pid, space) = (task.pid, task.space);
    if book.spaces.get(&space).map(|space| &space.watch) != Some(&Watch::Pending) || pid != tid {
        return Ok(());
    }
    let injection = Injection::after_syscall(tid)?;
    if watch(book, injection, pid, space, false)? {
        book.disregard(space, &EVERYWHERE);
    }
    Ok(())
}

/// A task ends; its address space is still there for a moment.
fn leaving(book: &mut Book, tid: i32) {
    if let Some(task) = book.tasks.get(&tid) {
        let (pid, space) = (task.pid, task.space);
        book.note(space, &EVERYWHERE);
        book.note_cpu(pid);
    }
}
