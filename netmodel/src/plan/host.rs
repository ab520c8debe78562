//! What every emulated host needs, whatever carries its links: its settings, its card, and buffers for its paths. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::step::{HOST_DEVICE, Scope, Step, VethPair};
use crate::link::{GSO_LARGEST, LinkSpec, MTU};
use crate::qdisc::Tbf;
use crate::topology::{HostId, Link, PREFIX_LEN, Place, Topology, host_address};
use crate::units::{BitRate, ByteSize};

/// TCP settings of every host's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSettings {
    /// Receive buffer limit; `None` takes the larger of Linux's 6 MiB and twice the largest path.
    pub receive_buffer_max: Option<ByteSize>,
    /// Send buffer limit; `None` takes the larger of Linux's 4 MiB and twice the largest path.
    pub send_buffer_max: Option<ByteSize>,
    /// What a send buffer is before TCP has tuned it; `None` takes Linux's 16 KiB. Never above the limit.
    pub send_buffer: Option<ByteSize>,
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
            send_buffer: None,
            limit_output: None,
            slow_start_after_idle: true,
            rto_min: Duration::from_millis(200),
        }
    }
}

/// No IPv6: its router solicitations and DAD would be traffic nobody asked for.
pub(super) const QUIET: [(&str, &str); 2] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// What a host's namespace needs before its device is there.
pub(super) fn host_settings(host: HostId, settings: &[(&str, String)]) -> Vec<Step> {
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
pub(super) fn host_device(topology: &Topology, host: HostId) -> Vec<Step> {
    let bytes = (largest_frame(topology, host) + GSO_HEADROOM).min(GSO_LARGEST);
    let shaper = Tbf::of(&topology.uplink(host).spec);
    let mut steps = vec![Step::GsoMaxSize { host, bytes }];
    steps.extend(shaper.map(|object| Step::Egress { host, object }));
    steps.extend([
        Step::Address {
            host,
            address: host_address(host),
            prefix_len: PREFIX_LEN,
        },
        Step::Up {
            scope: Scope::Host(host),
            device: HOST_DEVICE.to_owned(),
        },
    ]);
    steps
}

pub(super) fn sysctl(scope: Scope, key: &str, value: &str) -> Step {
    Step::Sysctl {
        scope,
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// TCP subtracts MAX_TCP_HEADER + 1 (at most 320 on 64-bit) from a device's limit before it fills a super-frame.
const GSO_HEADROOM: u32 = 320;

/// The largest super-frame a host may send: what its own link and every link between switches still serialise in
/// their `super_frame`. Links into hosts are left out: one slow host would make everybody's frames small.
fn largest_frame(topology: &Topology, host: HostId) -> u32 {
    let between =
        |link: &&Link| matches!((link.from, link.to), (Place::Switch(_), Place::Switch(_)));
    let links = topology.links().iter().filter(between);
    links
        .map(link_frame)
        .fold(link_frame(topology.uplink(host)), u32::min)
}

/// What a link serialises in its `super_frame`; a traced one on average.
fn link_frame(link: &Link) -> u32 {
    let rate = link.delivery.as_ref().map(|trace| trace.mean_rate());
    let spec = LinkSpec {
        rate: rate.or(link.spec.rate),
        ..link.spec
    };
    spec.gso_bytes()
}

/// Frames of a TUN device's ring: a burst of 15 MB in frames of 4 KiB, as slow start sends it into an unshaped link. The
/// ring is 8 bytes a frame.
pub(super) const TUN_QUEUE: u32 = 4096;

pub(super) fn veth(host: HostId, at: Scope) -> VethPair {
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
pub(super) fn mac(end: u8, number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x02, end, a, b, c, d]
}

/// Rate to size buffers and the relay's room for where a link is unshaped: what one relay carries at best (testbeds.md §7: 6 Gbit/s).
pub(crate) const UNSHAPED_BPS: u64 = 10_000_000_000;
/// tcp_rmem and tcp_wmem are C ints.
const BUFFER_LARGEST: u64 = 1 << 30;

pub(super) fn tcp_sysctls(topology: &Topology, tcp: &TcpSettings) -> Vec<(&'static str, String)> {
    let path = largest_path_bytes(topology);
    let buffer = |asked: Option<ByteSize>, linux: u64| {
        let bytes = asked.map_or(linux.max(path.saturating_mul(2)), ByteSize::bytes);
        bytes.clamp(4096, BUFFER_LARGEST)
    };
    let receive = buffer(tcp.receive_buffer_max, 6 << 20);
    let send = buffer(tcp.send_buffer_max, 4 << 20);
    let first = tcp.send_buffer.map_or(16_384, ByteSize::bytes);
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
            format!("4096 {} {send}", first.clamp(4096, send)),
        ),
    ];
    settings.extend(limit);
    settings
}

/// Bytes in flight plus the fabric's queues on the fattest and longest way there and back.
fn largest_path_bytes(topology: &Topology) -> u64 {
    let rate = |link: &Link| match &link.delivery {
        Some(trace) => Some(trace.mean_rate()),
        None => link.spec.rate,
    };
    let links = || topology.links().iter();
    let queue = links()
        .filter(|link| rate(link).is_some() && !link.spec.is_shaped_at_source())
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
