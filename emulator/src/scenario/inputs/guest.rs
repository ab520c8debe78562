//! What a VM of a scenario replays: from its declaration and its traces to replay's own terms.

use super::Inputs;
use super::demand::{DemandError, Demands};
use crate::ids::VmId;
use crate::scenario::problem::ProblemKind;
use crate::scenario::scale::divide_phases;
use crate::scenario::{
    CpuDemand, CpuSource, FittedForm, ProfileWrites, Scenario, VmSpec, Work, WriteSource,
};
use replay::content::check_profiles;
use replay::guest::{Behaviour, MemoryError, MemoryModel, MemorySpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use traces::class::{ClassPhase, Coupling, PageClass, PhasedClasses, Variation};
use traces::dirty::{PageWriteTrace, Run, Tick};
use traces::fit::Form;
use traces::synth::{Completed, Known, complete};
use traces::units::PAGE_SIZE;

/// A VM that cannot be replayed with the inputs given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The trace, or this part of it, has not been loaded (see [`super::Needs`]).
    #[error("VM `{vm}` replays {part} of trace `{trace}`, which has not been loaded")]
    NotLoaded {
        /// The VM.
        vm: String,
        /// The trace.
        trace: String,
        /// `CPU demand`, `page sets`, `fitted classes`.
        part: &'static str,
    },
    /// Its demand.
    #[error(transparent)]
    Demand(#[from] DemandError),
    /// More RAM than 32-bit page numbers hold.
    #[error("VM `{vm}` has {ram_bytes} B of RAM, more than 2^32 pages")]
    TooLarge {
        /// The VM.
        vm: String,
        /// Its RAM.
        ram_bytes: u64,
    },
}

/// The number a VM has in pages' stamps and in random draws: the same in every run of a scenario.
/// Never 0, which is what a page that belongs to no VM holds.
#[must_use]
pub fn vm_key(vm: VmId) -> u64 {
    u64::from(vm.0) + 1
}

/// What one VM replays. For several, [`vm_specs`] shares what they have in common.
///
/// # Errors
/// When a trace of the VM has not been loaded.
pub fn vm_spec(
    scenario: &Scenario,
    inputs: &Inputs,
    vm: VmId,
) -> Result<replay::VmSpec, SpecError> {
    let mut specs = vm_specs(scenario, inputs, [vm])?;
    Ok(specs.remove(&vm).expect("asked for this one"))
}

/// What one VM replays, of a scenario whose sizes were divided by `k`: what an agent knows.
///
/// # Errors
/// When a trace of the VM has not been loaded.
pub fn vm_spec_of(
    inputs: &Inputs,
    k: u32,
    seed: u64,
    id: VmId,
    vm: &VmSpec,
) -> Result<replay::VmSpec, SpecError> {
    Shared::new(inputs, k, seed).spec(vm, id)
}

/// What VMs replay, traces shared among them. Sizes are those of the scenario given: of one that
/// [`apply`](crate::scenario::scale::apply) has divided, recordings and fitted classes are divided
/// here, by the same k.
///
/// # Errors
/// When a trace of a VM has not been loaded.
pub fn vm_specs(
    scenario: &Scenario,
    inputs: &Inputs,
    vms: impl IntoIterator<Item = VmId>,
) -> Result<BTreeMap<VmId, replay::VmSpec>, SpecError> {
    let mut shared = Shared::new(inputs, scenario.divided_by, scenario.seed);
    vms.into_iter()
        .map(|id| Ok((id, shared.spec(&scenario.vms[id.index()], id)?)))
        .collect()
}

/// Traces as VMs replay them, each made once.
struct Shared<'i> {
    inputs: &'i Inputs,
    k: u32,
    seed: u64,
    cpu: Demands,
    pages: BTreeMap<String, Arc<PageWriteTrace>>,
}

impl<'i> Shared<'i> {
    fn new(inputs: &'i Inputs, k: u32, seed: u64) -> Self {
        Self {
            inputs,
            k,
            seed,
            cpu: Demands::default(),
            pages: BTreeMap::new(),
        }
    }

    fn spec(&mut self, vm: &VmSpec, id: VmId) -> Result<replay::VmSpec, SpecError> {
        let pages = |bytes: u64| {
            u32::try_from(bytes.div_ceil(PAGE_SIZE)).map_err(|_| SpecError::TooLarge {
                vm: vm.name.clone(),
                ram_bytes: vm.ram_bytes,
            })
        };
        let (behaviours, more_resident) = self.memory(vm, id)?;
        Ok(replay::VmSpec {
            key: vm_key(id),
            vcpus: vm.vcpus,
            weight: vm.weight,
            cpu: self.cpu.of(self.inputs, self.seed, (id, vm))?,
            trace_offset_ns: vm.offset_ns,
            work: match vm.work {
                Work::Service => replay::Work::default(),
                Work::Batch => replay::Work::Batch,
                Work::Open => replay::Work::Open,
            },
            memory: MemorySpec {
                ram_pages: pages(vm.ram_bytes)?,
                resident_pages: pages(vm.resident_bytes)?.saturating_add(more_resident),
                high_pages: pages(vm.resident_high_bytes)?,
                behaviours,
                // The scenario's VMs have been at work for long when the run begins.
                fresh: false,
                content: vm.content,
            },
        })
    }

    /// What writes, and pages that hold data besides those the scenario states.
    fn memory(&mut self, vm: &VmSpec, id: VmId) -> Result<(Vec<Behaviour>, u32), SpecError> {
        let WriteSource::Profile(writes) = &vm.writes else {
            return Ok((self.behaviours(vm)?, 0));
        };
        let k = self.k.max(1);
        let completed = self.completed(vm, id, writes)?;
        let divided = |pages: u32| pages.div_ceil(k);
        let Completed {
            mut hot,
            mut cold,
            resident_pages,
            ..
        } = completed;
        for class in hot.classes_mut().chain(&mut cold) {
            class.pages = divided(class.pages);
        }
        let mut behaviours = vec![Behaviour::Phases(hot)];
        if !cold.is_empty() {
            behaviours.push(Behaviour::Classes(cold));
        }
        // Rounded down: classes were rounded up, and all must fit.
        Ok((behaviours, resident_pages / k))
    }

    /// The rules, at the full size of a VM of a divided scenario.
    fn completed(
        &self,
        vm: &VmSpec,
        id: VmId,
        writes: &ProfileWrites,
    ) -> Result<Completed, SpecError> {
        let full = |bytes: u64| {
            let pages = (bytes / PAGE_SIZE).saturating_mul(u64::from(self.k.max(1)));
            u32::try_from(pages).unwrap_or(u32::MAX)
        };
        let demand = |demand: &CpuDemand| {
            let scale = f64::from(demand.scale_milli) / 1000.0;
            match &demand.source {
                CpuSource::Constant(milli) => Ok((f64::from(*milli) * scale, None)),
                CpuSource::Trace(name) => {
                    let input = self.inputs.get(name);
                    let input = input.ok_or_else(|| not_loaded(vm, name, "CPU demand"))?;
                    Ok((input.cpu.mean_milli() * scale, input.used_bytes))
                }
            }
        };
        let each = vm
            .cpu
            .iter()
            .map(demand)
            .collect::<Result<Vec<_>, SpecError>>()?;
        let milli: f64 = each.iter().map(|(milli, _)| milli).sum();
        // Of a VM whose vCPUs have traces of their own, the first that knows it.
        let recorded = each.iter().find_map(|&(_, used)| used);
        let used = writes.used_bytes.or(recorded);
        let known = Known {
            vcpus: vm.vcpus,
            ram_pages: full(vm.ram_bytes).saturating_sub(full(vm.resident_bytes)),
            used_pages: used.map(|bytes| u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX)),
            mean_cores: milli / 1000.0,
        };
        let profile = traces::profile::named(&writes.profile)
            .ok_or_else(|| not_loaded(vm, &writes.profile, "a profile of this name"))?;
        Ok(complete(
            &profile,
            writes.marginal,
            &known,
            writes.seed,
            vm_key(id),
        ))
    }

    fn behaviours(&mut self, vm: &VmSpec) -> Result<Vec<Behaviour>, SpecError> {
        Ok(match &vm.writes {
            // Has more than one.
            WriteSource::Profile(_) | WriteSource::Idle => vec![Behaviour::Idle],
            // `apply` has divided these.
            WriteSource::Classes(classes) => vec![Behaviour::Classes(classes.clone())],
            WriteSource::Phases(phased) => vec![Behaviour::Phases(phased.clone())],
            WriteSource::Fitted(name)
            | WriteSource::FittedPhases(name)
            | WriteSource::FittedBest(name) => self.fitted(vm, name)?,
            WriteSource::Pages(name) => vec![self.recorded(vm, name)?],
        })
    }

    /// The form of a fit that a VM asks for.
    fn fitted(&mut self, vm: &VmSpec, name: &str) -> Result<Vec<Behaviour>, SpecError> {
        let fitted = self.inputs.get(name).and_then(|i| i.fitted.as_ref());
        let fitted = fitted.ok_or_else(|| not_loaded(vm, name, "fitted classes"))?;
        let form = match vm.writes.fitted() {
            // A bundle's profile is one class set whatever is asked for.
            _ if fitted.phases.is_none() => Form::Classes,
            Some((_, FittedForm::Phases)) => Form::Phases,
            Some((_, FittedForm::Best)) => fitted.best.unwrap_or(Form::Classes),
            Some((_, FittedForm::OneSet)) | None => Form::Classes,
        };
        let k = self.k.max(1);
        match (form, &fitted.phases) {
            (Form::PageLevel, _) => return Ok(vec![self.recorded(vm, name)?]),
            (Form::Phases | Form::VariedPhases, Some(phases)) => {
                let mut phases = phases.clone();
                divide_phases(&mut phases, k);
                return Ok(vec![Behaviour::Phases(phases)]);
            }
            _ => {}
        }
        let divided = |c: &PageClass| PageClass {
            pages: c.pages.div_ceil(k),
            ..*c
        };
        let classes: Vec<PageClass> = fitted.classes.iter().map(divided).collect();
        Ok(match &fitted.variation {
            None => vec![Behaviour::Classes(classes)],
            Some(variation) => varied(classes, variation),
        })
    }

    /// The recorded page sets.
    fn recorded(&mut self, vm: &VmSpec, name: &str) -> Result<Behaviour, SpecError> {
        let k = self.k.max(1);
        let pages = self.inputs.get(name).and_then(|input| input.pages.as_ref());
        let pages = pages.ok_or_else(|| not_loaded(vm, name, "page sets"))?;
        if k == 1 {
            return Ok(repeated(pages.clone()));
        }
        let made = self.pages.entry(name.to_owned());
        let trace = made.or_insert_with(|| Arc::new(thinned(pages, k)));
        Ok(repeated(trace.clone()))
    }
}

fn not_loaded(vm: &VmSpec, trace: &str, part: &'static str) -> SpecError {
    SpecError::NotLoaded {
        vm: vm.name.clone(),
        trace: trace.to_owned(),
        part,
    }
}

/// Classes whose rates vary: one behaviour a clock. Cold ones, written less than once in ten minutes,
/// do not vary noticeably and stay as they are.
fn varied(classes: Vec<PageClass>, variation: &Variation) -> Vec<Behaviour> {
    const COLD_PER_S: f64 = 1.0 / 600.0;
    let (cold, hot): (Vec<_>, Vec<_>) = classes
        .into_iter()
        .partition(|class| class.coupling == Coupling::Time && class.rate < COLD_PER_S);
    let mut behaviours: Vec<Behaviour> = [Coupling::Cpu, Coupling::Time]
        .into_iter()
        .filter_map(|coupling| {
            let of: Vec<_> = hot
                .iter()
                .filter(|c| c.coupling == coupling)
                .copied()
                .collect();
            (!of.is_empty()).then(|| {
                Behaviour::Phases(PhasedClasses {
                    coupling,
                    phases: vec![ClassPhase {
                        // One phase for ever.
                        length_ns: 3_600_000_000_000,
                        first_page: 0,
                        classes: of,
                        variation: Some(variation.clone()),
                    }],
                })
            })
        })
        .collect();
    if !cold.is_empty() {
        behaviours.push(Behaviour::Classes(cold));
    }
    behaviours
}

/// A recording, repeated without its first tick: that one holds everything touched before the
/// recorder attached. Ticks pass with the CPU time the guest is served, as they did when recorded;
/// with time only where the recorder knew no CPU time.
fn repeated(trace: Arc<PageWriteTrace>) -> Behaviour {
    let loop_from_ns = trace.ticks.first().map_or(0, |tick| tick.t_ns);
    let cpu_used = trace.ticks.iter().skip(1).any(|tick| tick.cpu_ns > 0);
    let coupling = if cpu_used {
        Coupling::Cpu
    } else {
        Coupling::Time
    };
    Behaviour::Pages {
        trace,
        coupling,
        loop_from_ns,
    }
}

/// Every k-th page of a recording. What a kept page does, it does at the instants recorded.
fn thinned(trace: &PageWriteTrace, k: u32) -> PageWriteTrace {
    let kept = |runs: &[Run]| {
        let mut kept: Vec<Run> = Vec::new();
        for run in runs {
            // The multiples of k in a run are consecutive once divided by k.
            let (start, end) = (run.start.div_ceil(k), (run.start + run.len).div_ceil(k));
            match kept.last_mut() {
                Some(last) if last.start + last.len == start => last.len += end - start,
                _ if end > start => kept.push(Run {
                    start,
                    len: end - start,
                }),
                _ => {}
            }
        }
        kept
    };
    let tick = |tick: &Tick| Tick {
        runs: kept(&tick.runs),
        ..*tick
    };
    PageWriteTrace {
        title: trace.title.clone(),
        pages: trace.pages.div_ceil(k),
        interval_ns: trace.interval_ns,
        ticks: trace.ticks.iter().map(tick).collect(),
    }
}

/// The VMs whose memory cannot be what their declaration and their traces say, and why. VMs that
/// are alike are reported once.
#[must_use]
pub fn unfit(scenario: &Scenario, inputs: &Inputs) -> Vec<(VmId, ProblemKind)> {
    let mut unfit = Vec::new();
    let mut seen: Option<&VmSpec> = None;
    for (id, vm) in (0..).map(VmId).zip(&scenario.vms) {
        let alike = |other: &VmSpec| {
            (other.ram_bytes, other.resident_bytes) == (vm.ram_bytes, vm.resident_bytes)
                && other.resident_high_bytes == vm.resident_high_bytes
                && (&other.writes, &other.cpu, other.content) == (&vm.writes, &vm.cpu, vm.content)
        };
        if seen.is_some_and(alike) {
            continue;
        }
        seen = Some(vm);
        let spec = match vm_spec(scenario, inputs, id) {
            Ok(spec) => spec,
            Err(SpecError::Demand(error)) => {
                unfit.push((id, error.into()));
                continue;
            }
            Err(error) => panic!("a scenario's inputs hold all its traces: {error}"),
        };
        let (name, ram_bytes) = (vm.name.clone(), vm.ram_bytes);
        match MemoryModel::new(&spec.memory, scenario.seed, spec.key) {
            Ok(_) => {
                if let Err(source) = check_profiles(&spec.memory) {
                    unfit.push((id, ProblemKind::Content { vm: name, source }));
                }
            }
            Err(MemoryError::TooSmall { needed, .. }) => {
                let needed_bytes = needed * PAGE_SIZE;
                unfit.push((
                    id,
                    ProblemKind::Memory {
                        vm: name,
                        needed_bytes,
                        ram_bytes,
                    },
                ));
            }
            Err(source) => unfit.push((id, ProblemKind::Behaviour { vm: name, source })),
        }
    }
    unfit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_every_kth_page_and_its_ticks() {
        let run = |start, len| Run { start, len };
        let tick = |t_ns, runs: &[Run]| Tick {
            t_ns,
            cpu_ns: 7,
            runs: runs.to_vec(),
        };
        let trace = PageWriteTrace {
            title: "t".into(),
            pages: 10,
            interval_ns: 5,
            ticks: vec![
                tick(0, &[run(0, 10)]),
                tick(5, &[run(1, 2), run(4, 2), run(8, 2)]),
            ],
        };
        let third = thinned(&trace, 3);
        assert_eq!(third.check(), Ok(()));
        // Pages 0, 3, 6, 9 are kept; the second tick writes 1, 2, 4, 5, 8, 9.
        assert_eq!(third.pages, 4);
        assert_eq!(
            third.ticks,
            vec![tick(0, &[run(0, 4)]), tick(5, &[run(3, 1)])]
        );
    }
}
