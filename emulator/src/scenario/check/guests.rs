//! VMs: what they are, what they do, where they start.

use super::content::content;
use super::demand;
use super::machines::{Machines, ram_bytes};
use super::writes::writes;
use super::{Names, Span, VMS_MAX, each, numbered};
use crate::ids::HostId;
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use crate::scenario::{Backing, TraceSource, VmSpec, Work, WriteSource};
use crate::units::show_size;
use std::collections::BTreeMap;
use traces::content::ContentProfile;
use traces::units::PAGE_SIZE;

/// The VMs, by id, with where each was declared and the host it asked for.
#[derive(Debug, Default)]
pub(super) struct Guests {
    pub(super) list: Vec<VmSpec>,
    pub(super) names: Names,
    pub(super) spans: Vec<Span>,
    pub(super) wanted: Vec<Option<HostId>>,
}

pub(super) type Traces = BTreeMap<String, TraceSource>;

const WORKS: &[(&str, Work)] = &[
    ("service", Work::Service),
    ("batch", Work::Batch),
    ("open", Work::Open),
];
const BACKINGS: &[(&str, Backing)] = &[
    ("synthetic", Backing::Synthetic),
    ("resident", Backing::Resident),
];
/// cgroup v2's default weight, so that weights read as they do there.
const WEIGHT: u32 = 100;

pub(super) fn read(
    root: &Table<'_>,
    text: &str,
    machines: &Machines<'_>,
    traces: &Traces,
) -> Guests {
    let mut guests = Guests::default();
    each(root, "vms", |table| {
        if let Some(group) = group(table, machines, traces) {
            add(table, text, group, &mut guests);
        }
    });
    guests
}

/// VMs declared together.
struct Group<'d> {
    name: (&'d str, Span),
    count: Option<u32>,
    spec: VmSpec,
    stagger_ns: u64,
    hosts: Vec<HostId>,
}

fn group<'d>(table: &Table<'d>, machines: &Machines<'_>, traces: &Traces) -> Option<Group<'d>> {
    let name = table
        .need("name", "name = \"web\"")
        .and_then(|v| v.name().map(|n| (n, v.span)));
    let count = table.get("count").and_then(|v| v.small(1..=VMS_MAX));
    let ram = table
        .need("ram", "ram = \"512MiB\"")
        .and_then(|v| Some((ram_bytes(&v)?, v.span)));
    let (resident, resident_high) = resident(table);
    let given_vcpus = table.get("vcpus").and_then(|v| v.small(1..=1024));
    let (cpu, vcpus) = demand::read(table, given_vcpus, traces);
    let time = |key| table.get(key).and_then(|v| v.time_ns()).unwrap_or(0);
    let writes = table
        .get("writes")
        .map_or(WriteSource::Idle, |v| writes(&v, traces));
    let stated = table.get("content").map(|v| content(&v));
    let spec = VmSpec {
        name: String::new(),
        vcpus,
        weight: table
            .get("weight")
            .and_then(|v| v.small(1..=10_000))
            .unwrap_or(WEIGHT),
        ram_bytes: ram.as_ref().map_or(0, |ram| ram.0),
        resident_bytes: resident,
        resident_high_bytes: resident_high,
        cpu,
        content: stated.or_else(|| own_content(&writes)).unwrap_or_default(),
        writes,
        memory: table
            .get("memory")
            .and_then(|v| v.word("memory", BACKINGS))
            .unwrap_or_default(),
        offset_ns: time("offset"),
        work: table
            .get("work")
            .and_then(|v| v.word("kind of work", WORKS))
            .unwrap_or_default(),
        host: HostId(0),
    };
    let stagger_ns = time("stagger");
    let hosts = table
        .get("host")
        .map(|v| hosts(&v, machines))
        .unwrap_or_default();
    let name = name?;
    let needed_bytes = declared_bytes(&spec);
    let (ram_bytes, span) = ram?;
    if needed_bytes > ram_bytes {
        let vm = name.0.to_owned();
        table.log.add(
            &span,
            ProblemKind::Memory {
                vm,
                needed_bytes,
                ram_bytes,
            },
        );
    }
    Some(Group {
        name,
        count,
        spec,
        stagger_ns,
        hosts,
    })
}

/// A profile knows what its pages hold.
fn own_content(writes: &WriteSource) -> Option<ContentProfile> {
    let WriteSource::Profile(writes) = writes else {
        return None;
    };
    Some(traces::profile::named(&writes.profile)?.content)
}

/// Bytes that hold data from the start, and how many of them lie at the top of RAM.
fn resident(table: &Table<'_>) -> (u64, u64) {
    let resident = table
        .get("resident")
        .and_then(|v| v.size_bytes())
        .unwrap_or(0);
    let Some(value) = table.get("resident_high") else {
        return (resident, 0);
    };
    let high = value.size_bytes().unwrap_or(0);
    if high > resident {
        let bounds = format!("at most `resident`, {}", show_size(resident));
        value.out_of_bounds(show_size(high), bounds);
    }
    (resident, high)
}

/// Bytes a VM needs for what the scenario itself says of its memory.
fn declared_bytes(vm: &VmSpec) -> u64 {
    let written: u64 = match &vm.writes {
        WriteSource::Classes(classes) => classes.iter().map(|c| u64::from(c.pages)).sum(),
        WriteSource::Phases(phased) => phased.pages(),
        WriteSource::Idle
        | WriteSource::Pages(_)
        | WriteSource::Fitted(_)
        | WriteSource::FittedPhases(_)
        | WriteSource::FittedBest(_)
        | WriteSource::Profile(_) => 0,
    };
    vm.resident_bytes.saturating_add(written * PAGE_SIZE)
}

fn add(table: &Table<'_>, text: &str, group: Group<'_>, guests: &mut Guests) {
    let Group {
        name: (name, span),
        count,
        spec,
        stagger_ns,
        hosts,
    } = group;
    for (copy, name) in numbered(name, count).into_iter().enumerate() {
        if guests.list.len() >= VMS_MAX as usize {
            let value = format!("the VM number {}", VMS_MAX + 1);
            let bounds = format!("at most {VMS_MAX} VMs in a scenario");
            table.log.add(
                &span,
                ProblemKind::Bounds {
                    key: "vms".into(),
                    value,
                    bounds,
                },
            );
            return;
        }
        let index = u32::try_from(guests.list.len()).expect("bounded by VMS_MAX");
        guests.names.add("VM", &name, index, &span, text, table.log);
        let later = stagger_ns.saturating_mul(copy as u64);
        let offset_ns = spec.offset_ns.saturating_add(later);
        guests.list.push(VmSpec {
            name,
            offset_ns,
            ..spec.clone()
        });
        guests.spans.push(span.clone());
        guests
            .wanted
            .push(hosts.get(copy % hosts.len().max(1)).copied());
    }
}

/// The name of a declared trace.
pub(super) fn trace(value: &Value<'_>, traces: &Traces) -> String {
    let Some(name) = value.text() else {
        return String::new();
    };
    if !traces.contains_key(name) {
        value.unknown_name("trace", name, traces.keys().map(String::as_str));
    }
    name.to_owned()
}

/// One host's name, or several over which copies go round.
fn hosts(value: &Value<'_>, machines: &Machines<'_>) -> Vec<HostId> {
    let find = |value: &Value<'_>| machines.names.find("host", value).map(HostId);
    if value.as_text().is_some() {
        return find(value).into_iter().collect();
    }
    let list = value
        .list("a host's name or a list of them")
        .unwrap_or_default();
    list.iter().filter_map(find).collect()
}
