//! What a scenario has done to migrations under way: faults, and an operator's hand.
//!
//! Inside: values only, what is planned and what became of it. Never inside: doing it (`run/faults`
//! asks, the agents and the machine act).

use super::params::MigrationParams;
use super::record::{Owner, Phase};
use crate::ids::{HostId, MigrationId};
use crate::units::show_time;
use netmodel::schedule::Patch;
use netmodel::topology::LinkId;
use serde::{Deserialize, Serialize};

/// One thing to be done to one migration, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Which, by its number in the run: from 1, in the order in which moves are accepted.
    pub migration: MigrationId,
    /// When.
    pub when: When,
    /// What.
    pub action: Action,
}

/// The instant of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// As a phase begins: the thread that begins it is held until the fault is in effect.
    Phase(Phase),
    /// As a round of this number begins, the first being 0; held likewise.
    Round(u32),
    /// So long after the source was told to start.
    After {
        /// ns.
        ns: u64,
    },
    /// At an instant of trace time, if the migration is under way then.
    Trace {
        /// ns.
        ns: u64,
    },
}

impl When {
    /// In words, as records have it.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Phase(phase) => format!("phase {}", phase.name()),
            Self::Round(round) => format!("round {round}"),
            Self::After { ns } => format!("after {}", show_time(*ns)),
            Self::Trace { ns } => format!("at {}", show_time(*ns)),
        }
    }
}

/// An end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl End {
    /// As scenarios spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The hypervisor's process of one end dies: its guest with it, its connections reset.
    VmCrash {
        /// Which end's.
        of: End,
    },
    /// The host of one end loses power: nothing is heard of it any more, and later it is known to
    /// be dead.
    HostPowerLoss {
        /// Which end's.
        of: End,
        /// How long it is silent before it is known to be dead, ns.
        silence_ns: u64,
        /// After the silence it is known to be dead. Else nobody ever finds out: it is given up, and
        /// nobody can vouch for what it held.
        fenced: bool,
    },
    /// The manager forgets everything, hears nothing for a while, and recovers from the hosts.
    ControllerCrash {
        /// How long it hears nothing, ns.
        down_ns: u64,
    },
    /// Links carry nothing.
    LinkCut {
        /// Which; none: the source's own, both ways.
        links: Vec<LinkId>,
        /// Until so long after, ns; `None`: for good.
        restored_after_ns: Option<u64>,
    },
    /// Links are worse than they were.
    LinkChange {
        /// Which; none: the source's own, both ways.
        links: Vec<LinkId>,
        /// How.
        patch: Box<Patch>,
        /// Until so long after, ns; `None`: for good.
        restored_after_ns: Option<u64>,
    },
    /// The migration's connection is reset by one end's host.
    ConnectionReset {
        /// Which end's.
        of: End,
    },
    /// The destination refuses the guest.
    DestinationRefuses,
    /// `migrate_cancel`.
    Cancel,
    /// `migrate-set-parameters`.
    SetParameters(ParameterChange),
    /// `migrate-start-postcopy`.
    StartPostcopy,
}

impl Action {
    /// Its name in scenarios, events and records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::VmCrash { .. } => "vm-crash",
            Self::HostPowerLoss { .. } => "host-power-loss",
            Self::ControllerCrash { .. } => "controller-crash",
            Self::LinkCut { .. } => "link-cut",
            Self::LinkChange { .. } => "link-change",
            Self::ConnectionReset { .. } => "connection-reset",
            Self::DestinationRefuses => "destination-refuses",
            Self::Cancel => "cancel",
            Self::SetParameters(_) => "set-parameters",
            Self::StartPostcopy => "start-postcopy",
        }
    }

    /// Which end it strikes, if one.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        match self {
            Self::VmCrash { of }
            | Self::HostPowerLoss { of, .. }
            | Self::ConnectionReset { of } => Some(*of),
            Self::DestinationRefuses => Some(End::Destination),
            _ => None,
        }
    }
}

/// `migrate-set-parameters`: what is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ParameterChange {
    /// Bytes a second; 0 is unlimited.
    pub max_bandwidth: Option<u64>,
    /// ms.
    pub downtime_limit: Option<u64>,
    /// Bytes a second; 0: as measured.
    pub avail_switchover_bandwidth: Option<u64>,
    /// Percent.
    pub throttle_trigger_threshold: Option<u64>,
    /// Percent.
    pub cpu_throttle_initial: Option<u8>,
    /// Percent.
    pub cpu_throttle_increment: Option<u8>,
    /// Percent.
    pub max_cpu_throttle: Option<u8>,
    /// Smaller steps near the end.
    pub cpu_throttle_tailslow: Option<bool>,
}

impl ParameterChange {
    /// Parameters as they are after it.
    pub fn apply(&self, params: &mut MigrationParams) {
        fn set<T: Copy>(of: &mut T, to: Option<T>) {
            *of = to.unwrap_or(*of);
        }
        set(&mut params.max_bandwidth, self.max_bandwidth);
        set(&mut params.downtime_limit, self.downtime_limit);
        set(
            &mut params.avail_switchover_bandwidth,
            self.avail_switchover_bandwidth,
        );
        let converge = &mut params.auto_converge;
        set(
            &mut converge.throttle_trigger_threshold,
            self.throttle_trigger_threshold,
        );
        set(
            &mut converge.cpu_throttle_initial,
            self.cpu_throttle_initial,
        );
        set(
            &mut converge.cpu_throttle_increment,
            self.cpu_throttle_increment,
        );
        set(&mut converge.max_cpu_throttle, self.max_cpu_throttle);
        set(
            &mut converge.cpu_throttle_tailslow,
            self.cpu_throttle_tailslow,
        );
    }

    /// This, and then another.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            max_bandwidth: later.max_bandwidth.or(self.max_bandwidth),
            downtime_limit: later.downtime_limit.or(self.downtime_limit),
            avail_switchover_bandwidth: later
                .avail_switchover_bandwidth
                .or(self.avail_switchover_bandwidth),
            throttle_trigger_threshold: later
                .throttle_trigger_threshold
                .or(self.throttle_trigger_threshold),
            cpu_throttle_initial: later.cpu_throttle_initial.or(self.cpu_throttle_initial),
            cpu_throttle_increment: later.cpu_throttle_increment.or(self.cpu_throttle_increment),
            max_cpu_throttle: later.max_cpu_throttle.or(self.max_cpu_throttle),
            cpu_throttle_tailslow: later.cpu_throttle_tailslow.or(self.cpu_throttle_tailslow),
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A place in a migration at which a thread is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Number of the fault in the plan, from 0.
    pub fault: u32,
    /// Where.
    pub at: HoldAt,
}

/// Where a thread can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldAt {
    /// As a phase begins.
    Phase(Phase),
    /// As a round begins.
    Round(u32),
}

/// A fault that struck, as the record of its migration has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStruck {
    /// Number in the plan, from 1.
    pub fault: u32,
    /// [`Action::name`].
    pub action: String,
    /// What was asked: `phase rounds`, `round 2`, `after 200ms`, `at 12s`.
    pub when: String,
    /// The host it struck, if one.
    pub host: Option<HostId>,
    /// When it was in effect, monotonic ns.
    pub at_ns: u64,
    /// How long the thread that met it was held for it, ns; `None`: nobody was.
    pub held_ns: Option<u64>,
    /// Who owned the guest then, as far as the manager had been told.
    pub owner: Owner,
}
