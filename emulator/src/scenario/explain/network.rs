//! The network as text for people: what is beside hosts, what happens to it, what paths are like.

use super::{grouped, name_of, table};
use crate::scenario::{INTERNET, Scenario};
use crate::units::show_time;
use comfy_table::Table;
use netmodel::link::LinkSpec;
use netmodel::topology::{HostId, Link, LinkId, Place, SwitchId, Topology};
use std::collections::BTreeMap;
use std::time::Duration;

/// A link in a cell, with how it is served.
pub(super) fn served(of: &Link) -> String {
    let mean = of.delivery.as_ref().map(|trace| trace.mean_rate());
    let served = mean.map_or_else(String::new, |rate| {
        format!("sends as its trace, {rate} in the mean; ")
    });
    served + &of.spec.to_string()
}

fn time(time: Duration) -> String {
    show_time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Hosts by the switch they hang on.
fn on_switches(topology: &Topology) -> BTreeMap<SwitchId, Vec<HostId>> {
    let mut on: BTreeMap<SwitchId, Vec<HostId>> = BTreeMap::new();
    for (host, _) in topology.hosts() {
        if let Place::Switch(switch) = topology.uplink(host).to {
            on.entry(switch).or_default().push(host);
        }
    }
    on
}

/// Racks, sites and switches, when there are several; those alike that follow one another share a row.
pub(super) fn switches(scenario: &Scenario) -> Table {
    let mut table = table(&["switch", "hosts of each", "hosts", "uplink", "downlink"]);
    let topology = &scenario.network.topology;
    if topology.switches().len() < 2 {
        return table;
    }
    let (on, by_name) = (on_switches(topology), by_name(topology));
    let mut rows: Vec<(Vec<String>, Vec<String>, [String; 3])> = Vec::new();
    for (id, name) in (0..).map(SwitchId).zip(topology.switches()) {
        let hosts = on.get(&id).map(Vec::as_slice).unwrap_or_default();
        let named = hosts.iter().map(|host| host_name(topology, *host));
        let way = |way: &str| {
            let link = by_name.get(format!("{name}-{way}").as_str());
            link.map_or_else(String::new, |link| served(link))
        };
        let alike = [hosts.len().to_string(), way("up"), way("down")];
        match rows.last_mut() {
            Some((names, all, same)) if *same == alike => {
                names.push(name.clone());
                all.extend(named);
            }
            _ => rows.push((vec![name.clone()], named.collect(), alike)),
        }
    }
    for (names, hosts, [each, up, down]) in rows {
        table.add_row([name_of(&names), each, name_of(&hosts), up, down]);
    }
    table
}

fn by_name(topology: &Topology) -> BTreeMap<&str, &Link> {
    let links = topology.links().iter();
    links.map(|link| (link.name.as_str(), link)).collect()
}

fn host_name(topology: &Topology, host: HostId) -> String {
    let name = topology.hosts().nth(host.0 as usize);
    name.map_or_else(|| host.to_string(), |(_, name)| name.to_owned())
}

/// Cables between switches that are no uplinks, and that of the Internet.
pub(super) fn cables(scenario: &Scenario) -> Table {
    let mut table = table(&["link", "promises"]);
    let network = &scenario.network;
    let outside = network.internet.map(|host| Place::Host(HostId(host.0)));
    let shown = |link: &&Link| {
        link.name.contains('>') || Some(link.from) == outside || Some(link.to) == outside
    };
    let rows = network.topology.links().iter().filter(shown);
    grouped(
        &mut table,
        rows.map(|link| (link.name.clone(), vec![served(link)])),
    );
    table
}

/// Rows of changes at most: what flaps and traces do is told by the first and the last of each kind.
const ROWS_MAX: usize = 40;

/// What changes of a link from one promise to the next.
fn difference(before: &LinkSpec, now: &LinkSpec) -> String {
    let rate = |link: &LinkSpec| {
        link.rate
            .map_or_else(|| "unshaped".to_owned(), |r| r.to_string())
    };
    let marks = |link: &LinkSpec| {
        link.ecn_threshold
            .map_or_else(|| "off".to_owned(), |t| t.to_string())
    };
    let told = [
        (before.up != now.up).then(|| if now.up { "up" } else { "down" }.to_owned()),
        (before.rate != now.rate).then(|| format!("rate {}", rate(now))),
        (before.delay != now.delay).then(|| format!("delay {}", time(now.delay))),
        (before.jitter != now.jitter).then(|| now.jitter.to_string()),
        (before.loss != now.loss).then(|| now.loss.to_string()),
        (before.queue != now.queue).then(|| format!("queue {}", now.queue)),
        (before.ecn_threshold != now.ecn_threshold).then(|| format!("ecn {}", marks(now))),
    ];
    told.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What links change to. Links that always change together are told of together, and what happens to them again and
/// again by its first and its last time.
pub(super) fn changes(scenario: &Scenario) -> Table {
    let mut table = table(&["at", "links", "change to"]);
    let network = &scenario.network;
    let mut histories: BTreeMap<LinkId, (LinkSpec, Vec<(u64, String)>)> = BTreeMap::new();
    for change in network.schedule.changes() {
        let begun = || (network.topology.link(change.link).spec, Vec::new());
        let (before, history) = histories.entry(change.link).or_insert_with(begun);
        history.push((change.at_ns, difference(before, &change.spec)));
        *before = change.spec;
    }
    let mut together: BTreeMap<Vec<(u64, String)>, Vec<String>> = BTreeMap::new();
    for (id, (_, history)) in histories {
        together
            .entry(history)
            .or_default()
            .push(network.topology.link(id).name.clone());
    }
    let mut rows: BTreeMap<(u64, String, String), Vec<u64>> = BTreeMap::new();
    for (history, links) in together {
        let names = if links.len() <= 4 {
            links.join(", ")
        } else {
            name_of(&links)
        };
        let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (at_ns, what) in history {
            times.entry(what).or_default().push(at_ns);
        }
        rows.extend(
            times
                .into_iter()
                .map(|(what, at)| ((at[0], names.clone(), what), at)),
        );
    }
    let more = rows.len().saturating_sub(ROWS_MAX);
    for ((_, names, what), at) in rows.into_iter().take(ROWS_MAX) {
        table.add_row([times(&at), names, what]);
    }
    if more > 0 {
        table.add_row([String::new(), String::new(), format!("… and {more} more")]);
    }
    table
}

fn times(at: &[u64]) -> String {
    match at {
        [] => String::new(),
        [one] => show_time(*one),
        [first, .., last] => {
            let (first, last) = (show_time(*first), show_time(*last));
            format!("{first} … {last} ({} times)", at.len())
        }
    }
}

/// Switches of which hosts are taken for paths: all pairs of them are looked at.
const SWITCHES_MAX: usize = 24;
/// Paths shown at most.
const PATHS_MAX: usize = 12;

/// What paths are like between the first hosts of switches and within one; those alike share a row.
pub(super) fn paths(scenario: &Scenario) -> Table {
    let mut table = table(&["from", "to", "links", "bottleneck", "RTT", "pairs like it"]);
    let topology = &scenario.network.topology;
    let on = on_switches(topology);
    let mut pairs: Vec<(HostId, HostId)> = Vec::new();
    let firsts: Vec<&[HostId]> = on.values().take(SWITCHES_MAX).map(Vec::as_slice).collect();
    for (n, here) in firsts.iter().enumerate() {
        pairs.extend(here.first().copied().zip(here.last().copied()));
        let others = firsts[n + 1..].iter().filter_map(|there| there.first());
        pairs.extend(others.filter_map(|there| Some((*here.first()?, *there))));
    }
    let mut rows: Vec<([String; 3], (HostId, HostId), usize)> = Vec::new();
    for (from, to) in pairs.into_iter().filter(|(from, to)| from != to) {
        let cells = path(topology, from, to);
        match rows.iter_mut().find(|(same, _, _)| *same == cells) {
            Some((_, _, count)) => *count += 1,
            None => rows.push((cells, (from, to), 1)),
        }
    }
    for ([links, bottleneck, rtt], (from, to), count) in rows.into_iter().take(PATHS_MAX) {
        let name = |host| match scenario.network.internet {
            Some(outside) if outside.0 == host => INTERNET.to_owned(),
            _ => host_name(topology, HostId(host)),
        };
        let count = count.to_string();
        table.add_row([name(from.0), name(to.0), links, bottleneck, rtt, count]);
    }
    table
}

/// Links of a path, its slowest rate, and its round trip when nothing is queued.
fn path(topology: &Topology, from: HostId, to: HostId) -> [String; 3] {
    let there = topology.path(from, to);
    let links = there.iter().map(|id| topology.link(*id));
    let slowest = links.filter_map(|link| link.spec.rate).min();
    let back = topology.path(to, from);
    let delays = there
        .iter()
        .chain(&back)
        .map(|id| topology.link(*id).spec.delay);
    [
        there.len().to_string(),
        slowest.map_or_else(|| "unshaped".to_owned(), |rate| rate.to_string()),
        time(delays.fold(Duration::ZERO, Duration::saturating_add)),
    ]
}
