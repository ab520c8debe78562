//! What makes a plan real and carries packets.
//!
//! `Fabric` executes the plan's steps over netlink and owns the backend: the relay, or qdiscs of the kernel behind the
//! same trait.

mod build;
mod kernel;
mod kind;
mod relay;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::kernel::Kernel;
pub use self::kind::{BackendKind, CannotCarry, Property, UnknownBackend};
use self::relay::Relay;
pub use self::relay::RelayError;
/// The relay without I/O, for what counts its instructions.
#[doc(hidden)]
pub use self::relay::{Core, Fate, Outcome, Parcel, To};
use crate::counters::{Counters, Sample};
use crate::link::LinkSpec;
use crate::plan::{HOST_DEVICE, Plan, Scope};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::netns::NetnsError;
use crate::sys::procfs;
use crate::topology::{HostId, LinkId, SwitchId};

/// Why a fabric cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// A host of the plan has no namespace.
    #[error("{host} is in the plan but has no network namespace")]
    NoNamespace {
        /// The host.
        host: HostId,
    },
    /// The plan has no such link.
    #[error("there is no {link} in this fabric")]
    NoLink {
        /// The link.
        link: LinkId,
    },
    /// The backend cannot do what a link asks.
    #[error(transparent)]
    CannotCarry(#[from] CannotCarry),
    /// The kernel did not make of a qdisc, class or filter what was asked.
    #[error("{device}: `{object}`: asked for {field} {asked}, the kernel has {}", got.map_or("none".to_owned(), |got| got.to_string()))]
    ReadBack {
        /// The device.
        device: String,
        /// What was asked, as the plan prints it.
        object: String,
        /// The parameter that differs.
        field: String,
        /// Its value.
        asked: u64,
        /// What is there.
        got: Option<u64>,
    },
    /// A qdisc, class or filter is not there after it was made.
    #[error("{device}: `{object}` is not there after it was made")]
    NotThere {
        /// The device.
        device: String,
        /// What was asked, as the plan prints it.
        object: String,
    },
    /// netem draws loss and jitter per frame, and hosts send super-frames.
    #[error(
        "link {link} cannot get loss or jitter now: hosts send super-frames, and netem would treat each as one packet;          lay the plan out with `Plan::foreseeing`"
    )]
    SuperFrames {
        /// The link.
        link: String,
    },
    /// A VM has no port.
    #[error("VM {vm} has no port in this network")]
    NoPort {
        /// Its number.
        vm: u32,
    },
    /// There is no such address.
    #[error("VM {vm} can have no address of its own: the plan's addresses end before")]
    NoAddress {
        /// Its number.
        vm: u32,
    },
    /// A host's link leads to another host.
    #[error("{host} hangs on no switch: nothing there could learn where an address has moved to")]
    NoSwitch {
        /// The host.
        host: HostId,
    },
    /// A port is laid but cannot send.
    #[error("the port of VM {vm} at {host} cannot send after {waited:?}")]
    PortNotReady {
        /// The VM's number.
        vm: u32,
        /// The host.
        host: HostId,
        /// How long we waited.
        waited: Duration,
    },
    /// A socket or thread of a port cannot be had.
    #[error("port of VM {vm}: {source}")]
    Port {
        /// The VM's number.
        vm: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A step of the plan failed.
    #[error("step `{step}`: {source}")]
    Step {
        /// The step, as the plan prints it.
        step: String,
        /// Why.
        source: NetlinkError,
    },
    /// Device counters cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A device does not become ready to send.
    #[error("device {device} of {switch} is up but cannot send after {waited:?}")]
    NotReady {
        /// The device.
        device: String,
        /// Where it is.
        switch: SwitchId,
        /// How long we waited.
        waited: Duration,
    },
    /// The kernel has no timer to wait with.
    #[error("cannot wait: {source}")]
    Wait {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The relay failed.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// What became of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlOutcome {
    /// In which namespace.
    pub scope: Scope,
    /// Path below /proc/sys.
    pub key: String,
    /// What was asked for.
    pub asked: String,
    /// What the kernel has now, or why it could not be set.
    pub got: Result<String, String>,
}

/// A switch heard an announcement: an address is behind the port that it came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Whose.
    pub address: Ipv4Addr,
    /// Which switch.
    pub switch: SwitchId,
}

/// What carries packets over the links of a plan. Dropping it ends it.
trait Backend: std::fmt::Debug + Send + Sync {
    /// Its counters of links, ports and of itself now; the devices' are added by [`Fabric`].
    fn counters(&self) -> Result<Counters, FabricError>;

    /// Counters of a few links now, cheaply.
    fn sample(&self, links: &[LinkId]) -> Result<Sample, FabricError> {
        let counters = self.counters()?;
        let of = |link| counters.links.get(link).copied().unwrap_or_default();
        Ok(Sample {
            at_ns: counters.at_ns,
            links: links.iter().map(of).collect(),
        })
    }

    /// Changes a link in place; what is on it stays.
    fn change(&self, link: LinkId, spec: LinkSpec) -> Result<(), FabricError>;

    /// Sends what is addressed to `address` to a host, or nowhere, from now on.
    fn route(&self, address: Ipv4Addr, host: Option<HostId>) -> Result<(), FabricError>;

    /// One switch sends what is addressed to `address` to a host, or nowhere, from now on.
    fn teach(
        &self,
        switch: SwitchId,
        address: Ipv4Addr,
        host: Option<HostId>,
    ) -> Result<(), FabricError>;

    /// What a switch hears next of addresses that have moved; nothing, if that takes longer than `patience`.
    fn heard(&self, patience: Duration) -> Result<Option<Heard>, FabricError>;

    /// Delivery traces begin at this instant of the monotonic clock; nothing to do for a backend without any.
    fn align(&self, _origin_ns: i64) -> Result<(), FabricError> {
        Ok(())
    }

    /// Waits until nothing waits, is serialised or on its way; false when that took longer than `patience`.
    fn drained(&self, patience: Duration) -> Result<bool, FabricError>;
}

/// A network that runs: devices, settings and the relay between them. Its namespaces hold everything, so that nothing
/// is left when the descriptors are closed.
#[derive(Debug)]
pub struct Fabric {
    plan: Plan,
    backend: Box<dyn Backend>,
    sysctls: Vec<SysctlOutcome>,
    netlink: Mutex<Netlink>,
    /// Sockets in the namespaces of hosts whose card is their port.
    cards: Mutex<BTreeMap<HostId, Netlink>>,
    backlog_drops_before: Option<u64>,
}

impl Fabric {
    /// Builds a plan from the calling thread's namespace, which becomes the fabric's, and starts carrying packets.
    ///
    /// # Errors
    /// [`FabricError`]; devices made so far stay until their namespaces go.
    pub fn build(plan: &Plan, hosts: &BTreeMap<HostId, OwnedFd>) -> Result<Self, FabricError> {
        plan.backend().check_all(plan.topology())?;
        let plan = &build::with_ports_of_here(plan);
        let mut netlink = Netlink::open()?;
        let mut built = build::Namespaces::new(plan, hosts)?;
        let build::Made {
            sysctls,
            tuns,
            cards,
        } = built.execute(plan, &mut netlink)?;
        let backend: Box<dyn Backend> = match plan.backend() {
            BackendKind::Relay => Box::new(Relay::start(plan, tuns)?),
            BackendKind::Netem | BackendKind::Htb => {
                Box::new(Kernel::start(plan, built.into_switches())?)
            }
        };
        let backlog_drops_before = procfs::backlog_drops();
        Ok(Self {
            plan: plan.clone(),
            backend,
            sysctls,
            netlink: Mutex::new(netlink),
            cards: Mutex::new(cards),
            backlog_drops_before,
        })
    }

    /// What was built, its ports settled.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every setting asked for, and what became of it.
    #[must_use]
    pub fn sysctls(&self) -> &[SysctlOutcome] {
        &self.sysctls
    }

    /// All counters now.
    ///
    /// # Errors
    /// [`FabricError`] when the relay or the kernel does not answer.
    pub fn counters(&self) -> Result<Counters, FabricError> {
        let mut counters = self.backend.counters()?;
        if !self.plan.backend().is_kernel() {
            // A panic elsewhere leaves the socket usable: every exchange has its own sequence number.
            let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
            let drops = netlink.device_drops()?;
            for pair in self.plan.pairs() {
                let dropped = drops.get(&pair.port).copied().unwrap_or(0);
                counters.ports.entry(pair.host).or_default().device_drops = dropped;
            }
        }
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        for (&host, netlink) in cards.iter_mut() {
            let dropped = netlink.device_drops()?.get(HOST_DEVICE).copied();
            counters.ports.entry(host).or_default().device_drops = dropped.unwrap_or(0);
        }
        let before = self.backlog_drops_before;
        counters.relay.backlog_drops = procfs::backlog_drops()
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before));
        counters.relay.computer = procfs::computer_time();
        Ok(counters)
    }

    /// Counters of a few links now; cheap enough to be taken every 10 ms.
    ///
    /// # Errors
    /// [`FabricError`] when the backend does not answer.
    pub fn sample(&self, links: &[LinkId]) -> Result<Sample, FabricError> {
        self.backend.sample(links)
    }

    /// Changes a link in place; what is on it stays.
    ///
    /// # Errors
    /// [`FabricError::NoLink`] or the relay's.
    pub fn set_link(&self, link: LinkId, spec: LinkSpec) -> Result<(), FabricError> {
        if self.plan.topology().links().get(link.0 as usize).is_none() {
            return Err(FabricError::NoLink { link });
        }
        self.backend.change(link, spec)
    }

    /// Says which instant of the monotonic clock is trace time 0, where packet-delivery traces begin. It may lie before
    /// the computer was started (a jump in trace time) or ahead; traces go round and round in either direction. Until this
    /// is called they begin with the fabric. What waits is re-timed in place.
    ///
    /// # Errors
    /// The backend's.
    pub fn align(&self, origin_ns: i64) -> Result<(), FabricError> {
        self.backend.align(origin_ns)
    }

    /// Sends what is addressed to `address` to `host` from now on: how a VM's address moves.
    ///
    /// # Errors
    /// [`FabricError::NoNamespace`] for a host the plan does not have, or the relay's.
    pub fn route(&self, address: Ipv4Addr, host: HostId) -> Result<(), FabricError> {
        if host.0 as usize >= self.plan.topology().host_count() {
            return Err(FabricError::NoNamespace { host });
        }
        self.backend.route(address, Some(host))
    }

    /// Sends what is addressed to `address` to `host` from now on, as far as one switch is concerned: it has heard where
    /// the address is.
    ///
    /// # Errors
    /// [`FabricError::NoNamespace`] for a host the plan does not have, or the backend's.
    pub fn teach(
        &self,
        switch: SwitchId,
        address: Ipv4Addr,
        host: HostId,
    ) -> Result<(), FabricError> {
        if host.0 as usize >= self.plan.topology().host_count() {
            return Err(FabricError::NoNamespace { host });
        }
        self.backend.teach(switch, address, Some(host))
    }

    /// What a switch hears next of addresses that have moved: a datagram to [`crate::topology::ANNOUNCE_ADDRESS`] that
    /// crossed a host's link to it. Nothing, if that takes longer than `patience`. For one thread.
    ///
    /// # Errors
    /// The backend's.
    pub fn heard(&self, patience: Duration) -> Result<Option<Heard>, FabricError> {
        self.backend.heard(patience)
    }

    /// Forgets an address.
    ///
    /// # Errors
    /// The relay's.
    pub fn unroute(&self, address: Ipv4Addr) -> Result<(), FabricError> {
        self.backend.route(address, None)
    }

    /// Waits until no packet waits, is serialised or on its way; false when that took longer than `patience`.
    ///
    /// # Errors
    /// The relay's.
    pub fn drained(&self, patience: Duration) -> Result<bool, FabricError> {
        self.backend.drained(patience)
    }
}
