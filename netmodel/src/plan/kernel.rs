//! The steps of the kernel's backends: a namespace per switch that forwards, and a tree of qdiscs per link.
//!
//! Pure. A link that leaves a switch is what the device there sends. A link that enters a switch from a host is shaped
//! at the switch as well, by an IFB device that takes what the port received and gives it back afterwards: never on
//! the host's own device, where TCP small queues would see the queue and keep it empty.
//!
//! Routes: one switch is the root of a tree that spans all. Every other one sends what it knows nothing better about
//! towards it, and the root drops that, so that an address nobody has leads nowhere and never in circles.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use super::{
    Hop, QUIET, Route, Scope, Step, TcpSettings, Trunk, host_device, host_settings, mac, sysctl,
    tcp_sysctls, veth,
};
use crate::backend::BackendKind;
use crate::link::MTU;
use crate::qdisc::{Framing, Handle, Object, Qdisc, Redirect, Shape};
use crate::topology::{HostId, Link, LinkId, PREFIX_LEN, Place, SwitchId, Topology, host_address};

/// Gets the originals of copied packets and drops them: see [`Redirect::sink`].
const SINK: &str = "sink";
/// Stands for the switch at the other end of a trunk. Link-local, so that it is no address of the emulated network.
const OTHER_END: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// Where a link is shaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) switch: SwitchId,
    pub(crate) device: String,
}

/// The device that shapes a link; none for a link between two hosts.
pub(crate) fn line(link: &Link) -> Option<Line> {
    let (switch, device) = match (link.from, link.to) {
        (Place::Host(host), Place::Switch(switch)) => (switch, format!("i{}", host.0)),
        (Place::Switch(switch), Place::Host(host)) => (switch, port(host)),
        (Place::Switch(switch), Place::Switch(_)) => (switch, format!("l{}", link.id.0)),
        (Place::Host(_), Place::Host(_)) => return None,
    };
    Some(Line { switch, device })
}

/// Seed of a link's random numbers: every run, every link and every change of it has its own.
pub(crate) fn seed(run: u64, link: LinkId, changes: u32) -> u64 {
    // The finaliser of SplitMix64, a bijection that spreads the run's seed over all bits and leaves 0.
    let run = (run ^ (run >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let run = (run ^ (run >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    run ^ (run >> 31) ^ (u64::from(changes) << 32) ^ u64::from(link.0)
}

/// All steps, in order.
pub(super) fn steps(
    topology: &Topology,
    tcp: &TcpSettings,
    backend: BackendKind,
    framing: Framing,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for switch in switches(topology) {
        steps.extend(switch_settings(switch));
    }
    let tcp = tcp_sysctls(topology, tcp);
    for (host, _) in topology.hosts() {
        steps.extend(host_settings(host, &tcp));
    }
    steps.extend(trunks(topology).into_values().map(Step::Trunk));
    let mut by_switch: BTreeMap<SwitchId, Vec<&Link>> = BTreeMap::new();
    for link in topology.links() {
        if let Some(line) = line(link) {
            by_switch.entry(line.switch).or_default().push(link);
        }
    }
    for (&switch, links) in &by_switch {
        if backend == BackendKind::Htb {
            steps.extend(sink(switch));
        }
        for link in links {
            steps.extend(shaped(link, backend, framing));
        }
    }
    for switch in switches(topology) {
        steps.extend(devices(topology, switch));
    }
    for (host, _) in topology.hosts() {
        if framing == Framing::SingleSegments {
            steps.push(Step::SingleSegments { host });
        }
        steps.extend(host_device(topology, host));
    }
    let root = root(topology);
    for switch in switches(topology) {
        let default = default_route(topology, root, switch);
        let routes = routes(topology, switch, default);
        steps.extend(
            routes
                .into_iter()
                .map(|route| Step::Route { switch, route }),
        );
    }
    steps
}

fn switches(topology: &Topology) -> impl Iterator<Item = SwitchId> {
    (0..).map(SwitchId).take(topology.switches().len())
}

fn switch_settings(switch: SwitchId) -> Vec<Step> {
    let scope = Scope::Switch(switch);
    let forwarding = [
        ("net/ipv4/ip_forward", "1"),
        // Answers may take another way than questions.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // A switch says nothing of its own.
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
    ];
    // The loopback device brings the local routes without which the kernel takes no gateway for one.
    let mut steps = vec![Step::LoopbackUp { scope }];
    let all = QUIET.into_iter().chain(forwarding);
    steps.extend(all.map(|(key, value)| sysctl(scope, key, value)));
    steps
}

fn port(host: HostId) -> String {
    format!("p{}", host.0)
}

/// Pairs between switches, by their first link. Two links between the same switches in opposite directions share one;
/// a link without such a partner has a pair of its own.
fn trunks(topology: &Topology) -> BTreeMap<LinkId, Trunk> {
    let mut waiting: BTreeMap<(SwitchId, SwitchId), VecDeque<LinkId>> = BTreeMap::new();
    let mut trunks = BTreeMap::new();
    for link in topology.links() {
        let (Place::Switch(from), Place::Switch(to)) = (link.from, link.to) else {
            continue;
        };
        let partner = waiting.get_mut(&(to, from)).and_then(VecDeque::pop_front);
        if let Some(first) = partner {
            let trunk: &mut Trunk = trunks
                .get_mut(&first)
                .expect("what waits is among the trunks");
            trunk.peer = format!("l{}", link.id.0);
            continue;
        }
        waiting.entry((from, to)).or_default().push_back(link.id);
        let trunk = Trunk {
            from,
            device: format!("l{}", link.id.0),
            to,
            peer: format!("x{}", link.id.0),
            mac: mac(2, link.id.0),
            mtu: u32::from(MTU),
            txqueuelen: 1000,
        };
        trunks.insert(link.id, trunk);
    }
    trunks
}

/// A device that drops everything: its queue has no room.
fn sink(switch: SwitchId) -> [Step; 3] {
    let device = SINK.to_owned();
    let full = Object::Qdisc {
        parent: Handle::ROOT,
        handle: Handle::new(1, 0),
        kind: Qdisc::Bfifo { limit: 0 },
    };
    [
        Step::Ifb {
            switch,
            device: device.clone(),
        },
        Step::Queue {
            switch,
            device: device.clone(),
            object: full,
        },
        Step::Up {
            scope: Scope::Switch(switch),
            device,
        },
    ]
}

/// The device of a link, where it needs one of its own, and its qdiscs: before it is up, when nothing has to be waited
/// for.
fn shaped(link: &Link, backend: BackendKind, framing: Framing) -> Vec<Step> {
    let Some(Line { switch, device }) = line(link) else {
        return Vec::new();
    };
    let queue = |device: &str, object| Step::Queue {
        switch,
        device: device.to_owned(),
        object,
    };
    let mut steps = Vec::new();
    if let Place::Host(host) = link.from {
        steps.push(Step::Veth(veth(host, Scope::Switch(switch))));
        steps.push(Step::Ifb {
            switch,
            device: device.clone(),
        });
        let ingress = Object::Qdisc {
            parent: Handle::INGRESS,
            handle: Handle::new(0xFFFF, 0),
            kind: Qdisc::Ingress,
        };
        let redirect = Object::Redirect(Redirect {
            to: device.clone(),
            sink: (backend == BackendKind::Htb).then(|| SINK.to_owned()),
        });
        steps.extend([ingress, redirect].map(|object| queue(&port(host), object)));
    }
    let shape = Shape::new(backend, &link.spec, framing, seed(0, link.id, 0));
    let objects = shape.objects().into_iter();
    steps.extend(objects.map(|object| queue(&device, object)));
    steps
}

/// Brings a switch's devices up.
fn devices(topology: &Topology, switch: SwitchId) -> Vec<Step> {
    let mut names = Vec::new();
    for link in topology.links() {
        if let Some(line) = line(link)
            && line.switch == switch
        {
            names.push(line.device);
        }
    }
    for (id, trunk) in trunks(topology) {
        if trunk.to == switch && trunk.peer == format!("x{}", id.0) {
            names.push(trunk.peer);
        }
    }
    let up = |device| Step::Up {
        scope: Scope::Switch(switch),
        device,
    };
    names.into_iter().map(up).collect()
}

/// The switch what is unknown is sent to: the one with the most links to others, of those the first.
pub(crate) fn root(topology: &Topology) -> SwitchId {
    let mut links = BTreeMap::new();
    for link in topology.links() {
        if let (Place::Switch(from), Place::Switch(_)) = (link.from, link.to) {
            *links.entry(from).or_insert(0_u32) += 1;
        }
    }
    let most = links
        .into_iter()
        .max_by_key(|&(id, n)| (n, std::cmp::Reverse(id)));
    most.map_or(SwitchId(0), |(id, _)| id)
}

/// The first link of the shortest way to the root; none at the root, and where none leads there.
pub(crate) fn default_route(
    topology: &Topology,
    root: SwitchId,
    switch: SwitchId,
) -> Option<LinkId> {
    // Breadth first from the switch, remembering with which link it began.
    let mut first: BTreeMap<SwitchId, Option<LinkId>> = BTreeMap::from([(switch, None)]);
    let mut frontier = VecDeque::from([switch]);
    while let Some(at) = frontier.pop_front() {
        let began = first[&at];
        if at == root {
            return began;
        }
        for link in topology.links() {
            if let (Place::Switch(from), Place::Switch(to)) = (link.from, link.to)
                && from == at
                && !first.contains_key(&to)
            {
                first.insert(to, began.or(Some(link.id)));
                frontier.push_back(to);
            }
        }
    }
    None
}

/// The routes of a switch: hosts which the default does not lead to, neighbours in the address plan together, and the
/// default.
fn routes(topology: &Topology, switch: SwitchId, default: Option<LinkId>) -> Vec<Route> {
    let other = |host| {
        let link = topology.next_link(switch, host)?;
        (Some(link) != default).then_some(link)
    };
    let hosts: Vec<HostId> = topology.hosts().map(|(host, _)| host).collect();
    let mut routes = Vec::new();
    for run in hosts.chunk_by(|&a, &b| other(a) == other(b)) {
        if let Some(link) = other(run[0]) {
            let hop = hop(topology.link(link));
            let (low, high) = (run[0], run[run.len() - 1]);
            routes.extend(
                prefixes(low, high)
                    .into_iter()
                    .map(|(to, prefix_len)| Route {
                        to,
                        prefix_len,
                        hop: hop.clone(),
                    }),
            );
        }
    }
    routes.push(Route {
        to: Ipv4Addr::new(10, 64, 0, 0),
        prefix_len: PREFIX_LEN,
        hop: default.and_then(|link| hop(topology.link(link))),
    });
    routes
}

/// Where a link that leaves a switch leads.
pub(crate) fn hop(link: &Link) -> Option<Hop> {
    let via = match link.to {
        Place::Host(host) => host_address(host),
        Place::Switch(_) => OTHER_END,
    };
    line(link).map(|line| Hop {
        device: line.device,
        via,
    })
}

/// The fewest prefixes that hold the addresses of the hosts from `low` to `high` and no other.
fn prefixes(low: HostId, high: HostId) -> Vec<(Ipv4Addr, u8)> {
    let (mut at, end) = (u32::from(host_address(low)), u32::from(host_address(high)));
    let mut prefixes = Vec::new();
    while at <= end {
        // As large as its alignment and what is left allow. Addresses of hosts are far from both ends of 32 bits.
        let bits = at.trailing_zeros().min((end - at + 1).ilog2());
        let length = u8::try_from(32 - bits).expect("at most 32");
        prefixes.push((Ipv4Addr::from(at), length));
        at += 1 << bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LinkSpec;
    use crate::plan::Plan;
    use crate::topology::{Cable, Rack};

    fn racks(racks: u32, hosts: u32) -> Topology {
        let cable = Cable::symmetric(LinkSpec::default());
        let rack = |r| Rack {
            name: format!("rack{r}"),
            uplink: cable,
            hosts: (0..hosts).map(|h| (format!("h{r}-{h}"), cable)).collect(),
        };
        Topology::two_tier((0..racks).map(rack)).unwrap()
    }

    fn told(topology: &Topology, switch: u32) -> Vec<String> {
        let switch = SwitchId(switch);
        let default = default_route(topology, root(topology), switch);
        let routes = routes(topology, switch, default);
        routes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rack_knows_its_hosts_and_the_core_knows_racks() {
        // Links of the first rack: 0 up, 1 down, then two per host.
        let topology = racks(3, 3);
        assert_eq!(root(&topology), SwitchId(0));
        assert_eq!(
            told(&topology, 1),
            [
                "10.64.0.1/32 via 10.64.0.1 dev p0 onlink",
                "10.64.0.2/32 via 10.64.0.2 dev p1 onlink",
                "10.64.0.3/32 via 10.64.0.3 dev p2 onlink",
                "10.64.0.0/10 via 169.254.0.1 dev l0 onlink",
            ]
        );
        assert_eq!(
            told(&topology, 0),
            [
                "10.64.0.1/32 via 169.254.0.1 dev l1 onlink",
                "10.64.0.2/31 via 169.254.0.1 dev l1 onlink",
                "10.64.0.4/31 via 169.254.0.1 dev l9 onlink",
                "10.64.0.6/32 via 169.254.0.1 dev l9 onlink",
                "10.64.0.7/32 via 169.254.0.1 dev l17 onlink",
                "10.64.0.8/31 via 169.254.0.1 dev l17 onlink",
                "blackhole 10.64.0.0/10",
            ]
        );
    }

    #[test]
    fn a_thousand_hosts_need_few_routes_outside_of_their_racks() {
        let topology = racks(40, 25);
        assert_eq!(told(&topology, 7).len(), 25 + 1);
        assert!(told(&topology, 0).len() < 40 * 8);
    }

    #[test]
    fn opposite_links_share_a_pair_and_single_ones_have_their_own() {
        let mut builder = crate::topology::Builder::new();
        let (a, b) = (builder.switch("a"), builder.switch("b"));
        let cable = Cable::symmetric(LinkSpec::default());
        builder.cable(a, b, cable);
        builder.link("b>a again".to_owned(), (b, a), LinkSpec::default());
        for (name, switch) in [("h1", a), ("h2", b)] {
            let host = builder.host(name);
            builder.uplink(host, switch, cable);
        }
        let trunks = trunks(&builder.finish().unwrap());
        let ends: Vec<_> = trunks
            .values()
            .map(|t| (t.device.as_str(), t.peer.as_str()))
            .collect();
        assert_eq!(ends, [("l0", "l1"), ("l2", "x2")]);
    }

    #[test]
    fn every_device_has_its_qdiscs_before_it_is_up() {
        let topology = racks(2, 2);
        let plan = Plan::new(topology, &TcpSettings::default(), BackendKind::Netem);
        let mut up = std::collections::BTreeSet::new();
        let mut queued = 0;
        for step in plan.steps() {
            match step {
                Step::Up { scope, device } => {
                    up.insert((*scope, device.clone()));
                }
                Step::Queue { switch, device, .. } => {
                    queued += 1;
                    assert!(!up.contains(&(Scope::Switch(*switch), device.clone())));
                }
                _ => {}
            }
        }
        // Twelve links of four objects, four hosts' ports with a qdisc and a filter.
        assert_eq!(queued, 12 * 4 + 4 * 2);
    }
}
