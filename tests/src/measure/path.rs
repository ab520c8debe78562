//! Two hosts and a backend between them, as `migbed migrate` builds them: host 1's link is the one asked for, host 2's
//! is open, so that every packet crosses one shaped link each way.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Result;
use netmodel::backend::{BackendKind, Fabric};
use netmodel::counters::{Counters, Lateness, LinkCounters};
use netmodel::link::LinkSpec;
use netmodel::plan::{HOST_DEVICE, Plan, Scope, TcpSettings, VethPair};
use netmodel::sys::netlink::Netlink;
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::topology::{Cable, HostId, PREFIX_LEN, Topology, host_address};

/// The host whose link is shaped, and where streams begin.
pub const NEAR: HostId = HostId(0);
/// Where streams end.
pub const FAR: HostId = HostId(1);

/// The two hosts' namespaces; they go with this.
#[derive(Debug)]
pub struct Ends(BTreeMap<HostId, OwnedFd>);

impl Ends {
    fn new() -> Result<Self> {
        let ends = [(NEAR, create_netns()?), (FAR, create_netns()?)];
        Ok(Self(BTreeMap::from(ends)))
    }

    /// Two hosts on the ends of a plain veth pair: what the kernel does when nothing is emulated.
    ///
    /// # Errors
    /// When the kernel refuses namespaces or devices.
    pub fn joined() -> Result<Self> {
        let ends = Self::new()?;
        // One address for both, so that without ARP each takes what the other sends for its own.
        let mac = [2, 0, 0, 0, 0, 1];
        let pair = VethPair {
            at: Scope::Fabric,
            host: FAR,
            port: HOST_DEVICE.to_owned(),
            port_mac: mac,
            host_mac: mac,
            mtu: 1500,
            txqueuelen: 1000,
        };
        let far = ends.0[&FAR].as_fd();
        ends.on(NEAR, || Netlink::open()?.create_veth(&pair, far))??;
        for host in [NEAR, FAR] {
            ends.on(host, || {
                let mut netlink = Netlink::open()?;
                netlink.add_address(HOST_DEVICE, host_address(host), PREFIX_LEN)?;
                netlink.set_up(HOST_DEVICE)
            })??;
        }
        Ok(ends)
    }

    /// Runs `f` in a host's namespace; processes and sockets it makes stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn on<T: Send>(&self, host: HostId, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(with_netns(self.0[&host].as_fd(), f)?)
    }
}

/// The path; its namespaces go with this process.
#[derive(Debug)]
pub struct Path {
    /// Its hosts.
    pub ends: Ends,
    /// The fabric between the two.
    pub fabric: Fabric,
}

impl Path {
    /// Takes this process, which must have one thread, into namespaces of its own and builds the path there.
    ///
    /// # Errors
    /// When the kernel refuses namespaces or devices.
    pub fn enter(spec: LinkSpec) -> Result<Self> {
        enter_machine()?;
        Self::build(spec, BackendKind::Relay, 0)
    }

    /// Builds the path in network namespaces of its own: one after another may be built in one process that has entered
    /// a machine's namespaces before. Jitter and losses are drawn from `seed`: repetitions with one seed are one draw.
    ///
    /// # Errors
    /// When the kernel refuses namespaces or devices, or lacks what the backend stands on.
    pub fn build(spec: LinkSpec, backend: BackendKind, seed: u64) -> Result<Self> {
        let open = Cable::symmetric(LinkSpec::default());
        let links = [("near", Cable::symmetric(spec)), ("far", open)];
        let topology = Topology::star(links.map(|(name, link)| (name.to_owned(), link)))?;
        let ends = Ends::new()?;
        let plan = Plan::new(topology, &TcpSettings::default(), backend).with_seed(seed);
        let fabric = with_netns(create_netns()?, || Fabric::build(&plan, &ends.0))??;
        Ok(Self { ends, fabric })
    }

    /// Runs `f` in a host's namespace; processes and sockets it makes stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn on<T: Send>(&self, host: HostId, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.ends.on(host, f)
    }

    /// Starts a process on a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, host: HostId, command: &mut Command) -> Result<Child> {
        Ok(self.on(host, || command.spawn())??)
    }

    /// The address to stream to.
    #[must_use]
    pub fn far_address() -> String {
        host_address(FAR).to_string()
    }

    /// What the shaped link and the relay did between two snapshots.
    #[must_use]
    pub fn between(&self, before: &Counters, after: &Counters) -> Carried {
        let uplink = self.fabric.plan().topology().uplink(NEAR);
        let link =
            |counters: &Counters| counters.links.get(&uplink.id).copied().unwrap_or_default();
        let (then, now): (LinkCounters, LinkCounters) = (link(before), link(after));
        let run = |counters: &Counters| counters.relay.run_ns.unwrap_or(0);
        let wait = |counters: &Counters| counters.relay.run_delay_ns.unwrap_or(0);
        let frames = now.received.packets - then.received.packets;
        Carried {
            span: Duration::from_nanos(after.at_ns - before.at_ns),
            wire_bytes: now.sent.wire_bytes - then.sent.wire_bytes,
            segments_per_frame: (now.received.segments - then.received.segments) as f64
                / frames.max(1) as f64,
            dropped_packets: now.dropped.packets - then.dropped.packets,
            lost_frames: lost(after).saturating_sub(lost(before)),
            lateness: after.relay.lateness.since(&before.relay.lateness),
            relay_cpu: Duration::from_nanos(run(after) - run(before)),
            relay_wait: Duration::from_nanos(wait(after) - wait(before)),
        }
    }
}

/// What was carried from the near host to the far one in a span.
#[derive(Debug)]
pub struct Carried {
    /// Between the snapshots.
    pub span: Duration,
    /// Left the shaped link, overhead included.
    pub wire_bytes: u64,
    /// Packets that a frame stood for, on average.
    pub segments_per_frame: f64,
    /// Refused by the full queue.
    pub dropped_packets: u64,
    /// Of the relay's writes, against their logical instants.
    pub lateness: Lateness,
    /// Frames the kernel or the relay lost anywhere but in a full queue.
    pub lost_frames: u64,
    /// Processor time of the relay's thread.
    pub relay_cpu: Duration,
    /// Time that thread waited for a processor.
    pub relay_wait: Duration,
}

fn lost(counters: &Counters) -> u64 {
    let at_ports = counters.ports.values().map(|port| {
        port.write_refused
            + port.socket_drops
            + port.device_drops
            + port.unroutable
            + port.malformed
    });
    at_ports.sum::<u64>() + counters.relay.no_room + counters.relay.backlog_drops.unwrap_or(0)
}
