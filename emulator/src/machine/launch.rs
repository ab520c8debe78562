//! Starting a machine, from outside, and the launcher in between.

use crate::control::channel::{ControlError, Receiver, Sender, split};
use crate::control::message::{FromMachine, ToMachine};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// Hidden subcommand of the launcher.
pub const LAUNCHER: &str = "machine";
/// Hidden subcommand of PID 1.
pub const INIT: &str = "machine-init";

/// `migbed`'s end of a machine.
#[derive(Debug)]
pub struct Machine {
    launcher: Child,
    to: Sender<ToMachine>,
    from: Receiver<FromMachine>,
}

impl Machine {
    /// Starts a machine. Must be called from the main thread: the launcher dies with the thread
    /// that started it.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn launch() -> Result<Self> {
        let (ours, theirs) = StdUnixStream::pair().context("control socketpair")?;
        let launcher = own_command(LAUNCHER)?
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for migbed, which then ends the machine in order.
            .process_group(0)
            .spawn()
            .context("cannot start the machine process")?;
        let (to, from) = split(ours)?;
        Ok(Self { launcher, to, from })
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
        self.from.recv().await
    }

    /// Waits for the machine's processes to be gone; the PID namespace's init takes its agents
    /// with it before it is reaped itself.
    ///
    /// # Errors
    /// When the launcher cannot be waited for.
    pub fn wait(mut self) -> Result<()> {
        drop((self.to, self.from));
        self.launcher.wait().context("waiting for the machine process")?;
        Ok(())
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

/// The launcher: enters the namespaces while it is still single-threaded, starts PID 1 with the
/// control socket as its standard input, and waits for it.
///
/// # Errors
/// When the kernel refuses a namespace; the message names the remedy.
pub fn launcher_main() -> Result<ExitCode> {
    die_with_parent()?;
    netmodel::sys::netns::enter_machine().context("cannot enter the machine's namespaces")?;
    let mut init = own_command(INIT)?.spawn().context("cannot start the machine's init")?;
    let status = init.wait().context("waiting for the machine's init")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
