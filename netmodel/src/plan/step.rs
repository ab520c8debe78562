//! What a plan consists of: namespaces, devices and settings, as values that print themselves.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::qdisc::Object;
use crate::topology::{HostId, SwitchId};

/// The card of every emulated host.
pub const HOST_DEVICE: &str = "eth0";

/// Where a setting applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// The namespace the relay works in.
    Fabric,
    /// An emulated host's namespace.
    Host(HostId),
    /// A switch's namespace, where the kernel forwards.
    Switch(SwitchId),
}

/// A veth pair between the fabric, or a switch, and a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VethPair {
    /// Where the port is.
    pub at: Scope,
    /// The host that gets the other end as [`HOST_DEVICE`].
    pub host: HostId,
    /// Name of the port, the end that is not the host's.
    pub port: String,
    /// Ethernet address of the port. Nothing is ever sent to the relay's; a switch's has the host's own, because
    /// without ARP either end addresses what it sends with its own.
    pub port_mac: [u8; 6],
    /// Ethernet address of the host's end.
    pub host_mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// Transmit queue length of both ends: zero would starve a qdisc put there later.
    pub txqueuelen: u32,
}

/// A TUN device that is a host's card, its other end the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunPort {
    /// The host that gets it as [`HOST_DEVICE`].
    pub host: HostId,
    /// Its MTU.
    pub mtu: u32,
    /// Frames that may wait for the relay.
    pub txqueuelen: u32,
}

/// How frames get from a host to the relay and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// TUN where it can be had, else packet sockets: settled when the fabric is built. Measured, TUN costs no more
    /// processor time, and its ring holds the bursts that a packet socket's buffer (`net.core.rmem_max`) loses.
    #[default]
    Auto,
    /// veth and AF_PACKET: everywhere.
    Packet,
    /// TUN: where its node may be opened.
    Tun,
}

/// A veth pair between two switches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trunk {
    /// One switch.
    pub from: SwitchId,
    /// Its end.
    pub device: String,
    /// The other switch.
    pub to: SwitchId,
    /// The other end.
    pub peer: String,
    /// Ethernet address of both ends, see [`VethPair::port_mac`].
    pub mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// Transmit queue length of both ends.
    pub txqueuelen: u32,
}

/// What a switch does with packets for some addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The lowest of these addresses.
    pub to: Ipv4Addr,
    /// How many leading bits they share.
    pub prefix_len: u8,
    /// Where to; `None` drops them silently.
    pub hop: Option<Hop>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The device.
    pub device: String,
    /// Stands for the other end of the device, so that the kernel keeps one neighbour per device and not one per
    /// address (it keeps 1024 in all).
    pub via: Ipv4Addr,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Bring the loopback device up.
    LoopbackUp {
        /// In which namespace.
        scope: Scope,
    },
    /// Write a setting under /proc/sys; a kernel that lacks it is recorded, not fatal.
    Sysctl {
        /// In which namespace.
        scope: Scope,
        /// Path below /proc/sys.
        key: String,
        /// What to write.
        value: String,
    },
    /// Create a pair, the peer straight in the host's namespace, both ends without ARP.
    Veth(VethPair),
    /// Create a TUN device in the host's namespace.
    Tun(TunPort),
    /// Limit the super-frames of the host's card, so that its link is not given more than its `super_frame` at once.
    GsoMaxSize {
        /// The host.
        host: HostId,
        /// The limit, headers included.
        bytes: u32,
    },
    /// Give the host its address; the kernel adds the route to everything in the prefix.
    Address {
        /// The host.
        host: HostId,
        /// Its address.
        address: Ipv4Addr,
        /// Length of the shared prefix.
        prefix_len: u8,
    },
    /// Bring a device up.
    Up {
        /// In which namespace.
        scope: Scope,
        /// The device.
        device: String,
    },
    /// Let the host send one segment at a time: netem draws loss and jitter per frame.
    SingleSegments {
        /// The host.
        host: HostId,
    },
    /// Create a pair between two switches, both ends without ARP.
    Trunk(Trunk),
    /// Create a device whose qdisc shapes what another one received.
    Ifb {
        /// At which switch.
        switch: SwitchId,
        /// Its name.
        device: String,
    },
    /// Make a qdisc, class or filter.
    Queue {
        /// At which switch.
        switch: SwitchId,
        /// On which device.
        device: String,
        /// What.
        object: Object,
    },
    /// Shape what the host sends, on its own card.
    Egress {
        /// The host.
        host: HostId,
        /// With what.
        object: Object,
    },
    /// Tell a switch a route.
    Route {
        /// Which switch.
        switch: SwitchId,
        /// What.
        route: Route,
    },
}

impl PortKind {
    /// All, in the order they are looked at.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Packet, Self::Tun];

    /// As options spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Packet => "packet",
            Self::Tun => "tun",
        }
    }
}

/// There are no such ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of port; there are auto, packet and tun")]
pub struct UnknownPorts(String);

impl FromStr for PortKind {
    type Err = UnknownPorts;

    fn from_str(text: &str) -> Result<Self, UnknownPorts> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| UnknownPorts(text.to_owned()))
    }
}

impl Step {
    /// The namespace the step is done in; a pair is made where its port is.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::LoopbackUp { scope } | Self::Sysctl { scope, .. } | Self::Up { scope, .. } => {
                *scope
            }
            Self::Tun(port) => Scope::Host(port.host),
            Self::Veth(pair) => pair.at,
            Self::Trunk(trunk) => Scope::Switch(trunk.from),
            Self::GsoMaxSize { host, .. }
            | Self::SingleSegments { host }
            | Self::Egress { host, .. }
            | Self::Address { host, .. } => Scope::Host(*host),
            Self::Ifb { switch, .. } | Self::Queue { switch, .. } | Self::Route { switch, .. } => {
                Scope::Switch(*switch)
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fabric => f.write_str("fabric"),
            Self::Host(host) => write!(f, "{host}"),
            Self::Switch(switch) => write!(f, "{switch}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoopbackUp { scope } => write!(f, "[{scope}] loopback up"),
            Self::Sysctl { scope, key, value } => write!(f, "[{scope}] {key} = {value}"),
            Self::Veth(pair) => write!(
                f,
                "[{}] veth {} <-> [{}] {HOST_DEVICE} mtu {} no-arp",
                pair.at, pair.port, pair.host, pair.mtu
            ),
            Self::Tun(port) => write!(
                f,
                "[{}] tun {HOST_DEVICE} mtu {} queue {} with virtio-net header",
                port.host, port.mtu, port.txqueuelen
            ),
            Self::GsoMaxSize { host, bytes } => {
                write!(f, "[{host}] {HOST_DEVICE} super-frames up to {bytes} bytes")
            }
            Self::Address {
                host,
                address,
                prefix_len,
            } => {
                write!(
                    f,
                    "[{host}] address {address}/{prefix_len} on {HOST_DEVICE}"
                )
            }
            Self::Up { scope, device } => write!(f, "[{scope}] {device} up"),
            Self::SingleSegments { host } => {
                write!(f, "[{host}] {HOST_DEVICE} one segment per frame")
            }
            Self::Trunk(trunk) => write!(
                f,
                "[{}] veth {} <-> [{}] {} mtu {} no-arp",
                trunk.from, trunk.device, trunk.to, trunk.peer, trunk.mtu
            ),
            Self::Ifb { switch, device } => write!(f, "[{switch}] ifb {device}"),
            Self::Queue {
                switch,
                device,
                object,
            } => write!(f, "[{switch}] {device}: {object}"),
            Self::Egress { host, object } => write!(f, "[{host}] {HOST_DEVICE}: {object}"),
            Self::Route { switch, route } => write!(f, "[{switch}] route {route}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, prefix_len, .. } = self;
        match &self.hop {
            Some(Hop { device, via }) => {
                write!(f, "{to}/{prefix_len} via {via} dev {device} onlink")
            }
            None => write!(f, "blackhole {to}/{prefix_len}"),
        }
    }
}
