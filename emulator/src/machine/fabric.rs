//! The machine's network: what the scenario asks, built and measured by `netmodel`.

use crate::control::message::{AuditFinding, MachineSetup};
use crate::event::{LinkCalibration, LinkSample};
use crate::ids::{HostId, VmId};
use crate::scenario::{NetworkSpec, scale};
use anyhow::{Context, Result};
use netmodel::audit::{Judged, Limits, Severity, audit};
use netmodel::backend::{BackendKind, Fabric, FabricError};
use netmodel::calibrate::{Settings, Verdict, calibrate};
use netmodel::counters::Counters;
use netmodel::plan::{Plan, TcpSettings};
use netmodel::ports::Ports;
use netmodel::topology::{self, host_address};
use netmodel::units::ByteSize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What the longest queue and delay line take to empty, with room: a link whose queue takes longer
/// than this is refused by the scenario check.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// What will be done to the kernel to get a scenario's network; prints step by step.
#[must_use]
pub fn plan(network: &NetworkSpec, k: u32, backend: BackendKind, seed: u64) -> Plan {
    let (topology, tcp) = (network.topology.clone(), tcp_settings(network, k));
    Plan::foreseeing(topology, &tcp, backend, &network.schedule).with_seed(seed)
}

/// Buffers are bytes and scale with space; at full size they are what is given, or the kernel's own, or larger
/// where a path needs it.
fn tcp_settings(network: &NetworkSpec, k: u32) -> TcpSettings {
    let asked = TcpSettings {
        send_buffer: network.send_buffer,
        send_buffer_max: network.send_buffer_max,
        receive_buffer_max: network.receive_buffer_max,
        ..TcpSettings::default()
    };
    if k <= 1 {
        return asked;
    }
    let carried = |constant: scale::Constant| constant.carried(k).map(ByteSize::from_bytes);
    TcpSettings {
        receive_buffer_max: asked
            .receive_buffer_max
            .or_else(|| carried(scale::RECEIVE_BUFFER)),
        send_buffer_max: asked
            .send_buffer_max
            .or_else(|| carried(scale::SEND_BUFFER)),
        limit_output: carried(scale::TCP_LIMIT_OUTPUT),
        ..asked
    }
}

/// The fabric and the namespaces it joins.
#[derive(Debug)]
pub(super) struct Network {
    fabric: Arc<Fabric>,
    namespaces: BTreeMap<topology::HostId, OwnedFd>,
    /// VMs' ports, once there is one.
    ports: Option<Ports>,
    /// Counters when the run began: calibration is not part of it.
    before: Counters,
}

impl Network {
    /// Builds what the setup asks for between the namespaces, by position of the host.
    pub(super) fn build(setup: &MachineSetup, namespaces: Vec<OwnedFd>) -> Result<Self> {
        let plan = plan(&setup.network, setup.divided_by, setup.backend, setup.seed);
        let namespaces = (0u32..).map(topology::HostId).zip(namespaces).collect();
        let fabric = Fabric::build(&plan, &namespaces).context("cannot build the network")?;
        let before = fabric.counters()?;
        Ok(Self {
            fabric: Arc::new(fabric),
            namespaces,
            ports: None,
            before,
        })
    }

    /// What carries packets, for threads that change or watch links.
    pub(super) fn fabric(&self) -> Arc<Fabric> {
        Arc::clone(&self.fabric)
    }

    /// Gives a VM an address and a namespace of its own.
    pub(super) fn open_port(&mut self, vm: VmId, host: HostId) -> Result<OwnedFd> {
        if self.ports.is_none() {
            self.ports = Some(Ports::new(self.fabric(), &self.namespaces)?);
        }
        let ports = self.ports.as_ref().context("made a moment ago")?;
        let opened = ports.open(vm.0, topology::HostId(host.0));
        opened.with_context(|| format!("cannot give {vm} an address of its own"))
    }

    /// Does something with a VM's port, if it has one; whether it has.
    pub(super) fn with_port(
        &self,
        vm: VmId,
        act: impl FnOnce(&Ports, u32) -> Result<(), FabricError>,
    ) -> Result<bool> {
        match &self.ports {
            Some(ports) if ports.has(vm.0) => {
                act(ports, vm.0)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A host has gone, and the VMs on it.
    pub(super) fn host_gone(&self, host: HostId) -> Result<()> {
        let ports = self.ports.as_ref();
        Ok(ports.map_or(Ok(()), |ports| ports.host_gone(topology::HostId(host.0)))?)
    }

    /// Data address of every host, in order; ports are chosen by whoever listens.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let hosts = self.namespaces.keys();
        hosts
            .map(|&host| SocketAddr::new(host_address(host).into(), 0))
            .collect()
    }

    /// Loads every link and compares it with its spec.
    pub(super) fn calibrate(&mut self) -> Result<(Vec<LinkCalibration>, Vec<AuditFinding>)> {
        let measured = calibrate(&self.fabric, &self.namespaces, &Settings::default())
            .context("calibrating links")?;
        self.before = self.fabric.counters()?;
        let findings = measured.findings.iter().map(finding).collect();
        Ok((measured.links.iter().map(calibrated).collect(), findings))
    }

    /// Settings the kernel refused: the results carry them.
    pub(super) fn warnings(&self) -> Vec<String> {
        let refused = |outcome: &netmodel::backend::SysctlOutcome| match &outcome.got {
            Ok(_) => None,
            Err(error) => Some(format!("{} = {}: {error}", outcome.key, outcome.asked)),
        };
        // One host says it for all: they get the same settings.
        let mut all: Vec<String> = self.fabric.sysctls().iter().filter_map(refused).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Waits until nothing is queued or in flight.
    pub(super) fn drain(&self) -> Result<()> {
        if !self.fabric.drained(DRAIN_WITHIN)? {
            tracing::warn!("packets were still under way after {DRAIN_WITHIN:?}");
        }
        Ok(())
    }

    /// Counters of every link direction since the run began.
    pub(super) fn sample(&self) -> Result<Vec<LinkSample>> {
        let now = self.fabric.counters()?;
        let late = now.relay.lateness.since(&self.before.relay.lateness);
        let us = |ns: u64| ns as f64 / 1e3;
        let links = self.fabric.plan().topology().links();
        let sample = |link: &topology::Link| {
            let then = self.before.links.get(&link.id).copied().unwrap_or_default();
            let now = now.links.get(&link.id).copied().unwrap_or_default();
            LinkSample {
                link: link.name.clone(),
                segments_in: now.received.segments - then.received.segments,
                wire_bytes_in: now.received.wire_bytes - then.received.wire_bytes,
                wire_bytes_out: now.sent.wire_bytes - then.sent.wire_bytes,
                dropped_bytes: now.dropped.wire_bytes - then.dropped.wire_bytes,
                dropped_segments: now.dropped.segments - then.dropped.segments,
                lost_bytes: now.lost.wire_bytes - then.lost.wire_bytes,
                lost_segments: now.lost.segments - then.lost.segments,
                marked_packets: now.marked_packets - then.marked_packets,
                queued_bytes: now.held.wire_bytes,
                queue_bytes_max: now.queue_bytes_max,
                late_us_mean: late.mean_ns() / 1e3,
                late_us_p99: us(late.quantile_ns(990)),
                late_us_max: us(late.max_ns()),
            }
        };
        Ok(links.iter().map(sample).collect())
    }

    /// Whether the network did what it promised, since the run began.
    pub(super) fn audit(&self) -> Result<Vec<AuditFinding>> {
        let after = self.fabric.counters()?;
        Ok(audit(&self.before, &after, &Limits::default())
            .iter()
            .map(finding)
            .collect())
    }
}

/// Asked against got, for the results.
fn calibrated(link: &netmodel::calibrate::LinkCalibration) -> LinkCalibration {
    let us = |span: Duration| span.as_nanos() as f64 / 1e3;
    let asked = &link.asked;
    let error_us = link.delay_error_ns.map(|ns| ns as f64 / 1e3);
    let verdicts = [
        ("rate", link.rate),
        ("delay", link.delay),
        ("jitter", link.jitter),
        ("loss", link.loss),
    ];
    let off = verdicts.iter().filter(|(_, v)| *v == Verdict::Fail);
    let windows = link.residuals.map(|residuals| residuals.windows);
    LinkCalibration {
        link: link.name.clone(),
        asked_rate_bps: asked.rate.map(|rate| rate.bps()),
        got_rate_bps: link.got_rate_bps,
        rate_error: link.rate_error,
        window_errors: windows.map_or([None; 3], |windows| {
            windows.map(|errors| (errors.windows > 0).then_some(errors.p95))
        }),
        asked_delay_us: us(asked.delay),
        got_delay_us: error_us.map(|error_us| us(asked.delay) + error_us),
        asked_jitter_us: us(asked.jitter.spread),
        asked_loss: asked.loss.mean(),
        lost: link.losses,
        queue_bytes: asked.queue.bytes(),
        ok: link.passed(),
        off: off.map(|(what, _)| (*what).to_owned()).collect(),
        disturbed: link.disturbed,
    }
}

fn finding(judged: &Judged) -> AuditFinding {
    let grade = match judged.severity {
        Severity::Warning => "B",
        Severity::Error => "invalid",
    };
    AuditFinding {
        grade: grade.to_owned(),
        message: judged.finding.to_string(),
    }
}
