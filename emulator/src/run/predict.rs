//! What the models say of a migration before it begins; measured errors stand beside it later.

use super::driver::Driver;
use crate::cluster::{self, Baseline};
use crate::ids::{HostId, VmId};
use crate::migration::record::Prediction;
use crate::model;
use crate::scenario::inputs::{Inputs, vm_specs};
use crate::scenario::{Scenario, WriteSource};
use netmodel::flow;
use std::collections::BTreeMap;
use traces::class::{PageClass, PhasedClasses};
use traces::units::{PAGE_SIZE, round_u32};

/// An unshaped link carries what the machine does; models get the order of magnitude of a relay on
/// one core (docs/performance.md), which only matters to runs without a network.
const UNSHAPED_BYTES_PER_S: f64 = 5e9 / 8.0;

/// What models need to know of the scenario's VMs: their page classes.
#[derive(Debug)]
pub(super) struct Predictor {
    classes: BTreeMap<String, Vec<PageClass>>,
    /// What VMs replay and where they start; for the comparison with `none`.
    vms: Vec<(replay::VmSpec, HostId)>,
}

impl Predictor {
    /// Fits classes to the recordings that VMs replay page by page, once each: models know D(t),
    /// not the pages.
    pub(super) fn new(scenario: &Scenario, inputs: &Inputs) -> Self {
        let mut classes = BTreeMap::new();
        for vm in &scenario.vms {
            let Some(name) = recording(&vm.writes) else {
                continue;
            };
            if classes.contains_key(name) {
                continue;
            }
            let Some(input) = inputs.get(name) else {
                continue;
            };
            let fitted = match (&input.fitted, &input.pages) {
                (Some(fitted), _) => Some(fitted.classes.clone()),
                (None, Some(pages)) => traces::fit::load_phase(pages)
                    .and_then(|phase| traces::fit::fit_recording(pages, phase).ok())
                    .map(|(classes, _)| classes),
                (None, None) => None,
            };
            if let Some(fitted) = fitted {
                classes.insert(name.to_owned(), fitted);
            }
        }
        let ids = (0u32..).map(VmId).take(scenario.vms.len());
        let specs = vm_specs(scenario, inputs, ids).unwrap_or_default();
        let vms = specs
            .into_iter()
            .map(|(id, spec)| (spec, scenario.vms[id.index()].host));
        Self {
            classes,
            vms: vms.collect(),
        }
    }

    /// The same demand without a balancer, up to a trace instant.
    pub(super) fn baseline(
        &self,
        scenario: &Scenario,
        span_ns: u64,
        step_ns: u64,
    ) -> Option<Baseline> {
        let hosts: Vec<_> = scenario.hosts.iter().map(cluster::host_spec).collect();
        cluster::baseline(&hosts, &self.vms, span_ns, step_ns).ok()
    }

    fn classes(&self, scenario: &Scenario, vm: VmId) -> Vec<PageClass> {
        let k = scenario.divided_by.max(1);
        match &scenario.vms[vm.index()].writes {
            WriteSource::Idle => Vec::new(),
            WriteSource::Classes(classes) => classes.clone(),
            // Divided already.
            WriteSource::Profile(_) => self.vms.get(vm.index()).map_or_else(Vec::new, classes_of),
            WriteSource::Phases(phased) => averaged(phased),
            WriteSource::Pages(name)
            | WriteSource::Fitted(name)
            | WriteSource::FittedPhases(name)
            | WriteSource::FittedBest(name) => {
                let fitted = self.classes.get(name).cloned().unwrap_or_default();
                let divided = |c: PageClass| PageClass {
                    pages: c.pages.div_ceil(k),
                    ..c
                };
                fitted.into_iter().map(divided).collect()
            }
        }
    }
}

/// The recording a VM's writes come from.
fn recording(writes: &WriteSource) -> Option<&str> {
    match writes {
        WriteSource::Pages(name) => Some(name),
        _ => writes.fitted().map(|(name, _)| name),
    }
}

/// Phases as one class set: each phase's pages times its share of the lap. Its D(t) is the mean of the
/// phases' over where a migration may begin, as long as it ends in the same phase.
fn averaged(phased: &PhasedClasses) -> Vec<PageClass> {
    let lap: f64 = phased.phases.iter().map(|p| p.length_ns as f64).sum();
    let phases = phased.phases.iter().flat_map(|phase| {
        let share = phase.length_ns as f64 / lap;
        let one = move |class: &PageClass| PageClass {
            pages: round_u32(f64::from(class.pages) * share),
            ..*class
        };
        phase.classes.iter().map(one)
    });
    phases.collect()
}

/// The classes of a VM that was completed by a profile; their variation means nothing to models.
fn classes_of((spec, _): &(replay::VmSpec, HostId)) -> Vec<PageClass> {
    let of = |behaviour: &replay::Behaviour| match behaviour {
        replay::Behaviour::Classes(classes) => classes.clone(),
        replay::Behaviour::Phases(phased) => averaged(phased),
        replay::Behaviour::Idle | replay::Behaviour::Pages { .. } => Vec::new(),
    };
    spec.memory.behaviours.iter().flat_map(of).collect()
}

impl Driver<'_> {
    /// Every model's guess for a move that is about to start.
    pub(super) fn predict(
        &self,
        vm: VmId,
        source: HostId,
        destination: HostId,
        cores: f64,
    ) -> Vec<Prediction> {
        let scenario = self.scenario;
        let path = scenario.network.path(source, destination);
        let spec = &scenario.vms[vm.index()];
        let classes = self.predictor.classes(scenario, vm);
        let behaviour: u64 = classes.iter().map(|c| u64::from(c.pages) * PAGE_SIZE).sum();
        let params = &scenario.migration;
        let goodput = flow::path_goodput_bps(path.iter().map(|link| &link.spec));
        let mut rate = goodput.map_or(UNSHAPED_BYTES_PER_S, |bps| bps / 8.0);
        if params.max_bandwidth > 0 {
            rate = rate.min(params.max_bandwidth as f64);
        }
        let path = model::Path {
            goodput_bytes_per_s: rate,
            downtime_limit_s: params.downtime_limit as f64 / 1e3,
            fixed_downtime_s: params.load_time as f64 / 1e3
                + params.device_state_bytes as f64 / rate,
        };
        // As replayed: completion by a profile adds to what the scenario states.
        let resident = self
            .predictor
            .vms
            .get(vm.index())
            .map_or(spec.resident_bytes, |(replayed, _)| {
                u64::from(replayed.memory.resident_pages) * PAGE_SIZE
            });
        let nonzero = (resident + behaviour).min(spec.ram_bytes);
        let inputs = model::Inputs::from_classes(spec.ram_bytes, nonzero, classes, cores, path);
        model::predict_all(&inputs)
    }
}
