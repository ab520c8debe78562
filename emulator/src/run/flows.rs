//! Which tenant flows are open, and which have to be. Pure.

use crate::ids::{FlowId, HostId};
use crate::scenario::{Endpoint, FlowSpec, NetworkSpec, net_host};
use netmodel::topology::LinkId;
use std::collections::BTreeMap;

/// The links a transfer uses: its path, and that of its acknowledgements.
fn both_ways(network: &NetworkSpec, from: HostId, to: HostId) -> Vec<LinkId> {
    let (from, to) = (net_host(from), net_host(to));
    let mut links = network.topology.path(from, to);
    links.extend(network.topology.path(to, from));
    links
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// The sink was asked for.
    Asked {
        /// Sender's host.
        from: HostId,
        /// Receiver's host.
        to: HostId,
    },
    /// Sending.
    Open {
        /// Sender's host.
        from: HostId,
        /// Receiver's host.
        to: HostId,
    },
}

impl FlowState {
    /// The hosts it runs between.
    #[must_use]
    pub fn ends(self) -> (HostId, HostId) {
        match self {
            Self::Asked { from, to } | Self::Open { from, to } => (from, to),
        }
    }
}

/// The flows of a run.
#[derive(Debug)]
pub struct FlowBook {
    specs: Vec<FlowSpec>,
    states: BTreeMap<FlowId, FlowState>,
    /// Payload received by flows that are open, as last reported.
    received: BTreeMap<FlowId, u64>,
}

impl FlowBook {
    /// No flow is open.
    #[must_use]
    pub fn new(specs: Vec<FlowSpec>) -> Self {
        Self {
            specs,
            states: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// What a flow is.
    #[must_use]
    pub fn spec(&self, flow: FlowId) -> &FlowSpec {
        &self.specs[flow.index()]
    }

    /// Every flow that is open or being opened.
    #[must_use]
    pub fn states(&self) -> &BTreeMap<FlowId, FlowState> {
        &self.states
    }

    /// Flows that share a link with a move, or with a flow that does, and so on; with `all`, every
    /// flow. Two VMs on one host do not use the network. `hosts[vm]` is `None` for VMs that are
    /// gone.
    #[must_use]
    pub fn needed(
        &self,
        network: &NetworkSpec,
        moves: &[(HostId, HostId)],
        hosts: &[Option<HostId>],
        all: bool,
    ) -> BTreeMap<FlowId, (HostId, HostId)> {
        let place = |end: Endpoint| match end {
            Endpoint::Vm(vm) => hosts[vm.index()],
            Endpoint::Internet => network.internet,
        };
        let mut left: BTreeMap<FlowId, (HostId, HostId)> = (0..)
            .map(FlowId)
            .zip(&self.specs)
            .filter_map(|(id, flow)| Some((id, (place(flow.from)?, place(flow.to)?))))
            .filter(|(_, (from, to))| from != to)
            .collect();
        if all {
            return left;
        }
        let links = |&(from, to): &(HostId, HostId)| both_ways(network, from, to);
        let mut users: BTreeMap<LinkId, Vec<FlowId>> = BTreeMap::new();
        for (&flow, ends) in &left {
            for link in links(ends) {
                users.entry(link).or_default().push(flow);
            }
        }
        let mut needed = BTreeMap::new();
        let mut shared: Vec<LinkId> = moves.iter().flat_map(links).collect();
        while let Some(link) = shared.pop() {
            // Each link's users are taken once: whoever comes to it later finds none left.
            for flow in users.remove(&link).unwrap_or_default() {
                if let Some(ends) = left.remove(&flow) {
                    shared.extend(links(&ends));
                    needed.insert(flow, ends);
                }
            }
        }
        needed
    }

    /// The sink of a flow was asked for.
    pub fn asked(&mut self, flow: FlowId, from: HostId, to: HostId) {
        self.states.insert(flow, FlowState::Asked { from, to });
    }

    /// A flow is sending; `None` when it is not wanted any more.
    pub fn opened(&mut self, flow: FlowId) -> Option<(HostId, HostId)> {
        let state = self.states.get_mut(&flow)?;
        let (from, to) = state.ends();
        *state = FlowState::Open { from, to };
        self.received.insert(flow, 0);
        Some((from, to))
    }

    /// A flow was closed, or could not be opened.
    pub fn closed(&mut self, flow: FlowId) -> Option<FlowState> {
        self.received.remove(&flow);
        self.states.remove(&flow)
    }

    /// A host has gone; returns the flows that went with it.
    pub fn host_lost(&mut self, host: HostId) -> Vec<(FlowId, FlowState)> {
        let lost: Vec<_> = self
            .states
            .iter()
            .filter(|(_, state)| state.ends().0 == host || state.ends().1 == host)
            .map(|(&flow, &state)| (flow, state))
            .collect();
        for (flow, _) in &lost {
            self.closed(*flow);
        }
        lost
    }

    /// Takes a report of bytes received.
    pub fn report(&mut self, bytes: &[(FlowId, u64)]) {
        for &(flow, received) in bytes {
            if let Some(entry) = self.received.get_mut(&flow) {
                *entry = received;
            }
        }
    }

    /// Payload delivered by all open flows.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.received.values().sum()
    }

    /// Whether every flow asked for is sending.
    #[must_use]
    pub fn all_open(&self) -> bool {
        self.states
            .values()
            .all(|state| matches!(state, FlowState::Open { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VmId;
    use netmodel::schedule::Schedule;
    use netmodel::topology::{Cable, Rack, Topology};

    fn book(flows: &[(u32, u32)]) -> FlowBook {
        let vm = |vm| Endpoint::Vm(VmId(vm));
        ends(flows.iter().map(|&(from, to)| (vm(from), vm(to))))
    }

    fn ends(flows: impl IntoIterator<Item = (Endpoint, Endpoint)>) -> FlowBook {
        let spec = |(from, to)| FlowSpec {
            from,
            to,
            rate_bps: None,
        };
        FlowBook::new(flows.into_iter().map(spec).collect())
    }

    fn on(hosts: &[u32]) -> Vec<Option<HostId>> {
        hosts.iter().map(|&host| Some(HostId(host))).collect()
    }

    fn ids(needed: &BTreeMap<FlowId, (HostId, HostId)>) -> Vec<u32> {
        needed.keys().map(|flow| flow.0).collect()
    }

    fn network(topology: Topology) -> NetworkSpec {
        NetworkSpec {
            backend: None,
            topology,
            internet: None,
            schedule: Schedule::default(),
            congestion: "cubic".into(),
        }
    }

    /// Six hosts on one switch.
    fn star() -> NetworkSpec {
        let hosts = (0..6).map(|host| (format!("h{host}"), Cable::default()));
        network(Topology::star(hosts).unwrap())
    }

    /// Hosts 0 and 1 in a rack, 2 and 3 in another, 4 and 5 in a third.
    fn racks() -> NetworkSpec {
        let rack = |rack: u32| Rack {
            name: format!("rack{rack}"),
            uplink: Cable::default(),
            hosts: (0..2)
                .map(|host| (format!("r{rack}h{host}"), Cable::default()))
                .collect(),
        };
        network(Topology::two_tier((0..3).map(rack)).unwrap())
    }

    const MOVE: [(HostId, HostId); 1] = [(HostId(0), HostId(1))];

    #[test]
    fn sharing_is_closed_transitively() {
        // VM n sits on host n. The move is 0 → 1; flow 0 shares host 1, flow 1 shares host 2 with
        // flow 0, flow 2 shares nothing.
        let book = book(&[(1, 2), (2, 3), (4, 5)]);
        let needed = book.needed(&star(), &MOVE, &on(&[0, 1, 2, 3, 4, 5]), false);
        assert_eq!(ids(&needed), [0, 1]);
    }

    #[test]
    fn an_uplink_is_shared_by_hosts_that_share_no_link_of_their_own() {
        let book = book(&[(1, 3), (4, 5)]);
        let moves = [(HostId(0), HostId(2))];
        let hosts = on(&[0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(&book.needed(&racks(), &moves, &hosts, false)), [0]);
        assert!(book.needed(&star(), &moves, &hosts, false).is_empty());
        // Within one rack nobody's uplink is used.
        assert!(book.needed(&racks(), &MOVE, &hosts, false).len() == 1);
        let near = [(HostId(4), HostId(5))];
        assert_eq!(ids(&book.needed(&racks(), &near, &hosts, false)), [1]);
    }

    #[test]
    fn the_internet_is_a_place_like_any_other() {
        let mut network = star();
        network.internet = Some(HostId(5));
        let book = ends([
            (Endpoint::Internet, Endpoint::Vm(VmId(1))),
            (Endpoint::Vm(VmId(2)), Endpoint::Internet),
            (Endpoint::Vm(VmId(3)), Endpoint::Vm(VmId(4))),
        ]);
        let needed = book.needed(&network, &MOVE, &on(&[0, 1, 2, 3, 4]), false);
        assert_eq!(needed[&FlowId(0)], (HostId(5), HostId(1)));
        assert_eq!(ids(&needed), [0, 1]);
    }

    #[test]
    fn vms_on_one_host_and_vms_that_are_gone_send_nothing() {
        let book = book(&[(0, 1), (1, 2)]);
        let hosts = [Some(HostId(0)), Some(HostId(0)), None];
        assert!(book.needed(&star(), &MOVE, &hosts, true).is_empty());
    }

    #[test]
    fn with_pace_real_every_flow_is_needed() {
        let book = book(&[(0, 1), (2, 3)]);
        let hosts = on(&[0, 1, 2, 3]);
        assert_eq!(ids(&book.needed(&star(), &[], &hosts, true)), [0, 1]);
        assert!(book.needed(&star(), &[], &hosts, false).is_empty());
    }

    #[test]
    fn a_flow_closed_while_it_opens_stays_closed() {
        let mut book = book(&[(0, 1)]);
        book.asked(FlowId(0), HostId(0), HostId(1));
        assert!(!book.all_open());
        book.closed(FlowId(0));
        assert_eq!(book.opened(FlowId(0)), None);
        assert!(book.all_open());
    }
}
