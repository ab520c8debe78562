//! The CPU and RAM of an emulated host, shared by its VMs.
//!
//! Inside: an event-driven integrator in trace time. Between changes (a step of some VM's trace, a
//! backlog running empty, a pause, an arrival, a throttle) every rate is constant, so a host
//! nobody asks costs nothing, and advancing in one call or in a thousand ends in the same state to
//! the unit. Never inside: deciding what to move, the CPU of this computer.

mod fair;
mod lane;
mod requests;
mod spec;
mod values;
mod vm;
mod work;

use std::collections::BTreeMap;

pub use lane::LaneState;
pub use requests::{Progress, RequestState, Ticket};
pub use spec::{HostError, HostLoad, HostSpec, HostTotals};
pub use values::{BatchPosition, VmLoad, VmSpec, VmState, VmTotals};
pub use vm::GuestClock;
pub use work::{CoreWork, Throttle, ThrottleError, Work};

use self::fair::Claim;
use self::vm::VmRun;
use self::work::PER_MILLI;
use crate::clock::TraceNs;
use crate::guest::GuestTime;

/// Most a VM can use, whatever its vCPUs: 72 million cores. Keeps products of rates in 128 bits.
const MOST_OF_A_VM: u64 = 1 << 56;

/// A host and its VMs at a trace instant.
#[derive(Debug, Clone)]
pub struct Host {
    spec: HostSpec,
    now: u64,
    /// Since when the shares in force are.
    since: u64,
    vms: BTreeMap<u64, VmRun>,
    next_change: u64,
    /// Taken by the host itself (migrations), in thousandths of a reference core.
    overhead_milli: u64,
    totals: HostTotals,
    pressed: bool,
}

impl Host {
    /// An empty host at a trace instant.
    #[must_use]
    pub fn new(spec: HostSpec, now: TraceNs) -> Self {
        Self {
            spec,
            now: now.0,
            since: now.0,
            vms: BTreeMap::new(),
            next_change: u64::MAX,
            overhead_milli: 0,
            totals: HostTotals::default(),
            pressed: false,
        }
    }

    /// The host as described.
    #[must_use]
    pub fn spec(&self) -> &HostSpec {
        &self.spec
    }

    /// Where the host is in trace time.
    #[must_use]
    pub fn now(&self) -> TraceNs {
        TraceNs(self.now)
    }

    /// The next instant at which some rate changes of itself.
    #[must_use]
    pub fn next_change(&self) -> TraceNs {
        TraceNs(self.next_change)
    }

    /// Brings the host to a trace instant.
    ///
    /// # Errors
    /// When the instant has passed.
    pub fn advance(&mut self, to: TraceNs) -> Result<(), HostError> {
        if to.0 < self.now {
            return Err(HostError::Passed {
                now: self.now,
                asked: to.0,
            });
        }
        while self.next_change <= to.0 {
            self.now = self.next_change;
            self.settle();
            self.share_out();
        }
        self.now = to.0;
        Ok(())
    }

    /// Takes in a VM, paused; [`Host::resume`] starts it. A VM that comes from another host gets
    /// its demand of the time between, as far as its backlog holds it.
    ///
    /// # Errors
    /// When it is here already, has no vCPUs or weight, or its RAM does not fit.
    pub fn insert(&mut self, spec: VmSpec, state: VmState) -> Result<(), HostError> {
        self.admits(&spec)?;
        // Below 2^32 × 10^6 < 2^52, and times the vCPUs not above the most of a VM.
        let core = u64::from(self.spec.speed_milli) * PER_MILLI;
        let core = core.min(MOST_OF_A_VM / u64::from(spec.vcpus));
        self.settle();
        self.vms
            .insert(spec.key, VmRun::new(spec, state, core, self.now));
        self.share_out();
        Ok(())
    }

    /// Whether the host would take a VM.
    ///
    /// # Errors
    /// As [`Host::insert`].
    pub fn admits(&self, spec: &VmSpec) -> Result<(), HostError> {
        let vm = spec.key;
        if self.vms.contains_key(&vm) {
            return Err(HostError::Present { vm });
        }
        let (vcpus, traces) = (spec.vcpus, spec.cpu.len());
        let lanes = traces == 1 || u32::try_from(traces) == Ok(vcpus);
        if vcpus == 0 || spec.weight == 0 || !lanes {
            return Err(HostError::Shape {
                vm,
                vcpus,
                weight: spec.weight,
                traces,
            });
        }
        let (used, cores) = (self.used_vcpus(), self.spec.cores);
        if let (Some(admitted), Some(overcommit_milli)) =
            (self.spec.admitted_vcpus(), self.spec.cpu_overcommit_milli)
            && used + u64::from(vcpus) > admitted
        {
            return Err(HostError::Vcpus {
                vm,
                vcpus,
                used,
                admitted,
                cores,
                overcommit_milli,
            });
        }
        let (admitted_pages, ram_pages) = (self.spec.admitted_pages(), self.spec.ram_pages);
        let overcommit_milli = self.spec.ram_overcommit_milli;
        let used_pages = self.used_pages();
        let needed_pages = u64::from(spec.memory.ram_pages);
        if used_pages + needed_pages > admitted_pages {
            return Err(HostError::Ram {
                vm,
                needed_pages,
                used_pages,
                admitted_pages,
                ram_pages,
                overcommit_milli,
            });
        }
        Ok(())
    }

    /// RAM of the VMs here, in pages.
    #[must_use]
    pub fn used_pages(&self) -> u64 {
        self.vms
            .values()
            .map(|vm| u64::from(vm.spec.memory.ram_pages))
            .sum()
    }

    /// vCPUs of the VMs here.
    #[must_use]
    pub fn used_vcpus(&self) -> u64 {
        self.vms.values().map(|vm| u64::from(vm.spec.vcpus)).sum()
    }

    /// Takes a VM out, with what moves with it. It no longer runs.
    ///
    /// # Errors
    /// When it is not here.
    pub fn remove(&mut self, vm: u64) -> Result<(VmSpec, VmState), HostError> {
        let state = self.state(vm)?;
        self.settle();
        let run = self.vms.remove(&vm).ok_or(HostError::Absent { vm })?;
        self.share_out();
        Ok((run.spec, state))
    }

    /// Stops a VM; doing so twice changes nothing.
    ///
    /// # Errors
    /// When it is not here.
    pub fn pause(&mut self, vm: u64) -> Result<GuestTime, HostError> {
        self.change(vm, |run| run.paused = true)
    }

    /// Lets a VM run; doing so twice changes nothing.
    ///
    /// # Errors
    /// When it is not here.
    pub fn resume(&mut self, vm: u64) -> Result<GuestTime, HostError> {
        self.change(vm, |run| run.paused = false)
    }

    /// A vCPU of a VM begins or ceases to wait: it does nothing while it does, and its own time stands still. A VM
    /// of which every vCPU waits stands still as a whole.
    ///
    /// # Errors
    /// When it is not here.
    pub fn set_waits(&mut self, vm: u64, vcpu: u32, waits: bool) -> Result<(), HostError> {
        self.change(vm, |run| run.set_waits(vcpu, waits)).map(drop)
    }

    /// Sets a VM's throttle.
    ///
    /// # Errors
    /// When it is not here.
    pub fn set_throttle(&mut self, vm: u64, throttle: Throttle) -> Result<GuestTime, HostError> {
        self.change(vm, |run| run.throttle = throttle)
    }

    /// Sets what the host itself takes before its VMs: the cost of migrations, from an engine's
    /// cost table.
    pub fn set_overhead_milli(&mut self, milli: u64) {
        self.settle();
        self.overhead_milli = milli;
        self.share_out();
    }

    /// A VM is asked to do some work, `cpu_ns` of a reference core; it is on its way from now on.
    ///
    /// # Errors
    /// When it is not here.
    pub fn ask(&mut self, vm: u64, cpu_ns: u64) -> Result<Ticket, HostError> {
        self.settle();
        let run = self.vms.get_mut(&vm).ok_or(HostError::Absent { vm })?;
        let ticket = run.ask(CoreWork::of(work::PER_CORE, cpu_ns));
        // What was asked for is this host's from here on: it is not in the accounts as settled.
        self.totals.demand += CoreWork::of(work::PER_CORE, cpu_ns);
        self.share_out();
        Ok(ticket)
    }

    /// How far a request is.
    ///
    /// # Errors
    /// When the VM is not here: its requests are lost.
    pub fn progress(&self, vm: u64, ticket: Ticket) -> Result<Progress, HostError> {
        Ok(match self.run(vm)?.served_at(ticket) {
            Some(at) if at <= self.now => Progress::Served,
            Some(at) => Progress::At(TraceNs(at.min(self.next_change))),
            None => Progress::Stalled,
        })
    }

    /// A request has been answered, or given up; those that are left have a vCPU less to be served
    /// by.
    ///
    /// # Errors
    /// When the VM is not here.
    pub fn answered(&mut self, vm: u64) -> Result<(), HostError> {
        self.change(vm, VmRun::answered).map(drop)
    }

    fn change(&mut self, vm: u64, act: impl FnOnce(&mut VmRun)) -> Result<GuestTime, HostError> {
        self.settle();
        act(self.vms.get_mut(&vm).ok_or(HostError::Absent { vm })?);
        self.share_out();
        Ok(self.state(vm)?.guest_time())
    }

    fn run(&self, vm: u64) -> Result<&VmRun, HostError> {
        self.vms.get(&vm).ok_or(HostError::Absent { vm })
    }

    /// The VMs here, by key.
    pub fn vms(&self) -> impl Iterator<Item = &VmSpec> {
        self.vms.values().map(|run| &run.spec)
    }

    /// vCPUs of a VM.
    ///
    /// # Errors
    /// When it is not here.
    pub fn vcpus(&self, vm: u64) -> Result<u32, HostError> {
        Ok(self.run(vm)?.spec.vcpus)
    }

    /// A VM's state now.
    ///
    /// # Errors
    /// When it is not here.
    pub fn state(&self, vm: u64) -> Result<VmState, HostError> {
        Ok(self.run(vm)?.state_at(self.now))
    }

    /// What a VM asks and gets now.
    ///
    /// # Errors
    /// When it is not here.
    pub fn vm_load(&self, vm: u64) -> Result<VmLoad, HostError> {
        Ok(self.run(vm)?.load(self.now))
    }

    /// Whether a VM stands still: it is paused, or every vCPU of it waits.
    ///
    /// # Errors
    /// When it is not here.
    pub fn is_paused(&self, vm: u64) -> Result<bool, HostError> {
        Ok(self.run(vm)?.stands())
    }

    /// A VM's guest time as a function of trace time, up to the next change of this host.
    ///
    /// # Errors
    /// When it is not here.
    pub fn guest_clock(&self, vm: u64) -> Result<GuestClock, HostError> {
        Ok(self.run(vm)?.clock(self.next_change))
    }

    /// A VM's guest time at an instant between now and the next change; `None` beyond.
    ///
    /// # Errors
    /// When the VM is not here, or the instant has passed.
    pub fn guest_time_at(&self, vm: u64, at: TraceNs) -> Result<Option<GuestTime>, HostError> {
        if at.0 < self.now {
            return Err(HostError::Passed {
                now: self.now,
                asked: at.0,
            });
        }
        Ok(self.guest_clock(vm)?.at(at))
    }

    /// What the host is doing now.
    #[must_use]
    pub fn load(&self) -> HostLoad {
        let sum =
            |rate: fn(&VmLoad) -> u64| self.vms.values().map(|run| rate(&run.load(self.now))).sum();
        let granted: u64 = self.vms.values().map(VmRun::grant).sum();
        let mut totals = self.totals;
        for run in self.vms.values() {
            totals.add(run.settled(), &run.state_at(self.now).totals);
        }
        if self.pressed {
            totals.pressure_some_ns += self.now - self.since;
        }
        HostLoad {
            capacity_milli: self.capacity_milli(),
            demand_milli: sum(|load| load.demand_milli),
            granted_milli: granted / PER_MILLI,
            totals,
        }
    }

    fn capacity_milli(&self) -> u64 {
        u64::from(self.spec.cores) * u64::from(self.spec.speed_milli)
    }

    /// Moves every VM's state to `now`, under the shares in force.
    fn settle(&mut self) {
        if self.pressed {
            self.totals.pressure_some_ns += self.now - self.since;
        }
        self.since = self.now;
        for run in self.vms.values_mut() {
            let before = *run.settled();
            run.settle(self.now);
            self.totals.add(&before, run.settled());
        }
    }

    /// Shares the capacity out anew for the states as they are.
    fn share_out(&mut self) {
        self.vms.values_mut().for_each(VmRun::refresh);
        let claims: Vec<Claim> = self
            .vms
            .values()
            .map(|run| Claim {
                want: run.want(),
                weight: run.spec.weight,
            })
            .collect();
        let room = self.capacity_milli().saturating_sub(self.overhead_milli);
        let shares = fair::shares(room.saturating_mul(PER_MILLI), &claims);
        self.pressed = claims
            .iter()
            .zip(&shares)
            .any(|(claim, &share)| share < claim.want);
        for (run, share) in self.vms.values_mut().zip(shares) {
            run.set_grant(share);
        }
        self.next_change = self
            .vms
            .values()
            .map(VmRun::own_change)
            .min()
            .unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests;
