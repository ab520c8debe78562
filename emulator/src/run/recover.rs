//! A manager that has forgotten everything, and asks the hosts what they hold.
//!
//! Inside: the crash of the emulated controller, the questions, and what follows from the answers.
//! What is never forgotten is the testbed's own: its event log, when a migration was asked for, what
//! models said of it. Never inside: guesses. A VM that no host has is gone; a migration that no source
//! knows never began.

use super::RunError;
use super::book::{Ongoing, SourceDone};
use super::driver::Driver;
use crate::balance::moves::{Move, Mover, Room, Size};
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, Holding, ToAgent};
use crate::event::EventKind;
use crate::ids::{HostId, MigrationId, VmId};
use crate::migration::ownership::DestinationSide;
use crate::timeline::Input;
use std::collections::{BTreeMap, BTreeSet};

/// What the manager knows of the world.
#[derive(Debug, Default)]
pub(super) enum Controller {
    /// What it has been told.
    #[default]
    Up,
    /// Nothing, and it hears nothing until then.
    Down {
        /// Monotonic ns.
        until_ns: u64,
    },
    /// It has asked these hosts, and has these answers. What hosts said after theirs waits.
    Asking {
        waiting: BTreeSet<HostId>,
        found: BTreeMap<HostId, Holding>,
        later: Vec<(HostId, FromAgent)>,
    },
}

/// What the answers say of a migration that the testbed saw begin.
pub(super) fn rebuilt(ongoing: &mut Ongoing, found: &BTreeMap<HostId, Holding>, now_ns: u64) {
    let (id, of) = (ongoing.of.id, ongoing.of.clone());
    ongoing.forget();
    if let Some(holding) = found.get(&of.source) {
        let held = holding.outgoing.iter().find(|held| held.migration == id);
        match held {
            None => ongoing.source_never_began("the controller crashed before it was started"),
            Some(held) => {
                if let Some((ending, report, released_ns)) = held.done.clone() {
                    ongoing.source_done(SourceDone {
                        ending,
                        report: *report,
                        released_ns,
                    });
                }
                if held.resolved {
                    ongoing.told();
                }
            }
        }
    }
    if let Some(holding) = found.get(&of.destination) {
        let held = holding.incoming.iter().find(|held| held.migration == id);
        match held {
            None => ongoing.destination_never_began(),
            Some(held) => {
                if held.side == DestinationSide::Committed {
                    ongoing.committed(now_ns);
                }
                if held.crashed {
                    ongoing.crashed_there();
                }
                if let Some(report) = held.done.clone() {
                    ongoing.destination_done(*report);
                }
            }
        }
    }
}

/// Where each VM is: at its source while it moves, else wherever it was found.
pub(super) fn located(
    vms: usize,
    running: &[Move],
    found: &BTreeMap<HostId, Holding>,
) -> Vec<Option<HostId>> {
    let mut at = vec![None; vms];
    for (host, holding) in found {
        for vm in &holding.vms {
            if let Some(at) = at.get_mut(vm.index()) {
                *at = Some(*host);
            }
        }
    }
    for of in running {
        at[of.vm.index()] = Some(of.source);
    }
    at
}

impl Driver<'_> {
    /// The emulated manager dies: whatever it knew is gone.
    pub(super) fn controller_crashes(&mut self, down_ns: u64) -> Result<(), RunError> {
        self.write(EventKind::ControllerCrashed)?;
        for ongoing in self.ongoing.values_mut() {
            ongoing.forget();
        }
        let until_ns = mono_ns().saturating_add(down_ns);
        self.controller = Controller::Down { until_ns };
        Ok(())
    }

    /// Whether a message of an agent about migrations reaches the manager. What does not is either
    /// lost, or waits until it has all answers.
    pub(super) fn controller_hears(
        &mut self,
        host: HostId,
        message: FromAgent,
    ) -> Option<FromAgent> {
        match &mut self.controller {
            Controller::Up => Some(message),
            Controller::Down { .. } => None,
            Controller::Asking { waiting, later, .. } => {
                if !waiting.contains(&host) {
                    later.push((host, message));
                }
                None
            }
        }
    }

    /// Whether it can be asked for anything.
    pub(super) fn controller_is_up(&self) -> bool {
        matches!(self.controller, Controller::Up)
    }

    /// When it is there again.
    pub(super) fn controller_up_ns(&self) -> Option<u64> {
        match self.controller {
            Controller::Down { until_ns } => Some(until_ns),
            _ => None,
        }
    }

    /// It is there again: it asks every host.
    pub(super) async fn controller_asks(&mut self, now_ns: u64) -> Result<(), RunError> {
        if self.controller_up_ns().is_none_or(|at_ns| at_ns > now_ns) {
            return Ok(());
        }
        self.controller = Controller::Asking {
            waiting: self.hosts(),
            found: BTreeMap::new(),
            later: Vec::new(),
        };
        for host in self.hosts() {
            self.tell(host, ToAgent::TellHolding).await?;
        }
        self.all_told().await
    }

    /// A host's answer.
    pub(super) async fn heard_holding(
        &mut self,
        host: HostId,
        holding: Holding,
    ) -> Result<(), RunError> {
        if let Controller::Asking { waiting, found, .. } = &mut self.controller {
            waiting.remove(&host);
            found.insert(host, holding);
        }
        self.all_told().await
    }

    /// A host has gone that was asked, perhaps.
    pub(super) async fn not_asked_any_more(&mut self, host: HostId) -> Result<(), RunError> {
        if let Controller::Asking { waiting, .. } = &mut self.controller {
            waiting.remove(&host);
        }
        self.all_told().await
    }

    /// Goes on from the answers, once they are all there.
    async fn all_told(&mut self) -> Result<(), RunError> {
        match &self.controller {
            Controller::Asking { waiting, .. } if waiting.is_empty() => {}
            _ => return Ok(()),
        }
        let Controller::Asking { found, later, .. } = std::mem::take(&mut self.controller) else {
            return Ok(());
        };
        let now_ns = mono_ns();
        let forgotten = self
            .mover
            .migrations()
            .iter()
            .filter(|m| !m.running)
            .count();
        let under_way: Vec<MigrationId> = self.ongoing.keys().copied().collect();
        for ongoing in self.ongoing.values_mut().filter(|of| of.over.is_none()) {
            rebuilt(ongoing, &found, now_ns);
        }
        let running: Vec<Move> = self.ongoing.values().map(|of| of.of.clone()).collect();
        self.mover = self.recovered_mover(&found, running);
        self.write(EventKind::ControllerRecovered {
            hosts: u32::try_from(found.len()).unwrap_or(u32::MAX),
            migrations: u32::try_from(under_way.len()).unwrap_or(u32::MAX),
        })?;
        if forgotten > 0 {
            let what = format!("{forgotten} queued moves were forgotten with the controller");
            self.warn(what)?;
        }
        for host in self.lost_hosts() {
            self.migrations_host_lost(host).await?;
        }
        for id in under_way {
            // A destination whose source will not come waits for nothing.
            self.settle_destination(id).await?;
            if self.ongoing.get(&id).is_some_and(Ongoing::is_sending) {
                // Nobody knows how long it has had: its time begins anew.
                self.begin_patience(id, now_ns);
            }
            self.update(id, |_| {}).await?;
        }
        for (host, message) in later {
            Box::pin(self.heard_migration(host, message)).await?;
        }
        let open_migrations = self.open_migrations();
        self.step(Input::Migrations { open_migrations });
        Ok(())
    }

    fn recovered_mover(&self, found: &BTreeMap<HostId, Holding>, running: Vec<Move>) -> Mover {
        let scenario = self.scenario;
        let at = located(scenario.vms.len(), &running, found);
        let rooms: Vec<Room> = scenario.hosts.iter().map(Room::of).collect();
        let size = |vm: VmId| Size {
            ram_bytes: scenario.vms[vm.index()].ram_bytes,
            vcpus: scenario.vms[vm.index()].vcpus,
        };
        let found: Vec<_> = (0u32..)
            .map(VmId)
            .zip(at)
            .map(|(vm, at)| (at, size(vm)))
            .collect();
        let last_id = self.mover.last_id();
        let lost = self.lost_hosts();
        Mover::recovered(self.limits, &rooms, &found, running, lost, last_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{IncomingHeld, OutgoingHeld, SourceEnding};
    use crate::migration::record::{DestinationReport, Owner, SourceReport};
    use crate::run::book::Verdict;

    fn moving() -> Move {
        Move {
            id: MigrationId(1),
            vm: VmId(0),
            source: HostId(0),
            destination: HostId(1),
            reason: String::new(),
            running: true,
        }
    }

    fn source(ending: Option<SourceEnding>) -> Holding {
        let report = || Box::new(SourceReport::unsent(0, 0, String::new()));
        let held = OutgoingHeld {
            migration: MigrationId(1),
            vm: VmId(0),
            destination: HostId(1),
            done: ending.map(|ending| (ending, report(), 0)),
            resolved: false,
        };
        Holding {
            vms: vec![VmId(0)],
            outgoing: vec![held],
            incoming: Vec::new(),
        }
    }

    fn destination(side: DestinationSide, over: bool) -> Holding {
        let held = IncomingHeld {
            migration: MigrationId(1),
            vm: VmId(0),
            source: HostId(0),
            side,
            crashed: false,
            done: over.then(|| Box::new(DestinationReport::empty())),
        };
        let here = side == DestinationSide::Committed;
        Holding {
            vms: here.then_some(VmId(0)).into_iter().collect(),
            outgoing: Vec::new(),
            incoming: vec![held],
        }
    }

    fn nothing() -> Holding {
        Holding {
            vms: Vec::new(),
            outgoing: Vec::new(),
            incoming: Vec::new(),
        }
    }

    /// What a manager that has forgotten everything draws from two answers.
    fn verdict(source: Holding, destination: Holding) -> Verdict {
        let mut ongoing = Ongoing::new(moving(), 0, 0);
        ongoing.committed(7);
        let found = BTreeMap::from([(HostId(0), source), (HostId(1), destination)]);
        rebuilt(&mut ongoing, &found, 9);
        ongoing.verdict()
    }

    #[test]
    fn what_hosts_hold_is_all_it_goes_by() {
        use DestinationSide::{Abandoned, Committed, Loading};
        let done = |ending| source(Some(ending));
        // Under way at both ends: it waits, whatever it had heard before.
        assert_eq!(
            verdict(source(None), destination(Loading, false)),
            Verdict::Open
        );
        let tell = |committed| Verdict::Tell { committed };
        let undecided = || done(SourceEnding::Undecided);
        assert_eq!(
            verdict(undecided(), destination(Committed, false)),
            tell(true)
        );
        assert_eq!(
            verdict(undecided(), destination(Abandoned, true)),
            tell(false)
        );
        assert_eq!(
            verdict(undecided(), destination(Loading, false)),
            Verdict::Open
        );
        let over = |owner| Verdict::Over { owner };
        assert_eq!(
            verdict(done(SourceEnding::Failed), destination(Abandoned, true)),
            over(Owner::Source)
        );
        assert_eq!(
            verdict(done(SourceEnding::Crashed), destination(Abandoned, true)),
            over(Owner::Lost)
        );
        // The destination listened, and nobody had told the source yet.
        assert_eq!(
            verdict(nothing(), destination(Loading, false)),
            Verdict::Open
        );
        assert_eq!(verdict(nothing(), nothing()), over(Owner::Source));
    }

    #[test]
    fn vms_are_where_they_were_found() {
        let at = |vms: &[u32]| Holding {
            vms: vms.iter().copied().map(VmId).collect(),
            ..nothing()
        };
        // VM 0 is paused at its source and runs at its destination, not settled; VM 3 is nowhere.
        let found = BTreeMap::from([(HostId(0), at(&[0, 1])), (HostId(1), at(&[0, 2]))]);
        assert_eq!(
            located(4, &[moving()], &found),
            [Some(HostId(0)), Some(HostId(0)), Some(HostId(1)), None]
        );
        assert_eq!(located(1, &[], &found), [Some(HostId(1))]);
    }
}
