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
    /// When the schedule of a flow that is open began, monotonic ns; kept when an end moves.
    since_ns: BTreeMap<FlowId, u64>,
    moves: BTreeMap<FlowId, Moving>,
}

/// A flow an end of which has moved: what is known of the gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moving {
    /// The old sink has been told to close.
    Closing,
    /// It has said when it got its last payload; the new one is open.
    Left {
        last_ns: u64,
        /// It moved once more, and is closing again.
        closing: bool,
    },
}

impl FlowBook {
    /// No flow is open.
    #[must_use]
    pub fn new(specs: Vec<FlowSpec>) -> Self {
        Self {
            specs,
            states: BTreeMap::new(),
            received: BTreeMap::new(),
            since_ns: BTreeMap::new(),
            moves: BTreeMap::new(),
        }
    }

    fn place(end: Endpoint, network: &NetworkSpec, hosts: &[Option<HostId>]) -> Option<HostId> {
        match end {
            Endpoint::Vm(vm) => hosts[vm.index()],
            Endpoint::Internet => network.internet,
        }
    }

    /// Flows that run between other hosts than those their ends are on.
    #[must_use]
    pub fn misplaced(&self, network: &NetworkSpec, hosts: &[Option<HostId>]) -> Vec<FlowId> {
        let place = |end| Self::place(end, network, hosts);
        let wrong = |(flow, state): &(&FlowId, &FlowState)| {
            let (spec, (from, to)) = (self.spec(**flow), state.ends());
            (place(spec.from), place(spec.to)) != (Some(from), Some(to))
        };
        let states = self.states.iter().filter(wrong);
        states.map(|(&flow, _)| flow).collect()
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
        let place = |end| Self::place(end, network, hosts);
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

    /// When the schedule of a flow began: now, unless it has.
    pub fn since_ns(&mut self, flow: FlowId, now_ns: u64) -> u64 {
        *self.since_ns.entry(flow).or_insert(now_ns)
    }

    /// A flow is closed because an end of it moved; its schedule goes on.
    pub fn leaving(&mut self, flow: FlowId) {
        match self.moves.entry(flow).or_insert(Moving::Closing) {
            Moving::Closing => {}
            Moving::Left { closing, .. } => *closing = true,
        }
    }

    /// A sink has closed, and had its first and last payload at these instants. Returns the gap
    /// before the first, when the flow came from elsewhere.
    pub fn sink_closed(&mut self, flow: FlowId, carried_ns: Option<(u64, u64)>) -> Option<u64> {
        let (before, closing) = match self.moves.remove(&flow)? {
            Moving::Closing => (None, true),
            Moving::Left { last_ns, closing } => (Some(last_ns), closing),
        };
        // A place at which nothing arrived is part of the gap.
        if let (Some(last_ns), true) = (carried_ns.map(|(_, last)| last).or(before), closing) {
            let left = Moving::Left {
                last_ns,
                closing: false,
            };
            self.moves.insert(flow, left);
        }
        let ((first_ns, _), before) = carried_ns.zip(before)?;
        Some(first_ns.saturating_sub(before))
    }

    /// All flows are closed: what opens next begins anew.
    pub fn all_closed(&mut self) {
        self.since_ns.clear();
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
            send_buffer: None,
            send_buffer_max: None,
            receive_buffer_max: None,
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

    #[test]
    fn a_flow_follows_its_vm_and_the_gap_is_counted() {
        let mut book = book(&[(0, 1), (0, 2)]);
        let network = star();
        book.asked(FlowId(0), HostId(0), HostId(1));
        book.asked(FlowId(1), HostId(0), HostId(2));
        let before = on(&[0, 1, 2]);
        assert!(book.misplaced(&network, &before).is_empty());
        assert_eq!(book.since_ns(FlowId(0), 100), 100);
        // VM 1 moves to host 0, where VM 0 is: its flow has to close though it is not needed there.
        let moved = on(&[0, 0, 2]);
        assert_eq!(book.misplaced(&network, &moved), [FlowId(0)]);
        assert!(
            !book
                .needed(&network, &MOVE, &moved, true)
                .contains_key(&FlowId(0))
        );
        book.leaving(FlowId(0));
        book.closed(FlowId(0));
        assert_eq!(book.sink_closed(FlowId(0), Some((110, 200))), None);
        // It leaves again: the schedule is the old one, the gap ends with the first payload.
        assert_eq!(book.since_ns(FlowId(0), 300), 100);
        book.leaving(FlowId(0));
        assert_eq!(book.sink_closed(FlowId(0), Some((340, 400))), Some(140));
        book.leaving(FlowId(0));
        assert_eq!(
            book.sink_closed(FlowId(0), None),
            None,
            "nothing came there"
        );
        assert_eq!(book.sink_closed(FlowId(0), Some((460, 470))), Some(60));
        assert_eq!(
            book.sink_closed(FlowId(0), Some((500, 600))),
            None,
            "closed for good"
        );
        // A flow that never moved has no gap.
        assert_eq!(book.sink_closed(FlowId(1), Some((1, 2))), None);
    }
}
