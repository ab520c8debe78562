//! Hosts and the network between them.

use super::{HOSTS_MAX, Names, each, numbered};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use crate::scenario::{HostSpec, NetworkSpec, scale};
use netmodel::backend::BackendKind;
use netmodel::link::LinkSpec;
use netmodel::schedule::Schedule;
use netmodel::topology::{Cable, Topology, TopologyError};
use netmodel::units::ByteSize;
use std::time::Duration;
use traces::units::PAGE_SIZE;

/// The hosts, by id, and their network.
#[derive(Debug)]
pub(super) struct Machines {
    pub(super) hosts: Vec<HostSpec>,
    pub(super) names: Names,
    pub(super) network: NetworkSpec,
    /// Each host's link, by host.
    cables: Vec<Cable>,
}

/// Congestion control when none is asked for: Linux's default, and that of the real runs compared
/// with. Always set per socket, since the machine's own default may differ.
const CONGESTION: &str = "cubic";
const CONGESTIONS: &[(&str, &str)] = &[("cubic", "cubic"), ("reno", "reno"), ("bbr", "bbr")];
const BACKENDS: &[(&str, Option<BackendKind>)] = &[
    ("auto", None),
    ("relay", Some(BackendKind::Relay)),
    ("netem", Some(BackendKind::Netem)),
    ("htb", Some(BackendKind::Htb)),
];

pub(super) fn read(root: &Table<'_>, text: &str, k: u32) -> Machines {
    let mut network = NetworkSpec {
        backend: None,
        topology: nothing(),
        internet: None,
        schedule: Schedule::default(),
        congestion: CONGESTION.into(),
    };
    let mut all = Cable::default();
    if let Some(value) = root.get("network") {
        value.table("[network]", "a table", |table| {
            let word = |key, words| table.get(key).and_then(|v| v.word(key, words));
            word("topology", &[("star", "star")]);
            let backend = table
                .get("backend")
                .and_then(|v| v.word("backend", BACKENDS));
            network.backend = backend.flatten();
            network.congestion = word("congestion", CONGESTIONS).unwrap_or(CONGESTION).into();
            if let Some(value) = table.get("link") {
                all = links(&value, Cable::default());
                check_links("of every host", &value, all, k);
            }
        });
    }
    let mut machines = Machines {
        hosts: Vec::new(),
        names: Names::default(),
        network,
        cables: Vec::new(),
    };
    if let Some(value) = root.need("hosts", "[[hosts]]") {
        if value
            .list("a list of tables: [[hosts]]")
            .is_some_and(|list| list.is_empty())
        {
            value.out_of_bounds("empty", "at least one host");
        }
        each(root, "hosts", |table| {
            hosts(table, text, k, all, &mut machines);
        });
        star(&value, &mut machines);
    }
    machines
}

/// A network of nothing in particular, in place of one that has been found wrong.
fn nothing() -> Topology {
    let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::default()));
    Topology::star(hosts).expect("two hosts of different names on one switch")
}

fn star(hosts: &Value<'_>, machines: &mut Machines) {
    let names = machines.hosts.iter().map(|host| host.name.clone());
    match Topology::star(names.zip(machines.cables.iter().copied())) {
        Ok(topology) => machines.network.topology = topology,
        Err(TopologyError::TooFewHosts { hosts: found }) if found > 0 => {
            hosts.out_of_bounds(format!("{found} host"), "at least two hosts");
        }
        // Names used twice, and no hosts at all, have been noted where they stand.
        Err(_) => {}
    }
}

fn hosts(table: &Table<'_>, text: &str, k: u32, all: Cable, machines: &mut Machines) {
    let name = table
        .need("name", "name = \"h\"")
        .and_then(|v| v.name().map(|n| (n, v.span)));
    let count = table.get("count").and_then(|v| v.small(1..=HOSTS_MAX));
    let cores = table
        .need("cores", "cores = 4")
        .and_then(|v| v.small(1..=4096))
        .unwrap_or(1);
    let ram = table
        .need("ram", "ram = \"16GiB\"")
        .and_then(|v| ram_bytes(&v));
    let mut own = all;
    if let Some(value) = table.get("link") {
        own = links(&value, all);
        check_links(name.as_ref().map_or("", |n| n.0), &value, own, k);
    }
    let Some((name, span)) = name else { return };
    for name in numbered(name, count) {
        if machines.hosts.len() >= HOSTS_MAX as usize {
            let value = format!("the host number {}", HOSTS_MAX + 1);
            let bounds = format!("at most {HOSTS_MAX} hosts in a scenario");
            table.log.add(
                &span,
                ProblemKind::Bounds {
                    key: "hosts".into(),
                    value,
                    bounds,
                },
            );
            return;
        }
        let index = u32::try_from(machines.hosts.len()).expect("bounded by HOSTS_MAX");
        machines
            .names
            .add("host", &name, index, &span, text, table.log);
        // A RAM that does not read has been noted; 0 would be taken for a full host.
        machines.hosts.push(HostSpec {
            name,
            cores,
            ram_bytes: ram.unwrap_or(u64::MAX / 2),
        });
        machines.cables.push(own);
    }
}

/// A size of at least one page, in whole pages, of at most 16 TiB (32 bits of page numbers).
pub(super) fn ram_bytes(value: &Value<'_>) -> Option<u64> {
    let bytes = value.size_bytes()?;
    let limit = u64::from(u32::MAX) * PAGE_SIZE;
    if bytes == 0 || bytes > limit || !bytes.is_multiple_of(PAGE_SIZE) {
        value.out_of_bounds(
            format!("{bytes} B"),
            "a multiple of 4KiB, from 4KiB up to 16TiB",
        );
        return None;
    }
    Some(bytes)
}

/// A link: keys for both directions, overridden by those of `up` and `down`.
fn links(value: &Value<'_>, base: Cable) -> Cable {
    let read = |table: &Table<'_>| {
        let both = Cable {
            up: link(table, base.up),
            down: link(table, base.down),
        };
        let one = |key, base| {
            let value = table.get(key)?;
            value.table(format!("link.{key}"), "a table", |table| link(table, base))
        };
        Cable {
            up: one("up", both.up).unwrap_or(both.up),
            down: one("down", both.down).unwrap_or(both.down),
        }
    };
    value
        .table(
            "link",
            "a table: { rate = \"1Gbit\", delay = \"100us\" }",
            read,
        )
        .unwrap_or(base)
}

fn link(table: &Table<'_>, base: LinkSpec) -> LinkSpec {
    let unshaped = |value: &Value<'_>| value.as_text() == Some("unshaped");
    let rate = match table.get("rate") {
        Some(value) if unshaped(&value) => None,
        Some(value) => value.rate(),
        None => base.rate,
    };
    let delay = table
        .get("delay")
        .and_then(|v| delay(&v))
        .unwrap_or(base.delay);
    let queue = table
        .get("queue")
        .and_then(|v| v.size_bytes())
        .map(ByteSize::from_bytes);
    let overhead = table.get("overhead_bytes").and_then(|v| v.small(0..=1000));
    let overhead = overhead.and_then(|v| u16::try_from(v).ok());
    LinkSpec {
        rate,
        delay,
        queue: queue.unwrap_or(base.queue),
        overhead_bytes: overhead.unwrap_or(base.overhead_bytes),
        ..base
    }
}

/// Longest one-way delay: a minute is far beyond any network, and keeps round trips in bounds.
const DELAY_MAX_NS: u64 = 60_000_000_000;

fn delay(value: &Value<'_>) -> Option<Duration> {
    let ns = value.time_ns()?;
    if ns > DELAY_MAX_NS {
        value.out_of_bounds(
            crate::units::show_time(ns),
            "a one-way delay of at most 60s",
        );
        return None;
    }
    Some(Duration::from_nanos(ns))
}

fn check_links(host: &str, value: &Value<'_>, links: Cable, k: u32) {
    for (direction, link, back) in [("up", links.up, links.down), ("down", links.down, links.up)] {
        let name = format!("{host} {direction}");
        if let Err(error) = scale::check_link(&name, &link, back.delay, k) {
            return value.note(error.into());
        }
    }
}
