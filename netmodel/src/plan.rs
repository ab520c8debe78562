//! What has to be done to the kernel to get a topology, in order, as values.
//!
//! Pure: a topology in, a list of steps out, printable for `--explain`. Executing a step is `backend`'s business,
//! so what a run will touch can be read and tested without touching it.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod commands;
mod kernel;

pub(crate) use self::kernel::{default_route, hop, line, root, seed};
use crate::backend::BackendKind;
use crate::link::{GSO_LARGEST, LinkSpec, MTU};
use crate::qdisc::{Framing, Object, Qdisc};
use crate::schedule::Schedule;
use crate::topology::{HostId, Link, LinkId, PREFIX_LEN, Place, SwitchId, Topology, host_address};
use crate::units::{BitRate, ByteSize};

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
    /// Limit the super-frames of the host's card, so that its link is not given more than 250 µs at once.
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
            | Self::Address { host, .. } => Scope::Host(*host),
            Self::Ifb { switch, .. } | Self::Queue { switch, .. } | Self::Route { switch, .. } => {
                Scope::Switch(*switch)
            }
        }
    }
}

/// TCP settings of every host's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSettings {
    /// Receive buffer limit; `None` takes the larger of Linux's 6 MiB and twice the largest path.
    pub receive_buffer_max: Option<ByteSize>,
    /// Send buffer limit; `None` takes the larger of Linux's 4 MiB and twice the largest path.
    pub send_buffer_max: Option<ByteSize>,
    /// Most that TCP puts into the device's queue ahead of time (TCP small queues); `None` leaves the kernel's.
    pub limit_output: Option<ByteSize>,
    /// RFC 2861: shrink the window after an idle spell. On by default in Linux.
    pub slow_start_after_idle: bool,
    /// Floor of the retransmission timeout: Linux's 200 ms.
    pub rto_min: Duration,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            receive_buffer_max: None,
            send_buffer_max: None,
            limit_output: None,
            slow_start_after_idle: true,
            rto_min: Duration::from_millis(200),
        }
    }
}

/// A topology with the ordered steps that build it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    backend: BackendKind,
    topology: Topology,
    framing: Framing,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    ports: PortKind,
    steps: Vec<Step>,
}

/// No IPv6: its router solicitations and DAD would be traffic nobody asked for.
const QUIET: [(&str, &str); 2] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

impl Plan {
    /// Lays out the steps: settings before devices (a device copies some when it is born), qdiscs and addresses before
    /// up.
    #[must_use]
    pub fn new(topology: Topology, tcp: &TcpSettings, backend: BackendKind) -> Self {
        Self::foreseeing(topology, tcp, backend, &Schedule::default())
    }

    /// As [`Plan::new`], ready for what is to change: where a change brings loss or jitter that netem draws per frame,
    /// hosts send single segments from the beginning (a connection keeps what its device allowed when it was opened).
    #[must_use]
    pub fn foreseeing(
        topology: Topology,
        tcp: &TcpSettings,
        backend: BackendKind,
        schedule: &Schedule,
    ) -> Self {
        let framing = framing(&topology, backend, schedule);
        let steps = if backend.is_kernel() {
            kernel::steps(&topology, tcp, backend, framing)
        } else {
            relay_steps(&topology, tcp)
        };
        Self {
            backend,
            topology,
            framing,
            seed: 0,
            ports: PortKind::Auto,
            steps,
        }
    }

    /// What hosts hand over at once.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The same plan with what randomness is drawn from: jitter and losses.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        let other = kernel::seed(self.seed, LinkId(0), 0) ^ kernel::seed(seed, LinkId(0), 0);
        for step in &mut self.steps {
            if let Step::Queue {
                object:
                    Object::Qdisc {
                        kind: Qdisc::Netem(netem),
                        ..
                    },
                ..
            } = step
            {
                netem.seed ^= other;
            }
        }
        Self { seed, ..self }
    }

    /// The same plan with ports of a kind, if its backend has ports. [`PortKind::Auto`] leaves what is laid out (packet
    /// sockets, unless it was asked for others before) and lets the fabric choose.
    #[must_use]
    pub fn with_ports(self, kind: PortKind) -> Self {
        let this = Self {
            ports: kind,
            ..self
        };
        if kind != PortKind::Tun || this.backend != BackendKind::Relay {
            return this;
        }
        let turn = |step| match step {
            Step::Veth(pair) => Some(Step::Tun(TunPort {
                host: pair.host,
                mtu: pair.mtu,
                txqueuelen: TUN_QUEUE,
            })),
            Step::Up {
                scope: Scope::Fabric,
                ..
            } => None,
            step => Some(step),
        };
        let steps = this.steps.into_iter().filter_map(turn).collect();
        Self { steps, ..this }
    }

    /// How frames get to the relay.
    #[must_use]
    pub fn ports(&self) -> PortKind {
        self.ports
    }

    /// What randomness is drawn from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What carries packets.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.backend
    }

    /// The network to build.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What to do, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The veth pairs, in order of hosts.
    pub fn pairs(&self) -> impl Iterator<Item = &VethPair> {
        self.steps.iter().filter_map(|step| match step {
            Step::Veth(pair) => Some(pair),
            _ => None,
        })
    }
}

fn framing(topology: &Topology, backend: BackendKind, schedule: &Schedule) -> Framing {
    let per_frame = |spec: &LinkSpec| !spec.loss.is_none() || !spec.jitter.spread.is_zero();
    let now = topology.links().iter().map(|link| &link.spec);
    let later = schedule.changes().iter().map(|change| &change.spec);
    if backend == BackendKind::Netem && now.chain(later).any(per_frame) {
        Framing::SingleSegments
    } else {
        Framing::SuperFrames
    }
}

fn relay_steps(topology: &Topology, tcp: &TcpSettings) -> Vec<Step> {
    let mut steps = vec![Step::LoopbackUp {
        scope: Scope::Fabric,
    }];
    // The fabric's kernel must not forward what only the relay may carry.
    for (key, value) in QUIET.into_iter().chain([("net/ipv4/ip_forward", "0")]) {
        steps.push(sysctl(Scope::Fabric, key, value));
    }
    let settings = tcp_sysctls(topology, tcp);
    for (host, _) in topology.hosts() {
        steps.extend(host_settings(host, &settings));
        let pair = veth(host, Scope::Fabric);
        let port = pair.port.clone();
        steps.push(Step::Veth(pair));
        // Before its peer: whichever comes up second is usable at once, and the host must not send into a device that
        // drops everything until the kernel has noticed its carrier. The relay waits for its own ends.
        steps.push(Step::Up {
            scope: Scope::Fabric,
            device: port,
        });
        steps.extend(host_device(topology, host));
    }
    steps
}

/// What a host's namespace needs before its device is there.
fn host_settings(host: HostId, settings: &[(&str, String)]) -> Vec<Step> {
    let scope = Scope::Host(host);
    let quiet = QUIET.iter().map(|(key, value)| sysctl(scope, key, value));
    let tcp = settings
        .iter()
        .map(|(key, value)| sysctl(scope, key, value));
    let loopback = Step::LoopbackUp { scope };
    std::iter::once(loopback).chain(quiet).chain(tcp).collect()
}

/// What a host's device needs once its port is up: the end that comes up last can send at once, the other a little
/// later (the kernel has a worker for that), which is waited for where the ports are.
fn host_device(topology: &Topology, host: HostId) -> [Step; 3] {
    let bytes = (largest_frame(topology, host) + GSO_HEADROOM).min(GSO_LARGEST);
    [
        Step::GsoMaxSize { host, bytes },
        Step::Address {
            host,
            address: host_address(host),
            prefix_len: PREFIX_LEN,
        },
        Step::Up {
            scope: Scope::Host(host),
            device: HOST_DEVICE.to_owned(),
        },
    ]
}

fn sysctl(scope: Scope, key: &str, value: &str) -> Step {
    Step::Sysctl {
        scope,
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// TCP subtracts MAX_TCP_HEADER + 1 (at most 320 on 64-bit) from a device's limit before it fills a super-frame.
const GSO_HEADROOM: u32 = 320;

/// The largest super-frame a host may send: what its own link and every link between switches still serialise in
/// 250 µs. Links into hosts are left out: one slow host would make everybody's frames small.
fn largest_frame(topology: &Topology, host: HostId) -> u32 {
    let between =
        |link: &&Link| matches!((link.from, link.to), (Place::Switch(_), Place::Switch(_)));
    let links = topology.links().iter().filter(between);
    links
        .map(link_frame)
        .fold(link_frame(topology.uplink(host)), u32::min)
}

/// What a link serialises in 250 µs; a traced one on average.
fn link_frame(link: &Link) -> u32 {
    let rate = link.delivery.as_ref().map(|trace| trace.mean_rate());
    rate.map_or(link.spec, LinkSpec::with_rate).gso_bytes()
}

/// Frames of a TUN device's ring: a burst of 15 MB in frames of 4 KiB, as slow start sends it into an unshaped link. The
/// ring is 8 bytes a frame.
const TUN_QUEUE: u32 = 4096;

fn veth(host: HostId, at: Scope) -> VethPair {
    let port_end = u8::from(at != Scope::Fabric);
    VethPair {
        at,
        host,
        port: format!("p{}", host.0),
        port_mac: mac(port_end, host.0),
        host_mac: mac(1, host.0),
        mtu: u32::from(MTU),
        txqueuelen: 1000,
    }
}

/// A locally administered unicast address (02:…).
fn mac(end: u8, number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x02, end, a, b, c, d]
}

/// Rate to size buffers and the relay's room for where a link is unshaped: what one relay carries at best (testbeds.md §7: 6 Gbit/s).
pub(crate) const UNSHAPED_BPS: u64 = 10_000_000_000;
/// tcp_rmem and tcp_wmem are C ints.
const BUFFER_LARGEST: u64 = 1 << 30;

fn tcp_sysctls(topology: &Topology, tcp: &TcpSettings) -> Vec<(&'static str, String)> {
    let path = largest_path_bytes(topology);
    let buffer = |asked: Option<ByteSize>, linux: u64| {
        let bytes = asked.map_or(linux.max(path.saturating_mul(2)), ByteSize::bytes);
        bytes.clamp(4096, BUFFER_LARGEST)
    };
    let receive = buffer(tcp.receive_buffer_max, 6 << 20);
    let send = buffer(tcp.send_buffer_max, 4 << 20);
    let limit = tcp
        .limit_output
        .map(|limit| ("net/ipv4/tcp_limit_output_bytes", limit.bytes().to_string()));
    let mut settings = vec![
        // Nothing learnt by one connection may change the next: time jumps between them.
        ("net/ipv4/tcp_no_metrics_save", "1".to_owned()),
        (
            "net/ipv4/tcp_slow_start_after_idle",
            u8::from(tcp.slow_start_after_idle).to_string(),
        ),
        (
            "net/ipv4/tcp_rto_min_us",
            tcp.rto_min.as_micros().to_string(),
        ),
        // min and default as Linux has them.
        (
            "net/ipv4/tcp_rmem",
            format!("4096 {} {receive}", receive.min(131_072)),
        ),
        (
            "net/ipv4/tcp_wmem",
            format!("4096 {} {send}", send.min(16_384)),
        ),
    ];
    settings.extend(limit);
    settings
}

/// Bytes in flight plus queues on the fattest and longest way there and back.
fn largest_path_bytes(topology: &Topology) -> u64 {
    let rate = |link: &Link| match &link.delivery {
        Some(trace) => Some(trace.mean_rate()),
        None => link.spec.rate,
    };
    let links = || topology.links().iter();
    let queue = links()
        .filter(|link| rate(link).is_some())
        .map(|link| link.spec.queue.bytes())
        .max();
    let rate = links()
        .map(|link| rate(link).map_or(UNSHAPED_BPS, BitRate::bps))
        .max();
    let round_trip = topology.longest_delay().saturating_mul(2);
    let in_flight = rate
        .and_then(BitRate::from_bps)
        .map_or(0, |rate| rate.bytes_in(round_trip));
    in_flight.saturating_add(queue.unwrap_or(0).saturating_mul(2))
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

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for link in self.topology.links() {
            write!(f, "[{}] {}: {}", self.backend, link.name, link.spec)?;
            match link.delivery {
                Some(_) => writeln!(f, ", at the opportunities of its trace")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Cable;

    fn plan(spec: LinkSpec) -> Plan {
        let link = Cable::symmetric(spec);
        let hosts = ["a", "b"].map(|name| (name.to_owned(), link));
        Plan::new(
            Topology::star(hosts).unwrap(),
            &TcpSettings::default(),
            BackendKind::Relay,
        )
    }

    fn value_of<'a>(plan: &'a Plan, wanted: &str) -> &'a str {
        let found = plan.steps().iter().find_map(|step| match step {
            Step::Sysctl {
                scope: Scope::Host(_),
                key,
                value,
            } if key == wanted => Some(value),
            _ => None,
        });
        found.unwrap()
    }

    #[test]
    fn each_host_gets_settings_then_device_then_address_then_up() {
        let plan = plan(LinkSpec::default());
        let of_b: Vec<String> = plan
            .steps()
            .iter()
            .map(ToString::to_string)
            .filter(|s| s.contains("host 1"))
            .collect();
        let at = |text: &str| of_b.iter().position(|step| step.contains(text)).unwrap();
        assert!(at("disable_ipv6") < at("veth p1"));
        assert!(at("veth p1") < at("address 10.64.0.2/10"));
        assert!(at("address") < at("eth0 up"));
    }

    #[test]
    fn tun_ports_need_nothing_in_the_fabric() {
        let plan = plan(LinkSpec::default()).with_ports(PortKind::Tun);
        assert_eq!(plan.pairs().count(), 0);
        let tuns = |step: &&Step| matches!(step, Step::Tun(_));
        assert_eq!(plan.steps().iter().filter(tuns).count(), 2);
        let of_b: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
        let at = |text: &str| of_b.iter().position(|step| step.contains(text)).unwrap();
        assert!(at("[host 1] net/ipv6") < at("[host 1] tun eth0"));
        assert!(at("[host 1] tun eth0") < at("[host 1] address"));
        assert!(of_b.iter().all(|step| step != "[fabric] p1 up"));
    }

    #[test]
    fn super_frames_fit_the_rate_with_room_for_headers() {
        let gso = |spec| {
            let plan = plan(spec);
            let of_host = |step: &Step| match step {
                Step::GsoMaxSize { bytes, .. } => Some(*bytes),
                _ => None,
            };
            plan.steps().iter().find_map(of_host).unwrap()
        };
        let rate = |bps| LinkSpec::with_rate(BitRate::from_bps(bps).unwrap());
        assert_eq!(gso(rate(1_000_000_000)), 31_250 + 320);
        assert_eq!(gso(rate(10_000_000)), 3000 + 320);
        assert_eq!(gso(LinkSpec::default()), 65_536);
    }

    #[test]
    fn buffers_hold_twice_the_path() {
        let gigabit = BitRate::from_bps(1_000_000_000).unwrap();
        let long = LinkSpec {
            delay: Duration::from_millis(50),
            ..LinkSpec::with_rate(gigabit)
        };
        // 1 Gbit/s × 200 ms = 25 MB, plus two queues of 512 KiB; twice that.
        let max = 2 * (25_000_000 + 2 * (512 << 10));
        assert_eq!(
            value_of(&plan(long), "net/ipv4/tcp_rmem"),
            format!("4096 131072 {max}")
        );
        let short = plan(LinkSpec::with_rate(gigabit));
        assert_eq!(value_of(&short, "net/ipv4/tcp_wmem"), "4096 16384 4194304");
    }
}
