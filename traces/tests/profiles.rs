//! The built-in profiles against the library they are made from.
//! `MIGBED_DERIVE_PROFILES=1 cargo test -p traces --test profiles` makes `src/profile/recorded.json` anew.

#![expect(clippy::unwrap_used, reason = "tests: whatever fails fails the test")]

use std::collections::BTreeMap;
use std::path::Path;
use traces::dirty::PageWriteTrace;
use traces::fit::{Samples, read_windows};
use traces::profile::derive::{Recorded, START_UP_NS, SampledReads, recorded};
use traces::profile::{all, default_content, named, recordings};
use traces::stats::dirty_curve;
use traces::store::page_write::read_page_writes;
use traces::units::{NS_PER_MS, PAGE_SIZE};

fn recording(name: &str) -> PageWriteTrace {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("library/{name}.mbpw"));
    read_page_writes(std::io::BufReader::new(std::fs::File::open(path).unwrap())).unwrap()
}

/// What the samples beside a recording say of reads.
fn reads(name: &str) -> SampledReads {
    #[derive(serde::Deserialize)]
    struct Sidecar {
        samples: Columns,
        census: Vec<Census>,
    }
    #[derive(serde::Deserialize)]
    struct Columns {
        t_ms: Vec<u64>,
        resident_bytes: Vec<Option<u64>>,
        accessed_ms: Vec<Option<u64>>,
        read_only_pages: Vec<Option<u64>>,
    }
    #[derive(serde::Deserialize)]
    struct Census {
        t_ms: u64,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("library/{name}.json"));
    let sidecar: Sidecar = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let columns = &sidecar.samples;
    let resident: Vec<u64> = columns.resident_bytes.iter().flatten().copied().collect();
    let mean = resident.iter().sum::<u64>() / resident.len() as u64;
    let census_ms: Vec<u64> = sidecar.census.iter().map(|census| census.t_ms).collect();
    let samples = Samples {
        t_ms: &columns.t_ms,
        accessed_ms: &columns.accessed_ms,
        read_only_pages: &columns.read_only_pages,
        census_ms: &census_ms,
    };
    SampledReads {
        windows: read_windows(&samples, START_UP_NS / NS_PER_MS),
        resident_pages: u32::try_from(mean / PAGE_SIZE).unwrap(),
    }
}

#[test]
fn the_figures_of_the_profiles_are_those_of_the_library() {
    let found: BTreeMap<&str, Recorded> = recordings()
        .map(|(name, coupling, sweep)| {
            let found = recorded(&recording(name), coupling, sweep, &reads(name));
            (name, found.unwrap())
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/profile/recorded.json");
    if std::env::var_os("MIGBED_DERIVE_PROFILES").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let stored: BTreeMap<String, Recorded> =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (name, found) in &found {
        assert_eq!(&stored[*name], found, "{name}: the library says otherwise");
    }
    assert_eq!(stored.len(), found.len());
}

/// What a profile says of D(t) is what was recorded: within 20 % at 0.1 and 1 s, where the load is
/// steady. The compiler's phases differ and the shell writes next to nothing, so they are not held to it.
#[test]
fn a_profile_writes_as_its_recording_did() {
    for profile in all() {
        let Some(name) = profile.recording else {
            continue;
        };
        let trace = recording(name);
        let curve = dirty_curve(&trace, &[1, 10], 5_000_000_000..u64::MAX);
        for point in curve {
            let says = profile.unique_pages(point.window_s);
            let error = says / point.pages - 1.0;
            println!(
                "{:14} D({:.1} s) recorded {:8.0}, profile {says:8.0} ({:+.0} %)",
                profile.name,
                point.window_s,
                point.pages,
                error * 100.0
            );
            if !["compiler", "interactive"].contains(&profile.name) {
                assert!(error.abs() < 0.2, "{}: {error}", profile.name);
            }
        }
    }
}

#[test]
fn every_profile_is_whole() {
    for profile in all() {
        assert_eq!(named(profile.name).as_ref(), Some(&profile));
        assert!(!profile.classes.is_empty() && !profile.source.is_empty());
        profile.content.check().unwrap();
        let runs: f64 = profile.runs.iter().map(|run| run.share).sum();
        assert!(profile.runs.is_empty() || (runs - 1.0).abs() < 0.005);
        assert!(
            profile
                .classes
                .iter()
                .all(|class| class.coupling == profile.coupling)
        );
    }
    default_content().check().unwrap();
    assert_eq!(named("no such"), None);
}
