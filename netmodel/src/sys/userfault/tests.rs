//! The kernel's part of a post-copy, tried on one mapping.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::sys::memory::{Piece, SharedMemory, write_vectored};

const PAGE: usize = 4096;
/// Longer than any thread is kept waiting by a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Four pages, of which the second and third are missing; `None` where the kernel has no userfaultfd.
fn trapped() -> Option<(Arc<SharedMemory>, Arc<Userfault>)> {
    if let Err(error) = open(FEATURE_THREAD_ID) {
        eprintln!("SKIPPED: userfaultfd: {error}");
        return None;
    }
    let memory = SharedMemory::map(4 * PAGE).unwrap();
    memory.store(0, &[1; 4 * PAGE]);
    let trap = memory.trap(std::iter::once(PAGE..3 * PAGE)).unwrap();
    Some((Arc::new(memory), Arc::new(trap)))
}

/// The next fault, however long the thread takes to come to it.
fn next_fault(trap: &Userfault) -> Fault {
    for _ in 0..2_000 {
        if let Some(fault) = trap.faults(10).unwrap().first() {
            return *fault;
        }
    }
    panic!("nobody was stopped");
}

fn first_byte(memory: &SharedMemory, page: usize) -> u8 {
    let mut bytes = [0; 8];
    memory.load(page * PAGE, &mut bytes);
    bytes[0]
}

#[test]
fn whoever_touches_a_missing_page_waits_for_it_alone() {
    let Some((memory, trap)) = trapped() else {
        return;
    };
    let (said, heard) = channel();
    let (in_thread, says) = (Arc::clone(&memory), said);
    let thread = std::thread::spawn(move || {
        says.send(first_byte(&in_thread, 2)).unwrap();
        nix::unistd::gettid().as_raw()
    });
    let fault = next_fault(&trap);
    assert_eq!(fault.offset / PAGE, 2);
    // What is there is touched by others meanwhile.
    assert_eq!((first_byte(&memory, 0), first_byte(&memory, 3)), (1, 1));
    assert!(heard.try_recv().is_err(), "it went on without its page");
    // Another page does not let it go on; its own does.
    assert!(trap.place(PAGE, &[5; PAGE]).unwrap());
    assert!(heard.recv_timeout(Duration::from_millis(20)).is_err());
    assert!(trap.place(2 * PAGE, &[7; PAGE]).unwrap());
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(7));
    assert_eq!(u32::try_from(thread.join().unwrap()), Ok(fault.thread));
    assert_eq!(first_byte(&memory, 1), 5);
}

#[test]
fn what_is_there_is_never_placed_over() {
    let Some((memory, trap)) = trapped() else {
        return;
    };
    assert!(trap.place(PAGE, &[5; PAGE]).unwrap());
    memory.store(PAGE, &[6; PAGE]);
    assert!(!trap.place(PAGE, &[5; PAGE]).unwrap(), "it came late");
    assert!(!trap.place_zeros(PAGE, PAGE).unwrap());
    assert!(!trap.place(0, &[5; PAGE]).unwrap(), "it was never missing");
    assert_eq!((first_byte(&memory, 0), first_byte(&memory, 1)), (1, 6));
    // Zeros are a page like any other.
    assert!(trap.place_zeros(2 * PAGE, PAGE).unwrap());
    assert!(!trap.place(2 * PAGE, &[5; PAGE]).unwrap());
    assert!(memory.is_zero(2 * PAGE, PAGE));
    memory.store(2 * PAGE, &[8; 8]);
    assert_eq!(first_byte(&memory, 2), 8);
}

/// `writev` of a page that is not there is refused, and neither waits nor sends zeros.
#[test]
fn the_kernel_itself_does_not_read_a_missing_page() {
    let Some((memory, trap)) = trapped() else {
        return;
    };
    let (mut from, to) = io::pipe().unwrap();
    let pieces = |page| [Piece::of(b"ab"), memory.piece(page * PAGE, 16)];
    assert_eq!(write_vectored(&to, &pieces(0)).unwrap(), 18);
    let mut bytes = [0; 18];
    from.read_exact(&mut bytes).unwrap();
    let refused = write_vectored(&to, &pieces(1)[1..]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
    trap.place(PAGE, &[5; PAGE]).unwrap();
    assert_eq!(write_vectored(&to, &pieces(1)[1..]).unwrap(), 16);
    from.read_exact(&mut bytes[..16]).unwrap();
    assert_eq!(bytes[..16], [5; 16]);
}

#[test]
fn nobody_waits_for_memory_that_was_let_go() {
    let Some((memory, trap)) = trapped() else {
        return;
    };
    let (said, heard) = channel();
    let in_thread = Arc::clone(&memory);
    std::thread::spawn(move || said.send(first_byte(&in_thread, 1)));
    assert_eq!(next_fault(&trap).offset / PAGE, 1);
    trap.let_go().unwrap();
    trap.let_go().unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
    let gone = trap.place(2 * PAGE, &[7; PAGE]).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(trap.faults(0).unwrap().is_empty());
}

#[test]
fn who_waits_for_faults_can_be_interrupted() {
    let Some((_memory, trap)) = trapped() else {
        return;
    };
    let waits = Arc::clone(&trap);
    let (said, heard) = channel();
    std::thread::spawn(move || said.send(waits.faults(u16::MAX).unwrap().len()));
    trap.interrupt();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}
