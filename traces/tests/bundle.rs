//! The bundle: round trips, damage, and nothing half-written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use traces::class::{Coupling, Locality, PageClass};
use traces::dirty::{PageWriteTrace, Run, Tick};
use traces::import::{ImportOptions, import_path};
use traces::store::bundle::{
    Bundle, BundleError, BundleScan, Finding, Manifest, ScanError, VmMeta,
};
use traces::store::partial::PartialError;
use traces::store::series::{GapPolicy, Interval, Metric, Series, flags};

fn example() -> Bundle {
    let ticks = vec![Tick {
        t_ns: 5,
        cpu_ns: 1,
        runs: vec![Run { start: 2, len: 2 }],
    }];
    let pages = PageWriteTrace {
        title: "p".into(),
        pages: 4,
        interval_ns: 5,
        ticks,
    };
    Bundle {
        manifest: Manifest::new("test", "made up", "CC0"),
        vms: vec![
            full_vm(),
            VmMeta {
                vm_id: 9,
                ..VmMeta::named("idle")
            },
        ],
        samples: BTreeMap::from([(7, series())]),
        dirty_profiles: BTreeMap::from([(3, classes())]),
        page_writes: BTreeMap::from([("7.mbpw".to_string(), pages)]),
    }
}

fn series() -> Series {
    let mut series = Series::default();
    let mut push = |t_ms, flags, values: &[(Metric, Option<u64>)]| {
        let interval = Interval {
            t_ms,
            dur_ms: 300_000,
            flags,
        };
        series.push(interval, values).expect("ascending");
    };
    push(
        -5,
        0,
        &[
            (Metric::CpuMilli, Some(0)),
            (Metric::NetRxBytes, Some(1 << 60)),
        ],
    );
    push(
        300_000,
        flags::OVER_CAPACITY,
        &[(Metric::CpuMilli, Some(u64::from(u32::MAX)))],
    );
    push(900_000, flags::MISSING, &[(Metric::CpuMilli, None)]);
    series
}

fn classes() -> Vec<PageClass> {
    let class = |pages, rate, coupling, locality| PageClass {
        coupling,
        locality,
        ..PageClass::new(pages, rate)
    };
    vec![
        class(10, 0.1 + 0.2, Coupling::Time, Locality::Sweep),
        class(20, 5.0, Coupling::Cpu, Locality::Runs { pages: 8 }),
        class(30, 0.0, Coupling::Cpu, Locality::Scatter),
    ]
}

fn full_vm() -> VmMeta {
    VmMeta {
        vm_id: 7,
        name: "größe".into(),
        source_id: Some("a/b+c==".into()),
        vcpus: Some(2),
        cpu_capacity_mhz: Some(5852),
        mem_bytes: Some(1 << 40),
        disk_bytes: Some(0),
        start_ms: Some(-5),
        stop_ms: None,
        class: Some("Interactive".into()),
        host_initial: Some("h1".into()),
        tags: None,
        dirty_profile: Some(3),
        page_writes: Some("7.mbpw".into()),
    }
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let mut bundle = example();
    bundle.manifest = bundle.write(&dir).unwrap();
    assert_eq!(Bundle::read(&dir).unwrap(), bundle);
    assert_eq!(names(folder.path()), ["bundle"]);
    let findings = Bundle::check(&dir).unwrap();
    assert_eq!(
        findings,
        [Finding::NoSamples {
            vm_id: 9,
            name: "idle".into()
        }]
    );
    let rows = |file: &str| bundle.manifest.files[file].rows;
    assert_eq!((rows("vms.parquet"), rows("samples.parquet")), (2, 3));
    assert_eq!(
        (rows("dirty_profiles.parquet"), rows("pages/7.mbpw")),
        (3, 1)
    );
}

#[test]
fn a_scan_gives_what_reading_gives() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let bundle = example();
    bundle.write(&dir).unwrap();
    let scan = BundleScan::open(&dir).unwrap();
    assert_eq!(scan.vms, bundle.vms);
    assert_eq!(
        &scan.page_writes("7.mbpw").unwrap(),
        &bundle.page_writes["7.mbpw"]
    );
    let mut found: BTreeMap<u32, Series> = BTreeMap::new();
    let taken = scan.samples(|sample| found.entry(sample.vm).or_default().push_sample(&sample));
    assert!(taken.is_ok(), "{taken:?}");
    assert_eq!(found, bundle.samples);
    // Whoever takes the samples may refuse one.
    let refused = scan.samples(|sample| Err(sample.vm));
    assert!(matches!(refused, Err(ScanError::Taker(7))), "{refused:?}");
    let path = dir.join("samples.parquet");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, bad).unwrap();
        let damaged = scan.samples(|_| Ok::<_, ()>(()));
        assert!(
            matches!(
                damaged,
                Err(ScanError::Bundle(BundleError::Checksum { .. }))
            ),
            "byte {at}: {damaged:?}"
        );
    }
}

#[test]
fn demand_comes_without_gaps() {
    let bundle = example();
    let (cpu, fill) = bundle.cpu_trace(7, GapPolicy::Zero).unwrap();
    assert_eq!((fill.gaps, fill.filled_ms), (2, 5 + 600_000));
    assert_eq!(cpu.period_ns() / 1_000_000, 1_200_005);
    assert!(bundle.cpu_trace(9, GapPolicy::Hold).is_err());
    assert_eq!(bundle.page_write_trace(7).unwrap().pages, 4);
}

#[test]
fn every_damaged_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    example().write(&dir).unwrap();
    for file in [
        "vms.parquet",
        "samples.parquet",
        "dirty_profiles.parquet",
        "pages/7.mbpw",
    ] {
        let path = dir.join(file);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            match Bundle::read(&dir) {
                Err(BundleError::Checksum { file: named, .. }) => assert_eq!(named, file),
                other => panic!("{file} byte {at}: {other:?}"),
            }
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(matches!(
            Bundle::read(&dir),
            Err(BundleError::Checksum { .. })
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(Bundle::read(&dir), Err(BundleError::Io { .. })));
        fs::write(&path, &good).unwrap();
    }
    Bundle::read(&dir).unwrap();
}

#[test]
fn bad_manifests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    example().write(&dir).unwrap();
    let path = dir.join("manifest.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(matches!(
        Bundle::read(&dir),
        Err(BundleError::Version { found: 2 })
    ));
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(matches!(
        Bundle::read(&dir),
        Err(BundleError::Manifest { .. })
    ));
    fs::write(
        &path,
        good.replace("\"samples.parquet\"", "\"other.parquet\""),
    )
    .unwrap();
    assert!(matches!(
        Bundle::read(&dir),
        Err(BundleError::NotListed { .. })
    ));
    fs::write(&path, good.replace("pages/7.mbpw", "pages/../7.mbpw")).unwrap();
    assert!(matches!(
        Bundle::read(&dir),
        Err(BundleError::Dangling { vm_id: 7, .. })
    ));
}

#[test]
fn a_bundle_that_contradicts_itself_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let mut bundle = example();
    bundle.vms[1].vm_id = 7;
    assert!(matches!(
        bundle.write(&dir),
        Err(BundleError::DuplicateVm { vm_id: 7 })
    ));
    let mut bundle = example();
    bundle.vms.remove(0);
    assert!(matches!(
        bundle.write(&dir),
        Err(BundleError::UnknownVm { vm_id: 7 })
    ));
    let mut bundle = example();
    bundle.vms[1].dirty_profile = Some(8);
    assert!(matches!(
        bundle.write(&dir),
        Err(BundleError::Dangling { vm_id: 9, .. })
    ));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let mut bundle = example();
    // The page-write file is written after the tables, so the tables are there when it fails.
    bundle.page_writes.get_mut("7.mbpw").unwrap().pages = 1;
    assert!(matches!(
        bundle.write(&dir),
        Err(BundleError::PageWrites { .. })
    ));
    let mut bundle = example();
    bundle.dirty_profiles.get_mut(&3).unwrap()[0].rate = f64::NAN;
    assert!(matches!(
        bundle.write(&dir),
        Err(BundleError::Value {
            column: "rate_per_s",
            ..
        })
    ));
    assert_eq!(names(folder.path()), Vec::<String>::new());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "").unwrap();
    assert!(matches!(
        example().write(&dir),
        Err(BundleError::Place(PartialError::Exists { .. }))
    ));
    assert_eq!(
        (names(folder.path()), names(&dir)),
        (vec!["bundle".into()], vec!["mine".into()])
    );
}

#[test]
fn files_beside_the_manifest_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    example().write(&dir).unwrap();
    fs::write(dir.join("pages/8.mbpw"), "").unwrap();
    let findings = Bundle::check(&dir).unwrap();
    assert!(findings.contains(&Finding::UnlistedFile {
        file: "pages/8.mbpw".into()
    }));
}

#[test]
fn an_import_becomes_a_bundle_with_the_same_numbers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/library/compiler.mbpw");
    let imported = import_path(Path::new(path), ImportOptions::default()).unwrap();
    let (series, pages) = (
        imported.vms[0].series.clone(),
        imported.vms[0].page_writes.clone(),
    );
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    Bundle::from_import(imported, "compiler", "recorded", "CC0")
        .write(&dir)
        .unwrap();
    let bundle = Bundle::read(&dir).unwrap();
    assert_eq!(bundle.samples[&0], series);
    assert_eq!(bundle.page_write_trace(0), pages.as_ref());
    assert!(
        bundle
            .manifest
            .columns
            .contains_key("samples.parquet:cpu_milli")
    );
    assert_eq!(Bundle::check(&dir).unwrap(), []);
}

#[test]
fn warnings_of_the_import_stay_with_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm");
    fs::write(&file, "1\n101\n").unwrap();
    let imported = import_path(&file, ImportOptions::default()).unwrap();
    let dir = folder.path().join("bundle");
    Bundle::from_import(imported, "t", "s", "l")
        .write(&dir)
        .unwrap();
    assert_eq!(
        Bundle::read(&dir).unwrap().manifest.warnings,
        [
            "vm: 2 samples, usually 288",
            "vm: 1 samples above 100 % of the stated CPU (kept, flagged)"
        ]
    );
    assert_eq!(
        names(&dir),
        ["manifest.json", "samples.parquet", "vms.parquet"]
    );
}
