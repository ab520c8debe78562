//! The run time of a host's VMs: trace time and guest time behind one lock.
//!
//! Migration threads ask for guest time while the control thread samples, so everything goes
//! through here. An instant is never asked of the host twice backwards: whoever comes second with
//! an earlier reading gets the later one's state, microseconds off and consistent.

use super::limits::Limits;
use crate::clock::mono_ns;
use crate::event::{HostSample, VmSample};
use crate::ids::{HostId, VmId};
use crate::migration::guest::{Reading, Standing, Stopped, VcpuStanding};
use crate::migration::upcoming::Limit;
use replay::Throttle;
use replay::clock::{Clock, ClockError, MonoNs, Segment, SegmentKind, TraceNs};
use replay::guest::{GuestTime, VcpuClocks};
use replay::host::{Host, HostError, HostSpec, Progress, VmSpec, VmState, VmTotals};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A host cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RuntimeError {
    /// Trace time.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A VM this agent does not have.
    #[error("{vm} is not on this host")]
    NoVm {
        /// Which.
        vm: VmId,
    },
}

/// A VM on this host.
#[derive(Debug)]
struct Resident {
    key: u64,
    /// Totals at its last sample, or when it arrived.
    sampled: VmTotals,
    sampled_trace_ns: u64,
    /// Its state was handed to a destination at this instant; what the host accounts for it
    /// beyond is the destination's.
    departing: Option<VmState>,
    /// vCPUs whose threads wait for pages.
    waiting: BTreeSet<u32>,
}

#[derive(Debug)]
struct Inner {
    id: HostId,
    clock: Clock,
    host: Host,
    /// How far guests may run that lack pages.
    limits: Limits,
    vms: BTreeMap<VmId, Resident>,
    sampled_trace_ns: u64,
    sampled_pressure_ns: u64,
    /// Samples of VMs that have left since the last sample.
    left: Vec<VmSample>,
}

/// A host's VMs in time.
#[derive(Debug)]
pub(super) struct Runtime {
    inner: Mutex<Inner>,
    /// Rates may have changed: whoever waits for a request looks again.
    changed: Condvar,
}

/// Whoever waits for a request looks at least so often.
const LOOK: Duration = Duration::from_millis(20);

impl Runtime {
    /// An empty host at trace instant 0, the clock held.
    #[must_use]
    pub(super) fn new(id: HostId, spec: HostSpec, now: MonoNs) -> Self {
        let first = Segment {
            number: 0,
            kind: SegmentKind::Hold,
            at: now,
            trace: TraceNs(0),
        };
        Self {
            inner: Mutex::new(Inner {
                id,
                clock: Clock::new(first),
                host: Host::new(spec, TraceNs(0)),
                limits: Limits::default(),
                vms: BTreeMap::new(),
                sampled_trace_ns: 0,
                sampled_pressure_ns: 0,
                left: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Has everybody who waits for a request look again.
    pub(super) fn look(&self) {
        self.changed.notify_all();
    }

    /// Has a VM do some work, `cpu_ns` of a reference core, and waits until it is served. False when
    /// the VM has left, or `gone` is set.
    pub(super) fn serve(&self, vm: VmId, cpu_ns: u64, gone: &AtomicBool) -> bool {
        let mut inner = self.lock();
        let Ok(key) = inner.resident(vm).map(|resident| resident.key) else {
            return false;
        };
        if inner.reach(MonoNs(mono_ns())).is_err() {
            return false;
        }
        let Ok(ticket) = inner.host.ask(key, cpu_ns) else {
            return false;
        };
        let served = loop {
            let now = MonoNs(mono_ns());
            if gone.load(Ordering::Acquire) || inner.reach(now).is_err() {
                break false;
            }
            let progress = match inner.host.is_paused(key) {
                Ok(false) => inner.host.progress(key, ticket),
                Ok(true) => Ok(Progress::Stalled),
                Err(error) => Err(error),
            };
            let wait = match progress {
                Err(_) => break false,
                Ok(Progress::Served) => break true,
                Ok(Progress::Stalled) => LOOK,
                Ok(Progress::At(at)) => inner.clock.mono_at(at).map_or(LOOK, |at| {
                    Duration::from_nanos(at.0.saturating_sub(now.0)).min(LOOK)
                }),
            };
            let waited = self.changed.wait_timeout(inner, wait);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        // A VM that has left has taken its requests with it.
        let _ = inner.host.answered(key);
        drop(inner);
        self.look();
        served
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every method leaves `Inner` consistent before it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a segment of trace time.
    ///
    /// # Errors
    /// When it is out of order.
    pub(super) fn begin(&self, segment: Segment) -> Result<(), RuntimeError> {
        let mut inner = self.lock();
        inner.clock.begin(segment)?;
        inner.advance(segment.trace)?;
        self.look();
        Ok(())
    }

    /// Jumps to a trace instant; the clock is held there. `now` may lie before the begin of a
    /// segment that was announced ahead: the jump then comes right after it.
    ///
    /// # Errors
    /// When the instant has passed.
    pub(super) fn jump(&self, number: u64, to: TraceNs, now: MonoNs) -> Result<(), RuntimeError> {
        let at = now.max(self.lock().clock.current().at);
        self.begin(Segment {
            number,
            kind: SegmentKind::Hold,
            at,
            trace: to,
        })
    }

    /// Takes in a VM as it is when the run begins, and starts it.
    ///
    /// # Errors
    /// When the host does not admit it.
    pub(super) fn place(&self, vm: VmId, spec: VmSpec) -> Result<(), RuntimeError> {
        let begun = VmState::begun(&spec);
        self.lock().arrive(vm, spec, begun).map(drop)
    }

    /// Takes in a VM that comes from another host, and starts it. Returns its guest time.
    ///
    /// # Errors
    /// When the host does not admit it.
    pub(super) fn receive(
        &self,
        vm: VmId,
        spec: VmSpec,
        state: VmState,
        now: MonoNs,
    ) -> Result<GuestTime, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        inner.arrive(vm, spec, state)
    }

    /// Whether the host would take a VM.
    ///
    /// # Errors
    /// When not, with the reason.
    pub(super) fn admits(&self, spec: &VmSpec) -> Result<(), RuntimeError> {
        Ok(self.lock().host.admits(spec)?)
    }

    /// The VM's guest time now.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn guest_time(&self, vm: VmId, now: MonoNs) -> Result<GuestTime, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        Ok(inner.host.state(inner.resident(vm)?.key)?.guest_time())
    }

    /// How far a vCPU has come, for threads that only write while trace time runs: `None` while it does not, and when
    /// the VM is not here.
    pub(super) fn running_vcpu_time(&self, vm: VmId, vcpu: u32, now: MonoNs) -> Option<GuestTime> {
        let mut inner = self.lock();
        let segment = inner.clock.current();
        if segment.kind != SegmentKind::Run || segment.at > now {
            return None;
        }
        inner.reach(now).ok()?;
        let key = inner.resident(vm).ok()?.key;
        let clock = inner.host.guest_clock(key).ok()?;
        clock.vcpu_at(vcpu, inner.host.now())
    }

    /// Stops the VM; returns its guest time.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn pause(&self, vm: VmId, now: MonoNs) -> Result<GuestTime, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let key = inner.resident(vm)?.key;
        self.look();
        Ok(inner.host.pause(key)?)
    }

    /// Lets the VM run again here: nothing was handed over, or it was taken back.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn resume(&self, vm: VmId, now: MonoNs) -> Result<GuestTime, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let resident = inner.vms.get_mut(&vm).ok_or(RuntimeError::NoVm { vm })?;
        resident.departing = None;
        let key = resident.key;
        self.look();
        Ok(inner.host.resume(key)?)
    }

    /// Takes this percentage of the VM's CPU time; more than 99 is 99.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn throttle(&self, vm: VmId, percent: u8, now: MonoNs) -> Result<(), RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let key = inner.resident(vm)?.key;
        let throttle = Throttle::new(percent.min(99)).expect("at most 99");
        inner.host.set_throttle(key, throttle)?;
        Ok(())
    }

    /// A vCPU's thread waits for a page, and its own time stands; or it has caught up, and its time goes on, if it stood.
    ///
    /// # Errors
    /// When trace time would go back.
    pub(super) fn set_vcpu_waits(
        &self,
        vm: VmId,
        vcpu: u32,
        waits: bool,
        now: MonoNs,
    ) -> Result<(), RuntimeError> {
        let mut inner = self.lock();
        // A VM that has left waits for nothing.
        let Some(resident) = inner.vms.get_mut(&vm) else {
            return Ok(());
        };
        let changed = match waits {
            true => resident.waiting.insert(vcpu),
            false => resident.waiting.remove(&vcpu),
        };
        let key = resident.key;
        if changed {
            inner.reach(now)?;
            inner.host.set_waits(key, vcpu, waits)?;
            self.look();
        }
        Ok(())
    }

    /// How far a VM has come, and its vCPUs.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn reading(&self, vm: VmId, now: MonoNs) -> Result<Reading, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        Ok(Reading::from(&inner.host.state(inner.resident(vm)?.key)?))
    }

    /// The VMs here, paused ones too.
    pub(super) fn vms(&self) -> Vec<VmId> {
        self.lock().vms.keys().copied().collect()
    }

    /// How far vCPUs of a guest may run that is here, or will be: see [`DestinationGuest::run_within`].
    ///
    /// [`DestinationGuest::run_within`]: crate::migration::guest::DestinationGuest::run_within
    ///
    /// # Errors
    /// When trace time would go back.
    pub(super) fn run_within(
        &self,
        key: u64,
        limits: &[(usize, Limit)],
        now: MonoNs,
    ) -> Result<(), RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let inner = &mut *inner;
        inner.limits.set(&mut inner.host, key, limits)?;
        self.look();
        Ok(())
    }

    /// How far such a guest has come.
    ///
    /// # Errors
    /// When trace time would go back.
    pub(super) fn standing(&self, vm: VmId, now: MonoNs) -> Result<Standing, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let Ok(key) = inner.resident(vm).map(|resident| resident.key) else {
            return Ok(Standing::Gone);
        };
        let clock = inner.host.guest_clock(key)?;
        let mono = |at: TraceNs| inner.clock.mono_at(at);
        let standing = |vcpu: u32| {
            let stop = inner.limits.stop(key, vcpu as usize);
            Some(VcpuStanding {
                time: clock.vcpu_at(vcpu, inner.host.now())?,
                stopped: stop.map(|stop| Stopped {
                    clock: stop.clock,
                    since_ns: mono(stop.since).map_or(now.0, |at| at.0.min(now.0)),
                }),
            })
        };
        let vcpus = inner.host.vcpus(key)?;
        let reaches = inner.limits.reaches(&inner.host, key)?;
        Ok(Standing::Here {
            vcpus: (0..vcpus).filter_map(standing).collect(),
            until_ns: reaches.and_then(mono).map_or(u64::MAX, |at| at.0),
        })
    }

    /// How far the vCPUs of a VM have come, if some have waited while others went on.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn vcpu_clocks(&self, vm: VmId) -> Result<VcpuClocks, RuntimeError> {
        let inner = self.lock();
        Ok(inner.host.state(inner.resident(vm)?.key)?.vcpus)
    }

    /// Whether a VM is here and not paused.
    pub(super) fn runs(&self, vm: VmId) -> bool {
        let inner = self.lock();
        let resident = inner.vms.get(&vm);
        resident.is_some_and(|resident| matches!(inner.host.is_paused(resident.key), Ok(false)))
    }

    /// What moves with a paused VM. It stays here, paused, until [`Runtime::release`] or
    /// [`Runtime::resume`].
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn hand_over(&self, vm: VmId, now: MonoNs) -> Result<VmState, RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let state = inner.host.state(inner.resident(vm)?.key)?;
        if let Some(resident) = inner.vms.get_mut(&vm) {
            resident.departing = Some(state.clone());
        }
        Ok(state)
    }

    /// Drops a VM that runs elsewhere now.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) fn release(&self, vm: VmId) -> Result<(), RuntimeError> {
        let mut inner = self.lock();
        let sample = inner.sample_vm(vm)?;
        self.look();
        if let Some(resident) = inner.vms.remove(&vm) {
            inner.limits.forget(resident.key);
            inner.host.remove(resident.key)?;
        }
        inner.left.push(sample);
        Ok(())
    }

    /// What happened since the last sample, up to a monotonic instant. Returns the trace instant.
    ///
    /// # Errors
    /// When trace time would go back.
    pub(super) fn sample(
        &self,
        now: MonoNs,
    ) -> Result<(u64, HostSample, Vec<VmSample>), RuntimeError> {
        let mut inner = self.lock();
        inner.reach(now)?;
        let trace_ns = inner.host.now().0;
        let mut vms = std::mem::take(&mut inner.left);
        for vm in inner.vms.keys().copied().collect::<Vec<_>>() {
            vms.push(inner.sample_vm(vm)?);
        }
        let pressure_ns = inner.host.load().totals.pressure_some_ns;
        let host = HostSample {
            host: inner.id,
            span_ns: trace_ns - inner.sampled_trace_ns,
            demand_core_ns: vms.iter().map(|vm| vm.demand_core_ns).sum(),
            granted_core_ns: vms.iter().map(|vm| vm.granted_core_ns).sum(),
            pressure_some_ns: pressure_ns - inner.sampled_pressure_ns,
            ram_used_bytes: inner.host.used_pages() * traces::units::PAGE_SIZE,
            vms: u32::try_from(inner.vms.len()).unwrap_or(u32::MAX),
        };
        inner.sampled_trace_ns = trace_ns;
        inner.sampled_pressure_ns = pressure_ns;
        Ok((trace_ns, host, vms))
    }
}

impl Inner {
    /// Brings the host to an instant, if it is not beyond it already.
    fn reach(&mut self, now: MonoNs) -> Result<(), RuntimeError> {
        self.advance(self.clock.trace_at(now))
    }

    /// Brings the host to a trace instant, if it is not beyond it already.
    fn advance(&mut self, to: TraceNs) -> Result<(), RuntimeError> {
        Ok(self.limits.advance(&mut self.host, to)?)
    }

    fn resident(&self, vm: VmId) -> Result<&Resident, RuntimeError> {
        self.vms.get(&vm).ok_or(RuntimeError::NoVm { vm })
    }

    fn arrive(
        &mut self,
        vm: VmId,
        spec: VmSpec,
        state: VmState,
    ) -> Result<GuestTime, RuntimeError> {
        let key = spec.key;
        let sampled = state.totals;
        let sampled_trace_ns = state.left_at.map_or(self.host.now().0, |left| left.0);
        self.host.insert(spec, state)?;
        let guest_time = self.host.resume(key)?;
        self.vms.insert(
            vm,
            Resident {
                key,
                sampled,
                sampled_trace_ns,
                departing: None,
                waiting: BTreeSet::new(),
            },
        );
        Ok(guest_time)
    }

    fn sample_vm(&mut self, vm: VmId) -> Result<VmSample, RuntimeError> {
        let host = self.id;
        let key = self.resident(vm)?.key;
        let current = self.host.state(key)?;
        let now_ns = self.host.now().0;
        let resident = self.vms.get_mut(&vm).ok_or(RuntimeError::NoVm { vm })?;
        let (state, until_ns) = match &resident.departing {
            Some(state) => (state.clone(), state.left_at.map_or(now_ns, |left| left.0)),
            None => (current, now_ns),
        };
        let (before, after) = (resident.sampled, state.totals);
        let sample = VmSample {
            vm,
            host,
            span_ns: until_ns.saturating_sub(resident.sampled_trace_ns),
            demand_core_ns: after.demand.core_ns() - before.demand.core_ns(),
            granted_core_ns: after.granted.core_ns() - before.granted.core_ns(),
            lost_core_ns: after.lost.core_ns() - before.lost.core_ns(),
            paused_ns: after.paused_ns - before.paused_ns,
            guest_cpu_ns: state.cpu.core_ns(),
        };
        resident.sampled = after;
        resident.sampled_trace_ns = resident.sampled_trace_ns.max(until_ns);
        Ok(sample)
    }
}
