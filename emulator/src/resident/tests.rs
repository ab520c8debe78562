//! RAM that is there against memory that is computed: the same dirty sets, the same contents.

use std::sync::Arc;

use proptest::prelude::*;
use replay::content::{PAGE_BYTES, PagePool, Recipe};
use replay::guest::GuestTime;
use replay::{Behaviour, Bitmap, DirtyLog, MemorySpec, Reprotect};
use traces::class::{ClassPhase, Coupling, Locality, PageClass, PhasedClasses, Variation};
use traces::content::named;

use super::*;
use crate::migration::guest::GuestMemory;

pub(super) const PAGES: u32 = 2_000;
const MS: u64 = 1_000_000;

pub(super) fn memory(seed: u64, content: &str) -> GuestMemory {
    let class = |pages, rate, coupling, locality| PageClass {
        coupling,
        locality,
        read_rate: 2.0,
        ..PageClass::new(pages, rate)
    };
    let phase = |length_ms: u64, first_page, classes| ClassPhase {
        length_ns: length_ms * MS,
        first_page,
        classes,
        variation: Some(Variation::LogNormal {
            cv: 0.5,
            correlation: 0.7,
            step_ns: 100 * MS,
        }),
    };
    let spec = MemorySpec {
        ram_pages: PAGES,
        resident_pages: 300,
        high_pages: 0,
        behaviours: vec![
            Behaviour::Classes(vec![
                class(70, 40.0, Coupling::Cpu, Locality::Scatter),
                class(500, 3.0, Coupling::Time, Locality::Scatter),
                class(256, 1.0, Coupling::Cpu, Locality::Runs { pages: 8 }),
                class(300, 0.5, Coupling::Time, Locality::Sweep),
            ]),
            Behaviour::Phases(PhasedClasses {
                coupling: Coupling::Cpu,
                phases: vec![
                    phase(700, 0, vec![PageClass::new(200, 5.0)]),
                    phase(300, 100, vec![PageClass::new(50, 60.0)]),
                ],
            }),
        ],
        fresh: false,
        content: named(content).unwrap(),
    };
    GuestMemory::new(&spec, seed, 7, |profile| {
        Ok(Arc::new(PagePool::new(&Recipe::of(profile)?, seed, 64)))
    })
    .unwrap()
}

/// Two vCPUs are served less than a core, unevenly in time.
pub(super) fn time(ms: u64) -> GuestTime {
    GuestTime {
        cpu_ns: ms * MS * 7 / 10 + (ms % 3) * 1_000,
        run_ns: ms * MS,
    }
}

fn writers(memory: &GuestMemory, ram: &Arc<Ram>, of: u32) -> Vec<Writer> {
    let begin = |index| {
        let share = Share::of(memory, index, of);
        let mut writer = Writer::new(memory.clone(), Arc::clone(ram), share, time(0));
        writer.fill();
        writer
    };
    (0..of).map(begin).collect()
}

/// Every page of RAM is what the model says of a guest time.
pub(super) fn assert_holds(memory: &GuestMemory, ram: &Ram, at: GuestTime) {
    let mut bytes = [0; PAGE_BYTES];
    for page in 0..PAGES {
        let version = memory.version_at(page, at);
        assert_eq!(
            ram.is_zero(page),
            memory.is_zero(page, version),
            "page {page}"
        );
        if !ram.is_zero(page) {
            ram.read(page, &mut bytes);
            let held = memory.verify(&bytes, page);
            assert_eq!(
                held,
                Ok(memory.content_version(page, version)),
                "page {page}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// D(t), page for page, however long rounds are, whatever was sent in them, in steps or leaps.
    #[test]
    fn dirty_sets_are_those_of_computed_memory(
        seed in 0u64..1000,
        vcpus in 1u32..4,
        chunk_pages in prop::option::of(prop::sample::select(vec![64u32, 100, 512, 4096])),
        rounds in prop::collection::vec((1u64..3000, 0u32..PAGES, 0u32..PAGES), 1..8),
    ) {
        let policy = chunk_pages.map_or(Reprotect::AtSync, |chunk_pages| Reprotect::Lazy { chunk_pages });
        let memory = memory(seed, "memcached");
        let ram = Arc::new(Ram::new(PAGES).unwrap());
        let mut writers = writers(&memory, &ram, vcpus);
        let mut computed = DirtyLog::start(PAGES, policy, time(0));
        let mut logged = RamLog::start(Arc::clone(&ram), policy);
        let (mut a, mut b) = (Bitmap::full(PAGES), Bitmap::full(PAGES));
        let mut now_ms = 0;
        let mut go = |to_ms: u64| {
            for ms in (now_ms..to_ms).step_by(7) {
                writers.iter_mut().for_each(|writer| writer.advance(time(ms)));
            }
            writers.iter_mut().for_each(|writer| writer.reach(time(to_ms)));
            now_ms = to_ms;
        };
        let mut at_ms = 0;
        for (length_ms, from, pages) in rounds {
            // Some pages are sent half-way through the round.
            go(at_ms + length_ms / 2);
            let half = time(at_ms + length_ms / 2);
            for page in from..(from + pages).min(PAGES) {
                prop_assert_eq!(a.clear(page), b.clear(page), "page {}", page);
                computed.before_send(page, half);
                logged.before_send(page);
            }
            at_ms += length_ms;
            go(at_ms);
            let new = computed.sync(memory.model(), time(at_ms), &mut a);
            prop_assert_eq!(logged.sync(&mut b), new);
            prop_assert_eq!(&a, &b);
        }
        assert_holds(&memory, &ram, time(at_ms));
    }
}

#[test]
fn a_leap_writes_the_last_versions_only() {
    let memory = memory(1, "redis");
    let ram = Arc::new(Ram::new(PAGES).unwrap());
    let mut writer = writers(&memory, &ram, 1).remove(0);
    writer.advance(time(3_600_000));
    assert_holds(&memory, &ram, time(3_600_000));
    // 826 pages of classes were written in an hour, 300 swept, and 200 in phases.
    assert!(writer.writes() <= 1_326, "{}", writer.writes());
    writer.advance(time(3_600_010));
    assert!(writer.behind_ns(time(3_600_010)) < writer::STEP_NS);
}

/// What arrives when a page is harvested and sent between the two halves of a write.
fn sent_amid_a_write(data_first: bool) -> bool {
    let memory = memory(1, "random");
    let ram = Arc::new(Ram::new(PAGES).unwrap());
    writers(&memory, &ram, 1);
    let (page, version) = (400, 1234);
    let mut log = RamLog::start(Arc::clone(&ram), Reprotect::AtSync);
    let mut dirty = Bitmap::new(PAGES);
    let mut sent = [0; PAGE_BYTES];
    let data = || ram.store(&memory, page, version);
    let bit = || ram.mark(page);
    if data_first {
        data();
    } else {
        bit();
    }
    log.sync(&mut dirty);
    if dirty.clear(page) {
        log.before_send(page);
        ram.read(page, &mut sent);
    }
    if data_first {
        bit();
    } else {
        data();
    }
    // The final round.
    log.sync(&mut dirty);
    if dirty.clear(page) {
        log.before_send(page);
        ram.read(page, &mut sent);
    }
    memory.verify(&sent, page) == Ok(version)
}

#[test]
fn a_bit_set_before_its_data_loses_the_write() {
    assert!(sent_amid_a_write(true));
    assert!(
        !sent_amid_a_write(false),
        "verification must find the old page"
    );
}

#[test]
fn shares_of_vcpus_are_all_pages_once() {
    let memory = memory(1, "random");
    for of in 1..5 {
        let mut seen = vec![0; PAGES as usize];
        for index in 0..of {
            let share = Share::of(&memory, index, of);
            share.runs(PAGES, |pages| {
                pages.for_each(|page| seen[page as usize] += 1);
            });
        }
        assert!(seen.iter().all(|&times| times == 1), "{of} vCPUs");
    }
}
