//! The orchestrator's policy at work: what it sees of migrations, and doing what it decides.
//!
//! Inside: when each migration is looked at, through `query-migrate` as the originals do, and the
//! commands that follow. Never inside: the decisions (`orchestrator`).

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::ToAgent;
use crate::ids::MigrationId;
use crate::migration::faults::ParameterChange;
use crate::migration::record::DeedDone;
use crate::orchestrator::{Deed, Look, Patience};

impl Driver<'_> {
    /// The orchestrator's time with a migration begins: its policy's, or the timeout's.
    pub(super) fn begin_patience(&mut self, id: MigrationId) {
        let Some(ongoing) = self.ongoing.get_mut(&id) else {
            return;
        };
        // Times do not scale with space: they are those of the full-size VM.
        let k = u64::from(self.scenario.divided_by.max(1));
        let ram_bytes = self.scenario.vms[ongoing.of.vm.index()].ram_bytes * k;
        let (now_ns, orchestrator) = (mono_ns(), &self.scenario.orchestrator);
        ongoing.patience = Patience::new(orchestrator, ram_bytes, now_ns)
            .zip(orchestrator.poll_ns())
            .map(|(patience, poll_ns)| (patience, now_ns + poll_ns));
        if ongoing.patience.is_none() {
            let timeout_ms = self.scenario.migration.completion_timeout_ms(ram_bytes);
            ongoing.cancel_at_ns = timeout_ms.map(|ms| now_ns + ms * 1_000_000);
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
        let (true, Some((patience, _))) = (ongoing.over.is_none(), &mut ongoing.patience) else {
            return Ok(());
        };
        let Some(deed) = patience.look(now_ns, seen) else {
            return Ok(());
        };
        let source = ongoing.of.source;
        let (name, detail) = match &deed {
            Deed::Abort { why } => ("abort", Some(why.clone())),
            Deed::Suspend => ("suspend", None),
            Deed::StartPostcopy => ("start-postcopy", None),
            Deed::DowntimeLimit(ms) => ("downtime-limit", Some(ms.to_string())),
        };
        ongoing.deeds.push(DeedDone {
            at_ns: now_ns,
            deed: name.to_owned(),
            detail,
        });
        match deed {
            Deed::Abort { why } => {
                ongoing.patience = None;
                let whose = self.scenario.orchestrator.name();
                self.warn(format!("{id}: aborted as {whose} does: {why}"))?;
                self.cancel_one(id).await
            }
            Deed::Suspend => self.tell(source, ToAgent::SuspendGuest(id)).await,
            Deed::StartPostcopy => self.tell(source, ToAgent::StartPostcopy(id)).await,
            Deed::DowntimeLimit(ms) => {
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
