//! What is said to happen to links: `[[events]]` and `[[link_traces]]`.

use super::happenings::{CHANGES_MAX, Events, LinkTrace, TraceOf};
use super::link::patch;
use super::machines::Machines;
use super::network::Network;
use super::{Span, each, moves};
use crate::scenario::INTERNET;
use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Table, Value};
use netmodel::schedule::{Flap, Happening, Holder, What, separating};
use netmodel::topology::{HostId, LinkId, Place, SwitchId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What names in events stand for.
struct Reader<'a, 'd> {
    machines: &'a Machines<'d>,
    network: &'a Network,
    links: BTreeMap<&'a str, LinkId>,
    duration_ns: u64,
    events: Events,
}

/// Reads what happens to a network; `None` when there is no network it could happen to, or no end.
pub(super) fn read(
    root: &Table<'_>,
    folder: &Path,
    machines: &Machines<'_>,
    network: &Network,
    duration_ns: Option<u64>,
) -> Option<Events> {
    let (Some(duration_ns), true) = (duration_ns, network.sound) else {
        // Asked for all the same, so that they are not unknown.
        let _ = (root.get("events"), root.get("link_traces"));
        return None;
    };
    let topology = &network.spec.topology;
    let links = topology
        .links()
        .iter()
        .map(|link| (link.name.as_str(), link.id));
    let mut reader = Reader {
        machines,
        network,
        links: links.collect(),
        duration_ns,
        events: Events::new(network, duration_ns),
    };
    each(root, "link_traces", |table| reader.trace(table, folder));
    let mut number = 0;
    each(root, "events", |table| {
        reader.event(table, Holder::Numbered(number));
        number += 1;
    });
    Some(reader.events)
}

/// What an event may say.
const SAYS: &str = "a change (`rate`, `delay`, `jitter`, `loss`, `queue`, `ecn`, `down`, `up`), \
                    `flap` and `partition`";
/// Whom it may be about.
const ABOUT: &str = "`link`, `links` and `host`";

impl Reader<'_, '_> {
    fn event(&mut self, table: &Table<'_>, holder: Holder) {
        let before = table.log.len();
        let at_ns = moves::instant(table, Some(self.duration_ns));
        let patch = patch(table);
        let order = |key: &'static str| {
            let value = table.get(key)?;
            if value.boolean() == Some(false) {
                value.out_of_bounds("false", "`down = true` or `up = true`");
            }
            Some(value)
        };
        let (down, up) = (order("down"), order("up"));
        let (flap, partition) = (table.get("flap"), table.get("partition"));
        let about = self.about(table);
        let changes = !patch.is_empty() || down.is_some() || up.is_some();
        let ways = [changes, flap.is_some(), partition.is_some()];
        let said = ways.iter().filter(|said| **said).count();
        if said != 1 || (down.is_some() && up.is_some()) {
            return not_one(table, before, SAYS);
        }
        if let Some(value) = partition {
            if let Some((_, spot)) = about {
                let kind = NetworkProblem::Partitioned.into();
                return table.log.add(&spot, kind);
            }
            return self.partition(&value, at_ns, holder);
        }
        let Some((links, _)) = about else {
            return not_one(table, before, ABOUT);
        };
        let Some(at_ns) = at_ns else { return };
        if let Some(value) = flap {
            return self.flap(&value, at_ns, &links, holder);
        }
        let mut whats = Vec::new();
        whats.extend((!patch.is_empty()).then_some(What::Set(patch)));
        whats.extend(down.map(|_| What::Down(Holder::Order)));
        whats.extend(up.map(|_| What::Up(Holder::Order)));
        for what in whats {
            let links = links.clone();
            self.events
                .add(&table.span, [Happening { at_ns, links, what }]);
        }
    }

    /// The links a table is about, and where it says so.
    fn about(&self, table: &Table<'_>) -> Option<(Vec<LinkId>, Span)> {
        let (one, several) = (table.get("link"), table.get("links"));
        let host = table.get("host");
        let all: Vec<&Value<'_>> = [&one, &several, &host].into_iter().flatten().collect();
        if let [_, again, ..] = all.as_slice() {
            let (key, choices) = (again.key.clone(), ABOUT);
            again.note(ProblemKind::OneOf { key, choices });
        }
        if let Some(value) = one {
            return Some((vec![self.link(&value)?], value.span));
        }
        if let Some(value) = several {
            let list = value.list("a list of links")?;
            let links: BTreeSet<LinkId> = list.iter().filter_map(|v| self.link(v)).collect();
            if list.is_empty() {
                value.out_of_bounds("empty", "at least one link");
            }
            return Some((links.into_iter().collect(), value.span));
        }
        let value = host?;
        let links = self.hosts(&value)?.into_iter().flat_map(|host| {
            let topology = &self.network.spec.topology;
            [topology.uplink(host).id, topology.downlink(host).id]
        });
        Some((links.collect(), value.span.clone()))
    }

    fn link(&self, value: &Value<'_>) -> Option<LinkId> {
        let name = value.text()?;
        let found = self.links.get(name).copied();
        if found.is_none() {
            value.unknown_name("link", name, self.links.keys().copied());
        }
        found
    }

    /// The hosts of the network that a name stands for, the Internet among them.
    fn hosts(&self, value: &Value<'_>) -> Option<Vec<HostId>> {
        if value.as_text() == Some(INTERNET)
            && let Some(outside) = self.network.spec.internet
        {
            return Some(vec![HostId(outside.0)]);
        }
        Some(self.machines.named(value)?.map(HostId).collect())
    }

    fn flap(&mut self, value: &Value<'_>, at_ns: u64, links: &[LinkId], holder: Holder) {
        let end_ns = self.duration_ns;
        let read = |table: &Table<'_>| {
            let period = table.need("period", "period = \"2s\"");
            let down = table.need("down", "down = \"200ms\"");
            let until = table.get("until").map(|v| until(&v, at_ns));
            let period_ns = period.and_then(|v| v.some_time_ns())?;
            let down = down?;
            let down_ns = down.some_time_ns()?;
            if down_ns >= period_ns {
                down.out_of_bounds(crate::units::show_time(down_ns), "less than `period`");
                return None;
            }
            Some(Flap {
                from_ns: at_ns,
                until_ns: until.unwrap_or(Some(end_ns))?.min(end_ns),
                period_ns,
                down_ns,
            })
        };
        let Some(flap) = value
            .table("flap", "a table with `period` and `down`", read)
            .flatten()
        else {
            return;
        };
        match flap.happenings(links, holder, CHANGES_MAX) {
            Ok(happenings) => self.events.add(&value.span, happenings),
            Err(error) => value.note(NetworkProblem::from(error).into()),
        }
    }

    fn partition(&mut self, value: &Value<'_>, at_ns: Option<u64>, holder: Holder) {
        let read = |table: &Table<'_>| {
            let group = table.need("group", "group = [\"h1\", \"h2\"]");
            let heal = table.get("heal_at").map(|v| until(&v, at_ns.unwrap_or(0)));
            let group = group?;
            let mut places = BTreeSet::new();
            for name in group.list("a list of hosts, racks, sites or switches")? {
                places.extend(self.places(&name)?);
            }
            let links = separating(&self.network.spec.topology, &places);
            if links.is_empty() {
                let bounds = "some of the network, but not all of it";
                group.out_of_bounds(
                    if places.is_empty() {
                        "empty"
                    } else {
                        "everything"
                    },
                    bounds,
                );
                return None;
            }
            Some((links, heal.unwrap_or(None)))
        };
        let read = value
            .table("partition", "a table with `group`", read)
            .flatten();
        let (Some((links, heal_ns)), Some(at_ns)) = (read, at_ns) else {
            return;
        };
        let cut = Happening {
            at_ns,
            links,
            what: What::Down(holder),
        };
        let healed = heal_ns
            .filter(|heal| *heal < self.duration_ns)
            .map(|at_ns| Happening {
                at_ns,
                links: cut.links.clone(),
                what: What::Up(holder),
            });
        self.events
            .add(&value.span, [cut].into_iter().chain(healed));
    }

    /// What a name of a partition's group stands for.
    fn places(&self, value: &Value<'_>) -> Option<Vec<Place>> {
        let switch = value
            .as_text()
            .and_then(|name| self.network.switches.get(name));
        if let Some(&switch) = switch {
            return Some(vec![Place::Switch(SwitchId(switch))]);
        }
        Some(self.hosts(value)?.into_iter().map(Place::Host).collect())
    }

    fn trace(&mut self, table: &Table<'_>, folder: &Path) {
        let before = table.log.len();
        let about = self.about(table);
        let file = table.need("file", "file = \"trace.csv\"");
        let (at, again) = (table.get("at"), table.get("loop"));
        let format = table.get("format").map(|v| v.word("format", FORMATS));
        let from_ns = at
            .as_ref()
            .map(|_| moves::instant(table, Some(self.duration_ns)));
        let repeated = again.as_ref().and_then(Value::boolean);
        let what = match format {
            None | Some(Some(false)) => from_ns.unwrap_or(Some(0)).map(|from_ns| TraceOf::Rows {
                from_ns,
                again: repeated.unwrap_or(false),
            }),
            Some(Some(true)) => {
                // It begins with the run and is repeated as it is: there is nothing to choose.
                for value in [at, again].into_iter().flatten() {
                    value.note(
                        NetworkProblem::Endless {
                            key: value.key.clone(),
                        }
                        .into(),
                    );
                }
                Some(TraceOf::Deliveries)
            }
            Some(None) => None,
        };
        let Some((links, _)) = about else {
            return not_one(table, before, ABOUT);
        };
        let file = file.and_then(|v| Some((v.text()?, v.span)));
        if let (Some((name, spot)), Some(what)) = (file, what) {
            self.events.follow(LinkTrace {
                path: folder.join(name),
                spot,
                links,
                what,
            });
        }
    }
}

/// Formats of traces, and whether they tell of deliveries.
const FORMATS: &[(&str, bool)] = &[("csv", false), ("mahimahi", true)];

/// Notes that a table does not say exactly one of several things, unless what it says did not read.
fn not_one(table: &Table<'_>, before: usize, choices: &'static str) {
    if table.log.len() == before {
        let key = table.name.clone();
        table
            .log
            .add(&table.span, ProblemKind::OneOf { key, choices });
    }
}

/// An instant that has to come after another one.
fn until(value: &Value<'_>, after_ns: u64) -> Option<u64> {
    let ns = value.time_ns()?;
    if ns <= after_ns {
        let bounds = format!("after `at`, {}", crate::units::show_time(after_ns));
        value.out_of_bounds(crate::units::show_time(ns), bounds);
        return None;
    }
    Some(ns)
}
