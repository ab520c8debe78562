//! Every fault at the beginning of every phase, over loopback: who has the guest then, never two,
//! and its next migration.

use super::*;
use crate::migration::faults::ParameterChange;
use crate::migration::params::{EngineKind, MemoryMode};
use crate::migration::record::{Owner, Phase};
use crate::migration::source::Observer;
use crate::migration::transport::Broken;
use std::io::Write;
use std::sync::atomic::AtomicBool;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    SourceCrash,
    DestinationCrash,
    SourceReset,
    DestinationReset,
    Refuse,
    Cancel,
    /// The destination's host is known to be dead.
    DestinationGone,
}

const BLOWS: [Blow; 7] = [
    Blow::SourceCrash,
    Blow::DestinationCrash,
    Blow::SourceReset,
    Blow::DestinationReset,
    Blow::Refuse,
    Blow::Cancel,
    Blow::DestinationGone,
];

/// Strikes once, in the thread that comes to the place.
struct Striker {
    at: Phase,
    blow: Blow,
    source: Arc<SourceControl>,
    destination: Arc<DestinationControl>,
    there: Arc<TestGuest>,
    struck: AtomicBool,
}

impl Striker {
    fn strike(&self) {
        assert!(
            !self.struck.swap(true, Ordering::SeqCst),
            "a phase begins once"
        );
        let crash = |guest: &TestGuest| SourceGuest::crash(guest);
        match self.blow {
            Blow::SourceCrash => self.source.break_off(Broken::Crashed),
            Blow::SourceReset => self.source.break_off(Broken::Reset),
            Blow::DestinationCrash => {
                if self.destination.break_off(Broken::Crashed) {
                    crash(&self.there);
                }
            }
            Blow::DestinationReset => {
                let committed = self.destination.break_off(Broken::Reset);
                assert!(committed || self.at != Phase::Resume);
                assert!(!committed || matches!(self.at, Phase::Resume | Phase::Pull));
            }
            Blow::Refuse => self.destination.refuse("no".to_owned()),
            Blow::Cancel => {
                let late = matches!(self.at, Phase::Resume | Phase::Pull);
                assert_eq!(self.source.cancel(), !late);
            }
            Blow::DestinationGone => {
                let _ = self.destination.break_off(Broken::Reset);
                self.source.break_off(Broken::PeerGone);
            }
        }
    }
}

impl Observer for Striker {
    fn before_phase(&self, phase: Phase) {
        if phase == self.at {
            self.strike();
        }
    }
}

/// A destination at which something happens between the commit and the word of it.
struct Struck(Arc<TestGuest>, Arc<Striker>);

impl DestinationGuest for Struck {
    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        self.0.commit_and_resume(state)
    }

    fn run_within(&self, limits: &[(usize, Limit)]) {
        self.0.run_within(limits);
    }

    fn standing(&self) -> Standing {
        self.0.standing()
    }

    fn give_up(&self) {
        self.0.give_up();
    }

    fn resumed(&self) {
        if self.1.at == Phase::Resume {
            self.1.strike();
        }
    }
}

/// One migration with one blow; the manager's part is done as `run/book` does it. The owner.
fn struck(world: &World, params: MigrationParams, at: Phase, blow: Blow) -> Owner {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap();
    let client = TcpStream::connect(port).unwrap();
    let (server, _) = listener.accept().unwrap();
    let (pulls, on_demand) = (params.may_postcopy(), params.pages_on_demand());
    let postcopy = params.postcopy;
    let mut source = world.source_job(params, client);
    source.redial = Some(Box::new(move || TcpStream::connect(port)));
    let control = Arc::<DestinationControl>::default();
    let striker = Arc::new(Striker {
        at,
        blow,
        source: Arc::clone(&source.control),
        destination: Arc::clone(&control),
        there: Arc::clone(&world.destination),
        struck: AtomicBool::new(false),
    });
    let destination = DestinationJob {
        guest: Arc::new(Struck(Arc::clone(&world.destination), Arc::clone(&striker))),
        control: Arc::clone(&control),
        postcopy,
        recover: Some(listener),
        ..world.destination_job(server)
    };
    let (mut sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &*striker);
        drop(source);
        (sent, receiving.join().unwrap())
    });
    let what = format!("{blow:?} at {at:?}: {:?}", sent.report.error);
    assert!(striker.struck.load(Ordering::SeqCst), "{what}");
    let committed = control.abandon();
    assert_eq!(committed, received.report.resumed_ns.is_some(), "{what}");
    if matches!(sent.end, SourceEnd::Completed | SourceEnd::Undecided) {
        sent.resolve(&*world.source, committed);
    }
    let (here, there) = (world.source.runs(), world.destination.runs());
    assert!(!(here && there), "{what}: two copies");
    let owner = match (here, there) {
        (true, _) => Owner::Source,
        (_, true) => Owner::Destination,
        _ => Owner::Lost,
    };
    let crashed = match blow {
        Blow::SourceCrash => sent.end == SourceEnd::Crashed,
        Blow::DestinationCrash => committed,
        // Its pages were at the source, which was told that nobody wants them.
        Blow::DestinationGone => committed && pulls,
        // Nothing takes its connection up again.
        Blow::SourceReset | Blow::DestinationReset => committed && on_demand,
        _ => false,
    };
    assert!(
        owner != Owner::Lost || crashed,
        "{what}: lost for no reason"
    );
    owner
}

fn expected(at: Phase, blow: Blow) -> Owner {
    match (at, blow) {
        (Phase::Resume, Blow::DestinationCrash) => Owner::Lost,
        (Phase::Resume, _) => Owner::Destination,
        (_, Blow::SourceCrash) => Owner::Lost,
        _ => Owner::Source,
    }
}

fn fast(engine: EngineKind) -> MigrationParams {
    MigrationParams {
        engine,
        load_time: 1,
        ..MigrationParams::default()
    }
}

#[test]
fn every_fault_at_every_phase_leaves_one_owner_or_a_reason() {
    for engine in [
        EngineKind::Qemu,
        EngineKind::Xen,
        EngineKind::CloudHypervisor,
    ] {
        for &at in Phase::ALL.iter().filter(|at| **at != Phase::Pull) {
            for blow in BLOWS {
                let world = World::new(1.0);
                let owner = struck(&world, fast(engine), at, blow);
                assert_eq!(owner, expected(at, blow), "{engine:?}: {blow:?} at {at:?}");
                goes_on(world, owner);
            }
        }
    }
}

fn goes_on(world: World, owner: Owner) {
    match owner {
        Owner::Source => world.next_migration_succeeds(),
        // What arrived goes back.
        Owner::Destination => World {
            source: Arc::clone(&world.destination),
            destination: Arc::clone(&world.source),
            ..world
        }
        .next_migration_succeeds(),
        Owner::Lost | Owner::Stranded => {
            assert_eq!(world.running.load(Ordering::SeqCst), 0);
        }
    }
}

/// As `pull` begins at the source, the destination may have committed or not; so whether it had decides what
/// is expected, as it does for the manager.
#[test]
fn every_fault_in_every_phase_of_a_post_copy_leaves_one_owner_or_a_reason() {
    let phases = [
        Phase::Handshake,
        Phase::Rounds,
        Phase::Pause,
        Phase::State,
        Phase::Switchover,
        Phase::Resume,
        Phase::Pull,
    ];
    for at in phases {
        for blow in BLOWS {
            let world = World::new(1.0);
            let dies = matches!(
                blow,
                Blow::SourceCrash | Blow::DestinationCrash | Blow::DestinationGone
            );
            let params = MigrationParams {
                postcopy: PostcopyParams {
                    recover_interval: 10,
                    // Nobody comes back, or somebody whom a busy computer keeps waiting.
                    recover_timeout: if dies { 300 } else { 10_000 },
                    ..PostcopyParams::default()
                },
                ..fast(EngineKind::PostCopy)
            };
            let owner = struck(&world, params, at, blow);
            let possible: &[Owner] = match (at, blow) {
                (Phase::Resume, _) if dies => &[Owner::Lost],
                (Phase::Resume, _) | (Phase::Pull, Blow::SourceReset | Blow::Cancel) => {
                    &[Owner::Destination]
                }
                (_, Blow::SourceCrash) => &[Owner::Lost],
                (Phase::Pull, _) if dies => &[Owner::Lost, Owner::Source],
                (Phase::Pull, _) => &[Owner::Destination, Owner::Source],
                _ => &[Owner::Source],
            };
            assert!(possible.contains(&owner), "{blow:?} at {at:?}: {owner:?}");
            goes_on(world, owner);
        }
    }
}

/// Nobody dials again: what breaks the connection of a guest that runs loses it, and what comes before leaves it at its source.
#[test]
fn every_fault_in_every_phase_of_pages_on_demand_leaves_one_owner_or_a_reason() {
    let phases = [
        Phase::Handshake,
        Phase::Rounds,
        Phase::Pause,
        Phase::State,
        Phase::Switchover,
        Phase::Resume,
        Phase::Pull,
    ];
    for at in phases {
        for blow in BLOWS {
            let world = World::new(1.0);
            let params = MigrationParams {
                memory_mode: MemoryMode::Postcopy,
                ..fast(EngineKind::CloudHypervisor)
            };
            let owner = struck(&world, params, at, blow);
            let expected = match (at, blow) {
                (Phase::Resume | Phase::Pull, Blow::Refuse | Blow::Cancel) => Owner::Destination,
                (Phase::Resume | Phase::Pull, _) | (_, Blow::SourceCrash) => Owner::Lost,
                _ => Owner::Source,
            };
            assert_eq!(owner, expected, "{blow:?} at {at:?}");
            goes_on(world, owner);
        }
    }
}

#[test]
fn a_crash_resets_the_connection_and_says_so() {
    let world = World::new(1.0);
    let (client, mut server) = pair();
    let source = world.source_job(params(), client);
    source.control.break_off(Broken::Crashed);
    let sent = run_source(&source, &NoObserver);
    drop(source);
    assert_eq!(
        (sent.end, sent.side),
        (SourceEnd::Crashed, SourceSide::Dead)
    );
    assert!(sent.report.error.unwrap().contains("died"));
    let mut word = [0; 1];
    let error = server.read(&mut word).expect_err("it was reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A guest that would never fit is stopped by the orchestrator, and then it does.
#[test]
fn a_suspended_guest_converges_and_its_outage_counts_from_there() {
    let world = World::new(50.0);
    let slow = MigrationParams {
        max_bandwidth: 20_000_000,
        downtime_limit: 10,
        ..params()
    };
    let (client, server) = pair();
    let source = world.source_job(slow, client);
    let destination = world.destination_job(server);
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sending = scope.spawn(|| run_source(&source, &NoObserver));
        while source.control.progress().round < 1 && !sending.is_finished() {
            std::thread::yield_now();
        }
        source.control.suspend();
        (sending.join().unwrap(), receiving.join().unwrap())
    });
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let report = &sent.report;
    let suspended_ns = report.suspended_ns.expect("it was");
    assert!(suspended_ns <= report.stop_ns.unwrap());
    assert!(world.destination.runs() && !world.source.runs());
}

#[test]
fn parameters_changed_on_the_way_take_effect_on_the_way() {
    let world = World::new(0.0);
    let slow = MigrationParams {
        max_bandwidth: 1_000_000,
        ..params()
    };
    let (client, server) = pair();
    let source = world.source_job(slow, client);
    let destination = world.destination_job(server);
    let began_ns = mono_ns();
    let sent = std::thread::scope(|scope| {
        scope.spawn(move || run_destination(destination));
        let sending = scope.spawn(|| run_source(&source, &NoObserver));
        while source.control.progress().transferred_bytes < 200_000 {
            std::thread::yield_now();
        }
        let change = ParameterChange {
            max_bandwidth: Some(0),
            ..ParameterChange::default()
        };
        source.control.set_parameters(change);
        sending.join().unwrap()
    });
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    let [step] = sent.report.parameters[..] else {
        panic!("{:?}", sent.report.parameters);
    };
    assert_eq!(step.change.max_bandwidth, Some(0));
    // 16 MiB at 1 MB/s take 16 s.
    let took_ns = sent.report.end_ns - began_ns;
    assert!(took_ns < 10_000_000_000, "{took_ns}");
}

/// A source that has sent everything, over a link on which nothing comes back; its destination gets the
/// whole stream only if `delivers`, and loads for a minute then.
fn in_doubt(
    delivers: bool,
    during: impl FnOnce(&SourceControl, &DestinationControl),
) -> (World, SourceOutcome) {
    let world = World::new(1.0);
    let (client, near) = pair();
    let (far, server) = pair();
    let params = MigrationParams {
        load_time: 60_000,
        return_path: true,
        ..fast(EngineKind::Qemu)
    };
    let source = SourceJob {
        acknowledge_limit_ms: 60_000,
        ..world.source_job(params.clone(), client)
    };
    let control = Arc::<DestinationControl>::default();
    let destination = DestinationJob {
        control: Arc::clone(&control),
        load_time_ms: params.load_time,
        ..world.destination_job(server)
    };
    let sending = Arc::clone(&source.control);
    let (mut sent, received) = std::thread::scope(|scope| {
        // The link: what the source writes arrives, or stops arriving once the state is due.
        scope.spawn(|| relayed(&near, &far, || delivers || sending.cancel_is_possible()));
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = scope.spawn(|| run_source(&source, &NoObserver));
        while source.control.cancel_is_possible() {
            std::thread::yield_now();
        }
        during(&source.control, &control);
        let sent = sent.join().unwrap();
        let received = receiving.join().unwrap();
        near.shutdown(std::net::Shutdown::Both).unwrap();
        (sent, received)
    });
    assert_eq!(received.report.resumed_ns, None, "it never started");
    assert_eq!(sent.end, SourceEnd::Undecided, "{:?}", sent.report.error);
    assert!(!world.source.runs() && !world.destination.runs());
    sent.resolve(&*world.source, control.abandon());
    (world, sent)
}

/// Bytes one way, while they are let through; what comes after that is swallowed, as by a cut link.
fn relayed(from: &TcpStream, to: &TcpStream, passes: impl Fn() -> bool) {
    let (mut from, mut to) = (from, to);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if passes() {
            // Whoever has gone does not miss it.
            let _ = to.write_all(&buffer[..bytes]);
        }
    }
}

/// The whole stream is there and is being loaded. The cancel is too late for the source; the destination
/// promises, over the control plane alone, and the guest goes on where it was.
#[test]
fn a_cancel_after_the_last_byte_is_the_destinations_to_decide() {
    let began_ns = mono_ns();
    for delivers in [true, false] {
        let (world, sent) = in_doubt(delivers, |source, destination| {
            assert!(!source.cancel(), "too late for the source alone");
            assert!(
                !destination.cancel(),
                "it has not committed, and never will now"
            );
            // What the manager says once it has heard the destination's end.
            source.break_off(Broken::PeerGone);
        });
        assert_eq!(
            sent.report.status,
            Status::Cancelled,
            "{:?}",
            sent.report.error
        );
        assert!(world.source.runs() && !world.destination.runs());
        world.next_migration_succeeds();
    }
    // Not the minute of the load, nor that of the acknowledgement.
    let took_ns = mono_ns() - began_ns;
    assert!(took_ns < 40_000_000_000, "{took_ns}");
}

/// Told that the destination has given up, without anybody cancelling.
#[test]
fn a_source_that_is_told_to_wait_no_longer_says_why() {
    let (world, sent) = in_doubt(false, |source, destination| {
        assert!(!destination.abandon());
        source.break_off(Broken::PeerGone);
    });
    assert_eq!(sent.report.status, Status::Failed);
    let error = sent.report.error.expect("it failed");
    assert!(error.contains("given up"), "{error}");
    assert!(world.source.runs());
    world.next_migration_succeeds();
}

/// A destination that has committed is not asked to take it back: the guest runs there, pulling or not.
#[test]
fn a_committed_destination_is_not_cancelled() {
    let world = World::new(1.0);
    let (client, server) = pair();
    let source = world.source_job(fast(EngineKind::Qemu), client);
    let control = Arc::<DestinationControl>::default();
    let destination = DestinationJob {
        control: Arc::clone(&control),
        ..world.destination_job(server)
    };
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        (run_source(&source, &NoObserver), receiving.join().unwrap())
    });
    assert!(control.cancel(), "it had committed");
    assert_eq!(sent.end, SourceEnd::Completed);
    assert_verified(&received, 0);
    assert!(world.destination.runs());
}
