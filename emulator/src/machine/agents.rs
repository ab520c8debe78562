//! Starting agents, each in a network namespace of its own, and talking to them.

use super::launch::own_command;
use crate::control::channel::{Receiver, Sender, split};
use crate::control::message::{FromAgent, ToAgent};
use crate::ids::HostId;
use anyhow::{Context, Result};
use netmodel::sys::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Child, Stdio};
use tokio::sync::mpsc;

/// Hidden subcommand of an agent.
pub(super) const AGENT: &str = "agent";

/// Messages of all agents together that may wait for the machine: several of each of 10,000 VMs.
const INBOX: usize = 1 << 16;

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
    by_host: BTreeMap<HostId, Agent>,
    /// Hosts without power, whose process is stopped.
    dark: BTreeSet<HostId>,
    inbox: mpsc::Receiver<(HostId, AgentSays)>,
    deliver: mpsc::Sender<(HostId, AgentSays)>,
}

impl Agents {
    pub(super) fn new() -> Self {
        let (deliver, inbox) = mpsc::channel(INBOX);
        Self {
            by_host: BTreeMap::new(),
            dark: BTreeSet::new(),
            inbox,
            deliver,
        }
    }

    /// Starts the agent of a host; returns the descriptor that holds its network namespace.
    ///
    /// A short-lived thread makes the namespace and starts the process from within it, so the agent
    /// is born in its namespace and needs no privilege to enter it.
    pub(super) fn start(&mut self, host: HostId) -> Result<OwnedFd> {
        let (ours, theirs) = StdUnixStream::pair().context("control socketpair")?;
        let born = std::thread::Builder::new()
            .name(format!("born-{}", host.0))
            .spawn(move || -> Result<(OwnedFd, Child)> {
                netns::unshare_net().context("new network namespace")?;
                let namespace = netns::current_netns()?;
                let child = own_command(AGENT)?
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::null())
                    .spawn()
                    .context("start agent")?;
                Ok((namespace, child))
            })?
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that starts agents panicked"))?;
        let (namespace, child) = born.with_context(|| format!("host {}", host.0))?;
        let (to, from) = split(ours)?;
        tokio::spawn(listen(host, from, self.deliver.clone()));
        self.by_host.insert(host, Agent { child, to });
        Ok(namespace)
    }

    /// Sends to one agent. One that has gone is not an error here: its end is reported by `next`.
    pub(super) async fn send(&mut self, host: HostId, message: &ToAgent) {
        if !self.dark.contains(&host)
            && let Some(agent) = self.by_host.get_mut(&host)
            && let Err(error) = agent.to.send(message).await
        {
            tracing::debug!(host = host.0, %error, "agent does not take messages");
        }
    }

    pub(super) async fn send_all(&mut self, message: &ToAgent) {
        let hosts: Vec<HostId> = self.by_host.keys().copied().collect();
        for host in hosts {
            self.send(host, message).await;
        }
    }

    /// A host has no power any more: nothing of it runs from here on, and it hears nothing.
    pub(super) fn darken(&mut self, host: HostId) {
        if let Some(agent) = self.by_host.get(&host) {
            signal(&agent.child, Signal::SIGSTOP);
            self.dark.insert(host);
        }
    }

    /// The process of a host without power goes; `next` tells of it.
    pub(super) fn kill_dark(&mut self, host: HostId) {
        if self.dark.contains(&host)
            && let Some(agent) = self.by_host.get(&host)
        {
            signal(&agent.child, Signal::SIGKILL);
        }
    }

    /// Hosts without power whose processes are still there.
    pub(super) fn dark(&self) -> Vec<HostId> {
        self.dark.iter().copied().collect()
    }

    /// What any agent says next. Cancel-safe.
    pub(super) async fn next(&mut self) -> (HostId, AgentSays) {
        match self.inbox.recv().await {
            Some(said) => said,
            // `deliver` is ours, so the channel cannot be closed.
            None => std::future::pending().await,
        }
    }

    /// Reaps an agent that has gone.
    pub(super) fn reap(&mut self, host: HostId) {
        if let Some(mut agent) = self.by_host.remove(&host) {
            // It may have closed its socket without ending; it owns nothing worth waiting for.
            let _ = agent.child.kill();
            self.dark.remove(&host);
            if let Err(error) = agent.child.wait() {
                tracing::warn!(host = host.0, %error, "agent could not be reaped");
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_host.len()
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
    host: HostId,
    mut from: Receiver<FromAgent>,
    deliver: mpsc::Sender<(HostId, AgentSays)>,
) {
    loop {
        let said = match from.recv().await {
            Ok(Some(message)) => AgentSays::Message(Box::new(message)),
            Ok(None) => AgentSays::Gone,
            Err(error) => {
                tracing::debug!(host = host.0, %error, "agent's control socket");
                AgentSays::Gone
            }
        };
        let last = matches!(said, AgentSays::Gone);
        if deliver.send((host, said)).await.is_err() || last {
            return;
        }
    }
}
