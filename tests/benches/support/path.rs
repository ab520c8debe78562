//! Two hosts and the relay between them, as `migbed migrate` builds them: host 1's link is the one asked for, host 2's
//! is open, so that every packet crosses one shaped link each way.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Result;
use netmodel::backend::Fabric;
use netmodel::counters::{Counters, Lateness, LinkCounters};
use netmodel::link::LinkSpec;
use netmodel::plan::{Plan, TcpSettings};
use netmodel::sys::netns::{create_netns, enter_machine, with_netns};
use netmodel::topology::{HostId, HostLink, Topology, host_address};

/// The host whose link is shaped, and where streams begin.
pub const NEAR: HostId = HostId(0);
/// Where streams end.
pub const FAR: HostId = HostId(1);

pub struct Path {
    hosts: BTreeMap<HostId, OwnedFd>,
    pub fabric: Fabric,
}

impl Path {
    /// Takes this process, which must have one thread, into namespaces of its own and builds the path there.
    pub fn enter(spec: LinkSpec) -> Result<Self> {
        enter_machine()?;
        let open = HostLink::symmetric(LinkSpec::default());
        let links = [("near", HostLink::symmetric(spec)), ("far", open)];
        let topology = Topology::star(links.map(|(name, link)| (name.to_owned(), link)))?;
        let hosts = BTreeMap::from([(NEAR, create_netns()?), (FAR, create_netns()?)]);
        let fabric = Fabric::build(&Plan::new(topology, &TcpSettings::default()), &hosts)?;
        Ok(Self { hosts, fabric })
    }

    /// Runs `f` in a host's namespace; processes and sockets it makes stay there.
    pub fn on<T: Send>(&self, host: HostId, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(with_netns(self.hosts[&host].as_fd(), f)?)
    }

    pub fn spawn(&self, host: HostId, command: &mut Command) -> Result<Child> {
        Ok(self.on(host, || command.spawn())??)
    }

    /// The address to stream to.
    pub fn far_address() -> String {
        host_address(FAR).to_string()
    }

    /// What the shaped link and the relay did between two snapshots.
    pub fn between(&self, before: &Counters, after: &Counters) -> Carried {
        let uplink = self.fabric.plan().topology().uplink(NEAR);
        let link = |counters: &Counters| {
            let id = uplink.map(|link| link.id);
            id.and_then(|id| counters.links.get(&id).copied())
                .unwrap_or_default()
        };
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
            lateness: after.relay.lateness.since(&before.relay.lateness),
            relay_cpu: Duration::from_nanos(run(after) - run(before)),
            relay_wait: Duration::from_nanos(wait(after) - wait(before)),
        }
    }
}

pub struct Carried {
    pub span: Duration,
    pub wire_bytes: u64,
    pub segments_per_frame: f64,
    pub dropped_packets: u64,
    pub lateness: Lateness,
    pub relay_cpu: Duration,
    pub relay_wait: Duration,
}
