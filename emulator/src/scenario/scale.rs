//! Space scale k: what is divided by it, what is not, and why. The one place that knows.
//!
//! To carry more cluster than the computer can push bytes for, space is divided by k and time is
//! not: passes, rounds, downtime and round trips then last as long as at full size. Bytes are
//! reported as carried and multiplied back. Never inside: time constants (all of them stay).

mod error;
mod table;

pub use error::{PIPE_SEGMENTS_MIN, QUEUE_SEGMENTS_MIN, RAM_PAGES_MIN, ScaleError};
pub use table::*;

use super::{NetworkSpec, Scenario, VmSpec, WriteSource};
use crate::migration::faults::Action;
use netmodel::link::{LinkSpec, MTU, ShaperAt};
use netmodel::schedule::Amount;
use netmodel::topology::{Link, Place, Topology};
use netmodel::units::{BitRate, ByteSize};
use std::collections::BTreeMap;
use std::time::Duration;
use traces::class::PhasedClasses;
use traces::units::PAGE_SIZE;

/// The scenario as it is carried at k: everything [`TABLE`] says is divided, is.
///
/// # Errors
/// When something cannot be carried at this k, or the scenario has been divided before.
pub fn apply(scenario: &Scenario, k: u32) -> Result<Scenario, ScaleError> {
    if scenario.divided_by != 1 {
        return Err(ScaleError::Already {
            divided_by: scenario.divided_by,
        });
    }
    if k == 0 {
        return Err(ScaleError::Zero);
    }
    let mut carried = scenario.clone();
    (carried.scale, carried.divided_by) = (k, k);
    let slack = slack_pages(scenario, k);
    for host in &mut carried.hosts {
        let pages = (host.ram_bytes / PAGE_SIZE).div_ceil(u64::from(k));
        host.ram_bytes = (pages + slack) * PAGE_SIZE;
    }
    for vm in &mut carried.vms {
        divide_vm(vm, k)?;
    }
    divide_network(&mut carried, k)?;
    for (index, flow) in carried.flows.iter_mut().enumerate() {
        flow.rate_bps = flow
            .rate_bps
            .map(|rate| divided_rate(&format!("flow {}", index + 1), rate, k))
            .transpose()?;
    }
    for service in &mut carried.services {
        for bytes in [&mut service.request_bytes, &mut service.response_bytes] {
            *bytes = bytes.div_ceil(k);
        }
    }
    let migration = &mut carried.migration;
    for bytes in [
        &mut migration.max_bandwidth,
        &mut migration.avail_switchover_bandwidth,
        &mut migration.postcopy.max_bandwidth,
        &mut migration.device_state_bytes,
        &mut migration.page_tables,
        &mut migration.page_tables_walked,
    ] {
        // Rounding up keeps 0, which means "unlimited" or "none", apart from small values.
        *bytes = bytes.div_ceil(u64::from(k));
    }
    // QEMU takes powers of two only, and a page at least.
    let cache = migration.xbzrle.cache_size.div_ceil(u64::from(k));
    migration.xbzrle.cache_size = cache.next_power_of_two().max(PAGE_SIZE);
    for (index, fault) in carried.faults.iter_mut().enumerate() {
        divide_fault(index, &mut fault.action, k)?;
    }
    Ok(carried)
}

/// Pages a host's RAM is rounded up by, so that VMs that just fit at full size still do: each may
/// have been rounded up by one page.
fn slack_pages(scenario: &Scenario, k: u32) -> u64 {
    let pages = |vm: &VmSpec| vm.ram_bytes / PAGE_SIZE;
    let rounded = scenario
        .vms
        .iter()
        .filter(|vm| !pages(vm).is_multiple_of(u64::from(k)))
        .count();
    let smallest = scenario.vms.iter().map(pages).min().unwrap_or(1).max(1);
    let largest_host = scenario
        .hosts
        .iter()
        .map(|h| h.ram_bytes / PAGE_SIZE)
        .max()
        .unwrap_or(0);
    u64::try_from(rounded)
        .unwrap_or(u64::MAX)
        .min(largest_host / smallest)
}

fn divide_vm(vm: &mut VmSpec, k: u32) -> Result<(), ScaleError> {
    let divided = |bytes: u64| bytes.div_ceil(PAGE_SIZE).div_ceil(u64::from(k));
    let resident = divided(vm.resident_bytes);
    let mut written = 0;
    match &mut vm.writes {
        WriteSource::Classes(classes) => {
            for class in classes {
                class.pages = class.pages.div_ceil(k);
                written += u64::from(class.pages);
            }
        }
        WriteSource::Phases(phased) => {
            divide_phases(phased, k);
            written = phased.pages();
        }
        WriteSource::Idle
        | WriteSource::Pages(_)
        | WriteSource::Fitted(_)
        | WriteSource::FittedPhases(_)
        | WriteSource::FittedBest(_)
        | WriteSource::Profile(_) => {}
    }
    // Parts rounded up must still fit in the whole.
    let ram = divided(vm.ram_bytes).max(resident + written);
    if k > 1 && ram < RAM_PAGES_MIN {
        return Err(ScaleError::Ram {
            vm: vm.name.clone(),
            k,
            pages: ram,
        });
    }
    let high = divided(vm.resident_high_bytes).min(resident);
    (vm.ram_bytes, vm.resident_bytes) = (ram * PAGE_SIZE, resident * PAGE_SIZE);
    vm.resident_high_bytes = high * PAGE_SIZE;
    Ok(())
}

/// The pages of phases at k. Fitted ones are divided where a VM is made of them.
pub(super) fn divide_phases(phased: &mut PhasedClasses, k: u32) {
    for phase in &mut phased.phases {
        phase.first_page /= k;
        for class in &mut phase.classes {
            class.pages = class.pages.div_ceil(k);
        }
    }
}

fn divide_network(scenario: &mut Scenario, k: u32) -> Result<(), ScaleError> {
    let NetworkSpec {
        topology,
        schedule,
        send_buffer,
        send_buffer_max,
        receive_buffer_max,
        ..
    } = &mut scenario.network;
    for buffer in [send_buffer, send_buffer_max, receive_buffer_max] {
        *buffer = buffer.map(|b| ByteSize::from_bytes(b.bytes().div_ceil(u64::from(k))));
    }
    let backs = ways_back(topology);
    let divided = |link: &Link, spec: &LinkSpec| {
        check_link(link, spec, backs[link.id.0 as usize], k)?;
        divide_link(&link.name, spec, k)
    };
    *schedule = schedule.with_specs(|change| divided(topology.link(change.link), &change.spec))?;
    let divided = topology.with_specs(|link| divided(link, &link.spec))?;
    let divided = divided.with_deliveries(|trace| trace.divided(k));
    *topology = divided;
    Ok(())
}

/// For every link the delay of the same cable's other direction.
#[must_use]
pub fn ways_back(topology: &Topology) -> Vec<Duration> {
    let mut delays: BTreeMap<(Place, Place), Duration> = BTreeMap::new();
    for link in topology.links() {
        let shortest = delays.entry((link.from, link.to)).or_insert(Duration::MAX);
        *shortest = link.spec.delay.min(*shortest);
    }
    let back = |link: &Link| {
        delays
            .get(&(link.to, link.from))
            .copied()
            .unwrap_or_default()
    };
    topology.links().iter().map(back).collect()
}

/// What a fault changes is bytes where what it changes is.
fn divide_fault(index: usize, action: &mut Action, k: u32) -> Result<(), ScaleError> {
    let divided = |bytes: ByteSize| ByteSize::from_bytes(bytes.bytes().div_ceil(u64::from(k)));
    match action {
        Action::SetParameters(change) => {
            let speeds = [
                &mut change.max_bandwidth,
                &mut change.avail_switchover_bandwidth,
            ];
            for speed in speeds.into_iter().flatten() {
                *speed = speed.div_ceil(u64::from(k));
            }
        }
        Action::LinkChange { patch, .. } => {
            if let Some(Amount::To(Some(rate))) = &mut patch.rate {
                let what = format!("fault {}", index + 1);
                let bps = divided_rate(&what, rate.bps(), k)?;
                *rate = BitRate::from_bps(bps).unwrap_or(*rate);
            }
            if let Some(Amount::To(queue)) = &mut patch.queue {
                *queue = divided(*queue);
            }
            if let Some(Amount::To(Some(threshold))) = &mut patch.ecn_threshold {
                *threshold = divided(*threshold);
            }
        }
        _ => {}
    }
    Ok(())
}

fn divide_link(name: &str, link: &LinkSpec, k: u32) -> Result<LinkSpec, ScaleError> {
    let rate = link
        .rate
        .map(|rate| divided_rate(&format!("link {name}"), rate.bps(), k));
    let divided = |bytes: ByteSize| ByteSize::from_bytes(bytes.bytes().div_ceil(u64::from(k)));
    Ok(LinkSpec {
        rate: rate.transpose()?.and_then(BitRate::from_bps),
        queue: divided(link.queue),
        ecn_threshold: link.ecn_threshold.map(divided),
        shaper_at: match link.shaper_at {
            ShaperAt::SourceEgress { burst } => ShaperAt::SourceEgress {
                burst: divided(burst),
            },
            ShaperAt::Fabric => ShaperAt::Fabric,
        },
        ..*link
    })
}

fn divided_rate(what: &str, rate_bps: u64, k: u32) -> Result<u64, ScaleError> {
    match rate_bps / u64::from(k) {
        0 => Err(ScaleError::Rate {
            what: what.into(),
            rate_bps,
            k,
        }),
        rate => Ok(rate),
    }
}

/// Whether a direction of a link can be carried at k when it is `link`.
///
/// The round trip is the shortest the link can be part of: its own delay and that of its way `back`.
///
/// # Errors
/// When it is shaped and holds too few segments.
pub fn check_link(of: &Link, link: &LinkSpec, back: Duration, k: u32) -> Result<(), ScaleError> {
    let name = of.name.as_str();
    if k == 0 {
        return Err(ScaleError::Zero);
    }
    let rate = link
        .rate
        .or_else(|| of.delivery.as_ref().map(|trace| trace.mean_rate()));
    let Some(rate) = rate else {
        return Ok(());
    };
    let segment_bytes = u64::from(MTU) + u64::from(link.overhead_bytes);
    let queue_bytes = link.queue.bytes() / u64::from(k);
    let segments = queue_bytes / segment_bytes;
    if segments < QUEUE_SEGMENTS_MIN {
        return Err(ScaleError::Queue {
            link: name.into(),
            k,
            queue_bytes,
            segments,
            segment_bytes,
        });
    }
    let threshold_bytes = link.ecn_threshold.map(|bytes| bytes.bytes() / u64::from(k));
    if let Some(threshold_bytes) = threshold_bytes.filter(|bytes| *bytes < segment_bytes) {
        return Err(ScaleError::Threshold {
            link: name.into(),
            k,
            threshold_bytes,
            segment_bytes,
        });
    }
    let round_trip = link.delay.saturating_add(back);
    let bdp_bytes = rate.bytes_in(round_trip) / u64::from(k);
    let segments = bdp_bytes.saturating_add(queue_bytes) / segment_bytes;
    if segments < PIPE_SEGMENTS_MIN {
        return Err(ScaleError::Pipe {
            link: name.into(),
            k,
            bdp_bytes,
            queue_bytes,
            segments,
            segment_bytes,
        });
    }
    Ok(())
}
