//! Switches by the names their topologies give them, and which hosts hang on which.

use super::machines::Machines;
use super::{HOSTS_MAX, Names, Span, numbered};
use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Log, Table, Value};

/// The shape of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Every host on one switch.
    Star,
    /// Racks on one core switch.
    TwoTier,
    /// Sites and cables between them.
    Wan,
    /// Switches and cables between them.
    Graph,
}

impl Shape {
    /// By the words of scenarios.
    pub(super) const ALL: &[(&'static str, Self)] = &[
        ("star", Self::Star),
        ("two-tier", Self::TwoTier),
        ("wan", Self::Wan),
        ("graph", Self::Graph),
    ];

    pub(super) fn word(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, shape)| *shape == self);
        known.map_or("star", |(word, _)| *word)
    }

    /// What its switches are called.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Star | Self::Graph => "switch",
            Self::TwoTier => "rack",
            Self::Wan => "site",
        }
    }

    /// The key its switches are declared under, for those that are.
    fn key(self) -> Option<&'static str> {
        match self {
            Self::Star => None,
            Self::TwoTier => Some("racks"),
            Self::Wan => Some("sites"),
            Self::Graph => Some("switches"),
        }
    }

    /// The switch that is there without being declared, and what it is.
    pub(super) fn middle(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Star => Some(("switch", "the switch in the middle of a star")),
            Self::TwoTier => Some(("core", "the switch between the racks")),
            Self::Wan | Self::Graph => None,
        }
    }
}

/// A switch as it was declared; the one in the middle has no table of its own.
#[derive(Debug)]
pub(super) struct Switch<'d> {
    pub(super) name: String,
    pub(super) span: Span,
    /// Its hosts: a list of names, or how many.
    hosts: Option<Value<'d>>,
    /// Of a rack: the cable to the core, and how much its hosts' links exceed it.
    pub(super) uplink: Option<Value<'d>>,
    pub(super) oversubscription: Option<Value<'d>>,
}

/// All switches, and the switch of each host.
#[derive(Debug)]
pub(super) struct Places<'d> {
    pub(super) shape: Shape,
    pub(super) switches: Vec<Switch<'d>>,
    pub(super) names: Names,
    /// By host; `None` has been noted.
    pub(super) at: Vec<Option<u32>>,
}

impl<'d> Places<'d> {
    /// Reads the switches of `[network]`.
    pub(super) fn read(table: &Table<'d>, shape: Shape, text: &str, span: &Span) -> Self {
        let mut places = Self {
            shape,
            switches: Vec::new(),
            names: Names::default(),
            at: Vec::new(),
        };
        if let Some((name, _)) = shape.middle() {
            places.add(table.log, text, plain(name.to_owned(), span.clone()));
        }
        let Some(key) = shape.key() else {
            return places;
        };
        let example = match shape {
            Shape::TwoTier => "racks = 4",
            Shape::Wan => "[[network.sites]]",
            Shape::Star | Shape::Graph => "[[network.switches]]",
        };
        let Some(value) = table.need(key, example) else {
            return places;
        };
        if shape == Shape::TwoTier && value.is_integer() {
            let count = value.small(1..=HOSTS_MAX).unwrap_or(0);
            for name in numbered("rack", Some(count)) {
                places.add(table.log, text, plain(name, value.span.clone()));
            }
            return places;
        }
        for value in value
            .list("a list of tables: [[network.…]]")
            .unwrap_or_default()
        {
            value.table(format!("[[network.{key}]]"), "a table", |table| {
                places.declared(table, text);
            });
        }
        places
    }

    fn declared(&mut self, table: &Table<'d>, text: &str) {
        let name = table.need("name", "name = \"a\"");
        let count = table.get("count").and_then(|v| v.small(1..=HOSTS_MAX));
        let hosts = table.get("hosts");
        let rack = self.shape == Shape::TwoTier;
        let of_rack = |key| if rack { table.get(key) } else { None };
        let (uplink, oversubscription) = (of_rack("uplink"), of_rack("oversubscription"));
        let Some((name, span)) = name.and_then(|v| Some((v.name()?, v.span))) else {
            return;
        };
        if let Some((_, what)) = self.shape.middle().filter(|(taken, _)| *taken == name) {
            let name = name.to_owned();
            return table
                .log
                .add(&span, NetworkProblem::Reserved { name, what }.into());
        }
        for name in numbered(name, count) {
            let switch = Switch {
                name,
                span: span.clone(),
                hosts: hosts.clone(),
                uplink: uplink.clone(),
                oversubscription: oversubscription.clone(),
            };
            self.add(table.log, text, switch);
        }
    }

    fn add(&mut self, log: &Log, text: &str, switch: Switch<'d>) {
        let index = u32::try_from(self.switches.len()).unwrap_or(u32::MAX);
        if index > 2 * HOSTS_MAX {
            let key = "name".to_owned();
            let value = format!("the {} number {index}", self.shape.place());
            let bounds = format!("at most {} of them", 2 * HOSTS_MAX);
            return log.add(&switch.span, ProblemKind::Bounds { key, value, bounds });
        }
        let what = self.shape.place();
        self.names
            .add(what, &switch.name, index, &switch.span, text, log);
        self.switches.push(switch);
    }

    /// Puts every host on its switch: first those that are named, then those that are counted, then, of racks, the rest.
    pub(super) fn settle(&mut self, machines: &Machines<'d>, log: &Log) {
        self.at = vec![None; machines.hosts.len()];
        if self.shape == Shape::Star {
            self.at.fill(Some(0));
            return;
        }
        for index in 0..self.switches.len() {
            self.listed(index, machines);
        }
        self.chosen(machines);
        for index in 0..self.switches.len() {
            self.counted(index);
        }
        if self.shape == Shape::TwoTier {
            self.dealt();
        }
        self.complain(machines, log);
    }

    /// Hosts a switch names.
    fn listed(&mut self, index: usize, machines: &Machines<'d>) {
        let Some(value) = self.switches[index].hosts.clone() else {
            return;
        };
        if value.is_integer() {
            return;
        }
        let names = value
            .list("a list of hosts, or how many")
            .unwrap_or_default();
        for name in names {
            for host in machines.named(&name).into_iter().flatten() {
                self.put(host, index, machines, &name);
            }
        }
    }

    /// Switches that hosts name, in turn.
    fn chosen(&mut self, machines: &Machines<'d>) {
        for group in machines.groups.iter().filter(|group| !group.at.is_empty()) {
            let found = group
                .at
                .iter()
                .map(|value| self.names.find(self.shape.place(), value));
            let found: Vec<Option<u32>> = found.collect();
            let turns = group.at.iter().zip(found).cycle();
            for (host, (value, index)) in group.hosts.clone().zip(turns) {
                if let Some(index) = index {
                    self.put(host, index as usize, machines, value);
                }
            }
        }
    }

    fn put(&mut self, host: u32, index: usize, machines: &Machines<'d>, value: &Value<'_>) {
        let place = &mut self.at[host as usize];
        match *place {
            None => *place = u32::try_from(index).ok(),
            Some(first) => value.note(
                NetworkProblem::Twice {
                    host: machines.hosts[host as usize].name.clone(),
                    what: self.shape.place(),
                    first: self.switches[first as usize].name.clone(),
                }
                .into(),
            ),
        }
    }

    /// The next hosts without a place, for a switch that says how many.
    fn counted(&mut self, index: usize) {
        let Some(value) = self.switches[index].hosts.clone().filter(Value::is_integer) else {
            return;
        };
        let Some(asked) = value.small(1..=HOSTS_MAX) else {
            return;
        };
        let mut left = 0;
        for place in self.at.iter_mut().filter(|place| place.is_none()) {
            if left == asked {
                return;
            }
            *place = u32::try_from(index).ok();
            left += 1;
        }
        if left < asked {
            let (what, name) = (self.shape.place(), self.switches[index].name.clone());
            value.note(
                NetworkProblem::TooFew {
                    what,
                    name,
                    asked,
                    left,
                }
                .into(),
            );
        }
    }

    /// The rest evenly and in order, over the racks that say nothing of hosts.
    fn dealt(&mut self) {
        let silent = self.switches.iter().zip(0u32..).skip(1);
        let silent = silent.filter(|(rack, _)| rack.hosts.is_none());
        let mut racks: Vec<u32> = silent.map(|(_, index)| index).collect();
        // Racks that hosts have chosen are not silent.
        racks.retain(|rack| !self.at.contains(&Some(*rack)));
        let mut rest: Vec<&mut Option<u32>> = self.at.iter_mut().filter(|p| p.is_none()).collect();
        let (hosts, count) = (rest.len(), racks.len());
        for (n, place) in rest.iter_mut().enumerate() {
            // n × count / hosts is below count.
            **place = racks.get(n * count / hosts).copied();
        }
    }

    /// Notes hosts that are nowhere, and racks nobody is in.
    fn complain(&self, machines: &Machines<'d>, log: &Log) {
        let lost: Vec<usize> = (0..self.at.len())
            .filter(|&host| self.at[host].is_none())
            .collect();
        // What was said wrongly of hosts has been noted, and they are lost for it.
        if let (Some(&first), true) = (lost.first(), log.is_empty()) {
            let group = machines
                .groups
                .iter()
                .find(|group| group.hosts.clone().any(|host| host as usize == first));
            let (host, more) = (machines.hosts[first].name.clone(), lost.len() - 1);
            let what = self.shape.place();
            let span = group.map_or(0..0, |group| group.span.clone());
            log.add(&span, NetworkProblem::Nowhere { host, more, what }.into());
        }
        if self.shape != Shape::TwoTier || !log.is_empty() {
            return;
        }
        for (rack, index) in self.switches.iter().zip(0u32..).skip(1) {
            if !self.at.contains(&Some(index)) {
                let (what, name) = (self.shape.place(), rack.name.clone());
                log.add(&rack.span, NetworkProblem::Empty { what, name }.into());
            }
        }
    }
}

fn plain<'d>(name: String, span: Span) -> Switch<'d> {
    Switch {
        name,
        span,
        hosts: None,
        uplink: None,
        oversubscription: None,
    }
}
