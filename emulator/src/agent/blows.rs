//! What the manager has done to migrations under way on this host: faults, changes, questions.
//!
//! Runs on the agent's main thread; what it does to a migration's thread goes through the controls
//! that the two share. Never inside: when, and whether (that is the manager's).

use super::migrations::{Incoming, Migrations, Outgoing};
use crate::clock::mono_ns;
use crate::control::message::{AgentBlow, FromAgent, Holding, IncomingHeld, OutgoingHeld};
use crate::ids::MigrationId;
use crate::migration::faults::{End, ParameterChange};
use crate::migration::transport::Broken;
use anyhow::Result;
use std::sync::PoisonError;

impl Migrations {
    /// The control of a source here, if there is one.
    fn at_source(&self, migration: MigrationId) -> Option<&Outgoing> {
        self.outgoing.get(&migration)
    }

    /// `migrate-set-parameters`.
    pub(super) fn set_parameters(&self, migration: MigrationId, change: ParameterChange) {
        if let Some(outgoing) = self.at_source(migration) {
            outgoing.control.set_parameters(change);
        }
    }

    /// Stops the guest and lets its migration go on.
    pub(super) fn suspend(&self, migration: MigrationId) {
        if let Some(outgoing) = self.at_source(migration) {
            outgoing.control.suspend();
        }
    }

    /// What `query-migrate` would tell.
    pub(super) fn progress(&self, migration: MigrationId) -> Option<FromAgent> {
        let progress = self.at_source(migration)?.control.progress();
        Some(FromAgent::Progress {
            migration,
            remaining_bytes: progress.remaining_bytes,
            round: progress.round,
            mbps: progress.mbps,
            paused: progress.status == "device",
            pass: false,
        })
    }

    /// No word will come from the destination.
    pub(super) fn destination_gone(&self, migration: MigrationId) {
        if let Some(outgoing) = self.at_source(migration) {
            outgoing.control.break_off(Broken::PeerGone);
        }
    }

    /// No word of the destination is needed any more.
    pub(super) fn destination_runs(&self, migration: MigrationId) {
        let outgoing = self.at_source(migration);
        if let Some(outgoing) = outgoing.filter(|outgoing| outgoing.control.awaits_word()) {
            outgoing.control.break_off(Broken::PeerRuns);
        }
    }

    /// The thread that is held for a fault may go on.
    pub(super) fn go_on(&self, migration: MigrationId, fault: u32) {
        if let Some(outgoing) = self.at_source(migration) {
            outgoing.gate.go_on(fault);
        }
        if let Some(incoming) = self.incoming.get(&migration) {
            incoming.gate.go_on(fault);
        }
    }

    /// A fault at this host's end. A guest whose process dies after it was brought here is gone, and
    /// that is the answer.
    ///
    /// # Errors
    /// When a guest that runs here cannot be dropped: a bug.
    pub(super) fn strike(
        &mut self,
        migration: MigrationId,
        end: End,
        blow: AgentBlow,
    ) -> Result<Option<FromAgent>> {
        let how = match blow {
            AgentBlow::Crash => Broken::Crashed,
            AgentBlow::Reset => Broken::Reset,
            AgentBlow::Refuse => {
                if let Some(incoming) = self.incoming.get(&migration) {
                    let reason = "as the fault plan asks".to_owned();
                    incoming.control.refuse(reason);
                }
                return Ok(None);
            }
        };
        if end == End::Source {
            if let Some(outgoing) = self.at_source(migration) {
                outgoing.control.break_off(how);
            }
            return Ok(None);
        }
        let Some(incoming) = self.incoming.get_mut(&migration) else {
            return Ok(None);
        };
        let committed = incoming.control.break_off(how);
        if !committed || how != Broken::Crashed || incoming.crashed {
            return Ok(None);
        }
        incoming.crashed = true;
        let vm = incoming.vm;
        self.runtime.release(vm)?;
        self.residents.remove(vm);
        Ok(Some(FromAgent::VmCrashed { migration }))
    }

    /// Everything a manager that knows nothing has to be told.
    pub(super) fn holding(&self) -> Holding {
        let outgoing = self.outgoing.iter().map(|(&migration, of)| OutgoingHeld {
            migration,
            vm: of.vm,
            destination: of.destination,
            done: done_of(of),
            resolved: of.resolved,
        });
        let incoming = self.incoming.iter().map(|(&migration, of)| IncomingHeld {
            migration,
            vm: of.vm,
            source: of.source,
            side: of.control.side(),
            crashed: of.crashed,
            done: report_of(of),
        });
        Holding {
            vms: self.runtime.vms(),
            outgoing: outgoing.collect(),
            incoming: incoming.collect(),
        }
    }
}

type Done = (
    crate::control::message::SourceEnding,
    Box<crate::migration::record::SourceReport>,
    u64,
);

fn done_of(outgoing: &Outgoing) -> Option<Done> {
    let ended = outgoing
        .ended
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let ended = ended.as_ref()?;
    Some((
        ended.ending,
        Box::new(ended.report.clone()),
        ended.released_ns,
    ))
}

fn report_of(incoming: &Incoming) -> Option<Box<crate::migration::record::DestinationReport>> {
    let done = incoming.done.lock().unwrap_or_else(PoisonError::into_inner);
    done.clone().map(Box::new)
}

/// A fault is in effect.
pub(super) fn struck(fault: u32) -> FromAgent {
    FromAgent::Struck {
        fault,
        at_ns: mono_ns(),
    }
}
