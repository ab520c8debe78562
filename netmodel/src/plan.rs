//! What has to be done to the kernel to get a topology, in order, as values.
//!
//! Pure: a topology in, a list of steps out, printable for `--explain`. Executing a step is `backend`'s business,
//! so what a run will touch can be read and tested without touching it.

use std::fmt;

use serde::{Deserialize, Serialize};

mod commands;
mod host;
mod kernel;
mod step;

pub use self::host::TcpSettings;
pub(crate) use self::host::UNSHAPED_BPS;
use self::host::{QUIET, TUN_QUEUE, host_device, host_settings, mac, sysctl, tcp_sysctls, veth};
pub(crate) use self::kernel::{default_route, hop, line, root, seed};
pub use self::step::{
    HOST_DEVICE, Hop, PortKind, Route, Scope, Step, Trunk, TunPort, UnknownPorts, VethPair,
};
use crate::backend::BackendKind;
use crate::link::LinkSpec;
use crate::qdisc::{Framing, Object, Qdisc};
use crate::schedule::Schedule;
use crate::topology::{LinkId, Topology};

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
    /// sockets, unless it was asked for others before) and lets the fabric choose. Where a host's card shapes what it sends they stay
    /// packet sockets: TBF counts the Ethernet header of each segment, and a TUN device has none.
    #[must_use]
    pub fn with_ports(self, kind: PortKind) -> Self {
        let this = Self {
            ports: kind,
            ..self
        };
        if kind != PortKind::Tun || this.backend != BackendKind::Relay || this.shapes_at_source() {
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

    /// Whether a host's card shapes what it sends.
    #[must_use]
    pub fn shapes_at_source(&self) -> bool {
        let mut links = self.topology.links().iter();
        links.any(|link| link.spec.is_shaped_at_source())
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
    use std::time::Duration;

    use super::*;
    use crate::topology::Cable;
    use crate::units::{BitRate, ByteSize};

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
        let grown = |bytes: u64| {
            let tcp = TcpSettings {
                send_buffer: Some(ByteSize::from_bytes(bytes)),
                ..TcpSettings::default()
            };
            let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::default()));
            let plan = Plan::new(Topology::star(hosts).unwrap(), &tcp, BackendKind::Relay);
            value_of(&plan, "net/ipv4/tcp_wmem").to_owned()
        };
        assert_eq!(grown(2_000_000), "4096 2000000 4194304");
        assert_eq!(
            grown(1 << 40),
            "4096 4194304 4194304",
            "never above the limit"
        );
    }
}
