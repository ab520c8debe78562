//! What an audit can find, and how it is said to people. Nothing here judges.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::topology::{HostId, LinkId, SwitchId};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Read it before trusting the numbers.
    Warning,
    /// The run is invalid.
    Error,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Finding {
    /// received ≠ sent + dropped + lost + held.
    NotConserved {
        /// The link.
        link: LinkId,
        /// Wire bytes received.
        received_bytes: u64,
        /// Wire bytes sent, dropped, lost and held.
        accounted_bytes: u64,
    },
    /// A switch did not hand on what it got, or its devices lost it.
    NotForwarded {
        /// The switch.
        switch: SwitchId,
        /// Frames that entered.
        entered: u64,
        /// Frames that were offered to its links.
        left: u64,
        /// Frames its devices dropped.
        device: u64,
    },
    /// Packets were still on a link that should be empty.
    NotDrained {
        /// The link.
        link: LinkId,
        /// How many.
        packets: u64,
    },
    /// Frames of a host that were lost outside the emulated queues.
    UnaccountedDrops {
        /// The host.
        host: HostId,
        /// Lost before the relay read them.
        socket: u64,
        /// Lost in the device.
        device: u64,
        /// Not taken back by the kernel.
        write_refused: u64,
    },
    /// Frames lost in the kernel's receive backlog, this computer over.
    BacklogDrops {
        /// How many.
        packets: u64,
    },
    /// The relay ran out of slots.
    NoRoom {
        /// Frames given up.
        packets: u64,
    },
    /// Frames that are no traffic of the emulation.
    Stray {
        /// The host that sent them.
        host: HostId,
        /// Not IPv4, malformed or without a route.
        packets: u64,
    },
    /// The relay acted late.
    Late {
        /// 99th percentile of lateness.
        p99_ns: u64,
        /// What is allowed.
        limit_ns: u64,
    },
    /// The relay waited for a CPU.
    RunDelay {
        /// Waiting per mille of the span.
        per_mille: u64,
        /// What is allowed.
        limit_per_mille: u64,
    },
    /// The hypervisor took CPUs from this computer while they had something to do.
    Steal {
        /// Stolen per mille of the time of all CPUs.
        per_mille: u64,
        /// What is allowed.
        limit_per_mille: u64,
    },
    /// Something on this computer waited for a CPU.
    Pressure {
        /// Per mille of the span in which somebody waited.
        per_mille: u64,
        /// What is allowed.
        limit_per_mille: u64,
    },
    /// A link delivered another rate than it promised: it was changed, or its backend did not keep up.
    OffRate {
        /// The link.
        link: LinkId,
        /// Size of the windows.
        window_ms: u64,
        /// Error that 5 % of the windows exceed, per mille of the rate.
        per_mille: u64,
        /// What is allowed.
        limit_per_mille: u64,
    },
}

/// A finding with its weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    #[serde(flatten)]
    pub finding: Finding,
}

impl fmt::Display for Finding {
    #[expect(
        clippy::too_many_lines,
        reason = "one sentence a finding, nothing else"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConserved {
                link,
                received_bytes,
                accounted_bytes,
            } => {
                write!(
                    f,
                    "{link} received {received_bytes} bytes and accounts for {accounted_bytes}"
                )
            }
            Self::NotForwarded {
                switch,
                entered,
                left,
                device,
            } => write!(
                f,
                "{switch} got {entered} frames and handed on {left}; its devices dropped {device}"
            ),
            Self::NotDrained { link, packets } => write!(f, "{link} still holds {packets} packets"),
            Self::UnaccountedDrops {
                host,
                socket,
                device,
                write_refused,
            } => write!(
                f,
                "frames of {host} lost outside the emulated queues: {socket} unread, {device} in the device, \
                 {write_refused} refused"
            ),
            Self::BacklogDrops { packets } => {
                write!(
                    f,
                    "the kernel's receive backlog dropped {packets} packets on this computer"
                )
            }
            Self::NoRoom { packets } => write!(f, "the relay had no room for {packets} frames"),
            Self::Stray { host, packets } => {
                write!(f, "{host} sent {packets} frames that have nowhere to go")
            }
            Self::Late { p99_ns, limit_ns } => write!(
                f,
                "1 % of packets left at least {} µs late ({} µs allowed)",
                p99_ns / 1000,
                limit_ns / 1000
            ),
            Self::RunDelay {
                per_mille,
                limit_per_mille,
            } => write!(
                f,
                "the relay waited for a CPU {per_mille} ‰ of the time ({limit_per_mille} ‰ allowed)"
            ),
            Self::Steal {
                per_mille,
                limit_per_mille,
            } => write!(
                f,
                "the hypervisor took {per_mille} ‰ of this computer's CPUs ({limit_per_mille} ‰ allowed)"
            ),
            Self::Pressure {
                per_mille,
                limit_per_mille,
            } => write!(
                f,
                "something on this computer waited for a CPU {per_mille} ‰ of the time ({limit_per_mille} ‰ allowed)"
            ),
            Self::OffRate {
                link,
                window_ms,
                per_mille,
                limit_per_mille,
            } => write!(
                f,
                "{link} was {per_mille} ‰ off its rate in 5 % of the windows of {window_ms} ms \
                 ({limit_per_mille} ‰ allowed)"
            ),
        }
    }
}
