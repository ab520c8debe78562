//! Cloud Hypervisor's post-copy over loopback: each page is asked for, and a connection that breaks is not taken up again.

use super::postcopy::Both;
use super::*;
use crate::migration::params::{EngineKind, MemoryMode};
use crate::migration::record::Phase;
use crate::migration::source::Redial;
use crate::migration::transport::reset_when_closed;
use crate::migration::wire::PAGE_BYTES;
use crate::migration::wire::cloud_hypervisor::fault::ANSWER_BYTES;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};

const PAGES: u64 = 16_384;
/// 16 bytes before a page of 4096.
const ANSWER: u64 = 4112;

pub(super) fn on_demand() -> MigrationParams {
    MigrationParams {
        engine: EngineKind::CloudHypervisor,
        memory_mode: MemoryMode::Postcopy,
        postcopy: PostcopyParams {
            stall_timeout: 10_000,
            recover_timeout: 300,
            ..PostcopyParams::default()
        },
        ..MigrationParams::default()
    }
}

#[test]
fn an_idle_guest_is_asked_for_page_by_page() {
    let world = World::new(0.0);
    // It has one connection for pages whatever is asked for, as the original's.
    let params = MigrationParams {
        connections: 4,
        ..on_demand()
    };
    assert!(params.channels().is_empty() && params.streams().data == 0);
    let (sent, received) = Both::new(&world, params).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Released);
    assert_verified(&received, 0);
    let report = &sent.report;
    assert_eq!(report.bytes.total(), received.report.received_bytes);
    // Zeros cross whole, and memory that was never touched with them.
    assert_eq!(report.bytes.normal, PAGES * 4096);
    assert_eq!(report.bytes.header, PAGES * 16);
    // Header, Start, Config, Complete; the hello of the connection for faults.
    assert_eq!(report.bytes.control, 48 + 3 * 16 + 64);
    assert_eq!(report.bytes.device, 79_500);
    let here = report.postcopy.as_ref().unwrap();
    assert_eq!(here.requests, PAGES);
    assert_eq!(here.postcopy_bytes, PAGES * ANSWER);
    assert_eq!((report.precopy_bytes, report.downtime_bytes), (0, 0));
    assert_eq!(
        report.dirty_sync_count, 1,
        "the setup's: nobody reads the log"
    );
    let there = received.report.postcopy.as_ref().unwrap();
    assert_eq!((there.requests, there.prefaulted_pages), (0, Some(PAGES)));
    assert_eq!((there.missing_pages, there.came_twice), (PAGES, 0));
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
    // The guest runs, the source hears it, the last page comes, the source hears that.
    let instants = [
        report.stop_ns.unwrap(),
        received.report.resumed_ns.unwrap(),
        here.package_ns,
        there.whole_ns.unwrap(),
        report.end_ns,
    ];
    assert!(instants.is_sorted(), "{instants:?}");
}

#[test]
fn a_writing_guest_gets_what_it_touches_first_and_each_page_once() {
    let world = World::new(2.0);
    let (sent, received) = Both::new(&world, on_demand()).run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let there = received.report.postcopy.as_ref().unwrap();
    assert_eq!(
        (there.never_came, there.overrun, there.came_twice),
        (0, Some(0), 0)
    );
    let here = sent.report.postcopy.as_ref().unwrap();
    assert_eq!(here.requests, PAGES, "each page is asked for once");
    // What was not fetched of itself was waited for; a page may have been on its way already when it was.
    let faulted = PAGES - there.prefaulted_pages.unwrap();
    assert!(faulted > 0 && faulted <= there.requests, "{there:?}");
    assert_eq!(there.latency_dist.iter().sum::<u64>(), there.requests);
    assert!(world.destination.runs() && !world.source.runs());
    assert_eq!(world.destination.limits(), [Limit::NONE]);
}

#[test]
fn pages_as_they_were_before_do_not_pass() {
    let world = World::new(50.0);
    let mut both = Both::new(&world, on_demand());
    both.source.faults = vec![Fault::ServeStale];
    let (_, received) = both.run(|_, _| {});
    let verification = received.report.verification.unwrap();
    assert!(verification.bad > 0, "{verification:?}");
}

/// Dials over a relay that sees each answer, by its number, before the destination does, and says whether it passes.
fn through(
    at: SocketAddr,
    answers: impl Fn(u64, &mut [u8; ANSWER_BYTES]) -> bool + Send + Sync + Copy + 'static,
) -> Redial {
    Box::new(move || {
        let (client, mut near) = pair();
        let mut far = TcpStream::connect(at)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (mut near_back, mut far_back) = (near.try_clone()?, far.try_clone()?);
        std::thread::spawn(move || {
            // However the destination ends it, so does the source see it end.
            if std::io::copy(&mut far_back, &mut near_back).is_err() {
                reset_when_closed(&near_back);
                let _ = near_back.shutdown(Shutdown::Read);
            } else {
                let _ = near_back.shutdown(Shutdown::Both);
            }
        });
        std::thread::spawn(move || {
            let mut hello = [0; HELLO_BYTES];
            let passed = near
                .read_exact(&mut hello)
                .and_then(|()| far.write_all(&hello));
            let mut bytes = [0; ANSWER_BYTES];
            let mut number = 0;
            while passed.is_ok() && near.read_exact(&mut bytes).is_ok() {
                if !answers(number, &mut bytes) {
                    let _ = near.shutdown(Shutdown::Both);
                    break;
                }
                if far.write_all(&bytes).is_err() {
                    break;
                }
                number += 1;
            }
            let _ = far.shutdown(Shutdown::Both);
        });
        Ok(client)
    })
}

/// A migration over such a relay.
fn relayed(
    world: &World,
    params: MigrationParams,
    load_time_ms: u64,
    answers: impl Fn(u64, &mut [u8; ANSWER_BYTES]) -> bool + Send + Sync + Copy + 'static,
) -> (SourceOutcome, DestinationOutcome) {
    let mut both = Both::new(world, params);
    let listener = both.destination.recover.as_ref().unwrap();
    let at = listener.local_addr().unwrap();
    both.source.redial = Some(through(at, answers));
    both.destination.load_time_ms = load_time_ms;
    both.run(|_, _| {})
}

/// The guest runs on without its connection, to the next page that is not there; then nobody has it.
#[test]
fn a_connection_that_breaks_after_the_commit_loses_the_guest() {
    let world = World::new(2.0);
    let (mut sent, received) = relayed(&world, on_demand(), 1, |number, _| number < 9_000);
    let report = &received.report;
    assert!(report.is_lost() && report.resumed_ns.is_some());
    let there = report.postcopy.as_ref().unwrap();
    assert_eq!(there.never_came, PAGES - 9_000);
    assert_eq!(
        there.overrun,
        Some(0),
        "it stopped where a page was missing"
    );
    let error = report.error.as_ref().unwrap();
    assert!(
        error.contains("7384 pages had not come; the guest is lost"),
        "{error}"
    );
    assert_eq!(sent.end, SourceEnd::Undecided, "{:?}", sent.report.error);
    assert_eq!(sent.side, SourceSide::Interrupted);
    sent.resolve(&*world.source, true);
    assert!(
        !world.source.runs() && !world.destination.runs(),
        "nobody has it"
    );
    let postcopy = sent.report.postcopy.unwrap();
    // The relay had read some more of them.
    assert!(postcopy.requests > 9_000 && postcopy.requests < PAGES);
    assert!(postcopy.interruptions.is_empty(), "nobody dials again");
}

/// A guest that touches nothing that is missing would run for ever, and never be whole.
#[test]
fn an_idle_guest_without_its_connection_is_given_up_after_a_while() {
    let world = World::new(0.0);
    let (sent, received) = relayed(&world, on_demand(), 1, |number, _| number < 9_000);
    assert!(received.report.is_lost());
    assert_eq!(sent.end, SourceEnd::Undecided);
    assert!(!world.destination.runs());
}

#[test]
fn a_connection_that_breaks_before_the_commit_leaves_the_guest_where_it_was() {
    let world = World::new(2.0);
    // It takes longer to load the state than to fetch 50 pages, on whatever computer.
    let (sent, received) = relayed(&world, on_demand(), 5_000, |number, _| number < 50);
    assert_eq!(received.report.resumed_ns, None);
    assert!(received.report.postcopy.is_none() && received.error.is_some());
    assert_eq!(sent.end, SourceEnd::Failed, "{:?}", sent.report.error);
    assert!(world.source.runs() && !world.destination.runs());
    world.next_migration_succeeds();
}

/// Were it the last one, all would have been served: the source must not take the end of the connection for a success.
#[test]
fn a_damaged_page_loses_the_guest_and_nobody_calls_it_complete() {
    for damaged in [9_000, PAGES - 1] {
        let world = World::new(0.0);
        let (sent, received) = relayed(&world, on_demand(), 1, move |number, bytes| {
            if number == damaged {
                bytes[ANSWER_BYTES - PAGE_BYTES + 40] ^= 1;
            }
            true
        });
        let report = &received.report;
        assert!(report.is_lost(), "{:?}", report.error);
        assert_eq!(report.bad_on_receipt, 1);
        assert_eq!(
            report.postcopy.as_ref().unwrap().never_came,
            PAGES - damaged
        );
        assert_eq!(sent.end, SourceEnd::Undecided, "{:?}", sent.report.error);
        assert_ne!(sent.side, SourceSide::Released);
        assert!(!world.source.runs() && !world.destination.runs());
    }
}

#[test]
fn a_source_that_cannot_open_the_connection_keeps_the_guest() {
    let world = World::new(2.0);
    let mut both = Both::new(&world, on_demand());
    both.source.redial = Some(Box::new(|| {
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }));
    let (sent, received) = both.run(|_, _| {});
    assert_eq!(sent.end, SourceEnd::Failed);
    let error = sent.report.error.as_ref().unwrap();
    assert!(error.contains("fault connection 0"), "{error}");
    assert_eq!(received.report.resumed_ns, None);
    assert!(world.source.runs());
    world.next_migration_succeeds();
}
