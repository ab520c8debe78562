//! What the arbiter answers.

use super::Move;
use crate::ids::{HostId, MigrationId, VmId};
use serde::{Deserialize, Serialize};

/// Why an action was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such VM.
    #[error("{0} does not exist")]
    UnknownVm(VmId),
    /// No such host.
    #[error("{0} does not exist")]
    UnknownHost(HostId),
    /// The host has been lost.
    #[error("{0} is lost")]
    HostLost(HostId),
    /// The VM is lost or stranded.
    #[error("{0} is gone")]
    Gone(VmId),
    /// It is there already.
    #[error("{vm} is on {host} already")]
    SameHost {
        /// The VM.
        vm: VmId,
        /// The host.
        host: HostId,
    },
    /// One migration per VM.
    #[error("{vm} is being moved by {migration}")]
    AlreadyMigrating {
        /// The VM.
        vm: VmId,
        /// By which migration.
        migration: MigrationId,
    },
    /// Not enough RAM, counting what is on its way there.
    #[error("{vm} needs {needed_bytes} bytes of RAM; {host} has {free_bytes} left")]
    NoRam {
        /// The VM.
        vm: VmId,
        /// The destination.
        host: HostId,
        /// RAM of the VM.
        needed_bytes: u64,
        /// Not used and not reserved.
        free_bytes: u64,
    },
    /// Too many vCPUs for the host's overcommit limit, counting what is on its way there.
    #[error("{vm} has {vcpus} vCPUs; {host} admits {free} more")]
    NoVcpus {
        /// The VM.
        vm: VmId,
        /// The destination.
        host: HostId,
        /// vCPUs of the VM.
        vcpus: u32,
        /// Admitted, not used and not reserved.
        free: u64,
    },
    /// No such migration queued or running.
    #[error("{0} is neither queued nor running")]
    UnknownMigration(MigrationId),
}

/// What cancelling comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun: it has ended, the VM stays.
    Dequeued(Move),
    /// It runs: stop it, then report its end as usual.
    Stop(MigrationId),
}

/// How a migration ended, as far as placement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The destination owns the VM.
    Moved,
    /// The source owns it still.
    Stayed,
    /// Nobody does, or nobody can vouch for it.
    Gone,
}
