//! Importers on made-up files: traps of the formats, bad input, and arbitrary bytes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use traces::import::{
    Format, ImportErrorKind, ImportOptions, Imported, WarningKind, detect, import_path,
};
use traces::store::bundle::TimeOrigin;
use traces::store::series::{GapPolicy, Metric, flags};

const BITBRAINS: &str = "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\t\
    CPU usage [MHZ];\tCPU usage [%];\tMemory capacity provisioned [KB];\tMemory usage [KB];\t\
    Disk read throughput [KB/s];\tDisk write throughput [KB/s];\t\
    Network received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n";
const RECORDED: &str = "# page-write trace: t; page_size=4096; pages=100; interval_ms=100\n\
    t_ms,cpu_ms,maxrss_kb,dirty_pages,runs\n";

fn bitbrains_line(time: u64, percent: &str) -> String {
    format!("{time};\t2;\t5000.0;\t100.0;\t{percent};\t2048.0;\t1024.0;\t1.0;\t2.0;\t3.0;\t4.0\n")
}

/// A file of this content in a directory of its own.
fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a new file");
    (folder, path)
}

fn import(content: impl AsRef<[u8]>) -> Result<Imported, String> {
    let (_folder, path) = file("vm", content);
    import_path(&path, ImportOptions::default()).map_err(|error| {
        let text = error.to_string();
        text.replace(&path.display().to_string(), "vm")
    })
}

fn import_as(format: Format, content: impl AsRef<[u8]>) -> Result<Imported, String> {
    let (_folder, path) = file("vm", content);
    let options = ImportOptions {
        format: Some(format),
        ..ImportOptions::default()
    };
    import_path(&path, options)
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "vm"))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

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

/// Every error names the file and the line, and says what was expected.
#[test]
fn bad_files_are_refused_with_file_and_line() {
    let good = bitbrains_line(1_372_629_804, "1");
    let bit = |rest: &str| format!("{BITBRAINS}{good}{rest}");
    let rec = |rest: &str| format!("{RECORDED}0,1,1,1,5\n{rest}");
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "vm:1: the file is empty; expected a trace"),
        (
            "hello\n".into(),
            "vm:1: unknown format: it starts with \"hello\\n\"; expected planetlab",
        ),
        (
            "1\n2\nNaN\n".into(),
            "vm:3: CPU usage is \"NaN\", expected a whole number",
        ),
        ("1\n-5\n".into(), "vm:2: CPU usage is \"-5\""),
        ("1\n2.8e-06\n".into(), "vm:2: CPU usage is \"2.8e-06\""),
        (
            "1\n\n2\n".into(),
            "vm:3: CPU usage is \"after an empty line\"",
        ),
        ("# 0\n".into(), "vm:1: unknown format"),
        (BITBRAINS.into(), "vm: no samples, only headers"),
        (
            bit(&bitbrains_line(1_372_629_000, "1")),
            "vm:3: Timestamp [ms] goes back from 1372629804",
        ),
        (
            bit(&bitbrains_line(1_372_630_104, "NaN")),
            "vm:3: CPU usage [%] is \"NaN\", expected a num",
        ),
        (
            bit(&bitbrains_line(1_372_630_104, "-1")),
            "vm:3: CPU usage [%] is \"-1\"",
        ),
        (
            bit(&bitbrains_line(1_372_630_104, "inf")),
            "vm:3: CPU usage [%] is \"inf\"",
        ),
        (
            bit(&bitbrains_line(1_372_630_104, "1,5")),
            "vm:3: CPU usage [%] is \"1,5\"",
        ),
        (bit("1;2;3\n"), "vm:3: 3 fields, expected 11"),
        (
            bit("13726301"),
            "vm:3: the file is cut here: the last line does not end (1 fields",
        ),
        (
            "Timestamp [ms];CPU cores\n1;2\n".into(),
            "vm:1: the header has no column \"CPU usage",
        ),
        (RECORDED.into(), "vm: no samples, only headers"),
        (RECORDED.replace("4096", "2097152"), "vm:1: comment is "),
        (RECORDED.replace("t_ms", "time"), "vm:2: header is "),
        (rec("0,2,1,1,5\n"), "vm:4: t_ms goes back from 0 to 0"),
        (rec("9,0,1,1,5\n"), "vm:4: cpu_ms goes back from 1 to 0"),
        (
            rec("9,2,1,2,5\n"),
            "vm:4: dirty_pages says 2, but the line holds 1",
        ),
        (
            rec("9,2,1,2,5+3"),
            "vm:4: the file is cut here: the last line does not end",
        ),
        (
            rec("9,2,1,1,100\n"),
            "vm:4: runs is \"100\", expected a run within",
        ),
        (
            rec("9,2,1,1,5+0\n"),
            "vm:4: runs is \"5+0\", expected gap or gap+length",
        ),
        (rec("9,2,1,1,-5\n"), "vm:4: runs is \"-5\""),
        (
            rec("18446744073709551615,2,1,1,5\n"),
            "vm:4: t_ms is \"18446744073709551615\"",
        ),
    ];
    for (content, expected) in cases {
        let error = import(&content).expect_err(expected);
        assert!(
            error.starts_with(expected),
            "{content:?}: {error:?}, expected {expected:?}"
        );
    }
    let error = import_as(Format::Bitbrains, "1\n").unwrap_err();
    assert!(
        error.starts_with("vm:1: the header has no column"),
        "{error}"
    );
    let error = import_as(Format::PlanetLab, b"1\n\xff\n").unwrap_err();
    assert_eq!(error, "vm:2: not UTF-8 text");
}

#[test]
fn a_cut_gzip_names_the_line() {
    let mut text = RECORDED.to_string();
    for tick in 1..3000 {
        text.push_str(&format!("{},{tick},1,1,{}\n", tick * 100, tick * 7 % 100));
    }
    let packed = gzip(text.as_bytes());
    let error = import(&packed[..packed.len() / 2]).unwrap_err();
    let line: u64 = error
        .strip_prefix("vm:")
        .unwrap()
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(line > 100, "{error}");
    assert!(
        error.contains("the file is cut here: the compressed data ends"),
        "{error}"
    );
}

#[test]
fn a_cut_page_write_file_names_the_block() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/traces/rustc.mbpw");
    let bytes = fs::read(path).unwrap();
    let error = import(&bytes[..bytes.len() / 2]).unwrap_err();
    assert!(
        error.starts_with("vm: the file is cut in its block "),
        "{error}"
    );
}

#[test]
fn directories_without_traces_and_missing_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = import_path(folder.path(), ImportOptions::default()).unwrap_err();
    assert!(matches!(error.kind, ImportErrorKind::NoFiles));
    let error = import_path(Path::new("/nowhere/at/all"), ImportOptions::default()).unwrap_err();
    assert!(matches!(error.kind, ImportErrorKind::Io(_)));
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/at/all: cannot read"),
        "{error}"
    );
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(detect(&mut bytes.as_slice()).is_ok());
        let (_folder, path) = file("vm", &bytes);
        for format in Format::ALL {
            let options = ImportOptions { format: Some(format), ..ImportOptions::default() };
            let _ = import_path(&path, options);
        }
    }

    #[test]
    fn arbitrary_fields_never_panic(text in "[0-9;,+ \\-.eNaif\t\r\n]{0,200}") {
        for (format, head) in [
            (Format::PlanetLab, ""),
            (Format::Bitbrains, BITBRAINS),
            (Format::Bitbrains, "Timestamp [ms];CPU cores;CPU usage [%]\n"),
            (Format::RecordedPageWrites, RECORDED),
        ] {
            let _ = import_as(format, format!("{head}{text}"));
        }
    }

    #[test]
    fn arbitrary_numbers_never_panic(
        rows in proptest::collection::vec((any::<u64>(), any::<f64>(), any::<u32>()), 0..20),
    ) {
        let mut bitbrains = "Timestamp [ms];CPU cores;CPU usage [%]\n".to_string();
        let mut recorded = RECORDED.to_string();
        let mut planetlab = String::new();
        for (time, number, count) in rows {
            bitbrains.push_str(&format!("{};{};{}\n", time >> 20, number.abs(), number.abs()));
            recorded.push_str(&format!("{},{count},{count},1,{}\n", time >> 24, count % 120));
            planetlab.push_str(&format!("{count}\n"));
        }
        let _ = import_as(Format::Bitbrains, bitbrains);
        let _ = import_as(Format::RecordedPageWrites, recorded);
        let _ = import_as(Format::PlanetLab, planetlab);
    }
}
