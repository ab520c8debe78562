//! Probes: who asks which VM's address, and how often.

use super::{Names, each};
use crate::ids::{HostId, VmId};
use crate::scenario::problem::NetworkProblem;
use crate::scenario::raw::Table;
use crate::scenario::{INTERNET, ProbeSpec};
use crate::units::show_time;
use std::ops::RangeInclusive;

/// A millisecond: figures of the literature have this resolution or less.
const INTERVAL_NS: u64 = 1_000_000;
/// Each request is a packet through the emulated network and a thread's wake-up.
const INTERVALS_NS: RangeInclusive<u64> = 200_000..=1_000_000_000;

pub(super) fn read(
    root: &Table<'_>,
    vms: &Names,
    hosts: &Names,
    internet: Option<HostId>,
) -> Vec<ProbeSpec> {
    let mut probes = Vec::new();
    each(root, "probes", |table| {
        let vm = table
            .need("vm", "vm = \"web1\"")
            .and_then(|v| vms.find("VM", &v));
        let from = table.need("from", "from = \"internet\"").and_then(|v| {
            if v.as_text() != Some(INTERNET) {
                return hosts.find("host", &v).map(HostId);
            }
            if internet.is_none() {
                v.note(NetworkProblem::NoInternet.into());
            }
            internet
        });
        let interval_ns = table.get("interval").and_then(|v| {
            let ns = v.time_ns()?;
            if !INTERVALS_NS.contains(&ns) {
                v.out_of_bounds(show_time(ns), "200us to 1s");
            }
            Some(ns)
        });
        if let (Some(vm), Some(from)) = (vm, from) {
            probes.push(ProbeSpec {
                vm: VmId(vm),
                from,
                interval_ns: interval_ns.unwrap_or(INTERVAL_NS),
            });
        }
    });
    probes
}
