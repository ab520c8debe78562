//! The fault plan of a run: what is due, what has struck, and having it done.
//!
//! Inside: the book of planned faults (pure), and the driver's part: asking agents and the machine, and
//! letting the threads go on that are held meanwhile. Never inside: what a fault does at its end
//! (`agent/blows`, `machine/init`), who owns a guest after it (`run/book`).

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{AgentBlow, Blow, FromMachine, ToAgent, ToMachine};
use crate::event::{Event, EventKind};
use crate::ids::{HostId, MigrationId};
use crate::migration::faults::{Action, End, FaultStruck, Hold, HoldAt, PlannedFault, When};
use crate::migration::record::Phase;
use netmodel::schedule::Patch;
use netmodel::topology::LinkId;
use replay::clock::{MonoNs, TraceNs};

/// Where a planned fault stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its instant has not come.
    Waiting,
    /// It is being done; a thread of this host is held for it since then.
    Due(Option<(HostId, u64)>),
    /// It is done.
    Struck,
}

/// The planned faults of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultBook {
    planned: Vec<(PlannedFault, State)>,
}

impl FaultBook {
    pub(super) fn new(planned: &[PlannedFault]) -> Self {
        let waiting = |fault: &PlannedFault| (fault.clone(), State::Waiting);
        Self {
            planned: planned.iter().map(waiting).collect(),
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &PlannedFault, State)> {
        let all = (0u32..).zip(&self.planned);
        all.map(|(number, (fault, state))| (number, fault, *state))
    }

    /// Where a thread of this end of a migration is to be held.
    pub(super) fn holds(&self, migration: MigrationId, end: End) -> Vec<Hold> {
        let hold = |(fault, planned, _): (u32, &PlannedFault, State)| {
            let at = match planned.when {
                When::Phase(phase) => HoldAt::Phase(phase),
                When::Round(round) => HoldAt::Round(round),
                When::After { .. } | When::Trace { .. } => return None,
            };
            // The guest resumes at the destination; everything before is the source's.
            let there = at == HoldAt::Phase(Phase::Resume);
            let of = if there { End::Destination } else { End::Source };
            (planned.migration == migration && of == end).then_some(Hold { fault, at })
        };
        self.numbered().filter_map(hold).collect()
    }

    /// Faults whose instant comes with the clock: number, migration, monotonic instant.
    /// `begun_ns` says when a migration began, if it is under way; `mono_at` what trace
    /// time is on the clock.
    pub(super) fn timed(
        &self,
        begun_ns: impl Fn(MigrationId) -> Option<u64>,
        mono_at: impl Fn(u64) -> Option<u64>,
    ) -> Vec<(u32, u64)> {
        let at = |(fault, planned, state): (u32, &PlannedFault, State)| {
            let begun_ns = begun_ns(planned.migration)?;
            let at_ns = match planned.when {
                _ if state != State::Waiting => return None,
                When::After { ns } => begun_ns.saturating_add(ns),
                When::Trace { ns } => mono_at(ns)?.max(begun_ns),
                When::Phase(_) | When::Round(_) => return None,
            };
            Some((fault, at_ns))
        };
        self.numbered().filter_map(at).collect()
    }

    /// It is due: what it is, unless it was before.
    fn begin(&mut self, fault: u32, held: Option<(HostId, u64)>) -> Option<PlannedFault> {
        let (planned, state) = self.planned.get_mut(fault as usize)?;
        if *state != State::Waiting {
            return None;
        }
        *state = State::Due(held);
        Some(planned.clone())
    }

    /// It is in effect: what it is, and who is held for it, unless that was known.
    fn struck(&mut self, fault: u32) -> Option<(PlannedFault, Option<(HostId, u64)>)> {
        let (planned, state) = self.planned.get_mut(fault as usize)?;
        let State::Due(held) = *state else {
            return None;
        };
        *state = State::Struck;
        Some((planned.clone(), held))
    }

    /// Faults that never struck, described.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = |(fault, planned, state): (u32, &PlannedFault, State)| {
            (state == State::Waiting).then(|| {
                format!(
                    "fault {} ({} {} of {}) never struck: its instant did not come",
                    fault + 1,
                    planned.action.name(),
                    planned.when.told(),
                    planned.migration
                )
            })
        };
        self.numbered().filter_map(missed).collect()
    }
}

impl Driver<'_> {
    /// A thread has come to where it is held for a fault.
    pub(super) async fn fault_due(
        &mut self,
        host: HostId,
        migration: MigrationId,
        fault: u32,
        at_ns: u64,
    ) -> Result<(), RunError> {
        match self.faults.begin(fault, Some((host, at_ns))) {
            Some(planned) => self.strike(fault, planned).await,
            None => self.tell(host, ToAgent::GoOn { migration, fault }).await,
        }
    }

    /// Faults whose instant has come with the clock.
    pub(super) async fn timed_faults(&mut self, now_ns: u64) -> Result<(), RunError> {
        for (fault, at_ns) in self.planned_instants() {
            if at_ns <= now_ns
                && let Some(planned) = self.faults.begin(fault, None)
            {
                self.strike(fault, planned).await?;
            }
        }
        Ok(())
    }

    /// Instants at which faults strike, as the clock goes now.
    pub(super) fn planned_instants(&self) -> Vec<(u32, u64)> {
        let begun = |migration: MigrationId| {
            let ongoing = self.ongoing.get(&migration)?;
            ongoing.begun_ns.filter(|_| ongoing.over.is_none())
        };
        let mono_at = |ns| self.clock.mono_at(TraceNs(ns)).map(|at| at.0);
        self.faults.timed(begun, mono_at)
    }

    async fn strike(&mut self, fault: u32, planned: PlannedFault) -> Result<(), RunError> {
        let migration = planned.migration;
        let Some(ongoing) = self.ongoing.get(&migration) else {
            return self.in_effect(fault, mono_ns()).await;
        };
        let (source, destination) = (ongoing.of.source, ongoing.of.destination);
        let host_of = |end| match end {
            End::Source => source,
            End::Destination => destination,
        };
        let (end, blow) = match planned.action {
            Action::VmCrash { of } => (of, AgentBlow::Crash),
            Action::ConnectionReset { of } => (of, AgentBlow::Reset),
            Action::DestinationRefuses => (End::Destination, AgentBlow::Refuse),
            Action::Cancel => {
                self.cancel_one(migration).await?;
                return self.in_effect(fault, mono_ns()).await;
            }
            Action::SetParameters(change) => {
                let set = ToAgent::SetParameters { migration, change };
                self.tell(source, set).await?;
                return self.in_effect(fault, mono_ns()).await;
            }
            Action::StartPostcopy => {
                self.tell(source, ToAgent::StartPostcopy(migration)).await?;
                return self.in_effect(fault, mono_ns()).await;
            }
            Action::ControllerCrash { down_ns } => {
                self.in_effect(fault, mono_ns()).await?;
                return self.controller_crashes(down_ns);
            }
            Action::HostPowerLoss {
                of,
                silence_ns,
                fenced,
            } => {
                return self
                    .lose_power(fault, host_of(of), silence_ns, fenced)
                    .await;
            }
            Action::LinkCut {
                links,
                restored_after_ns: after,
            } => return self.strike_links(fault, (links, source), None, after).await,
            Action::LinkChange {
                links,
                patch,
                restored_after_ns: after,
            } => {
                let patch = Some(patch);
                return self
                    .strike_links(fault, (links, source), patch, after)
                    .await;
            }
        };
        let strike = ToAgent::Strike {
            fault,
            migration,
            end,
            blow,
        };
        self.tell(host_of(end), strike).await
    }

    async fn lose_power(
        &mut self,
        fault: u32,
        host: HostId,
        silence_ns: u64,
        fenced: bool,
    ) -> Result<(), RunError> {
        if !fenced {
            self.unfenced.insert(host);
        }
        let blow = Blow::PowerLoss {
            host,
            links: self.links_of(host),
            silence_ns,
        };
        Ok(self
            .machine
            .send(&ToMachine::Strike { fault, blow })
            .await?)
    }

    /// Strikes links; if none are named, those of a host.
    async fn strike_links(
        &mut self,
        fault: u32,
        (named, host): (Vec<LinkId>, HostId),
        patch: Option<Box<Patch>>,
        restored_after_ns: Option<u64>,
    ) -> Result<(), RunError> {
        let links = if named.is_empty() {
            self.links_of(host)
        } else {
            named
        };
        let blow = Blow::Links {
            links,
            patch,
            restored_after_ns,
        };
        Ok(self
            .machine
            .send(&ToMachine::Strike { fault, blow })
            .await?)
    }

    /// Both links of a host.
    fn links_of(&self, host: HostId) -> Vec<LinkId> {
        let (topology, host) = (
            &self.scenario.network.topology,
            crate::scenario::net_host(host),
        );
        vec![topology.uplink(host).id, topology.downlink(host).id]
    }

    /// The machine has done its part.
    pub(super) async fn heard_struck(&mut self, message: &FromMachine) -> Result<(), RunError> {
        match *message {
            FromMachine::Struck { fault, at_ns } => self.in_effect(fault, at_ns).await,
            _ => Ok(()),
        }
    }

    /// A fault is in effect: written down, and whoever is held for it goes on.
    pub(super) async fn in_effect(&mut self, fault: u32, at_ns: u64) -> Result<(), RunError> {
        let Some((planned, held)) = self.faults.struck(fault) else {
            return Ok(());
        };
        let migration = planned.migration;
        if let Some(ongoing) = self.ongoing.get_mut(&migration) {
            let host = planned.action.end().map(|end| match end {
                End::Source => ongoing.of.source,
                End::Destination => ongoing.of.destination,
            });
            let struck = FaultStruck {
                fault: fault + 1,
                action: planned.action.name().to_owned(),
                when: planned.when.told(),
                host,
                at_ns,
                held_ns: held.map(|(_, since_ns)| at_ns.saturating_sub(since_ns)),
                owner: ongoing.owner_so_far(),
            };
            ongoing.faults.push(struck.clone());
            let trace_ns = self.clock.trace_at(MonoNs(at_ns)).0;
            self.log.append(&Event {
                mono_ns: at_ns,
                trace_ns,
                kind: EventKind::FaultStruck { migration, struck },
            })?;
        }
        match held {
            Some((host, _)) => self.tell(host, ToAgent::GoOn { migration, fault }).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(migration: u32, when: When) -> PlannedFault {
        PlannedFault {
            migration: MigrationId(migration),
            when,
            action: Action::Cancel,
        }
    }

    #[test]
    fn threads_are_held_at_the_end_whose_phase_it_is() {
        let book = FaultBook::new(&[
            fault(1, When::Phase(Phase::Rounds)),
            fault(2, When::Phase(Phase::Rounds)),
            fault(1, When::Phase(Phase::Resume)),
            fault(1, When::Round(3)),
            fault(1, When::After { ns: 5 }),
        ]);
        let at = |fault, at| Hold { fault, at };
        assert_eq!(
            book.holds(MigrationId(1), End::Source),
            [at(0, HoldAt::Phase(Phase::Rounds)), at(3, HoldAt::Round(3))]
        );
        assert_eq!(
            book.holds(MigrationId(1), End::Destination),
            [at(2, HoldAt::Phase(Phase::Resume))]
        );
    }

    #[test]
    fn a_fault_strikes_once_and_only_while_its_migration_is_under_way() {
        let mut book = FaultBook::new(&[
            fault(1, When::After { ns: 50 }),
            fault(1, When::Trace { ns: 7 }),
            fault(2, When::After { ns: 50 }),
        ]);
        let started = |migration: MigrationId| (migration.0 == 1).then_some(1000);
        // Trace time 7 has passed when it starts: then at once.
        let timed = |book: &FaultBook| book.timed(started, |trace| Some(100 + trace));
        assert_eq!(timed(&book), [(0, 1050), (1, 1000)]);
        assert!(book.begin(0, None).is_some());
        assert!(book.begin(0, None).is_none());
        assert_eq!(timed(&book), [(1, 1000)]);
        assert!(book.struck(0).is_some() && book.struck(0).is_none());
        assert!(book.struck(1).is_none(), "it is not due");
        assert_eq!(book.missed().len(), 2);
    }
}
