//! XBZRLE over loopback: what the cache finds, what it costs, and that every page arrives.

use super::*;
use crate::migration::params::XbzrleParams;

fn deltas(cache_size: u64) -> MigrationParams {
    MigrationParams {
        xbzrle: XbzrleParams {
            enabled: true,
            cache_size,
        },
        reprotect: Reprotect::AtSync,
        ..params()
    }
}

/// Until little is left, for several rounds.
fn several(cache_size: u64) -> MigrationParams {
    MigrationParams {
        downtime_limit: 10,
        ..deltas(cache_size)
    }
}

/// 2048 pages written, so many times a second each.
fn world(content: ContentProfile, rate: f64) -> World {
    let mut world = World::new(0.0);
    world.memory = of_spec(&MemorySpec {
        ram_pages: 16_384,
        resident_pages: 4096,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![PageClass::new(2048, rate)])],
        fresh: false,
        content,
    });
    world
}

/// Rewrites of about 600 bytes.
fn partly() -> ContentProfile {
    traces::content::named("oltp").unwrap()
}

#[test]
fn pages_written_a_little_go_as_deltas() {
    let world = world(partly(), 10.0);
    let (sent, received) = world.migrate(deltas(64 << 20), &[]);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let report = &sent.report;
    assert_eq!(report.bytes.total(), received.report.received_bytes);
    let xbzrle = report.xbzrle.unwrap();
    let sum = |of: fn(&super::super::record::Round) -> u64| report.rounds.iter().map(of).sum();
    let (normal, found): (u64, u64) = (sum(|r| r.normal_pages), sum(|r| r.xbzrle_pages));
    assert_eq!(xbzrle.cache_size, 64 << 20);
    assert_eq!(xbzrle.pages, found + xbzrle.overflow);
    assert_eq!(xbzrle.bytes, report.bytes.delta + 4096 * xbzrle.overflow);
    assert_eq!(report.bytes.normal, 4096 * normal);
    // Nothing is cached in the first pass: a page is missed once, then found.
    assert!(
        xbzrle.cache_miss >= 1000 && xbzrle.cache_miss <= 2048 + 200,
        "{xbzrle:?}"
    );
    assert!(found > 500, "{xbzrle:?}");
    let mean = report.bytes.delta as f64 / found as f64;
    assert!((200.0..1000.0).contains(&mean), "{mean} bytes a delta");
}

#[test]
fn a_cache_too_small_thrashes_and_still_brings_every_page() {
    let world = world(partly(), 1.5);
    // 512 slots for 2048 pages: four share one, and each keeps it for two syncs.
    let (sent, received) = world.migrate(several(2 << 20), &[]);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let xbzrle = sent.report.xbzrle.unwrap();
    assert!(xbzrle.cache_miss > xbzrle.pages, "{xbzrle:?}");
}

#[test]
fn pages_written_anew_overflow_and_go_whole() {
    let world = world(ContentProfile::RANDOM, 1.5);
    let (sent, received) = world.migrate(several(64 << 20), &[]);
    assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
    assert_verified(&received, 0);
    let xbzrle = sent.report.xbzrle.unwrap();
    assert!(xbzrle.overflow > 50, "{xbzrle:?}");
}

#[test]
fn deltas_of_resident_memory_meet_what_the_destination_holds() {
    let world = world(partly(), 10.0);
    let (mut source, mut destination) = world.jobs(deltas(64 << 20));
    let ram = Arc::new(Ram::new(world.memory.pages()).unwrap());
    for page in 0..world.memory.pages() {
        ram.write(&world.memory, page, 0);
    }
    let into = Arc::new(Ram::new(world.memory.pages()).unwrap());
    (source.ram, destination.ram) = (Some(Arc::clone(&ram)), Some(Arc::clone(&into)));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        // Versions as guest time has them, until the guest is stopped.
        scope.spawn(|| {
            let mut before = 0;
            while !stop.load(Ordering::SeqCst) {
                let now = world.source.run_ns();
                for page in 4096..6144 {
                    let version = world.memory.version_at(page, time(now));
                    if version != world.memory.version_at(page, time(before)) {
                        ram.write(&world.memory, page, version);
                    }
                }
                before = now;
                if !world.source.runs() {
                    break;
                }
            }
        });
        let sent = run_source(&source, &NoObserver);
        stop.store(true, Ordering::SeqCst);
        drop(source);
        let received = receiving.join().unwrap();
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert!(
            sent.report.xbzrle.unwrap().pages > 100,
            "{:?}",
            sent.report.xbzrle
        );
        assert!(received.error.is_none(), "{:?}", received.report.error);
    });
    // Whatever was being written when the guest stopped, both ends hold the same but for those.
    let (mut here, mut there, mut differ) = ([0; 4096], [0; 4096], 0);
    for page in 0..world.memory.pages() {
        ram.read(page, &mut here);
        into.read(page, &mut there);
        differ += u32::from(here != there);
    }
    assert!(differ <= 64, "{differ} pages differ");
}
