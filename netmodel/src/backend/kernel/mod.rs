//! Links kept by the kernel: HTB for the rate, netem for delay, jitter and loss, and forwarding between switches.
//!
//! Packets never come near this process; the handle here reads counters, changes qdiscs in place and moves routes.
//! Which qdiscs a link has is decided in `qdisc::shape`, which devices and routes there are in `plan::kernel`.

mod account;
mod readback;
mod routing;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::account::{Account, Reading};
pub(super) use self::readback::read_back;
use self::routing::Routing;
use super::{Backend, BackendKind, FabricError, Heard};
use crate::counters::{Counted, Counters, LinkCounters, Sample, SwitchCounters};
use crate::link::LinkSpec;
use crate::plan::{Plan, line, seed};
use crate::qdisc::{Framing, Handle, Object, Shape};
use crate::sys::clock::{now_ns, wait_until};
use crate::sys::netlink::{DeviceCounts, Netlink};
use crate::sys::netns::with_netns;
use crate::sys::tc::Statistics;
use crate::topology::{ANNOUNCE_ADDRESS, ANNOUNCE_PORT, HostId, LinkId, Place, SwitchId, Topology};

/// A network whose packets the kernel carries; the namespaces of its switches go with it.
#[derive(Debug)]
pub(super) struct Kernel {
    kind: BackendKind,
    framing: Framing,
    seed: u64,
    topology: Topology,
    switches: BTreeMap<SwitchId, Switch>,
    lines: BTreeMap<LinkId, Mutex<Shaped>>,
    routing: Mutex<Routing>,
}

#[derive(Debug)]
struct Switch {
    netlink: Mutex<Netlink>,
    /// Numbers of its devices by their names.
    devices: BTreeMap<String, u32>,
    /// Where it hears of addresses that have moved.
    news: UdpSocket,
    /// How much it has heard.
    heard: AtomicU64,
    /// Nothing is done with it but holding it.
    _netns: OwnedFd,
}

/// A link and where it is shaped.
#[derive(Debug)]
struct Shaped {
    switch: SwitchId,
    name: String,
    device: u32,
    spec: LinkSpec,
    shape: Shape,
    changes: u32,
    account: Account,
}

/// How long to wait before looking again whether links are empty: a round trip in a fast network, and some thousand
/// messages over netlink.
const LOOK_AGAIN_NS: u64 = 1_000_000;

impl Kernel {
    /// Takes over what was built.
    pub(super) fn start(
        plan: &Plan,
        namespaces: BTreeMap<SwitchId, OwnedFd>,
    ) -> Result<Self, FabricError> {
        let mut switches = BTreeMap::new();
        for (id, netns) in namespaces {
            let opened = with_netns(netns.as_fd(), || {
                let mut netlink = Netlink::open()?;
                let devices = netlink.device_counts()?;
                netlink.add_address("lo", ANNOUNCE_ADDRESS, 32)?;
                let news = UdpSocket::bind((ANNOUNCE_ADDRESS, ANNOUNCE_PORT));
                let news = news.and_then(|news| news.set_nonblocking(true).map(|()| news));
                let news = news.map_err(|source| FabricError::Wait { source })?;
                Ok::<_, FabricError>((netlink, devices, news))
            })?;
            let (netlink, devices, news) = opened?;
            let devices = devices.into_iter();
            let switch = Switch {
                netlink: Mutex::new(netlink),
                devices: devices.map(|(index, it)| (it.name, index)).collect(),
                news,
                heard: AtomicU64::new(0),
                _netns: netns,
            };
            switches.insert(id, switch);
        }
        let (kind, framing) = (plan.backend(), plan.framing());
        let mut lines = BTreeMap::new();
        for link in plan.topology().links() {
            let Some(line) = line(link) else { continue };
            let shaped = Shaped {
                switch: line.switch,
                device: switches[&line.switch].devices[&line.device],
                name: line.device,
                spec: link.spec,
                shape: Shape::new(kind, &link.spec, framing, seed(plan.seed(), link.id, 0)),
                changes: 0,
                account: Account::default(),
            };
            lines.insert(link.id, Mutex::new(shaped));
        }
        Ok(Self {
            kind,
            framing,
            seed: plan.seed(),
            routing: Mutex::new(Routing::new(plan.topology())),
            topology: plan.topology().clone(),
            switches,
            lines,
        })
    }

    /// Tells some switches where an address is.
    fn tell(
        &self,
        address: Ipv4Addr,
        host: Option<HostId>,
        whom: impl Fn(SwitchId) -> bool,
    ) -> Result<(), FabricError> {
        // Held all through, so that two moves of one address cannot mix.
        let mut routing = locked(&self.routing);
        let changes = routing.changes(&self.topology, address, host);
        for change in changes.into_iter().filter(|change| whom(change.switch)) {
            let mut netlink = self.netlink(change.switch);
            match &change.route {
                Some(route) => {
                    let devices = &self.switches[&change.switch].devices;
                    let device = route.hop.as_ref().and_then(|hop| devices.get(&hop.device));
                    netlink.set_route(route, device.copied().unwrap_or(0))?;
                }
                None => netlink.delete_route(address)?,
            }
            routing.done(address, &change);
        }
        Ok(())
    }

    fn netlink(&self, switch: SwitchId) -> MutexGuard<'_, Netlink> {
        // A panic elsewhere leaves the socket usable: every exchange has its own sequence number.
        locked(&self.switches[&switch].netlink)
    }

    fn line(&self, link: LinkId) -> Result<MutexGuard<'_, Shaped>, FabricError> {
        let line = self.lines.get(&link).ok_or(FabricError::NoLink { link })?;
        Ok(locked(line))
    }

    /// Statistics of one link now, without frames.
    fn read(&self, line: &Shaped) -> Result<Reading, FabricError> {
        let mut netlink = self.netlink(line.switch);
        let root = netlink.qdisc(line.device, line.shape.root())?.statistics;
        let inner = match line.shape.inner() {
            handle if handle == line.shape.root() => root,
            handle => netlink.qdisc(line.device, handle)?.statistics,
        };
        Ok(Reading {
            root,
            inner,
            ..Reading::default()
        })
    }

    /// Frames that all links hold and segments they have sent.
    fn under_way(&self) -> Result<(u64, u64), FabricError> {
        let (mut held, mut sent) = (0, 0);
        for &switch in self.switches.keys() {
            for entry in self.netlink(switch).qdiscs()? {
                if entry.parent == Handle::ROOT.0 {
                    held += entry.statistics.held_frames;
                    sent += entry.statistics.segments;
                }
            }
        }
        Ok((held, sent))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Kernel {
    fn counters(&self) -> Result<Counters, FabricError> {
        let mut counters = Counters {
            at_ns: now_ns(),
            counted: Counted::Frames,
            ..Counters::default()
        };
        let mut devices = BTreeMap::new();
        let mut qdiscs: BTreeMap<(SwitchId, u32, Handle), Statistics> = BTreeMap::new();
        for &id in self.switches.keys() {
            let mut netlink = self.netlink(id);
            devices.insert(id, netlink.device_counts()?);
            for entry in netlink.qdiscs()? {
                let key = (id, entry.device, Handle(entry.handle));
                qdiscs.insert(key, entry.statistics);
            }
        }
        for (&id, line) in &self.lines {
            let mut line = locked(line);
            let at = |handle| (line.switch, line.device, handle);
            let of = |handle| qdiscs.get(&at(handle)).copied().unwrap_or_default();
            let device = &devices[&line.switch];
            let port = match self.topology.link(id).from {
                Place::Host(host) => self.port(line.switch, host),
                Place::Switch(_) => None,
            };
            let reading = Reading {
                root: of(line.shape.root()),
                inner: of(line.shape.inner()),
                sent_frames: device.get(&line.device).map_or(0, |it| it.sent),
                received_frames: port.and_then(|port| Some(device.get(&port)?.received)),
            };
            let spec = line.spec;
            counters
                .links
                .insert(id, line.account.counters(&spec, &reading));
        }
        self.count_ports(&devices, &mut counters);
        self.count_switches(&devices, &mut counters);
        Ok(counters)
    }

    fn sample(&self, links: &[LinkId]) -> Result<Sample, FabricError> {
        let at_ns = now_ns();
        let of = |&link: &LinkId| {
            let mut line = self.line(link)?;
            let reading = self.read(&line)?;
            let spec = line.spec;
            Ok(line.account.counters(&spec, &reading))
        };
        let links = links.iter().map(of).collect::<Result<_, FabricError>>()?;
        Ok(Sample { at_ns, links })
    }

    fn change(&self, id: LinkId, spec: LinkSpec) -> Result<(), FabricError> {
        let link = self.topology.link(id);
        self.kind.check(&link.name, &spec)?;
        let per_frame = !spec.loss.is_none() || !spec.jitter.spread.is_zero();
        if per_frame && self.framing == Framing::SuperFrames {
            return Err(FabricError::SuperFrames {
                link: link.name.clone(),
            });
        }
        let mut line = self.line(id)?;
        let changes = line.changes.wrapping_add(1);
        let shape = Shape::new(self.kind, &spec, self.framing, seed(self.seed, id, changes));
        // What was counted so far was counted under the old promise.
        let reading = self.read(&line)?;
        let old = line.spec;
        line.account.close(&old, &reading);
        let mut netlink = self.netlink(line.switch);
        let before = line.shape.objects();
        let changed = shape.objects().into_iter().zip(before);
        let changed: Vec<Object> = changed
            .filter(|(new, old)| new != old)
            .map(|(new, _)| new)
            .collect();
        for object in &changed {
            netlink.change_queue(line.device, object)?;
        }
        readback::compare(&line.name, line.device, &changed, &mut netlink)?;
        drop(netlink);
        line.spec = spec;
        line.shape = shape;
        line.changes = changes;
        Ok(())
    }

    fn route(&self, address: Ipv4Addr, host: Option<HostId>) -> Result<(), FabricError> {
        self.tell(address, host, |_| true)
    }

    fn teach(
        &self,
        switch: SwitchId,
        address: Ipv4Addr,
        host: Option<HostId>,
    ) -> Result<(), FabricError> {
        self.tell(address, host, |it| it == switch)
    }

    fn heard(&self, patience: Duration) -> Result<Option<Heard>, FabricError> {
        let wait = |source: io::Error| FabricError::Wait { source };
        let news = self.switches.values().map(|switch| switch.news.as_fd());
        let mut all: Vec<_> = news.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut all, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(wait(error.into())),
        }
        for (&switch, it) in &self.switches {
            match it.news.recv_from(&mut [0; 64]) {
                Ok((_, SocketAddr::V4(from))) => {
                    it.heard.fetch_add(1, Ordering::Relaxed);
                    let address = *from.ip();
                    return Ok(Some(Heard { address, switch }));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(wait(error)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn drained(&self, patience: Duration) -> Result<bool, FabricError> {
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let deadline = now_ns().saturating_add(patience);
        let mut before = None;
        loop {
            // Links are read one after the other, so a frame could slip from one not read yet to one read before: it is
            // empty only when nothing was sent between two looks either.
            let (held, sent) = self.under_way()?;
            if held == 0 && before == Some(sent) {
                return Ok(true);
            }
            before = (held == 0).then_some(sent);
            let now = now_ns();
            if now >= deadline {
                return Ok(false);
            }
            wait_until((now + LOOK_AGAIN_NS).min(deadline))
                .map_err(|source| FabricError::Wait { source })?;
        }
    }
}

type Devices = BTreeMap<SwitchId, BTreeMap<u32, DeviceCounts>>;

impl Kernel {
    /// The number of a host's port.
    fn port(&self, switch: SwitchId, host: HostId) -> Option<u32> {
        let devices = &self.switches.get(&switch)?.devices;
        devices.get(&format!("p{}", host.0)).copied()
    }

    fn count_ports(&self, devices: &Devices, counters: &mut Counters) {
        for (host, _) in self.topology.hosts() {
            let Place::Switch(switch) = self.topology.downlink(host).from else {
                continue;
            };
            let port = self.port(switch, host);
            if let Some(counts) = port.and_then(|port| devices.get(&switch)?.get(&port)) {
                let port = counters.ports.entry(host).or_default();
                port.read_packets = counts.received;
                port.written_packets = counts.sent;
                port.device_drops = counts.dropped;
            }
        }
    }

    fn count_switches(&self, devices: &Devices, counters: &mut Counters) {
        let mut switches: BTreeMap<SwitchId, SwitchCounters> = BTreeMap::new();
        for link in self.topology.links() {
            let of =
                |field: fn(&LinkCounters) -> u64| counters.links.get(&link.id).map_or(0, field);
            if let Place::Switch(switch) = link.to {
                switches.entry(switch).or_default().entered += of(|it| it.sent.packets);
            }
            if let Place::Switch(switch) = link.from {
                switches.entry(switch).or_default().left += of(|it| it.received.packets);
            }
        }
        for (id, of_switch) in devices {
            // Ports count for their hosts; the sink's queue drops are no drops of its device.
            let rest = of_switch.values().filter(|it| !it.name.starts_with('p'));
            let dropped = rest.map(|it| it.dropped).sum();
            let counters = switches.entry(*id).or_default();
            counters.device_drops = dropped;
            // What was for the switch itself is not handed on.
            if let Some(switch) = self.switches.get(id) {
                let heard = switch.heard.load(Ordering::Relaxed);
                counters.entered = counters.entered.saturating_sub(heard);
            }
        }
        counters.switches = switches;
    }
}
