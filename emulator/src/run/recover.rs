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
