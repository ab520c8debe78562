//! The seams between a migration and the guest it moves.
//!
//! Inside: what a source and a destination ask of the agent's VM, and the memory that both ends
//! compute from the same spec and seed. Never inside: the dirty log (the source's own affair; the
//! destination must verify without it), sockets.

use std::sync::Arc;

use replay::content::{
    ContentError, ContentProfile, Contents, ContentsError, PagePool, RecipeError, Stamp,
};
use replay::guest::{Deal, VcpuClocks};
use replay::{GuestTime, MemoryModel, MemorySpec, VmState};
use traces::class::Coupling;

use super::upcoming::Limit;

/// The guest at the source.
pub trait SourceGuest: Send + Sync {
    /// How far the guest has come, now. Never goes back.
    fn guest_time(&self) -> GuestTime;
    /// Stops it; its guest time then stands still at the value returned.
    fn pause(&self) -> GuestTime;
    /// Lets it run again here: the migration failed before the commit point.
    fn resume(&self);
    /// Takes this percentage of its CPUs' time, at most 99; 0 is none.
    fn throttle(&self, percent: u8);
    /// What moves with it besides memory. Called while it is paused.
    fn take_state(&self) -> VmState;
    /// Its process has died: it runs here no more.
    fn crash(&self);
}

/// The commit was not made and never will be: the guest was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the destination could not commit: {reason}")]
pub struct CommitRefused {
    /// Why.
    pub reason: String,
}

/// The place for the guest at the destination.
pub trait DestinationGuest: Send + Sync {
    /// The commit point: writes the commit record to the control plane, then lets the guest run,
    /// and returns the monotonic instant at which it does. The record comes first, so that an
    /// agent that died without one never ran the guest.
    ///
    /// # Errors
    /// When the record could not be written; the guest was then not started.
    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused>;
    /// The guest runs here, and the source has not been told. May block, as a fault plan asks.
    fn resumed(&self) {}
    /// Post-copy: how far some of its vCPUs may run, before it is here or while it is. They go on if they stood at
    /// an earlier limit; the others are as they were.
    fn run_within(&self, limits: &[(usize, Limit)]);
    /// Post-copy: how far each vCPU has come.
    fn standing(&self) -> Standing;
    /// Post-copy of RAM that is there: the kernel has stopped this thread at a page that has not come. If it is a
    /// vCPU's, the vCPU's time stands until it has caught up; which one.
    fn vcpu_waits(&self, _thread: u32) -> Option<u32> {
        None
    }
    /// Has nobody write RAM that is there while `with` looks at it: it is what it was when the guest and its vCPUs had
    /// come as far as told. False when the guest is not here, or computes its memory.
    fn hold_still(&self, _with: &mut dyn FnMut(&Reading)) -> bool {
        false
    }
    /// Post-copy: pages that it needs will never come. It is dropped.
    fn give_up(&self);
}

/// How far a guest has come, and its vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The guest.
    pub time: GuestTime,
    /// What its vCPUs' clocks read then.
    pub vcpus: VcpuClocks,
}

impl Reading {
    /// How far a vCPU has come.
    #[must_use]
    pub fn of(&self, vcpu: u32) -> GuestTime {
        self.vcpus.time(vcpu, self.time)
    }
}

impl From<GuestTime> for Reading {
    /// Of a guest whose vCPUs have come as far.
    fn from(time: GuestTime) -> Self {
        Self {
            time,
            vcpus: VcpuClocks::default(),
        }
    }
}

impl From<&VmState> for Reading {
    fn from(state: &VmState) -> Self {
        Self {
            time: state.guest_time(),
            vcpus: state.vcpus.clone(),
        }
    }
}

/// How far a guest has come whose vCPUs may only run to a [`Limit`] each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is here.
    Here {
        /// Each vCPU.
        vcpus: Vec<VcpuStanding>,
        /// Monotonic instant at which one that runs reaches its limit if nothing changes, or at which to ask
        /// again.
        until_ns: u64,
    },
    /// It is not here.
    Gone,
}

/// How far a vCPU has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuStanding {
    /// So far, in its own time.
    pub time: GuestTime,
    /// It stands at its limit.
    pub stopped: Option<Stopped>,
}

/// A vCPU stands at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The clock whose limit it is.
    pub clock: Coupling,
    /// Since when, monotonic ns: when it got there, whenever that was noticed.
    pub since_ns: u64,
}

/// A guest's memory as a function of its guest time. Both ends build it from the same values.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    model: Arc<MemoryModel>,
    contents: Arc<Contents>,
    check: u64,
}

impl GuestMemory {
    /// The memory of the VM `vm_key` under a seed. `pool` gives the pool of a content profile, which
    /// all VMs of an agent may share.
    ///
    /// # Errors
    /// When the spec cannot be laid out, or contents cannot be as its profiles say.
    pub fn new(
        spec: &MemorySpec,
        seed: u64,
        vm_key: u64,
        pool: impl FnMut(&ContentProfile) -> Result<Arc<PagePool>, RecipeError>,
    ) -> Result<Self, ContentsError> {
        let mut memory = Self {
            model: Arc::new(MemoryModel::new(spec, seed, vm_key)?),
            contents: Arc::new(Contents::new(spec, seed, vm_key, pool)?),
            check: 0,
        };
        memory.check = memory.fingerprint();
        Ok(memory)
    }

    /// The same of a guest of several vCPUs.
    #[must_use]
    pub fn of_vcpus(mut self, deal: Deal) -> Self {
        self.model = Arc::new(Arc::unwrap_or_clone(self.model).of_vcpus(deal));
        self
    }

    /// The same of a guest whose vCPUs have parted.
    #[must_use]
    pub fn apart(&self, clocks: &VcpuClocks) -> Self {
        let mut memory = self.clone();
        if !clocks.are_one() {
            memory.model = Arc::new(MemoryModel::clone(&self.model).apart(clocks.clone()));
        }
        memory
    }

    /// Key of the VM.
    #[must_use]
    pub fn vm_key(&self) -> u64 {
        self.contents.vm_key()
    }

    /// When pages are written.
    #[must_use]
    pub fn model(&self) -> &MemoryModel {
        &self.model
    }

    /// RAM in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.model.pages()
    }

    /// Differs between ends that were given different specs, seeds or contents (almost surely).
    #[must_use]
    pub fn check(&self) -> u64 {
        self.check
    }

    /// Version of a page at a guest time.
    #[must_use]
    pub fn version_at(&self, page: u32, at: GuestTime) -> u64 {
        self.model.version_at(page, at)
    }

    /// Whether that version holds nothing but zeros.
    #[must_use]
    pub fn is_zero(&self, page: u32, version: u64) -> bool {
        self.contents.is_zero(page, version)
    }

    /// The version whose content a version of a page that is not zero has: itself, or 0 where the write
    /// changed nothing.
    #[must_use]
    pub fn content_version(&self, page: u32, version: u64) -> u64 {
        self.contents.content_version(page, version)
    }

    /// The two parts of a page that is not zero.
    #[must_use]
    pub fn page(&self, page: u32, version: u64) -> (Stamp, &[u8]) {
        self.contents.page(page, version)
    }

    /// Version of the content that received bytes hold, if they are this page of this guest.
    ///
    /// # Errors
    /// When they are not.
    pub fn verify(&self, bytes: &[u8], page: u32) -> Result<u64, ContentError> {
        self.contents.verify(bytes, page)
    }

    /// Versions after ten seconds and bodies of 64 pages spread over RAM.
    fn fingerprint(&self) -> u64 {
        let at = GuestTime {
            cpu_ns: 10_000_000_000,
            run_ns: 10_000_000_000,
        };
        let (mut writes, mut contents) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
        let step = (self.pages() / 64).max(1);
        for page in (0..self.pages()).step_by(step as usize) {
            let version = self.version_at(page, at);
            writes.update(&version.to_le_bytes());
            contents.update(&self.page(page, version).0.encode());
            contents.update(&[u8::from(self.is_zero(page, version))]);
        }
        contents.update(&self.pages().to_le_bytes());
        (u64::from(writes.finalize()) << 32) | u64::from(contents.finalize())
    }
}
