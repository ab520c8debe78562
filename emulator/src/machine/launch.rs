//! Starting a machine, from outside.

use crate::control::channel::{ControlError, Receiver, Sender, inherited, split};
use crate::control::message::{FromMachine, ToMachine};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use tokio::sync::mpsc;

/// Hidden subcommand of a machine.
pub const MACHINE: &str = "machine";

/// Messages that may wait for `migbed`: several answers of each of 10,000 VMs.
const INBOX: usize = 1 << 16;

/// `migbed`'s end of a machine.
#[derive(Debug)]
pub struct Machine {
    launcher: Child,
    to: Sender<ToMachine>,
    inbox: mpsc::Receiver<Result<FromMachine, ControlError>>,
}

impl Machine {
    /// Starts a machine. Must be called from the main thread: the launcher dies with the thread
    /// that started it.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn launch() -> Result<Self> {
        let (ours, theirs) = StdUnixStream::pair().context("control socketpair")?;
        let launcher = own_command(MACHINE)?
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for migbed, which then ends the machine in order.
            .process_group(0)
            .spawn()
            .context("cannot start the machine process")?;
        let (to, from) = split(ours)?;
        let (deliver, inbox) = mpsc::channel(INBOX);
        tokio::spawn(listen(from, deliver));
        Ok(Self {
            launcher,
            to,
            inbox,
        })
    }

    /// Process id of the launcher; killing it ends the machine and everything in it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.launcher.id()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the machine has gone.
    pub async fn send(&mut self, message: &ToMachine) -> Result<(), ControlError> {
        self.to.send(message).await
    }

    /// The next message; `None` when the machine has gone. Cancel-safe.
    ///
    /// # Errors
    /// When the machine sends what is not a message.
    pub async fn recv(&mut self) -> Result<Option<FromMachine>, ControlError> {
        self.inbox.recv().await.transpose()
    }

    /// Waits for the machine's processes to be gone; the PID namespace's init takes its agents
    /// with it before it is reaped itself.
    ///
    /// # Errors
    /// When the launcher cannot be waited for.
    pub fn wait(mut self) -> Result<()> {
        drop((self.to, self.inbox));
        self.launcher
            .wait()
            .context("waiting for the machine process")?;
        Ok(())
    }
}

/// Takes what the machine says off the socket at once: while `migbed` itself is writing, a machine
/// that cannot get rid of its answers would not read either.
async fn listen(
    mut from: Receiver<FromMachine>,
    deliver: mpsc::Sender<Result<FromMachine, ControlError>>,
) {
    while let Some(message) = from.recv().await.transpose() {
        let broken = message.is_err();
        if deliver.send(message).await.is_err() || broken {
            return;
        }
    }
}

/// This very program, started again.
pub(super) fn own_command(subcommand: &str) -> Result<Command> {
    // The link, not what it points to: it still works when the file has been replaced by a build.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("migbed").arg(subcommand);
    Ok(command)
}

/// Asks the kernel to end this process with its parent.
pub(super) fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")
}

/// The machine's process. It enters the namespaces while it is still single-threaded, which forks
/// it: the launcher only waits from then on, and its child is PID 1 of the new PID namespace.
///
/// # Errors
/// When it was not started by `migbed`, or the kernel refuses a namespace; the message names the
/// remedy.
pub fn machine_main() -> Result<ExitCode> {
    die_with_parent()?;
    let control = inherited().context("this subcommand is started by migbed itself")?;
    let entered = netmodel::sys::netns::enter_machine();
    // The wish to die with the parent is not inherited by a fork.
    die_with_parent()?;
    super::init::serve(control, entered)
}
