//! The relay's data thread: epoll over ports, an absolute timer and a control channel.
//!
//! One read and one write per packet, no allocation. Decisions are the core's, bytes are moved by `ports`; this file says when.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::core::Core;
use super::hop::{Parcel, To};
use super::port::{Port, close_all};
use super::ports::{PortIo, Taken};
use super::slab::{Slab, Slot};
use crate::backend::Heard;
use crate::counters::{Counters, Sample};
use crate::link::LinkSpec;
use crate::sys::clock::{Alarm, now_ns, set_tight_timers};
use crate::sys::procfs::own_schedstat;
use crate::sys::sched::ask_for_short_slices;
use crate::topology::{ANNOUNCE_ADDRESS, HostId, LinkId, SwitchId, host_address};

/// What can be asked of the data thread.
pub(super) enum Command {
    Counters(SyncSender<Counters>),
    Sample(Vec<LinkId>, SyncSender<Sample>),
    /// Delivery traces begin at this instant.
    Align(i64, SyncSender<()>),
    Change(LinkId, LinkSpec, SyncSender<()>),
    /// A switch learns where an address is.
    Teach(SwitchId, Ipv4Addr, Option<HostId>, SyncSender<()>),
    /// Answered when nothing waits anywhere.
    Drain(SyncSender<()>),
    Stop,
}

/// The data thread's state.
pub(super) struct Worker {
    core: Core<Slot>,
    io: PortIo,
    routes: HashMap<Ipv4Addr, HostId>,
    poll: Epoll,
    alarm: Alarm,
    armed_ns: Option<u64>,
    /// The event the timer was set early for.
    early_for: Option<u64>,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    /// Where news that switches have heard goes.
    news: SyncSender<Heard>,
    draining: Vec<SyncSender<()>>,
}

/// Event keys above any port number.
const KEY_TIMER: u64 = u64::MAX;
const KEY_CONTROL: u64 = u64::MAX - 1;
/// Frames taken from one port before the others get their turn: 1 MiB of the largest.
const FRAMES_PER_TURN: usize = 16;
/// Answers read between writes before the other ports get their turn: two a frame of a turn's.
const ANSWERS_PER_TURN: usize = 2 * FRAMES_PER_TURN;
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
        news: SyncSender<Heard>,
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
        Ok(Self {
            core,
            io: PortIo::new(ports, slab),
            routes,
            poll,
            alarm,
            armed_ns: None,
            early_for: None,
            wake,
            commands,
            news,
            draining: Vec::new(),
        })
    }

    /// Relays until told to stop or the fabric is gone.
    ///
    /// # Errors
    /// Only what no single frame can cause: epoll, timer or eventfd failing.
    pub(super) fn run(mut self) -> io::Result<()> {
        let end = self.relay();
        close_all(self.io.ports);
        end
    }

    fn relay(&mut self) -> io::Result<()> {
        if let Err(error) = set_tight_timers() {
            tracing::warn!(%error, "timers of the relay stay up to 50 µs coarse");
        }
        if let Err(error) = ask_for_short_slices() {
            tracing::debug!(%error, "the relay keeps the scheduler's default slices");
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            self.advance();
            // Whoever asks after this look at the ports may have sent what it has not seen.
            let asked = self.draining.len();
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
            if frames == 0 && self.core.is_idle() && self.io.is_idle() {
                self.draining
                    .drain(..asked)
                    .for_each(|waiter| reply(&waiter, ()));
            }
        }
    }

    /// Handles what is due, and writes it.
    fn advance(&mut self) {
        let Self { core, io, .. } = self;
        io.happens(None);
        core.advance(now_ns(), &mut |outcome| io.settle(&outcome));
        self.write_out();
        for heard in self.io.heard.drain(..) {
            // Nobody listens where no address moves.
            let _ = self.news.try_send(heard);
        }
    }

    /// Writes what was delivered. A write runs the receiver's protocol stack, which may answer on the spot: an
    /// acknowledgement lets two super-frames loose. These are read before the next write, since a port's buffer holds few of
    /// them, and a burst of writes would lose what it provokes. After a turn's worth the other ports get theirs.
    fn write_out(&mut self) {
        let mut answers = 0;
        while let Some(host) = self.io.write_next() {
            while answers < ANSWERS_PER_TURN && self.take_one(host.0 as usize) {
                answers += 1;
            }
        }
    }

    /// Sets the timer for the next event, and says how long to wait for anything else. What is due very soon is
    /// waited for awake. Before a long sleep the timer is set early and the rest is spun: waking an idle CPU takes longer
    /// than the delays asked for may be wrong.
    fn arm(&mut self) -> io::Result<EpollTimeout> {
        if !self.io.is_idle() || (!self.draining.is_empty() && self.core.is_idle()) {
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
        for taken in 0..FRAMES_PER_TURN {
            if !self.take_one(port) {
                return taken;
            }
            self.write_out();
        }
        FRAMES_PER_TURN
    }

    /// Reads one frame and gives it to the core; false when there is none.
    fn take_one(&mut self, port: usize) -> bool {
        let Self {
            core, io, routes, ..
        } = self;
        let (frame, length) = match io.read(port) {
            Taken::Nothing => return false,
            Taken::Left => return true,
            Taken::Frame(frame, length) => (frame, length),
        };
        let source = HostId(u32::try_from(port).unwrap_or(u32::MAX));
        let destination = match routes.get(&frame.destination) {
            Some(host) => (*host != source).then_some(To::Host(*host)),
            None if frame.destination == ANNOUNCE_ADDRESS => Some(To::Announcement(frame.source)),
            None => core
                .knows(frame.destination)
                .then_some(To::Address(frame.destination)),
        };
        let Some(destination) = destination else {
            io.counters[port].unroutable += 1;
            return true;
        };
        let slot = io.keep(length);
        let now = now_ns();
        io.happens(Some(now));
        let parcel = Parcel {
            size: frame.size,
            segment_payload: frame.segment_payload,
            ecn_capable: frame.ecn_capable,
        };
        core.enter(now, (source, destination), (slot, parcel), &mut |outcome| {
            io.settle(&outcome);
        });
        true
    }

    /// Does what it was told; false means stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Counters(answer)) => reply(&answer, self.counters()),
                Ok(Command::Sample(links, answer)) => reply(&answer, self.sample(&links)),
                Ok(Command::Align(origin_ns, answer)) => {
                    let Self { core, io, .. } = self;
                    io.happens(None);
                    core.align(now_ns(), origin_ns, &mut |outcome| io.settle(&outcome));
                    reply(&answer, ());
                }
                Ok(Command::Change(link, spec, answer)) => {
                    let Self { core, io, .. } = self;
                    io.happens(None);
                    core.change(now_ns(), link, spec, &mut |outcome| io.settle(&outcome));
                    reply(&answer, ());
                }
                Ok(Command::Teach(switch, address, host, answer)) => {
                    let Self { core, io, .. } = self;
                    io.happens(None);
                    let what = (switch, address);
                    core.teach(now_ns(), what, host, &mut |outcome| io.settle(&outcome));
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
