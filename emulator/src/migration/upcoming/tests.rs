//! By hand, and against every access of the model.

use proptest::prelude::*;
use replay::{Behaviour, MemorySpec};
use traces::class::{Locality, PageClass};
use traces::content::ContentProfile;

use super::*;

const NS_PER_S: u64 = 1_000_000_000;

fn at(ns: u64) -> GuestTime {
    GuestTime {
        cpu_ns: ns,
        run_ns: ns,
    }
}

fn model(classes: Vec<PageClass>) -> MemoryModel {
    let spec = MemorySpec {
        ram_pages: 256,
        resident_pages: 100,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(classes)],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    MemoryModel::new(&spec, 3, 5).unwrap()
}

/// Ten pages in turn, ten a second: page accesses are a tenth of a second apart.
fn sweep() -> MemoryModel {
    model(vec![PageClass {
        locality: Locality::Sweep,
        coupling: Coupling::Time,
        ..PageClass::new(10, 1.0)
    }])
}

#[test]
fn a_guest_may_run_to_the_next_access_of_a_missing_page() {
    let model = sweep();
    let begin = at(NS_PER_S);
    let mut first: Vec<(u64, u32)> = (0..256)
        .filter_map(|page| Some((model.first_access(page, begin)?.clock_ns, page)))
        .collect();
    first.sort_unstable();
    assert_eq!(first.len(), 10, "one access a page and turn");
    let mut upcoming = Upcoming::new(&model, Bitmap::full(256), &[begin]);
    for _ in 0..11 {
        upcoming.look_ahead(|_| true);
    }
    for &(clock_ns, page) in &first {
        let limit = upcoming.limit(0);
        assert_eq!(limit.run_ns, Some(clock_ns), "right before it");
        assert_eq!(upcoming.awaited(0, Coupling::Time), Some(page));
        assert!(upcoming.arrived(page));
        assert!(!upcoming.arrived(page), "once");
    }
    // Nothing else is ever touched: the end of what is known limits, and the guest waits for no page.
    assert_eq!(
        upcoming.limit(0).run_ns,
        Some(NS_PER_S + 11 * WINDOW_NS + 1)
    );
    assert_eq!(upcoming.awaited(0, Coupling::Time), None);
    assert_eq!(upcoming.left(), 246);
    for page in 0..256 {
        upcoming.arrived(page);
    }
    assert_eq!(upcoming.limit(0), Limit::NONE);
    assert!(!upcoming.is_short(0, at(u64::MAX)));
}

#[test]
fn a_page_that_came_by_itself_stops_nobody() {
    let model = sweep();
    let mut upcoming = Upcoming::new(&model, Bitmap::full(256), &[at(0)]);
    for _ in 0..11 {
        upcoming.look_ahead(|_| true);
    }
    let first = upcoming.awaited(0, Coupling::Time).unwrap();
    let before = upcoming.limit(0);
    upcoming.arrived(first);
    assert!(upcoming.limit(0).run_ns > before.run_ns);
    assert_ne!(upcoming.awaited(0, Coupling::Time), Some(first));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Pages arrive in any order and at any pace: the guest never gets past an access of a page that is
    /// missing, by either clock.
    #[test]
    fn nobody_gets_past_a_missing_page(
        seed in any::<u64>(),
        rate in 0.2..40.0_f64,
        reads in 0.0..40.0_f64,
        step_ms in 1_u64..80,
        gap in 1_u64..6,
    ) {
        let class = |coupling| PageClass {
            coupling,
            read_rate: reads,
            ..PageClass::new(60, rate)
        };
        let model = model(vec![class(Coupling::Time), class(Coupling::Cpu)]);
        let begin = at(seed % NS_PER_S);
        let mut upcoming = Upcoming::new(&model, Bitmap::full(256), &[begin]);
        upcoming.look_ahead(|_| true);
        let (mut now, mut order) = (begin, seed);
        let mut turn = 0;
        while upcoming.left() > 0 {
            let limit = upcoming.limit(0);
            let go = |clock: u64, limit: Option<u64>| {
                (clock + step_ms * 1_000_000).min(limit.unwrap() - 1).max(clock)
            };
            now = GuestTime {
                cpu_ns: go(now.cpu_ns, limit.cpu_ns),
                run_ns: go(now.run_ns, limit.run_ns),
            };
            for page in upcoming.missing().iter() {
                prop_assert!(!model.written_in(page, begin, now), "page {page} was written");
                prop_assert!(!model.read_in(page, begin, now), "page {page} was read");
            }
            if upcoming.is_short(0, now) {
                upcoming.look_ahead(|_| true);
            }
            turn += 1;
            if turn % gap == 0 {
                order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let from = (order >> 40) as u32 % 256;
                let page = upcoming.missing().next_set_wrapping(from).unwrap();
                upcoming.arrived(page);
            }
        }
    }
}
