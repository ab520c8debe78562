//! What harvesting, versions and page contents cost: `cargo bench -p replay`. Prints figures and
//! judges nothing.

use std::hint::black_box;
use std::time::Instant;

use replay::content::{PAGE_BYTES, PagePool, Recipe};
use replay::{Behaviour, Bitmap, DirtyLog, GuestTime, MemoryModel, MemorySpec, Reprotect};
use traces::class::{ClassPhase, Coupling, Locality, PageClass, PhasedClasses, Variation};
use traces::content::named;

const PAGES: u32 = 1 << 20;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(what: &str, per: f64, mut work: impl FnMut()) {
    work();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what:<58} {:>9.2} ns", best * 1e9 / per);
}

fn guest(rate: f64, locality: Locality) -> MemoryModel {
    of(|class| Behaviour::Classes(vec![class]), rate, locality)
}

/// A class in each of eight phases of 10 s over the same pages, all varying.
fn phased(rate: f64) -> MemoryModel {
    let phase = |class: &PageClass| ClassPhase {
        length_ns: 10_000_000_000,
        first_page: 0,
        classes: vec![*class],
        variation: Some(Variation::LogNormal {
            cv: 0.3,
            correlation: 0.7,
            step_ns: 1_000_000_000,
        }),
    };
    let eight = |class| {
        Behaviour::Phases(PhasedClasses {
            coupling: Coupling::Time,
            phases: vec![phase(&class); 8],
        })
    };
    of(eight, rate, Locality::Scatter)
}

fn of(behaviour: impl Fn(PageClass) -> Behaviour, rate: f64, locality: Locality) -> MemoryModel {
    let class = PageClass {
        coupling: Coupling::Time,
        locality,
        ..PageClass::new(PAGES, rate)
    };
    let spec = MemorySpec {
        ram_pages: PAGES,
        resident_pages: 0,
        high_pages: 0,
        behaviours: vec![behaviour(class)],
        fresh: false,
        content: traces::content::ContentProfile::default(),
    };
    MemoryModel::new(&spec, 1, 1).expect("a guest of one class")
}

const fn ms(ms: u64) -> GuestTime {
    GuestTime {
        cpu_ns: 0,
        run_ns: ms * 1_000_000,
    }
}

fn main() {
    let pages = f64::from(PAGES);
    let mut bitmap = Bitmap::new(PAGES);
    for (rate, locality, window) in [
        (0.01, Locality::Scatter, 500),
        (1.0, Locality::Scatter, 100),
        (1.0, Locality::Scatter, 1_000),
        (1.0, Locality::Scatter, 10_000),
        (100.0, Locality::Scatter, 1_000),
        (1.0, Locality::Runs { pages: 16 }, 100),
        (1.0, Locality::Sweep, 100),
    ] {
        let model = guest(rate, locality);
        let name = format!("harvest, {rate}/s {locality:?}, {window} ms, a page");
        time(&name, pages, || {
            bitmap.clear_all();
            model.harvest(ms(5_300), ms(5_300 + window), &mut bitmap);
        });
    }
    let model = phased(1.0);
    time(
        "harvest, 1/s in 8 phases that vary, 1000 ms, a page",
        pages,
        || {
            bitmap.clear_all();
            model.harvest(ms(85_300), ms(86_300), &mut bitmap);
        },
    );
    time("version, in 8 phases that vary, a page", pages, || {
        let sum = (0..PAGES).fold(0u64, |sum, page| sum ^ model.version_at(page, ms(85_000)));
        black_box(sum);
    });
    time("first access, a page", pages / 64.0, || {
        let pages = (0..PAGES).step_by(64);
        let next = pages.filter_map(|page| model.first_access(page, ms(85_000)));
        black_box(next.count());
    });
    let model = guest(1.0, Locality::Scatter);
    time("version, a page", pages, || {
        let sum = (0..PAGES).fold(0u64, |sum, page| sum ^ model.version_at(page, ms(5_000)));
        black_box(sum);
    });
    time("sync after a cleared second, a page", pages, || {
        let mut log = DirtyLog::start(PAGES, Reprotect::QEMU, ms(5_000));
        for chunk in 0..PAGES >> 18 {
            log.before_send(chunk << 18, ms(5_500));
        }
        bitmap.clear_all();
        log.sync(&model, ms(6_000), &mut bitmap);
    });
    bitmap.set_range(0..PAGES);
    time("walk of a full bitmap, a page", pages, || {
        black_box(bitmap.iter().fold(0, |sum: u32, page| sum ^ page));
    });
    contents();
}

fn contents() {
    let pool = PagePool::new(
        &Recipe::of(&named("dacapo").expect("a built-in profile")).expect("it is met"),
        1,
        256,
    );
    let mut wire = vec![0; 256 * PAGE_BYTES];
    let fill = |wire: &mut [u8]| {
        for (page, bytes) in (0..).zip(wire.chunks_exact_mut(PAGE_BYTES)) {
            let (stamp, body) = pool.page(1, page, 77);
            bytes[..32].copy_from_slice(&stamp.encode());
            bytes[32..].copy_from_slice(body);
        }
    };
    time("stamp, choose and copy, a page", 256.0, || fill(&mut wire));
    time("stamp and choose, a page", 256.0, || {
        for page in 0..256 {
            let (stamp, body) = pool.page(1, page, 77);
            black_box((stamp.encode(), body));
        }
    });
    time("verify, a page", 256.0, || {
        for (page, bytes) in (0..).zip(wire.chunks_exact(PAGE_BYTES)) {
            black_box(pool.verify(bytes, 1, page).expect("just written"));
        }
    });
}
