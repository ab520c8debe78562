//! Public cluster traces, where the shared fixtures are: figures computed with another program
//! (Python's csv and statistics modules, pyarrow for Parquet).

mod common;
#[path = "common/keep.rs"]
mod keep;

use common::shared;
use traces::import::{
    Format, ImportErrorKind, ImportOptions, Imported, ImportedVm, Mapping, Units, WarningKind,
    import_path,
};
use traces::store::bundle::TimeOrigin;
use traces::store::series::{Metric, flags};

fn import(path: &str, options: &ImportOptions, test: &str) -> Option<Imported> {
    let path = shared(path, test)?;
    Some(import_path(&path, options).expect("the fixtures are good"))
}

fn units(cores: f64) -> ImportOptions {
    ImportOptions {
        units: Units {
            cores: Some(cores),
            mem_bytes: Some(cores * 4e9),
            net_bytes: Some(1e9),
        },
        ..ImportOptions::default()
    }
}

fn mean(vm: &ImportedVm, metric: Metric) -> f64 {
    let values: Vec<u64> = vm.series.values(metric).collect();
    values.iter().sum::<u64>() as f64 / values.len() as f64
}

#[test]
fn azure_readings_are_those_of_another_reader() {
    let test = "azure_readings";
    let Some(imported) = import("traces/azure-v1", &ImportOptions::default(), test) else {
        return;
    };
    assert_eq!((imported.format, imported.vms.len()), (Format::Azure, 100));
    assert_eq!(imported.counts.samples, 100);
    let sum: f64 = imported
        .vms
        .iter()
        .map(|vm| mean(vm, Metric::CpuMilli))
        .sum();
    // 7.54572204 % on average; a rounding of half a thousandth of a core is 0.05 %.
    assert!((sum / 1000.0 - 7.545_722_04).abs() < 0.05, "{sum}");
    // The ten VMs of the vmtable are others than those of the readings, and the matrices are no tables.
    let kinds: Vec<&WarningKind> = imported.warnings.iter().map(|w| &w.kind).collect();
    let no_row = WarningKind::NoRow {
        vms: 100,
        table: "vmtable",
    };
    assert!(kinds.contains(&&no_row), "{kinds:?}");
    let not_read = |kind: &&&WarningKind| matches!(kind, WarningKind::NotRead { .. });
    assert_eq!(kinds.iter().filter(not_read).count(), 4);
}

#[test]
fn azure_matrices_come_in_through_a_mapping() {
    let options = ImportOptions {
        mapping: Some(Mapping::parse(&["time=timestamp:s", "cpu=*:%"]).expect("a mapping")),
        ..ImportOptions::default()
    };
    let path = "traces/azure-v1/wide_avg_cpu.csv.gz";
    let Some(imported) = import(path, &options, "azure_matrices") else {
        return;
    };
    assert_eq!(imported.vms.len(), 20);
    let vm = &imported.vms[0];
    assert_eq!(vm.meta.name, "1985204");
    assert_eq!(vm.series.intervals().len(), 8004);
    assert_eq!(vm.series.intervals()[8003].dur_ms, 300_000);
    assert!((mean(vm, Metric::CpuMilli) / 10.0 - 2.178_275_682).abs() < 0.005);
    let all: f64 = imported
        .vms
        .iter()
        .map(|vm| mean(vm, Metric::CpuMilli) / 10.0 * 8004.0)
        .sum();
    assert!((all / 1_511_568.215 - 1.0).abs() < 1e-4, "{all}");
}

#[test]
fn google_2011_vms_have_their_means() {
    let path = "traces/google-2011-vm24h";
    let Some(imported) = import(path, &ImportOptions::default(), "google_2011_vms") else {
        return;
    };
    assert_eq!(
        (imported.format, imported.vms.len()),
        (Format::Google2011Vm, 60)
    );
    assert_eq!(imported.counts.samples, 17_280);
    let sum: f64 = imported
        .vms
        .iter()
        .map(|vm| mean(vm, Metric::CpuMilli))
        .sum();
    assert!((sum / 600.0 - 21.980_452_75).abs() < 0.005, "{sum}");
}

#[test]
fn google_2019_instances_have_their_means() {
    let Some(imported) = import("traces/google-2019", &units(100.0), "google_2019") else {
        return;
    };
    assert_eq!(
        (imported.format, imported.vms.len()),
        (Format::Google2019, 5)
    );
    let expected = [
        ("113812204462-11", 2752, 0.016_686_910_8, Some(4)),
        ("113812204462-26", 465, 0.017_790_255, Some(4)),
        ("380263806889-0", 584, 0.005_114_212_4, Some(2)),
        ("382417448240-2", 890, 0.000_144_017_68, Some(1)),
        ("399444405700-0", 756, 0.006_034_442_4, Some(3)),
    ];
    for (vm, (name, rows, cpu, vcpus)) in imported.vms.iter().zip(expected) {
        assert_eq!((vm.meta.name.as_str(), vm.meta.vcpus), (name, vcpus));
        assert_eq!(vm.series.intervals().len(), rows);
        let found = mean(vm, Metric::CpuMilli) / 100_000.0;
        assert!((found - cpu).abs() < 5e-6, "{name}: {found}");
        let percentiles = vm.series.values(Metric::CpuP95Milli).count();
        assert!(
            percentiles <= rows && percentiles >= rows - 4,
            "{name}: -1 is missing"
        );
    }
    // 660919 s into the source's clock, 600 s of which are before the trace; the window ends at 661200.
    let first = imported.vms[0].series.intervals()[0];
    assert_eq!((first.t_ms, first.dur_ms), (660_319_000, 281_000));
}

#[test]
fn google_without_the_size_of_its_machine_is_refused() {
    let Some(path) = shared("traces/google-2019", "google_without_a_size") else {
        return;
    };
    let error = import_path(&path, ImportOptions::default()).unwrap_err();
    assert!(
        matches!(error.kind, ImportErrorKind::Needs { .. }),
        "{error}"
    );
}

#[test]
fn alibaba_counters_become_bytes() {
    let Some(imported) = import("traces/alibaba-2018", &units(1.0), "alibaba") else {
        return;
    };
    assert_eq!(
        (imported.format, imported.vms.len()),
        (Format::Alibaba2018, 6)
    );
    let expected = [
        ("m_1932", 3325, 40.876_090_2, 42.0, 6.42),
        ("m_1933", 7193, 5.710_412_9, 0.0, 1.22),
        ("m_1935", 6948, 38.733_880_3, 0.0, 15.22),
    ];
    for (vm, (name, rows, cpu, _, gained)) in imported.vms.iter().zip(expected) {
        assert_eq!((vm.meta.name.as_str(), vm.meta.vcpus), (name, Some(96)));
        assert_eq!(vm.series.intervals().len(), rows);
        assert!((mean(vm, Metric::CpuMilli) / 960.0 - cpu).abs() < 1e-6);
        // What the counter gained from the first to the last row, less what lies in gaps.
        let rx: u64 = vm.series.values(Metric::NetRxBytes).sum();
        assert!(rx as f64 / 1e9 <= gained + 1e-6, "{name}: {rx}");
        assert!(rx as f64 / 1e9 >= gained * 0.9, "{name}: {rx} of {gained}");
    }
    let resets = |w: &traces::import::Warning| matches!(w.kind, WarningKind::Resets { .. });
    assert!(!imported.warnings.iter().any(resets));
    // Without a unit there is no network, rather than a made-up one.
    let plain = import("traces/alibaba-2018", &ImportOptions::default(), "alibaba");
    let plain = plain.expect("it was there");
    assert_eq!(plain.vms[0].series.values(Metric::NetRxBytes).count(), 0);
    assert_eq!(plain.vms[0].meta.mem_bytes, None);
}

/// Sum of MHz x ms over all fragments by pyarrow: 207,380,236,439,175.72.
#[test]
fn opendc_layouts_hold_the_same() {
    let options = ImportOptions::default();
    let Some(new) = import("traces/opendc/bitbrains-small", &options, "opendc") else {
        return;
    };
    let old = import(
        "traces/opendc/bitbrains-small-v1-layout",
        &options,
        "opendc",
    );
    let old = old.expect("it was there");
    for imported in [&new, &old] {
        assert_eq!((imported.format, imported.vms.len()), (Format::OpenDc, 50));
        assert_eq!(imported.counts.samples, 276_979);
        assert_eq!(imported.time_origin, TimeOrigin::UnixUtc);
        let work: f64 = imported.vms.iter().map(mhz_ms).sum();
        assert!((work / 207_380_236_439_175.72 - 1.0).abs() < 1e-4, "{work}");
        let guessed =
            |w: &traces::import::Warning| matches!(w.kind, WarningKind::Guessed { unit: "KB", .. });
        assert!(imported.warnings.iter().any(guessed));
    }
    // The older layout has stamps, and so the gaps that the current one has lost.
    assert_eq!((new.counts.gaps, new.counts.gap_ms), (0, 0));
    assert_eq!((old.counts.gaps, old.counts.gap_ms), (13_475, 237_585_000));
    let vm = |imported: &Imported| {
        let vm = imported.vms.iter().find(|vm| vm.meta.name == "1019");
        vm.expect("in the fixture").clone()
    };
    let (new, old) = (vm(&new), vm(&old));
    assert_eq!(new.meta.mem_bytes, Some(181_352 * 1024));
    assert_eq!(new.series.intervals()[0], old.series.intervals()[0]);
    assert_eq!(new.series.intervals()[0].t_ms, 1_376_314_546_000);
    assert_eq!(new.series.value(Metric::CpuMilli, 1), Some(4));
    let cpu = |vm: &ImportedVm| vm.series.values(Metric::CpuMilli).collect::<Vec<_>>();
    assert_eq!(cpu(&new), cpu(&old));
}

fn mhz_ms(vm: &ImportedVm) -> f64 {
    let capacity = f64::from(vm.meta.cpu_capacity_mhz.expect("stated"));
    let core = capacity / f64::from(vm.meta.vcpus.expect("stated"));
    let intervals = vm.series.intervals().iter().enumerate();
    let work = intervals.map(|(index, interval)| {
        let milli = vm.series.value(Metric::CpuMilli, index).unwrap_or(0);
        milli as f64 / 1000.0 * core * f64::from(interval.dur_ms)
    });
    work.sum()
}

#[test]
fn opendc_with_texts_as_ids_and_more_columns() {
    let options = ImportOptions::default();
    let Some(imported) = import("traces/opendc/trace-v2.1", &options, "opendc_2_1") else {
        return;
    };
    assert_eq!(imported.vms.len(), 4);
    assert_eq!(imported.counts.samples, 16_667);
    let over = |vm: &ImportedVm| {
        let flagged = vm.series.intervals().iter();
        flagged
            .filter(|i| i.flags & flags::OVER_CAPACITY != 0)
            .count()
    };
    let _ = imported.vms.iter().map(over).sum::<usize>();
}

/// Reference §0: 11,345 pages/s over a 24 s round, 14,340 over 8.2, 20,029 over 3.4, 27,336 over 1.4.
#[test]
fn the_rates_of_a_migration_keep_their_windows() {
    let path = "traces/qemu-migration-postgres/Precopy_Nonconvergent_16T/mig-stats-run-1.json.gz";
    let Some(path) = shared(path, "the_rates_of_a_migration") else {
        return;
    };
    let samples = stream(&path);
    let rounds: Vec<(f64, u64)> = samples
        .iter()
        .map(|sample| {
            let get = |metric| sample.values.get(metric).expect("recorded");
            let (pages, window) = (get(Metric::DirtyPagesW1), get(Metric::DirtyW1Ms));
            (window as f64 / 1000.0, pages * 1000 / window)
        })
        .collect();
    for (found, (window, rate)) in rounds.iter().zip([
        (24.3, 11_345u64),
        (8.2, 14_340),
        (3.4, 20_029),
        (2.2, 24_198),
        (1.4, 27_336),
    ]) {
        assert!((found.0 - window).abs() < 0.25, "{found:?}");
        assert!(found.1.abs_diff(rate) <= 1, "{found:?}");
    }
}

#[test]
fn page_counts_become_rounds() {
    let path = "traces/qemu-precopy-rounds/memcached/ram4096.migration_status.log";
    let Some(path) = shared(path, "page_counts_become_rounds") else {
        return;
    };
    let samples = stream(&path);
    let first: Vec<_> = samples.iter().take_while(|sample| sample.vm == 0).collect();
    let pages: Vec<u64> = first
        .iter()
        .map(|sample| sample.values.get(Metric::DirtyPagesW1).expect("recorded"))
        .collect();
    assert_eq!(pages, [112_383, 55_523, 24_638, 13_025, 7052, 5066, 3979]);
    // All rounds but the last fill total-time less downtime: 33,913 - 144 ms.
    let end = first.last().expect("rounds").interval.end_ms();
    assert_eq!(end, 33_769);
    assert!(
        first
            .iter()
            .all(|sample| sample.interval.flags == flags::INTERPOLATED)
    );
    assert!(
        samples.iter().any(|sample| sample.vm == 2),
        "three experiments"
    );
}

fn stream(path: &std::path::Path) -> Vec<traces::store::sample::Sample> {
    let mut kept = keep::Keep::default();
    let options = ImportOptions::default();
    let paths = [path.to_path_buf()];
    traces::import::import_stream(&paths, &options, None, &mut kept).expect("good");
    kept.samples
}
