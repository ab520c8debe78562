//! Engines: when to read the dirty log, what to send, when to stop the guest.
//!
//! Inside: pure decision cores, driven alike by the source's thread and by a simulator in virtual
//! time. Never inside: sockets, threads, clocks.

pub mod qemu;
