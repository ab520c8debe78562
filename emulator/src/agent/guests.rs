//! A VM as the ends of its migration see it: at its source, and its place at the destination.
//!
//! Inside: what pausing, resuming and committing mean on this host, and the pools its pages are made
//! from. Never inside: threads of migrations.

use super::holds::Holds;
use super::residents::Residents;
use super::runtime::Runtime;
use crate::clock::mono_ns;
use crate::control::channel::BlockingSender;
use crate::control::message::FromAgent;
use crate::ids::{MigrationId, VmId};
use crate::migration::faults::HoldAt;
use crate::migration::guest::{
    CommitRefused, DestinationGuest, GuestMemory, Reading, SourceGuest, Standing,
};
use crate::migration::record::Phase;
use crate::migration::upcoming::Limit;
use crate::resident::{Ram, Vcpus};
use replay::clock::MonoNs;
use replay::content::{ContentProfile, PagePool, Recipe, RecipeError};
use replay::{GuestTime, VmSpec, VmState};
use std::sync::Arc;

/// Bodies that pages are sent with: 2 MiB of them stay in a cache, and compress as the profile says.
const POOL_PAGES: u32 = 512;

/// The VM at the source, as the engine sees it.
pub(super) struct Guest {
    pub(super) runtime: Arc<Runtime>,
    pub(super) vm: VmId,
    /// The threads that write its RAM, if that is there.
    pub(super) vcpus: Option<Arc<Vcpus>>,
    pub(super) residents: Arc<Residents>,
    pub(super) out: Arc<BlockingSender>,
}

impl Guest {
    /// A VM of this agent cannot vanish from it while it is being migrated: whoever releases it
    /// does so after the migration.
    fn here<T>(result: Result<T, super::runtime::RuntimeError>) -> T {
        result.unwrap_or_else(|error| panic!("a migrating VM is on its host: {error}"))
    }

    fn now() -> MonoNs {
        MonoNs(mono_ns())
    }

    /// How far it and its vCPUs have come.
    pub(super) fn reading(&self) -> Reading {
        Self::here(self.runtime.reading(self.vm, Self::now()))
    }

    fn tell(&self, runs: bool) {
        // Without a manager nobody is left to be told.
        let _ = self.out.send(&FromAgent::Runs {
            vm: self.vm,
            runs,
            at_ns: mono_ns(),
        });
    }
}

impl SourceGuest for Guest {
    fn guest_time(&self) -> GuestTime {
        Self::here(self.runtime.guest_time(self.vm, Self::now()))
    }

    fn pause(&self) -> GuestTime {
        let at = Self::here(self.runtime.pause(self.vm, Self::now()));
        // Nobody writes from here on, and what was written by then is in RAM and in the log.
        if let Some(vcpus) = &self.vcpus {
            vcpus.park(&self.reading());
        }
        self.tell(false);
        at
    }

    fn resume(&self) {
        self.tell(true);
        Self::here(self.runtime.resume(self.vm, Self::now()));
        if let Some(vcpus) = &self.vcpus {
            vcpus.unpark();
        }
    }

    fn throttle(&self, percent: u8) {
        Self::here(self.runtime.throttle(self.vm, percent, Self::now()));
    }

    fn take_state(&self) -> VmState {
        Self::here(self.runtime.hand_over(self.vm, Self::now()))
    }

    fn crash(&self) {
        Self::here(self.runtime.release(self.vm));
        self.residents.remove(self.vm);
        self.tell(false);
    }
}

/// The place for a VM at the destination.
pub(super) struct Place {
    pub(super) runtime: Arc<Runtime>,
    pub(super) out: Arc<BlockingSender>,
    pub(super) migration: MigrationId,
    pub(super) vm: VmId,
    pub(super) spec: VmSpec,
    /// RAM that pages are received into, and what its threads write.
    pub(super) ram: Option<(Arc<Ram>, GuestMemory)>,
    pub(super) residents: Arc<Residents>,
    pub(super) holds: Holds,
}

impl DestinationGuest for Place {
    fn resumed(&self) {
        let begun = FromAgent::Phase {
            migration: self.migration,
            phase: Phase::Resume,
            at_ns: mono_ns(),
        };
        // Without a manager nobody is left to be told.
        let _ = self.out.send(&begun);
        self.holds.reach(HoldAt::Phase(Phase::Resume));
    }

    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        let refused = |reason: String| CommitRefused { reason };
        self.runtime
            .admits(&self.spec)
            .map_err(|error| refused(error.to_string()))?;
        if let Some((ram, memory)) = &self.ram {
            // They write nothing before the guest runs here.
            let (ram, vcpus) = (Arc::clone(ram), self.spec.vcpus);
            self.residents
                .add(self.vm, memory, ram, vcpus, &Reading::from(&state), false)
                .map_err(|error| refused(format!("threads for its vCPUs: {error}")))?;
        }
        // The record first: an agent that dies without having written one never ran the guest.
        let record = FromAgent::Committed {
            migration: self.migration,
            at_ns: mono_ns(),
        };
        self.out.send(&record).map_err(|error| {
            self.residents.remove(self.vm);
            refused(error.to_string())
        })?;
        let at_ns = mono_ns();
        self.runtime
            .receive(self.vm, self.spec.clone(), state, MonoNs(at_ns))
            .unwrap_or_else(|error| panic!("admitted a moment ago, under one thread: {error}"));
        let _ = self.out.send(&FromAgent::Runs {
            vm: self.vm,
            runs: true,
            at_ns,
        });
        Ok(at_ns)
    }

    fn run_within(&self, limits: &[(usize, Limit)]) {
        let now = MonoNs(mono_ns());
        self.runtime
            .run_within(self.spec.key, limits, now)
            .unwrap_or_else(|error| panic!("trace time goes on: {error}"));
    }

    fn standing(&self) -> Standing {
        self.runtime
            .standing(self.vm, MonoNs(mono_ns()))
            .unwrap_or_else(|error| panic!("trace time goes on: {error}"))
    }

    fn vcpu_waits(&self, thread: u32) -> Option<u32> {
        let here = self.residents.get(self.vm)?;
        let vcpu = here.vcpus.of_thread(thread)?;
        self.runtime
            .set_vcpu_waits(self.vm, vcpu, true, MonoNs(mono_ns()))
            .unwrap_or_else(|error| panic!("trace time goes on: {error}"));
        Some(vcpu)
    }

    fn hold_still(&self, with: &mut dyn FnMut(&Reading)) -> bool {
        let now = || self.runtime.reading(self.vm, MonoNs(mono_ns())).ok();
        let here = self.residents.get(self.vm);
        here.is_some_and(|here| here.vcpus.hold_still(now, with))
    }

    fn give_up(&self) {
        // One that is not here any more is given up already.
        let _ = self.runtime.release(self.vm);
        self.residents.remove(self.vm);
    }
}

/// Pools of page bodies, one a profile; few in a run.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<(ContentProfile, Arc<PagePool>)>);

impl Pools {
    pub(super) fn get(
        &mut self,
        profile: &ContentProfile,
        seed: u64,
    ) -> Result<Arc<PagePool>, RecipeError> {
        if let Some((_, pool)) = self.0.iter().find(|(known, _)| known == profile) {
            return Ok(Arc::clone(pool));
        }
        let pool = Arc::new(PagePool::new(&Recipe::of(profile)?, seed, POOL_PAGES));
        self.0.push((*profile, Arc::clone(&pool)));
        Ok(pool)
    }
}
