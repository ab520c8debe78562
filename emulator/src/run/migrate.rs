//! The driver's part for migrations: starting them, following them, writing their records.

mod ends;
mod record;

use super::RunError;
use super::book::{Ongoing, SourceDone, Verdict};
use super::budget;
use super::driver::Driver;
use super::patience::shown;
use crate::balance::moves::{Cancelled, Outcome};
use crate::balance::view::Action;
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, PathSeen, SourceEnding, ToAgent, ToMachine, VmPlacement};
use crate::event::EventKind;
use crate::ids::{HostId, MigrationId, VmId};
use crate::migration::faults::End;
use crate::migration::record::Owner;
use crate::timeline::Input;
use std::net::SocketAddr;

impl Driver<'_> {
    /// Does what a policy asks for.
    pub(super) async fn act(&mut self, action: Action) -> Result<(), RunError> {
        match action {
            Action::Migrate {
                vm,
                destination,
                reason,
            } => self.request(vm, destination, reason),
            Action::Cancel { migration } => match self.mover.cancel(migration) {
                Ok(Cancelled::Dequeued(_)) => {
                    self.ongoing.remove(&migration);
                    Ok(())
                }
                Ok(Cancelled::Stop(_)) => self.cancel_one(migration).await,
                Err(rejection) => self.warn(format!("the balancer's cancel: {rejection}")),
            },
        }
    }

    /// Queues a move, or writes down why not.
    pub(super) fn request(
        &mut self,
        vm: VmId,
        destination: HostId,
        reason: String,
    ) -> Result<(), RunError> {
        if !self.controller_is_up() {
            let reason = "the controller is down".to_owned();
            return self.write(EventKind::MoveRejected {
                vm,
                destination,
                reason,
            });
        }
        match self.mover.request(vm, destination, reason.clone()) {
            Ok(migration) => {
                let source = self.mover.placements()[vm.index()].host;
                self.progress.requested();
                let kind = EventKind::MigrationRequested {
                    migration,
                    vm,
                    source,
                    destination,
                    reason,
                };
                self.write(kind)
            }
            Err(rejection) => {
                let reason = rejection.to_string();
                self.write(EventKind::MoveRejected {
                    vm,
                    destination,
                    reason,
                })
            }
        }
    }

    /// Starts what the limits allow: the destination listens first.
    pub(super) async fn start_migrations(&mut self) -> Result<(), RunError> {
        if !self.controller_is_up() {
            return Ok(());
        }
        for of in self.mover.start() {
            let (id, vm, source, destination) = (of.id, of.vm, of.source, of.destination);
            let cores = self.cores.get(&vm).copied().unwrap_or(0.0);
            let mut ongoing = Ongoing::new(of, mono_ns(), self.trace_ns());
            ongoing.predictions = self.predict(vm, source, destination, cores);
            self.ongoing.insert(id, ongoing);
            let placement = VmPlacement {
                vm,
                spec: self.scenario.vms[vm.index()].clone(),
            };
            self.tell(
                destination,
                ToAgent::PrepareIncoming {
                    migration: id,
                    vm: Box::new(placement),
                    params: Box::new(self.scenario.migration.clone()),
                    source,
                    holds: self.faults.holds(id, End::Destination),
                },
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn heard_migration(
        &mut self,
        host: HostId,
        message: FromAgent,
    ) -> Result<(), RunError> {
        // The log is the testbed's, whatever the manager hears.
        if let FromAgent::Phase {
            migration,
            phase,
            at_ns,
        } = message
        {
            let trace_ns = self.clock.trace_at(replay::clock::MonoNs(at_ns)).0;
            let kind = EventKind::MigrationPhase { migration, phase };
            return Ok(self.log.append(&crate::event::Event {
                mono_ns: at_ns,
                trace_ns,
                kind,
            })?);
        }
        if let FromAgent::Begun { migration, at_ns } = message
            && let Some(ongoing) = self.ongoing.get_mut(&migration)
        {
            ongoing.begun_ns = Some(at_ns);
        }
        let Some(message) = self.controller_hears(host, message) else {
            return Ok(());
        };
        match shown(&message) {
            Some((migration, seen)) => self.looked(migration, seen).await,
            None => self.manager_hears(message).await,
        }
    }

    async fn manager_hears(&mut self, message: FromAgent) -> Result<(), RunError> {
        match message {
            FromAgent::Begun { migration, at_ns } => {
                self.begin_patience(migration, at_ns);
                Ok(())
            }
            FromAgent::CancelTooLate(migration) => self.cancel_at_destination(migration).await,
            FromAgent::VmCrashed { migration } => {
                self.update(migration, Ongoing::crashed_there).await
            }
            FromAgent::IncomingReady {
                migration,
                port: Ok(port),
            } => self.destination_listens(migration, port).await,
            FromAgent::IncomingReady {
                migration,
                port: Err(error),
            } => {
                self.update(migration, |ongoing| ongoing.refused(error))
                    .await
            }
            FromAgent::Committed { migration, at_ns } => {
                self.update(migration, |ongoing| ongoing.committed(at_ns))
                    .await?;
                // Flows go on from and to where it runs now; services move with their VM.
                self.open_flows().await
            }
            FromAgent::SourceDone {
                migration,
                ending,
                report,
                released_ns,
            } => {
                let done = SourceDone {
                    ending,
                    report: *report,
                    released_ns,
                };
                if let Some(ongoing) = self.ongoing.get_mut(&migration) {
                    ongoing.source_done(done);
                }
                self.settle_destination(migration).await?;
                self.update(migration, |_| {}).await
            }
            FromAgent::DestinationDone { migration, report } => {
                self.update(migration, |ongoing| ongoing.destination_done(*report))
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn destination_listens(
        &mut self,
        migration: MigrationId,
        port: u16,
    ) -> Result<(), RunError> {
        let params = self.scenario.migration.clone();
        let Some(ongoing) = self.ongoing.get_mut(&migration) else {
            return Ok(());
        };
        let (source, destination, vm) = (ongoing.of.source, ongoing.of.destination, ongoing.of.vm);
        ongoing.watched = true;
        let links = |from, to| {
            let path = self.scenario.network.path(from, to);
            path.into_iter().map(|link| link.id).collect()
        };
        let (path, back) = (links(source, destination), links(destination, source));
        let watch = ToMachine::Watch {
            migration,
            path,
            back,
        };
        self.machine.send(&watch).await?;
        let to = SocketAddr::new(self.ready.addresses[destination.index()].ip(), port);
        let start = ToAgent::StartMigration {
            migration,
            vm,
            to,
            params: Box::new(params),
            destination,
            holds: self.faults.holds(migration, End::Source),
        };
        self.tell(source, start).await
    }

    /// A source that is through, and whose destination has not committed: what it waits for will not
    /// come, so it is asked never to start. Where the source has sent everything and got no word, this
    /// is what decides: the destination has committed, or never will.
    pub(super) async fn settle_destination(
        &mut self,
        migration: MigrationId,
    ) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get(&migration) else {
            return Ok(());
        };
        let waits = match ongoing.source() {
            // Without a return path it may still be loading.
            Some(done) => done.ending != SourceEnding::Completed,
            None => ongoing.source_is_over(),
        };
        if waits && ongoing.over.is_none() && ongoing.destination().is_none() {
            let destination = ongoing.of.destination;
            self.tell(destination, ToAgent::AbandonIncoming(migration))
                .await?;
        }
        Ok(())
    }

    /// Notes something of a migration and draws the consequences.
    pub(super) async fn update(
        &mut self,
        migration: MigrationId,
        note: impl FnOnce(&mut Ongoing),
    ) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get_mut(&migration) else {
            return Ok(());
        };
        note(ongoing);
        loop {
            let Some(ongoing) = self.ongoing.get_mut(&migration) else {
                return Ok(());
            };
            if ongoing.over.is_some() {
                return Ok(());
            }
            match ongoing.verdict() {
                Verdict::Open => return Ok(()),
                Verdict::TellGone => {
                    let source = ongoing.of.source;
                    self.tell(source, ToAgent::DestinationGone(migration))
                        .await?;
                }
                Verdict::Tell { committed } => {
                    let source = ongoing.of.source;
                    self.tell(
                        source,
                        ToAgent::Resolve {
                            migration,
                            committed,
                        },
                    )
                    .await?;
                }
                Verdict::Over { owner } => return self.over(migration, owner).await,
            }
        }
    }

    /// A migration is over. What was seen of its links belongs to its record, so that is asked for
    /// first.
    async fn over(&mut self, migration: MigrationId, owner: Owner) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.get_mut(&migration) else {
            return Ok(());
        };
        if !ongoing.watched {
            return self.ended(migration, owner);
        }
        ongoing.over = Some(owner);
        ongoing.cancel_at_ns = None;
        let vm = ongoing.of.vm;
        let sending = ongoing
            .source()
            .and_then(|done| budget::sending(&done.report))
            .map(Box::new);
        let unwatch = ToMachine::Unwatch { migration, sending };
        self.machine.send(&unwatch).await?;
        if owner == Owner::Destination {
            let left = self.read_probes(migration, vm).await?;
            if let Some(ongoing) = self.ongoing.get_mut(&migration) {
                ongoing.probes_left = left;
            }
        }
        Ok(())
    }

    /// What was seen of the links of a migration that is over.
    pub(super) fn watched(
        &mut self,
        migration: MigrationId,
        seen: Option<Box<PathSeen>>,
    ) -> Result<(), RunError> {
        let ongoing = self.ongoing.get_mut(&migration);
        if let Some(ongoing) = ongoing.filter(|ongoing| ongoing.over.is_some()) {
            ongoing.path = Some(seen);
        }
        self.settle(migration)
    }

    /// Ends a migration of which everything is known that belongs to its record.
    pub(super) fn settle(&mut self, migration: MigrationId) -> Result<(), RunError> {
        match self.ongoing.get(&migration) {
            Some(Ongoing {
                over: Some(owner),
                path: Some(_),
                probes_left: 0,
                ..
            }) => self.ended(migration, *owner),
            _ => Ok(()),
        }
    }

    /// A migration has ended: placement, record, timeline.
    fn ended(&mut self, migration: MigrationId, owner: Owner) -> Result<(), RunError> {
        let Some(ongoing) = self.ongoing.remove(&migration) else {
            return Ok(());
        };
        let outcome = match owner {
            Owner::Source => Outcome::Stayed,
            Owner::Destination => Outcome::Moved,
            Owner::Lost | Owner::Stranded => Outcome::Gone,
        };
        self.mover
            .ended(migration, outcome)
            .map_err(RunError::Mover)?;
        if outcome == Outcome::Moved {
            let (vm, host) = (ongoing.of.vm, ongoing.of.destination);
            self.write(EventKind::Placed { vm, host })?;
        }
        let mut record = self.record(&ongoing, owner);
        record.faults.clone_from(&ongoing.faults);
        record.deeds.clone_from(&ongoing.deeds);
        self.progress.migrated(&record);
        self.write(EventKind::MigrationEnded(Box::new(record.clone())))?;
        self.migrations.push(record);
        let open_migrations = self.open_migrations();
        self.step(Input::Migrations { open_migrations });
        Ok(())
    }
}
