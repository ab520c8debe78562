//! Where VMs start, and whether they fit there. The rules themselves are `placement`'s.

use super::Spots;
use super::guests::Guests;
use super::machines::Machines;
use crate::ids::HostId;
use crate::placement::{HostRoom, PlacementError, Rule, VmNeed, place};
use crate::scenario::problem::{Problem, ProblemKind};
use crate::scenario::raw::Table;
use crate::scenario::{CpuDemand, CpuSource, HostSpec, Scenario, VmSpec};

/// How VMs were placed, to do it again when more is known of them.
#[derive(Debug, Default)]
pub(in crate::scenario) struct Placing {
    rule: Rule,
    /// The host each VM asks for.
    wanted: Vec<Option<HostId>>,
}

/// Gives every VM its host: the one it asks for, or one the placement finds.
pub(super) fn settle(root: &Table<'_>, machines: &Machines<'_>, guests: &mut Guests) -> Placing {
    let key = root.get("placement");
    let rule = key
        .as_ref()
        .and_then(|v| v.word("placement", &Rule::NAMES))
        .unwrap_or_default();
    let placing = Placing {
        rule,
        wanted: guests.wanted.clone(),
    };
    // With anything wrong so far, what does not fit would only be a consequence of it.
    if !root.log.is_empty() {
        return placing;
    }
    let unknown_yet = |_: &CpuDemand| None;
    match put(&placing, &machines.hosts, &mut guests.list, unknown_yet) {
        Ok(()) => {}
        Err(error) => {
            let (index, kind) = problem(error);
            root.log
                .add(&guests.spans.get(index).cloned().unwrap_or(0..0), kind);
        }
    }
    placing
}

/// Places the VMs again, with the mean demand of their traces in cores, for the rule that looks at it.
pub(in crate::scenario) fn settle_again(
    scenario: &mut Scenario,
    spots: &Spots,
    mean: impl Fn(&str) -> Option<f64>,
) -> Result<(), Box<Problem>> {
    if spots.placing.rule != Rule::BestFit {
        return Ok(());
    }
    let of_trace = |demand: &CpuDemand| demand.trace().and_then(&mean);
    put(&spots.placing, &scenario.hosts, &mut scenario.vms, of_trace).map_err(|error| {
        let (index, kind) = problem(error);
        Box::new(Problem {
            span: spots.vms.get(index).cloned().unwrap_or(0..0),
            kind,
        })
    })
}

fn put(
    placing: &Placing,
    hosts: &[HostSpec],
    vms: &mut [VmSpec],
    mean: impl Fn(&CpuDemand) -> Option<f64>,
) -> Result<(), PlacementError> {
    let room = |host: &HostSpec| HostRoom {
        name: host.name.clone(),
        capacity_milli: host.capacity_milli(),
        ram_bytes: host.admitted_bytes(),
        vcpus: host.admitted_vcpus(),
    };
    let cores = |demand: &CpuDemand| {
        let constant = match demand.source {
            CpuSource::Constant(milli) => f64::from(milli) / 1000.0,
            CpuSource::Trace(_) => 0.0,
        };
        mean(demand).unwrap_or(constant) * f64::from(demand.scale_milli) / 1000.0
    };
    let need = |(vm, pinned): (&VmSpec, &Option<HostId>)| VmNeed {
        name: vm.name.clone(),
        ram_bytes: vm.ram_bytes,
        vcpus: vm.vcpus,
        cpu_mean: vm.cpu.iter().map(cores).sum(),
        pinned: *pinned,
    };
    let hosts: Vec<_> = hosts.iter().map(room).collect();
    let needs: Vec<_> = vms.iter().zip(&placing.wanted).map(need).collect();
    let placed = place(placing.rule, &hosts, &needs)?;
    for (vm, host) in vms.iter_mut().zip(placed) {
        vm.host = host;
    }
    Ok(())
}

/// The VM it is about, and what to say.
fn problem(error: PlacementError) -> (usize, ProblemKind) {
    let index = match &error {
        PlacementError::NoRoom { index, .. }
        | PlacementError::PinnedFull { index, .. }
        | PlacementError::NoVcpus { index, .. }
        | PlacementError::PinnedVcpus { index, .. }
        | PlacementError::UnknownHost { index, .. } => *index,
        PlacementError::NoHosts => 0,
    };
    (index, ProblemKind::NoRoom(error))
}
