//! What the control plane and faults may do to a destination under way.
//!
//! Never inside: the stream, who owns the guest (`ownership`).

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::DestinationError;
use crate::clock::mono_ns;
use crate::migration::guest::CommitRefused;
use crate::migration::ownership::{CommitGate, DestinationSide};
use crate::migration::transport::Broken;

/// Lets the control plane abandon a migration at its destination.
#[derive(Debug, Default)]
pub struct DestinationControl {
    pub(super) gate: CommitGate,
    /// Post-copy: the source has gone, nobody will connect again.
    given_up: AtomicBool,
    /// Post-copy: pages are missing, or were a moment ago.
    pub(super) pulls: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
    changed: Condvar,
    struck: Mutex<Struck>,
}

/// What faults did to it.
#[derive(Debug, Default)]
struct Struck {
    broken: Option<Broken>,
    refusal: Option<String>,
}

impl DestinationControl {
    /// Promises that the guest will never start here, unless it has: whether it had committed. One that
    /// has, and still lacks pages, is lost once what is on its way has come.
    #[must_use]
    pub fn abandon(&self) -> bool {
        let committed = self.cancel();
        if committed {
            self.given_up.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        committed
    }

    /// The same promise, for a source that is still there: a guest that has started goes on pulling.
    #[must_use]
    pub fn cancel(&self) -> bool {
        let committed = self.gate.abandon();
        if !committed {
            let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            for socket in &*sockets {
                // A socket that is no longer connected needs no shutdown.
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.changed.notify_all();
        }
        committed
    }

    /// The promise of this end itself, which says so over its own connection: whether the guest had started.
    pub(super) fn decline(&self) -> bool {
        let committed = self.gate.abandon();
        self.changed.notify_all();
        committed
    }

    /// Whether nobody will connect again.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Breaks it as a fault does: whether the guest runs here already, which a reset does not change.
    /// The thread finds out at its next look, at most 100 ms later.
    #[must_use]
    pub fn break_off(&self, how: Broken) -> bool {
        if how == Broken::Reset && self.pause_postcopy() {
            return true; // and is taken up again
        }
        let mut struck = self.struck();
        if struck.broken != Some(Broken::Crashed) {
            struck.broken = Some(how);
        }
        drop(struck);
        let committed = self.gate.abandon();
        self.changed.notify_all();
        committed
    }

    /// Has it refuse the guest, for that reason, unless the guest runs here already.
    pub fn refuse(&self, reason: String) {
        self.struck().refusal = Some(reason);
    }

    fn struck(&self) -> MutexGuard<'_, Struck> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.struck().broken
    }

    pub(super) fn may_go_on(&self) -> Result<(), DestinationError> {
        if self.broken() == Some(Broken::Crashed) {
            return Err(DestinationError::Crashed);
        }
        let refusal = self.struck().refusal.clone();
        match refusal {
            Some(reason) if self.side() != DestinationSide::Committed => {
                Err(CommitRefused { reason }.into())
            }
            _ => Ok(()),
        }
    }

    /// Why it ended: a fault's own error, where one broke it.
    pub(super) fn explain(&self, error: DestinationError) -> DestinationError {
        match self.broken() {
            Some(Broken::Crashed) => DestinationError::Crashed,
            Some(Broken::Reset) => DestinationError::Reset,
            Some(Broken::PeerGone | Broken::PeerRuns) | None => error,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn side(&self) -> DestinationSide {
        self.gate.side()
    }

    /// Takes note of all connections of the migration: abandoning it shuts them down.
    pub(super) fn attach(&self, sockets: Vec<TcpStream>) {
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = sockets;
    }

    /// Waits a little, less if something is asked of it.
    pub(super) fn wait_for_change(&self, ns: u64) {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let _waited = self.changed.wait_timeout(sockets, Duration::from_nanos(ns));
    }

    /// QMP's `migrate-pause` at this end: breaks the connection of a post-copy that pulls. `false` if it
    /// does not.
    pub fn pause_postcopy(&self) -> bool {
        let pulls = self.pulls.load(Ordering::Acquire) && self.side() == DestinationSide::Committed;
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.iter().filter(|_| pulls) {
            // A socket that is no longer connected needs no shutdown.
            let _ = socket.shutdown(Shutdown::Both);
        }
        pulls
    }

    /// Waits until an instant unless it is abandoned meanwhile.
    pub(super) fn wait_until(&self, at_ns: u64) -> Result<(), DestinationError> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.side() == DestinationSide::Abandoned {
                return Err(DestinationError::Abandoned);
            }
            let left = at_ns.saturating_sub(mono_ns());
            if left == 0 {
                return Ok(());
            }
            sockets = self
                .changed
                .wait_timeout(sockets, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
