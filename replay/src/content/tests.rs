//! What codecs and XBZRLE find in generated pages, against the profiles; stamps and pools.

use std::sync::Arc;

use proptest::prelude::*;
use traces::content::{Changes, Codecs, NAMES, Tally, changed_runs, named, xbzrle_len};

use super::*;
use crate::guest::{Behaviour, Layout, MemorySpec};
use crate::mix;
use traces::class::PageClass;

const VM: u64 = 77;

fn spec(ram_pages: u32, resident_pages: u32, content: ContentProfile) -> MemorySpec {
    MemorySpec {
        ram_pages,
        resident_pages,
        high_pages: 0,
        behaviours: vec![],
        fresh: false,
        content,
    }
}

fn contents(spec: &MemorySpec, seed: u64) -> Contents {
    Contents::new(spec, seed, VM, |profile| {
        Ok(Arc::new(PagePool::new(&Recipe::of(profile)?, seed, 512)))
    })
    .unwrap()
}

fn bytes_of(contents: &Contents, page: u32, version: u64) -> Vec<u8> {
    if contents.is_zero(page, version) {
        return vec![0; PAGE_BYTES];
    }
    let (stamp, body) = contents.page(page, version);
    [&stamp.encode()[..], body].concat()
}

/// What is found in pages of which each is looked at twice.
#[derive(Debug, Default)]
struct Found {
    zero: f64,
    ratios: [f64; 3],
    unchanged: f64,
    overflow: f64,
    xbzrle: f64,
    /// Of pages that do not overflow.
    runs: f64,
}

fn find(contents: &Contents, pages: u32) -> Found {
    let (mut sizes, mut changes) = (Tally::default(), Changes::default());
    let (mut runs, mut fit) = (0, 0);
    for page in 0..pages {
        let [before, now] = [1, 2].map(|n| {
            let version = 1 + mix::draw(mix::key(&[n]), page, 0) % 100_000;
            bytes_of(contents, page, version)
        });
        // Every sixteenth is enough for the codecs, which take their time.
        if page % 16 == 0 {
            sizes.add(&now);
        }
        changes.add(&before, &now);
        if before != now && xbzrle_len(&before, &now).is_some() {
            (runs, fit) = (runs + changed_runs(&before, &now), fit + 1);
        }
    }
    let zero = (0..pages).filter(|&page| contents.is_zero(page, 9)).count();
    let (sizes, delta) = (sizes.finish(), changes.finish());
    let changed = (delta.compared - delta.unchanged) as f64;
    Found {
        zero: zero as f64 / f64::from(pages),
        ratios: [sizes.lz4, sizes.zlib, sizes.zstd].map(|s| PAGE_BYTES as f64 / s.unwrap().mean),
        unchanged: delta.unchanged as f64 / delta.compared as f64,
        overflow: delta.overflow as f64 / changed,
        xbzrle: delta.xbzrle.map_or(0.0, |spread| spread.mean),
        runs: runs as f64 / f64::from(fit.max(1)),
    }
}

/// Five in a hundred of a figure. Shares are of pages drawn, so they also vary by chance.
fn assert_met(name: &str, profile: &ContentProfile, found: &Found, pages: u32) {
    let near = |what: &str, found: f64, wanted: f64, chance: f64| {
        let room = 0.05 * wanted + chance;
        assert!(
            (found - wanted).abs() <= room,
            "{name}: {what} is {found:.4}, the profile says {wanted:.4}"
        );
    };
    // Three standard deviations of a share, and two pages.
    let chance = |share: f64| {
        3.0 * (share * (1.0 - share) / f64::from(pages)).sqrt() + 2.0 / f64::from(pages)
    };
    near(
        "zero share",
        found.zero,
        profile.zero_share,
        chance(profile.zero_share),
    );
    let asked = [profile.lz4_ratio, profile.zlib_ratio, profile.zstd_ratio];
    for ((codec, wanted), found) in ["lz4", "zlib", "zstd"].iter().zip(asked).zip(found.ratios) {
        near(codec, found, wanted.unwrap_or(found), 0.0);
    }
    let rewrite = &profile.rewrite;
    near(
        "unchanged share",
        found.unchanged,
        rewrite.unchanged_share.max(profile.zero_share),
        chance(rewrite.unchanged_share),
    );
    near(
        "overflow share",
        found.overflow,
        rewrite.overflow_share,
        chance(rewrite.overflow_share),
    );
    if rewrite.overflow_share < 1.0 {
        near("XBZRLE bytes", found.xbzrle, rewrite.xbzrle_bytes, 0.0);
        near("changed runs", found.runs, rewrite.changed_runs, 0.0);
    }
}

#[test]
fn generated_pages_are_as_the_built_in_profiles_say() {
    const PAGES: u32 = 40_000;
    for name in NAMES {
        let profile = named(name).unwrap();
        let found = find(&contents(&spec(PAGES, PAGES, profile), 3), PAGES);
        assert_met(name, &profile, &found, PAGES);
    }
}

#[test]
fn a_profile_of_ones_own_is_met_or_refused() {
    const PAGES: u32 = 8_000;
    let profile = ContentProfile {
        zero_share: 0.1,
        filled_zero_share: 0.0,
        duplicate_share: None,
        incompressible_share: 0.31,
        lz4_ratio: Some(1.5),
        zlib_ratio: Some(1.8),
        zstd_ratio: None,
        rewrite: traces::content::Rewrite {
            unchanged_share: 0.3,
            overflow_share: 0.2,
            xbzrle_bytes: 500.0,
            changed_runs: 40.0,
        },
    };
    let found = find(&contents(&spec(PAGES, PAGES, profile), 3), PAGES);
    assert_met("own", &profile, &found, PAGES);

    // Nothing shrinks tenfold for lz4 and by a tenth for zlib.
    let odd = ContentProfile {
        lz4_ratio: Some(10.0),
        zlib_ratio: Some(1.1),
        ..named("media").unwrap()
    };
    let refused = Recipe::of(&odd).unwrap_err();
    assert!(
        matches!(refused, RecipeError::OutOfReach { .. }),
        "{refused}"
    );
    // The stamp alone takes more.
    let mut small = named("sqlite").unwrap();
    small.rewrite.xbzrle_bytes = 9.0;
    let refused = Recipe::of(&small).unwrap_err();
    assert!(
        matches!(
            refused,
            RecipeError::OutOfReach {
                key: "xbzrle_bytes",
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn the_stamp_takes_less_than_twenty_bytes_of_a_delta() {
    // Two writes of one variant differ in the stamp alone.
    let sqlite = contents(&spec(64, 64, named("sqlite").unwrap()), 1);
    let alike = (1..400u64)
        .map(|version| bytes_of(&sqlite, 5, version))
        .collect::<Vec<_>>();
    let stamps: Vec<usize> = alike
        .iter()
        .zip(&alike[1..])
        .filter(|(a, b)| a[..] != b[..] && a[STAMP_BYTES..] == b[STAMP_BYTES..])
        .map(|(a, b)| xbzrle_len(a, b).unwrap())
        .collect();
    assert!(
        stamps.len() > 5 && stamps.iter().all(|&len| len < 20),
        "{stamps:?}"
    );
}

#[test]
fn classes_may_hold_something_else() {
    let media = named("media").unwrap();
    let class = PageClass {
        content: Some(media),
        ..PageClass::new(100, 1.0)
    };
    let spec = MemorySpec {
        behaviours: vec![Behaviour::Classes(vec![
            PageClass::new(50, 1.0),
            class,
            PageClass::new(20, 1.0),
        ])],
        ..spec(1000, 30, named("postgresql").unwrap())
    };
    let contents = contents(&spec, 1);
    let ratio = |pages: std::ops::Range<u32>| {
        let packed: usize = pages
            .clone()
            .filter(|&page| !contents.is_zero(page, 1))
            .map(|page| Codecs::lz4_len(&bytes_of(&contents, page, 1)))
            .sum();
        (pages.len() * PAGE_BYTES) as f64 / packed as f64
    };
    // Pages 80 to 179 are the class; what lies around is PostgreSQL's, 5 to 1.
    assert!(ratio(0..80) > 3.0, "{}", ratio(0..80));
    assert!(ratio(80..180) < 1.2, "{}", ratio(80..180));
    assert!(ratio(180..200) > 3.0, "{}", ratio(180..200));
}

#[test]
fn zero_pages_are_those_nobody_filled_and_the_share_of_the_profile() {
    let profile = ContentProfile {
        zero_share: 0.3,
        filled_zero_share: 0.1,
        ..ContentProfile::RANDOM
    };
    let contents = contents(&spec(20_000, 10_000, profile), 1);
    let zero = |version| {
        (0..10_000)
            .filter(|&page| contents.is_zero(page, version))
            .count()
    };
    // Binomial: sigma 46 and 30; 4 of them.
    assert!((2816..3184).contains(&zero(7)), "{}", zero(7));
    assert!((880..1120).contains(&zero(0)), "{}", zero(0));
    assert!((10_000..20_000).all(|page| contents.is_zero(page, 0)));
    assert_eq!(zero(7), zero(8), "what is zero stays so");
    let layout = Layout::new(&spec(20_000, 10_000, profile)).unwrap();
    assert!(!layout.starts_zero(9_999) && layout.starts_zero(10_000));
}

#[test]
fn a_page_verifies_as_itself_and_as_nothing_else() {
    let recipe = Recipe::of(&named("dacapo").unwrap()).unwrap();
    let pool = PagePool::new(&recipe, 1, 64);
    let page = |vm, page, version| {
        let (stamp, body) = pool.page(vm, page, version);
        [&stamp.encode()[..], body].concat()
    };
    let bytes = page(7, 123, 99);
    assert_eq!(pool.verify(&bytes, 7, 123), Ok(99));
    let vm = ContentError::Vm {
        page: 123,
        expected: 8,
        found: 7,
    };
    assert_eq!(pool.verify(&bytes, 8, 123), Err(vm));
    let other = ContentError::Page {
        expected: 124,
        found: 123,
    };
    assert_eq!(pool.verify(&bytes, 7, 124), Err(other));
    assert_eq!(
        pool.verify(&bytes[1..], 7, 123),
        Err(ContentError::Length { len: 4095 })
    );
    let same = PagePool::new(&recipe, 1, 64);
    assert_eq!(
        same.verify(&bytes, 7, 123),
        Ok(99),
        "the other end builds the same pool"
    );
}

#[test]
#[ignore = "prints the table of `solved`"]
fn prints_recipes() {
    for name in NAMES {
        match Recipe::solve(&named(name).unwrap()) {
            Ok(Recipe {
                texture, change, ..
            }) => println!(
                "\"{name}\" => ([{:.4}, {:.4}, {:.3}, {:.4}], [{:.2}, {:.2}]),",
                texture.copied,
                texture.narrow,
                texture.copy_bytes,
                texture.strided,
                change.bytes,
                change.runs
            ),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(version in any::<u64>(), page in any::<u32>(), bit in 0usize..32768) {
        let pool = PagePool::new(&Recipe::of(&named("redis").unwrap()).unwrap(), 1, 4);
        let (stamp, body) = pool.page(9, page, version);
        let mut bytes = [&stamp.encode()[..], body].concat();
        let content = pool.content_version(9, page, version);
        prop_assert!(content == version || content == 0);
        prop_assert_eq!(pool.verify(&bytes, 9, page), Ok(content));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(pool.verify(&bytes, 9, page).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        let pool = PagePool::new(&Recipe::of(&ContentProfile::RANDOM).unwrap(), 1, 2);
        prop_assert!(pool.verify(&bytes, 9, 1).is_err());
    }
}
