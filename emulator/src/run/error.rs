//! What can end a run early.

use crate::balance::moves::Rejection;
use crate::control::channel::ControlError;
use crate::event::log::LogError;
use crate::results::ResultsError;
use crate::scenario::inputs::InputError;
use replay::clock::ClockError;

/// The machine lacks something (exit code 3).
#[derive(Debug, thiserror::Error)]
#[error("{message}\n  `migbed doctor` shows what this machine offers and how to get the rest")]
pub struct MissingCapability {
    /// What, with its remedy.
    pub message: String,
}

/// The command cannot be carried out as it was given (exit code 2).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// A run could not be carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Control plane.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Event log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Trace time: a bug of the driver.
    #[error("trace time: {0}")]
    Clock(#[from] ClockError),
    /// The arbiter of moves disagrees: a bug of the driver.
    #[error("moves: {0}")]
    Mover(Rejection),
    /// Files.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Files.
    #[error(transparent)]
    Inputs(#[from] InputError),
    /// A process or a signal handler.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Starting or ending the machine.
    #[error(transparent)]
    Process(#[from] anyhow::Error),
    /// The machine's process ended.
    #[error("the machine's process has gone; nothing of it is left running")]
    MachineGone,
    /// The machine gave up.
    #[error("{message}")]
    Machine {
        /// Why.
        message: String,
        /// Something is lacking.
        missing_capability: bool,
    },
    /// This computer does not carry the scenario.
    #[error("this machine does not carry the scenario: {0}")]
    Refused(String),
    /// Somebody does not answer.
    #[error("an agent or the machine has not answered for a minute")]
    Silent,
    /// Nothing is left to emulate.
    #[error("all hosts are lost")]
    AllHostsLost,
    /// A VM was refused where the scenario puts it.
    #[error("{vm} cannot be placed: {reason}")]
    Placement {
        /// Which.
        vm: String,
        /// Why.
        reason: String,
    },
}
