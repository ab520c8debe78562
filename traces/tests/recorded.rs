//! The shared recordings through the importer, into our format and back.

mod common;

use common::shared;
use traces::import::{Format, ImportOptions, import_path};
use traces::store::page_write::{read_page_writes, write_page_writes};

#[test]
fn recordings_import_with_the_counts_their_readme_states() {
    let Some(folder) = shared(
        "traces/recorded-page-writes",
        "recordings_import_with_the_counts_their_readme_states",
    ) else {
        return;
    };
    // Marks as counted when the format was chosen (see docs/trace-format.md).
    for (name, pages, ticks, marks) in [
        ("redis", 51_314, 435, 1_594_469),
        ("memcached", 27_799, 413, 549_446),
        ("rustc-a", 63_518, 225, 561_903),
    ] {
        let path = folder.join(format!("{name}.csv.gz"));
        let imported = import_path(&path, ImportOptions::default()).unwrap();
        assert_eq!(imported.format, Format::RecordedPageWrites);
        let vm = &imported.vms[0];
        let trace = vm.page_writes.as_ref().unwrap();
        assert_eq!(
            (trace.pages, trace.ticks.len(), trace.marks()),
            (pages, ticks, marks),
            "{name}"
        );
        let mut bytes = Vec::new();
        write_page_writes(trace, &mut bytes).unwrap();
        assert_eq!(&read_page_writes(bytes.as_slice()).unwrap(), trace);
        eprintln!("{name}: {} bytes as .mbpw", bytes.len());
        assert_eq!(vm.cpu.period_ns(), trace.duration_ns());
    }
}
