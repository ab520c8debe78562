//! Ports of VMs: a VM with an address of its own has a namespace of its own, which hangs on its host and moves with it.
//!
//! ```text
//! VM's namespace            its host's namespace
//!   10.96.0.n on lo   h1 ═══ v<n>  ── forwards ──  eth0 ══ the host's link ══ switch
//! ```
//!
//! A pair of devices leads from the VM's namespace to each host it has been on. Which one is used, and which host hands
//! frames to it, is a matter of routes, so that taking it off a host and putting it on another takes some 100 µs. The
//! network learns of a move by announcements alone: datagrams that cross the new host's link to its switch. Until a switch
//! has heard one it sends to the host the VM was on, where what arrives is lost.
//!
//! Inside: the edge (namespaces, devices, routes, two threads that act on time and on what switches hear). When things are
//! due is decided in `announce`. Never inside: whether the VM runs, what it says.

mod agenda;
mod announce;
mod host;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::agenda::{Agenda, Due};
pub use self::announce::Announce;
use self::announce::spread;
use self::host::{Cable, HostSide, OTHER_END};
use crate::backend::{Fabric, FabricError, Heard};
use crate::plan::{Scope, Step};
use crate::sys::clock::now_ns;
use crate::sys::netlink::{Netlink, PortRoute, Table};
use crate::sys::netns::{create_netns, with_netns};
use crate::sys::procfs;
use crate::topology::{ANNOUNCE_ADDRESS, ANNOUNCE_PORT, HostId, Place, SwitchId, vm_address};

/// Time to live of what a VM sends, by whether it has been attached an odd or an even number of times: so whoever gets an
/// answer can tell on which side of a move it was sent. Linux's default and twice that; switches take one each.
pub const HOP_LIMITS: [u8; 2] = [64, 128];

/// The ports of a fabric's VMs. Dropping it ends its threads; the namespaces go with their last descriptor.
#[derive(Debug)]
pub struct Ports {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    fabric: Arc<Fabric>,
    book: Mutex<Book>,
    agenda: Agenda,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Book {
    hosts: BTreeMap<HostId, HostSide>,
    ports: BTreeMap<u32, Port>,
}

#[derive(Debug)]
struct Port {
    address: Ipv4Addr,
    netns: OwnedFd,
    netlink: Netlink,
    /// What announcements are sent with.
    voice: UdpSocket,
    /// The ways to hosts.
    cables: BTreeMap<HostId, Cable>,
    host: HostId,
    attached: bool,
    /// How often it has been attached to another host.
    moves: u64,
    /// The host it was on, until the switch there has heard of the move.
    left: Option<HostId>,
}

/// How long the thread that listens waits before it looks whether it is to end.
const LISTEN_FOR: Duration = Duration::from_millis(100);
/// What an announcement carries: with its headers it weighs as much as QEMU's RARP frame, 60 bytes.
const WORDS: [u8; 18] = [0; 18];

impl Ports {
    /// No ports yet, on the hosts of a fabric.
    ///
    /// # Errors
    /// [`FabricError`] when a thread cannot be had.
    pub fn new(
        fabric: Arc<Fabric>,
        hosts: &BTreeMap<HostId, OwnedFd>,
    ) -> Result<Self, FabricError> {
        let mut sides = BTreeMap::new();
        for (&host, netns) in hosts {
            let netns = netns
                .try_clone()
                .map_err(|source| FabricError::Wait { source })?;
            sides.insert(host, HostSide::new(fabric.plan(), host, netns));
        }
        let shared = Arc::new(Shared {
            fabric,
            book: Mutex::new(Book {
                hosts: sides,
                ports: BTreeMap::new(),
            }),
            agenda: Agenda::default(),
            stop: AtomicBool::new(false),
        });
        let mut this = Self {
            shared,
            threads: Vec::new(),
        };
        for (name, run) in [
            ("announce", Shared::announce as fn(&Shared)),
            ("learn", Shared::learn),
        ] {
            let shared = Arc::clone(&this.shared);
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&shared))
                .map_err(|source| FabricError::Wait { source })?;
            this.threads.push(thread);
        }
        Ok(this)
    }

    /// Makes a VM's namespace and attaches it to a host; the whole network knows. Its namespace, for its process.
    ///
    /// # Errors
    /// [`FabricError`]; nothing of it is left.
    pub fn open(&self, vm: u32, host: HostId) -> Result<OwnedFd, FabricError> {
        let address = vm_address(vm).ok_or(FabricError::NoAddress { vm })?;
        let mut book = self.shared.book();
        let port = Port::new(self.shared.fabric.plan().steps(), (vm, address), host)?;
        let netns = port.netns.try_clone();
        let netns = netns.map_err(|source| FabricError::Port { vm, source })?;
        book.ports.insert(vm, port);
        book.cable(vm, host)?;
        book.attach(vm, host)?;
        self.shared.fabric.route(address, host)?;
        Ok(netns)
    }

    /// Whether a VM has a port.
    #[must_use]
    pub fn has(&self, vm: u32) -> bool {
        self.shared.book().ports.contains_key(&vm)
    }

    /// Lays the way from a VM's namespace to a host it may move to. Nothing is sent over it yet.
    ///
    /// # Errors
    /// [`FabricError`]; the port goes on as it was.
    pub fn prepare(&self, vm: u32, host: HostId) -> Result<(), FabricError> {
        self.shared.book().cable(vm, host)
    }

    /// The VM is paused on a host: nothing leaves it, and what arrives for it there is lost. News of a host it has left
    /// meanwhile changes nothing.
    ///
    /// # Errors
    /// [`FabricError`].
    pub fn detach(&self, vm: u32, host: HostId) -> Result<(), FabricError> {
        let mut book = self.shared.book();
        if book.port(vm)?.host == host {
            book.detach(vm)?;
        }
        Ok(())
    }

    /// A host has gone: the VMs that ran on it are off the network.
    ///
    /// # Errors
    /// [`FabricError`].
    pub fn host_gone(&self, host: HostId) -> Result<(), FabricError> {
        let mut book = self.shared.book();
        let here = book.ports.iter().filter(|(_, port)| port.host == host);
        for vm in here.map(|(&vm, _)| vm).collect::<Vec<_>>() {
            book.detach(vm)?;
        }
        Ok(())
    }

    /// The VM runs on a host: on another one than before, it says so as `announce` asks. On the same one nothing has
    /// changed for the network.
    ///
    /// # Errors
    /// [`FabricError`].
    pub fn attach(&self, vm: u32, host: HostId, announce: Announce) -> Result<(), FabricError> {
        let now = now_ns();
        let mut book = self.shared.book();
        book.cable(vm, host)?;
        if !book.attach(vm, host)? {
            return Ok(());
        }
        let moves = book.port(vm)?.moves;
        for after in announce.instants() {
            let due = Due::Announce { vm, moves };
            self.shared.agenda.at(now + nanoseconds(after), due);
        }
        Ok(())
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.agenda.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of VMs' ports panicked");
            }
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Every method leaves the book as the kernel is, or returns an error.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that acts when something is due.
    fn announce(&self) {
        while let Some(due) = self.agenda.next() {
            let done = match due {
                Due::Announce { vm, moves } => self.say(vm, moves),
                Due::Teach { vm, moves, switch } => self.teach(vm, moves, switch),
            };
            if let Err(error) = done {
                tracing::error!(%error, "a VM's move cannot be made known");
            }
        }
    }

    /// The thread that hears what switches hear.
    fn learn(&self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.fabric.heard(LISTEN_FOR) {
                Ok(Some(heard)) => self.heard(heard),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "announcements cannot be heard any more");
                    return;
                }
            }
        }
    }

    fn say(&self, vm: u32, moves: u64) -> Result<(), FabricError> {
        let book = self.book();
        let port = book.port(vm)?;
        if port.attached && port.moves == moves {
            let to = (ANNOUNCE_ADDRESS, ANNOUNCE_PORT);
            let said = port.voice.send_to(&WORDS, to);
            said.map_err(|source| FabricError::Port { vm, source })?;
        }
        Ok(())
    }

    /// A switch has heard an announcement, and those behind it will.
    fn heard(&self, Heard { address, switch }: Heard) {
        let now = now_ns();
        let book = self.book();
        let found = book.ports.iter().find(|(_, port)| port.address == address);
        let Some((&vm, port)) = found else { return };
        for (switch, after) in spread(self.fabric.plan().topology(), switch) {
            let moves = port.moves;
            let due = Due::Teach { vm, moves, switch };
            self.agenda.at(now + nanoseconds(after), due);
        }
    }

    fn teach(&self, vm: u32, moves: u64, switch: SwitchId) -> Result<(), FabricError> {
        let mut book = self.book();
        let port = book.port(vm)?;
        // Older news than what happened since is no news.
        if port.moves != moves {
            return Ok(());
        }
        let (address, host, left) = (port.address, port.host, port.left);
        self.fabric.teach(switch, address, host)?;
        let behind = |host| self.fabric.plan().topology().downlink(host).from;
        if let Some(left) = left.filter(|&left| behind(left) == Place::Switch(switch)) {
            book.hosts
                .get_mut(&left)
                .map_or(Ok(()), |side| side.forget(address))?;
            book.port_mut(vm)?.left = None;
        }
        Ok(())
    }
}

impl Book {
    fn port(&self, vm: u32) -> Result<&Port, FabricError> {
        self.ports.get(&vm).ok_or(FabricError::NoPort { vm })
    }

    fn port_mut(&mut self, vm: u32) -> Result<&mut Port, FabricError> {
        self.ports.get_mut(&vm).ok_or(FabricError::NoPort { vm })
    }

    fn host(&mut self, host: HostId) -> Result<&mut HostSide, FabricError> {
        self.hosts
            .get_mut(&host)
            .ok_or(FabricError::NoNamespace { host })
    }

    fn cable(&mut self, vm: u32, host: HostId) -> Result<(), FabricError> {
        let port = self.ports.get_mut(&vm).ok_or(FabricError::NoPort { vm })?;
        if port.cables.contains_key(&host) {
            return Ok(());
        }
        let side = self.hosts.get_mut(&host);
        let side = side.ok_or(FabricError::NoNamespace { host })?;
        let cable = side.cable(vm, port.netns.as_fd())?;
        port.cables.insert(host, cable);
        Ok(())
    }

    fn detach(&mut self, vm: u32) -> Result<(), FabricError> {
        let port = self.port_mut(vm)?;
        if !std::mem::replace(&mut port.attached, false) {
            return Ok(());
        }
        port.lead(None)?;
        let (address, host) = (port.address, port.host);
        self.host(host)?.hand(address, None)
    }

    /// True when the port has moved.
    fn attach(&mut self, vm: u32, host: HostId) -> Result<bool, FabricError> {
        self.detach(vm)?;
        let port = self.port_mut(vm)?;
        let (address, before) = (port.address, port.host);
        let cable = port.cables.get(&host).copied();
        self.host(host)?.hand(address, cable)?;
        let port = self.port_mut(vm)?;
        let moved = before != host;
        if moved {
            port.moves += 1;
            port.left = Some(before);
            port.host = host;
        }
        port.lead(Some(host))?;
        port.attached = true;
        Ok(moved)
    }
}

impl Port {
    fn new(
        steps: &[Step],
        (vm, address): (u32, Ipv4Addr),
        host: HostId,
    ) -> Result<Self, FabricError> {
        let netns = create_netns()?;
        // The guest's TCP is set as its host's.
        let settings = steps.iter().filter_map(|step| match step {
            Step::Sysctl { scope, key, value } if *scope == Scope::Host(host) => Some((key, value)),
            _ => None,
        });
        let settings: Vec<_> = settings.collect();
        let inside = || {
            for (key, value) in settings {
                // A kernel that lacks one lacks it for hosts too, where it is told.
                let _ = procfs::write_sysctl(key, value);
            }
            let mut netlink = Netlink::open()?;
            netlink.set_up("lo")?;
            netlink.add_address("lo", address, 32)?;
            let voice = UdpSocket::bind((address, 0));
            let voice = voice.map_err(|source| FabricError::Port { vm, source })?;
            Ok::<_, FabricError>((netlink, voice))
        };
        let (netlink, voice) = with_netns(netns.as_fd(), inside)??;
        Ok(Self {
            address,
            netns,
            netlink,
            voice,
            cables: BTreeMap::new(),
            host,
            attached: false,
            moves: 0,
            left: None,
        })
    }

    /// What the VM sends goes to a host, or nowhere.
    fn lead(&mut self, to: Option<HostId>) -> Result<(), FabricError> {
        let cable = to.and_then(|host| self.cables.get(&host));
        let side = usize::from(self.moves % 2 == 1);
        self.netlink.put_route(PortRoute {
            to: None,
            table: Table::Main,
            hop: cable.map(|cable| (cable.at_guest, OTHER_END)),
            hop_limit: cable.map(|_| u32::from(HOP_LIMITS[side])),
        })?;
        Ok(())
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
