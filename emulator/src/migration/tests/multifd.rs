//! Multifd over loopback: bytes by hand, every page verified, channels that die.

use std::net::Shutdown;
use std::time::Duration;

use super::*;
use crate::migration::params::{Compression, MultifdParams, ZeroPageDetection};
use crate::migration::record::SourceReport;

const PACKET_HEADER: u64 = 1344;

fn channels(count: u8, compression: Compression) -> MigrationParams {
    MigrationParams {
        multifd: MultifdParams {
            enabled: true,
            channels: count,
            compression,
            ..MultifdParams::default()
        },
        max_bandwidth: 0,
        ..params()
    }
}

fn pages(report: &SourceReport) -> (u64, u64) {
    let sum = |of: fn(&super::super::record::Round) -> u64| report.rounds.iter().map(of).sum();
    (
        sum(|round| round.normal_pages),
        sum(|round| round.zero_pages),
    )
}

fn assert_whole(sent: &SourceOutcome, received: &DestinationOutcome) {
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(received, 0);
    assert_eq!(
        sent.report.bytes.total(),
        received.report.received_bytes,
        "every byte is accounted for"
    );
}

#[test]
fn an_idle_guests_bytes_are_those_of_qemus_packets() {
    for count in [1, 2, 7] {
        let world = World::new(0.0);
        let (sent, received) = world.migrate(channels(count, Compression::None), &[]);
        assert_whole(&sent, &received);
        let report = &sent.report;
        assert_eq!(pages(report), (4096, 16_384 - 4096));
        assert_eq!(report.bytes.normal, 4096 * 4096);
        // 16384 pages fill 128 packets; a hello on each channel; what is left are SYNC packets.
        let n = u64::from(count);
        assert_eq!(report.bytes.header, 128 * PACKET_HEADER);
        let rest = report.multifd_bytes - 4096 * 4096 - 128 * PACKET_HEADER - 64 * n;
        assert_eq!(rest % (n * PACKET_HEADER), 0);
        // Setup, the walk's end, the final walk's end (unless the last slice met it), the end.
        let syncs = rest / (n * PACKET_HEADER);
        assert!((3..=4).contains(&syncs), "{syncs} syncs");
        // As QEMU 10 counts: of the main stream only, and 8 a slice.
        assert!(report.precopy_bytes > 0 && report.precopy_bytes < 8 * 1000);
        assert_eq!(report.downtime_bytes, 0);
        // In the main stream nothing but marks: no page.
        let main = report.bytes.total() - report.multifd_bytes - report.bytes.device;
        assert!(main < 20_000, "{main}");
    }
}

#[test]
fn writing_guests_arrive_in_their_last_version_by_every_way() {
    let detections = [
        ZeroPageDetection::Multifd,
        ZeroPageDetection::Legacy,
        ZeroPageDetection::None,
    ];
    for (count, detection) in [1, 2, 5].into_iter().zip(detections) {
        let world = World::new(2.0);
        let (sent, received) = world.migrate(
            MigrationParams {
                zero_page_detection: detection,
                max_bandwidth: 30_000_000,
                ..channels(count, Compression::None)
            },
            &[],
        );
        assert_whole(&sent, &received);
        let (normal, zero) = pages(&sent.report);
        assert_eq!(sent.report.bytes.normal, 4096 * normal);
        match detection {
            ZeroPageDetection::Multifd => assert!(zero > 9000),
            // In the main stream, 9 bytes each, the block's name once.
            ZeroPageDetection::Legacy => {
                let ram = sent.report.precopy_bytes + sent.report.downtime_bytes;
                assert!(zero > 9000 && ram >= 9 * zero + 7, "{ram} for {zero}");
            }
            ZeroPageDetection::None => assert!(zero == 0 && normal > 16_384),
        }
    }
}

#[test]
fn single_stream_without_detection_sends_zeros_whole() {
    let world = World::new(0.0);
    let none = MigrationParams {
        zero_page_detection: ZeroPageDetection::None,
        max_bandwidth: 0,
        ..params()
    };
    let (sent, received) = world.migrate(none, &[]);
    assert_whole(&sent, &received);
    assert_eq!(pages(&sent.report), (16_384, 0));
    assert_eq!(sent.report.bytes.header, 16_384 * 8 + 7);
}

#[test]
fn packed_channels_bring_every_page_in_fewer_bytes() {
    for compression in [Compression::Zlib, Compression::Zstd, Compression::Lz4] {
        let mut world = World::new(2.0);
        let spec = MemorySpec {
            ram_pages: 16_384,
            resident_pages: 4096,
            high_pages: 0,
            behaviours: Vec::new(),
            fresh: false,
            content: traces::content::named("oltp").unwrap(),
        };
        world.memory = of_spec(&spec);
        let (sent, received) = world.migrate(channels(3, compression), &[]);
        assert_whole(&sent, &received);
        let (normal, _) = pages(&sent.report);
        let ratio = 4096.0 * normal as f64 / sent.report.bytes.normal as f64;
        println!("{compression:?}: {ratio:.2}");
        assert!(ratio > 1.3, "{compression:?}: {ratio}");
    }
}

#[test]
fn noise_grows_by_little() {
    for compression in [Compression::Zlib, Compression::Zstd, Compression::Lz4] {
        let world = World::new(0.0);
        let (sent, received) = world.migrate(channels(2, compression), &[]);
        assert_whole(&sent, &received);
        let grown = sent.report.bytes.normal as f64 / (4096.0 * 4096.0);
        // A body of the pool may come again within the codec's window.
        assert!((0.95..1.01).contains(&grown), "{compression:?}: {grown}");
    }
}

#[test]
fn resident_memory_goes_over_channels_too() {
    let mut world = World::new(0.0);
    world.memory = memory(2.0);
    let (mut source, mut destination) = world.jobs(channels(2, Compression::Zstd));
    let ram = Arc::new(Ram::new(world.memory.pages()).unwrap());
    for page in 0..world.memory.pages() {
        ram.write(&world.memory, page, 0);
    }
    let into = Arc::new(Ram::new(world.memory.pages()).unwrap());
    (source.ram, destination.ram) = (Some(ram), Some(Arc::clone(&into)));
    let (sent, received) = run(source, destination);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_eq!(received.report.torn_on_receipt, 0);
    let (mut got, mut zeros) = ([0; 4096], 0);
    for page in 0..world.memory.pages() {
        into.read(page, &mut got);
        if got == [0; 4096] {
            zeros += 1;
        } else {
            assert_eq!(world.memory.verify(&got, page), Ok(0));
        }
    }
    assert!(zeros > 9000 && zeros < 13_000, "{zeros}");
}

/// Runs both ends to their end.
fn run(source: SourceJob, destination: DestinationJob) -> (SourceOutcome, DestinationOutcome) {
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        drop(source);
        (sent, receiving.join().unwrap())
    })
}

/// Slow enough that a fault falls into the first pass.
fn slow() -> MigrationParams {
    MigrationParams {
        max_bandwidth: 5_000_000,
        ..channels(3, Compression::None)
    }
}

#[test]
fn a_channel_that_dies_ends_the_migration_and_the_guest_stays() {
    // Whose end of it, and how.
    for (at_source, how) in [
        (true, Shutdown::Both),
        (false, Shutdown::Both),
        (false, Shutdown::Read),
        (true, Shutdown::Write),
    ] {
        let world = World::new(1.0);
        let (source, destination) = world.jobs(slow());
        let channel = if at_source {
            &source.channels[1]
        } else {
            &destination.channels[1]
        };
        let socket = channel.socket.try_clone().unwrap();
        let began_ns = mono_ns();
        let killer = std::thread::spawn(move || {
            crate::clock::sleep_until(began_ns + 300_000_000);
            // A channel that ends between packets shows at the next meeting.
            socket.shutdown(how).unwrap();
        });
        let (sent, received) = run(source, destination);
        killer.join().unwrap();
        let error = &sent.report.error;
        assert_eq!(
            sent.end,
            SourceEnd::Failed,
            "{at_source} {how:?}: {error:?}"
        );
        assert!(received.error.is_some(), "{at_source} {how:?}");
        let took_ms = (mono_ns() - began_ns) / 1_000_000;
        assert!(took_ms < 15_000, "{took_ms} ms");
        world.next_migration_succeeds();
    }
}

#[test]
fn a_cancel_while_a_channel_blocks_ends_all_of_them() {
    let world = World::new(1.0);
    let (source, mut destination) = world.jobs(channels(3, Compression::None));
    // Nobody reads channel 2: its packets fill the buffers, then its thread blocks.
    let unread = destination.channels.pop().unwrap();
    let control = Arc::clone(&source.control);
    let (sent, received) = std::thread::scope(|scope| {
        scope.spawn(move || {
            crate::clock::sleep_until(mono_ns() + 1_000_000_000);
            assert!(control.cancel());
        });
        run(source, destination)
    });
    drop(unread);
    assert_eq!(sent.end, SourceEnd::Cancelled, "{:?}", sent.report.error);
    assert!(received.error.is_some());
    world.next_migration_succeeds();
}

#[test]
fn an_abandoned_destination_lets_all_channels_go() {
    let world = World::new(1.0);
    let (source, destination) = world.jobs(slow());
    let control = Arc::clone(&destination.control);
    let (sent, received) = std::thread::scope(|scope| {
        scope.spawn(move || {
            crate::clock::sleep_until(mono_ns() + 300_000_000);
            assert!(!control.abandon());
        });
        run(source, destination)
    });
    assert_eq!(sent.end, SourceEnd::Failed);
    assert!(matches!(received.error, Some(DestinationError::Abandoned)));
    world.next_migration_succeeds();
}

#[test]
fn the_deadline_holds_while_channels_block() {
    let world = World::new(1.0);
    let (mut source, mut destination) = world.jobs(channels(2, Compression::None));
    let unread = destination.channels.pop().unwrap();
    source.deadline_ns = Some(mono_ns() + 1_000_000_000);
    let (sent, _) = run(source, destination);
    drop(unread);
    assert_eq!(sent.end, SourceEnd::Cancelled, "{:?}", sent.report.error);
    world.next_migration_succeeds();
}

#[test]
fn a_destination_told_otherwise_refuses() {
    let world = World::new(0.0);
    let (source, mut destination) = world.jobs(channels(2, Compression::None));
    destination.streams.compression = Compression::Zstd;
    let (sent, received) = run(source, destination);
    assert_eq!(sent.end, SourceEnd::Failed);
    let error = received.error.map(|error| error.to_string()).unwrap();
    assert!(
        error.contains("expected") || error.contains("brings"),
        "{error}"
    );
    world.next_migration_succeeds();
}

#[test]
fn silence_on_all_connections_ends_a_destination() {
    let world = World::new(0.0);
    let (source, mut destination) = world.jobs(channels(2, Compression::None));
    destination.silence_limit_ms = 300;
    let began_ns = mono_ns();
    let received = run_destination(destination);
    assert!(matches!(
        received.error,
        Some(DestinationError::Silence { .. })
    ));
    assert!(mono_ns() - began_ns < 5_000_000_000);
    drop((source, Duration::ZERO));
}
