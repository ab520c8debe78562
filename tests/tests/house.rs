//! The repository itself: which crate may know which, and what may not be in it.

use migbed_tests::{repository, skip};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Everything of this workspace a crate may depend on (DESIGN §1).
const MAY_KNOW: [(&str, &[&str]); 6] = [
    ("traces", &[]),
    ("recorder", &["traces"]),
    ("netmodel", &[]),
    ("replay", &["traces"]),
    ("migbed", &["traces", "recorder", "replay", "netmodel"]),
    ("migbed-tests", &["traces", "replay", "netmodel", "migbed"]),
];

#[test]
fn crates_know_only_what_is_below_them() {
    let test = "crates_know_only_what_is_below_them";
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(repository())
        .output();
    let Ok(metadata) = metadata else {
        skip(test, "cargo");
        return;
    };
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let may_know: BTreeMap<&str, &[&str]> = MAY_KNOW.into_iter().collect();
    assert_eq!(ours.len(), may_know.len(), "{ours:?}");
    for package in packages {
        let allowed = may_know[name(package).as_str()];
        // Development dependencies too: a crate's tests belong to its level.
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = name(dependency);
            assert!(
                !ours.contains(&dependency) || allowed.contains(&dependency.as_str()),
                "{} depends on {dependency}",
                name(package)
            );
        }
    }
}

/// Files under version control; `None`, loudly, where there is no git.
fn tracked(test: &str) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository())
        .output();
    match listed {
        Ok(listed) if listed.status.success() && !listed.stdout.is_empty() => {
            let names = String::from_utf8(listed.stdout).expect("names are text");
            let names = names.split_terminator('\0').map(str::to_owned);
            // Deleted, but not committed yet.
            Some(
                names
                    .filter(|name| repository().join(name).exists())
                    .collect(),
            )
        }
        _ => {
            skip(test, "git, or a clone of the repository");
            None
        }
    }
}

#[test]
fn nothing_names_the_place_it_was_written_at() {
    let Some(files) = tracked("nothing_names_the_place_it_was_written_at") else {
        return;
    };
    // In pieces, or this file would hold them.
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tmp/", "t/"),
        concat!("arti", "factory"),
    ];
    for name in files {
        let bytes = std::fs::read(repository().join(&name)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for (line, number) in text.lines().zip(1..) {
            for place in places {
                assert!(!line.contains(place), "{name}:{number}: {place}");
            }
        }
    }
}

#[test]
fn every_package_comes_from_the_public_registry() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let public = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    let mut sources = lock
        .lines()
        .filter(|line| line.starts_with("source = "))
        .peekable();
    assert!(sources.peek().is_some());
    for source in sources {
        assert_eq!(source, public);
    }
    assert!(
        !repository().join(".cargo/config.toml").exists(),
        "settings of one computer"
    );
}

#[test]
fn no_file_is_large() {
    let Some(files) = tracked("no_file_is_large") else {
        return;
    };
    for name in files {
        let bytes = std::fs::metadata(repository().join(&name)).unwrap().len();
        assert!(bytes <= 1 << 20, "{name} has {bytes} bytes");
    }
}
