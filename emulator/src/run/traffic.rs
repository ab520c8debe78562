//! The driver's part for tenant flows: which are open follows from the book, the rest is messages.

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, ToAgent};
use crate::event::EventKind;
use crate::ids::{FlowId, HostId};
use crate::scenario::Pace;
use crate::timeline::{Input, SteadyDetector, SteadyParams};
use std::net::SocketAddr;
use std::time::Duration;

/// Two polls make a throughput, three a comparison.
const POLL_NS: u64 = 500_000_000;

impl Driver<'_> {
    /// Where every VM is; `None` for those that are gone.
    fn vm_hosts(&self) -> Vec<Option<HostId>> {
        let placements = self.mover.placements().iter();
        placements
            .map(|placement| (!placement.gone).then_some(placement.host))
            .collect()
    }

    /// Opens what has to be open, and closes what runs between the wrong hosts since a VM moved.
    pub(super) async fn open_flows(&mut self) -> Result<(), RunError> {
        let moves: Vec<(HostId, HostId)> = self
            .mover
            .migrations()
            .iter()
            .map(|migration| (migration.source, migration.destination))
            .collect();
        let all = self.scenario.pace == Pace::Real;
        let network = &self.scenario.network;
        let needed = self.flows.needed(network, &moves, &self.vm_hosts(), all);
        let misplaced: Vec<FlowId> = self
            .flows
            .states()
            .iter()
            .filter(|(flow, state)| needed.get(flow).is_some_and(|&ends| ends != state.ends()))
            .map(|(&flow, _)| flow)
            .collect();
        for flow in misplaced {
            self.close_flow(flow).await?;
        }
        for (flow, (from, to)) in needed {
            if !self.flows.states().contains_key(&flow) {
                self.flows.asked(flow, from, to);
                self.tell(to, ToAgent::OpenSink(flow)).await?;
            }
        }
        Ok(())
    }

    async fn close_flow(&mut self, flow: FlowId) -> Result<(), RunError> {
        if let Some(state) = self.flows.closed(flow) {
            let (from, to) = state.ends();
            self.tell(from, ToAgent::CloseFlow(flow)).await?;
            self.tell(to, ToAgent::CloseFlow(flow)).await?;
        }
        Ok(())
    }

    pub(super) async fn close_flows(&mut self) -> Result<(), RunError> {
        self.steady = None;
        self.poll_flows_ns = None;
        for flow in self.flows.states().keys().copied().collect::<Vec<_>>() {
            self.close_flow(flow).await?;
        }
        Ok(())
    }

    /// While the clock is held: are the flows open and even? Says so to the timeline once.
    pub(super) fn settle_flows(&mut self) -> Result<(), RunError> {
        if self.flows.states().is_empty() {
            self.steady = None;
            self.step(Input::Steady);
            return Ok(());
        }
        let now = mono_ns();
        self.poll_flows_ns = Some(now + POLL_NS);
        if !self.flows.all_open() {
            return Ok(());
        }
        let rtt = self.longest_rtt();
        let steady = self
            .steady
            .get_or_insert_with(|| SteadyDetector::new(SteadyParams::for_rtt(rtt), now));
        if let Some(settled) = steady.sample(now, self.flows.delivered()) {
            self.steady = None;
            self.poll_flows_ns = None;
            if !settled {
                self.warn("tenant flows did not settle within 5 %; went on without".to_owned())?;
            }
            self.step(Input::Steady);
        }
        Ok(())
    }

    /// The round trip of the longest path.
    fn longest_rtt(&self) -> Duration {
        self.scenario.network.topology.longest_delay() * 2
    }

    pub(super) async fn heard_traffic(&mut self, message: FromAgent) -> Result<(), RunError> {
        match message {
            FromAgent::SinkReady {
                flow,
                port: Ok(port),
            } => {
                if let Some((from, to)) = self.flows.opened(flow) {
                    let to_address = SocketAddr::new(self.ready.addresses[to.index()].ip(), port);
                    let rate_bps = self.flows.spec(flow).rate_bps;
                    self.tell(
                        from,
                        ToAgent::OpenFlow {
                            flow,
                            to: to_address,
                            rate_bps,
                        },
                    )
                    .await?;
                    self.write(EventKind::FlowOpened { flow, from, to })?;
                }
            }
            FromAgent::SinkReady {
                flow,
                port: Err(error),
            } => {
                self.flows.closed(flow);
                self.warn(format!("tenant {flow} could not be opened: {error}"))?;
            }
            FromAgent::FlowBytes(bytes) => self.flows.report(&bytes),
            FromAgent::FlowClosed {
                flow,
                received_bytes,
                open_ns,
            } => {
                self.write(EventKind::FlowClosed {
                    flow,
                    received_bytes,
                    open_ns,
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) async fn traffic_host_lost(&mut self, host: HostId) -> Result<(), RunError> {
        for (flow, state) in self.flows.host_lost(host) {
            let (from, to) = state.ends();
            let survivor = if from == host { to } else { from };
            if survivor != host {
                self.tell(survivor, ToAgent::CloseFlow(flow)).await?;
            }
        }
        Ok(())
    }
}
