//! Every interleaving of a post-copy: package, pulled pages, cuts and recoveries, deaths, and the
//! control plane.

use super::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    source: SourceSide,
    source_alive: bool,
    destination: DestinationSide,
    destination_alive: bool,
    /// The package: not sent, on its way, there.
    package: Package,
    /// Pages are missing at the destination.
    missing: bool,
    connected: bool,
    /// Words on their way back.
    started: bool,
    shut: Option<bool>,
    /// In the control plane's hands.
    record: bool,
    /// The destination has told the control plane that it is through: with everything, or not.
    through: Option<bool>,
    /// The control plane told the source that it may drop its copy.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Package {
    Unsent,
    Flying,
    There,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Pause,
    Package,
    Deliver,
    Commit,
    CommitRefused,
    ReadStarted,
    /// The last missing page arrives, and the destination says so.
    LastPage,
    ReadShut,
    SourceFails,
    Cut,
    /// A new connection: the destination tells what it has, which also says that it runs.
    Recover,
    /// The destination waited too long, or was told to give up: the guest is lost.
    GiveUp,
    DestinationFails,
    SourceDies,
    DestinationDies,
    Resolve,
}

const ACTS: [Act; 16] = [
    Act::Pause,
    Act::Package,
    Act::Deliver,
    Act::Commit,
    Act::CommitRefused,
    Act::ReadStarted,
    Act::LastPage,
    Act::ReadShut,
    Act::SourceFails,
    Act::Cut,
    Act::Recover,
    Act::GiveUp,
    Act::DestinationFails,
    Act::SourceDies,
    Act::DestinationDies,
    Act::Resolve,
];

impl World {
    fn start() -> Self {
        Self {
            source: SourceSide::Running,
            source_alive: true,
            destination: DestinationSide::Loading,
            destination_alive: true,
            package: Package::Unsent,
            missing: true,
            connected: true,
            started: false,
            shut: None,
            record: false,
            through: None,
            told: false,
        }
    }

    fn source_on(mut self, event: SourceEvent) -> Self {
        self.source = self.source.on(event).0;
        self
    }

    fn gate(self, act: impl FnOnce(&CommitGate)) -> DestinationSide {
        let gate = CommitGate {
            side: Mutex::new(self.destination),
        };
        act(&gate);
        gate.side()
    }

    fn committed(&self) -> bool {
        self.destination == DestinationSide::Committed
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each act")]
    fn after(self, act: Act) -> Option<Self> {
        let loading = self.destination_alive && self.destination == DestinationSide::Loading;
        let pulling = self.destination_alive && self.committed() && self.through.is_none();
        let mut next = self;
        match act {
            Act::Pause if self.source_alive => return Some(self.source_on(SourceEvent::Pause)),
            Act::Package if self.source_alive && self.source == SourceSide::Paused => {
                if self.connected {
                    next.package = Package::Flying;
                }
                return Some(next.source_on(SourceEvent::Package));
            }
            Act::Deliver if self.package == Package::Flying => next.package = Package::There,
            Act::Commit if loading && self.package == Package::There => {
                next.destination = self.gate(|gate| {
                    gate.commit(|| Ok::<(), ()>(())).unwrap();
                });
                next.record = next.committed();
                next.started = self.connected;
            }
            Act::CommitRefused if loading && self.package == Package::There => {
                next.destination = self.gate(|gate| {
                    gate.commit(|| Err::<(), ()>(())).unwrap_err();
                });
                next.shut = self.connected.then_some(false);
                next.through = Some(false);
            }
            Act::DestinationFails if loading => {
                next.destination = self.gate(|gate| assert!(!gate.abandon()));
                next.shut = self.connected.then_some(false);
                next.through = Some(false);
            }
            Act::ReadStarted if self.source_alive && self.started => {
                next.started = false;
                return Some(next.source_on(SourceEvent::Started));
            }
            Act::LastPage if pulling && self.connected && self.source_alive && self.missing => {
                next.missing = false;
                next.through = Some(true);
                next.shut = Some(true);
            }
            Act::ReadShut if self.source_alive && self.shut.is_some() && !self.started => {
                let event = match next.shut.take() {
                    Some(true) => SourceEvent::Acknowledged,
                    _ => SourceEvent::Refused,
                };
                return Some(next.source_on(event));
            }
            Act::SourceFails if self.source_alive => {
                (next.connected, next.started, next.shut) = (false, false, None);
                return Some(next.source_on(SourceEvent::Failed));
            }
            // What was on its way back is lost with the connection.
            Act::Cut => (next.connected, next.started, next.shut) = (false, false, None),
            Act::Recover
                if pulling
                    && matches!(self.source, SourceSide::Doubtful | SourceSide::Interrupted)
                    && self.source_alive =>
            {
                next.connected = true;
                return Some(next.source_on(SourceEvent::Started));
            }
            Act::GiveUp if pulling && self.missing => {
                next.through = Some(false);
                next.connected = false;
            }
            Act::SourceDies if self.source_alive => next.source_alive = false,
            Act::DestinationDies if self.destination_alive => next.destination_alive = false,
            // As `run/book.rs` does: a source in doubt is told once the destination is through.
            Act::Resolve
                if self.source_alive
                    && matches!(self.source, SourceSide::Doubtful | SourceSide::Interrupted)
                    && (self.through.is_some() || !self.destination_alive || loading) =>
            {
                if self.destination_alive {
                    next.destination = self.gate(|gate| {
                        let _ = gate.abandon();
                    });
                }
                let committed = if self.destination_alive {
                    next.committed()
                } else {
                    self.record
                };
                next.told = committed;
                return Some(next.source_on(SourceEvent::Resolved { committed }));
            }
            _ => return None,
        }
        Some(next)
    }

    /// Copies of the guest that run; one at the destination does until it is given up.
    fn running(&self) -> usize {
        let given_up = self.through == Some(false);
        usize::from(self.source_alive && self.source.runs())
            + usize::from(self.destination_alive && self.committed() && !given_up)
    }
}

fn reachable() -> BTreeSet<World> {
    let mut seen = BTreeSet::from([World::start()]);
    let mut open = vec![World::start()];
    while let Some(world) = open.pop() {
        for act in ACTS {
            if let Some(next) = world.after(act)
                && seen.insert(next)
            {
                open.push(next);
            }
        }
    }
    seen
}

#[test]
fn no_interleaving_of_a_post_copy_runs_two_copies() {
    let worlds = reachable();
    assert!(worlds.len() > 200, "{} worlds", worlds.len());
    for world in worlds {
        assert!(world.running() <= 1, "{world:?}");
        if world.committed() {
            assert!(!world.source.runs(), "{world:?}");
        }
    }
}

/// Only a destination that lacks nothing, or one that will never ask again, lets the source drop it.
#[test]
fn the_source_keeps_its_copy_while_pages_are_missing() {
    for world in reachable() {
        if world.source == SourceSide::Released {
            assert!(!world.missing || world.told, "{world:?}");
        }
    }
}

#[test]
fn a_post_copy_that_nobody_ended_is_held_or_attributed() {
    for world in reachable().into_iter().filter(|w| w.running() == 0) {
        let source_died = !world.source_alive;
        let destination_died = world.record && !world.destination_alive;
        let given_up = world.record && world.through == Some(false);
        // The guest stands still at a living source that waits for a word or a time-out.
        let held = world.source_alive && world.source != SourceSide::Released;
        assert!(
            source_died || destination_died || given_up || held,
            "{world:?}"
        );
    }
}

/// With both ends alive a cut is not the end: from every such world pages can be served again.
#[test]
fn an_interrupted_post_copy_can_be_taken_up_again() {
    let cut: Vec<_> = reachable()
        .into_iter()
        .filter(|w| w.source_alive && w.destination_alive && w.through.is_none())
        .filter(|w| w.committed() && w.source == SourceSide::Interrupted)
        .collect();
    assert!(!cut.is_empty());
    for world in cut {
        let again = world.after(Act::Recover).unwrap();
        assert_eq!(again.source, SourceSide::Serving, "{world:?}");
        let done = again.after(Act::LastPage).unwrap();
        let done = done.after(Act::ReadShut).unwrap();
        assert_eq!(done.source, SourceSide::Released, "{done:?}");
    }
}

#[test]
fn once_the_destination_has_started_no_event_resumes_the_source() {
    let events = [
        SourceEvent::Pause,
        SourceEvent::LastByte,
        SourceEvent::Package,
        SourceEvent::Started,
        SourceEvent::Acknowledged,
        SourceEvent::Refused,
        SourceEvent::Failed,
        SourceEvent::Resolved { committed: true },
        SourceEvent::Resolved { committed: false },
    ];
    for side in [
        SourceSide::Serving,
        SourceSide::Interrupted,
        SourceSide::Released,
    ] {
        for event in events {
            let (next, action) = side.on(event);
            assert!(!next.runs() && action != SourceAction::Resume, "{side:?}");
        }
    }
}
