//! Executing a plan: every step in the namespace it belongs to, and every qdisc read back once it is made.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use super::{FabricError, SysctlOutcome, kernel};
use crate::plan::{HOST_DEVICE, Hop, Plan, Scope, Step, TunPort};
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
        Ok(made)
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
