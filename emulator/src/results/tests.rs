//! The run directory as a whole, on the synthetic run of `testing`.

use super::columns::{Column, HOSTS, Kind, MIGRATIONS, TABLES};
use super::testing::{Example, TYPICAL, example, header};
use super::*;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use std::collections::BTreeMap;

const FILES: [&str; 7] = [
    "hosts.parquet",
    "vms.parquet",
    "links.parquet",
    "migrations.parquet",
    "services.parquet",
    "migrations.jsonl",
    "summary.json",
];

fn contents(run: &RunDir) -> BTreeMap<&'static str, Vec<u8>> {
    FILES
        .iter()
        .map(|f| (*f, fs::read(run.file(f)).unwrap()))
        .collect()
}

#[test]
fn rebuilding_is_deterministic_and_idempotent() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (example(a.path(), TYPICAL), example(b.path(), TYPICAL));
    rebuild(&a).unwrap();
    rebuild(&b).unwrap();
    let first = contents(&a);
    assert!(first == contents(&b), "two runs of the same events differ");
    rebuild(&a).unwrap();
    assert!(first == contents(&a), "a second rebuild differs");
    for file in FILES {
        fs::remove_file(a.file(file)).unwrap();
    }
    rebuild(&a).unwrap();
    assert!(first == contents(&a), "a rebuild from nothing differs");
    let left: Vec<_> = fs::read_dir(a.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `MIGBED_BLESS=1 cargo test -p migbed golden` writes the golden file anew.
#[test]
fn summary_is_the_golden_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(dir.path(), TYPICAL);
    rebuild(&run).unwrap();
    let got = fs::read_to_string(run.file("summary.json")).unwrap();
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/results/testdata/summary.json"
    );
    if std::env::var_os("MIGBED_BLESS").is_some() {
        fs::write(golden, &got).unwrap();
    }
    assert!(
        got == fs::read_to_string(golden).unwrap(),
        "summary.json differs from {golden}"
    );
}

#[test]
fn summary_counts_what_the_events_say() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(dir.path(), TYPICAL);
    rebuild(&run).unwrap();
    let s = run.summary().unwrap();
    let value = |n: &str| s.value(n).unwrap_or_else(|| panic!("{n} has no value"));
    assert_eq!(value("migrations_requested"), 15.0);
    assert_eq!(value("migrations_completed"), 14.0);
    assert_eq!(value("migrations_failed"), 1.0);
    assert_eq!(value("migrations_verified"), 14.0);
    assert_eq!(value("moves_rejected"), 1.0);
    assert_eq!(
        value("migration_bytes"),
        2.0 * value("migration_bytes_carried")
    );
    // From stop to resume of migration n: its final round of 90 + 7 n ms and 9 ms more.
    assert_eq!(value("observed_outage_ms_max"), 90.0 + 7.0 * 15.0 + 9.0);
    assert!(value("steal_core_s") > 0.0);
    assert_eq!(
        (s.grade.as_str(), s.outcome.as_str(), s.log_cut),
        ("B", "completed", false)
    );
    let qemu = s.model_errors.iter().find(|m| m.model == "qemu").unwrap();
    assert_eq!(qemu.migrations, 14);
    assert!(
        s.verdict.contains("under none") && s.verdict.contains("[modelled"),
        "{}",
        s.verdict
    );
    assert!(s.verdict.contains("14 of 15 migrations"), "{}", s.verdict);
}

#[test]
fn interrupted_run_is_rebuilt_and_labelled() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(
        dir.path(),
        Example {
            interrupted: true,
            ..TYPICAL
        },
    );
    rebuild(&run).unwrap();
    let s = run.summary().unwrap();
    assert_eq!(s.outcome, "interrupted");
    assert!(s.log_cut);
    assert!(s.verdict.starts_with("Partial results"), "{}", s.verdict);
    assert!(s.warnings.iter().any(|w| w.contains("ends in the middle")));
    assert_eq!(s.value("migrations_completed"), Some(14.0));
}

#[test]
fn run_without_migrations_has_a_verdict_and_empty_tables() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(
        dir.path(),
        Example {
            migrations: 0,
            ..TYPICAL
        },
    );
    rebuild(&run).unwrap();
    let s = run.summary().unwrap();
    assert!(s.verdict.ends_with("no VM was migrated."), "{}", s.verdict);
    assert_eq!(s.value("observed_outage_ms_p50"), None);
    assert_eq!(rows(&run, "migrations.parquet").1, 0);
}

fn rows(run: &RunDir, table: &str) -> (SerializedFileReader<fs::File>, i64) {
    let file = fs::File::open(run.file(table)).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows = reader.metadata().file_metadata().num_rows();
    (reader, rows)
}

#[test]
fn tables_hold_the_columns_documented_and_their_tags() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(dir.path(), TYPICAL);
    rebuild(&run).unwrap();
    for (table, columns) in TABLES {
        let (reader, rows) = rows(&run, table);
        assert!(rows > 0, "{table} is empty");
        let meta = reader.metadata().file_metadata();
        let names: Vec<_> = meta
            .schema_descr()
            .columns()
            .iter()
            .map(|c| c.name())
            .collect();
        assert_eq!(
            names,
            columns.iter().map(|c| c.name).collect::<Vec<_>>(),
            "{table}"
        );
        let notes: BTreeMap<_, _> = meta
            .key_value_metadata()
            .unwrap()
            .iter()
            .map(|kv| (kv.key.clone(), kv.value.clone().unwrap()))
            .collect();
        for c in *columns {
            let note = &notes[&format!("migbed.{}", c.name)];
            assert_eq!(
                note,
                &format!("{}: {}", c.tag.name(), c.definition),
                "{table}"
            );
        }
    }
}

fn index(columns: &[Column], name: &str) -> usize {
    columns.iter().position(|c| c.name == name).unwrap()
}

#[test]
fn parquet_columns_read_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(dir.path(), TYPICAL);
    rebuild(&run).unwrap();

    let (reader, count) = rows(&run, "hosts.parquet");
    assert_eq!(count, 6 * 12 * 15);
    let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
    assert_eq!(row.get_string(index(HOSTS, "host")).unwrap(), "h1");
    assert_eq!(row.get_double(index(HOSTS, "span_s")).unwrap(), 10.0);
    assert_eq!(row.get_double(index(HOSTS, "t_s")).unwrap(), 10.0);

    let (reader, count) = rows(&run, "migrations.parquet");
    assert_eq!(count, 15);
    let all: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    let records = fs::read_to_string(run.file("migrations.jsonl")).unwrap();
    for (row, line) in all.iter().zip(records.lines()) {
        let record: crate::migration::record::MigrationRecord = serde_json::from_str(line).unwrap();
        assert_eq!(
            row.get_long(index(MIGRATIONS, "id")).unwrap(),
            i64::from(record.id)
        );
        assert_eq!(row.get_string(index(MIGRATIONS, "vm")).unwrap(), &record.vm);
        assert_eq!(
            row.get_bool(index(MIGRATIONS, "verified")).unwrap(),
            record.verified
        );
        let outage = row.get_double(index(MIGRATIONS, "observed_outage_ms")).ok();
        assert_eq!(outage, record.observed_outage_ms);
    }
    assert!(
        all[4]
            .is_null(index(MIGRATIONS, "observed_outage_ms"))
            .unwrap(),
        "the failed one has none"
    );
}

#[test]
fn run_directories_are_never_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run = RunDir::create(&path, &header(TYPICAL)).unwrap();
    assert_eq!(run.header().unwrap(), header(TYPICAL));
    assert!(matches!(
        RunDir::create(&path, &header(TYPICAL)),
        Err(ResultsError::NotEmpty { .. })
    ));
    assert!(matches!(
        RunDir::open(dir.path()),
        Err(ResultsError::NotARun { .. })
    ));
    let mut newer = header(TYPICAL);
    newer.schema += 1;
    run.write_header(&newer).unwrap();
    assert!(matches!(
        run.header(),
        Err(ResultsError::Schema { got, .. }) if got == u64::from(newer.schema)
    ));
}

#[test]
fn every_column_and_metric_is_documented() {
    let docs = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/results.md"));
    let unit = |kind| match kind {
        Kind::Float => "double",
        Kind::Int => "int64",
        Kind::Text => "string",
        Kind::Bool => "bool",
    };
    for (table, columns) in TABLES {
        assert!(
            docs.contains(&format!("`{table}`")),
            "docs/results.md lacks {table}"
        );
        for c in *columns {
            let line = format!(
                "| `{}` | {} | {} | {} |",
                c.name,
                unit(c.kind),
                c.tag.name(),
                c.definition
            );
            assert!(
                docs.contains(&line),
                "docs/results.md lacks, of {table}: {line}"
            );
        }
    }
    for d in summary::DEFINITIONS {
        let line = format!(
            "| `{}` | {} | {} | {} |",
            d.name,
            d.unit,
            d.tag.name(),
            d.text
        );
        assert!(docs.contains(&line), "docs/results.md lacks: {line}");
    }
}

#[test]
fn terminal_table_has_a_line_a_migration() {
    let dir = tempfile::tempdir().unwrap();
    let run = example(dir.path(), TYPICAL);
    let h = run.header().unwrap();
    let all = collect::collect(&run, &h, |_| Ok(())).unwrap();
    let records: Vec<_> = all.migrations.into_iter().map(|m| m.record).collect();
    let table = table_of_migrations(&records);
    eprintln!("{table}");
    assert!(
        table.lines().filter(|l| l.contains("completed")).count() == 14,
        "{table}"
    );
    assert!(table.lines().any(|l| l.contains("failed")), "{table}");
}
