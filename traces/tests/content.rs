//! The built-in content profiles are what the library's recordings say.

#[path = "common/library.rs"]
#[expect(dead_code, reason = "shared with other tests, not all used here")]
mod library;

use library::{LIBRARY, library};
use serde_json::Value;
use traces::content::{NAMES, named};

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("the recording has {path}"))
}

#[test]
fn built_in_profiles_are_what_was_recorded() {
    for name in LIBRARY {
        let text = std::fs::read_to_string(library(&format!("{name}.json"))).unwrap();
        let recording: Value = serde_json::from_str(&text).unwrap();
        let written = |path: &str| number(&recording, &format!("/written/{path}"));
        let last = recording["census"].as_array().unwrap().last().unwrap();
        let profile = named(name).unwrap();
        let changed = written("rewrites/compared") - written("rewrites/unchanged");
        let pairs = [
            (
                "zero",
                profile.zero_share,
                written("pages/zero") / written("pages/sampled"),
            ),
            (
                "filled zero",
                profile.filled_zero_share,
                number(last, "/pages/zero") / number(last, "/pages/sampled"),
            ),
            (
                "lz4",
                profile.lz4_ratio.unwrap(),
                4096.0 / written("pages/lz4/mean"),
            ),
            (
                "zlib",
                profile.zlib_ratio.unwrap(),
                4096.0 / written("pages/zlib/mean"),
            ),
            (
                "zstd",
                profile.zstd_ratio.unwrap(),
                4096.0 / written("pages/zstd/mean"),
            ),
            (
                "unchanged",
                profile.rewrite.unchanged_share,
                written("rewrites/unchanged") / written("rewrites/compared"),
            ),
            (
                "overflow",
                profile.rewrite.overflow_share,
                written("rewrites/overflow") / changed,
            ),
            (
                "xbzrle",
                profile.rewrite.xbzrle_bytes,
                written("rewrites/xbzrle/mean"),
            ),
            (
                "runs",
                profile.rewrite.changed_runs,
                written("rewrites/changed_runs/mean"),
            ),
        ];
        for (what, said, found) in pairs {
            // Figures are kept to three or four digits.
            let near = (said - found).abs() <= 1e-3 * found + 1e-4;
            assert!(near, "{name}: {what} is {found}, the profile says {said}");
        }
    }
}

#[test]
fn every_name_is_a_profile_that_can_be() {
    for name in NAMES {
        named(name).unwrap().check().unwrap();
    }
    assert!(named("no such").is_none());
    assert!(LIBRARY.iter().all(|name| NAMES.contains(name)));
}
