//! CPU demand of VMs and of their vCPUs.

use super::guests::{Traces, trace};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use crate::scenario::{CpuDemand, CpuSource};
use traces::resample::Resample;

/// Finer steps than this say nothing more: it is a time slice of a host's scheduler.
const RESOLUTION_MIN_NS: u64 = traces::units::NS_PER_MS;

/// The demand of a VM, and how many vCPUs it has: as many as `given`, or as demand is declared for.
pub(super) fn read(
    table: &Table<'_>,
    given: Option<u32>,
    traces: &Traces,
) -> (Vec<CpuDemand>, u32) {
    let idle = || (vec![CpuDemand::constant(0)], given.unwrap_or(1));
    let Some(value) = table.get("cpu") else {
        return idle();
    };
    if !value.is_list() {
        return (vec![one(&value, traces)], given.unwrap_or(1));
    }
    let list = value
        .list("a table, or a list of them: one for each vCPU")
        .unwrap_or_default();
    let each: Vec<_> = list.iter().map(|value| one(value, traces)).collect();
    let count = u32::try_from(each.len()).unwrap_or(u32::MAX);
    let wanted = given.unwrap_or(count);
    if count == 0 || count != wanted {
        value.out_of_bounds(
            format!("a list of {count}"),
            format!("one entry for each of the {wanted} vCPUs (`vcpus`)"),
        );
        return idle();
    }
    (each, count)
}

fn one(value: &Value<'_>, traces: &Traces) -> CpuDemand {
    let read = |table: &Table<'_>| {
        let name = table.get("trace").map(|v| trace(&v, traces));
        let cores = table
            .get("cores")
            .map(|v| v.thousandths(0.0..=4096.0).unwrap_or(0));
        let scale = table
            .get("scale")
            .and_then(|v| v.thousandths(0.001..=1000.0));
        let within = table.get("resample");
        let resample = within
            .as_ref()
            .and_then(|v| v.word("way to resample", &Resample::NAMES))
            .unwrap_or_default();
        let step = table.get("resolution");
        let resolution_ns = step.as_ref().and_then(|v| {
            let step_ns = v.some_time_ns()?;
            if step_ns < RESOLUTION_MIN_NS {
                v.out_of_bounds(format!("{step_ns} ns"), "at least 1ms");
                return None;
            }
            Some(step_ns)
        });
        let source = match (name, cores) {
            (Some(name), None) => CpuSource::Trace(name),
            (None, Some(milli)) => CpuSource::Constant(milli),
            _ => {
                let choices = "`trace` (a name) and `cores` (a number)";
                value.note(ProblemKind::OneOf {
                    key: "cpu".into(),
                    choices,
                });
                return CpuDemand::constant(0);
            }
        };
        // A key without effect is a mistake: what is constant has no intervals, what is held no steps.
        if let (CpuSource::Constant(_), Some(within)) = (&source, &within) {
            within.out_of_bounds("of constant demand", "beside `trace` only");
        }
        if let (Resample::Hold, Some(step)) = (resample, &step) {
            step.out_of_bounds("of demand that is held", "beside `resample` only");
        }
        CpuDemand {
            source,
            scale_milli: scale.unwrap_or(1000),
            resample,
            resolution_ns: resolution_ns.unwrap_or(CpuDemand::RESOLUTION_NS),
        }
    };
    let expected = "a table: { trace = \"redis\" } or { cores = 0.4 }";
    value
        .table("cpu", expected, read)
        .unwrap_or_else(|| CpuDemand::constant(0))
}
