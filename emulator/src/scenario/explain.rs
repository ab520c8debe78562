//! A scenario as text for people: what it resolves to.

mod network;

use self::network::served;
use super::{
    Arrivals, CpuDemand, CpuSource, Endpoint, HostSpec, INTERNET, NetworkSpec, Scenario, VmSpec,
    WriteSource, net_host,
};
use crate::ids::HostId;
use crate::migration::faults::Action;
use crate::units::{show_size, show_time};
use comfy_table::{Table, presets};
use netmodel::units::ByteSize;
use std::collections::BTreeMap;
use traces::class::{Coupling, PageClass, PhasedClasses};
use traces::content::{ContentProfile, NAMES, named};
use traces::resample::Resample;

/// Hosts, VMs, links, flows and the balancer of a scenario, as `migbed check` shows them. Things
/// that are alike and follow one another share a row.
#[must_use]
pub fn explain(scenario: &Scenario) -> String {
    let network = &scenario.network;
    let mut text = format!(
        "{}: {} of trace time at pace {}, seed {}, k = {}\n{} hosts, {} VMs, {} flows, {} planned migrations\n\
         {} switches, {} links, {} changes of links, backend {}, {}{}\n",
        scenario.name,
        show_time(scenario.duration_ns),
        match scenario.pace {
            super::Pace::Real => "real",
            super::Pace::Warp => "warp",
        },
        scenario.seed,
        scenario.scale,
        scenario.hosts.len(),
        scenario.vms.len(),
        scenario.flows.len(),
        scenario.migrations.len(),
        network.topology.switches().len(),
        network.topology.links().len(),
        network.schedule.changes().len(),
        network.backend_name(),
        network.congestion,
        buffers(network),
    );
    for (title, table) in [
        ("Hosts", hosts(scenario)),
        ("Switches", network::switches(scenario)),
        ("Cables", network::cables(scenario)),
        ("Paths", network::paths(scenario)),
        ("Changes of links", network::changes(scenario)),
        ("VMs", vms(scenario)),
        ("Traces", traces(scenario)),
        ("Flows", flows(scenario)),
        ("Services", services(scenario)),
        ("Probes", probes(scenario)),
        ("Planned migrations", planned(scenario)),
        ("Faults", faults(scenario)),
        ("Balancer", balancer(scenario)),
    ] {
        if table.row_count() > 0 {
            text += &format!("\n{title}\n{table}\n");
        }
    }
    text
}

/// What buffers of sockets are, where that is given.
fn buffers(network: &NetworkSpec) -> String {
    let said = |of: &str, given: Option<ByteSize>| {
        given.map_or_else(String::new, |size| {
            format!(", {of} {}", show_size(size.bytes()))
        })
    };
    [
        said("send buffers to begin with", network.send_buffer),
        said("send buffers at most", network.send_buffer_max),
        said("receive buffers at most", network.receive_buffer_max),
    ]
    .concat()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_header(header.to_vec());
    table
}

fn name_of(range: &[String]) -> String {
    match range {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} … {last} ({})", range.len()),
    }
}

/// Adds rows, those that follow one another and are alike in all but the name as one.
fn grouped(table: &mut Table, rows: impl Iterator<Item = (String, Vec<String>)>) {
    let mut pending: Option<(Vec<String>, Vec<String>)> = None;
    let flush = |table: &mut Table, pending: Option<(Vec<String>, Vec<String>)>| {
        if let Some((names, cells)) = pending {
            table.add_row(
                std::iter::once(name_of(&names))
                    .chain(cells)
                    .collect::<Vec<_>>(),
            );
        }
    };
    for (name, cells) in rows {
        match &mut pending {
            Some((names, same)) if *same == cells => names.push(name),
            _ => flush(table, pending.replace((vec![name], cells))),
        }
    }
    flush(table, pending);
}

fn hosts(scenario: &Scenario) -> Table {
    let mut table = table(&[
        "host",
        "cores",
        "speed",
        "RAM",
        "RAM of its VMs",
        "limits",
        "link up",
        "link down",
    ]);
    let mut used: BTreeMap<usize, u64> = BTreeMap::new();
    for vm in &scenario.vms {
        *used.entry(vm.host.index()).or_default() += vm.ram_bytes;
    }
    let network = &scenario.network;
    let rows = scenario
        .hosts
        .iter()
        .zip((0..).map(HostId))
        .map(|(host, id)| {
            let used = used.get(&id.index()).copied().unwrap_or(0);
            let cells = [
                host.cores.to_string(),
                (f64::from(host.speed_milli) / 1000.0).to_string(),
                show_size(host.ram_bytes),
                show_size(used),
                limits(host),
                served(network.topology.uplink(net_host(id))),
                served(network.topology.downlink(net_host(id))),
            ];
            (host.name.clone(), cells.to_vec())
        });
    grouped(&mut table, rows);
    table
}

/// What is admitted.
fn limits(host: &HostSpec) -> String {
    let ram = format!("{} RAM", show_size(host.admitted_bytes()));
    match host.admitted_vcpus() {
        Some(vcpus) => format!("{ram}, {vcpus} vCPUs"),
        None => ram,
    }
}

fn vms(scenario: &Scenario) -> Table {
    let mut table = table(&[
        "VM",
        "vCPUs",
        "RAM",
        "resident",
        "CPU",
        "writes",
        "content",
        "memory",
        "work",
        "first offset",
    ]);
    // Copies differ in host and offset; those are in the JSON form.
    let rows = scenario.vms.iter().map(|vm| {
        let work = format!("{:?}", vm.work).to_lowercase();
        let cells = [
            vm.vcpus.to_string(),
            show_size(vm.ram_bytes),
            show_size(vm.resident_bytes),
            cpu(vm),
            writes(vm),
            content(vm),
            format!("{:?}", vm.memory).to_lowercase(),
            work,
        ];
        (vm.name.clone(), cells.to_vec())
    });
    let mut offsets = scenario.vms.iter();
    let mut with_offset = Vec::new();
    let mut last: Option<Vec<String>> = None;
    for (name, cells) in rows {
        let offset = offsets.next().map_or(0, |vm| vm.offset_ns);
        let same = last.as_ref() == Some(&cells);
        last = Some(cells.clone());
        with_offset.push((name, cells, same, show_time(offset)));
    }
    let mut first = String::new();
    let rows = with_offset
        .into_iter()
        .map(|(name, mut cells, same, offset)| {
            if !same {
                first = offset;
            }
            cells.push(first.clone());
            (name, cells)
        });
    grouped(&mut table, rows);
    table
}

fn cpu(vm: &VmSpec) -> String {
    let parts: Vec<String> = vm.cpu.iter().map(demand).collect();
    match &parts[..] {
        [one] => one.clone(),
        each => format!("each vCPU: {}", each.join(", ")),
    }
}

fn demand(demand: &CpuDemand) -> String {
    let scale = f64::from(demand.scale_milli) / 1000.0;
    let within = match demand.resample {
        Resample::Hold => String::new(),
        other => format!(", {} at {}", other.name(), show_time(demand.resolution_ns)),
    };
    match &demand.source {
        CpuSource::Trace(name) if demand.scale_milli == 1000 => format!("{name}{within}"),
        CpuSource::Trace(name) => format!("{name} × {scale}{within}"),
        CpuSource::Constant(milli) => {
            format!("{} cores", f64::from(*milli) / 1000.0 * scale)
        }
    }
}

fn writes(vm: &VmSpec) -> String {
    match &vm.writes {
        WriteSource::Idle => "none".into(),
        WriteSource::Pages(name) => format!("pages of {name}"),
        WriteSource::Fitted(name) => format!("classes fitted to {name}"),
        WriteSource::FittedPhases(name) => format!("phases fitted to {name}"),
        WriteSource::FittedBest(name) => format!("what fits {name} best"),
        WriteSource::Classes(classes) => count(classes.len(), "class", "classes"),
        WriteSource::Phases(phased) => phases(phased),
        WriteSource::Profile(writes) => format!("profile {}", writes.profile),
    }
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `3 phases of 40 s` of the clock they follow, or of one phase its classes.
fn phases(phased: &PhasedClasses) -> String {
    let varying = phased.phases.iter().any(|phase| phase.variation.is_some());
    let text = match &phased.phases[..] {
        [one] => count(one.classes.len(), "class", "classes"),
        all => {
            let length_ns = all.iter().map(|phase| phase.length_ns).sum();
            let clock = match phased.coupling {
                Coupling::Cpu => "of CPU",
                Coupling::Time => "of time",
            };
            format!("{} phases, {} {clock}", all.len(), show_time(length_ns))
        }
    };
    if varying { text + ", varying" } else { text }
}

/// The profile's name, and what classes have of their own.
fn content(vm: &VmSpec) -> String {
    let name = |profile: &ContentProfile| {
        let of = |name: &&&str| named(name).as_ref() == Some(profile);
        NAMES.iter().find(of).map_or("own figures", |name| name)
    };
    let mut text = name(&vm.content).to_owned();
    let classes: Vec<&PageClass> = match &vm.writes {
        WriteSource::Classes(classes) => classes.iter().collect(),
        WriteSource::Phases(phased) => phased.phases.iter().flat_map(|p| &p.classes).collect(),
        _ => Vec::new(),
    };
    for profile in classes.iter().filter_map(|class| class.content) {
        text = format!("{text}, {}", name(&profile));
    }
    text
}

fn traces(scenario: &Scenario) -> Table {
    let mut table = table(&["trace", "file", "format", "VM of the file"]);
    for (name, source) in &scenario.traces {
        let format = source
            .format
            .clone()
            .unwrap_or_else(|| "from its content".into());
        let vm = source.vm.clone().unwrap_or_else(|| "first".into());
        table.add_row(vec![
            name.clone(),
            source.path.display().to_string(),
            format,
            vm,
        ]);
    }
    table
}

fn end_name(scenario: &Scenario, end: Endpoint) -> String {
    match end {
        Endpoint::Vm(vm) => scenario.vms[vm.index()].name.clone(),
        Endpoint::Internet => INTERNET.to_owned(),
    }
}

fn flows(scenario: &Scenario) -> Table {
    let mut table = table(&["from", "to", "rate"]);
    for flow in &scenario.flows {
        let rate = flow.rate_bps.and_then(netmodel::units::BitRate::from_bps);
        let name = |end| end_name(scenario, end);
        let rate = rate.map_or_else(|| "elastic".into(), |rate| rate.to_string());
        table.add_row(vec![name(flow.from), name(flow.to), rate]);
    }
    table
}

fn services(scenario: &Scenario) -> Table {
    let mut table = table(&[
        "service", "server", "client", "requests", "at once", "request", "answer", "CPU",
    ]);
    for service in &scenario.services {
        let rate = |milli: u64| milli as f64 / 1000.0;
        let requests = match service.arrivals {
            Arrivals::Poisson { rate_milli } => format!("{} a second, poisson", rate(rate_milli)),
            Arrivals::Paced { rate_milli } => format!("{} a second, paced", rate(rate_milli)),
            Arrivals::Closed { think_ns } => format!("{} after an answer", show_time(think_ns)),
        };
        table.add_row(vec![
            service.name.clone(),
            end_name(scenario, Endpoint::Vm(service.server)),
            end_name(scenario, service.client),
            requests,
            service.connections.to_string(),
            show_size(u64::from(service.request_bytes)),
            show_size(u64::from(service.response_bytes)),
            show_time(service.cpu_ns),
        ]);
    }
    table
}

fn probes(scenario: &Scenario) -> Table {
    let mut table = table(&["VM", "from", "each"]);
    for probe in &scenario.probes {
        let from = scenario.hosts.get(probe.from.index());
        table.add_row(vec![
            scenario.vms[probe.vm.index()].name.clone(),
            from.map_or(INTERNET, |host| &host.name).to_owned(),
            show_time(probe.interval_ns),
        ]);
    }
    table
}

fn planned(scenario: &Scenario) -> Table {
    let mut table = table(&["at", "VM", "to"]);
    for migration in &scenario.migrations {
        let vm = scenario.vms[migration.vm.index()].name.clone();
        let host = scenario.hosts[migration.destination.index()].name.clone();
        table.add_row(vec![show_time(migration.at_ns), vm, host]);
    }
    table
}

fn faults(scenario: &Scenario) -> Table {
    let mut table = table(&["migration", "when", "what"]);
    for fault in &scenario.faults {
        let what = match (&fault.action, fault.action.end()) {
            (Action::DestinationRefuses, _) | (_, None) => fault.action.name().to_owned(),
            (action, Some(end)) => format!("{} of the {}", action.name(), end.name()),
        };
        table.add_row(vec![fault.migration.0.to_string(), fault.when.told(), what]);
    }
    table
}

fn balancer(scenario: &Scenario) -> Table {
    let mut table = table(&[
        "policy", "interval", "window", "at once", "per host", "options",
    ]);
    let spec = &scenario.balancer;
    let options: Vec<_> = spec
        .options
        .iter()
        .map(|(k, v)| format!("{k} = {v}"))
        .collect();
    table.add_row(vec![
        spec.policy.clone(),
        show_time(spec.interval_ns),
        show_time(spec.window_ns),
        spec.parallel.to_string(),
        spec.parallel_per_host.to_string(),
        options.join(", "),
    ]);
    table
}
