//! What the control plane may do to a source under way, and what it may see of it.
//!
//! Never inside: sockets' bytes, decisions.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::mono_ns;
use crate::migration::faults::ParameterChange;
use crate::migration::record::Status;
use crate::migration::source::SourceError;

/// Live figures, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// QMP's `status`.
    pub status: &'static str,
    /// Bytes the socket has accepted.
    pub transferred_bytes: u64,
    /// Bytes known dirty, every page as 4096.
    pub remaining_bytes: u64,
    /// Number of the round.
    pub round: u32,
    /// Of the last 100 ms window.
    pub mbps: f64,
    /// QMP's `expected-downtime`, ms.
    pub expected_downtime_ms: u64,
    /// QMP's `dirty-pages-rate`.
    pub dirty_pages_rate: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            status: "setup",
            transferred_bytes: 0,
            remaining_bytes: 0,
            round: 0,
            mbps: 0.0,
            expected_downtime_ms: 0,
            dirty_pages_rate: 0,
        }
    }
}

/// QMP's word for how it ended.
#[must_use]
pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Cancelled => "cancelled",
        Status::Failed => "failed",
    }
}

/// What a fault did to an end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The connection was reset.
    Reset,
    /// The process of the guest has died.
    Crashed,
    /// The other end is known to be dead, or to have given up: no word will come from it.
    PeerGone,
    /// The guest runs at the other end, as the manager knows: no word of it is needed.
    PeerRuns,
}

/// What cannot be taken back any more, and who says how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Committing {
    /// The last byte: one word of the destination.
    LastByte,
    /// A post-copy's package, or the word that a guest without memory may run: the destination pulls pages first.
    Package,
}

/// What was ordered of a post-copy.
#[derive(Debug, Default)]
struct PostcopyOrders {
    allowed: bool,
    start: bool,
    pulling: bool,
}

#[derive(Debug, Default)]
struct Control {
    cancelled: bool,
    /// Asked to cancel when that was not the source's to decide any more.
    cancelled_late: bool,
    committing: Option<Committing>,
    postcopy: PostcopyOrders,
    suspended: bool,
    broken: Option<Broken>,
    parameters: ParameterChange,
    sockets: Vec<TcpStream>,
}

impl Control {
    /// Ends every connection; true.
    fn shut_down(&self) -> bool {
        for socket in &self.sockets {
            // A socket that is no longer connected needs no shutdown.
            let _ = socket.shutdown(Shutdown::Both);
        }
        true
    }
}

/// Shared with whoever may cancel or watch a migration.
#[derive(Debug, Default)]
pub struct SourceControl {
    control: Mutex<Control>,
    wake: Condvar,
    progress: Mutex<Progress>,
}

impl SourceControl {
    /// Cancels, as QEMU does by shutting the socket down: the guest goes on at the source. `false`
    /// if it is too late: the destination may already have everything, and decides. If it never starts
    /// the guest, the migration counts as cancelled all the same.
    pub fn cancel(&self) -> bool {
        let mut control = self.lock();
        if control.committing.is_some() {
            control.cancelled_late = true;
            return false;
        }
        control.cancelled = true;
        control.shut_down();
        self.wake.notify_all();
        true
    }

    /// QMP's `migrate-start-postcopy`: the next decision switches. `false` if it was started without
    /// `postcopy-ram`, or is beyond that.
    pub fn start_postcopy(&self) -> bool {
        let mut control = self.lock();
        let may = control.postcopy.allowed && control.committing.is_none() && !control.cancelled;
        control.postcopy.start |= may;
        may
    }

    /// QMP's `migrate-pause`: breaks the connection over which pages are pulled. `false` if none are.
    pub fn pause_postcopy(&self) -> bool {
        let control = self.lock();
        control.postcopy.pulling && control.shut_down()
    }

    pub(in crate::migration) fn allow_postcopy(&self) {
        self.lock().postcopy.allowed = true;
    }

    pub(in crate::migration) fn wants_postcopy(&self) -> bool {
        self.lock().postcopy.start
    }

    /// Pages are pulled over this connection from here on.
    pub(in crate::migration) fn pull_over(&self, socket: &TcpStream) -> std::io::Result<()> {
        let clone = socket.try_clone()?;
        let mut control = self.lock();
        control.sockets = vec![clone];
        control.postcopy.pulling = true;
        Ok(())
    }

    /// Breaks the migration as a fault does, whatever phase it is in. The source's thread finds out
    /// at its next look, at most 100 ms later.
    pub fn break_off(&self, how: Broken) {
        let mut control = self.lock();
        if control.postcopy.pulling {
            control.shut_down();
            // A connection that was reset is taken up again.
            if how == Broken::Reset {
                return;
            }
        }
        control.cancelled = true;
        // A process that has died stays dead.
        if control.broken != Some(Broken::Crashed) {
            control.broken = Some(how);
        }
        self.wake.notify_all();
    }

    /// Changes parameters while it runs; the engine has them from its next decision on.
    pub fn set_parameters(&self, change: ParameterChange) {
        let mut control = self.lock();
        control.parameters = control.parameters.then(change);
    }

    /// Stops the guest at the source, as `virsh suspend` does, and lets the migration go on: it
    /// then converges.
    pub fn suspend(&self) {
        self.lock().suspended = true;
        self.wake.notify_all();
    }

    pub(in crate::migration) fn take_parameters(&self) -> Option<ParameterChange> {
        let taken = std::mem::take(&mut self.lock().parameters);
        (!taken.is_empty()).then_some(taken)
    }

    pub(in crate::migration) fn wants_suspended(&self) -> bool {
        self.lock().suspended
    }

    pub(in crate::migration) fn broken(&self) -> Option<Broken> {
        self.lock().broken
    }

    /// Why it ended: a fault's own error, where one broke it.
    pub(in crate::migration) fn explain(&self, error: SourceError) -> SourceError {
        let (broken, late) = {
            let control = self.lock();
            (control.broken, control.cancelled_late)
        };
        match broken {
            Some(Broken::Crashed) => SourceError::Crashed,
            Some(Broken::Reset) => SourceError::Io(ErrorKind::ConnectionReset.into()),
            // Its word came after all.
            Some(Broken::PeerGone | Broken::PeerRuns) | None
                if matches!(error, SourceError::Refused { .. }) =>
            {
                error
            }
            Some(Broken::PeerRuns) => SourceError::Unheard,
            Some(Broken::PeerGone) | None if late => SourceError::Cancelled,
            Some(Broken::PeerGone) => SourceError::DestinationGone,
            None => error,
        }
    }

    /// Waits for a monotonic instant: whether it came before an end of the migration died.
    pub(in crate::migration) fn wait_in_postcopy(&self, at_ns: u64) -> bool {
        let mut control = self.lock();
        loop {
            let left = at_ns.saturating_sub(mono_ns());
            if left == 0 || control.cancelled {
                return !control.cancelled;
            }
            control = self
                .wake
                .wait_timeout(control, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether [`SourceControl::cancel`] would still be in time.
    #[must_use]
    pub fn cancel_is_possible(&self) -> bool {
        self.lock().committing.is_none()
    }

    /// Whether all that is left is to wait for one word of the destination.
    #[must_use]
    pub fn awaits_word(&self) -> bool {
        self.lock().committing == Some(Committing::LastByte)
    }

    /// The live figures.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::migration) fn publish(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Takes note of all connections of the migration: a cancel shuts them down.
    pub(in crate::migration) fn attach<'a>(
        &self,
        sockets: impl Iterator<Item = &'a TcpStream>,
    ) -> Result<(), SourceError> {
        let clones: Result<Vec<_>, _> = sockets.map(TcpStream::try_clone).collect();
        let clones = clones.map_err(SourceError::Io)?;
        let mut control = self.lock();
        control.sockets = clones;
        if control.cancelled {
            Err(SourceError::Cancelled)
        } else {
            Ok(())
        }
    }

    pub(in crate::migration) fn detach(&self) {
        self.lock().sockets.clear();
    }

    /// From here on it cannot be cancelled. Called before the last byte is written.
    pub(in crate::migration) fn enter_switchover(&self) -> Result<(), SourceError> {
        self.commit(Committing::LastByte)
    }

    /// The same before the last byte of a post-copy's package.
    pub(in crate::migration) fn enter_postcopy(&self) -> Result<(), SourceError> {
        self.commit(Committing::Package)
    }

    fn commit(&self, to: Committing) -> Result<(), SourceError> {
        let mut control = self.lock();
        if control.cancelled {
            return Err(SourceError::Cancelled);
        }
        control.committing = Some(to);
        Ok(())
    }

    pub(in crate::migration) fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Waits for a monotonic instant, or a cancel.
    pub(in crate::migration) fn wait_until(&self, at_ns: u64) -> Result<(), SourceError> {
        let mut control = self.lock();
        loop {
            if control.cancelled {
                return Err(SourceError::Cancelled);
            }
            let left = at_ns.saturating_sub(mono_ns());
            if left == 0 {
                return Ok(());
            }
            control = self
                .wake
                .wait_timeout(control, Duration::from_nanos(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
