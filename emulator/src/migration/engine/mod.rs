//! Engines: when to read the dirty log, what to send, when to stop the guest.
//!
//! Inside: pure decision cores, driven alike by the source's thread and by a simulator in virtual
//! time. Never inside: sockets, threads, clocks.

pub mod passes;
pub mod qemu;
pub mod step;
mod throttle;

use super::params::{EngineKind, MigrationParams};
use super::record::Decision;
use passes::PassEngine;
use qemu::QemuEngine;
use step::{Observed, Statistics, Step};

/// Units of an engine that are bytes or pages, at the run's space scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineUnits {
    /// QEMU: pages between two looks at the clock; 64 at full size.
    pub check_pages: u64,
    /// Xen: fewer dirty pages than this end the passes; 50 at full size.
    pub stop_pages: u64,
    /// `qemu-rounds`: no more dirty pages than this stop the guest; 5000 at full size.
    pub rounds_stop_pages: u64,
}

/// The decision core of a migration.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Decides every slice.
    Qemu(QemuEngine),
    /// Decides at the end of a pass.
    Passes(PassEngine),
}

impl Engine {
    /// The core that the parameters ask for; rounds begin at `now_ns`.
    #[must_use]
    pub fn new(
        params: &MigrationParams,
        units: EngineUnits,
        now_ns: u64,
        observed: &Observed,
    ) -> Self {
        if matches!(params.engine, EngineKind::Qemu | EngineKind::PostCopy) {
            let engine = QemuEngine::new(params, now_ns, observed);
            return Self::Qemu(engine.with_check_pages(units.check_pages));
        }
        let stop_pages = match params.engine {
            EngineKind::QemuRounds => units.rounds_stop_pages,
            _ => units.stop_pages,
        };
        Self::Passes(PassEngine::new(params, stop_pages, now_ns, observed))
    }

    /// What to do at `now_ns`. The caller does it before it asks again.
    pub fn next(&mut self, now_ns: u64, observed: &Observed) -> Step {
        match self {
            Self::Qemu(engine) => engine.next(now_ns, observed),
            Self::Passes(engine) => engine.next(now_ns, observed),
        }
    }

    /// The guest runs at the destination, which pulls what it lacks.
    pub fn postcopy_started(&mut self) {
        match self {
            Self::Qemu(engine) => engine.postcopy_started(),
            Self::Passes(_) => unreachable!("nobody asks these what to send once pages are pulled"),
        }
    }

    /// A sync of the dirty log ended: the setup's, one asked for by [`Step::Sync`], or the final.
    pub fn synced(&mut self, now_ns: u64, new_dirty_pages: u64, dirty_pages: u64) {
        match self {
            Self::Qemu(engine) => engine.synced(now_ns, new_dirty_pages, dirty_pages),
            Self::Passes(engine) => engine.synced(now_ns, new_dirty_pages),
        }
    }

    /// Parameters were changed: in effect as in the original, of which only QEMU's can be.
    pub fn set_parameters(&mut self, params: &MigrationParams) {
        match self {
            Self::Qemu(engine) => engine.set_parameters(params),
            Self::Passes(_) => {}
        }
    }

    /// The statistics so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        match self {
            Self::Qemu(engine) => engine.statistics(),
            Self::Passes(engine) => engine.statistics(),
        }
    }

    /// The throttle that the guest's CPUs are to have from now on, in percent, if it changed.
    pub fn take_throttle(&mut self) -> Option<u8> {
        match self {
            Self::Qemu(engine) => engine.take_throttle(),
            Self::Passes(_) => None,
        }
    }

    /// The decision just taken, if it read the log or ended the rounds.
    pub fn take_decision(&mut self) -> Option<Decision> {
        match self {
            Self::Qemu(engine) => engine.take_decision(),
            Self::Passes(engine) => engine.take_decision(),
        }
    }
}
