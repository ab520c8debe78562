//! The orchestrator's policy at work: what it sees of migrations, and doing what it decides.
//!
//! Inside: when each migration is looked at, through `query-migrate` as the originals do, and the
//! commands that follow. Never inside: the decisions (`orchestrator`).

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, ToAgent};
use crate::ids::MigrationId;
use crate::migration::faults::ParameterChange;
use crate::migration::record::DeedDone;
use crate::orchestrator::{Act, Deed, Look, Time};

/// What an answer to `query-migrate`, or the event of a pass, shows of a migration.
pub(super) fn shown(message: &FromAgent) -> Option<(MigrationId, Look)> {
    let FromAgent::Progress {
        migration,
        remaining_bytes,
        round,
        mbps,
        paused,
        pass,
    } = *message
    else {
        return None;
    };
    let seen = Look {
        remaining_bytes,
        iteration: u64::from(round) + 1, // the sync of the setup counts
        bandwidth: mbps * 1e6 / 8.0,
        paused,
        boundary: pass,
    };
    Some((migration, seen))
}

impl Driver<'_> {
    /// The orchestrator's time with a migration begins, its policy's or the timeout's: with `setup`, as the
    /// source tells it, so that no time of the emulator's own is taken from it.
    pub(super) fn begin_patience(&mut self, id: MigrationId, setup_ns: u64) {
        let Some(ongoing) = self.ongoing.get_mut(&id) else {
            return;
        };
        // Times do not scale with space: they are those of the full-size VM.
        let k = u64::from(self.scenario.divided_by.max(1));
        let ram_bytes = self.scenario.vms[ongoing.of.vm.index()].ram_bytes * k;
        let timeout_ms = self.scenario.migration.completion_timeout_ms(ram_bytes);
        match (self.scenario.orchestrator).begin(ram_bytes, timeout_ms, setup_ns) {
            Time::Looks { patience, at_ns } => ongoing.patience = Some((patience, at_ns)),
            Time::CancelAt(at_ns) => ongoing.cancel_at_ns = at_ns,
        }
    }

    /// When a migration is looked at next.
    pub(super) fn next_look_ns(&self) -> Option<u64> {
        let looks = self.ongoing.values().filter(|of| of.over.is_none());
        looks
            .filter_map(|of| of.patience.as_ref().map(|(_, at_ns)| *at_ns))
            .min()
    }

    /// Asks about migrations whose time has come.
    pub(super) async fn looks(&mut self, now_ns: u64) -> Result<(), RunError> {
        let Some(poll_ns) = self.scenario.orchestrator.poll_ns() else {
            return Ok(());
        };
        let mut asked = Vec::new();
        for (&id, of) in &mut self.ongoing {
            if let Some((_, at_ns)) = &mut of.patience
                && *at_ns <= now_ns
            {
                *at_ns = now_ns + poll_ns;
                asked.push((of.of.source, id));
            }
        }
        for (source, id) in asked {
            self.tell(source, ToAgent::QueryMigration(id)).await?;
        }
        Ok(())
    }

    /// The answer to `query-migrate`.
    pub(super) async fn looked(&mut self, id: MigrationId, seen: Look) -> Result<(), RunError> {
        let now_ns = mono_ns();
        let Some(ongoing) = self.ongoing.get_mut(&id) else {
            return Ok(());
        };
        let (true, Some((patience, at_ns))) = (ongoing.over.is_none(), &mut ongoing.patience)
        else {
            return Ok(());
        };
        let orchestrator = &self.scenario.orchestrator;
        if seen.boundary
            && orchestrator.minds_passes()
            && let Some(poll_ns) = orchestrator.poll_ns()
        {
            *at_ns = now_ns + poll_ns;
        }
        for deed in patience.look(now_ns, &seen) {
            self.does(id, now_ns, deed, Some(&seen)).await?;
        }
        Ok(())
    }

    /// Does it and notes it; `seen` is what it was decided on, if it was not the clock alone.
    pub(super) async fn does(
        &mut self,
        id: MigrationId,
        now_ns: u64,
        deed: Deed,
        seen: Option<&Look>,
    ) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get_mut(&id) else {
            return Ok(());
        };
        let source = ongoing.of.source;
        let Deed { act, why } = deed;
        ongoing.deeds.push(DeedDone {
            at_ns: now_ns,
            deed: act.name().to_owned(),
            downtime_limit_ms: act.downtime_limit_ms(),
            why: why.clone(),
            iteration: seen.map(|seen| seen.iteration),
            remaining_bytes: seen.map(|seen| seen.remaining_bytes),
        });
        match act {
            Act::Abort => {
                ongoing.patience = None;
                let whose = self.scenario.orchestrator.name();
                self.warn(format!(
                    "{id}: aborted by the orchestrator ({whose}): {why}"
                ))?;
                self.cancel_one(id).await
            }
            Act::Suspend => self.tell(source, ToAgent::SuspendGuest(id)).await,
            Act::StartPostcopy => self.tell(source, ToAgent::StartPostcopy(id)).await,
            Act::DowntimeLimit(ms) => {
                let change = ParameterChange {
                    downtime_limit: Some(ms),
                    ..ParameterChange::default()
                };
                let set = ToAgent::SetParameters {
                    migration: id,
                    change,
                };
                self.tell(source, set).await
            }
        }
    }
}
