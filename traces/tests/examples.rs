//! The traces that ship with the repository.

mod common;

use std::path::PathBuf;

use common::shared;
use traces::import::{Format, ImportOptions, import_path};

fn example(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/traces")).join(name)
}

#[test]
fn shipped_traces_are_the_recordings() {
    for (ours, theirs, ticks) in [
        ("redis", "redis", 435),
        ("memcached", "memcached", 413),
        ("rustc", "rustc-a", 225),
    ] {
        let imported =
            import_path(&example(&format!("{ours}.mbpw")), ImportOptions::default()).unwrap();
        assert_eq!(imported.format, Format::PageWrites);
        let vm = &imported.vms[0];
        assert_eq!(vm.meta.name, ours);
        assert_eq!(vm.page_writes.as_ref().unwrap().ticks.len(), ticks);
        let csv = format!("traces/recorded-page-writes/{theirs}.csv.gz");
        let Some(csv) = shared(&csv, "shipped_traces_are_the_recordings") else {
            continue;
        };
        let from_csv = import_path(&csv, ImportOptions::default()).unwrap();
        assert_eq!(vm.page_writes, from_csv.vms[0].page_writes, "{ours}");
        assert_eq!(
            (&vm.cpu, &vm.series),
            (&from_csv.vms[0].cpu, &from_csv.vms[0].series)
        );
    }
}

#[test]
fn shipped_traces_stay_small() {
    let size = |name| std::fs::metadata(example(name)).unwrap().len();
    let total: u64 = ["redis.mbpw", "memcached.mbpw", "rustc.mbpw"]
        .into_iter()
        .map(size)
        .sum();
    assert!(total < 1_500_000, "{total} bytes");
}
