//! A VM's values: what it is, what moves with it, what it asks and gets.
//!
//! Never inside: how they change (`vm`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use traces::cpu::CpuTrace;

use super::lane::LaneState;
use super::requests::RequestState;
use super::work::{CoreWork, PER_MILLI, Work};
use crate::clock::TraceNs;
use crate::guest::{Deal, GuestTime, MemorySpec, VcpuClocks};

/// A VM as the scenario describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmSpec {
    /// Identifies the VM, in its draws and its pages too.
    pub key: u64,
    /// vCPUs, at least 1; none gets more than one core of its host.
    pub vcpus: u32,
    /// Weight among the VMs of a host, at least 1.
    pub weight: u32,
    /// CPU demand: of all vCPUs together, which share it as they can, or one trace for each.
    pub cpu: Vec<Arc<CpuTrace>>,
    /// Where in its CPU traces the VM is at trace instant 0.
    #[serde(default)]
    pub trace_offset_ns: u64,
    /// What happens to demand that is not served at once.
    #[serde(default)]
    pub work: Work,
    /// RAM and what writes it.
    pub memory: MemorySpec,
}

impl VmSpec {
    /// Which vCPU accesses which of its pages: as many as it has of the demand on average, if that is known.
    #[must_use]
    pub fn deal(&self) -> Deal {
        if self.cpu.len() < 2 {
            return Deal::alike(self.vcpus);
        }
        let mean_milli = |cpu: &Arc<CpuTrace>| {
            let sample = |s: &traces::cpu::CpuSample| u128::from(s.dur_ns) * u128::from(s.milli);
            let sum: u128 = cpu.samples().iter().map(sample).sum();
            u64::try_from(sum / u128::from(cpu.period_ns())).unwrap_or(u64::MAX)
        };
        let weights: Vec<u64> = self.cpu.iter().map(mean_milli).collect();
        Deal::by_weight(&weights)
    }
}

/// What has become of a VM's demand since it first started, over all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VmTotals {
    /// Asked by the trace.
    pub demand: CoreWork,
    /// Served by hosts.
    pub granted: CoreWork,
    /// What the host withheld of the demand of the moment: min(demand, what throttled vCPUs can
    /// use) − granted, where positive.
    pub steal: CoreWork,
    /// Runnable but not run, backlog included: what the guest's own `/proc/stat` would call steal.
    pub waiting: CoreWork,
    /// Given up because the backlog was full.
    pub lost: CoreWork,
    /// Time paused.
    pub paused_ns: u64,
}

/// Where a batch job stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPosition {
    /// An instant of the CPU trace, from which `done` counts.
    pub trace_ns: u64,
    /// Work done of the interval under way; in intervals without demand, nanoseconds of it.
    pub done: u128,
}

/// Everything of a VM's CPU that moves with it at the switchover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VmState {
    /// When it left its host; demand between then and its arrival is not lost. `None`: it has
    /// never run.
    pub left_at: Option<TraceNs>,
    /// CPU time served.
    pub cpu: CoreWork,
    /// Time it has run.
    pub run_ns: u64,
    /// Demand waiting and positions, in the order of [`VmSpec::cpu`].
    pub lanes: Vec<LaneState>,
    /// Requests it is answering.
    pub requests: RequestState,
    /// How far its vCPUs have come, if some have waited while others went on.
    #[serde(default)]
    pub vcpus: VcpuClocks,
    /// Accounts.
    pub totals: VmTotals,
}

impl VmState {
    /// A VM that has been at work on its trace for `trace_offset_ns` when it first comes to a
    /// host: its guest time is what that part of the trace asked for, so that page writes clocked
    /// by it begin as far in as its CPU demand does.
    #[must_use]
    pub fn begun(spec: &VmSpec) -> Self {
        let offset_ns = spec.trace_offset_ns;
        let mut work = 0_u128;
        for cpu in &spec.cpu {
            let mut at_ns = 0;
            while at_ns < offset_ns {
                let demand = cpu.demand_at(at_ns);
                let until_ns = demand.until_ns.min(offset_ns);
                work += CoreWork::of(u64::from(demand.milli) * PER_MILLI, until_ns - at_ns).0;
                at_ns = until_ns;
            }
        }
        Self {
            cpu: CoreWork(work),
            run_ns: offset_ns,
            ..Self::default()
        }
    }

    /// Demand waiting, of all lanes.
    #[must_use]
    pub fn backlog(&self) -> CoreWork {
        CoreWork(self.lanes.iter().map(|lane| lane.backlog.0).sum())
    }

    /// Guest time when it left.
    #[must_use]
    pub fn guest_time(&self) -> GuestTime {
        GuestTime {
            cpu_ns: self.cpu.core_ns(),
            run_ns: self.run_ns,
        }
    }
}

/// What a VM asks and gets at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLoad {
    /// Demand of the trace, in thousandths of a core.
    pub demand_milli: u64,
    /// What it asks of the host: more than the demand while it works off a backlog, less when
    /// throttled or paused.
    pub wanted_milli: u64,
    /// What it gets.
    pub granted_milli: u64,
    /// Demand waiting.
    pub backlog: CoreWork,
}
