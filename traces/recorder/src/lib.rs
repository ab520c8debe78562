//! Records real programs, virtual machines and whole computers.
//!
//! - [`record`]: a program and what it starts: the exact set of pages written per tick, and beside it
//!   CPU, memory, network and what the pages hold;
//! - [`qemu`]: a running QEMU through its QMP socket;
//! - [`procstat`]: this whole computer.
//!
//! Never inside: what becomes of a recording (fits, replay, formats: the `traces` crate).
//!
//! How pages are tracked: the program runs under ptrace with a seccomp filter that stops it only where
//! memory is dropped, shared, forked or replaced. Each of its address spaces gets a userfaultfd in
//! asynchronous write-protect mode (Linux 6.7), by a system call injected at such a stop; at every tick
//! one PAGEMAP_SCAN a space returns the pages written and protects them again, page by page atomically.
//! Nothing is preloaded: static programs and any libc will do. `docs/recording.md` says what is seen and
//! what is not.
#![warn(missing_docs)]

mod book;
mod bundle;
mod content;
mod finish;
mod frames;
mod idle;
mod maps;
mod procfs;
pub mod procstat;
pub mod qemu;
mod rates;
mod recording;
mod run;
mod samples;
mod space;
mod sys;
mod syscalls;
mod tracer;

pub use content::{Census, Delta, Sizes, Tally, Written, xbzrle_len};
pub use frames::{Owner, Place};
pub use recording::{
    About, Kind, Overhead, Reads, Recording, Samples, Sidecar, Thread, Totals, sidecar_path,
};
pub use run::{Options, RecordError, can_record_pages, record};
