//! Importers on made-up files: the traps of the formats.

#[path = "common/files.rs"]
mod files;

use std::fs;

use files::{BITBRAINS, RECORDED, bitbrains_line, file, gzip, import, import_as};
use traces::import::{Format, ImportOptions, Imported, WarningKind, import_path};
use traces::store::bundle::TimeOrigin;
use traces::store::series::{GapPolicy, Metric, flags};

#[test]
fn planetlab_values_are_steps_of_one_core() {
    let imported = import("24\n34\n0\n").unwrap();
    assert_eq!(
        (imported.format, imported.time_origin),
        (Format::PlanetLab, TimeOrigin::Relative)
    );
    let vm = &imported.vms[0];
    let steps: Vec<_> = vm
        .cpu
        .samples()
        .iter()
        .map(|s| (s.dur_ns / 1_000_000, s.milli))
        .collect();
    assert_eq!(steps, [(300_000, 240), (300_000, 340), (300_000, 0)]);
    assert_eq!(
        imported.warnings[0].kind,
        WarningKind::UnusualCount {
            found: 3,
            usual: 288
        }
    );
    assert_eq!(vm.meta.vcpus, None);
}

#[test]
fn planetlab_takes_marks_carriage_returns_comments_and_compression() {
    let plain = import("24\n134\n").unwrap();
    let values = |imported: &Imported| imported.vms[0].series.clone();
    for variant in ["\u{feff}24\r\n134\r\n", "# 2\n24\n134", "24\n134\n\n\n"] {
        assert_eq!(
            values(&import(variant).unwrap()),
            values(&plain),
            "{variant:?}"
        );
    }
    assert_eq!(values(&import(gzip(b"24\n134\n")).unwrap()), values(&plain));
    let zst = zstd::bulk::compress(b"24\n134\n", 1).unwrap();
    assert_eq!(values(&import(zst).unwrap()), values(&plain));
    assert_eq!(plain.counts.over_capacity, 1);
    assert_eq!(values(&plain).intervals()[1].flags, flags::OVER_CAPACITY);
}

#[test]
fn planetlab_days_of_one_name_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    for (day, values) in [("20110303", "1\n"), ("20110304", "2\n")] {
        fs::create_dir(folder.path().join(day)).unwrap();
        fs::write(folder.path().join(day).join("node_ with space"), values).unwrap();
    }
    fs::write(folder.path().join("README.md"), "not a trace").unwrap();
    let imported = import_path(folder.path(), ImportOptions::default()).unwrap();
    assert_eq!(imported.time_origin, TimeOrigin::UnixUtc);
    let vm = &imported.vms[0];
    assert_eq!(
        (imported.vms.len(), vm.meta.name.as_str()),
        (1, "node_ with space")
    );
    assert_eq!(
        vm.series.intervals()[1].t_ms - vm.series.intervals()[0].t_ms,
        86_400_000
    );
    // The rest of the first day was not recorded; it is filled, and that is counted.
    assert_eq!(
        (vm.cpu_fill.gaps, vm.cpu_fill.filled_ms),
        (1, 86_400_000 - 300_000)
    );
    assert_eq!(vm.meta.start_ms, Some(1_299_110_400_000));
}

#[test]
fn bitbrains_seconds_duplicates_gaps_and_excess() {
    let lines = [
        (0, "10"),
        (300, "20"),
        (300, "30"),
        (600, "114"),
        (1800, "2.8e-06"),
    ];
    let text: String = lines
        .iter()
        .map(|(t, percent)| bitbrains_line(1_372_629_804 + t, percent))
        .collect();
    let imported = import(format!("{BITBRAINS}{text}")).unwrap();
    let vm = &imported.vms[0];
    assert_eq!(vm.series.intervals()[0].t_ms, 1_372_629_804_000);
    assert_eq!(
        vm.series.values(Metric::CpuMilli).collect::<Vec<_>>(),
        [200, 600, 2280, 0]
    );
    assert_eq!(vm.series.intervals()[2].flags, flags::OVER_CAPACITY);
    let counts = imported.counts;
    assert_eq!(
        (counts.duplicates, counts.gaps, counts.gap_ms),
        (1, 1, 900_000)
    );
    assert_eq!((counts.samples, counts.over_capacity), (4, 1));
    assert_eq!(
        (vm.meta.vcpus, vm.meta.mem_bytes),
        (Some(2), Some(2048 * 1024))
    );
    assert_eq!(vm.series.value(Metric::NetRxBytes, 0), Some(3 * 1024 * 300));
    assert_eq!(vm.series.value(Metric::NetTxBytes, 0), Some(4 * 1024 * 300));
    assert_eq!(
        vm.series.value(Metric::MemActiveBytes, 0),
        Some(1024 * 1024)
    );
    assert_eq!(vm.series.value(Metric::MemUsedBytes, 0), None);
    let kinds: Vec<_> = imported
        .warnings
        .into_iter()
        .map(|warning| warning.kind)
        .collect();
    for kind in [
        WarningKind::Duplicates { count: 1 },
        WarningKind::SecondsNotMs,
        WarningKind::OverCapacity { samples: 1 },
        WarningKind::Gaps {
            gaps: 1,
            missing_ms: 900_000,
        },
    ] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
}

#[test]
fn bitbrains_columns_are_found_by_name() {
    let text = "Timestamp [ms];CPU cores;Network received throughput [KB/s];CPU usage [%];\r\n\
        1372629804000;4;2.5;50;\r\n";
    let imported = import(text).unwrap();
    let series = &imported.vms[0].series;
    assert_eq!(series.intervals()[0].t_ms, 1_372_629_804_000);
    assert_eq!(series.value(Metric::CpuMilli, 0), Some(2000));
    assert_eq!(series.value(Metric::NetRxBytes, 0), Some(768_000));
    assert_eq!(series.value(Metric::DiskRdBytes, 0), None);
}

#[test]
fn recorded_runs_are_gaps_and_lengths() {
    let text = format!("{RECORDED}3,6,1,4,0+2 5 91\n100,9,1,3,99 0\n");
    let error = import(&text).unwrap_err();
    assert!(
        error.starts_with("vm:4: runs is \"0\", expected a run within the pages"),
        "{error}"
    );
    let text = format!("{RECORDED}3,6,1,4,0+2 5+2\n100,9,1,3,0+2 97\n200,9,1,0,\n");
    let imported = import(&text).unwrap();
    let trace = imported.vms[0].page_writes.as_ref().unwrap();
    let pages: Vec<Vec<u32>> = trace
        .ticks
        .iter()
        .map(|tick| tick.pages().collect())
        .collect();
    assert_eq!(pages, [vec![0, 1, 7, 8], vec![0, 1, 99], vec![]]);
    assert_eq!(trace.ticks[1].cpu_ns, 3_000_000);
    // 3 ms of CPU in the 100 ms up to the second tick: the first tick's is from before.
    assert_eq!(imported.vms[0].cpu.samples()[0].milli, 30);
    let series = &imported.vms[0].series;
    assert_eq!(series.value(Metric::DirtyPagesW1, 0), Some(3));
    assert_eq!(series.value(Metric::DirtyW1Ms, 0), Some(97));
}

#[test]
fn an_empty_vm_in_a_directory_is_left_out_and_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("10.csv"),
        format!("{BITBRAINS}{}", bitbrains_line(1_372_629_804, "1")),
    )
    .unwrap();
    fs::write(folder.path().join("9.csv"), BITBRAINS).unwrap();
    let imported = import_path(folder.path(), ImportOptions::default()).unwrap();
    assert_eq!(imported.vms.len(), 1);
    assert_eq!(
        (
            imported.vms[0].meta.vm_id,
            imported.vms[0].meta.name.as_str()
        ),
        (0, "10")
    );
    assert!(
        imported
            .warnings
            .iter()
            .any(|warning| warning.kind == WarningKind::NoSamples)
    );
}

#[test]
fn gaps_follow_the_policy_asked_for() {
    let text: String = [0u64, 300, 600, 1500]
        .iter()
        .map(|t| bitbrains_line(1_372_629_804 + t, if *t == 600 { "40" } else { "10" }))
        .collect();
    let (_folder, path) = file("vm", format!("{BITBRAINS}{text}"));
    let gap = |gaps| {
        let options = ImportOptions {
            gaps,
            ..ImportOptions::default()
        };
        let imported = import_path(&path, options).unwrap();
        imported.vms[0].cpu.samples()[3].milli
    };
    assert_eq!(
        (
            gap(GapPolicy::Hold),
            gap(GapPolicy::Zero),
            gap(GapPolicy::Linear)
        ),
        (800, 0, 650)
    );
}

#[test]
fn a_format_can_be_forced() {
    assert_eq!(
        import_as(Format::PlanetLab, "7\n").unwrap().format,
        Format::PlanetLab
    );
    let error = import_as(Format::Bitbrains, "1\n").unwrap_err();
    assert!(
        error.starts_with("vm:1: the header has no column"),
        "{error}"
    );
}
