//! What is done at the system calls the filter stops at: what is about to be dropped is noted, what was
//! mapped shared is protected, what was moved keeps its frames, and a new program gets its userfaultfd.
//!
//! Never inside: who is traced, and how threads go on (the tracer).

use std::io;
use std::ops::Range;

use crate::book::{After, Book};
use crate::space::{EVERYWHERE, Watch};
use crate::sys::memory;
use crate::sys::pagemap::ADDRESS_END;
use crate::sys::ptrace::{self, InjectError, Injection, Registers, Resume};
use crate::sys::uffd::{self, Uffd};

/// Injects what makes an address space's userfaultfd, takes it and closes it inside again. False when
/// it cannot be watched: the reason is noted.
pub(crate) fn watch(
    book: &mut Book,
    mut injection: Injection,
    pid: i32,
    space: u32,
    repeat_syscall: bool,
) -> Result<bool, InjectError> {
    let fd = injection.call(libc::SYS_userfaultfd, uffd::creation_flags())?;
    let taken = match i32::try_from(-fd) {
        Ok(code) if code > 0 => Err(io::Error::from_raw_os_error(code)),
        _ => Uffd::of_process(pid, fd),
    };
    if fd >= 0 {
        injection.call(libc::SYS_close, fd.cast_unsigned())?;
    }
    injection.finish(repeat_syscall);
    let Some(space) = book.spaces.get_mut(&space) else {
        return Ok(false);
    };
    match taken {
        Ok(uffd) => space.watch(uffd),
        Err(error) => space.watch = Watch::No(format!("userfaultfd: {error}")),
    }
    Ok(space.watch == Watch::Yes)
}

/// A system call the filter stops at: notes what it is about to drop.
pub(crate) fn syscall_begins(book: &mut Book, tid: i32) -> Result<Resume, InjectError> {
    let Some(task) = book.tasks.get(&tid) else {
        return Ok(Resume::Run(0));
    };
    let (pid, number) = (task.pid, task.space);
    let watched = book.spaces.get(&number).map(|space| space.watch.clone());
    if watched == Some(Watch::Pending) {
        // A program just started. What the kernel and its loader put there counts as written.
        let injection = Injection::before_syscall(tid)?;
        if watch(book, injection, pid, number, true)? {
            book.note_and_protect(number);
        }
        return Ok(Resume::Run(0));
    }
    if watched != Some(Watch::Yes) {
        return Ok(Resume::Run(0));
    }
    let registers = ptrace::registers(tid)?;
    let (first, second) = (registers.rdi, registers.rsi);
    let mut after = After::Nothing;
    match registers.orig_rax.cast_signed() {
        libc::SYS_munmap => drops(book, number, &span(first, second)),
        // Dropped pages stay mapped, and watched.
        libc::SYS_madvise => book.note(number, &span(first, second)),
        libc::SYS_brk => brk(book, number, first),
        libc::SYS_execve | libc::SYS_execveat => book.note(number, &EVERYWHERE),
        libc::SYS_mmap => {
            if registers.r10 & u64::from(libc::MAP_FIXED.unsigned_abs()) != 0 {
                drops(book, number, &span(first, second));
            }
            if registers.r10 & u64::from(libc::MAP_SHARED.unsigned_abs()) != 0 {
                after = After::Mapped { len: Some(second) };
            }
        }
        libc::SYS_mremap => {
            drops(book, number, &span(first, second));
            if registers.r10 & u64::from(libc::MREMAP_FIXED.unsigned_abs()) != 0 {
                drops(book, number, &span(registers.r8, registers.rdx));
            }
            after = After::Remapped {
                from: first,
                old_len: second,
            };
        }
        libc::SYS_shmat => after = After::Mapped { len: None },
        libc::SYS_shmdt => {
            let attached = book.spaces.get(&number).and_then(|s| s.mapping_at(first));
            drops(book, number, &attached.unwrap_or(EVERYWHERE));
        }
        libc::SYS_remap_file_pages => drops(book, number, &EVERYWHERE),
        _ => {}
    }
    if after == After::Nothing {
        return Ok(Resume::Run(0));
    }
    if let Some(task) = book.tasks.get_mut(&tid) {
        task.after = after;
    }
    Ok(Resume::ToSyscall)
}

/// A mapping is about to go: what was written there, and that the place may be taken again.
fn drops(book: &mut Book, number: u32, range: &Range<u64>) {
    book.note(number, range);
    if let Some(space) = book.spaces.get_mut(&number) {
        space.stale = true;
    }
}

/// The heap's end moves. A shorter heap drops pages.
fn brk(book: &mut Book, number: u32, end: u64) {
    let Some(space) = book.spaces.get_mut(&number) else {
        return;
    };
    let before = space.brk;
    if end != 0 {
        space.brk = end;
    }
    if end != 0 && end < before {
        drops(book, number, &span(end, before - end));
    }
}

/// The end of a system call whose outcome matters.
pub(crate) fn syscall_ended(book: &mut Book, tid: i32) {
    let Some(task) = book.tasks.get_mut(&tid) else {
        return;
    };
    let after = std::mem::replace(&mut task.after, After::Nothing);
    let number = task.space;
    let Ok(registers) = ptrace::registers(tid) else {
        return;
    };
    let result = registers.rax;
    // Errors are the last page of addresses.
    if result > u64::MAX - 4096 {
        return;
    }
    let Some(space) = book.spaces.get_mut(&number) else {
        return;
    };
    space.stale = true;
    space.refresh();
    match after {
        After::Nothing => {}
        After::Mapped { len } => {
            // shmat is not told a length: the mapping says it.
            let mapped =
                len.map_or_else(|| space.mapping_at(result), |len| Some(span(result, len)));
            if let Some(range) = mapped {
                space.protect_shared(&range);
            }
        }
        After::Remapped { from, old_len } if result != from => {
            let range = span(result, old_len);
            space.protect_shared(&range);
            let pages = span(from, old_len);
            let (first, last) = (pages.start >> 12, pages.end >> 12);
            let owner = crate::frames::Owner::Space(number);
            book.frames
                .move_pages(owner, first..last, range.start >> 12);
            book.disregard(number, &range);
        }
        After::Remapped { .. } => {}
    }
}

/// The whole pages a range of bytes touches.
fn span(start: u64, len: u64) -> Range<u64> {
    let first = start & !0xfff;
    let end = start.saturating_add(len).saturating_add(0xfff) & !0xfff;
    first.min(ADDRESS_END)..end.min(ADDRESS_END)
}

/// The flags of the `clone` a thread is in.
pub(crate) fn clone_flags(tid: i32, registers: &Registers) -> u32 {
    let low = |flags: u64| u32::try_from(flags & u64::from(u32::MAX)).unwrap_or(0);
    match registers.orig_rax.cast_signed() {
        libc::SYS_clone => low(registers.rdi),
        libc::SYS_clone3 => {
            let mut flags = [0u8; 8];
            if memory::read(tid, registers.rdi, &mut flags) {
                low(u64::from_le_bytes(flags))
            } else {
                0
            }
        }
        libc::SYS_vfork => libc::CLONE_VM.unsigned_abs(),
        _ => 0,
    }
}
