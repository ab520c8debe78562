//! The user-space relay: shapes in this process what crosses its ports.
//!
//! The handle here only sends commands; packets never pass through it.

mod core;
mod draw;
mod frame;
mod hop;

mod jitter;
mod line;
mod loss;
mod port;
mod ports;
mod queue;
mod service;
mod slab;
mod split;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use self::core::{Core, Outcome};
pub use self::hop::{Fate, Parcel, To};
use self::jitter::nanoseconds;
use self::port::Port;
use self::slab::Slab;
use self::worker::{Command, Worker};
use super::{Backend, FabricError, Heard};
use crate::counters::{Counters, Sample};
use crate::link::LinkSpec;
use crate::plan::{Plan, UNSHAPED_BPS};
use crate::sys::clock::{now_ns, wait_until};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::tun::TunDevice;
use crate::topology::{HostId, Link, LinkId, SwitchId};
use crate::units::BitRate;

/// Why the relay cannot be started or does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// A port's socket cannot be opened.
    #[error("cannot open a packet socket on {port}: {source}")]
    Port {
        /// The device.
        port: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The port's device is not there.
    #[error(transparent)]
    Device(#[from] NetlinkError),
    /// A port stays without a carrier.
    #[error("{port} has no carrier after {waited:?}; is the host's end up?")]
    NoCarrier {
        /// The device.
        port: String,
        /// How long we waited.
        waited: Duration,
    },
    /// The data thread cannot be started.
    #[error("cannot start the relay's data thread: {source}")]
    Start {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The data thread has ended.
    #[error("the relay's data thread has ended")]
    Gone,
    /// The data thread did not answer in time.
    #[error("the relay did not answer within {waited:?}")]
    Silent {
        /// How long we waited.
        waited: Duration,
    },
}

/// A running relay; ends its thread when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    switches: u32,
    news: Mutex<Receiver<Heard>>,
    thread: Option<JoinHandle<()>>,
}

/// Commands under way at once; callers wait for each answer, so this only bounds the number of callers.
const COMMANDS: usize = 64;
/// News that may wait: five announcements of each of some dozens of addresses that move at once. What finds no room is
/// lost, as a frame can be; the next announcement says the same.
const NEWS: usize = 256;
/// Longest the data thread may be busy before it looks at a command; orders above its longest turn.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Relay {
    /// Opens the ports (in the calling thread's namespace, but for devices made before) and starts relaying.
    pub(super) fn start(
        plan: &Plan,
        tuns: BTreeMap<HostId, TunDevice>,
    ) -> Result<Self, RelayError> {
        let pairs = plan.pairs().map(|pair| Ok((pair.host, Port::open(pair)?)));
        let mut ports = pairs.collect::<Result<BTreeMap<_, _>, RelayError>>()?;
        wait_for_carriers(plan)?;
        ports.extend(tuns.into_iter().map(|(host, tun)| (host, Port::Tun(tun))));
        let ports = ports.into_values().collect();
        let links = plan.topology().links().iter();
        let held = links.map(most_held).fold(0, u64::saturating_add);
        let origin_ns = i64::try_from(now_ns()).unwrap_or(i64::MAX);
        let core = Core::new(plan.topology(), plan.seed(), origin_ns);
        let (commands, receiver) = sync_channel(COMMANDS);
        let start = |source| RelayError::Start { source };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|e| start(e.into()))?);
        let control = (receiver, Arc::clone(&wake));
        let (tell, news) = sync_channel(NEWS);
        let worker = Worker::new(core, ports, Slab::new(held), control, tell).map_err(start)?;
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                if let Err(error) = worker.run() {
                    tracing::error!(%error, "the relay stopped");
                }
            });
        Ok(Self {
            commands,
            wake,
            switches: u32::try_from(plan.topology().switches().len()).unwrap_or(u32::MAX),
            news: Mutex::new(news),
            thread: Some(thread.map_err(start)?),
        })
    }

    fn ask<T>(
        &self,
        patience: Duration,
        command: impl FnOnce(SyncSender<T>) -> Command,
    ) -> Result<T, RelayError> {
        let (sender, answer) = sync_channel(1);
        self.commands
            .try_send(command(sender))
            .map_err(|error| match error {
                TrySendError::Full(_) => RelayError::Silent {
                    waited: Duration::ZERO,
                },
                TrySendError::Disconnected(_) => RelayError::Gone,
            })?;
        self.wake.write(1).map_err(|_| RelayError::Gone)?;
        answer.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => RelayError::Silent { waited: patience },
            RecvTimeoutError::Disconnected => RelayError::Gone,
        })
    }
}

impl Backend for Relay {
    fn counters(&self) -> Result<Counters, FabricError> {
        Ok(self.ask(ANSWER_WITHIN, Command::Counters)?)
    }

    fn sample(&self, links: &[LinkId]) -> Result<Sample, FabricError> {
        let links = links.to_vec();
        Ok(self.ask(ANSWER_WITHIN, |answer| Command::Sample(links, answer))?)
    }

    fn align(&self, origin_ns: i64) -> Result<(), FabricError> {
        Ok(self.ask(ANSWER_WITHIN, |answer| Command::Align(origin_ns, answer))?)
    }

    fn change(&self, link: LinkId, spec: LinkSpec) -> Result<(), FabricError> {
        Ok(self.ask(ANSWER_WITHIN, |answer| Command::Change(link, spec, answer))?)
    }

    fn route(&self, to: Ipv4Addr, host: Option<HostId>) -> Result<(), FabricError> {
        for switch in (0..self.switches).map(SwitchId) {
            self.teach(switch, to, host)?;
        }
        Ok(())
    }

    fn teach(
        &self,
        switch: SwitchId,
        to: Ipv4Addr,
        host: Option<HostId>,
    ) -> Result<(), FabricError> {
        Ok(self.ask(ANSWER_WITHIN, |answer| {
            Command::Teach(switch, to, host, answer)
        })?)
    }

    fn heard(&self, patience: Duration) -> Result<Option<Heard>, FabricError> {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        match news.recv_timeout(patience) {
            Ok(heard) => Ok(Some(heard)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RelayError::Gone.into()),
        }
    }

    fn drained(&self, patience: Duration) -> Result<bool, FabricError> {
        match self.ask(patience, Command::Drain) {
            Ok(()) => Ok(true),
            Err(RelayError::Silent { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Longest the kernel may take to notice that both ends of a pair are up; it does so at once unless it is very busy.
const CARRIER_WITHIN: Duration = Duration::from_secs(5);

/// Waits until what is written to a port leaves it: before, a device drops everything without a word.
fn wait_for_carriers(plan: &Plan) -> Result<(), RelayError> {
    let mut netlink = Netlink::open()?;
    let give_up_ns = now_ns().saturating_add(nanoseconds(CARRIER_WITHIN));
    loop {
        let usable = netlink.usable_devices()?;
        let Some(pair) = plan.pairs().find(|pair| !usable.contains(&pair.port)) else {
            return Ok(());
        };
        let now = now_ns();
        if now > give_up_ns {
            return Err(RelayError::NoCarrier {
                port: pair.port.clone(),
                waited: CARRIER_WITHIN,
            });
        }
        wait_until(now + 1_000_000).map_err(|source| RelayError::Start { source })?;
    }
}

/// Bytes a link may hold: its queue and its delay line, which fills without a rate, too.
fn most_held(link: &Link) -> u64 {
    let delay = link.spec.delay_most();
    let on_the_line = match &link.delivery {
        Some(trace) => trace.most_bytes_in(delay),
        None => {
            let rate = link.spec.rate.or(BitRate::from_bps(UNSHAPED_BPS));
            rate.map_or(0, |rate| rate.bytes_in(delay))
        }
    };
    on_the_line.saturating_add(link.spec.queue.bytes())
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A dead thread has closed the channel and needs no waking; a full channel cannot be, as callers wait.
        if self.commands.try_send(Command::Stop).is_ok() && self.wake.write(1).is_err() {
            tracing::error!("the relay cannot be woken to stop");
            return;
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the relay panicked");
        }
    }
}
