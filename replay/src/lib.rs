//! An emulated VM that behaves like its trace: clock arithmetic, guest memory, dirty log, page
//! contents, vCPUs on a shared host.
//!
//! Inside: values in, values out. Time is an argument everywhere, so the emulator and the
//! simulator call the same code. Never inside: networks, migration decisions, threads, files,
//! clocks.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod bitmap;
pub mod clock;
pub mod content;
pub mod dirty_log;
pub mod guest;
pub mod host;
mod mix;

pub use bitmap::Bitmap;
pub use clock::{Clock, MonoNs, Segment, SegmentKind, TraceNs};
pub use dirty_log::{DirtyLog, Reprotect};
pub use guest::{Access, AccessKind, Behaviour, GuestTime, MemoryModel, MemorySpec, ScanJob};
pub use host::{GuestClock, Host, HostSpec, Throttle, VmSpec, VmState, Work};
