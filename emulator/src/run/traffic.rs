//! The driver's part for tenant flows: which are open follows from the book, the rest is messages.

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, ToAgent};
use crate::event::EventKind;
use crate::ids::{FlowId, HostId, VmId};
use crate::scenario::{Endpoint, Pace};
use crate::timeline::{Input, SteadyDetector, SteadyParams};
use std::net::SocketAddr;
use std::time::Duration;

/// Two polls make a throughput, three a comparison.
const POLL_NS: u64 = 500_000_000;

/// The VM an end belongs to, if it is one's.
fn vm_of(end: Endpoint) -> Option<VmId> {
    match end {
        Endpoint::Vm(vm) => Some(vm),
        Endpoint::Internet => None,
    }
}

impl Driver<'_> {
    /// Where every VM runs, from the switchover on at the destination; `None` for those that are gone.
    pub(super) fn vm_hosts(&self) -> Vec<Option<HostId>> {
        let placements = self.mover.placements().iter();
        let mut hosts: Vec<Option<HostId>> = placements
            .map(|placement| (!placement.gone).then_some(placement.host))
            .collect();
        for ongoing in self.ongoing.values().filter(|o| o.is_committed()) {
            hosts[ongoing.of.vm.index()] = Some(ongoing.of.destination);
        }
        hosts
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
        let hosts = self.vm_hosts();
        let needed = self.flows.needed(network, &moves, &hosts, all);
        for flow in self.flows.misplaced(network, &hosts) {
            self.flows.leaving(flow);
            self.close_flow(flow).await?;
        }
        for (flow, (from, to)) in needed {
            if !self.flows.states().contains_key(&flow) {
                self.flows.asked(flow, from, to);
                let vm = vm_of(self.flows.spec(flow).to);
                self.tell(to, ToAgent::OpenSink { flow, vm }).await?;
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
        self.flows.all_closed();
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
                    let since_ns = self.flows.since_ns(flow, mono_ns());
                    let spec = self.flows.spec(flow);
                    let (rate_bps, vm) = (spec.rate_bps, vm_of(spec.from));
                    self.tell(
                        from,
                        ToAgent::OpenFlow {
                            flow,
                            to: to_address,
                            vm,
                            rate_bps,
                            since_ns,
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
                carried_ns,
            } => {
                self.write(EventKind::FlowClosed {
                    flow,
                    received_bytes,
                    open_ns,
                })?;
                if let Some(gap_ns) = self.flows.sink_closed(flow, carried_ns) {
                    self.write(EventKind::FlowMoved { flow, gap_ns })?;
                }
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
