//! What else is on the link of a lone migration.
//!
//! Never inside: the migration itself.

use crate::ids::{HostId, VmId};
use crate::scenario::{CpuDemand, Endpoint, FlowSpec, VmSpec, WriteSource};
use netmodel::link::LinkSpec;
use netmodel::schedule::{Change, Schedule};
use netmodel::topology::Topology;
use netmodel::units::BitRate;
use traces::units::PAGE_SIZE;

/// What shares the link with a migration, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Company {
    /// Further VMs like it, which move at the same instant.
    pub more_vms: u32,
    /// Elastic flows in the migration's direction, before it begins and throughout.
    pub flows: u32,
    /// So long after the migrations begin (ns) the link has this rate, both ways.
    pub rate_change: Option<(u64, BitRate)>,
}

impl Company {
    /// The flows; their ends are VMs that do nothing else, put behind `vms`.
    pub(super) fn flows(&self, like: &VmSpec, vms: &mut Vec<VmSpec>) -> Vec<FlowSpec> {
        let mut end = |name: String, host| {
            let number = u32::try_from(vms.len()).expect("a handful of VMs");
            vms.push(VmSpec {
                name,
                ram_bytes: PAGE_SIZE,
                resident_bytes: 0,
                resident_high_bytes: 0,
                cpu: vec![CpuDemand::constant(0)],
                writes: WriteSource::Idle,
                host,
                ..like.clone()
            });
            Endpoint::Vm(VmId(number))
        };
        (1..=self.flows)
            .map(|number| FlowSpec {
                from: end(format!("sender{number}"), HostId(0)),
                to: end(format!("sink{number}"), HostId(1)),
                rate_bps: None,
            })
            .collect()
    }

    /// What becomes of the source's links when migrations begin at `begin_ns`, and when that is over.
    pub(super) fn schedule(&self, topology: &Topology, begin_ns: u64) -> (Schedule, u64) {
        let Some((after_ns, rate)) = self.rate_change else {
            return (Schedule::default(), 0);
        };
        let at_ns = begin_ns.saturating_add(after_ns);
        let change = |name| {
            let link = topology.link_named(name).expect("a star names its links");
            let spec = LinkSpec {
                rate: Some(rate),
                ..link.spec
            };
            Change {
                at_ns,
                link: link.id,
                spec,
            }
        };
        let both = ["source-up", "source-down"].map(change);
        (Schedule::from(both.to_vec()), at_ns + 1)
    }
}
