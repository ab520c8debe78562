//! The memory of an emulated VM: which page is written, and read, when.
//!
//! Accesses are a fixed function of (seed, VM, page, guest time). Harvesting only reads that
//! function, so two policies with one seed see the same guest, and a VM nobody looks at costs
//! nothing. Never inside: page contents (`content`), what a migration has seen (`dirty_log`).

mod build;
mod field;
mod layout;
mod memory;
mod pages;
#[cfg(test)]
mod phased_tests;
mod poisson;
#[cfg(test)]
mod poisson_tests;
mod sweep;
mod tempo;
mod variation;
mod vcpus;

use serde::{Deserialize, Serialize};
use traces::class::Coupling;

pub use layout::{Behaviour, Layout, MemoryError, MemorySpec};
pub use memory::{Access, AccessKind, MemoryModel, ScanJob, Span};
pub use vcpus::{Deal, VcpuClocks};

/// How far a guest has come: the two clocks its writes hang on. Neither ever goes back, and
/// neither moves while the guest is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct GuestTime {
    /// CPU time served to the guest so far, all vCPUs, in nanoseconds of one reference core.
    pub cpu_ns: u64,
    /// Time the guest has run (was not paused), in nanoseconds.
    pub run_ns: u64,
}

impl GuestTime {
    /// The clock a coupling names.
    #[must_use]
    pub fn clock(&self, coupling: Coupling) -> u64 {
        match coupling {
            Coupling::Cpu => self.cpu_ns,
            Coupling::Time => self.run_ns,
        }
    }

    /// Whether both clocks have come at least as far as in `other`.
    #[must_use]
    pub fn not_before(&self, other: &Self) -> bool {
        self.cpu_ns >= other.cpu_ns && self.run_ns >= other.run_ns
    }
}
