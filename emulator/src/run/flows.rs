//! Which tenant flows are open, and which have to be. Pure.

use crate::ids::{FlowId, HostId};
use crate::scenario::FlowSpec;
use std::collections::{BTreeMap, BTreeSet};

/// A direction of a host's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Up(HostId),
    Down(HostId),
}

/// The links a transfer uses in a star: the sender's way up, the receiver's way down, and the
/// other two for its acknowledgements.
fn links(from: HostId, to: HostId) -> [Direction; 4] {
    [
        Direction::Up(from),
        Direction::Down(to),
        Direction::Up(to),
        Direction::Down(from),
    ]
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
        moves: &[(HostId, HostId)],
        hosts: &[Option<HostId>],
        all: bool,
    ) -> BTreeMap<FlowId, (HostId, HostId)> {
        let mut shared: BTreeSet<Direction> = moves
            .iter()
            .flat_map(|&(from, to)| links(from, to))
            .collect();
        let mut needed = BTreeMap::new();
        let mut left: Vec<(FlowId, HostId, HostId)> = (0u32..)
            .zip(&self.specs)
            .filter_map(|(index, flow)| {
                let (from, to) = (hosts[flow.from.index()]?, hosts[flow.to.index()]?);
                (from != to).then_some((FlowId(index), from, to))
            })
            .collect();
        loop {
            let before = left.len();
            left.retain(|&(flow, from, to)| {
                let takes_part = all || links(from, to).iter().any(|link| shared.contains(link));
                if takes_part {
                    shared.extend(links(from, to));
                    needed.insert(flow, (from, to));
                }
                !takes_part
            });
            if left.len() == before {
                return needed;
            }
        }
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

    fn book(flows: &[(u32, u32)]) -> FlowBook {
        FlowBook::new(
            flows
                .iter()
                .map(|&(from, to)| FlowSpec {
                    from: VmId(from),
                    to: VmId(to),
                    rate_bps: None,
                })
                .collect(),
        )
    }

    fn on(hosts: &[u32]) -> Vec<Option<HostId>> {
        hosts.iter().map(|&host| Some(HostId(host))).collect()
    }

    fn ids(needed: &BTreeMap<FlowId, (HostId, HostId)>) -> Vec<u32> {
        needed.keys().map(|flow| flow.0).collect()
    }

    #[test]
    fn sharing_is_closed_transitively() {
        // VM n sits on host n. The move is 0 → 1; flow 0 shares host 1, flow 1 shares host 2 with
        // flow 0, flow 2 shares nothing.
        let book = book(&[(1, 2), (2, 3), (4, 5)]);
        let needed = book.needed(&[(HostId(0), HostId(1))], &on(&[0, 1, 2, 3, 4, 5]), false);
        assert_eq!(ids(&needed), [0, 1]);
    }

    #[test]
    fn vms_on_one_host_and_vms_that_are_gone_send_nothing() {
        let book = book(&[(0, 1), (1, 2)]);
        let hosts = [Some(HostId(0)), Some(HostId(0)), None];
        assert!(
            book.needed(&[(HostId(0), HostId(1))], &hosts, true)
                .is_empty()
        );
    }

    #[test]
    fn with_pace_real_every_flow_is_needed() {
        let book = book(&[(0, 1), (2, 3)]);
        assert_eq!(ids(&book.needed(&[], &on(&[0, 1, 2, 3]), true)), [0, 1]);
        assert!(book.needed(&[], &on(&[0, 1, 2, 3]), false).is_empty());
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
