//! A host's part of its VMs' ports: it forwards between its link and them.
//!
//! What came over the link is looked up in a table of its own, which knows the VMs that are here and drops the rest: a
//! frame for a VM that has left must not go back to the switch that sent it.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::backend::FabricError;
use crate::link::MTU;
use crate::plan::{HOST_DEVICE, Plan, Step};
use crate::qdisc::Framing;
use crate::sys::clock::{now_ns, wait_until};
use crate::sys::netlink::{Netlink, PortRoute, Table, device_index};
use crate::sys::netns::with_netns;
use crate::sys::procfs;
use crate::topology::{HostId, Place};

/// Stands for the other end of a pair, so that the kernel keeps one neighbour per device.
pub(super) const OTHER_END: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// Longest the kernel may take to notice that both ends of a pair are up.
const READY_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_NS: u64 = 500_000;
const QUEUE: u32 = 1000;

/// Numbers of the two devices between a VM and a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cable {
    pub(super) at_host: u32,
    pub(super) at_guest: u32,
}

/// A host's namespace.
#[derive(Debug)]
pub(super) struct HostSide {
    host: HostId,
    netns: OwnedFd,
    /// Once it forwards.
    netlink: Option<Netlink>,
    /// Largest frame its link takes at once.
    gso_bytes: Option<u32>,
    single_segments: bool,
    on_a_switch: bool,
}

impl HostSide {
    pub(super) fn new(plan: &Plan, host: HostId, netns: OwnedFd) -> Self {
        let limit = |step: &Step| match step {
            Step::GsoMaxSize { host: of, bytes } if *of == host => Some(*bytes),
            _ => None,
        };
        let topology = plan.topology();
        let ends = [topology.uplink(host).to, topology.downlink(host).from];
        Self {
            host,
            netns,
            netlink: None,
            gso_bytes: plan.steps().iter().find_map(limit),
            single_segments: plan.framing() == Framing::SingleSegments,
            on_a_switch: ends.iter().all(|end| matches!(end, Place::Switch(_))),
        }
    }

    /// Lets the host forward; the first time it is asked.
    fn forward(&mut self) -> Result<&mut Netlink, FabricError> {
        if self.netlink.is_none() {
            let host = self.host;
            if !self.on_a_switch {
                return Err(FabricError::NoSwitch { host });
            }
            let inside = || {
                let card = format!("net/ipv4/conf/{HOST_DEVICE}/rp_filter");
                for (key, value) in [
                    ("net/ipv4/ip_forward", "1"),
                    ("net/ipv4/conf/all/rp_filter", "0"),
                    ("net/ipv4/conf/default/rp_filter", "0"),
                    (&*card, "0"),
                    ("net/ipv4/conf/all/send_redirects", "0"),
                    ("net/ipv4/conf/default/send_redirects", "0"),
                ] {
                    procfs::write_sysctl(key, value)
                        .map_err(|source| FabricError::Wait { source })?;
                }
                let mut netlink = Netlink::open()?;
                netlink.enter_by(HOST_DEVICE)?;
                netlink.put_route(PortRoute {
                    to: None,
                    table: Table::Entered,
                    hop: None,
                    hop_limit: None,
                })?;
                Ok::<_, FabricError>(netlink)
            };
            self.netlink = Some(with_netns(self.netns.as_fd(), inside)??);
        }
        let host = self.host;
        self.netlink
            .as_mut()
            .ok_or(FabricError::NoNamespace { host })
    }

    /// Lays a pair of devices between a VM's namespace and this one.
    pub(super) fn cable(&mut self, vm: u32, guest: BorrowedFd<'_>) -> Result<Cable, FabricError> {
        self.forward()?;
        let (ours, theirs) = (format!("v{vm}"), format!("h{}", self.host.0));
        let [a, b, c, d] = vm.to_be_bytes();
        let mac = [0x02, 3, a, b, c, d];
        let inside = || {
            let mut netlink = Netlink::open()?;
            let names = (&*ours, &*theirs);
            netlink.create_pair(names, mac, (u32::from(MTU), QUEUE), guest)?;
            netlink.set_up(&ours)?;
            device_index(&ours)
        };
        let at_host = with_netns(self.netns.as_fd(), inside)??;
        let (gso_bytes, single) = (self.gso_bytes, self.single_segments);
        let in_guest = || {
            let mut netlink = Netlink::open()?;
            if let Some(bytes) = gso_bytes {
                netlink.set_gso_max_size(&theirs, bytes)?;
            }
            if single {
                netlink.set_gso_max_segments(&theirs, 1)?;
            }
            netlink.set_up(&theirs)?;
            Ok::<_, FabricError>(device_index(&theirs)?)
        };
        let at_guest = with_netns(guest, in_guest)??;
        self.ready(vm, &ours)?;
        Ok(Cable { at_host, at_guest })
    }

    /// Waits until the kernel has noticed that the pair can carry.
    fn ready(&mut self, vm: u32, device: &str) -> Result<(), FabricError> {
        let patience = u64::try_from(READY_WITHIN.as_nanos()).unwrap_or(u64::MAX);
        let (host, deadline) = (self.host, now_ns().saturating_add(patience));
        while !self.forward()?.usable_devices()?.contains(device) {
            let now = now_ns();
            if now > deadline {
                let waited = READY_WITHIN;
                return Err(FabricError::PortNotReady { vm, host, waited });
            }
            wait_until(now + LOOK_AGAIN_NS).map_err(|source| FabricError::Wait { source })?;
        }
        Ok(())
    }

    /// Frames for an address go to a VM's port, or are dropped.
    pub(super) fn hand(&mut self, address: Ipv4Addr, to: Option<Cable>) -> Result<(), FabricError> {
        let netlink = self.forward()?;
        for table in [Table::Entered, Table::Main] {
            netlink.put_route(PortRoute {
                to: Some(address),
                table,
                hop: to.map(|cable| (cable.at_host, OTHER_END)),
                hop_limit: None,
            })?;
        }
        Ok(())
    }

    /// The VM is elsewhere, and the switch knows: what this host sends to it goes there.
    pub(super) fn forget(&mut self, address: Ipv4Addr) -> Result<(), FabricError> {
        let netlink = self.forward()?;
        netlink.drop_route(address, Table::Main)?;
        netlink.drop_route(address, Table::Entered)?;
        Ok(())
    }
}
