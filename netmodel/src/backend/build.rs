//! Executing a plan: every step in the namespace it belongs to, and every qdisc read back once it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::{BackendKind, FabricError, SysctlOutcome, kernel};
use crate::plan::{HOST_DEVICE, Hop, Plan, PortKind, Scope, Step, TunPort};
use crate::sys::clock::{now_ns, wait_until};
use crate::sys::netlink::{Netlink, NetlinkError, device_index};
use crate::sys::netns::{create_netns, with_netns};
use crate::sys::procfs;
use crate::sys::tun::TunDevice;
use crate::topology::{HostId, SwitchId};

/// What steps leave beside devices.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// What became of settings.
    pub(super) sysctls: Vec<SysctlOutcome>,
    /// Hosts' cards whose other end is the relay.
    pub(super) tuns: BTreeMap<HostId, TunDevice>,
    /// Sockets in the namespaces of those hosts, to read the cards' drops.
    pub(super) cards: BTreeMap<HostId, Netlink>,
}

/// The namespaces of a fabric, while it is built.
pub(super) struct Namespaces<'a> {
    hosts: &'a BTreeMap<HostId, OwnedFd>,
    switches: BTreeMap<SwitchId, OwnedFd>,
}

impl<'a> Namespaces<'a> {
    /// Makes those of the switches, if the kernel is to forward.
    pub(super) fn new(
        plan: &Plan,
        hosts: &'a BTreeMap<HostId, OwnedFd>,
    ) -> Result<Self, FabricError> {
        let switches = plan.topology().switches().len();
        let switches = if plan.backend().is_kernel() {
            switches
        } else {
            0
        };
        let made = (0..).map(SwitchId).take(switches);
        let made = made.map(|switch| Ok((switch, create_netns()?)));
        Ok(Self {
            hosts,
            switches: made.collect::<Result<_, FabricError>>()?,
        })
    }

    /// The switches' namespaces, to be held as long as there is to be a fabric.
    pub(super) fn into_switches(self) -> BTreeMap<SwitchId, OwnedFd> {
        self.switches
    }

    /// Does all steps, in order; neighbours of one namespace together.
    pub(super) fn execute(
        &mut self,
        plan: &Plan,
        netlink: &mut Netlink,
    ) -> Result<Made, FabricError> {
        let mut made = Made::default();
        for steps in plan.steps().chunk_by(|a, b| a.scope() == b.scope()) {
            let netns = match steps[0].scope() {
                Scope::Fabric => {
                    self.here(steps, netlink, &mut made)?;
                    continue;
                }
                Scope::Host(host) => self.host(host)?,
                Scope::Switch(switch) => self.switches.get(&switch).expect(
                    "only plans of the kernel's backends have switches, and theirs have all",
                ),
            };
            let inside = || {
                let mut netlink = Netlink::open()?;
                self.here(steps, &mut netlink, &mut made)?;
                Ok::<_, FabricError>(netlink)
            };
            let netlink = with_netns(netns.as_fd(), inside)??;
            if let Scope::Host(host) = steps[0].scope()
                && made.tuns.contains_key(&host)
            {
                made.cards.insert(host, netlink);
            }
        }
        self.ready(plan)?;
        Ok(made)
    }

    /// Waits until every port of a switch can send. The end of a pair that came up first can only once a worker of the
    /// kernel has seen that the other one is there, and drops what it is given until then. (The relay waits for its
    /// ports itself; hosts' cards come up last.)
    fn ready(&self, plan: &Plan) -> Result<(), FabricError> {
        let mut ports: BTreeMap<SwitchId, BTreeSet<&str>> = BTreeMap::new();
        for step in plan.steps() {
            match (step, step.scope()) {
                (Step::Veth(pair), Scope::Switch(switch)) => {
                    ports.entry(switch).or_default().insert(&pair.port);
                }
                (Step::Trunk(trunk), _) => {
                    let ends = [(trunk.from, &trunk.device), (trunk.to, &trunk.peer)];
                    for (switch, device) in ends {
                        ports.entry(switch).or_default().insert(device);
                    }
                }
                _ => {}
            }
        }
        for (switch, ports) in ports {
            let inside = || ready_here(switch, &ports, &mut Netlink::open()?);
            with_netns(self.switches[&switch].as_fd(), inside)??;
        }
        Ok(())
    }

    fn host(&self, host: HostId) -> Result<&OwnedFd, FabricError> {
        self.hosts
            .get(&host)
            .ok_or(FabricError::NoNamespace { host })
    }

    /// Does steps in the calling thread's namespace.
    fn here(
        &self,
        steps: &[Step],
        netlink: &mut Netlink,
        made: &mut Made,
    ) -> Result<(), FabricError> {
        for step in steps {
            self.one(step, netlink, made)?;
        }
        kernel::read_back(steps, netlink)
    }

    fn one(&self, step: &Step, netlink: &mut Netlink, made: &mut Made) -> Result<(), FabricError> {
        let done = match step {
            Step::LoopbackUp { .. } => netlink.set_up("lo"),
            Step::Sysctl { scope, key, value } => {
                made.sysctls.push(sysctl(*scope, key, value));
                Ok(())
            }
            Step::Tun(port) => {
                tun(port, netlink).map(|device| drop(made.tuns.insert(port.host, device)))
            }
            Step::Veth(pair) => netlink.create_veth(pair, self.host(pair.host)?.as_fd()),
            Step::GsoMaxSize { bytes, .. } => netlink.set_gso_max_size(HOST_DEVICE, *bytes),
            Step::SingleSegments { .. } => netlink.set_gso_max_segments(HOST_DEVICE, 1),
            Step::Address {
                address,
                prefix_len,
                ..
            } => netlink.add_address(HOST_DEVICE, *address, *prefix_len),
            Step::Up { device, .. } => netlink.set_up(device),
            Step::Trunk(trunk) => {
                let peer = &self.switches[&trunk.to];
                netlink.create_trunk(trunk, peer.as_fd())
            }
            Step::Ifb { device, .. } => netlink.create_ifb(device),
            Step::Queue { device, object, .. } => netlink.add_queue(device, object),
            Step::Egress { object, .. } => netlink.add_queue(HOST_DEVICE, object),
            Step::Route { route, .. } => {
                let device = route
                    .hop
                    .as_ref()
                    .map(|hop: &Hop| device_index(&hop.device));
                let device = device.transpose().map(|device| device.unwrap_or(0));
                device.and_then(|device| netlink.set_route(route, device))
            }
        };
        done.map_err(|source| FabricError::Step {
            step: step.to_string(),
            source,
        })
    }
}

/// Far above what the kernel's worker takes (it may put off events of many devices by a second).
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_AGAIN_NS: u64 = 1_000_000;

fn ready_here(
    switch: SwitchId,
    ports: &BTreeSet<&str>,
    netlink: &mut Netlink,
) -> Result<(), FabricError> {
    let patience = u64::try_from(READY_WITHIN.as_nanos()).unwrap_or(u64::MAX);
    let deadline = now_ns().saturating_add(patience);
    loop {
        let usable = netlink.usable_devices()?;
        let Some(device) = ports.iter().find(|name| !usable.contains(**name)) else {
            return Ok(());
        };
        let now = now_ns();
        if now >= deadline {
            return Err(FabricError::NotReady {
                device: (*device).to_owned(),
                switch,
                waited: READY_WITHIN,
            });
        }
        wait_until(now + LOOK_AGAIN_NS).map_err(|source| FabricError::Wait { source })?;
    }
}

/// Makes a host's card in the calling thread's namespace.
fn tun(port: &TunPort, netlink: &mut Netlink) -> Result<TunDevice, NetlinkError> {
    let device = TunDevice::create(HOST_DEVICE).map_err(|source| NetlinkError::Tun {
        name: HOST_DEVICE.to_owned(),
        source,
    })?;
    netlink.set_sizes(HOST_DEVICE, port.mtu, port.txqueuelen)?;
    Ok(device)
}

fn sysctl(scope: Scope, key: &str, value: &str) -> SysctlOutcome {
    let got = procfs::write_sysctl(key, value).map_err(|error| error.to_string());
    SysctlOutcome {
        scope,
        key: key.to_owned(),
        asked: value.to_owned(),
        got,
    }
}

/// The plan with its ports settled: those that are the faster ones, if one can be made here.
pub(super) fn with_ports_of_here(plan: &Plan) -> Plan {
    let asks = plan.backend() == BackendKind::Relay
        && plan.ports() == PortKind::Auto
        && !plan.shapes_at_source();
    // A namespace of its own, whatever devices there are here.
    let device = || {
        let namespace = create_netns()?;
        with_netns(namespace, || TunDevice::create(HOST_DEVICE))
    };
    let kind = match asks.then(device) {
        None => return plan.clone(),
        Some(Ok(Ok(_))) => PortKind::Tun,
        Some(Ok(Err(error))) => {
            tracing::debug!(%error, "no TUN device to be had; ports are packet sockets");
            PortKind::Packet
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "no namespace to try a TUN device in");
            PortKind::Packet
        }
    };
    plan.clone().with_ports(kind)
}
