//! `--backend`, which several subcommands have.

use clap::ValueEnum;
use netmodel::backend::BackendKind;

/// What carries the network.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum BackendArg {
    /// The relay; where this machine cannot run it, what of the kernel can carry every link.
    Auto,
    /// User space: everything a link may ask, on every kernel.
    Relay,
    /// The kernel's HTB for rates, netem for delay, jitter and loss.
    Netem,
    /// The kernel's HTB: rates and queues, nothing else.
    Htb,
}

impl BackendArg {
    /// What it asks for; `None` is any that can.
    pub(super) fn kind(self) -> Option<BackendKind> {
        match self {
            Self::Auto => None,
            Self::Relay => Some(BackendKind::Relay),
            Self::Netem => Some(BackendKind::Netem),
            Self::Htb => Some(BackendKind::Htb),
        }
    }
}
