//! Where what a VM replays is from: recorded, derived, synthesised or absent, column by column.
//!
//! Inside: the one place that says it, for `migbed check`, run directories and reports. Never inside:
//! the provenance of a file's columns (bundles carry theirs).

use super::inputs::Inputs;
use super::{CpuDemand, Scenario, VmSpec, WriteSource};
use serde::{Deserialize, Serialize};
use traces::resample::Resample;
use traces::units::Provenance;

/// One column of one or several VMs that are alike in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// The first of the VMs.
    pub vm: String,
    /// How many, one after another in the scenario.
    pub count: usize,
    /// `cpu`, `memory`, `writes`.
    pub column: String,
    /// How it came to be.
    pub provenance: Provenance,
    /// From what.
    pub how: String,
}

/// The origins of all VMs, neighbours that are alike together.
#[must_use]
pub fn origins(scenario: &Scenario, inputs: &Inputs) -> Vec<Origin> {
    let mut all: Vec<Origin> = Vec::new();
    let mut group: Option<(usize, [(Provenance, String); 3])> = None;
    for (index, vm) in scenario.vms.iter().enumerate() {
        let of = [cpu(vm, inputs), memory(vm, inputs), writes(vm, inputs)];
        match &group {
            Some((first, known)) if *known == of => {
                for origin in &mut all[*first..] {
                    origin.count += 1;
                }
            }
            _ => {
                let first = all.len();
                for (column, (provenance, how)) in ["cpu", "memory", "writes"].iter().zip(&of) {
                    all.push(Origin {
                        vm: scenario.vms[index].name.clone(),
                        count: 1,
                        column: (*column).to_owned(),
                        provenance: *provenance,
                        how: how.clone(),
                    });
                }
                group = Some((first, of));
            }
        }
    }
    all
}

const STATED: &str = "as the scenario states";

/// Of several vCPUs the least of what is said of each: what is made up makes up the whole.
fn cpu(vm: &VmSpec, inputs: &Inputs) -> (Provenance, String) {
    let each: Vec<_> = vm.cpu.iter().map(|of| demand(of, inputs)).collect();
    let rank = |provenance: Provenance| match provenance {
        Provenance::Recorded => 0,
        Provenance::Derived => 1,
        Provenance::Synthesised | Provenance::Absent => 2,
    };
    let least = each.iter().map(|(provenance, _)| *provenance);
    let least = least.max_by_key(|&provenance| rank(provenance));
    let mut how: Vec<String> = each.into_iter().map(|(_, how)| how).collect();
    how.dedup();
    (least.unwrap_or(Provenance::Absent), how.join("; "))
}

fn demand(demand: &CpuDemand, inputs: &Inputs) -> (Provenance, String) {
    let Some(name) = demand.trace() else {
        return (Provenance::Synthesised, STATED.into());
    };
    let input = inputs.get(name);
    let of = input.map_or(Provenance::Recorded, |input| input.cpu_provenance);
    let mut how = format!("trace {name}");
    if demand.scale_milli != 1000 {
        how += &format!(" × {}", f64::from(demand.scale_milli) / 1000.0);
    }
    let changed = demand.scale_milli != 1000 || demand.resample != Resample::Hold;
    let provenance = match (demand.resample, of) {
        // Drawn: the source says how demand spread, not when.
        (Resample::Spread, _) => Provenance::Synthesised,
        (_, Provenance::Recorded) if changed => Provenance::Derived,
        _ => of,
    };
    if demand.resample != Resample::Hold {
        how += &format!(", {} within intervals", demand.resample.name());
    }
    (provenance, how)
}

fn memory(vm: &VmSpec, inputs: &Inputs) -> (Provenance, String) {
    match &vm.writes {
        WriteSource::Profile(writes) if writes.used_bytes.is_none() => {
            let used = |name: &&str| inputs.get(name).is_some_and(|i| i.used_bytes.is_some());
            let recorded = vm.cpu.iter().filter_map(CpuDemand::trace).find(used);
            match recorded {
                Some(name) => (
                    Provenance::Derived,
                    format!("mean of memory used, trace {name}"),
                ),
                None => (
                    Provenance::Synthesised,
                    format!("drawn, seed {}", writes.seed),
                ),
            }
        }
        WriteSource::Pages(name) => (
            Provenance::Derived,
            format!("pages that recording {name} touches, and `resident` {STATED}"),
        ),
        _ => (Provenance::Synthesised, STATED.into()),
    }
}

fn writes(vm: &VmSpec, inputs: &Inputs) -> (Provenance, String) {
    match &vm.writes {
        WriteSource::Idle => (Provenance::Absent, "none".into()),
        WriteSource::Pages(name) => (Provenance::Recorded, format!("pages of recording {name}")),
        WriteSource::Fitted(name) => {
            let fitted = inputs.get(name).and_then(|input| input.fitted.as_ref());
            match fitted.map(|fitted| fitted.provenance) {
                Some(Provenance::Synthesised) => (
                    Provenance::Synthesised,
                    format!("completed classes of bundle {name}"),
                ),
                _ => (Provenance::Derived, format!("classes fitted to {name}")),
            }
        }
        WriteSource::Classes(_) => (Provenance::Synthesised, STATED.into()),
        WriteSource::Profile(writes) => (
            Provenance::Synthesised,
            format!(
                "profile {}, marginal {}, seed {}",
                writes.profile,
                writes.marginal.name(),
                writes.seed
            ),
        ),
    }
}

/// `recorded`, ….
#[must_use]
pub fn word(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Recorded => "recorded",
        Provenance::Derived => "derived",
        Provenance::Synthesised => "synthesised",
        Provenance::Absent => "absent",
    }
}

/// The VMs of an origin, for people.
#[must_use]
pub fn who(origin: &Origin) -> String {
    match origin.count {
        1 => origin.vm.clone(),
        count => format!("{} and {} like it", origin.vm, count - 1),
    }
}
