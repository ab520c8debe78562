//! Public traces, where the shared fixtures are: figures computed with another program.

mod common;

use common::shared;
use traces::cpu::CpuTrace;
use traces::import::{Format, ImportOptions, Imported, WarningKind, import_path};
use traces::stats::cpu_stats;
use traces::store::series::Metric;

fn import(path: &str, test: &str) -> Option<Imported> {
    let path = shared(path, test)?;
    Some(import_path(&path, ImportOptions::default()).expect("the fixtures are good"))
}

/// Sum, mean and population standard deviation by Python's statistics module, in per cent.
#[test]
fn planetlab_days_have_their_mean_and_deviation() {
    for (day, sum, mean, deviation) in [
        (
            "20110303",
            287_254,
            16.623_495_370_370_37,
            23.262_718_620_083_955,
        ),
        (
            "20110409",
            254_366,
            14.720_254_629_629_63,
            20.866_769_988_428_46,
        ),
    ] {
        let path = format!("traces/planetlab/{day}");
        let Some(imported) = import(&path, "planetlab_days") else {
            return;
        };
        assert_eq!(
            (imported.format, imported.vms.len()),
            (Format::PlanetLab, 60)
        );
        assert_eq!(imported.warnings, []);
        let values = imported
            .vms
            .iter()
            .flat_map(|vm| vm.series.values(Metric::CpuMilli));
        assert_eq!(values.sum::<u64>(), sum * 10);
        let samples = imported
            .vms
            .iter()
            .flat_map(|vm| vm.cpu.samples())
            .copied()
            .collect();
        let stats = cpu_stats(&CpuTrace::new(samples).expect("samples have a length"));
        assert!((stats.mean / 10.0 - mean).abs() < 1e-9, "{stats:?}");
        let found = stats.coefficient_of_variation * stats.mean / 10.0;
        assert!((found - deviation).abs() < 1e-9, "{found}");
        assert!(
            imported.vms.iter().any(|vm| vm.meta.name.contains(' ')),
            "names hold spaces"
        );
    }
}

#[test]
fn both_planetlab_days_join() {
    let Some(imported) = import("traces/planetlab", "both_planetlab_days_join") else {
        return;
    };
    assert!(imported.vms.len() <= 120);
    assert_eq!(imported.counts.samples, 2 * 60 * 288);
}

#[test]
fn bitbrains_traps_are_counted() {
    let Some(imported) = import("traces/bitbrains-rnd/2013-8-2days", "bitbrains_traps") else {
        return;
    };
    assert_eq!(imported.format, Format::Bitbrains);
    // 26 files; 446.csv holds nothing but its header.
    assert_eq!((imported.vms.len(), imported.counts.files), (25, 26));
    assert_eq!(imported.vms[0].meta.name, "1");
    let empty = |kind: &WarningKind| *kind == WarningKind::NoSamples;
    let left_out: Vec<_> = imported
        .warnings
        .iter()
        .filter(|w| empty(&w.kind))
        .collect();
    assert!(left_out.len() == 1 && left_out[0].file.ends_with("446.csv"));
    let vm = |name: &str| {
        imported
            .vms
            .iter()
            .find(|vm| vm.meta.name == name)
            .expect("a fixture")
    };
    // 1.csv by Python: 573 lines, 2 gaps of 600 s together, 8.88 % of two cores.
    let first = vm("1");
    assert_eq!(first.series.intervals().len(), 573);
    assert_eq!(
        (first.cpu_fill.gaps, first.cpu_fill.filled_ms),
        (2, 600_000)
    );
    assert_eq!(
        (first.meta.vcpus, first.meta.mem_bytes),
        (Some(2), Some(8 << 30))
    );
    assert_eq!(first.series.value(Metric::CpuMilli, 0), Some(173));
    assert_eq!(first.series.value(Metric::NetRxBytes, 0), Some(3_235_840));
    let mean = first.series.values(Metric::CpuMilli).sum::<u64>() as f64 / 573.0;
    assert!((mean - 8.882_917_809_357_6 * 20.0).abs() < 0.5, "{mean}");
    // 20.csv: no cores, all zero, every second stamp doubled.
    let odd = vm("20");
    assert_eq!((odd.meta.vcpus, odd.meta.mem_bytes), (None, None));
    assert_eq!(
        (odd.series.intervals().len(), imported.counts.duplicates),
        (1150, 576)
    );
    assert!(odd.series.values(Metric::CpuMilli).all(|milli| milli == 0));
}

#[test]
fn a_month_of_bitbrains_keeps_its_gaps() {
    let path = "traces/bitbrains-rnd/2013-8-full/384.csv";
    let Some(imported) = import(path, "a_month_of_bitbrains") else {
        return;
    };
    let vm = &imported.vms[0];
    assert_eq!(vm.series.intervals().len(), 8627);
    assert_eq!((vm.cpu_fill.gaps, vm.cpu_fill.filled_ms), (7, 3_679_000));
    assert_eq!(vm.series.value(Metric::CpuMilli, 0), Some(1027));
}
