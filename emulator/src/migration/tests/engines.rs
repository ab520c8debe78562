//! The engines that decide by passes, over loopback: bytes on the wire, verification, refusals.

use super::*;
use crate::migration::params::{EngineKind, TimeoutStrategy};
use crate::migration::record::SourceReport;

const PAGES: u64 = 16_384;
/// Resident ones; all else of an idle guest was never touched.
const FILLED: u64 = 4096;
const ENGINES: [EngineKind; 5] = [
    EngineKind::Xen,
    EngineKind::XenLegacy,
    EngineKind::CloudHypervisor,
    EngineKind::QemuRounds,
    EngineKind::StopAndCopy,
];

fn of(engine: EngineKind) -> MigrationParams {
    MigrationParams {
        engine,
        downtime_limit: 20,
        ..MigrationParams::default()
    }
}

fn sent_pages(report: &SourceReport) -> u64 {
    report.rounds.iter().map(|round| round.normal_pages).sum()
}

#[test]
fn every_engine_brings_a_writing_guest_whole() {
    for engine in ENGINES {
        let world = World::new(2.0);
        let (sent, received) = world.migrate(of(engine), &[]);
        assert_eq!(
            sent.end,
            SourceEnd::Completed,
            "{engine:?}: {:?}",
            sent.report.error
        );
        assert_eq!(sent.side, SourceSide::Released);
        assert_verified(&received, 0);
        let report = &sent.report;
        assert_eq!(
            report.bytes.total(),
            received.report.received_bytes,
            "{engine:?}"
        );
        assert_eq!(report.bytes.normal, 4096 * sent_pages(report));
        assert!(world.destination.runs() && !world.source.runs());
        assert!(report.end_ns >= received.report.resumed_ns.unwrap());
    }
}

#[test]
fn an_idle_guest_under_xen_costs_its_whole_ram() {
    let world = World::new(0.0);
    let (sent, received) = world.migrate(of(EngineKind::Xen), &[]);
    assert_verified(&received, 0);
    let report = &sent.report;
    // All pages are sent, zeros too, in 16 full batches; nothing is dirty after them.
    assert_eq!(report.bytes.normal, PAGES * 4096);
    assert_eq!(report.bytes.header, 16 * 16 + PAGES * 8);
    assert_eq!(report.bytes.control, 48 + 40 + 8);
    assert_eq!(report.bytes.device, 79_504, "padded to eight bytes");
    assert_eq!(report.rounds.len(), 3);
    assert_eq!(report.dirty_sync_count, 3);
}

#[test]
fn cloud_hypervisor_leaves_out_memory_that_was_never_touched() {
    let world = World::new(0.0);
    let (sent, received) = world.migrate(of(EngineKind::CloudHypervisor), &[]);
    assert_verified(&received, 0);
    let report = &sent.report;
    assert_eq!(report.bytes.normal, FILLED * 4096);
    // The first table has one range, the final one none.
    assert_eq!(report.bytes.header, 16 + 16 + 16);
    assert_eq!(report.bytes.control, 48 + 3 * 16);
    assert_eq!(report.bytes.device, 79_500);
}

#[test]
fn stop_and_copy_sends_each_page_once_with_the_guest_stopped() {
    let world = World::new(2.0);
    let (sent, received) = world.migrate(of(EngineKind::StopAndCopy), &[]);
    assert_verified(&received, 0);
    let report = &sent.report;
    assert_eq!(report.precopy_bytes, 0);
    let all: u64 = (report.rounds.iter())
        .map(|round| round.normal_pages + round.zero_pages)
        .sum();
    assert_eq!(all, PAGES);
    let stopped_ms = (report.end_ns - report.stop_ns.unwrap()) / 1_000_000;
    assert!(stopped_ms >= 5, "loading is part of the downtime");
}

/// Pages forgotten or not read from the log must show, whatever the engine.
#[test]
fn a_lost_page_never_passes() {
    let live = [EngineKind::Xen, EngineKind::CloudHypervisor];
    for engine in live {
        // Some of the pages written during the first pass are not written again.
        let world = World::new(2.0);
        let slow = MigrationParams {
            downtime_limit: 0,
            ..of(engine)
        };
        let (_, received) = world.migrate(slow, &[Fault::SkipHarvest { number: 1 }]);
        assert!(bad(&received) > 0, "{engine:?}: a harvest was skipped");
        let world = World::new(500.0);
        let (sent, received) = world.migrate(of(engine), &[Fault::ClearDirtyBits { pages: 50 }]);
        let left = sent.report.rounds.last().unwrap().dirty_pages.min(50);
        assert!(left > 0, "{engine:?}: nothing was left to clear");
        // A page may have been read after the write that set its bit: then nothing is lost.
        let bad = bad(&received);
        assert!(
            (1..=left).contains(&bad),
            "{engine:?}: {bad} of {left} cleared bits show"
        );
    }
    let world = World::new(0.0);
    let lost = Fault::LosePages {
        after: 100,
        pages: 3,
        put_back: false,
    };
    let (_, received) = world.migrate(of(EngineKind::Xen), &[lost]);
    assert!(matches!(
        received.error,
        Some(DestinationError::Incomplete { pages: 3, .. })
    ));
}

fn bad(received: &DestinationOutcome) -> u64 {
    received
        .report
        .verification
        .as_ref()
        .map_or(0, |all| all.bad)
}

#[test]
fn cloud_hypervisors_timeout_leaves_the_guest_where_it_is() {
    let never_fits = MigrationParams {
        downtime_limit: 0,
        timeout: 50,
        ..of(EngineKind::CloudHypervisor)
    };
    let world = World::new(5000.0);
    let (sent, received) = world.migrate(never_fits.clone(), &[]);
    assert_eq!(sent.end, SourceEnd::Failed);
    let error = sent.report.error.unwrap();
    assert!(error.contains("timeout of 50 ms"), "{error}");
    assert!(received.error.is_some());
    world.next_migration_succeeds();

    let world = World::new(5000.0);
    let ignore = MigrationParams {
        timeout_strategy: TimeoutStrategy::Ignore,
        ..never_fits
    };
    let (sent, received) = world.migrate(ignore, &[]);
    assert_eq!(sent.end, SourceEnd::Completed);
    assert_verified(&received, 0);
}

#[test]
fn a_destination_that_refuses_leaves_the_guest_at_the_source() {
    for engine in ENGINES {
        let mut world = World::new(1.0);
        let refusing = TestGuest {
            running: Arc::clone(&world.running),
            vcpus: Mutex::new(vec![Own::default()]),
            refuse: true,
            throttled: Mutex::default(),
        };
        world.destination = Arc::new(refusing);
        let (sent, received) = world.migrate(of(engine), &[]);
        assert_eq!(sent.end, SourceEnd::Failed, "{engine:?}");
        assert_eq!(sent.side, SourceSide::Running, "{engine:?}");
        assert!(received.error.is_some());
        assert!(world.source.runs());
    }
}

#[test]
fn a_cancel_while_it_waits_for_an_answer_is_a_cancel() {
    let world = World::new(1.0);
    let (client, server) = pair();
    let source = world.source_job(of(EngineKind::CloudHypervisor), client);
    let control = Arc::clone(&source.control);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| run_source(&source, &NoObserver));
        // The destination takes everything and never answers.
        let mut taken = [0; 64];
        (&server).read_exact(&mut taken).unwrap();
        assert!(control.cancel());
        let sent = sending.join().unwrap();
        assert_eq!(sent.end, SourceEnd::Cancelled, "{:?}", sent.report.error);
        assert!(world.source.runs());
    });
}

/// Chunks of 1000 pages; of an idle guest one range.
#[test]
fn cloud_hypervisors_connections_share_a_pass() {
    for connections in [2, 4] {
        let params = MigrationParams {
            connections,
            ..of(EngineKind::CloudHypervisor)
        };
        let world = World::new(0.0);
        let (sent, received) = world.migrate(params.clone(), &[]);
        assert_verified(&received, 0);
        let report = &sent.report;
        assert_eq!(report.bytes.total(), received.report.received_bytes);
        assert_eq!(report.bytes.normal, FILLED * 4096);
        // Five chunks, each a request and a range; nothing in the final pass.
        assert_eq!(report.bytes.header, 5 * (16 + 16));
        // Header, Start, Config, Complete; a hello on each.
        let hellos = 64 * u64::from(connections);
        assert_eq!(report.bytes.control, 48 + 3 * 16 + hellos);
        assert_eq!(report.multifd_bytes, 0, "not QEMU's");
        let world = World::new(2.0);
        let (sent, received) = world.migrate(params, &[]);
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_verified(&received, 0);
        assert_eq!(sent.report.bytes.normal, 4096 * sent_pages(&sent.report));
    }
}

#[test]
fn a_connection_of_cloud_hypervisors_that_dies_ends_it() {
    let world = World::new(1.0);
    let params = MigrationParams {
        connections: 3,
        ..of(EngineKind::CloudHypervisor)
    };
    let (source, mut destination) = world.jobs(params);
    // Closed before its first chunk.
    drop(destination.channels.remove(1));
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        drop(source);
        (sent, receiving.join().unwrap())
    });
    assert_eq!(sent.end, SourceEnd::Failed);
    assert!(received.error.is_some());
    world.next_migration_succeeds();
}
