//! Post-copy over loopback: the guest runs without most of its pages, and gets each in its last version.

use super::*;
use crate::migration::channels::Channel;
use crate::migration::params::EngineKind;
use crate::migration::record::{Phase, VcpuWaits};
use crate::migration::wire::postcopy::{self as wire, Command};
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, AtomicU64};

const PAGES: u64 = 16_384;

/// Slow enough that pages are missing when they are touched: 26 MB at 20 MB/s.
pub(super) fn post_copy() -> MigrationParams {
    MigrationParams {
        engine: EngineKind::PostCopy,
        postcopy: PostcopyParams {
            ram: true,
            max_bandwidth: 20_000_000,
            recover_interval: 20,
            recover_timeout: 5_000,
            stall_timeout: 2_000,
            ..PostcopyParams::default()
        },
        ..MigrationParams::default()
    }
}

/// The same, so slow that nobody is too late for it: 4 s.
fn long() -> MigrationParams {
    let mut params = post_copy();
    params.postcopy.max_bandwidth = 4_000_000;
    params
}

/// Pre-copy at a rate at which a guest of this kind never converges, which switches.
pub(super) fn hybrid() -> MigrationParams {
    let post_copy = post_copy();
    MigrationParams {
        postcopy: PostcopyParams {
            after_precopy: true,
            ..post_copy.postcopy
        },
        ..params()
    }
}

/// Both ends, with a port where the source may dial again; `during` runs beside them.
pub(super) struct Both {
    pub(super) source: SourceJob,
    pub(super) destination: DestinationJob,
}

impl Both {
    pub(super) fn new(world: &World, params: MigrationParams) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        let postcopy = params.postcopy;
        let mut source = world.source_job(params, client);
        source.redial = Some(Box::new(move || TcpStream::connect(at)));
        let destination = DestinationJob {
            postcopy,
            recover: Some(listener),
            ..world.destination_job(server)
        };
        Self {
            source,
            destination,
        }
    }

    pub(super) fn run(
        self,
        during: impl FnOnce(&SourceControl, &DestinationControl) + Send,
    ) -> (SourceOutcome, DestinationOutcome) {
        let controls = (
            Arc::clone(&self.source.control),
            Arc::clone(&self.destination.control),
        );
        let Self {
            source,
            destination,
        } = self;
        std::thread::scope(|scope| {
            // Its port closes with it, as an agent's.
            let receiving = scope.spawn(move || run_destination(destination));
            scope.spawn(move || during(&controls.0, &controls.1));
            let sent = run_source(&source, &NoObserver);
            drop(source);
            (sent, receiving.join().unwrap())
        })
    }
}

/// Passes on what comes, and counts it.
fn pass_on(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..bytes]).is_err() {
            break;
        }
        passed.fetch_add(bytes as u64, Ordering::SeqCst);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Passes on what comes up to the package's end, and the rest once `opens`: whether it ever did.
fn hold_behind_the_package(
    mut from: TcpStream,
    mut to: TcpStream,
    opens: impl Fn() -> bool,
) -> bool {
    let (mut decoder, mut bytes, mut chunk) = (Decoder::default(), Vec::new(), [0; 4096]);
    let mut done = 0;
    'package: loop {
        while let Some((taken, event)) = decoder.decode(&bytes[done..]).unwrap() {
            done += taken;
            if event == Event::Postcopy(Command::Run) {
                break 'package;
            }
        }
        let read = from.read(&mut chunk).unwrap();
        assert!(read > 0, "it ended before its package");
        bytes.extend_from_slice(&chunk[..read]);
    }
    to.write_all(&bytes[..done]).unwrap();
    let until_ns = mono_ns() + 20_000_000_000;
    while !opens() && mono_ns() < until_ns {
        crate::clock::sleep_until(mono_ns() + 1_000_000);
    }
    let opened = opens();
    to.write_all(&bytes[done..]).unwrap();
    pass_on(from, to, &AtomicU64::new(0));
    opened
}

/// Nothing that the main connection holds back keeps a requested page from coming.
#[test]
fn requested_pages_overtake_what_is_in_the_buffers() {
    let world = World::new(2.0);
    let params = MigrationParams {
        postcopy: PostcopyParams {
            preempt: true,
            max_bandwidth: 0,
            stall_timeout: 30_000,
            ..post_copy().postcopy
        },
        ..post_copy()
    };
    let ids = params.channels();
    let (client, near) = pair();
    let (far, server) = pair();
    let (urgent, urgent_near) = pair();
    let (urgent_far, urgent_server) = pair();
    let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let requested = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&requested);
    std::thread::spawn(move || pass_on(far_back, near_back, &AtomicU64::new(0)));
    std::thread::spawn(move || pass_on(urgent_near, urgent_far, &seen));
    // Four whole pages, each touched after the one before had come.
    let four = move || requested.load(Ordering::SeqCst) >= 4 * 4104;
    let held = std::thread::spawn(move || hold_behind_the_package(near, far, four));
    let mut source = world.source_job(params, client);
    let mut destination = world.destination_job(server);
    source.channels.push(Channel {
        id: ids[0],
        socket: urgent,
    });
    destination.channels.push(Channel {
        id: ids[0],
        socket: urgent_server,
    });
    let both = Both {
        source,
        destination,
    };
    let (sent, received) = both.run(|_, _| {});
    assert!(
        held.join().unwrap(),
        "no page came past the main connection"
    );
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
    let (here, there) = (
        sent.report.postcopy.as_ref().unwrap(),
        received.report.postcopy.as_ref().unwrap(),
    );
    assert!(there.requests >= 4, "{there:?}");
    assert_eq!(there.came_twice, 0, "each page crosses once");
    assert!(here.preempt_bytes >= 4 * 4104 && here.preempt_bytes < here.postcopy_bytes);
    assert_eq!(sent.report.bytes.total(), received.report.received_bytes);
}

/// A guest is not lost with the connection for its requested pages: the migration is taken up without it.
#[test]
fn a_broken_connection_of_requested_pages_is_taken_up_on_the_main_one() {
    let world = World::new(2.0);
    let mut params = post_copy();
    params.postcopy.preempt = true;
    params.postcopy.max_bandwidth = 8_000_000;
    let ids = params.channels();
    let mut both = Both::new(&world, params);
    let (urgent, near) = pair();
    let (far, urgent_server) = pair();
    both.source.channels.push(Channel {
        id: ids[0],
        socket: urgent,
    });
    both.destination.channels.push(Channel {
        id: ids[0],
        socket: urgent_server,
    });
    // The first requested page that is not zero comes damaged.
    std::thread::spawn(move || {
        let (mut near, mut far) = (near, far);
        let mut more = |record: &mut Vec<u8>, bytes: usize| {
            let from = record.len();
            record.resize(from + bytes, 0);
            near.read_exact(&mut record[from..]).is_ok()
        };
        let mut record = Vec::new();
        while more(&mut record, 8) {
            let (zero, named) = (record[7] & 0x02 != 0, record[7] & 0x20 == 0);
            let rest = if zero { 1 } else { 4096 } + if named { 7 } else { 0 };
            if !more(&mut record, rest) {
                return;
            }
            if !zero {
                record[3000] ^= 1;
            }
            let _ = far.write_all(&record);
            if !zero {
                return;
            }
            record.clear();
        }
    });
    let (sent, received) = both.run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Released);
    let report = &received.report;
    assert!(received.error.is_none(), "{:?}", report.error);
    assert_eq!(report.verification.as_ref().unwrap().bad, 0);
    assert_eq!(report.bad_on_receipt, 1);
    let postcopy = report.postcopy.as_ref().unwrap();
    assert_eq!((postcopy.never_came, postcopy.overrun), (0, Some(0)));
    let interruptions = &sent.report.postcopy.as_ref().unwrap().interruptions;
    assert_eq!(interruptions.len(), 1, "{interruptions:?}");
}

pub(super) fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = mono_ns() + 10_000_000_000;
    while !done() {
        assert!(mono_ns() < until, "{what} never came");
        crate::clock::sleep_until(mono_ns() + 1_000_000);
    }
}

fn assert_pulled(received: &DestinationOutcome) {
    assert_verified(received, 0);
    let postcopy = received.report.postcopy.as_ref().unwrap();
    assert_eq!(postcopy.never_came, 0);
    assert_eq!(
        postcopy.overrun,
        Some(0),
        "no page was touched before it came"
    );
}

#[test]
fn an_idle_guest_is_pulled_byte_by_byte() {
    let world = World::new(0.0);
    let (sent, received) = Both::new(&world, post_copy()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Released);
    assert_pulled(&received);
    let report = &sent.report;
    let postcopy = report.postcopy.as_ref().unwrap();
    assert_eq!(report.bytes.total(), received.report.received_bytes);
    assert_eq!((report.precopy_bytes, report.downtime_bytes), (0, 0));
    // 4104 a page, 9 a zero page, the block's name once; 8 a section's end.
    let pages = 4096 * 4104 + (PAGES - 4096) * 9 + 7;
    let sections = (postcopy.postcopy_bytes - pages) / 8;
    assert_eq!(postcopy.postcopy_bytes, pages + 8 * sections);
    // Header, OPEN_RETURN_PATH, ADVISE, RAM list; one DISCARD of all RAM; three PINGs; PACKAGED, LISTEN, RUN;
    // the marks of sections, and the end.
    let list = 1 + 4 + 4 + 8 + 8 + 7 + 8 + 8 + 5;
    let setup = 48 + 5 + 21 + list;
    let package = 9 + 5 + 9 + 5;
    let control = setup + (5 + 9 + 16) + 9 + package + 9 + 18 * sections + 1;
    assert_eq!(report.bytes.control, control);
    assert_eq!(report.bytes.device, post_copy().device_state_bytes);
    assert_eq!(postcopy.discarded_pages, PAGES);
    assert_eq!((postcopy.discarded_ranges, postcopy.requests), (1, 0));
    assert_eq!(report.dirty_sync_count, 2, "setup's and the last");
    let phases: Vec<Phase> = report.phases.iter().map(|span| span.phase).collect();
    let expected = [
        Phase::Handshake,
        Phase::Rounds,
        Phase::Pause,
        Phase::State,
        Phase::Switchover,
        Phase::Pull,
    ];
    assert_eq!(phases, expected);
    // The outage is over long before the pull is.
    let resumed = received.report.resumed_ns.unwrap();
    assert!(postcopy.package_ns < resumed && resumed < report.end_ns - 300_000_000);
}

#[test]
fn a_writing_guest_waits_for_each_page_it_touches_and_no_version_is_lost() {
    let world = World::new(2.0);
    let (sent, received) = Both::new(&world, post_copy()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
    let (asked, served) = (
        received.report.postcopy.as_ref().unwrap(),
        sent.report.postcopy.as_ref().unwrap(),
    );
    // 5,000 writes a second on 2,560 pages that come in about 0.8 s: most are touched first.
    assert!(asked.requests > 50, "{asked:?}");
    assert_eq!(
        asked.requests, served.requests,
        "each request is one message"
    );
    assert_eq!(asked.latency_dist.iter().sum::<u64>(), asked.requests);
    assert!(asked.blocktime_ns >= asked.latency_ns_sum, "{asked:?}");
    assert!(asked.latency_ns_max * asked.requests >= asked.latency_ns_sum);
    assert_eq!(asked.came_twice, 0, "each page is sent once");
    assert_eq!(asked.missing_pages, PAGES);
    assert!(world.destination.runs() && !world.source.runs());
    // It goes on from where it ran, and is not held by anything any more.
    assert_eq!(world.running.load(Ordering::SeqCst), 1);
    assert_eq!(world.destination.limits(), [Limit::NONE]);
}

/// What becomes of four vCPUs whose pages come in no order of theirs: each is asked for once by the one that
/// touched it, and the guest stood still as a whole no longer than any of them.
#[test]
fn each_vcpu_waits_for_its_own_pages() {
    let world = World::of_vcpus(2.0, 4);
    let (sent, received) = Both::new(&world, post_copy()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
    let (asked, served) = (
        received.report.postcopy.as_ref().unwrap(),
        sent.report.postcopy.as_ref().unwrap(),
    );
    assert_eq!(asked.vcpus.len(), 4);
    let sum = |figure: fn(&VcpuWaits) -> u64| asked.vcpus.iter().map(figure).sum::<u64>();
    assert_eq!(sum(|vcpu| vcpu.requests), asked.requests);
    assert_eq!(asked.requests, served.requests);
    assert_eq!(sum(|vcpu| vcpu.latency_ns_sum), asked.latency_ns_sum);
    let least = asked.vcpus.iter().map(|vcpu| vcpu.blocktime_ns).min();
    assert!(Some(asked.blocktime_ns) <= least, "{asked:?}");
    assert!(
        asked.vcpus.iter().all(|vcpu| vcpu.requests > 10),
        "{asked:?}"
    );
    assert_eq!(world.destination.limits(), [Limit::NONE; 4]);
}

#[test]
fn a_pre_copy_that_does_not_converge_switches_after_its_first_pass() {
    let world = World::new(20.0);
    let (sent, received) = Both::new(&world, hybrid()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
    let report = &sent.report;
    let postcopy = report.postcopy.as_ref().unwrap();
    assert_eq!(
        report.dirty_sync_count, 3,
        "setup's, the one after the first pass, the last"
    );
    assert!(report.precopy_bytes > 4000 * 4104);
    assert!(postcopy.discarded_pages < 4096 && postcopy.discarded_pages > 1000);
    let missing = received.report.postcopy.as_ref().unwrap().missing_pages;
    assert_eq!(missing, postcopy.discarded_pages);
    assert!(report.decisions.last().unwrap().switchover);
}

#[test]
fn an_order_switches_while_it_runs_and_needs_the_capability() {
    let world = World::new(20.0);
    let with = MigrationParams {
        postcopy: PostcopyParams {
            after_precopy: false,
            ..hybrid().postcopy
        },
        ..hybrid()
    };
    let (sent, received) = Both::new(&world, with).run(|source, _| {
        wait_until("the first pass", || source.progress().round > 0);
        assert!(source.start_postcopy());
    });
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
    assert!(sent.report.postcopy.is_some());
    // Without postcopy-ram QEMU refuses the order.
    let world = World::new(0.0);
    let (sent, received) = Both::new(&world, params()).run(|source, _| {
        wait_until("the start", || source.progress().status != "setup");
        assert!(!source.start_postcopy());
    });
    assert_verified(&received, 0);
    assert!(sent.report.postcopy.is_none() && received.report.postcopy.is_none());
}

#[test]
fn a_pre_copy_that_converges_is_no_post_copy() {
    let world = World::new(0.0);
    let allowed = MigrationParams {
        postcopy: PostcopyParams {
            after_precopy: false,
            ..hybrid().postcopy
        },
        ..hybrid()
    };
    let (sent, received) = Both::new(&world, allowed).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    assert!(sent.report.postcopy.is_none() && received.report.postcopy.is_none());
}

#[test]
fn post_copy_cannot_be_cancelled() {
    let world = World::new(2.0);
    let (sent, received) = Both::new(&world, post_copy()).run(|source, destination| {
        wait_until("the commit", || {
            destination.side() == DestinationSide::Committed
        });
        assert!(!source.cancel_is_possible());
        assert!(!source.cancel());
    });
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_pulled(&received);
}

#[test]
fn a_cut_connection_is_taken_up_again_and_nothing_is_lost() {
    for by_source in [true, false] {
        let world = World::new(2.0);
        let mut params = post_copy();
        params.postcopy.max_bandwidth = 8_000_000;
        let mut both = Both::new(&world, params);
        let dialled = Arc::new(AtomicU32::new(0));
        let dial = both.source.redial.take().unwrap();
        let counter = Arc::clone(&dialled);
        both.source.redial = Some(Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            dial()
        }));
        let (sent, received) = both.run(|source, destination| {
            // Pages that are not zero come first: the first 4096.
            for left in [15_900, 15_200] {
                wait_until("the pull", || {
                    let progress = source.progress();
                    progress.status == "postcopy-active" && progress.remaining_bytes < left * 4096
                });
                let before = dialled.load(Ordering::SeqCst);
                // The destination may still be about to commit.
                wait_until("a connection to break", || match by_source {
                    true => source.pause_postcopy(),
                    false => destination.pause_postcopy(),
                });
                wait_until("the source to notice", || {
                    dialled.load(Ordering::SeqCst) > before
                });
            }
        });
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_eq!(sent.side, SourceSide::Released);
        assert_pulled(&received);
        let interruptions = &sent.report.postcopy.as_ref().unwrap().interruptions;
        assert_eq!(interruptions.len(), 2, "{interruptions:?}");
        assert!(
            interruptions
                .iter()
                .all(|one| one.to_ns.is_some() && one.tries >= 1)
        );
        assert!(world.destination.runs() && !world.source.runs());
    }
}

/// Nobody listens any more: the guest is lost, and each end says so.
#[test]
fn a_destination_that_dies_in_the_pull_takes_the_guest_with_it() {
    let world = World::new(2.0);
    let mut both = Both::new(&world, long());
    both.destination.recover = None;
    let (mut sent, received) = both.run(|source, destination| {
        wait_until("the pull", || source.progress().status == "postcopy-active");
        assert!(destination.pause_postcopy());
    });
    assert_eq!(sent.end, SourceEnd::Undecided, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Interrupted);
    assert!(sent.report.error.as_ref().unwrap().contains("interrupted"));
    assert!(matches!(
        received.error,
        Some(DestinationError::NotRecovered { .. })
    ));
    assert!(received.report.is_lost());
    // Not even a wrong word lets it run again here.
    sent.resolve(&*world.source, false);
    assert!(!world.source.runs());
    sent.resolve(&*world.source, true);
    assert_eq!(sent.side, SourceSide::Released);
    assert_eq!(world.running.load(Ordering::SeqCst), 0);
}

#[test]
fn a_source_that_dies_in_the_pull_is_not_waited_for_longer_than_told() {
    let world = World::new(2.0);
    let mut both = Both::new(&world, long());
    both.source.redial = None;
    let (sent, received) = both.run(|source, destination| {
        wait_until("the pull", || source.progress().status == "postcopy-active");
        assert!(source.pause_postcopy());
        // What the manager says of a source whose host has gone.
        assert!(destination.abandon(), "it had committed");
    });
    assert_eq!(sent.end, SourceEnd::Undecided);
    assert!(received.report.is_lost());
    let postcopy = received.report.postcopy.as_ref().unwrap();
    assert!(postcopy.never_came > 0 && postcopy.whole_ns.is_none());
    assert_eq!(world.running.load(Ordering::SeqCst), 0);
    assert!(!world.source.runs(), "the source never resumes");
}

#[test]
fn a_destination_that_cannot_commit_leaves_the_guest_at_the_source() {
    let world = World::new(2.0);
    let mut both = Both::new(&world, post_copy());
    both.destination.guest = Arc::new(TestGuest {
        refuse: true,
        running: Arc::clone(&world.running),
        vcpus: Mutex::new(vec![Own::default()]),
        throttled: Mutex::default(),
    });
    let (mut sent, received) = both.run(|_, _| {});
    assert!(matches!(received.error, Some(DestinationError::Refused(_))));
    assert!(received.report.postcopy.is_none());
    if sent.end == SourceEnd::Undecided {
        // The word of it was lost with the connection: the manager knows.
        sent.resolve(&*world.source, false);
    }
    assert_eq!(sent.side, SourceSide::Running, "{:?}", sent.report.error);
    world.next_migration_succeeds();
}

/// Before the package's last byte a failure is a failure like any other.
#[test]
fn a_connection_cut_before_the_package_leaves_the_guest_at_the_source() {
    let world = World::new(2.0);
    let (client, server) = pair();
    drop(server);
    let source = world.source_job(post_copy(), client);
    let sent = run_source(&source, &NoObserver);
    assert_eq!(sent.end, SourceEnd::Failed);
    assert_eq!(sent.side, SourceSide::Running);
    world.next_migration_succeeds();
}

#[test]
fn a_link_that_goes_silent_is_given_up_after_the_stall_timeout() {
    let world = World::new(0.0);
    let mut params = post_copy();
    params.postcopy.stall_timeout = 300;
    params.postcopy.recover_tries = 2;
    let (client, mut server) = pair();
    let source = SourceJob {
        redial: Some(Box::new(|| Err(std::io::ErrorKind::TimedOut.into()))),
        ..world.source_job(params, client)
    };
    let sent = std::thread::scope(|scope| {
        // Reads what comes until the guest is said to run, and then nothing.
        scope.spawn(move || {
            let mut decoder = Decoder::default();
            let mut bytes = Vec::new();
            let mut chunk = [0; 4096];
            'read: loop {
                while let Some((taken, event)) = decoder.decode(&bytes).unwrap() {
                    let run = event == Event::Postcopy(Command::Run);
                    bytes.drain(..taken);
                    if run {
                        break 'read;
                    }
                }
                let read = server.read(&mut chunk).unwrap();
                bytes.extend_from_slice(&chunk[..read]);
            }
            let mut pong = Vec::new();
            wire::pong(wire::PACKAGE_PING, &mut pong);
            server.write_all(&pong).unwrap();
            crate::clock::sleep_until(mono_ns() + 1_500_000_000);
            let _ = server.shutdown(Shutdown::Both);
        });
        run_source(&source, &NoObserver)
    });
    assert_eq!(sent.end, SourceEnd::Undecided, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Interrupted);
    let interruptions = &sent.report.postcopy.as_ref().unwrap().interruptions;
    assert_eq!((interruptions.len(), interruptions[0].tries), (1, 2));
    assert_eq!(interruptions[0].to_ns, None);
}

/// Each mistake of the source is seen by a destination that believes nothing but guest time.
#[test]
fn mistakes_of_a_post_copy_fail_verification() {
    // Told of nothing that it lacks, the destination keeps versions that are stale.
    let world = World::new(20.0);
    let mut both = Both::new(&world, hybrid());
    both.source.faults = vec![Fault::SkipDiscard];
    let (_, received) = both.run(|_, _| {});
    let stale = received.report.verification.as_ref().unwrap().bad;
    assert!(stale > 1000, "{stale} stale pages");
    // Pages that never come leave the guest without them: it is lost, not run on.
    let world = World::new(2.0);
    let mut both = Both::new(&world, post_copy());
    both.source.faults = vec![Fault::LosePages {
        after: 1000,
        pages: 32,
        put_back: false,
    }];
    let (_, received) = both.run(|_, _| {});
    assert!(received.report.is_lost(), "{:?}", received.report.error);
    assert_eq!(received.report.postcopy.as_ref().unwrap().never_came, 32);
}
