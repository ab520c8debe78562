//! Between what a policy asks for and the migrations that run: the arbiter.
//!
//! Inside: validation of each action against the state as it is now, the queue and its limits,
//! placements, RAM reservations. Never inside: how a migration runs, or whether a move is wise.
//!
//! ```text
//!   request ──► rejected(reason)
//!      └──────► queued ──► running ──► ended(moved | stayed | lost)
//!                 └── cancel ───────►  ended(stayed)
//! ```
//! A reservation at the destination is made on acceptance, not on start, so an accepted move cannot
//! run out of room while it waits. The source keeps its RAM until the end.

mod answers;
mod rooms;

pub use answers::{Cancelled, Outcome, Rejection};
pub use rooms::{Placement, Room, Size};

use rooms::Filling;

use super::view::MigrationView;
use crate::ids::{HostId, MigrationId, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many migrations may run at once. 0 counts as 1: a limit that stops everything is a mistake
/// the scenario check refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In the whole cluster.
    pub parallel: u32,
    /// Out of and into one host, together.
    pub parallel_per_host: u32,
    /// Out of one host.
    pub outbound_per_host: Option<u32>,
}

/// An accepted move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its number: from 1, in the order of acceptance.
    pub id: MigrationId,
    /// What is moved.
    pub vm: VmId,
    /// From.
    pub source: HostId,
    /// To.
    pub destination: HostId,
    /// Why.
    pub reason: String,
    /// It has begun.
    pub running: bool,
}

/// The arbiter.
#[derive(Debug, Clone)]
pub struct Mover {
    limits: Limits,
    hosts: Vec<Filling>,
    vms: Vec<Placement>,
    /// Queued and running, by number, which is the order of the queue.
    moves: BTreeMap<MigrationId, Move>,
    by_vm: BTreeMap<VmId, MigrationId>,
    running: u32,
    last_id: u32,
}

impl Mover {
    /// Hosts by what they admit, VMs by where they start and their size; indices are the ids.
    ///
    /// # Panics
    /// When a VM starts on a host that does not exist: a checked scenario has none.
    #[must_use]
    pub fn new(limits: Limits, rooms: &[Room], vms: &[(HostId, Size)]) -> Self {
        let empty = |&room: &Room| Filling {
            room,
            used_bytes: 0,
            reserved_bytes: 0,
            vcpus: 0,
            running: 0,
            outgoing: 0,
            lost: false,
        };
        let mut hosts: Vec<Filling> = rooms.iter().map(empty).collect();
        let vms = vms.iter().map(|&(host, Size { ram_bytes, vcpus })| {
            hosts[host.index()].used_bytes += ram_bytes;
            hosts[host.index()].vcpus += u64::from(vcpus);
            Placement {
                host,
                ram_bytes,
                vcpus,
                gone: false,
            }
        });
        let vms = vms.collect();
        let (moves, by_vm) = (BTreeMap::new(), BTreeMap::new());
        Self {
            limits,
            hosts,
            vms,
            moves,
            by_vm,
            running: 0,
            last_id: 0,
        }
    }

    /// The arbiter of a manager that has asked the hosts: where VMs were found (nowhere: gone), which
    /// moves run, which hosts do not answer. Numbers go on after `last_id`.
    #[must_use]
    pub fn recovered(
        limits: Limits,
        rooms: &[Room],
        found: &[(Option<HostId>, Size)],
        running: Vec<Move>,
        lost: impl IntoIterator<Item = HostId>,
        last_id: u32,
    ) -> Self {
        let mut mover = Self::new(limits, rooms, &[]);
        for host in lost {
            if let Some(host) = mover.hosts.get_mut(host.index()) {
                host.lost = true;
            }
        }
        for &(host, Size { ram_bytes, vcpus }) in found {
            if let Some(filling) = host.and_then(|host| mover.hosts.get_mut(host.index())) {
                filling.used_bytes += ram_bytes;
                filling.vcpus += u64::from(vcpus);
            }
            mover.vms.push(Placement {
                host: host.unwrap_or(HostId(0)),
                ram_bytes,
                vcpus,
                gone: host.is_none(),
            });
        }
        for of in running {
            let placement = mover.vms[of.vm.index()];
            let destination = &mut mover.hosts[of.destination.index()];
            destination.reserved_bytes += placement.ram_bytes;
            destination.vcpus += u64::from(placement.vcpus);
            destination.running += 1;
            mover.hosts[of.source.index()].running += 1;
            mover.hosts[of.source.index()].outgoing += 1;
            mover.running += 1;
            mover.by_vm.insert(of.vm, of.id);
            mover.moves.insert(of.id, of);
        }
        mover.last_id = last_id;
        mover
    }

    /// The number of the move accepted last.
    #[must_use]
    pub fn last_id(&self) -> u32 {
        self.last_id
    }

    /// Accepts a move, or says why not. An accepted one ends exactly once, through
    /// [`cancel`](Self::cancel) while queued or [`ended`](Self::ended) after its start.
    ///
    /// # Errors
    /// The reason for the refusal; nothing has changed then.
    pub fn request(
        &mut self,
        vm: VmId,
        destination: HostId,
        reason: String,
    ) -> Result<MigrationId, Rejection> {
        let placement = *self.vms.get(vm.index()).ok_or(Rejection::UnknownVm(vm))?;
        let room = self
            .hosts
            .get_mut(destination.index())
            .ok_or(Rejection::UnknownHost(destination))?;
        if placement.gone {
            return Err(Rejection::Gone(vm));
        }
        if let Some(&migration) = self.by_vm.get(&vm) {
            return Err(Rejection::AlreadyMigrating { vm, migration });
        }
        if placement.host == destination {
            return Err(Rejection::SameHost {
                vm,
                host: destination,
            });
        }
        if room.lost {
            return Err(Rejection::HostLost(destination));
        }
        room.admits(vm, destination, &placement)?;
        room.reserved_bytes += placement.ram_bytes;
        room.vcpus += u64::from(placement.vcpus);
        self.last_id += 1;
        let id = MigrationId(self.last_id);
        let source = placement.host;
        self.moves.insert(
            id,
            Move {
                id,
                vm,
                source,
                destination,
                reason,
                running: false,
            },
        );
        self.by_vm.insert(vm, id);
        Ok(id)
    }

    /// Takes a queued move out, or says that a running one must be stopped.
    ///
    /// # Errors
    /// When it is neither queued nor running.
    pub fn cancel(&mut self, id: MigrationId) -> Result<Cancelled, Rejection> {
        match self.moves.get(&id) {
            None => Err(Rejection::UnknownMigration(id)),
            Some(found) if found.running => Ok(Cancelled::Stop(id)),
            Some(_) => self.finish(id, Outcome::Stayed).map(Cancelled::Dequeued),
        }
    }

    /// Starts every queued move the limits allow, in the order of acceptance. One that waits for
    /// a busy host does not hold up those behind it.
    pub fn start(&mut self) -> Vec<Move> {
        let (all, per_host) = (
            self.limits.parallel.max(1),
            self.limits.parallel_per_host.max(1),
        );
        let mut started = Vec::new();
        for queued in self.moves.values_mut().filter(|queued| !queued.running) {
            if self.running >= all {
                break;
            }
            let (source, destination) = (queued.source.index(), queued.destination.index());
            let busy = self.hosts[source]
                .running
                .max(self.hosts[destination].running);
            let outgoing = self.hosts[source].outgoing;
            let outbound = self.limits.outbound_per_host;
            if busy >= per_host || outbound.is_some_and(|most| outgoing >= most.max(1)) {
                continue;
            }
            self.hosts[source].outgoing += 1;
            self.hosts[source].running += 1;
            self.hosts[destination].running += 1;
            self.running += 1;
            queued.running = true;
            started.push(queued.clone());
        }
        started
    }

    /// A running move has ended: placement and reservation follow. Call [`start`](Self::start)
    /// next.
    ///
    /// # Errors
    /// When no such move is running; nothing has changed then.
    pub fn ended(&mut self, id: MigrationId, outcome: Outcome) -> Result<Move, Rejection> {
        match self.moves.get(&id) {
            Some(found) if found.running => self.finish(id, outcome),
            _ => Err(Rejection::UnknownMigration(id)),
        }
    }

    fn finish(&mut self, id: MigrationId, outcome: Outcome) -> Result<Move, Rejection> {
        let done = self
            .moves
            .remove(&id)
            .ok_or(Rejection::UnknownMigration(id))?;
        self.by_vm.remove(&done.vm);
        if done.running {
            self.running -= 1;
            self.hosts[done.source.index()].running -= 1;
            self.hosts[done.source.index()].outgoing -= 1;
            self.hosts[done.destination.index()].running -= 1;
        }
        let placement = &mut self.vms[done.vm.index()];
        let (ram_bytes, vcpus) = (placement.ram_bytes, u64::from(placement.vcpus));
        self.hosts[done.destination.index()].reserved_bytes -= ram_bytes;
        self.hosts[done.destination.index()].vcpus -= vcpus;
        let owner = if outcome == Outcome::Moved {
            done.destination
        } else {
            done.source
        };
        // Whoever owns it on a host that has died meanwhile owns nothing.
        let outcome = if self.hosts[owner.index()].lost {
            Outcome::Gone
        } else {
            outcome
        };
        match outcome {
            Outcome::Stayed => {}
            Outcome::Moved => {
                placement.host = done.destination;
                self.hosts[done.source.index()].used_bytes -= ram_bytes;
                self.hosts[done.source.index()].vcpus -= vcpus;
                self.hosts[done.destination.index()].used_bytes += ram_bytes;
                self.hosts[done.destination.index()].vcpus += vcpus;
            }
            Outcome::Gone => {
                placement.gone = true;
                self.hosts[done.source.index()].used_bytes -= ram_bytes;
                self.hosts[done.source.index()].vcpus -= vcpus;
            }
        }
        Ok(done)
    }

    /// A host has died. Its VMs that are not being moved are gone, queued moves from or to it are
    /// dropped. Running ones end through [`ended`](Self::ended), with whatever the two ends agreed.
    /// Returns the VMs that are gone and the moves dropped.
    pub fn host_lost(&mut self, host: HostId) -> (Vec<VmId>, Vec<Move>) {
        if host.index() >= self.hosts.len() {
            return Default::default();
        }
        let queued = self.moves.values().filter(|queued| !queued.running);
        let touched = queued.filter(|queued| queued.source == host || queued.destination == host);
        let ids: Vec<_> = touched.map(|queued| queued.id).collect();
        let mut dropped = Vec::new();
        for id in ids {
            dropped.extend(self.finish(id, Outcome::Stayed));
        }
        self.hosts[host.index()].lost = true;
        let mut gone = Vec::new();
        for (vm, placement) in (0..).map(VmId).zip(&mut self.vms) {
            if placement.host == host && !placement.gone && !self.by_vm.contains_key(&vm) {
                placement.gone = true;
                self.hosts[host.index()].used_bytes -= placement.ram_bytes;
                self.hosts[host.index()].vcpus -= u64::from(placement.vcpus);
                gone.push(vm);
            }
        }
        (gone, dropped)
    }

    /// Where every VM is, by id.
    #[must_use]
    pub fn placements(&self) -> &[Placement] {
        &self.vms
    }

    /// Queued and running moves, as a balancer sees them.
    #[must_use]
    pub fn migrations(&self) -> Vec<MigrationView> {
        let view = |m: &Move| MigrationView {
            id: m.id,
            vm: m.vm,
            source: m.source,
            destination: m.destination,
            running: m.running,
        };
        self.moves.values().map(view).collect()
    }

    /// RAM of a host taken by VMs on it and on their way to it.
    #[must_use]
    pub fn ram_committed_bytes(&self, host: HostId) -> u64 {
        self.hosts
            .get(host.index())
            .map_or(0, |room| room.used_bytes + room.reserved_bytes)
    }

    /// Moves that run now.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Nothing queued, nothing running.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.moves.is_empty()
    }
}

#[cfg(test)]
mod tests;
