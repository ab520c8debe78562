//! Migrations that are ended: cancelled, out of time, without one of their hosts.

use crate::balance::moves::Cancelled;
use crate::control::message::ToAgent;
use crate::ids::{HostId, MigrationId, VmId};
use crate::orchestrator::Act;
use crate::run::RunError;
use crate::run::book::Ongoing;
use crate::run::driver::Driver;
use crate::timeline::Input;
use std::collections::BTreeSet;

impl Driver<'_> {
    pub(in crate::run) async fn cancel_one(
        &mut self,
        migration: MigrationId,
    ) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get_mut(&migration) else {
            return Ok(());
        };
        ongoing.cancel_at_ns = None;
        let source = ongoing.of.source;
        self.tell(source, ToAgent::CancelMigration(migration)).await
    }

    /// A cancel came after the last byte: the guest is the destination's if that has started it, and its
    /// promise never to lets the source run it again, over whatever link.
    pub(in crate::run) async fn cancel_at_destination(
        &mut self,
        migration: MigrationId,
    ) -> Result<(), RunError> {
        let ongoing = self.ongoing.get_mut(&migration);
        let Some(ongoing) = ongoing.filter(|ongoing| ongoing.over.is_none()) else {
            return Ok(());
        };
        let destination = ongoing.of.destination;
        if ongoing.cancelled_late() {
            self.tell(destination, ToAgent::CancelIncoming(migration))
                .await?;
        }
        Ok(())
    }

    /// The user wants to stop: what is queued is dropped, what runs is cancelled.
    pub(in crate::run) async fn cancel_migrations(&mut self) -> Result<(), RunError> {
        for migration in self.mover.migrations() {
            if let Ok(Cancelled::Stop(id)) = self.mover.cancel(migration.id) {
                self.cancel_one(id).await?;
            }
        }
        if self.mover.is_idle() {
            self.step(Input::Migrations { open_migrations: 0 });
        }
        Ok(())
    }

    /// Cancels what has taken longer than the orchestrator allows.
    pub(in crate::run) async fn cancel_overdue(&mut self, now_ns: u64) -> Result<(), RunError> {
        let overdue: Vec<MigrationId> = self
            .ongoing
            .iter()
            .filter(|(_, ongoing)| ongoing.cancel_at_ns.is_some_and(|at| at <= now_ns))
            .map(|(&id, _)| id)
            .collect();
        for migration in overdue {
            let begun_ns = self.ongoing[&migration].begun_ns.unwrap_or(now_ns);
            let s = now_ns.saturating_sub(begun_ns) as f64 / 1e9;
            let deed =
                Act::Abort.since(format!("not completed after {s:.1} s (completion-timeout)"));
            self.does(migration, now_ns, deed, None).await?;
        }
        Ok(())
    }

    /// Tells sources of destinations that run the guest and whose word does not come.
    pub(in crate::run) async fn words_overdue(&mut self, now_ns: u64) -> Result<(), RunError> {
        let mut overdue = Vec::new();
        for (&id, ongoing) in &mut self.ongoing {
            if ongoing.word_due_ns().is_some_and(|at_ns| at_ns <= now_ns) {
                ongoing.told_runs();
                overdue.push((ongoing.of.source, id));
            }
        }
        for (source, id) in overdue {
            self.tell(source, ToAgent::DestinationRuns(id)).await?;
        }
        Ok(())
    }

    pub(in crate::run) async fn migrations_host_lost(
        &mut self,
        host: HostId,
    ) -> Result<(), RunError> {
        let touched: Vec<(MigrationId, bool)> = self
            .ongoing
            .iter()
            .filter(|(_, o)| o.of.source == host || o.of.destination == host)
            .map(|(&id, o)| (id, o.of.source == host))
            .collect();
        // Whoever probed from there will not answer any more.
        let asked = self.scenario.probes.iter().filter(|it| it.from == host);
        let probed: BTreeSet<VmId> = asked.map(|probe| probe.vm).collect();
        let over = self.ongoing.iter_mut().filter(|(_, o)| o.over.is_some());
        let unheard = over.filter(|(_, o)| probed.contains(&o.of.vm));
        let unheard: Vec<MigrationId> = unheard
            .map(|(&id, o)| {
                o.probes_left = 0;
                id
            })
            .collect();
        for migration in unheard {
            self.settle(migration)?;
        }
        let silent = self.unfenced.contains(&host);
        for (migration, is_source) in touched {
            let of = &self.ongoing[&migration].of;
            let (source, destination) = (of.source, of.destination);
            if is_source {
                self.tell(destination, ToAgent::AbandonIncoming(migration))
                    .await?;
                let gone = if silent {
                    Ongoing::source_silent
                } else {
                    Ongoing::source_lost
                };
                self.update(migration, gone).await?;
            } else {
                // No reset comes from a host without power, and no word.
                self.tell(source, ToAgent::DestinationGone(migration))
                    .await?;
                self.ongoing.entry(migration).and_modify(Ongoing::told_gone);
                let gone = if silent {
                    Ongoing::destination_silent
                } else {
                    Ongoing::destination_lost
                };
                self.update(migration, gone).await?;
            }
        }
        Ok(())
    }
}
