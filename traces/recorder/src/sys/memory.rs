//! Reading another process's memory.

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::io::IoSliceMut;

/// Fills `into` from `address` of process `pid`; false when it is not all there (any more).
pub(crate) fn read(pid: i32, address: u64, into: &mut [u8]) -> bool {
    let Ok(base) = usize::try_from(address) else {
        return false;
    };
    let len = into.len();
    let remote = [RemoteIoVec { base, len }];
    process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(into)], &remote) == Ok(len)
}
