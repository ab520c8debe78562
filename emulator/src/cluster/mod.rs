//! A cluster of modelled hosts, and the view a balancer has of any cluster.
//!
//! Inside: hosts of `replay` advanced together in trace time, their samples, moves with a given
//! pause, the baseline without a balancer; and the builder of views, which the real run feeds too.
//! Pure; time is an argument. Never inside: processes, sockets, clocks, deciding what to move, how
//! long a migration takes.

mod baseline;
pub mod view_builder;

pub use baseline::{Baseline, baseline};
pub use view_builder::{HostFacts, ViewBuilder};

use crate::event::{HostSample, VmSample};
use crate::ids::{HostId, VmId};
use replay::host::{HostError, HostTotals, VmTotals};
use replay::{Host, TraceNs, VmState};
use std::collections::{BTreeMap, BTreeSet};
use traces::units::PAGE_SIZE;

/// The model's host for a scenario's.
#[must_use]
pub fn host_spec(spec: &crate::scenario::HostSpec) -> replay::HostSpec {
    replay::HostSpec {
        cores: spec.cores,
        speed_milli: spec.speed_milli,
        ram_pages: spec.ram_bytes / PAGE_SIZE,
        ram_overcommit_milli: spec.ram_overcommit_milli,
        cpu_overcommit_milli: spec.cpu_overcommit_milli,
    }
}

/// Something the cluster refuses. It is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A VM that does not exist.
    #[error("{0} does not exist")]
    UnknownVm(VmId),
    /// A host that does not exist.
    #[error("{0} does not exist")]
    UnknownHost(HostId),
    /// Two VMs with one key, which the hosts tell them apart by.
    #[error("{vm} has the key {key} of another VM")]
    DuplicateKey {
        /// The second one.
        vm: VmId,
        /// The key.
        key: u64,
    },
    /// One move at a time.
    #[error("{0} is being moved already")]
    Moving(VmId),
    /// A pause that begins in the past, or ends before it begins.
    #[error("{vm} cannot be paused from {from_ns} to {to_ns} ns: the cluster is at {now_ns} ns")]
    BadPause {
        /// The VM.
        vm: VmId,
        /// Begin of the pause.
        from_ns: u64,
        /// Its end.
        to_ns: u64,
        /// Where the cluster is.
        now_ns: u64,
    },
    /// What a host refuses.
    #[error("{host}: {error}")]
    Host {
        /// Which.
        host: HostId,
        /// Why.
        #[source]
        error: HostError,
    },
}

/// When a guest stands still in a move: from its stop at the source to its start at the
/// destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Trace instant of the stop.
    pub from_ns: u64,
    /// Trace instant of the start, not earlier.
    pub to_ns: u64,
}

/// What hosts and VMs did since the last samples, up to the same instant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// End of the spans, trace ns.
    pub t_ns: u64,
    /// By host.
    pub hosts: Vec<HostSample>,
    /// By VM.
    pub vms: Vec<VmSample>,
}

#[derive(Debug, Clone)]
struct Guest {
    key: u64,
    home: HostId,
    ram_bytes: u64,
    /// In samples so far.
    sampled: VmTotals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Stop,
    Switch(HostId),
}

/// Hosts and their VMs at a trace instant.
#[derive(Debug, Clone)]
pub struct Cluster {
    now_ns: u64,
    sampled_ns: u64,
    hosts: Vec<Host>,
    /// In samples so far, by host.
    sampled: Vec<HostTotals>,
    guests: Vec<Guest>,
    /// Moves to carry out. A stop sorts before a switch of the same instant.
    agenda: BTreeSet<(u64, Change, VmId)>,
    moving: BTreeSet<VmId>,
}

impl Cluster {
    /// All VMs on their hosts, running, at a trace instant. Indices are the ids.
    ///
    /// # Errors
    /// When a host does not exist or does not admit a VM, or two VMs share a key.
    pub fn new(
        hosts: &[replay::HostSpec],
        vms: &[(replay::VmSpec, HostId)],
        now_ns: u64,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self {
            now_ns,
            sampled_ns: now_ns,
            hosts: hosts
                .iter()
                .map(|spec| Host::new(spec.clone(), TraceNs(now_ns)))
                .collect(),
            sampled: vec![HostTotals::default(); hosts.len()],
            guests: Vec::with_capacity(vms.len()),
            agenda: BTreeSet::new(),
            moving: BTreeSet::new(),
        };
        let mut keys = BTreeMap::new();
        for (vm, (spec, home)) in (0..).map(VmId).zip(vms) {
            if keys.insert(spec.key, vm).is_some() {
                return Err(ClusterError::DuplicateKey { vm, key: spec.key });
            }
            let host = cluster.hosts.get_mut(home.index());
            let host = host.ok_or(ClusterError::UnknownHost(*home))?;
            let refused = |error| ClusterError::Host { host: *home, error };
            host.insert(spec.clone(), VmState::default())
                .map_err(refused)?;
            host.resume(spec.key).map_err(refused)?;
            cluster.guests.push(Guest {
                key: spec.key,
                home: *home,
                ram_bytes: u64::from(spec.memory.ram_pages) * PAGE_SIZE,
                sampled: VmTotals::default(),
            });
        }
        Ok(cluster)
    }

    /// Where the cluster is in trace time.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Where a VM is: its source until its pause is over.
    #[must_use]
    pub fn home(&self, vm: VmId) -> Option<HostId> {
        self.guests.get(vm.index()).map(|guest| guest.home)
    }

    /// Books a move: the VM stands still during `pause` and runs at the destination from its end.
    ///
    /// # Errors
    /// When the VM, the host or the pause cannot be, or the VM has a move booked already. That the
    /// destination has room is tested at the end of the pause (see [`Cluster::advance`]).
    pub fn move_vm(
        &mut self,
        vm: VmId,
        destination: HostId,
        pause: Pause,
    ) -> Result<(), ClusterError> {
        if vm.index() >= self.guests.len() {
            return Err(ClusterError::UnknownVm(vm));
        }
        if destination.index() >= self.hosts.len() {
            return Err(ClusterError::UnknownHost(destination));
        }
        let Pause { from_ns, to_ns } = pause;
        if from_ns < self.now_ns || to_ns < from_ns {
            return Err(ClusterError::BadPause {
                vm,
                from_ns,
                to_ns,
                now_ns: self.now_ns,
            });
        }
        if !self.moving.insert(vm) {
            return Err(ClusterError::Moving(vm));
        }
        self.agenda.insert((from_ns, Change::Stop, vm));
        self.agenda.insert((to_ns, Change::Switch(destination), vm));
        Ok(())
    }

    /// Brings all hosts to a trace instant, carrying out what is booked up to and including it.
    ///
    /// # Errors
    /// When the instant has passed; when a destination has no room: the VM runs on at its source
    /// then, the cluster stands at that instant, and may be advanced again.
    pub fn advance(&mut self, to_ns: u64) -> Result<(), ClusterError> {
        while let Some(&(at_ns, change, vm)) = self.agenda.first()
            && at_ns <= to_ns
        {
            self.advance_hosts(at_ns)?;
            self.agenda.pop_first();
            match change {
                Change::Stop => self.stop(vm)?,
                Change::Switch(destination) => {
                    self.moving.remove(&vm);
                    self.switch(vm, destination)?;
                }
            }
        }
        self.advance_hosts(to_ns)
    }

    fn advance_hosts(&mut self, to_ns: u64) -> Result<(), ClusterError> {
        for (id, host) in (0..).map(HostId).zip(&mut self.hosts) {
            let refused = |error| ClusterError::Host { host: id, error };
            host.advance(TraceNs(to_ns)).map_err(refused)?;
        }
        self.now_ns = to_ns;
        Ok(())
    }

    fn stop(&mut self, vm: VmId) -> Result<(), ClusterError> {
        let guest = &self.guests[vm.index()];
        let refused = |error| ClusterError::Host {
            host: guest.home,
            error,
        };
        self.hosts[guest.home.index()]
            .pause(guest.key)
            .map(|_| ())
            .map_err(refused)
    }

    fn switch(&mut self, vm: VmId, destination: HostId) -> Result<(), ClusterError> {
        let Guest { key, home, .. } = self.guests[vm.index()];
        let at_home = |error| ClusterError::Host { host: home, error };
        let at_destination = |error| ClusterError::Host {
            host: destination,
            error,
        };
        if home != destination {
            let spec = self.hosts[home.index()]
                .vms()
                .find(|spec| spec.key == key)
                .cloned();
            let spec = spec.ok_or(at_home(HostError::Absent { vm: key }))?;
            if let Err(error) = self.hosts[destination.index()].admits(&spec) {
                self.hosts[home.index()].resume(key).map_err(at_home)?;
                return Err(at_destination(error));
            }
            let (spec, state) = self.hosts[home.index()].remove(key).map_err(at_home)?;
            self.hosts[destination.index()]
                .insert(spec, state)
                .map_err(at_destination)?;
            self.guests[vm.index()].home = destination;
        }
        self.hosts[destination.index()]
            .resume(key)
            .map(|_| ())
            .map_err(at_destination)
    }

    /// What happened since the last samples. Empty when no time has passed.
    pub fn samples(&mut self) -> Samples {
        let span_ns = self.now_ns - self.sampled_ns;
        if span_ns == 0 {
            return Samples {
                t_ns: self.now_ns,
                ..Samples::default()
            };
        }
        self.sampled_ns = self.now_ns;
        let ids: Vec<VmId> = (0..).map(VmId).take(self.guests.len()).collect();
        let vms = ids.iter().map(|&vm| self.vm_sample(vm, span_ns)).collect();
        let mut ram = vec![(0u64, 0u32); self.hosts.len()];
        for guest in &self.guests {
            let (bytes, count) = &mut ram[guest.home.index()];
            *bytes += guest.ram_bytes;
            *count += 1;
        }
        let hosts = (0..)
            .map(HostId)
            .zip(&self.hosts)
            .zip(&mut self.sampled)
            .zip(ram);
        let hosts = hosts.map(|(((id, host), sampled), (ram_used_bytes, vms))| {
            let totals = host.load().totals;
            let before = std::mem::replace(sampled, totals);
            HostSample {
                host: id,
                span_ns,
                demand_core_ns: totals.demand.core_ns() - before.demand.core_ns(),
                granted_core_ns: totals.granted.core_ns() - before.granted.core_ns(),
                pressure_some_ns: totals.pressure_some_ns - before.pressure_some_ns,
                ram_used_bytes,
                vms,
            }
        });
        Samples {
            t_ns: self.now_ns,
            hosts: hosts.collect(),
            vms,
        }
    }

    fn vm_sample(&mut self, vm: VmId, span_ns: u64) -> VmSample {
        let guest = &mut self.guests[vm.index()];
        let state = state_of(&self.hosts[guest.home.index()], guest.key);
        let before = std::mem::replace(&mut guest.sampled, state.totals);
        VmSample {
            vm,
            host: guest.home,
            span_ns,
            demand_core_ns: state.totals.demand.core_ns() - before.demand.core_ns(),
            granted_core_ns: state.totals.granted.core_ns() - before.granted.core_ns(),
            lost_core_ns: state.totals.lost.core_ns() - before.lost.core_ns(),
            paused_ns: state.totals.paused_ns - before.paused_ns,
            guest_cpu_ns: state.guest_time().cpu_ns,
        }
    }
}

fn state_of(host: &Host, key: u64) -> VmState {
    host.state(key)
        .expect("a guest's home is the host that holds it")
}

#[cfg(test)]
mod tests;
