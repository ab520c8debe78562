use proptest::prelude::*;
use traces::class::{Coupling, Locality, PageClass};

use super::*;
use crate::guest::{Behaviour, MemorySpec};

const PAGES: u32 = 60;

fn guest(seed: u64) -> MemoryModel {
    let class = |pages, rate, locality| PageClass {
        coupling: Coupling::Time,
        locality,
        ..PageClass::new(pages, rate)
    };
    let spec = MemorySpec {
        ram_pages: PAGES,
        resident_pages: 5,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![
            class(20, 3.0, Locality::Scatter),
            class(10, 0.3, Locality::Runs { pages: 3 }),
            class(15, 1.0, Locality::Sweep),
        ])],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    MemoryModel::new(&spec, seed, 1).unwrap()
}

fn at_ms(ms: u64) -> GuestTime {
    GuestTime {
        cpu_ns: 0,
        run_ns: ms * 1_000_000,
    }
}

/// KVM and QEMU as they are written: a bit a page set by writes, a copy of the bits read, a mark a
/// chunk that still has to be cleared. It is told every write in time, by stepping through time.
struct Naive {
    lazy: Option<u32>,
    /// KVM's bits.
    bits: Vec<bool>,
    /// QEMU's copy of the last reading.
    slot: Vec<bool>,
    clear_chunk: Vec<bool>,
    versions: Vec<u64>,
}

impl Naive {
    fn start(model: &MemoryModel, lazy: Option<u32>, now: GuestTime) -> Self {
        let n = PAGES as usize;
        let versions = (0..PAGES).map(|page| model.version_at(page, now)).collect();
        let ones = lazy.is_some();
        Self {
            lazy,
            bits: vec![ones; n],
            slot: vec![ones; n],
            clear_chunk: vec![true; n],
            versions,
        }
    }

    fn run_to(&mut self, model: &MemoryModel, now: GuestTime) {
        for page in 0..PAGES {
            let version = model.version_at(page, now);
            if version != std::mem::replace(&mut self.versions[page as usize], version) {
                self.bits[page as usize] = true;
            }
        }
    }

    fn sync(&mut self, migration: &mut [bool]) -> u64 {
        let mut fresh = 0;
        for (page, &bit) in self.bits.iter().enumerate() {
            fresh += u64::from(bit && !migration[page]);
            migration[page] |= bit;
        }
        if self.lazy.is_some() {
            self.slot.clone_from(&self.bits);
            self.clear_chunk.fill(true);
        } else {
            self.bits.fill(false);
        }
        fresh
    }

    fn before_send(&mut self, page: u32) {
        let Some(chunk) = self.lazy else { return };
        if !std::mem::replace(&mut self.clear_chunk[(page / chunk) as usize], false) {
            return;
        }
        let first = page / chunk * chunk;
        for page in first..(first + chunk).min(PAGES) {
            if std::mem::replace(&mut self.slot[page as usize], false) {
                self.bits[page as usize] = false;
            }
        }
    }
}

#[test]
fn a_new_log_has_every_page_dirty_once() {
    let model = guest(1);
    let mut log = DirtyLog::start(PAGES, Reprotect::QEMU, at_ms(500));
    let mut migration = Bitmap::full(PAGES);
    for page in 0..PAGES {
        assert_eq!(
            log.before_send(page, at_ms(500)),
            page == 0,
            "one chunk is cleared once"
        );
        migration.clear(page);
    }
    assert_eq!(
        log.sync(&model, at_ms(500), &mut migration),
        0,
        "nothing written since"
    );
    let mut unsent = DirtyLog::start(PAGES, Reprotect::QEMU, at_ms(500));
    assert_eq!(
        unsent.sync(&model, at_ms(500), &mut migration),
        u64::from(PAGES)
    );
}

#[test]
fn what_was_written_before_the_clearing_is_not_sent_twice() {
    let model = guest(2);
    let mut log = DirtyLog::start(PAGES, Reprotect::QEMU, at_ms(0));
    let mut migration = Bitmap::new(PAGES);
    log.before_send(0, at_ms(900));
    log.sync(&model, at_ms(1000), &mut migration);
    for page in 0..PAGES {
        assert_eq!(
            migration.get(page),
            model.written_in(page, at_ms(900), at_ms(1000))
        );
    }
    let mut eager = DirtyLog::start(PAGES, Reprotect::AtSync, at_ms(0));
    let mut at_sync = Bitmap::new(PAGES);
    eager.before_send(0, at_ms(900));
    eager.sync(&model, at_ms(1000), &mut at_sync);
    assert!(
        at_sync.count() > migration.count(),
        "without lazy clearing more is sent"
    );
}

#[test]
fn pages_put_back_are_dirty_at_the_next_sync_only() {
    let model = guest(3);
    for policy in [Reprotect::AtSync, Reprotect::Lazy { chunk_pages: 7 }] {
        let mut log = DirtyLog::start(PAGES, policy, at_ms(0));
        (0..PAGES).for_each(|page| {
            log.before_send(page, at_ms(0));
        });
        let mut unsent = Bitmap::new(PAGES);
        unsent.set_range(0..4);
        log.put_back(&unsent);
        let mut migration = Bitmap::new(PAGES);
        assert_eq!(log.sync(&model, at_ms(0), &mut migration), 4);
        assert_eq!(migration, unsent);
        (0..PAGES).for_each(|page| {
            log.before_send(page, at_ms(0));
        });
        assert_eq!(log.sync(&model, at_ms(0), &mut Bitmap::new(PAGES)), 0);
    }
}

/// Runs a migration to its end and says whether every page arrived in its final version. `spoil`
/// may tamper with the last harvest; it is told the pages whose copy at the destination is old.
fn arrives(policy: Reprotect, seed: u64, spoil: impl Fn(&[u32], &mut Bitmap)) -> bool {
    let model = guest(seed);
    let mut log = DirtyLog::start(PAGES, policy, at_ms(0));
    let mut migration = Bitmap::full(PAGES);
    let mut arrived = vec![u64::MAX; PAGES as usize];
    let mut ms = 0;
    let stale = |arrived: &[u64], ms| -> Vec<u32> {
        let is_old = |&page: &u32| arrived[page as usize] != model.version_at(page, at_ms(ms));
        (0..PAGES).filter(is_old).collect()
    };
    for round in 0..6 {
        while let Some(page) = migration.next_set(0) {
            log.before_send(page, at_ms(ms));
            migration.clear(page);
            arrived[page as usize] = model.version_at(page, at_ms(ms));
            // The final round is sent paused.
            ms += if round == 5 { 0 } else { 20 };
        }
        if round < 5 {
            log.sync(&model, at_ms(ms), &mut migration);
        }
        if round == 4 {
            spoil(&stale(&arrived, ms), &mut migration);
        }
    }
    stale(&arrived, ms).is_empty()
}

#[test]
fn a_skipped_harvest_or_a_cleared_bit_shows_in_the_versions() {
    for policy in [
        Reprotect::AtSync,
        Reprotect::Lazy { chunk_pages: 7 },
        Reprotect::QEMU,
    ] {
        for seed in 0..20 {
            assert!(arrives(policy, seed, |_, _| {}), "{policy:?} seed {seed}");
            let skipped = arrives(policy, seed, |_, bitmap| bitmap.clear_all());
            assert!(
                !skipped,
                "{policy:?} seed {seed}: a skipped harvest went unnoticed"
            );
            let cleared = arrives(policy, seed, |stale, bitmap| {
                assert!(
                    bitmap.clear(stale[stale.len() / 2]),
                    "the log has every page that is old"
                );
            });
            assert!(
                !cleared,
                "{policy:?} seed {seed}: a cleared bit went unnoticed"
            );
        }
    }
}

proptest! {
    #[test]
    fn the_log_agrees_with_one_told_of_every_write(
        seed in any::<u64>(),
        chunk in prop::option::of(1u32..70),
        steps in prop::collection::vec((0u64..120, 0u32..PAGES, 0u8..4), 1..80),
    ) {
        let model = guest(seed);
        let policy = chunk.map_or(Reprotect::AtSync, |chunk_pages| Reprotect::Lazy { chunk_pages });
        let mut ms = 77;
        let mut log = DirtyLog::start(PAGES, policy, at_ms(ms));
        let mut naive = Naive::start(&model, chunk, at_ms(ms));
        let mut migration = Bitmap::full(PAGES);
        let mut reference = vec![true; PAGES as usize];
        for (wait, page, action) in steps {
            ms += wait;
            naive.run_to(&model, at_ms(ms));
            if action == 0 {
                let fresh = log.sync(&model, at_ms(ms), &mut migration);
                prop_assert_eq!(fresh, naive.sync(&mut reference));
                for page in 0..PAGES {
                    prop_assert_eq!(migration.get(page), reference[page as usize], "page {}", page);
                }
            } else {
                log.before_send(page, at_ms(ms));
                naive.before_send(page);
                migration.clear(page);
                reference[page as usize] = false;
            }
        }
    }
}
