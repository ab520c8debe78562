//! Who may run the guest. Two small state machines and the gate that makes the commit atomic.
//!
//! ```text
//! source:       Running ─pause─► Paused ─last byte─► Waiting ─acknowledged─► Released
//!                  ▲               │ failed             │ refused     ▲
//!                  ├───────────────┘                    │             │ resolved: committed
//!                  ├────────────────────────────────────┤ failed      │
//!                  │                                    └─► Undecided ┘
//!                  └──────────── resolved: not committed ───────┘
//!
//! post-copy:    Paused ─package─► Handed ─started─► Serving ─acknowledged─► Released
//!                                 │   │               │  ▲
//!            Running ◄─ refused ──┘   │ failed        │  │ started: a new connection
//!               ▲                     ▼        failed ▼  │
//!               └ resolved: not ─ Doubtful ─started─► Interrupted ─ resolved ─► Released
//!                    committed
//!
//! destination:  Loading ─commit─► Committed        (irrevocable; the guest runs here)
//!                  └────abandon─► Abandoned        (irrevocable; it never will)
//! ```
//!
//! The source may resume on its own while the destination cannot have the whole stream: until its
//! last byte is written. From then on only a word of the destination decides: SHUT on the return
//! path, or, when the connection broke, what the control plane learns from the destination's
//! [`CommitGate`] or from its commit record. The record is written before the guest runs, so a
//! destination that died without one never ran it.
//!
//! In post-copy the last byte is that of the package, which holds RUN: from then on the guest may run
//! at the destination, without most of its pages, and the source serves them. QEMU until 10.1 never
//! resumes a guest whose package is on the socket; since 10.2 it does, until the destination has
//! acknowledged it (`postcopy-device`). So do we, since the gate makes it safe: Handed. Once the destination has
//! said that it runs, the source's copy is of no use but to be pulled, and needed until the destination
//! has said that it lacks nothing: only Released may drop it.
//!
//! Never inside: I/O, clocks.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
mod pull_tests;
#[cfg(test)]
mod tests;

/// The source's claim to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceSide {
    /// The guest runs here.
    Running,
    /// Paused; the destination lacks bytes, so it cannot commit.
    Paused,
    /// The last byte is written; the destination's word decides.
    Waiting,
    /// Its word did not come. The guest stays paused.
    Undecided,
    /// Post-copy: the package is on the socket, and nobody has said yet that the guest runs there.
    Handed,
    /// Post-copy: the connection broke before anybody said so.
    Doubtful,
    /// Post-copy: the guest runs at the destination and pulls its pages from here.
    Serving,
    /// Post-copy: the same, without a connection. QEMU's `postcopy-paused`.
    Interrupted,
    /// The destination has committed, and has every page: never resume.
    Released,
    /// The guest's process has died here: never resume. The destination may still have it all.
    Dead,
}

/// What happens to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceEvent {
    /// The guest is paused for the switchover.
    Pause,
    /// The socket has taken the last byte. It is one byte, written alone: a write of it that failed
    /// has not delivered it, so the destination cannot commit.
    LastByte,
    /// Post-copy: the socket has taken the last byte of the package, written alone.
    Package,
    /// Post-copy: the destination says that the guest runs there; again on each new connection.
    Started,
    /// SHUT 0: the destination has all of it.
    Acknowledged,
    /// SHUT with another value: the destination promises never to start.
    Refused,
    /// An error, a cancel, or a time-out.
    Failed,
    /// The guest's process died.
    Crashed,
    /// The control plane knows.
    Resolved {
        /// Whether the destination committed.
        committed: bool,
    },
}

/// What the source must do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceAction {
    /// Nothing.
    None,
    /// Let the guest run here again.
    Resume,
    /// Drop the guest.
    Release,
}

impl SourceSide {
    /// The next state, and what to do. Events that a state cannot have leave it as it is: a late
    /// failure changes nothing once the destination's word is known.
    #[must_use]
    pub fn on(self, event: SourceEvent) -> (Self, SourceAction) {
        use SourceEvent as Event;
        match (self, event) {
            (Self::Running, Event::Pause) => (Self::Paused, SourceAction::None),
            (Self::Paused, Event::LastByte) => (Self::Waiting, SourceAction::None),
            (Self::Paused, Event::Package) => (Self::Handed, SourceAction::None),
            (Self::Handed, Event::Failed) => (Self::Doubtful, SourceAction::None),
            (Self::Handed | Self::Doubtful | Self::Interrupted, Event::Started) => {
                (Self::Serving, SourceAction::None)
            }
            (Self::Serving, Event::Failed | Event::Refused) => {
                (Self::Interrupted, SourceAction::None)
            }
            (Self::Paused, Event::Failed)
            | (Self::Waiting | Self::Undecided | Self::Handed | Self::Doubtful, Event::Refused)
            | (
                Self::Waiting | Self::Undecided | Self::Handed | Self::Doubtful,
                Event::Resolved { committed: false },
            ) => (Self::Running, SourceAction::Resume),
            (Self::Waiting, Event::Failed) => (Self::Undecided, SourceAction::None),
            (state, Event::Crashed) if state != Self::Released => (Self::Dead, SourceAction::None),
            (
                Self::Waiting | Self::Undecided | Self::Handed | Self::Serving,
                Event::Acknowledged,
            )
            | (
                Self::Waiting | Self::Undecided | Self::Doubtful | Self::Interrupted,
                Event::Resolved { committed: true },
            ) => (Self::Released, SourceAction::Release),
            (state, _) => (state, SourceAction::None),
        }
    }

    /// Whether the guest may run at the destination without pages that only this end has.
    #[must_use]
    pub fn is_pulled_from(self) -> bool {
        matches!(
            self,
            Self::Handed | Self::Doubtful | Self::Serving | Self::Interrupted
        )
    }

    /// Whether a copy of the guest runs here.
    #[must_use]
    pub fn runs(self) -> bool {
        self == Self::Running
    }
}

/// The destination's claim to the guest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum DestinationSide {
    /// Bytes are missing, or the state is being loaded.
    Loading,
    /// The guest runs here and nowhere else.
    Committed,
    /// It will never run here under this migration.
    Abandoned,
}

/// Makes "commit and run" and "promise never to" exclude each other: whoever is first decides.
#[derive(Debug)]
pub struct CommitGate {
    side: Mutex<DestinationSide>,
}

impl Default for CommitGate {
    fn default() -> Self {
        Self {
            side: Mutex::new(DestinationSide::Loading),
        }
    }
}

impl CommitGate {
    /// The commit point of the destination. `start` writes the commit record and lets the guest
    /// run; its error promises that the guest was not started. `None` if the migration had been
    /// abandoned.
    ///
    /// # Errors
    /// `start`'s; the gate is then closed for good.
    pub fn commit<T, E>(&self, start: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        let mut side = self.lock();
        if *side == DestinationSide::Abandoned {
            return Ok(None);
        }
        match start() {
            Ok(value) => {
                *side = DestinationSide::Committed;
                Ok(Some(value))
            }
            Err(error) => {
                *side = DestinationSide::Abandoned;
                Err(error)
            }
        }
    }

    /// Promises never to start, unless it has: whether it had committed. Waits for a commit that
    /// is under way.
    #[must_use]
    pub fn abandon(&self) -> bool {
        let mut side = self.lock();
        if *side == DestinationSide::Loading {
            *side = DestinationSide::Abandoned;
        }
        *side == DestinationSide::Committed
    }

    /// Where it stands.
    #[must_use]
    pub fn side(&self) -> DestinationSide {
        *self.lock()
    }

    /// A panic inside `start` leaves the side as it was before, which is a valid value.
    fn lock(&self) -> MutexGuard<'_, DestinationSide> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
