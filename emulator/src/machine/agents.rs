//! Starting agents and VMs' processes, each in a network namespace of its own, and talking to them.

use super::launch::own_command;
use crate::agent::cpu_socket;
use crate::control::channel::{Receiver, Sender, split};
use crate::control::message::{FromAgent, ToAgent};
use crate::ids::{HostId, VmId};
use anyhow::{Context, Result};
use netmodel::sys::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream as StdUnixStream};
use std::process::{Child, Stdio};
use tokio::sync::mpsc;

/// Hidden subcommand of an agent.
const AGENT: &str = "agent";
/// … and of a VM's process.
const VM: &str = "vm";

/// Messages of all agents together that may wait for the machine: several of each of 10,000 VMs.
const INBOX: usize = 1 << 16;

/// Whose process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    /// An emulated host's: its agent.
    Host(HostId),
    /// A VM's that has an address of its own.
    Vm(VmId),
}

/// What an agent says, or that it has gone.
#[derive(Debug)]
pub(super) enum AgentSays {
    Message(Box<FromAgent>),
    Gone,
}

/// One agent's process.
#[derive(Debug)]
struct Agent {
    child: Child,
    to: Sender<ToAgent>,
}

/// The agents of this machine.
#[derive(Debug)]
pub(super) struct Agents {
    by_party: BTreeMap<Party, Agent>,
    /// Hosts without power, whose process is stopped.
    dark: BTreeSet<HostId>,
    inbox: mpsc::Receiver<(Party, AgentSays)>,
    deliver: mpsc::Sender<(Party, AgentSays)>,
}

impl Agents {
    pub(super) fn new() -> Self {
        let (deliver, inbox) = mpsc::channel(INBOX);
        Self {
            by_party: BTreeMap::new(),
            dark: BTreeSet::new(),
            inbox,
            deliver,
        }
    }

    /// Starts the agent of a host; returns the descriptor that holds its network namespace.
    ///
    /// A short-lived thread makes the namespace and starts the process from within it, so the agent
    /// is born in its namespace and needs no privilege to enter one. Its standard output is the
    /// socket at which VMs' processes ask it for CPU time: by a name in the fabric's namespace, where
    /// nobody else is.
    pub(super) fn start(&mut self, host: HostId) -> Result<OwnedFd> {
        let listener = SocketAddr::from_abstract_name(cpu_socket(host))
            .and_then(|name| UnixListener::bind_addr(&name));
        let listener = listener.with_context(|| format!("CPU socket of host {}", host.0))?;
        let enter = || {
            netns::unshare_net().context("new network namespace")?;
            Ok(netns::current_netns()?)
        };
        self.bear(Party::Host(host), AGENT, listener.into(), enter)
    }

    /// Starts the process of a VM in the VM's namespace. Its standard output is the fabric's
    /// namespace, through which it finds the agents.
    pub(super) fn start_vm(&mut self, vm: VmId, namespace: OwnedFd) -> Result<()> {
        let fabric = netns::current_netns()?;
        let enter = || {
            netns::enter_netns(namespace.as_fd())?;
            Ok(namespace)
        };
        self.bear(Party::Vm(vm), VM, fabric, enter).map(drop)
    }

    /// Starts a process from a thread that has gone where it is to live.
    fn bear(
        &mut self,
        party: Party,
        subcommand: &'static str,
        beside: OwnedFd,
        enter: impl FnOnce() -> Result<OwnedFd> + Send + 'static,
    ) -> Result<OwnedFd> {
        let (ours, theirs) = StdUnixStream::pair().context("control socketpair")?;
        let born = std::thread::Builder::new()
            .name("born".to_owned())
            .spawn(move || -> Result<(OwnedFd, Child)> {
                let namespace = enter()?;
                let child = own_command(subcommand)?
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::from(beside))
                    .spawn()
                    .context("start its process")?;
                Ok((namespace, child))
            })?
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that starts processes panicked"))?;
        let (namespace, child) = born.with_context(|| format!("{party:?}"))?;
        let (to, from) = split(ours)?;
        tokio::spawn(listen(party, from, self.deliver.clone()));
        self.by_party.insert(party, Agent { child, to });
        Ok(namespace)
    }

    /// Sends to one agent. One that has gone is not an error here: its end is reported by `next`.
    pub(super) async fn send(&mut self, party: Party, message: &ToAgent) {
        if !matches!(party, Party::Host(host) if self.dark.contains(&host))
            && let Some(agent) = self.by_party.get_mut(&party)
            && let Err(error) = agent.to.send(message).await
        {
            tracing::debug!(?party, %error, "a process does not take messages");
        }
    }

    pub(super) async fn send_all(&mut self, message: &ToAgent) {
        let all: Vec<Party> = self.by_party.keys().copied().collect();
        for party in all {
            self.send(party, message).await;
        }
    }

    /// A host has no power any more: nothing of it runs from here on, and it hears nothing.
    pub(super) fn darken(&mut self, host: HostId) {
        if let Some(agent) = self.by_party.get(&Party::Host(host)) {
            signal(&agent.child, Signal::SIGSTOP);
            self.dark.insert(host);
        }
    }

    /// The process of a host without power goes; `next` tells of it.
    pub(super) fn kill_dark(&mut self, host: HostId) {
        if self.dark.contains(&host)
            && let Some(agent) = self.by_party.get(&Party::Host(host))
        {
            signal(&agent.child, Signal::SIGKILL);
        }
    }

    /// Hosts without power whose processes are still there.
    pub(super) fn dark(&self) -> Vec<HostId> {
        self.dark.iter().copied().collect()
    }

    /// What any agent says next. Cancel-safe.
    pub(super) async fn next(&mut self) -> (Party, AgentSays) {
        match self.inbox.recv().await {
            Some(said) => said,
            // `deliver` is ours, so the channel cannot be closed.
            None => std::future::pending().await,
        }
    }

    /// Reaps an agent that has gone.
    pub(super) fn reap(&mut self, party: Party) {
        if let Some(mut agent) = self.by_party.remove(&party) {
            // It may have closed its socket without ending; it owns nothing worth waiting for.
            let _ = agent.child.kill();
            if let Party::Host(host) = party {
                self.dark.remove(&host);
            }
            if let Err(error) = agent.child.wait() {
                tracing::warn!(?party, %error, "a process could not be reaped");
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_party.len()
    }
}

fn signal(child: &Child, signal: Signal) {
    // Process ids are positive 32-bit numbers; ours is not reaped before it is taken out of the map.
    let pid = Pid::from_raw(child.id().cast_signed());
    if let Err(error) = kill(pid, signal) {
        tracing::warn!(%error, %signal, "agent");
    }
}

async fn listen(
    party: Party,
    mut from: Receiver<FromAgent>,
    deliver: mpsc::Sender<(Party, AgentSays)>,
) {
    loop {
        let said = match from.recv().await {
            Ok(Some(message)) => AgentSays::Message(Box::new(message)),
            Ok(None) => AgentSays::Gone,
            Err(error) => {
                tracing::debug!(?party, %error, "control socket");
                AgentSays::Gone
            }
        };
        let last = matches!(said, AgentSays::Gone);
        if deliver.send((party, said)).await.is_err() || last {
            return;
        }
    }
}
