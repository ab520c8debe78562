//! OpenDC's v2.0 spelling, of which no real file could be had: tables as its documentation names the columns.

use crate::import::{Format, ImportOptions, ImportedVm, import_path};
use crate::store::series::Metric;
use crate::store::table::{Column, Table};
use std::fs;

fn write(path: &std::path::Path, columns: Vec<(&str, Column)>) {
    let mut table = Table::default();
    for (name, column) in columns {
        table.push(name, column);
    }
    let mut bytes = Vec::new();
    table.write(&mut bytes, &[]).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_spelling_of_v2_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let some = |values: &[i64]| Column::Int(values.iter().map(|&value| Some(value)).collect());
    write(
        &folder.path().join("resource.parquet"),
        vec![
            ("id", some(&[7, 9])),
            ("submissionTime", some(&[0, 600_000])),
            ("endTime", some(&[900_000, 900_000])),
            ("maxCores", some(&[2, 1])),
            ("requiredMemory", some(&[4_096, 1_024])),
        ],
    );
    write(
        &folder.path().join("trace.parquet"),
        vec![
            ("id", some(&[7, 7, 9])),
            // Ends: the first fragment of a task ends a duration after the task begins.
            ("time", some(&[300_000, 900_000, 900_000])),
            ("duration", some(&[300_000, 600_000, 300_000])),
            ("cores", some(&[2, 2, 1])),
            (
                "cpuUsage",
                Column::Real(vec![Some(500.0), Some(1_500.0), Some(250.0)]),
            ),
            ("flops", some(&[0, 0, 0])),
        ],
    );
    let imported = import_path(folder.path(), ImportOptions::default()).unwrap();
    assert_eq!(imported.format, Format::OpenDc);
    let [first, second] = &imported.vms[..] else {
        panic!("{:?}", imported.vms)
    };
    assert_eq!((first.meta.vcpus, second.meta.vcpus), (Some(2), Some(1)));
    assert_eq!(first.meta.mem_bytes, Some(4_096 << 20));
    let of = |vm: &ImportedVm| {
        let intervals = vm.series.intervals().iter().map(|i| (i.t_ms, i.dur_ms));
        let milli = vm.series.values(Metric::CpuMilli);
        intervals.zip(milli).collect::<Vec<_>>()
    };
    assert_eq!(
        of(first),
        [((0, 300_000), 500), ((300_000, 600_000), 1_500)]
    );
    assert_eq!(of(second), [((600_000, 300_000), 250)]);
}
