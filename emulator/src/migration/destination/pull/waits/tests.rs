//! A guest by hand: what it waits for, in which order.

use super::*;
use replay::{Behaviour, MemorySpec};
use traces::class::{PageClass, Scan};
use traces::content::ContentProfile;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn at(run_ns: u64) -> GuestTime {
    GuestTime {
        cpu_ns: run_ns,
        run_ns,
    }
}

/// Thirty pages behind ten of others: read every second, never otherwise touched; after 5 ms of other work.
fn model() -> MemoryModel {
    let scanned = PageClass {
        coupling: Coupling::Time,
        scan: Some(Scan {
            every_ns: S,
            after_ns: 5 * MS,
        }),
        ..PageClass::new(30, 0.0)
    };
    let spec = MemorySpec {
        ram_pages: 64,
        resident_pages: 10,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![scanned])],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    MemoryModel::new(&spec, 7, 11).unwrap()
}

/// Missing: these, of a guest that is at 7 ms of its own time.
fn waits<'a>(model: &'a MemoryModel, pages: &[u32]) -> Waits<'a> {
    let mut missing = Bitmap::new(64);
    for page in pages {
        missing.set(*page);
    }
    let mut waits = Waits::new(model, missing, &[at(7 * MS)]);
    waits.upcoming.look_ahead(|_| true);
    waits.started(model, 0);
    waits
}

#[test]
fn a_scan_waits_for_one_page_after_another_and_for_nothing_else() {
    let model = model();
    let mut waits = waits(&model, &[3, 12, 13, 30, 50]);
    let due_ns = waits.due_ns().unwrap();
    assert!(due_ns < S, "once a second from the start");
    assert_eq!(
        waits.limit(0, due_ns - 1, at(8 * MS)).run_ns,
        Some(107 * MS + 1)
    );
    // 5 ms later in its own time the guest sees it, whatever it has done by then, and stands before that.
    assert_eq!(waits.limit(0, due_ns, at(8 * MS)).run_ns, Some(13 * MS));
    assert_eq!(waits.limit(0, due_ns, at(9 * MS)).run_ns, Some(13 * MS));
    let stands = |waits: &mut Waits<'_>, now_ns| {
        waits.stands(0, at(13 * MS - 1), Coupling::Time, due_ns, now_ns)
    };
    let blocked = |page, since_ns| Standstill::Blocked(Blocked { page, since_ns });
    assert_eq!(stands(&mut waits, due_ns), blocked(12, due_ns));
    // Another page comes meanwhile, and one behind it by itself.
    assert!(waits.arrived(3, due_ns + MS).is_empty());
    assert!(waits.arrived(13, due_ns + 2 * MS).is_empty());
    assert!(waits.is_scanning(0));
    let ended = waits.arrived(12, due_ns + 3 * MS);
    assert_eq!(ended.iter().map(|(_, b)| b.page).collect::<Vec<_>>(), [12]);
    // It touched the next as the last one came, whenever that was noticed.
    assert_eq!(
        stands(&mut waits, due_ns + 4 * MS),
        blocked(30, due_ns + 3 * MS)
    );
    waits.arrived(30, due_ns + 5 * MS);
    // Page 50 is not the scan's.
    let free = Standstill::Free {
        since_ns: due_ns + 5 * MS,
    };
    assert_eq!(stands(&mut waits, due_ns + 6 * MS), free);
    assert!(!waits.is_scanning(0));
    assert_eq!(waits.due_ns(), Some(due_ns + S));
    assert_eq!(
        waits.limit(0, due_ns + 6 * MS, at(13 * MS)).run_ns,
        Some(107 * MS + 1)
    );
}

#[test]
fn turns_that_were_missed_are_not_made_up_for() {
    let model = model();
    let mut waits = waits(&model, &[50]);
    let due_ns = waits.due_ns().unwrap();
    let late_ns = due_ns + 3 * S + MS;
    assert_eq!(waits.limit(0, late_ns, at(8 * MS)).run_ns, Some(13 * MS));
    let why = waits.stands(0, at(13 * MS - 1), Coupling::Time, late_ns, late_ns);
    let free = Standstill::Free { since_ns: late_ns };
    assert_eq!(why, free, "all of its pages are there");
    assert_eq!(waits.due_ns(), Some(due_ns + 4 * S));
}

#[test]
fn whose_pages_are_all_there_looks_at_no_clock() {
    let model = model();
    let mut waits = waits(&model, &[12]);
    waits.arrived(12, 1);
    assert_eq!(waits.limit(0, 10 * S, at(8 * MS)), Limit::NONE);
}

/// The other clock's limit is a page's, whatever is due.
#[test]
fn a_scan_that_is_due_hides_no_access_by_the_other_clock() {
    let busy = PageClass::new(5, 50.0);
    let scan = Some(Scan {
        every_ns: 1,
        after_ns: S,
    });
    let spec = MemorySpec {
        ram_pages: 64,
        resident_pages: 10,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![PageClass { scan, ..busy }])],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    let model = MemoryModel::new(&spec, 7, 11).unwrap();
    let mut waits = Waits::new(&model, Bitmap::full(64), &[at(0)]);
    waits.upcoming.look_ahead(|_| true);
    waits.started(&model, 0);
    let limit = waits.limit(0, S, at(0));
    assert_eq!(limit.run_ns, Some(WINDOW_NS.min(S) + 1));
    let stop = at(limit.cpu_ns.unwrap() - 1);
    let why = waits.stands(0, stop, Coupling::Cpu, S, S);
    assert!(
        matches!(why, Standstill::Blocked(blocked) if (10..15).contains(&blocked.page)),
        "{why:?}"
    );
}

/// How far accesses are known.
const WINDOW_NS: u64 = 100 * MS;
