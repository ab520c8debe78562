//! Exports: what comes back when they are imported again, and nothing half-written.

#[path = "common/files.rs"]
#[expect(dead_code, reason = "shared with other tests, not all used here")]
mod files;

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::shared;
use files::{BITBRAINS, bitbrains_line};
use proptest::prelude::*;
use traces::export::{ExportCounts, ExportError, ExportOptions, OpenDcWriter, PlanetLabWriter};
use traces::import::{
    Format, ImportOptions, Imported, Output, OutputError, StreamError, import_path, import_stream,
};
use traces::store::series::Metric;

fn planetlab(source: &Path, out: &Path, options: ExportOptions) -> ExportCounts {
    let mut writer = PlanetLabWriter::create(out, options).expect("a new directory");
    stream(source, &mut writer).expect("good input");
    writer.finish().expect("space")
}

fn opendc(source: &Path, out: &Path, options: ExportOptions) -> Result<ExportCounts, StreamError> {
    let mut writer = OpenDcWriter::create(out, options).expect("a new directory");
    stream(source, &mut writer)?;
    Ok(writer.finish().expect("space"))
}

fn stream(source: &Path, out: &mut dyn Output) -> Result<(), StreamError> {
    let options = ImportOptions::default();
    import_stream(&[PathBuf::from(source)], &options, None, out).map(|_| ())
}

fn import(path: &Path) -> Imported {
    import_path(path, ImportOptions::default()).expect("what was exported can be imported")
}

/// Files below a directory with their content.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for day in fs::read_dir(dir).expect("a directory") {
        let day = day.expect("an entry").path();
        for file in fs::read_dir(&day).into_iter().flatten() {
            let file = file.expect("an entry").path();
            let name = file.strip_prefix(dir).expect("below").display().to_string();
            files.insert(name, fs::read(&file).expect("a file"));
        }
    }
    files
}

#[test]
fn planetlab_comes_back_byte_for_byte() {
    let Some(source) = shared("traces/planetlab", "planetlab_comes_back") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Days of one name are joined and lie far apart: what is between them is filled, so day by day.
    for day in ["20110303", "20110409"] {
        let out = out.with_extension(day);
        let counts = planetlab(&source.join(day), &out, ExportOptions::default());
        assert_eq!((counts.vms, counts.rows), (60, 60 * 288));
        assert_eq!((counts.gaps, counts.clamped), (0, 0));
        let mut original = content(&source);
        original.retain(|name, _| name.starts_with(day));
        assert_eq!(content(&out), original);
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        2,
        "no part directories"
    );
}

#[test]
fn opendc_comes_back_to_a_thousandth_of_a_core() {
    let Some(source) = shared("traces/opendc/bitbrains-small", "opendc_comes_back") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let counts = opendc(&source, &out, ExportOptions::default()).unwrap();
    assert_eq!((counts.vms, counts.gaps), (50, 0));
    let (before, after) = (import(&source), import(&out));
    assert_eq!(after.format, Format::OpenDc);
    for (before, after) in before.vms.iter().zip(&after.vms) {
        assert_eq!(before.meta.vcpus, after.meta.vcpus);
        assert_eq!(before.meta.cpu_capacity_mhz, after.meta.cpu_capacity_mhz);
        assert_eq!(
            before.meta.mem_bytes.unwrap().div_ceil(1 << 20),
            after.meta.mem_bytes.unwrap() >> 20,
            "MB, rounded up"
        );
        assert_eq!(demand(before), demand(after));
    }
}

/// CPU over time, neighbours of one value merged: what an export may do.
fn demand(vm: &traces::import::ImportedVm) -> Vec<(i64, u64)> {
    let mut changes: Vec<(i64, u64)> = Vec::new();
    for (index, interval) in vm.series.intervals().iter().enumerate() {
        let milli = vm.series.value(Metric::CpuMilli, index).unwrap_or(0);
        if changes.last().is_none_or(|(_, last)| *last != milli) {
            changes.push((interval.t_ms, milli));
        }
    }
    changes
}

#[test]
fn what_a_format_needs_is_not_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("vm");
    fs::write(&source, "10\n20\n").unwrap();
    let out = folder.path().join("out");
    let error = opendc(&source, &out, ExportOptions::default()).unwrap_err();
    let StreamError::Output(OutputError::Export(error)) = error else {
        panic!("{error}");
    };
    assert!(
        matches!(
            *error,
            ExportError::Missing {
                option: "--vcpus",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left"
    );
    let options = ExportOptions {
        vcpus: Some(1),
        mem_bytes: Some(1 << 30),
        ..ExportOptions::default()
    };
    let counts = opendc(&source, &out, options).unwrap();
    assert_eq!((counts.vms, counts.rows), (1, 2));
    let vm = &import(&out).vms[0];
    assert_eq!((vm.meta.vcpus, vm.meta.mem_bytes), (Some(1), Some(1 << 30)));
    assert_eq!(
        vm.series.values(Metric::CpuMilli).collect::<Vec<_>>(),
        [100, 200]
    );
    let again = OpenDcWriter::create(&out, options).unwrap_err().to_string();
    assert!(
        again.ends_with("exists already and is not an empty directory"),
        "{again}"
    );
}

#[test]
fn planetlab_days_are_filled_and_values_cut() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.csv");
    // 23:50, 23:55 and 00:05 the next day; 114 % cannot be said.
    let lines: String = [
        (1_372_636_200, "114"),
        (1_372_636_500, "10"),
        (1_372_637_100, "30"),
    ]
    .iter()
    .map(|(t, percent)| bitbrains_line(*t, percent))
    .collect();
    fs::write(&source, format!("{BITBRAINS}{lines}")).unwrap();
    let out = folder.path().join("out");
    let counts = planetlab(&source, &out, ExportOptions::default());
    let files = content(&out);
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["20130630/a", "20130701/a"]
    );
    let lines = |name: &str| -> Vec<String> {
        let text = String::from_utf8(files[name].clone()).unwrap();
        text.lines().map(String::from).collect()
    };
    let (first, second) = (lines("20130630/a"), lines("20130701/a"));
    assert_eq!((first.len(), second.len()), (288, 288));
    assert_eq!(first[285..], ["100", "100", "10"]);
    assert_eq!(second[..4], ["10", "30", "30", "30"]);
    // The first day up to 23:50 and one sample are above 100 %.
    assert_eq!(counts.clamped, 287);
    // Before the first sample and after the last.
    assert_eq!(counts.gaps, 2);
}

#[test]
fn names_stay_within_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("log.csv");
    fs::write(&source, "t,v,c\n0,../x/y,10\n300,../x/y,10\n0,50%,10\n").unwrap();
    let mapping = traces::import::Mapping::parse(&["time=t:s", "vm=v", "cpu=c:%"]).unwrap();
    let options = ImportOptions {
        mapping: Some(mapping),
        ..ImportOptions::default()
    };
    let out = folder.path().join("out");
    let mut writer = PlanetLabWriter::create(&out, ExportOptions::default()).unwrap();
    import_stream(&[source], &options, None, &mut writer).unwrap();
    writer.finish().unwrap();
    let names: Vec<String> = content(&out).into_keys().collect();
    assert_eq!(names, ["19700101/%2E.%2Fx%2Fy", "19700101/50%25"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Whole days of whole per cent survive both formats.
    #[test]
    fn days_of_per_cent_come_back(values in proptest::collection::vec(0u32..=100, 288)) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let day = folder.path().join("20110303");
        fs::create_dir(&day).expect("a new directory");
        let text: String = values.iter().map(|value| format!("{value}\n")).collect();
        fs::write(day.join("vm a"), &text).expect("a new file");
        let options = ExportOptions {
            vcpus: Some(1),
            mem_bytes: Some(1 << 30),
            ..ExportOptions::default()
        };
        let (tables, files) = (folder.path().join("opendc"), folder.path().join("planetlab"));
        opendc(&day, &tables, options).expect("all is given");
        planetlab(&tables, &files, ExportOptions::default());
        prop_assert_eq!(&content(&files)["20110303/0"], text.as_bytes());
    }
}
