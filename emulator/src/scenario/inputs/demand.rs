//! The CPU demand a VM replays: scaled, and resampled within the intervals of its trace.

use super::Inputs;
use super::guest::{SpecError, vm_key};
use crate::ids::VmId;
use crate::scenario::{CpuDemand, CpuSource, VmSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use traces::cpu::CpuTrace;
use traces::resample::{Options, Resample, TooMany, resample};

/// Demand that cannot be resampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// No interval of the trace has a maximum.
    #[error(
        "VM `{vm}` resamples `{trace}` by `spread`, and no interval of it has a recorded maximum"
    )]
    NoSpread {
        /// The VM.
        vm: String,
        /// The trace.
        trace: String,
    },
    /// Too fine.
    #[error("VM `{vm}` cannot replay `{trace}` at this resolution: {source}")]
    TooFine {
        /// The VM.
        vm: String,
        /// The trace.
        trace: String,
        /// Why.
        source: TooMany,
    },
}

impl DemandError {
    /// What to do about it.
    pub(in crate::scenario) fn remedy(&self) -> &'static str {
        match self {
            Self::NoSpread { .. } => {
                "use resample = \"linear\", or a trace with minimum and maximum"
            }
            Self::TooFine { .. } => "use a longer `resolution`",
        }
    }
}

/// What makes one replayed trace differ from another of the same recording.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    trace: String,
    scale_milli: u32,
    resample: Resample,
    resolution_ns: u64,
    cap_milli: u32,
    seed: u64,
}

/// Demand as VMs replay it, each made once.
#[derive(Debug, Default)]
pub(super) struct Demands {
    traces: BTreeMap<Made, Arc<CpuTrace>>,
    constant: BTreeMap<u32, Arc<CpuTrace>>,
}

impl Demands {
    /// One trace of all vCPUs, or one for each.
    pub(super) fn of(
        &mut self,
        inputs: &Inputs,
        seed: u64,
        (id, vm): (VmId, &VmSpec),
    ) -> Result<Vec<Arc<CpuTrace>>, SpecError> {
        let vcpus = if vm.cpu.len() == 1 { vm.vcpus } else { 1 };
        let each = (0u64..).zip(&vm.cpu).map(|(vcpu, demand)| {
            let name = match &demand.source {
                CpuSource::Constant(milli) => return Ok(self.constant(scaled(*milli, demand))),
                CpuSource::Trace(name) => name,
            };
            let input = inputs.get(name).ok_or_else(|| SpecError::NotLoaded {
                vm: vm.name.clone(),
                trace: name.clone(),
                part: "CPU demand",
            })?;
            // VMs that replay one recording vary independently within its intervals.
            let seed = match demand.resample {
                Resample::Spread => draw(seed, vm_key(id), vcpu),
                Resample::Hold | Resample::Linear => 0,
            };
            let made = Made {
                trace: name.clone(),
                scale_milli: demand.scale_milli,
                resample: demand.resample,
                resolution_ns: demand.resolution_ns,
                cap_milli: vcpus.saturating_mul(1000),
                seed,
            };
            self.made(made, &input.cpu, demand, vm)
        });
        each.collect()
    }

    fn constant(&mut self, milli: u32) -> Arc<CpuTrace> {
        let constant = || Arc::new(CpuTrace::constant(milli));
        self.constant.entry(milli).or_insert_with(constant).clone()
    }

    fn made(
        &mut self,
        made: Made,
        recorded: &Arc<CpuTrace>,
        demand: &CpuDemand,
        vm: &VmSpec,
    ) -> Result<Arc<CpuTrace>, SpecError> {
        if let Some(trace) = self.traces.get(&made) {
            return Ok(trace.clone());
        }
        let (of, trace) = (vm.name.clone(), made.trace.clone());
        if demand.resample == Resample::Spread && !recorded.has_maximum() {
            return Err(DemandError::NoSpread { vm: of, trace }.into());
        }
        let options = Options {
            kind: made.resample,
            step_ns: made.resolution_ns,
            cap_milli: made.cap_milli,
            seed: made.seed,
        };
        let replayed = match (made.scale_milli, made.resample) {
            (1000, Resample::Hold) => recorded.clone(),
            (1000, _) => Arc::new(
                resample(recorded, &options).map_err(|source| too_fine(source, &of, &trace))?,
            ),
            _ => {
                let scaled = recorded.map(|milli| scaled(milli, demand));
                let fine = resample(&scaled, &options);
                Arc::new(fine.map_err(|source| too_fine(source, &of, &trace))?)
            }
        };
        self.traces.insert(made, replayed.clone());
        Ok(replayed)
    }
}

fn too_fine(source: TooMany, vm: &str, trace: &str) -> SpecError {
    let (vm, trace) = (vm.to_owned(), trace.to_owned());
    DemandError::TooFine { vm, trace, source }.into()
}

fn scaled(milli: u32, demand: &CpuDemand) -> u32 {
    let product = u64::from(milli) * u64::from(demand.scale_milli);
    u32::try_from(product / 1000).unwrap_or(u32::MAX)
}

/// The seed of a vCPU's demand. Odd factors keep the three apart (Steele, Lea, Flood, 2014); what
/// is drawn from it is mixed.
fn draw(seed: u64, vm_key: u64, vcpu: u64) -> u64 {
    seed ^ vm_key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ vcpu.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
