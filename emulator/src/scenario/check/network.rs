//! The network: its shape, its links, and the endpoint that stands for the Internet.

use super::cables::Draft;
use super::link::Demands;
use super::machines::Machines;
use super::places::{Places, Shape};
use super::{Names, line_column};
use crate::ids::HostId;
use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Log, Table, Value};
use crate::scenario::{INTERNET, NetworkSpec};
use crate::units::show_size;
use netmodel::backend::BackendKind;
use netmodel::schedule::Schedule;
use netmodel::topology::{Cable, Topology};
use netmodel::units::ByteSize;
use std::collections::BTreeMap;
use toml::de::DeTable;
use traces::units::PAGE_SIZE;

/// The network, and what is needed to say what happens to it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) spec: NetworkSpec,
    pub(super) demands: Demands,
    /// Switches by name: racks, sites.
    pub(super) switches: BTreeMap<String, u32>,
    /// Whether `spec.topology` is what was asked for; in its place there is something else when that is no network.
    pub(super) sound: bool,
    /// Whether an endpoint for the Internet was asked for.
    pub(super) outside: bool,
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

/// What the name of the Internet stands for.
pub(super) const OUTSIDE: &str = "the endpoint that stands for the Internet";

/// Keys that not every topology has: in words where they belong, and where.
const KEYS: &[(&str, &str, &[Shape])] = &[
    ("racks", "\"two-tier\"", &[Shape::TwoTier]),
    ("uplink", "\"two-tier\"", &[Shape::TwoTier]),
    ("oversubscription", "\"two-tier\"", &[Shape::TwoTier]),
    ("sites", "\"wan\"", &[Shape::Wan]),
    ("switches", "\"graph\"", &[Shape::Graph]),
    (
        "cables",
        "\"wan\" and \"graph\"",
        &[Shape::Wan, Shape::Graph],
    ),
];

pub(super) fn read(root: &Table<'_>, text: &str, machines: &Machines<'_>, k: u32) -> Network {
    let mut network = Network {
        spec: NetworkSpec {
            backend: None,
            topology: nothing(),
            internet: None,
            schedule: Schedule::default(),
            congestion: CONGESTION.into(),
            send_buffer: None,
            send_buffer_max: None,
            receive_buffer_max: None,
        },
        demands: Demands { k, backend: None },
        switches: BTreeMap::new(),
        sound: false,
        outside: false,
    };
    if let Some(value) = root.get("network") {
        value.table("[network]", "a table", |table| {
            whole(table, text, machines, &mut network);
        });
    } else {
        // As an empty table: every host on one switch, unshaped.
        let (name, empty) = ("[network]".to_owned(), DeTable::new());
        Table::read((name, machines.span.clone()), &empty, root.log, |table| {
            whole(table, text, machines, &mut network);
        });
    }
    network
}

/// A network of nothing in particular, in place of one that has been found wrong.
fn nothing() -> Topology {
    let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::default()));
    Topology::star(hosts).expect("two hosts of different names on one switch")
}

fn whole(table: &Table<'_>, text: &str, machines: &Machines<'_>, network: &mut Network) {
    let backend = table
        .get("backend")
        .and_then(|v| v.word("backend", BACKENDS));
    network.spec.backend = backend.flatten();
    network.demands.backend = backend.flatten();
    let congestion = table.get("congestion");
    let congestion = congestion.and_then(|v| v.word("congestion", CONGESTIONS));
    network.spec.congestion = congestion.unwrap_or(CONGESTION).into();
    let buffer = |key| table.get(key).and_then(|v| buffer(&v));
    network.spec.send_buffer = buffer("send_buffer");
    network.spec.send_buffer_max = buffer("send_buffer_max");
    network.spec.receive_buffer_max = buffer("receive_buffer_max");
    let shape = table
        .get("topology")
        .map(|v| v.word("topology", Shape::ALL));
    let of_hosts = table.get("link");
    let outside = table.get("internet");
    network.outside = outside.is_some();
    // Without its shape nothing else of a network can be understood.
    let Some(shape) = shape.unwrap_or(Some(Shape::Star)) else {
        KEYS.iter().for_each(|(key, _, _)| drop(table.get(key)));
        return;
    };
    of_other_shapes(table, shape, machines);
    let mut places = Places::read(table, shape, text, &table.span);
    names_differ(&places, outside.is_some(), text, machines, table.log);
    places.settle(machines, table.log);
    let draft = Draft::lay(
        table,
        machines,
        &places,
        of_hosts.as_ref(),
        outside.as_ref(),
    );
    if !table.log.is_empty() {
        return;
    }
    if let Some(topology) = draft.finish(network.demands) {
        network.sound = true;
        network.spec.topology = topology;
        network.spec.internet = outside.map(|_| HostId(machines.count()));
    }
    let switches = (0..).zip(&places.switches);
    network.switches = switches
        .map(|(index, switch)| (switch.name.clone(), index))
        .collect();
}

/// Of what the kernel takes: a page to 1 GiB.
fn buffer(value: &Value<'_>) -> Option<ByteSize> {
    let bytes = value.size_bytes()?;
    if (PAGE_SIZE..=1 << 30).contains(&bytes) {
        return Some(ByteSize::from_bytes(bytes));
    }
    value.out_of_bounds(show_size(bytes), "from 4KiB up to 1GiB");
    None
}

/// Notes what is said and this shape does not have.
fn of_other_shapes(table: &Table<'_>, shape: Shape, machines: &Machines<'_>) {
    let topology = shape.word();
    let elsewhere = |key, belongs| {
        ProblemKind::from(NetworkProblem::NotHere {
            key,
            belongs,
            topology,
        })
    };
    for &(key, belongs, shapes) in KEYS {
        if let Some(value) = table.get(key).filter(|_| !shapes.contains(&shape)) {
            value.note(elsewhere(key, belongs));
        }
    }
    if shape == Shape::Star {
        let chosen = machines.groups.iter().filter_map(|group| group.at.first());
        for at in chosen {
            at.note(elsewhere("at", "\"two-tier\", \"wan\" and \"graph\""));
        }
    }
}

/// Hosts, switches and the Internet are named in one breath: none may be called as another.
fn names_differ(
    places: &Places<'_>,
    internet: bool,
    text: &str,
    machines: &Machines<'_>,
    log: &Log,
) {
    let outside = internet.then_some((INTERNET, OUTSIDE));
    let taken: Vec<_> = places.shape.middle().into_iter().chain(outside).collect();
    let spot = |names: &Names, name: &str| names.spot(name).map(|at| at..at + name.len() + 2);
    for &(name, what) in &taken {
        let of_switch = places.names.get(name).filter(|_| name == INTERNET);
        let switch = of_switch.and_then(|_| spot(&places.names, name));
        for span in [spot(&machines.names, name), switch].into_iter().flatten() {
            let name = name.to_owned();
            log.add(&span, NetworkProblem::Reserved { name, what }.into());
        }
    }
    for switch in places
        .switches
        .iter()
        .skip(usize::from(places.shape.middle().is_some()))
    {
        if let Some(first) = machines.names.spot(&switch.name) {
            let (what, name) = ("place", switch.name.clone());
            let first_line = line_column(text, first).0;
            let kind = ProblemKind::Duplicate {
                what,
                name,
                first_line,
            };
            log.add(&switch.span, kind);
        }
    }
}
