//! CPU time for VMs that have a process of their own: it asks the agent of the host the VM runs on.
//!
//! ```text
//! VM's process: a thread a connection ── 12 bytes: VM, ns ──► agent: a thread each ── replay::Host
//!                                     ◄── 1 byte: served, or the VM is not here ──
//! ```
//!
//! The sockets have names in the fabric's network namespace, where nothing else is. When the VM moves
//! its process lets go of the old agent and asks the new one, from the beginning, for what was not
//! served. Never inside: what the work is for, when the VM moves.

use super::runtime::Runtime;
use super::service::{THREAD_STACK, Work};
use crate::ids::{HostId, VmId};
use anyhow::{Context, Result};
use netmodel::sys::netns::with_netns;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

const SERVED: u8 = 1;
/// What an agent answers when the VM is not there, or has left meanwhile.
const GONE: u8 = 0;
/// An agent that cannot be asked is tried again so soon while nobody says where the VM is now.
const RETRY: Duration = Duration::from_millis(5);

/// The name of an agent's socket.
#[must_use]
pub fn cpu_socket(host: HostId) -> String {
    format!("migbed-cpu-{}", host.0)
}

/// What a process was given as its standard output: never written to, but handed down.
pub(super) fn beside() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

/// The agent's end: serves until the process ends.
pub(super) fn serve_vms(runtime: &Arc<Runtime>) -> Result<()> {
    let listener = UnixListener::from(beside()?);
    let runtime = Arc::clone(runtime);
    let accept = move || {
        while let Ok((stream, _)) = listener.accept() {
            let runtime = Arc::clone(&runtime);
            let thread = std::thread::Builder::new()
                .name("cpu".to_owned())
                .stack_size(THREAD_STACK)
                // Its end is the VM's process hanging up.
                .spawn(move || drop(serve(stream, &runtime)));
            if let Err(error) = thread {
                tracing::error!(%error, "no thread to serve a VM's work");
            }
        }
    };
    std::thread::Builder::new()
        .name("cpu-accept".to_owned())
        .stack_size(THREAD_STACK)
        .spawn(accept)
        .context("a thread for VMs' work")?;
    Ok(())
}

fn serve(mut stream: UnixStream, runtime: &Runtime) -> io::Result<()> {
    let never = AtomicBool::new(false);
    loop {
        let mut asked = [0; 12];
        stream.read_exact(&mut asked)?;
        let [a, b, c, d, cpu @ ..] = asked;
        let vm = VmId(u32::from_be_bytes([a, b, c, d]));
        let served = runtime.serve(vm, u64::from_be_bytes(cpu), &never);
        stream.write_all(&[if served { SERVED } else { GONE }])?;
    }
}

/// The VM's end: where it runs, and the connections over which its work is asked for.
#[derive(Debug)]
pub(super) struct Cpu {
    vm: VmId,
    /// The namespace that agents' sockets have their names in.
    fabric: OwnedFd,
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Debug)]
struct Place {
    /// Where it runs; `None` while it is paused.
    runs: Option<HostId>,
    /// Where it ran last.
    last: HostId,
    /// Goes up with every change.
    epoch: u64,
    /// To be let go of when it moves.
    asking: Vec<Weak<UnixStream>>,
}

/// A connection to an agent.
type Line = Option<(HostId, Arc<UnixStream>)>;

impl Cpu {
    pub(super) fn new(vm: VmId, host: HostId, fabric: OwnedFd) -> Self {
        Self {
            vm,
            fabric,
            place: Mutex::new(Place {
                runs: Some(host),
                last: host,
                epoch: 0,
                asking: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM runs on a host from now on, or is paused.
    pub(super) fn runs_on(&self, host: Option<HostId>) {
        let mut place = self.lock();
        place.runs = host;
        place.epoch += 1;
        if let Some(host) = host.filter(|&host| host != place.last) {
            place.last = host;
            for line in place.asking.drain(..).filter_map(|line| line.upgrade()) {
                // Whoever waits there asks again, here. One that has gone needs no shutdown.
                let _ = line.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Whether the VM is not paused.
    pub(super) fn runs(&self) -> bool {
        self.lock().runs.is_some()
    }

    /// A way for one thread to have work done.
    pub(super) fn work(self: &Arc<Self>) -> Work {
        let (this, mut line) = (Arc::clone(self), Line::None);
        Box::new(move |cpu_ns| {
            this.serve(cpu_ns, &mut line);
            true
        })
    }

    /// Waits until the VM has had so much CPU time.
    fn serve(&self, cpu_ns: u64, line: &mut Line) {
        loop {
            let (host, epoch) = self.wait_until_it_runs();
            if self.ask(host, cpu_ns, line).is_ok_and(|served| served) {
                return;
            }
            *line = None;
            let here = |place: &mut Place| place.epoch == epoch;
            let waited = self.changed.wait_timeout_while(self.lock(), RETRY, here);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn wait_until_it_runs(&self) -> (HostId, u64) {
        let mut place = self.lock();
        loop {
            if let Some(host) = place.runs {
                return (host, place.epoch);
            }
            let waited = self.changed.wait(place);
            place = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ask(&self, host: HostId, cpu_ns: u64, line: &mut Line) -> io::Result<bool> {
        let stream = match line {
            Some((at, stream)) if *at == host => Arc::clone(stream),
            _ => {
                let stream = Arc::new(self.connect(host)?);
                let mut place = self.lock();
                place.asking.retain(|line| line.strong_count() > 0);
                place.asking.push(Arc::downgrade(&stream));
                *line = Some((host, Arc::clone(&stream)));
                stream
            }
        };
        let mut asked = [0; 12];
        asked[..4].copy_from_slice(&self.vm.0.to_be_bytes());
        asked[4..].copy_from_slice(&cpu_ns.to_be_bytes());
        (&*stream).write_all(&asked)?;
        let mut answer = [0];
        (&*stream).read_exact(&mut answer)?;
        Ok(answer == [SERVED])
    }

    fn connect(&self, host: HostId) -> io::Result<UnixStream> {
        let name = SocketAddr::from_abstract_name(cpu_socket(host))?;
        with_netns(self.fabric.as_fd(), || UnixStream::connect_addr(&name))
            .map_err(io::Error::other)?
    }
}
