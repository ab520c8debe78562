//! The machine's network: what the scenario asks, built and measured by `netmodel`.

use crate::control::message::{AuditFinding, MachineSetup};
use crate::event::{LinkCalibration, LinkSample};
use anyhow::{Context, Result};
use netmodel::audit::{self, Severity};
use netmodel::backend::Fabric;
use netmodel::calibrate;
use netmodel::counters::Counters;
use netmodel::plan::{Plan, TcpSettings};
use netmodel::topology::{self, HostLink, Topology};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// The fabric and the namespaces it joins.
#[derive(Debug)]
pub(super) struct Network {
    fabric: Fabric,
    namespaces: BTreeMap<topology::HostId, OwnedFd>,
    congestion: String,
}

impl Network {
    /// Builds the star the setup asks for between the namespaces, by position of the host.
    pub(super) fn build(setup: &MachineSetup, namespaces: Vec<OwnedFd>) -> Result<Self> {
        let network = &setup.network;
        let links = setup.hosts.iter().zip(network.up.iter().zip(&network.down));
        let star = links.map(|(host, (&up, &down))| (host.name.clone(), HostLink { up, down }));
        let topology = Topology::star(star).context("topology")?;
        let plan = Plan::new(topology, &TcpSettings::default());
        let namespaces = (0u32..).map(topology::HostId).zip(namespaces).collect();
        let fabric = Fabric::build(&plan, &namespaces).context("cannot build the network")?;
        Ok(Self { fabric, namespaces, congestion: network.congestion.clone() })
    }
}
