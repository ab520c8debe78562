use super::*;
use std::io::Write;

fn read(text: &str) -> Result<Vec<MigrationLog>, ImportError> {
    let mut file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    migration_logs(file.path())
}

fn answer(at_ms: u64, status: &str, more: &str) -> String {
    format!(
        r#"{{"query_migrate": {{"status": "{status}", "total-time": {at_ms}, "expected-downtime": 300{more}, "ram": {{
            "total": 8192, "remaining": 4096, "transferred": 5000, "normal": 1, "duplicate": 0, "dirty-sync-count": 1,
            "mbps": 1000.5, "downtime-bytes": 0, "precopy-bytes": 5000}}}}}}"#
    )
}

#[test]
fn answers_of_qemu_are_a_migration() {
    let text = format!(
        "[{{\"query_migrate\": {{}}}},\n{},\n{},\n{}]",
        answer(200, "active", ""),
        answer(400, "postcopy-active", ", \"cpu-throttle-percentage\": 20"),
        answer(500, "completed", ", \"downtime\": 13")
    );
    let logs = read(&text).unwrap();
    assert_eq!(logs.len(), 1);
    let log = &logs[0];
    assert_eq!((log.ram_bytes, log.polls.len()), (8192, 3));
    assert_eq!((log.completed, log.downtime_ms), (true, Some(13)));
    assert_eq!(log.polls[0].mbps, Some(1000.5));
    assert_eq!(log.polls[0].throttle, None, "not said is not 0");
    assert_eq!(
        (log.polls[1].throttle, log.polls[1].postcopy),
        (Some(20), true)
    );
    assert_eq!(log.postcopy_at_ms(), Some(200));
}

#[test]
fn time_that_goes_back_is_another_migration() {
    let text = [answer(200, "active", ""), answer(100, "active", "")].join("\n");
    let logs = read(&text).unwrap();
    assert_eq!(logs.len(), 2);
    assert!(logs[0].name.ends_with("-1") && logs[1].name.ends_with("-2"));
    assert!(!logs[0].completed);
}

const LIBVIRT: &str = "\
Job type:         Unbounded
Operation:        Outgoing migration
Time elapsed:     1200         ms
Data processed:   123.456 MiB
Memory processed: 123.500 MiB
Memory remaining: 1.250 GiB
Memory total:     8.016 GiB
Memory bandwidth: 118.500 MiB/s
Dirty rate:       12345        pages/s
Page size:        4096         bytes
Iteration:        3
Constant pages:   12345
Normal pages:     31000
Normal data:      121.094 MiB
Expected downtime: 300         ms
Auto converge throttle: 20 %

Job type:         None

Job type:         Completed
Time elapsed:     2400         ms
Memory processed: 200.000 MiB
Memory remaining: 0.000 B
Memory total:     8.016 GiB
Iteration:        5
Constant pages:   12345
Normal pages:     51000
Total downtime:   42           ms
";

#[test]
fn blocks_of_libvirt_are_a_migration() {
    let logs = read(LIBVIRT).unwrap();
    assert_eq!(logs.len(), 1);
    let log = &logs[0];
    assert_eq!(log.polls.len(), 2);
    let first = log.polls[0];
    assert_eq!(
        (first.at_ms, first.syncs, first.normal, first.zero),
        (1200, 3, 31_000, 12_345)
    );
    assert_eq!(first.remaining, 1_342_177_280);
    assert_eq!(first.throttle, Some(20));
    assert_eq!(first.downtime_bytes, None);
    assert!((first.mbps.unwrap() - 118.5 * 1.048_576 * 8.0).abs() < 1e-3);
    assert_eq!((log.completed, log.downtime_ms), (true, Some(42)));
}

#[test]
fn slips_are_told_with_file_line_and_remedy() {
    let slip = |text: &str| read(text).unwrap_err().to_string();
    let cut = answer(200, "active", "");
    let told = slip(&cut[..cut.len() - 3]);
    assert!(told.contains("cut") && told.contains(":3"), "{told}");
    let told = slip(&format!(
        "{}\n{}",
        answer(1, "active", ""),
        answer(2, "active", "").replace("4096", "-4096")
    ));
    assert!(
        told.contains("remaining") && told.contains("-4096") && told.contains(":4"),
        "{told}"
    );
    let told = slip(&LIBVIRT.replace("1.250 GiB", "much"));
    assert!(
        told.contains("Memory remaining") && told.contains(":6"),
        "{told}"
    );
    let told = slip(&LIBVIRT.replace("Iteration:        3\n", ""));
    assert!(told.contains("Iteration"), "{told}");
    assert!(slip("").contains("empty"));
    assert!(
        slip("hello\n").contains("no samples"),
        "{}",
        slip("hello\n")
    );
}
