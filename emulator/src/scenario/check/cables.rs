//! Cables: from what is said of them to a topology whose links can all be.

use super::Span;
use super::link::{self, Demands};
use super::machines::Machines;
use super::places::{Places, Shape, Switch};
use crate::scenario::problem::{NetworkProblem, ProblemKind};
use crate::scenario::raw::{Table, Value};
use crate::scenario::{INTERNET, scale};
use netmodel::topology::{Builder, Cable, HostId, Place, SwitchId, Topology, TopologyError};
use netmodel::units::BitRate;
use std::collections::{BTreeMap, BTreeSet};

/// A cable that is going to be there, and where it was said what it is.
#[derive(Debug)]
struct Laid {
    lower: Place,
    upper: Place,
    /// Whether its links are named as those of its lower end, `NAME-up` and `NAME-down`.
    uplink: bool,
    cable: Cable,
    span: Span,
}

/// A network being put together. Hosts keep the numbers they have in the scenario.
pub(super) struct Draft<'a, 'd> {
    table: &'a Table<'d>,
    machines: &'a Machines<'d>,
    places: &'a Places<'d>,
    links: Vec<Laid>,
    /// The switch the Internet is at.
    internet: Option<u32>,
}

impl<'a, 'd> Draft<'a, 'd> {
    /// Lays every cable of `[network]`.
    pub(super) fn lay(
        table: &'a Table<'d>,
        machines: &'a Machines<'d>,
        places: &'a Places<'d>,
        of_hosts: Option<&Value<'d>>,
        outside: Option<&Value<'d>>,
    ) -> Self {
        let mut draft = Self {
            table,
            machines,
            places,
            links: Vec::new(),
            internet: None,
        };
        draft.hosts(of_hosts);
        draft.internet(outside);
        draft.uplinks();
        draft.cables();
        draft
    }

    /// The links of hosts: the network's, overridden key by key.
    fn hosts(&mut self, of_all: Option<&Value<'_>>) {
        let all = of_all.map_or_else(Cable::default, |value| link::cable(value, Cable::default()));
        for group in &self.machines.groups {
            let own = group.link.as_ref();
            let cable = own.map_or(all, |value| link::cable(value, all));
            let span = own.or(of_all).map_or(&group.span, |value| &value.span);
            for host in group.hosts.clone() {
                if let Some(switch) = self.places.at[host as usize] {
                    self.links.push(Laid {
                        lower: Place::Host(HostId(host)),
                        upper: at(switch),
                        uplink: true,
                        cable,
                        span: span.clone(),
                    });
                }
            }
        }
    }

    fn internet(&mut self, value: Option<&Value<'_>>) {
        let Some(value) = value else { return };
        value.table(
            "[network.internet]",
            "a table with `link` and `at`",
            |table| {
                let link = table.get("link");
                let cable = link
                    .as_ref()
                    .map(|value| link::cable(value, Cable::default()));
                let middle = self.places.shape.middle().map(|_| 0);
                let chosen = match (table.get("at"), middle) {
                    (Some(at), _) => self.places.names.find(self.places.shape.place(), &at),
                    (None, Some(middle)) => Some(middle),
                    (None, None) => {
                        table.need("at", "at = \"a\"");
                        None
                    }
                };
                let Some(switch) = chosen else { return };
                self.internet = Some(switch);
                self.links.push(Laid {
                    lower: Place::Host(HostId(self.machines.count())),
                    upper: at(switch),
                    uplink: true,
                    cable: cable.unwrap_or_default(),
                    span: link.map_or_else(|| value.span.clone(), |link| link.span),
                });
            },
        );
    }

    /// From racks to the core: what the network says of all, overridden by what a rack says of its own.
    fn uplinks(&mut self) {
        if self.places.shape != Shape::TwoTier {
            return;
        }
        let of_all = self.table.get("uplink");
        let all = of_all
            .as_ref()
            .map(|value| link::cable(value, Cable::default()));
        let share_of_all = self.table.get("oversubscription");
        for (index, rack) in (0..).zip(&self.places.switches).skip(1) {
            let own = rack.uplink.as_ref();
            let base = all.unwrap_or_default();
            let mut cable = own.map_or(base, |value| link::cable(value, base));
            let says_rate = |value: Option<&Value<'_>>| value.is_some_and(|v| v.mentions("rate"));
            let (share, rated) = match &rack.oversubscription {
                Some(share) => (Some(share), says_rate(own)),
                None if says_rate(own) => (None, false),
                None => (share_of_all.as_ref(), says_rate(of_all.as_ref())),
            };
            if let Some(share) = share {
                if rated {
                    let key = "uplink".to_owned();
                    let choices = "a `rate` of its own and `oversubscription`";
                    share.note(ProblemKind::OneOf { key, choices });
                }
                self.oversubscribed(index, rack, share, &mut cable);
            }
            let said = rack
                .oversubscription
                .as_ref()
                .or(own)
                .or(share)
                .or(of_all.as_ref());
            self.links.push(Laid {
                lower: at(index),
                upper: at(0),
                uplink: true,
                cable,
                span: said.map_or_else(|| rack.span.clone(), |value| value.span.clone()),
            });
        }
    }

    /// Gives an uplink the rates at which the links of its rack's hosts exceed it so many times.
    fn oversubscribed(&self, index: u32, rack: &Switch<'_>, share: &Value<'_>, cable: &mut Cable) {
        // A thousandth: the uplink is faster than all links together by as much.
        let Some(milli) = share.thousandths(0.001..=100_000.0) else {
            return;
        };
        let mut sums = [0_u128; 2];
        let inside = |laid: &&Laid| laid.uplink && laid.upper == at(index);
        for laid in self.links.iter().filter(inside) {
            for (sum, link) in sums.iter_mut().zip([laid.cable.up, laid.cable.down]) {
                let Some(rate) = link.rate else {
                    let value = f64::from(milli) / 1000.0;
                    let bounds = format!(
                        "a `rate` for every link into rack `{}`, of which it is a share: one is unshaped",
                        rack.name
                    );
                    return share.out_of_bounds(value.to_string(), bounds);
                };
                *sum += u128::from(rate.bps());
            }
        }
        let rate = |sum: u128| {
            let bps = sum * 1000 / u128::from(milli.max(1));
            let bps = u64::try_from(bps).unwrap_or(u64::MAX);
            // Whole kbit where there are many: thirds of a Gbit read badly.
            let whole = if bps > 1_000_000 {
                bps / 1000 * 1000
            } else {
                bps
            };
            BitRate::from_bps(whole)
        };
        (cable.up.rate, cable.down.rate) = (rate(sums[0]), rate(sums[1]));
    }

    fn cables(&mut self) {
        let shape = self.places.shape;
        if !matches!(shape, Shape::Wan | Shape::Graph) {
            return;
        }
        let mut seen = BTreeSet::new();
        let list = self
            .table
            .get("cables")
            .and_then(|v| v.list("a list of tables"));
        for value in list.unwrap_or_default() {
            value.table("[[network.cables]]", "a table", |table| {
                let link = table.get("link");
                let cable = link
                    .as_ref()
                    .map(|value| link::cable(value, Cable::default()));
                let span = link.map_or_else(|| value.span.clone(), |link| link.span);
                let between = table.need("between", "between = [\"a\", \"b\"]");
                for (a, b, spot) in between.map(|v| self.pairs(&v)).unwrap_or_default() {
                    if !seen.insert((a.min(b), a.max(b))) {
                        let name = |index: u32| self.places.switches[index as usize].name.clone();
                        let (a, b) = (name(a), name(b));
                        table
                            .log
                            .add(&spot, NetworkProblem::TwoCables { a, b }.into());
                        continue;
                    }
                    self.links.push(Laid {
                        lower: at(a),
                        upper: at(b),
                        uplink: false,
                        cable: cable.unwrap_or_default(),
                        span: span.clone(),
                    });
                }
            });
        }
    }

    /// One pair of places, or a list of them.
    fn pairs(&self, value: &Value<'_>) -> Vec<(u32, u32, Span)> {
        const PAIR: &str = "two names: [\"a\", \"b\"], or a list of such pairs";
        let list = value.list(PAIR).unwrap_or_default();
        if list.first().is_some_and(Value::is_list) {
            return list.iter().flat_map(|pair| self.pairs(pair)).collect();
        }
        let [a, b] = list.as_slice() else {
            value.out_of_bounds(format!("a list of {}", list.len()), PAIR);
            return Vec::new();
        };
        let find = |value| self.places.names.find(self.places.shape.place(), value);
        match (find(a), find(b)) {
            (Some(from), Some(to)) if from == to => {
                b.out_of_bounds("both ends of the cable", "another place");
                Vec::new()
            }
            (Some(from), Some(to)) => vec![(from, to, value.span.clone())],
            _ => Vec::new(),
        }
    }

    /// The topology, if all of it can be: connected, and every link one that can be carried.
    pub(super) fn finish(&self, demands: Demands) -> Option<Topology> {
        let log = self.table.log;
        if let Some((from, to)) = self.apart() {
            let name = |index: u32| self.places.switches[index as usize].name.clone();
            let (what, from_name, to_name) = (self.places.shape.place(), name(from), name(to));
            let apart = NetworkProblem::Apart {
                what,
                from: from_name,
                to: to_name,
            };
            log.add(&self.places.switches[to as usize].span, apart.into());
            return None;
        }
        let mut builder = Builder::new();
        for switch in &self.places.switches {
            builder.switch(&switch.name);
        }
        for host in &self.machines.hosts {
            builder.host(&host.name);
        }
        if self.internet.is_some() {
            builder.host(INTERNET);
        }
        for laid in &self.links {
            let lay = if laid.uplink {
                Builder::uplink
            } else {
                Builder::cable
            };
            lay(&mut builder, laid.lower, laid.upper, laid.cable);
        }
        let refused = |error| {
            let kind = match error {
                TopologyError::TooFewHosts { hosts: 0 } => return,
                TopologyError::TooFewHosts { hosts } => ProblemKind::Bounds {
                    key: "hosts".into(),
                    value: format!("{hosts} host"),
                    bounds: "at least two hosts".into(),
                },
                other => NetworkProblem::from(other).into(),
            };
            log.add(&self.machines.span, kind);
        };
        let topology = builder.finish().map_err(refused).ok()?;
        self.demand(demands, &topology);
        Some(topology)
    }

    /// Notes the first link of each spot that cannot be.
    fn demand(&self, demands: Demands, topology: &Topology) {
        let backs = scale::ways_back(topology);
        let mut noted = BTreeSet::new();
        // Two links a cable, in the order they were laid.
        for (link, back) in topology.links().iter().zip(backs) {
            let span = &self.links[link.id.0 as usize / 2].span;
            if let Err(kind) = demands.of(link, &link.spec, back)
                && noted.insert((span.start, span.end))
            {
                self.table.log.add(span, kind);
            }
        }
    }

    /// Two places with hosts that no cables join.
    fn apart(&self) -> Option<(u32, u32)> {
        let mut next: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for laid in &self.links {
            if let (Place::Switch(a), Place::Switch(b)) = (laid.lower, laid.upper) {
                next.entry(a.0).or_default().push(b.0);
                next.entry(b.0).or_default().push(a.0);
            }
        }
        let with_hosts: BTreeSet<u32> = self
            .places
            .at
            .iter()
            .flatten()
            .copied()
            .chain(self.internet)
            .collect();
        let first = *with_hosts.first()?;
        let (mut reached, mut left) = (BTreeSet::from([first]), vec![first]);
        while let Some(place) = left.pop() {
            for &beside in next.get(&place).into_iter().flatten() {
                if reached.insert(beside) {
                    left.push(beside);
                }
            }
        }
        let lost = with_hosts.difference(&reached).next();
        lost.map(|&lost| (first, lost))
    }
}

fn at(switch: u32) -> Place {
    Place::Switch(SwitchId(switch))
}
