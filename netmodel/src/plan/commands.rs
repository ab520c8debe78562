//! A plan as command lines of `ip`, `tc` and `sysctl`, for people. Pure; nothing here is ever run.
//!
//! Namespaces get the names of the topology's hosts and switches. What the relay does has no command: its links are
//! printed as comments.

use super::{HOST_DEVICE, Plan, Scope, Step, VethPair};
use crate::qdisc::Object;
use crate::topology::Topology;

impl Plan {
    /// The equivalent command lines, in order, to be pasted into a root shell.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let topology = self.topology();
        let hosts = topology.hosts().map(|(_, name)| name);
        let mut lines = vec!["ip netns add fabric".to_owned()];
        if self.backend().is_kernel() {
            let switches = topology.switches().iter();
            lines = switches
                .map(|name| format!("ip netns add {name}"))
                .collect();
        }
        lines.extend(hosts.map(|name| format!("ip netns add {name}")));
        for step in self.steps() {
            lines.extend(commands(topology, step));
        }
        if !self.backend().is_kernel() {
            let links = topology.links().iter();
            lines.extend(links.map(|link| format!("# relay: {}: {}", link.name, link.spec)));
        }
        lines
    }
}

fn name(topology: &Topology, scope: Scope) -> String {
    match scope {
        Scope::Fabric => "fabric".to_owned(),
        Scope::Host(host) => {
            let name = topology.hosts().nth(host.0 as usize);
            name.map_or(host.to_string(), |(_, name)| name.to_owned())
        }
        Scope::Switch(switch) => {
            let name = topology.switches().get(switch.0 as usize);
            name.cloned().unwrap_or(switch.to_string())
        }
    }
}

fn commands(topology: &Topology, step: &Step) -> Vec<String> {
    let at = name(topology, step.scope());
    match step {
        Step::LoopbackUp { .. } => vec![format!("ip -n {at} link set dev lo up")],
        Step::Sysctl { key, value, .. } => {
            vec![format!("ip netns exec {at} sysctl -w {key}='{value}'")]
        }
        Step::Up { device, .. } => vec![format!("ip -n {at} link set dev {device} up")],
        Step::Veth(pair) => {
            let host = name(topology, Scope::Host(pair.host));
            pair_of(&at, &host, pair)
        }
        Step::Tun(port) => vec![
            format!("ip -n {at} tuntap add dev {HOST_DEVICE} mode tun vnet_hdr"),
            format!(
                "ip -n {at} link set dev {HOST_DEVICE} mtu {} txqueuelen {}",
                port.mtu, port.txqueuelen
            ),
        ],
        Step::Trunk(trunk) => {
            let to = name(topology, Scope::Switch(trunk.to));
            let (mac, end) = (colons(trunk.mac), format!("mtu {}", trunk.mtu));
            let (device, peer) = (&trunk.device, &trunk.peer);
            vec![
                format!(
                    "ip -n {at} link add {device} address {mac} {end} type veth peer name {peer} netns {to} \
                     address {mac} {end}"
                ),
                format!("ip -n {at} link set dev {device} arp off"),
                format!("ip -n {to} link set dev {peer} arp off"),
            ]
        }
        Step::Ifb { device, .. } => vec![format!("ip -n {at} link add {device} type ifb")],
        Step::GsoMaxSize { bytes, .. } => vec![format!(
            "ip -n {at} link set dev {HOST_DEVICE} gso_max_size {bytes}"
        )],
        Step::SingleSegments { .. } => vec![format!(
            "ip -n {at} link set dev {HOST_DEVICE} gso_max_segs 1"
        )],
        Step::Address {
            address,
            prefix_len,
            ..
        } => vec![format!(
            "ip -n {at} address add {address}/{prefix_len} dev {HOST_DEVICE}"
        )],
        Step::Queue { device, object, .. } => vec![queue(&at, device, object)],
        Step::Egress { object, .. } => vec![queue(&at, HOST_DEVICE, object)],
        Step::Route { route, .. } => vec![format!("ip -n {at} route add {route}")],
    }
}

fn queue(at: &str, device: &str, object: &Object) -> String {
    let what = match object {
        Object::Qdisc { .. } => "qdisc",
        Object::Class { .. } => "class",
        Object::Redirect(_) => "filter",
    };
    format!("tc -n {at} {what} add dev {device} {object}")
}

fn pair_of(at: &str, host: &str, pair: &VethPair) -> Vec<String> {
    let VethPair { port, mtu, .. } = pair;
    let (port_mac, host_mac) = (colons(pair.port_mac), colons(pair.host_mac));
    vec![
        format!(
            "ip -n {at} link add {port} address {port_mac} mtu {mtu} type veth peer name {HOST_DEVICE} netns {host} \
             address {host_mac} mtu {mtu}"
        ),
        format!("ip -n {at} link set dev {port} arp off"),
        format!("ip -n {host} link set dev {HOST_DEVICE} arp off"),
    ]
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::BackendKind;
    use crate::link::LinkSpec;
    use crate::plan::TcpSettings;
    use crate::topology::Cable;
    use crate::units::BitRate;

    fn lines(backend: BackendKind) -> Vec<String> {
        let spec = LinkSpec {
            delay: Duration::from_millis(5),
            ..LinkSpec::with_rate(BitRate::from_bps(100_000_000).unwrap())
        };
        let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::symmetric(spec)));
        let topology = Topology::star(hosts).unwrap();
        Plan::new(topology, &TcpSettings::default(), backend).commands()
    }

    #[test]
    fn a_link_of_netem_is_what_a_person_would_type() {
        let lines = lines(BackendKind::Netem);
        let of_uplink: Vec<_> = lines.iter().filter(|line| line.contains(" i0 ")).collect();
        assert_eq!(
            of_uplink,
            [
                "ip -n switch link add i0 type ifb",
                "tc -n switch qdisc add dev i0 root handle 1: netem limit 103516 delay 5000000ns rate 1000000000000bit",
                "tc -n switch qdisc add dev i0 parent 1:1 handle 2: htb default 1",
                "tc -n switch class add dev i0 parent 2: classid 2:1 htb rate 98439528bit ceil 98439528bit \
                 burst 6152b cburst 6152b quantum 60000",
                "tc -n switch qdisc add dev i0 parent 2:1 handle 3: bfifo limit 516107",
                "ip -n switch link set dev i0 up",
            ]
        );
        let ingress: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("dev p0 "))
            .collect();
        assert!(ingress.contains(&&"tc -n switch qdisc add dev p0 ingress".to_owned()));
        assert!(ingress.iter().any(|line| line.ends_with(
            "filter add dev p0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev i0"
        )));
    }

    #[test]
    fn the_relay_has_devices_and_a_comment_per_link() {
        let lines = lines(BackendKind::Relay);
        assert!(lines.contains(&"ip -n a link set dev eth0 gso_max_size 3445".to_owned()));
        assert_eq!(lines.iter().filter(|line| line.starts_with('#')).count(), 4);
        assert!(!lines.iter().any(|line| line.starts_with("tc ")));
    }
}
