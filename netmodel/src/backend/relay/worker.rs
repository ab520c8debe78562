//! The relay's data thread: epoll over ports, an absolute timer and a control channel.
//!
//! One read and one write per packet, no allocation. Decisions are the core's; this file moves bytes and counts.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::core::{Core, Outcome};
use super::frame::{self, FRAME_MAX, FrameError};
use super::hop::{Fate, Parcel};
use super::port::Port;
use super::slab::{Slab, Slot};
use super::split::split;
use crate::counters::{Counters, PortCounters, RelayCounters, Sample};
use crate::link::LinkSpec;
use crate::sys::clock::{Alarm, now_ns, set_tight_timers};
use crate::sys::procfs::own_schedstat;
use crate::sys::sched::ask_for_short_slices;
use crate::topology::{HostId, LinkId, host_address};

/// What can be asked of the data thread.
pub(super) enum Command {
    Counters(SyncSender<Counters>),
    Sample(Vec<LinkId>, SyncSender<Sample>),
    /// Delivery traces begin at this instant.
    Align(i64, SyncSender<()>),
    Change(LinkId, LinkSpec, SyncSender<()>),
    Route(Ipv4Addr, Option<HostId>, SyncSender<()>),
    /// Answered when nothing waits anywhere.
    Drain(SyncSender<()>),
    Stop,
}

/// The data thread's state.
pub(super) struct Worker {
    core: Core<Slot>,
    io: PortIo,
    routes: HashMap<Ipv4Addr, HostId>,
    buffer: Vec<u8>,
    poll: Epoll,
    alarm: Alarm,
    armed_ns: Option<u64>,
    /// The event the timer was set early for.
    early_for: Option<u64>,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    draining: Vec<SyncSender<()>>,
}

/// Ports with the packets held for them.
struct PortIo {
    ports: Vec<Port>,
    counters: Vec<PortCounters>,
    slab: Slab,
    relay: RelayCounters,
    /// The instant frames are being taken in, to tell them from those that were timed.
    entered_ns: u64,
}

/// Event keys above any port number.
const KEY_TIMER: u64 = u64::MAX;
const KEY_CONTROL: u64 = u64::MAX - 1;
/// Frames taken from one port before the others get their turn: 1 MiB of the largest.
const FRAMES_PER_TURN: usize = 16;
const EVENTS: usize = 64;
/// A timer wakes an idle virtual CPU 50 to 150 µs late (measured: ping over 10 ms links).
const EARLY_NS: u64 = 150_000;
/// Spinning then costs at most a sixth. Below 1 ms, since that is a delay people ask for: without it, round trips over
/// an idle 1 ms link took 100 µs too long.
const LONG_SLEEP_NS: u64 = 900_000;
/// Setting a timer and being woken by it costs 25 to 50 µs of processor time on a virtual CPU (measured: a third of the
/// relay's time at 1 Gbit/s was in `timerfd_settime`): what is due sooner is waited for without one.
const SPIN_NS: u64 = 25_000;

impl Worker {
    pub(super) fn new(
        core: Core<Slot>,
        ports: Vec<Port>,
        slab: Slab,
        (commands, wake): (Receiver<Command>, Arc<EventFd>),
    ) -> io::Result<Self> {
        let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = Alarm::new(true)?;
        let readable = |key| EpollEvent::new(EpollFlags::EPOLLIN, key);
        for (key, port) in (0..).zip(&ports) {
            poll.add(port.as_fd(), readable(key))?;
        }
        poll.add(&alarm.0, readable(KEY_TIMER))?;
        poll.add(&*wake, readable(KEY_CONTROL))?;
        let hosts = (0..).zip(&ports).map(|(n, _)| HostId(n));
        let routes = hosts.map(|host| (host_address(host), host)).collect();
        let counters = vec![PortCounters::default(); ports.len()];
        let relay = RelayCounters::default();
        Ok(Self {
            core,
            io: PortIo {
                ports,
                counters,
                slab,
                relay,
                entered_ns: 0,
            },
            routes,
            buffer: vec![0; FRAME_MAX],
            poll,
            alarm,
            armed_ns: None,
            early_for: None,
            wake,
            commands,
            draining: Vec::new(),
        })
    }

    /// Relays until told to stop or the fabric is gone.
    ///
    /// # Errors
    /// Only what no single frame can cause: epoll, timer or eventfd failing.
    pub(super) fn run(mut self) -> io::Result<()> {
        if let Err(error) = set_tight_timers() {
            tracing::warn!(%error, "timers of the relay stay up to 50 µs coarse");
        }
        if let Err(error) = ask_for_short_slices() {
            tracing::debug!(%error, "the relay keeps the scheduler's default slices");
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            self.advance();
            let timeout = self.arm()?;
            let count = match self.poll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut frames = 0;
            for event in &events[..count] {
                match event.data() {
                    KEY_TIMER => {
                        self.armed_ns = None;
                        drain_counter(&self.alarm.0)?;
                    }
                    KEY_CONTROL => {
                        drain_counter(&*self.wake)?;
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    port => frames += self.take_in(usize::try_from(port).unwrap_or(usize::MAX)),
                }
            }
            if frames == 0 && self.core.is_idle() {
                self.draining
                    .drain(..)
                    .for_each(|waiter| reply(&waiter, ()));
            }
        }
    }

    fn advance(&mut self) {
        let Self { core, io, .. } = self;
        io.entered_ns = u64::MAX;
        core.advance(now_ns(), &mut |outcome| io.settle(&outcome));
    }

    /// Sets the timer for the next event, and says how long to wait for anything else. What is due very soon is
    /// waited for awake. Before a long sleep the timer is set early and the rest is spun: waking an idle CPU takes longer
    /// than the delays asked for may be wrong.
    fn arm(&mut self) -> io::Result<EpollTimeout> {
        if !self.draining.is_empty() && self.core.is_idle() {
            return Ok(EpollTimeout::ZERO);
        }
        let Some(at_ns) = self.core.next_event() else {
            return Ok(EpollTimeout::NONE);
        };
        let left_ns = at_ns.saturating_sub(now_ns());
        let spin_ns = match self.early_for == Some(at_ns) {
            true => EARLY_NS,
            false => SPIN_NS,
        };
        if left_ns <= spin_ns {
            return Ok(EpollTimeout::ZERO);
        }
        if self.armed_ns != Some(at_ns) {
            let early = left_ns > LONG_SLEEP_NS;
            self.alarm
                .set(if early { at_ns - EARLY_NS } else { at_ns })?;
            self.early_for = early.then_some(at_ns);
            self.armed_ns = Some(at_ns);
        }
        Ok(EpollTimeout::NONE)
    }

    /// Reads what a host sent, up to a turn's worth.
    fn take_in(&mut self, port: usize) -> usize {
        let Self {
            core,
            io,
            routes,
            buffer,
            ..
        } = self;
        let host = HostId(u32::try_from(port).unwrap_or(u32::MAX));
        for taken in 0..FRAMES_PER_TURN {
            let Some(state) = io.ports.get(port) else {
                return taken;
            };
            match state.read(buffer) {
                Ok(Some(length)) => enter(core, io, routes, (host, &buffer[..length])),
                Ok(None) => return taken,
                Err(error) => {
                    tracing::warn!(port, %error, "a port of the relay cannot be read");
                    return taken;
                }
            }
        }
        FRAMES_PER_TURN
    }

    /// Does what it was told; false means stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Counters(answer)) => reply(&answer, self.counters()),
                Ok(Command::Sample(links, answer)) => reply(&answer, self.sample(&links)),
                Ok(Command::Align(origin_ns, answer)) => {
                    let Self { core, io, .. } = self;
                    io.entered_ns = u64::MAX;
                    core.align(now_ns(), origin_ns, &mut |outcome| io.settle(&outcome));
                    reply(&answer, ());
                }
                Ok(Command::Change(link, spec, answer)) => {
                    let Self { core, io, .. } = self;
                    io.entered_ns = u64::MAX;
                    core.change(now_ns(), link, spec, &mut |outcome| io.settle(&outcome));
                    reply(&answer, ());
                }
                Ok(Command::Route(address, host, answer)) => {
                    match host {
                        Some(host) => drop(self.routes.insert(address, host)),
                        None => drop(self.routes.remove(&address)),
                    }
                    reply(&answer, ());
                }
                Ok(Command::Drain(answer)) => self.draining.push(answer),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn counters(&mut self) -> Counters {
        let stat = own_schedstat();
        let mut relay = self.io.relay.clone();
        relay.run_ns = stat.map(|stat| stat.run_ns);
        relay.run_delay_ns = stat.map(|stat| stat.run_delay_ns);
        for (port, counters) in self.io.ports.iter_mut().zip(&mut self.io.counters) {
            counters.socket_drops = port.socket_drops();
        }
        let at_ns = now_ns();
        let links = self.core.all_counters(at_ns);
        Counters {
            at_ns,
            links: (0..).map(LinkId).zip(links).collect(),
            ports: (0..)
                .map(HostId)
                .zip(self.io.counters.iter().copied())
                .collect(),
            relay,
            ..Counters::default()
        }
    }
}

impl Worker {
    /// Only what is asked for, no histogram: cheap at any rate of asking.
    fn sample(&self, links: &[LinkId]) -> Sample {
        let at_ns = now_ns();
        let of = |link: &LinkId| self.core.counters(at_ns, *link).unwrap_or_default();
        Sample {
            at_ns,
            links: links.iter().map(of).collect(),
        }
    }
}

/// Gives a host's frame to the core.
fn enter(
    core: &mut Core<Slot>,
    io: &mut PortIo,
    routes: &HashMap<Ipv4Addr, HostId>,
    (source, bytes): (HostId, &[u8]),
) {
    let counters = &mut io.counters[source.0 as usize];
    counters.read_packets += 1;
    let frame = match frame::parse(bytes, io.ports[source.0 as usize].layer()) {
        Ok(frame) => frame,
        Err(FrameError::NotIpv4) => return counters.not_ipv4 += 1,
        Err(FrameError::Malformed) => return counters.malformed += 1,
    };
    let destination = routes.get(&frame.destination).copied();
    let Some(destination) = destination.filter(|host| *host != source) else {
        return counters.unroutable += 1;
    };
    let Some(slot) = io.slab.store(bytes) else {
        return io.relay.no_room += 1;
    };
    io.entered_ns = now_ns();
    let way = (source, destination);
    let parcel = Parcel {
        size: frame.size,
        segment_payload: frame.segment_payload,
        ecn_capable: frame.ecn_capable,
    };
    core.enter(io.entered_ns, way, (slot, parcel), &mut |outcome| {
        io.settle(&outcome);
    });
}

impl PortIo {
    /// Writes what was delivered, forgets what was dropped or lost.
    fn settle(&mut self, outcome: &Outcome<Slot>) {
        let slot = match *outcome {
            Outcome::Dropped { packet } | Outcome::Lost { packet } => packet,
            Outcome::Delivered {
                host,
                packet,
                fate,
                at_ns,
            } => {
                self.deliver(host, (packet, fate), at_ns);
                packet
            }
        };
        self.slab.release(slot);
    }

    fn deliver(&mut self, host: HostId, (packet, fate): (Slot, Fate), at_ns: u64) {
        let index = host.0 as usize;
        let (port, counters) = (&self.ports[index], &mut self.counters[index]);
        let (bytes, layer) = (self.slab.frame(packet), port.layer());
        if let Port::Packet {
            host_mac, port_mac, ..
        } = port
        {
            frame::readdress(bytes, *host_mac, *port_mac);
        }
        if fate.marked {
            frame::mark(bytes, layer);
        }
        // Before the write, which on veth runs the receiver's protocol stack.
        let late_ns = (at_ns != self.entered_ns).then(|| now_ns().saturating_sub(at_ns));
        let mut count = |written: io::Result<usize>| match written {
            Ok(_) => counters.written_packets += 1,
            Err(_) => counters.write_refused += 1,
        };
        if fate.lost == 0 {
            count(port.write(bytes));
        } else {
            let pieces = split(bytes, layer, fate.lost, |headers, payload| {
                count(port.write_parts(headers, payload));
            });
            pieces.expect("only a frame that parsed as divisible loses a part of itself");
        }
        if let Some(late_ns) = late_ns {
            self.relay.lateness.record(late_ns);
        }
    }
}

/// Answers whoever asked; one that gave up waiting is no concern of the relay.
fn reply<T>(to: &SyncSender<T>, answer: T) {
    if to.try_send(answer).is_err() {
        tracing::debug!("nobody waits for the relay's answer any more");
    }
}

/// Reads the eight bytes of a timer or event descriptor, so that it is quiet again.
fn drain_counter(fd: impl AsFd) -> io::Result<()> {
    match nix::unistd::read(fd, &mut [0; 8]) {
        Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
