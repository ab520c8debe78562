//! Every interleaving of both ends, the connection, deaths and the control plane.

use super::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    source: SourceSide,
    source_alive: bool,
    destination: DestinationSide,
    destination_alive: bool,
    /// Bytes of the stream: missing, on their way, all there.
    stream: Stream,
    connected: bool,
    /// On the return path.
    shut: Option<bool>,
    /// The destination's record in the control plane's hands.
    record: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    Missing,
    Flying,
    Complete,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Pause,
    LastByte,
    Deliver,
    Commit,
    CommitRefused,
    ReadShut,
    /// Error, cancel or time-out at the source.
    SourceFails,
    DestinationFails,
    Cut,
    SourceDies,
    DestinationDies,
    /// The control plane asks the destination to abandon and tells the source.
    Resolve,
}

const ACTS: [Act; 12] = [
    Act::Pause,
    Act::LastByte,
    Act::Deliver,
    Act::Commit,
    Act::CommitRefused,
    Act::ReadShut,
    Act::SourceFails,
    Act::DestinationFails,
    Act::Cut,
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
            stream: Stream::Missing,
            connected: true,
            shut: None,
            record: false,
        }
    }

    fn source_on(mut self, event: SourceEvent) -> Self {
        self.source = self.source.on(event).0;
        self
    }

    /// The gate itself is used, as the destination uses it.
    fn gate(self, act: impl FnOnce(&CommitGate)) -> DestinationSide {
        let gate = CommitGate {
            side: Mutex::new(self.destination),
        };
        act(&gate);
        gate.side()
    }

    fn after(self, act: Act) -> Option<Self> {
        let loading = self.destination_alive && self.destination == DestinationSide::Loading;
        let mut next = self;
        match act {
            Act::Pause if self.source_alive => return Some(self.source_on(SourceEvent::Pause)),
            Act::LastByte if self.source_alive && self.source == SourceSide::Paused => {
                // Whether it arrives is the network's affair, also when the connection is gone.
                if self.connected {
                    next.stream = Stream::Flying;
                }
                return Some(next.source_on(SourceEvent::LastByte));
            }
            // Bytes in flight may arrive after the source has seen a cut.
            Act::Deliver if self.stream == Stream::Flying => next.stream = Stream::Complete,
            Act::Commit if loading && self.stream == Stream::Complete => {
                next.destination = self.gate(|gate| {
                    gate.commit(|| Ok::<(), ()>(())).unwrap();
                });
                next.record = next.destination == DestinationSide::Committed;
                next.shut = self.connected.then_some(true);
            }
            Act::CommitRefused if loading && self.stream == Stream::Complete => {
                next.destination = self.gate(|gate| {
                    gate.commit(|| Err::<(), ()>(())).unwrap_err();
                });
                next.shut = self.connected.then_some(false);
            }
            Act::ReadShut if self.source_alive && self.shut.is_some() => {
                let event = match next.shut.take() {
                    Some(true) => SourceEvent::Acknowledged,
                    _ => SourceEvent::Refused,
                };
                return Some(next.source_on(event));
            }
            Act::SourceFails if self.source_alive => {
                next.connected = false;
                return Some(next.source_on(SourceEvent::Failed));
            }
            Act::DestinationFails if loading => {
                next.destination = self.gate(|gate| assert!(!gate.abandon()));
                next.shut = self.connected.then_some(false);
            }
            Act::Cut => next.connected = false,
            Act::SourceDies if self.source_alive => next.source_alive = false,
            Act::DestinationDies if self.destination_alive => next.destination_alive = false,
            Act::Resolve if self.source_alive && self.source == SourceSide::Undecided => {
                let committed = if self.destination_alive {
                    next.destination = self.gate(|gate| {
                        let _ = gate.abandon();
                    });
                    next.destination == DestinationSide::Committed
                } else {
                    self.record
                };
                return Some(next.source_on(SourceEvent::Resolved { committed }));
            }
            _ => return None,
        }
        Some(next)
    }

    fn running(&self) -> usize {
        usize::from(self.source_alive && self.source.runs())
            + usize::from(self.destination_alive && self.destination == DestinationSide::Committed)
    }

    /// Nothing is left to happen by itself.
    fn settled(&self) -> bool {
        let done = |act| self.after(act).is_none_or(|next| next == *self);
        done(Act::Deliver) && done(Act::Commit) && done(Act::ReadShut) && done(Act::Resolve)
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
fn no_interleaving_runs_two_copies() {
    let worlds = reachable();
    assert!(worlds.len() > 100, "{} worlds", worlds.len());
    for world in worlds {
        assert!(world.running() <= 1, "{world:?}");
        if world.destination == DestinationSide::Committed {
            assert!(!world.source.runs(), "{world:?}");
        }
    }
}

#[test]
fn no_interleaving_loses_a_guest_silently() {
    for world in reachable().into_iter().filter(World::settled) {
        if world.running() == 1 {
            continue;
        }
        // Nobody runs it: either the host that owned it died, which attributes the loss, or a
        // living source still holds it paused and waits for a word or a time-out.
        let source_owned_and_died = !world.source_alive;
        let destination_owned_and_died =
            world.destination == DestinationSide::Committed && !world.destination_alive;
        let held =
            world.source_alive && matches!(world.source, SourceSide::Paused | SourceSide::Waiting);
        assert!(
            source_owned_and_died || destination_owned_and_died || held,
            "{world:?}"
        );
        if destination_owned_and_died {
            assert!(world.record, "{world:?}: the record must tell who owned it");
        }
    }
}

#[test]
fn a_held_guest_runs_again_after_a_failure_and_a_word() {
    for world in reachable()
        .into_iter()
        .filter(|world| world.source_alive && world.destination_alive)
    {
        let failed = world.after(Act::SourceFails).unwrap();
        let resolved = failed.after(Act::Resolve).unwrap_or(failed);
        let released = resolved.source == SourceSide::Released;
        assert!(
            resolved.source.runs() || released,
            "{world:?} → {resolved:?}"
        );
        assert_eq!(
            released,
            resolved.destination == DestinationSide::Committed,
            "{resolved:?}"
        );
    }
}

/// The promise the model rests on.
#[test]
fn whoever_comes_first_at_the_gate_decides() {
    let gate = CommitGate::default();
    assert!(!gate.abandon());
    let ran = gate.commit(|| -> Result<(), ()> {
        panic!("an abandoned migration must not start the guest");
    });
    assert_eq!(ran, Ok(None));
    let gate = CommitGate::default();
    assert_eq!(gate.commit(|| Ok::<_, ()>(5)), Ok(Some(5)));
    assert!(gate.abandon());
    let gate = CommitGate::default();
    assert_eq!(gate.commit(|| Err::<(), _>("refused")), Err("refused"));
    assert!(!gate.abandon());
    assert_eq!(gate.side(), DestinationSide::Abandoned);
}

#[test]
fn a_guest_whose_process_died_never_runs_there_again() {
    use SourceEvent::*;
    let alive = [
        SourceSide::Running,
        SourceSide::Paused,
        SourceSide::Waiting,
        SourceSide::Undecided,
    ];
    for side in alive {
        assert_eq!(side.on(Crashed), (SourceSide::Dead, SourceAction::None));
    }
    let released = (SourceSide::Released, SourceAction::None);
    assert_eq!(SourceSide::Released.on(Crashed), released, "it had gone");
    let resolved = [Resolved { committed: false }, Resolved { committed: true }];
    let events = [Pause, LastByte, Acknowledged, Refused, Failed];
    for event in events.into_iter().chain(resolved) {
        assert_eq!(
            SourceSide::Dead.on(event),
            (SourceSide::Dead, SourceAction::None)
        );
    }
}
