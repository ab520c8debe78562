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
}

/// Where a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The host; the source while the VM migrates; the last one when it is gone.
    pub host: HostId,
    /// RAM it takes there.
    pub ram_bytes: u64,
    /// Lost or stranded.
    pub gone: bool,
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

/// Why an action was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such VM.
    #[error("{0} does not exist")]
    UnknownVm(VmId),
    /// No such host.
    #[error("{0} does not exist")]
    UnknownHost(HostId),
    /// The host has been lost.
    #[error("{0} is lost")]
    HostLost(HostId),
    /// The VM is lost or stranded.
    #[error("{0} is gone")]
    Gone(VmId),
    /// It is there already.
    #[error("{vm} is on {host} already")]
    SameHost {
        /// The VM.
        vm: VmId,
        /// The host.
        host: HostId,
    },
    /// One migration per VM.
    #[error("{vm} is being moved by {migration}")]
    AlreadyMigrating {
        /// The VM.
        vm: VmId,
        /// By which migration.
        migration: MigrationId,
    },
    /// Not enough RAM, counting what is on its way there.
    #[error("{vm} needs {needed_bytes} bytes of RAM; {host} has {free_bytes} left")]
    NoRam {
        /// The VM.
        vm: VmId,
        /// The destination.
        host: HostId,
        /// RAM of the VM.
        needed_bytes: u64,
        /// Not used and not reserved.
        free_bytes: u64,
    },
    /// No such migration queued or running.
    #[error("{0} is neither queued nor running")]
    UnknownMigration(MigrationId),
}

/// What cancelling comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun: it has ended, the VM stays.
    Dequeued(Move),
    /// It runs: stop it, then report its end as usual.
    Stop(MigrationId),
}

/// How a migration ended, as far as placement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The destination owns the VM.
    Moved,
    /// The source owns it still.
    Stayed,
    /// Nobody does, or nobody can vouch for it.
    Gone,
}

#[derive(Debug, Clone)]
struct Room {
    ram_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    running: u32,
    lost: bool,
}

/// The arbiter.
#[derive(Debug, Clone)]
pub struct Mover {
    limits: Limits,
    hosts: Vec<Room>,
    vms: Vec<Placement>,
    /// Queued and running, by number, which is the order of the queue.
    moves: BTreeMap<MigrationId, Move>,
    by_vm: BTreeMap<VmId, MigrationId>,
    running: u32,
    last_id: u32,
}

impl Mover {
    /// Hosts by their RAM, VMs by where they start and their RAM; indices are the ids.
    ///
    /// # Panics
    /// When a VM starts on a host that does not exist: a checked scenario has none.
    #[must_use]
    pub fn new(limits: Limits, host_ram_bytes: &[u64], vms: &[(HostId, u64)]) -> Self {
        let room = |&ram_bytes: &u64| Room {
            ram_bytes,
            used_bytes: 0,
            reserved_bytes: 0,
            running: 0,
            lost: false,
        };
        let mut hosts: Vec<Room> = host_ram_bytes.iter().map(room).collect();
        let vms = vms.iter().map(|&(host, ram_bytes)| {
            hosts[host.index()].used_bytes += ram_bytes;
            Placement {
                host,
                ram_bytes,
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
        let free_bytes = room
            .ram_bytes
            .saturating_sub(room.used_bytes + room.reserved_bytes);
        let needed_bytes = placement.ram_bytes;
        if needed_bytes > free_bytes {
            return Err(Rejection::NoRam {
                vm,
                host: destination,
                needed_bytes,
                free_bytes,
            });
        }
        room.reserved_bytes += needed_bytes;
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
            if busy >= per_host {
                continue;
            }
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
            self.hosts[done.destination.index()].running -= 1;
        }
        let placement = &mut self.vms[done.vm.index()];
        let ram_bytes = placement.ram_bytes;
        self.hosts[done.destination.index()].reserved_bytes -= ram_bytes;
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
                self.hosts[done.destination.index()].used_bytes += ram_bytes;
            }
            Outcome::Gone => {
                placement.gone = true;
                self.hosts[done.source.index()].used_bytes -= ram_bytes;
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ROOM: u64 = 8;

    fn mover(parallel: u32, parallel_per_host: u32) -> Mover {
        let vms: Vec<_> = (0..9)
            .map(|i| (HostId(i % 3), u64::from(i % 3 + 1)))
            .collect();
        Mover::new(
            Limits {
                parallel,
                parallel_per_host,
            },
            &[ROOM, ROOM, ROOM + 2],
            &vms,
        )
    }

    fn ask(mover: &mut Mover, vm: u32, host: u32) -> Result<MigrationId, Rejection> {
        mover.request(VmId(vm), HostId(host), "test".to_owned())
    }

    #[test]
    fn each_reason_for_refusal_is_named() {
        let mut m = mover(1, 1);
        assert_eq!(ask(&mut m, 99, 0), Err(Rejection::UnknownVm(VmId(99))));
        assert_eq!(ask(&mut m, 0, 9), Err(Rejection::UnknownHost(HostId(9))));
        assert_eq!(
            ask(&mut m, 0, 0),
            Err(Rejection::SameHost {
                vm: VmId(0),
                host: HostId(0)
            })
        );
        let first = ask(&mut m, 0, 1).unwrap();
        assert_eq!(
            ask(&mut m, 0, 2),
            Err(Rejection::AlreadyMigrating {
                vm: VmId(0),
                migration: first
            })
        );
        // Host 1 holds 3 × 2 of 8 and 1 is on its way: 1 is left, not 3.
        let refused = ask(&mut m, 2, 1).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "vm#2 needs 3 bytes of RAM; host#1 has 1 left",
        );
        assert_eq!(
            m.cancel(MigrationId(7)),
            Err(Rejection::UnknownMigration(MigrationId(7)))
        );
    }

    #[test]
    fn a_busy_host_does_not_hold_up_the_others() {
        let vms: Vec<_> = (0..4).map(|i| (HostId(i / 2), 1)).collect();
        let mut m = Mover::new(
            Limits {
                parallel: 2,
                parallel_per_host: 1,
            },
            &[9; 4],
            &vms,
        );
        let a = ask(&mut m, 0, 1).unwrap();
        let b = ask(&mut m, 1, 2).unwrap(); // source host 0 is busy with a
        assert_eq!(m.start().iter().map(|s| s.id).collect::<Vec<_>>(), [a]);
        m.ended(a, Outcome::Stayed).unwrap();
        let c = ask(&mut m, 2, 3).unwrap();
        assert_eq!(m.start().iter().map(|s| s.id).collect::<Vec<_>>(), [b, c]);
    }

    #[test]
    fn a_failed_move_leaves_everything_as_it_was() {
        let mut m = mover(1, 1);
        let before = (m.placements().to_vec(), m.ram_committed_bytes(HostId(1)));
        let id = ask(&mut m, 0, 1).unwrap();
        assert_eq!(m.start().len(), 1);
        assert_eq!(m.cancel(id), Ok(Cancelled::Stop(id)));
        m.ended(id, Outcome::Stayed).unwrap();
        assert_eq!(
            (m.placements().to_vec(), m.ram_committed_bytes(HostId(1))),
            before
        );
        assert_eq!(
            m.ended(id, Outcome::Moved),
            Err(Rejection::UnknownMigration(id))
        );
        ask(&mut m, 0, 1).unwrap();
    }

    #[test]
    fn a_lost_host_takes_its_vms_but_not_those_on_their_way_out() {
        let mut m = mover(1, 1);
        let leaving = ask(&mut m, 0, 1).unwrap();
        m.start();
        let queued = ask(&mut m, 3, 2).unwrap();
        let (gone, dropped) = m.host_lost(HostId(0));
        assert_eq!(gone, [VmId(3), VmId(6)]);
        assert_eq!(dropped.iter().map(|d| d.id).collect::<Vec<_>>(), [queued]);
        m.ended(leaving, Outcome::Moved).unwrap();
        assert_eq!(
            m.placements()[0],
            Placement {
                host: HostId(1),
                ram_bytes: 1,
                gone: false
            }
        );
        let stuck = ask(&mut m, 0, 2).unwrap();
        m.start();
        assert_eq!(m.host_lost(HostId(1)).0, [VmId(1), VmId(4), VmId(7)]);
        m.ended(stuck, Outcome::Stayed).unwrap();
        assert!(m.placements()[0].gone, "it stayed on a host that has died");
        assert_eq!(ask(&mut m, 2, 0), Err(Rejection::HostLost(HostId(0))));
        assert_eq!(ask(&mut m, 3, 1), Err(Rejection::Gone(VmId(3))));
        assert_eq!(m.ram_committed_bytes(HostId(0)), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u32, u32),
        Start,
        End(usize, Outcome),
        Cancel(usize),
        Lose(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let outcome = prop_oneof![4 => Just(Outcome::Moved), 2 => Just(Outcome::Stayed), 1 => Just(Outcome::Gone)];
        let step = prop_oneof![
            6 => (0..10u32, 0..4u32).prop_map(|(v, h)| Step::Ask(v, h)),
            4 => Just(Step::Start),
            4 => (0..8usize, outcome).prop_map(|(i, o)| Step::End(i, o)),
            1 => (0..8usize).prop_map(Step::Cancel),
            1 => (0..40u32).prop_map(Step::Lose),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// What the mover says against a count made from its answers alone.
    fn holds(m: &Mover, open: &BTreeSet<MigrationId>, parallel: u32, per_host: u32) {
        let now = m.migrations();
        assert_eq!(now.iter().map(|v| v.id).collect::<BTreeSet<_>>(), *open);
        let running: Vec<_> = now.iter().filter(|v| v.running).collect();
        assert!(running.len() <= parallel as usize);
        assert_eq!(running.len(), m.running() as usize);
        let vms: BTreeSet<_> = now.iter().map(|v| v.vm).collect();
        assert_eq!(vms.len(), now.len(), "two migrations of one VM");
        for host in (0..3).map(HostId) {
            let at = |v: &&&MigrationView| v.source == host || v.destination == host;
            assert!(running.iter().filter(at).count() <= per_host as usize);
            let placed = m.placements().iter().filter(|p| p.host == host && !p.gone);
            let incoming = now.iter().filter(|v| v.destination == host);
            let ram: u64 = placed.map(|p| p.ram_bytes).sum::<u64>()
                + incoming
                    .map(|v| m.placements()[v.vm.index()].ram_bytes)
                    .sum::<u64>();
            assert_eq!(ram, m.ram_committed_bytes(host));
            assert!(ram <= if host.0 == 2 { ROOM + 2 } else { ROOM });
        }
    }

    proptest! {
        #[test]
        fn limits_and_ram_hold_and_every_accepted_move_ends_once(
            steps in steps(), parallel in 1..4u32, per_host in 1..3u32,
        ) {
            let mut m = mover(parallel, per_host);
            let mut open = BTreeSet::new();
            let mut ended = BTreeSet::new();
            for step in steps {
                let done = match step {
                    Step::Ask(vm, host) => {
                        open.extend(ask(&mut m, vm, host).ok());
                        vec![]
                    }
                    Step::Start => { m.start(); vec![] }
                    Step::End(i, outcome) => {
                        let id = m.migrations().get(i).map_or(MigrationId(0), |v| v.id);
                        m.ended(id, outcome).ok().into_iter().collect()
                    }
                    Step::Cancel(i) => {
                        let id = m.migrations().get(i).map_or(MigrationId(0), |v| v.id);
                        match m.cancel(id) {
                            Ok(Cancelled::Dequeued(done)) => vec![done],
                            _ => vec![],
                        }
                    }
                    Step::Lose(host) => m.host_lost(HostId(host)).1,
                };
                for done in done {
                    prop_assert!(open.remove(&done.id), "{} ended but was not open", done.id);
                    prop_assert!(ended.insert(done.id), "{} ended twice", done.id);
                }
                holds(&m, &open, parallel, per_host);
            }
            // Whatever is left can be run to its end.
            for _ in 0..open.len() {
                m.start();
                let running: Vec<_> = m.migrations().into_iter().filter(|v| v.running).collect();
                for view in running { m.ended(view.id, Outcome::Stayed).unwrap(); }
            }
            prop_assert!(m.is_idle());
        }
    }
}
