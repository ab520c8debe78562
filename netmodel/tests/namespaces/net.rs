//! A small network for a test, and what is sent over it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use netmodel::audit::{Finding, Limits, Severity, audit};
use netmodel::backend::{BackendKind, Fabric};
use netmodel::counters::Counters;
use netmodel::link::LinkSpec;
use netmodel::plan::{HOST_DEVICE, Plan, TcpSettings};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::netlink::Netlink;
use netmodel::sys::netns::{create_netns, with_netns};
use netmodel::sys::tcpinfo;
use netmodel::topology::{Cable, HostId, LinkId, Topology, host_address};
use netmodel::units::{BitRate, ByteSize};

/// Longest any test waits for something that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Net {
    pub(crate) fabric: Arc<Fabric>,
    hosts: BTreeMap<HostId, OwnedFd>,
    _fabric_netns: OwnedFd,
}

impl Net {
    /// Hosts on one switch, `specs` both ways.
    pub(crate) fn star<const N: usize>(backend: BackendKind, specs: [LinkSpec; N]) -> Self {
        let hosts = (1..).zip(specs);
        let hosts = hosts.map(|(n, spec)| (format!("h{n}"), Cable::symmetric(spec)));
        Self::build(backend, Topology::star(hosts).unwrap())
    }

    pub(crate) fn build(backend: BackendKind, topology: Topology) -> Self {
        let ids = topology.hosts().map(|(id, _)| id);
        let hosts: BTreeMap<_, _> = ids.map(|id| (id, create_netns().unwrap())).collect();
        let plan = Plan::new(topology, &TcpSettings::default(), backend);
        // A fabric of its own, so that devices of one test are not in the way of the next.
        let fabric_netns = create_netns().unwrap();
        let fabric = with_netns(&fabric_netns, || Fabric::build(&plan, &hosts));
        Self {
            fabric: Arc::new(fabric.unwrap().unwrap()),
            hosts,
            _fabric_netns: fabric_netns,
        }
    }

    pub(crate) fn hosts(&self) -> &BTreeMap<HostId, OwnedFd> {
        &self.hosts
    }

    pub(crate) fn inside<T: Send>(&self, host: u32, f: impl FnOnce() -> T + Send) -> T {
        with_netns(self.hosts[&HostId(host)].as_fd(), f).unwrap()
    }

    /// A socket bound to a port of a host's own address.
    pub(crate) fn udp(&self, host: u32, port: u16) -> UdpSocket {
        self.udp_at(host, host_address(HostId(host)), port)
    }

    pub(crate) fn udp_at(&self, host: u32, address: Ipv4Addr, port: u16) -> UdpSocket {
        let socket = self
            .inside(host, || UdpSocket::bind((address, port)))
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub(crate) fn add_address(&self, host: u32, address: Ipv4Addr) {
        self.inside(host, || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_address(HOST_DEVICE, address, 32).unwrap();
        });
    }

    /// A stream from host 0 to `host`: its sending and its receiving end.
    pub(crate) fn tcp(&self, host: u32) -> (TcpStream, TcpStream) {
        let address = SocketAddr::from((host_address(HostId(host)), 5001));
        let listener = self.inside(host, || TcpListener::bind(address)).unwrap();
        let sender = self.inside(0, || TcpStream::connect(address)).unwrap();
        tcpinfo::set_congestion_control(&sender, &["cubic", "reno"]).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        (sender, receiver)
    }

    /// Counters once nothing is on any link.
    pub(crate) fn settled(&self) -> Counters {
        assert!(self.fabric.drained(PATIENCE).unwrap());
        self.fabric.counters().unwrap()
    }

    /// Counters as soon as they fulfil a condition: the relay may not have read yet what was just sent.
    pub(crate) fn until(&self, holds: impl Fn(&Counters) -> bool) -> Counters {
        let patience = u64::try_from(PATIENCE.as_nanos()).unwrap();
        let deadline = now_ns() + patience;
        loop {
            let counters = self.fabric.counters().unwrap();
            if holds(&counters) {
                return counters;
            }
            assert!(now_ns() < deadline, "{:?}", counters.links);
            wait_until(now_ns() + 1_000_000).unwrap();
        }
    }

    pub(crate) fn link(&self, name: &str) -> LinkId {
        self.fabric.plan().topology().link_named(name).unwrap().id
    }

    /// What a calm and a busy computer alike must not do: lose anything that no queue and no promise accounts for.
    pub(crate) fn lost_nothing(&self) -> Counters {
        let after = self.settled();
        let findings = audit(&Counters::default(), &after, &Limits::default());
        let lost = findings.iter().filter(|judged| {
            judged.severity == Severity::Error && !matches!(judged.finding, Finding::Late { .. })
        });
        assert_eq!(lost.count(), 0, "{findings:?}");
        for (switch, counts) in &after.switches {
            assert_eq!(counts.entered, counts.left, "{switch}");
        }
        assert!(after.ports.values().all(|port| port.not_ipv4 == 0));
        after
    }
}

pub(crate) fn mbit(rate: u64) -> LinkSpec {
    LinkSpec {
        queue: ByteSize::from_bytes(1 << 20),
        ..LinkSpec::with_rate(BitRate::from_bps(rate * 1_000_000).unwrap())
    }
}
