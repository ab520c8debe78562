//! What the connections beside the main one have sent and used, counted by their threads.
//!
//! Never inside: what they send.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::migration::usage::ThreadMeter;

/// What channels have sent, and used.
#[derive(Debug, Default)]
pub(in crate::migration) struct Traffic {
    /// Bytes the sockets have accepted, whole packets.
    pub(in crate::migration) accepted: AtomicU64,
    pub(super) normal_pages: AtomicU64,
    pub(super) zero_pages: AtomicU64,
    /// Bytes of pages, as they were sent.
    pub(super) data_bytes: AtomicU64,
    /// Headers of packets with pages.
    pub(super) header_bytes: AtomicU64,
    /// Hellos and SYNC packets.
    pub(super) control_bytes: AtomicU64,
    pub(super) cpu_ns: AtomicU64,
    pub(super) run_queue_ns: AtomicU64,
}

impl Traffic {
    /// Runs the whole of a connection's thread, and counts what it uses.
    pub(super) fn metered(&self, run: impl FnOnce()) {
        let meter = ThreadMeter::start();
        run();
        let (cpu_ns, run_queue_ns) = meter.used_ns();
        add(&self.cpu_ns, cpu_ns);
        add(&self.run_queue_ns, run_queue_ns);
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Reads a counter.
pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
