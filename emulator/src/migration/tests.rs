//! Whole migrations over loopback TCP: a thread each side, a guest on a real clock.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use replay::content::{ContentProfile, PagePool, Recipe};
use replay::host::CoreWork;
use replay::{Behaviour, GuestTime, MemorySpec, VmState};
use traces::class::{Coupling, Locality, PageClass};

use super::channels::{Channel, open_all};
use super::destination::{
    DestinationControl, DestinationError, DestinationJob, DestinationOutcome, run_destination,
};
use super::engine::EngineUnits;
use super::guest::{CommitRefused, DestinationGuest, GuestMemory, SourceGuest, Standing};
use super::ownership::{DestinationSide, SourceSide};
use super::params::{AutoConvergeParams, MigrationParams, PostcopyParams, Reprotect};
use super::record::Status;
use super::source::{Fault, NoObserver, SourceEnd, SourceJob, SourceOutcome, run_source};
use super::transport::SourceControl;
use super::upcoming::Limit;
use super::wire::hello::HELLO_BYTES;
use super::wire::{Decoder, Event, Format, Streams};
use crate::clock::mono_ns;
use crate::resident::Ram;

mod deltas;
mod engines;
mod faults;
mod multifd;
mod postcopy;
mod resident;

const SEED: u64 = 11;
const VM: u64 = 77;
/// Built into every kernel and allowed to every user.
const CONGESTION: &str = "reno";

/// A guest that runs on the machine's clock, one CPU busy.
struct TestGuest {
    running: Arc<AtomicUsize>,
    clock: Mutex<(Option<u64>, u64)>,
    refuse: bool,
    throttled: Mutex<Vec<u8>>,
    /// Both of its clocks are one.
    limit: Mutex<Limit>,
}

impl TestGuest {
    fn new(running: &Arc<AtomicUsize>, runs: bool) -> Arc<Self> {
        running.fetch_add(usize::from(runs), Ordering::SeqCst);
        let clock = Mutex::new((runs.then(mono_ns), 0));
        Arc::new(Self {
            running: Arc::clone(running),
            clock,
            refuse: false,
            throttled: Mutex::default(),
            limit: Mutex::default(),
        })
    }

    fn run_ns(&self) -> u64 {
        let (since, before) = *self.clock.lock().unwrap();
        let free = before + since.map_or(0, |since| mono_ns() - since);
        let most = self.most().map_or(u64::MAX, |(ns, _)| ns);
        free.min(most.max(before))
    }

    /// How far its limit lets it come, and by which clock.
    fn most(&self) -> Option<(u64, Coupling)> {
        let limit = *self.limit.lock().unwrap();
        let cpu = limit.cpu_ns.map(|ns| (ns - 1, Coupling::Cpu));
        let run = limit.run_ns.map(|ns| (ns - 1, Coupling::Time));
        cpu.into_iter().chain(run).min_by_key(|(ns, _)| *ns)
    }

    fn runs(&self) -> bool {
        self.clock.lock().unwrap().0.is_some()
    }

    fn start(&self, before: u64) {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two running copies");
        *self.clock.lock().unwrap() = (Some(mono_ns()), before);
    }
}

fn time(ns: u64) -> GuestTime {
    GuestTime {
        cpu_ns: ns,
        run_ns: ns,
    }
}

impl SourceGuest for TestGuest {
    fn guest_time(&self) -> GuestTime {
        time(self.run_ns())
    }

    fn pause(&self) -> GuestTime {
        let ns = self.run_ns();
        *self.clock.lock().unwrap() = (None, ns);
        self.running.fetch_sub(1, Ordering::SeqCst);
        time(ns)
    }

    fn resume(&self) {
        let before = self.run_ns();
        self.start(before);
    }

    fn throttle(&self, percent: u8) {
        self.throttled.lock().unwrap().push(percent);
    }

    fn take_state(&self) -> VmState {
        let run_ns = self.run_ns();
        let cpu = CoreWork(u128::from(run_ns) * 1_000_000_000);
        VmState {
            run_ns,
            cpu,
            ..VmState::default()
        }
    }

    fn crash(&self) {
        let ns = self.run_ns();
        let ran = std::mem::replace(&mut *self.clock.lock().unwrap(), (None, ns));
        if ran.0.is_some() {
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl DestinationGuest for TestGuest {
    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        if self.refuse {
            return Err(CommitRefused {
                reason: "the control plane is gone".to_owned(),
            });
        }
        self.start(state.run_ns);
        Ok(mono_ns())
    }

    fn run_within(&self, limit: Limit) {
        let so_far = self.run_ns();
        let mut clock = self.clock.lock().unwrap();
        *clock = (clock.0.map(|_| mono_ns()), so_far);
        *self.limit.lock().unwrap() = limit;
    }

    fn standing(&self) -> Standing {
        let time = time(self.run_ns());
        let (Some(since), before) = *self.clock.lock().unwrap() else {
            return Standing::Gone;
        };
        match self.most() {
            Some((most, clock)) if time.run_ns >= most => Standing::Stopped {
                time,
                clock,
                since_ns: since + most.saturating_sub(before),
            },
            Some((most, _)) => Standing::Running {
                time,
                until_ns: since + (most - before),
            },
            None => Standing::Running {
                time,
                until_ns: u64::MAX,
            },
        }
    }

    fn give_up(&self) {
        SourceGuest::crash(self);
    }
}

/// 64 MiB, 16 resident; a hot set of 8 MiB written at `rate` per page and second.
fn memory(rate: f64) -> GuestMemory {
    let class = |pages, rate, locality| PageClass {
        locality,
        ..PageClass::new(pages, rate)
    };
    let classes = vec![
        class(2048, rate, Locality::Scatter),
        class(512, rate, Locality::Sweep),
    ];
    let behaviours = if rate > 0.0 {
        vec![Behaviour::Classes(classes)]
    } else {
        vec![]
    };
    let spec = MemorySpec {
        ram_pages: 16_384,
        resident_pages: 4096,
        high_pages: 0,
        behaviours,
        fresh: false,
        content: ContentProfile {
            zero_share: 0.05,
            ..ContentProfile::RANDOM
        },
    };
    of_spec(&spec)
}

fn of_spec(spec: &MemorySpec) -> GuestMemory {
    GuestMemory::new(spec, SEED, VM, |profile| {
        Ok(Arc::new(PagePool::new(&Recipe::of(profile)?, SEED, 256)))
    })
    .unwrap()
}

/// A cap makes loopback slow enough for several rounds: 26 MB at 30 MB/s.
fn params() -> MigrationParams {
    MigrationParams {
        max_bandwidth: 30_000_000,
        downtime_limit: 100,
        ..MigrationParams::default()
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

struct World {
    running: Arc<AtomicUsize>,
    source: Arc<TestGuest>,
    destination: Arc<TestGuest>,
    memory: GuestMemory,
}

impl World {
    fn new(rate: f64) -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        let source = TestGuest::new(&running, true);
        let destination = TestGuest::new(&running, false);
        Self {
            running,
            source,
            destination,
            memory: memory(rate),
        }
    }

    fn source_job(&self, params: MigrationParams, socket: TcpStream) -> SourceJob {
        SourceJob {
            migration: 1,
            params,
            guest: Arc::clone(&self.source) as Arc<dyn SourceGuest>,
            memory: self.memory.clone(),
            ram: None,
            socket,
            channels: Vec::new(),
            congestion: Some(CONGESTION.to_owned()),
            control: Arc::default(),
            chunk_pages: 4096,
            units: EngineUnits {
                check_pages: 64,
                stop_pages: 50,
                rounds_stop_pages: 5000,
            },
            xen_batch_pages: 1024,
            packet_pages: 128,
            data_chunk_pages: 1000,
            batch_pages: 32,
            acknowledge_limit_ms: 10_000,
            deadline_ns: Some(mono_ns() + 60_000_000_000),
            redial: None,
            faults: Vec::new(),
        }
    }

    fn destination_job(&self, socket: TcpStream) -> DestinationJob {
        DestinationJob {
            migration: 1,
            memory: self.memory.clone(),
            ram: None,
            load_time_ms: 5,
            guest: Arc::clone(&self.destination) as Arc<dyn DestinationGuest>,
            socket,
            channels: Vec::new(),
            streams: Streams::default(),
            packet_pages: 128,
            congestion: Some(CONGESTION.to_owned()),
            control: Arc::default(),
            silence_limit_ms: 20_000,
            postcopy: PostcopyParams::default(),
            recover: None,
        }
    }

    /// Both ends, connected by as many connections as the parameters ask for.
    fn jobs(&self, params: MigrationParams) -> (SourceJob, DestinationJob) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (ids, streams) = (params.channels(), params.streams());
        let mut source = self.source_job(params, client);
        let mut destination = self.destination_job(listener.accept().unwrap().0);
        destination.streams = streams;
        for id in ids {
            let connect = || TcpStream::connect(address);
            source
                .channels
                .extend(open_all(1, VM, &[id], connect).unwrap());
            let mut socket = listener.accept().unwrap().0;
            socket.read_exact(&mut [0; HELLO_BYTES]).unwrap();
            destination.channels.push(Channel { id, socket });
        }
        (source, destination)
    }

    fn migrate(
        &self,
        params: MigrationParams,
        faults: &[Fault],
    ) -> (SourceOutcome, DestinationOutcome) {
        let (mut source, destination) = self.jobs(params);
        source.faults = faults.to_vec();
        std::thread::scope(|scope| {
            let receiving = scope.spawn(move || run_destination(destination));
            let sent = run_source(&source, &NoObserver);
            drop(source);
            (sent, receiving.join().unwrap())
        })
    }

    fn next_migration_succeeds(&self) {
        assert!(
            self.source.runs() && !self.destination.runs(),
            "the guest is at the source"
        );
        let fast = MigrationParams {
            max_bandwidth: 0,
            ..params()
        };
        let (sent, received) = self.migrate(fast, &[]);
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_verified(&received, 0);
    }
}

fn assert_verified(received: &DestinationOutcome, bad: u64) {
    assert!(received.error.is_none(), "{:?}", received.report.error);
    let verification = received
        .report
        .verification
        .as_ref()
        .expect("compared after the commit");
    assert_eq!(verification.pages, 16_384);
    assert_eq!(verification.bad, bad, "{verification:?}");
    assert_eq!(received.report.bad_on_receipt, 0);
}

#[test]
fn an_idle_guest_arrives_whole_in_three_syncs() {
    let world = World::new(0.0);
    let (sent, received) = world.migrate(params(), &[]);
    assert_eq!(sent.end, SourceEnd::Completed);
    assert_eq!(sent.side, SourceSide::Released);
    assert_verified(&received, 0);
    let report = &sent.report;
    assert_eq!(report.dirty_sync_count, 3);
    assert!(report.tcp.len() >= 3 && report.tcp.iter().all(|sample| sample.cwnd > 0));
    assert_eq!(
        report.bytes.total(),
        received.report.received_bytes,
        "every byte is accounted for"
    );
    assert_eq!(report.bytes.normal, 4096 * 4096);
    assert_eq!(report.bytes.device, params().device_state_bytes);
    // 4104 a page, 9 a zero page, 7 for the block's name once.
    assert_eq!(report.bytes.header, 4096 * 8 + (16_384 - 4096) * 9 + 7);
    // QEMU counts RAM only: 8 of each slice's 18 bytes, nothing of the setup and the device state.
    let ram = report.precopy_bytes + report.downtime_bytes;
    let slices = (ram - report.bytes.normal - report.bytes.header) / 8;
    assert!(slices >= 2);
    assert!(report.bytes.control > 10 * slices && report.bytes.control < 18 * slices + 200);
    assert!(world.destination.runs() && !world.source.runs());
    let resumed = received.report.resumed_ns.unwrap();
    let stopped = report.stop_ns.unwrap();
    assert!(resumed >= stopped + 5_000_000, "loading takes its 5 ms");
    assert!(
        report.end_ns >= resumed,
        "with a return path the source ends after the resume"
    );
}

#[test]
fn writing_guests_arrive_in_their_last_version() {
    for reprotect in [Reprotect::Lazy, Reprotect::AtSync] {
        let world = World::new(1.0);
        let (sent, received) = world.migrate(
            MigrationParams {
                reprotect,
                ..params()
            },
            &[],
        );
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_verified(&received, 0);
        let report = &sent.report;
        assert!(report.rounds.len() >= 3, "{:?}", report.rounds);
        assert_eq!(report.rounds[0].dirty_pages, 16_384);
        assert!(report.rounds.last().unwrap().paused);
        let normal: u64 = report.rounds.iter().map(|round| round.normal_pages).sum();
        assert_eq!(normal * 4096, report.bytes.normal);
        assert!(normal > 4096 + 2048, "pages were sent again: {normal}");
        assert!(report.decisions.last().unwrap().switchover);
        assert_eq!(report.dirty_sync_count, report.rounds.len() as u64);
    }
}

#[test]
fn without_a_return_path_the_source_completes_first_and_keeps_the_guest_until_told() {
    let world = World::new(1.0);
    let (mut sent, received) = world.migrate(
        MigrationParams {
            return_path: false,
            ..params()
        },
        &[],
    );
    assert_eq!(sent.end, SourceEnd::Completed);
    assert_eq!(sent.side, SourceSide::Undecided);
    assert_verified(&received, 0);
    assert!(sent.report.end_ns < received.report.resumed_ns.unwrap());
    sent.resolve(&*world.source, true);
    assert_eq!(sent.side, SourceSide::Released);
    assert_eq!(world.running.load(Ordering::SeqCst), 1);
}

#[test]
fn auto_converge_throttles_step_by_step_and_lets_go_at_the_end() {
    let world = World::new(50.0);
    let (client, server) = pair();
    let source = world.source_job(
        MigrationParams {
            auto_converge: AutoConvergeParams {
                enabled: true,
                ..AutoConvergeParams::default()
            },
            ..params()
        },
        client,
    );
    let control = Arc::clone(&source.control);
    let destination = world.destination_job(server);
    let sent = std::thread::scope(|scope| {
        scope.spawn(move || run_destination(destination));
        // Two looks of a second each before each step: the third is far away when the second is seen.
        scope.spawn(|| {
            while world.source.throttled.lock().unwrap().len() < 2 && world.source.runs() {
                crate::clock::sleep_until(mono_ns() + 1_000_000);
            }
            assert!(control.cancel());
        });
        let sent = run_source(&source, &NoObserver);
        drop(source);
        sent
    });
    assert_eq!(
        sent.end,
        SourceEnd::Cancelled,
        "this test's guest does not slow down"
    );
    let steps: Vec<u8> = sent.report.throttles.iter().map(|s| s.percent).collect();
    assert_eq!(steps, [20, 30], "{:?}", sent.report.throttles);
    assert_eq!(*world.source.throttled.lock().unwrap(), [20, 30, 0]);
}

/// At-sync protection, where a harvest thrown away is not found again by the next.
#[test]
fn mistakes_of_the_source_fail_verification() {
    for (fault, caught) in [
        (Fault::SkipHarvest { number: 1 }, true),
        (Fault::ClearDirtyBits { pages: 64 }, true),
        (
            Fault::LosePages {
                after: 1000,
                pages: 32,
                put_back: true,
            },
            false,
        ),
    ] {
        let world = World::new(3.0);
        let at_sync = MigrationParams {
            reprotect: Reprotect::AtSync,
            ..params()
        };
        let (sent, received) = world.migrate(at_sync, &[fault]);
        assert_eq!(sent.end, SourceEnd::Completed);
        let bad = received.report.verification.as_ref().unwrap().bad;
        assert_eq!(bad > 0, caught, "{fault:?}: {bad} bad pages");
    }
}

/// Pages that never came are no guest: it stays where it is.
#[test]
fn a_destination_refuses_a_guest_that_did_not_arrive_whole() {
    let world = World::new(0.0);
    let lost = Fault::LosePages {
        after: 1000,
        pages: 32,
        put_back: false,
    };
    let (sent, received) = world.migrate(params(), &[lost]);
    assert!(matches!(
        received.error,
        Some(DestinationError::Incomplete { pages: 32, .. })
    ));
    assert_eq!(sent.end, SourceEnd::Failed);
    world.next_migration_succeeds();
}

#[test]
fn cancelling_leaves_the_guest_at_the_source() {
    let world = World::new(1.0);
    let (client, server) = pair();
    let source = world.source_job(
        MigrationParams {
            max_bandwidth: 5_000_000,
            ..params()
        },
        client,
    );
    let destination = world.destination_job(server);
    let destinations = Arc::clone(&destination.control);
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sending = scope.spawn(|| run_source(&source, &NoObserver));
        while source.control.progress().transferred_bytes < 1_000_000 {
            std::thread::yield_now();
        }
        // 3 s of it are left at its rate: one that came late would find it completed.
        assert!(source.control.cancel());
        (sending.join().unwrap(), receiving.join().unwrap())
    });
    assert_eq!(
        (sent.end, sent.report.status),
        (SourceEnd::Cancelled, Status::Cancelled)
    );
    assert!(received.report.resumed_ns.is_none());
    assert_eq!(destinations.side(), DestinationSide::Abandoned);
    assert_eq!(source.control.progress().status, "cancelled");
    world.next_migration_succeeds();
}

#[test]
fn a_guest_that_never_converges_is_given_up_at_the_deadline() {
    let world = World::new(50.0);
    let (client, server) = pair();
    let slow = MigrationParams {
        max_bandwidth: 5_000_000,
        downtime_limit: 10,
        ..params()
    };
    let mut source = world.source_job(slow, client);
    source.deadline_ns = Some(mono_ns() + 1_000_000_000);
    let destination = world.destination_job(server);
    let sent = std::thread::scope(|scope| {
        scope.spawn(move || run_destination(destination));
        run_source(&source, &NoObserver)
    });
    assert_eq!(sent.end, SourceEnd::Cancelled);
    assert!(sent.report.error.unwrap().contains("timeout"));
    world.next_migration_succeeds();
}

/// Whether it is the event of that name.
fn is_named(event: &Event<'_>, name: &str) -> bool {
    matches!(
        (name, event),
        ("Header", Event::Header(_))
            | ("RamList", Event::RamList)
            | ("Page", Event::Page { .. })
            | ("final round", Event::SectionBegin { last: true })
            | ("State", Event::State(_))
            | ("End", Event::End)
    )
}

/// Reads until the event of that name, then drops the connection. Faster than the guest writes, on a busy
/// computer too, or it never comes.
fn close_at(mut socket: TcpStream, name: &str) {
    let (mut decoder, mut buffer, mut piece) = (Decoder::default(), Vec::new(), [0; 65_536]);
    loop {
        let mut start = 0;
        while let Some((taken, event)) = decoder.decode(&buffer[start..]).unwrap() {
            if is_named(&event, name) {
                return;
            }
            start += taken;
        }
        buffer.drain(..start);
        match socket.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => buffer.extend_from_slice(&piece[..bytes]),
        }
    }
}

#[test]
fn a_peer_that_goes_away_in_any_phase_loses_nothing() {
    for name in ["Header", "RamList", "Page", "final round", "State", "End"] {
        let world = World::new(1.0);
        let (client, server) = pair();
        let source = world.source_job(params(), client);
        let mut sent = std::thread::scope(|scope| {
            scope.spawn(move || close_at(server, name));
            run_source(&source, &NoObserver)
        });
        if sent.end == SourceEnd::Undecided {
            // Everything had left: paused until the control plane has asked the destination.
            assert!(matches!(name, "final round" | "State" | "End"), "{name}");
            assert!(!world.source.runs());
            assert_eq!(world.running.load(Ordering::SeqCst), 0);
            sent.resolve(&*world.source, false);
        } else {
            assert_eq!(
                sent.end,
                SourceEnd::Failed,
                "{name}: {:?}",
                sent.report.error
            );
            assert_ne!(name, "End", "nobody acknowledged");
        }
        assert_eq!(sent.side, SourceSide::Running);
        world.next_migration_succeeds();
    }
}

#[test]
fn a_source_that_vanishes_leaves_no_guest_at_the_destination() {
    let world = World::new(0.0);
    for bytes in [0, 20, 100, 5000] {
        let (client, server) = pair();
        let mut stream = Vec::new();
        super::wire::Encoder::default().setup(
            &super::wire::Header {
                migration: 1,
                vm_key: VM,
                memory_check: world.memory.check(),
                ram_pages: 16_384,
                return_path: true,
                postcopy: false,
                format: Format::Qemu,
                streams: Streams::default(),
            },
            &mut stream,
        );
        stream.resize(bytes, 0);
        std::io::Write::write_all(&mut &client, &stream).unwrap();
        drop(client);
        let received = run_destination(world.destination_job(server));
        assert!(received.error.is_some(), "{bytes} bytes");
        assert!(received.report.verification.is_none());
        assert!(!world.destination.runs());
    }
}

#[test]
fn another_guests_stream_is_refused_and_the_guest_stays() {
    let world = World::new(1.0);
    let other = World::new(2.0);
    let (client, server) = pair();
    let source = world.source_job(params(), client);
    let destination = other.destination_job(server);
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        (run_source(&source, &NoObserver), receiving.join().unwrap())
    });
    assert!(matches!(
        received.error,
        Some(DestinationError::OtherGuest { .. })
    ));
    assert_eq!(sent.end, SourceEnd::Failed);
    world.next_migration_succeeds();
}

#[test]
fn a_destination_that_cannot_commit_sends_the_guest_back() {
    let mut world = World::new(1.0);
    let refusing = TestGuest {
        refuse: true,
        throttled: Mutex::default(),
        ..Arc::into_inner(world.destination).unwrap()
    };
    world.destination = Arc::new(refusing);
    let (sent, received) = world.migrate(params(), &[]);
    assert!(matches!(received.error, Some(DestinationError::Refused(_))));
    assert_eq!(sent.end, SourceEnd::Failed, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Running);
    world.destination = TestGuest::new(&world.running, false);
    world.next_migration_succeeds();
}

#[test]
fn an_abandoned_destination_never_starts_the_guest() {
    let world = World::new(1.0);
    let (client, server) = pair();
    let source = world.source_job(
        MigrationParams {
            load_time: 5,
            ..params()
        },
        client,
    );
    let mut destination = world.destination_job(server);
    destination.load_time_ms = 30_000;
    let control: Arc<DestinationControl> = Arc::clone(&destination.control);
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let progress: Arc<SourceControl> = Arc::clone(&source.control);
        let sending = scope.spawn(|| run_source(&source, &NoObserver));
        while progress.progress().status != "device" || progress.cancel_is_possible() {
            std::thread::yield_now();
        }
        assert!(!progress.cancel(), "too late: the destination decides");
        assert!(!control.abandon());
        (sending.join().unwrap(), receiving.join().unwrap())
    });
    assert!(matches!(received.error, Some(DestinationError::Abandoned)));
    let mut sent = sent;
    if sent.end == SourceEnd::Undecided {
        sent.resolve(&*world.source, control.abandon());
    }
    assert_eq!(sent.side, SourceSide::Running);
    world.next_migration_succeeds();
}

#[test]
fn a_destination_that_falls_silent_leaves_the_guest_paused_until_resolved() {
    let world = World::new(0.0);
    let (client, server) = pair();
    let mut source = world.source_job(params(), client);
    source.acknowledge_limit_ms = 300;
    let mut sent = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut server, mut piece) = (server, vec![0; 65_536]);
            while server.read(&mut piece).is_ok_and(|bytes| bytes > 0) {}
        });
        run_source(&source, &NoObserver)
    });
    assert_eq!(
        (sent.end, sent.side),
        (SourceEnd::Undecided, SourceSide::Undecided)
    );
    assert!(sent.report.error.as_ref().unwrap().contains("300 ms"));
    assert_eq!(
        world.running.load(Ordering::SeqCst),
        0,
        "nobody runs what nobody vouches for"
    );
    sent.resolve(&*world.source, false);
    world.next_migration_succeeds();
}

#[test]
fn a_source_that_falls_silent_is_given_up() {
    let world = World::new(0.0);
    let (client, server) = pair();
    let mut job = world.destination_job(server);
    job.silence_limit_ms = 200;
    let control = Arc::clone(&job.control);
    let received = run_destination(job);
    assert!(matches!(
        received.error,
        Some(DestinationError::Silence { ms: 200, offset: 0 })
    ));
    assert_eq!(control.side(), DestinationSide::Abandoned);
    drop(client);
}

#[test]
fn a_guest_with_a_damaged_page_is_refused() {
    let received = damaged(None);
    assert_eq!(received.report.bad_on_receipt, 1);
    assert!(matches!(
        received.error,
        Some(DestinationError::Incomplete { pages: 1, .. })
    ));
}

/// One bit of a page's body flips on the way.
fn damaged(ram: Option<Arc<Ram>>) -> DestinationOutcome {
    let world = World::new(0.0);
    let (client, middle_in) = pair();
    let (middle_out, server) = pair();
    let source = world.source_job(
        MigrationParams {
            return_path: false,
            ..params()
        },
        client,
    );
    let destination = DestinationJob {
        ram,
        ..world.destination_job(server)
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut input, mut piece, mut at) = (middle_in, vec![0; 65_536], 0);
            loop {
                let bytes = input.read(&mut piece).unwrap_or(0);
                // Somewhere in the body of a page, well behind the setup.
                if (at..at + bytes).contains(&1_000_000) {
                    piece[1_000_000 - at] ^= 0x10;
                }
                if bytes == 0
                    || std::io::Write::write_all(&mut &middle_out, &piece[..bytes]).is_err()
                {
                    return;
                }
                at += bytes;
            }
        });
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        assert_eq!(sent.end, SourceEnd::Completed);
        receiving.join().unwrap()
    })
}

/// What bounds an unshaped migration; printed, never asserted in time.
#[test]
fn throughput_of_one_idle_guest() {
    let world = World::new(0.0);
    let spec = MemorySpec {
        ram_pages: 262_144,
        resident_pages: 262_144,
        high_pages: 0,
        behaviours: vec![],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    let memory = of_spec(&spec);
    let world = World { memory, ..world };
    let (sent, received) = world.migrate(
        MigrationParams {
            max_bandwidth: 0,
            ..params()
        },
        &[],
    );
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(received.report.verification.as_ref().unwrap().bad, 0);
    let gib = sent.report.bytes.total() as f64 / 1_073_741_824.0;
    let seconds = (sent.report.end_ns - sent.report.setup_end_ns) as f64 / 1e9;
    println!(
        "1 GiB idle over loopback: {:.2} GiB/s; CPU s/GiB source {:.3}, destination {:.3}; run-queue s {:.3}, {:.3}",
        gib / seconds,
        sent.report.cpu_ns as f64 / 1e9 / gib,
        received.report.cpu_ns as f64 / 1e9 / gib,
        sent.report.run_queue_ns as f64 / 1e9,
        received.report.run_queue_ns as f64 / 1e9,
    );
}

/// 50 of them are found by every reading before which the guest has run; what began paused finds none.
#[test]
fn page_tables_that_are_walked_all_the_time_are_sent_at_every_reading() {
    let world = World::new(0.0);
    let walked = MigrationParams {
        page_tables_walked: 50 * 4096,
        ..params()
    };
    let (sent, received) = world.migrate(walked, &[]);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let rounds = &sent.report.rounds;
    let found: Vec<u64> = rounds.iter().map(|round| round.new_dirty_pages).collect();
    let (first, later) = found.split_first().unwrap();
    assert_eq!(*first, 16_384, "{found:?}");
    assert!(later.contains(&50), "{found:?}");
    assert!(later.iter().all(|&found| found <= 50), "{found:?}");
}

/// 100 pages of the 4096 that nothing writes are found once more, whatever log there is; they still hold what they held.
#[test]
fn page_tables_that_are_walked_are_sent_twice() {
    for reprotect in [Reprotect::Lazy, Reprotect::AtSync] {
        let world = World::new(0.0);
        let walked = MigrationParams {
            page_tables: 100 * 4096,
            reprotect,
            ..params()
        };
        let (sent, received) = world.migrate(walked, &[]);
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_verified(&received, 0);
        let normal = sent.report.rounds.iter().map(|round| round.normal_pages);
        assert_eq!(normal.sum::<u64>(), 4096 + 100);
    }
}
