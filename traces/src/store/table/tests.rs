use proptest::prelude::*;

use super::*;

fn table(rows: usize) -> Table {
    let mut table = Table::default();
    let ints = (0..rows).map(|i| (i % 3 > 0).then(|| i64::try_from(i * i).expect("small")));
    table.push("int", Column::Int(ints.collect()));
    table.push(
        "real",
        Column::Real((0..rows).map(|i| Some(i as f64 / 7.0)).collect()),
    );
    let texts = (0..rows).map(|i| (i % 2 > 0).then(|| format!("ä{}", i % 5)));
    table.push("text", Column::Text(texts.collect()));
    table
}

fn bytes(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.write(&mut bytes, &["real"]).expect("memory");
    bytes
}

#[test]
fn tables_of_any_length_come_back() {
    for rows in [0, 1, 100, ROWS_PER_GROUP + 1] {
        let table = table(rows);
        let read = Table::read(bytes(&table)).unwrap();
        assert_eq!(
            (read.rows, &read.columns),
            (rows, &table.columns),
            "{rows} rows"
        );
    }
}

#[test]
fn a_required_column_must_be_full() {
    let error = table(9)
        .write(Vec::new(), &["int"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("column int lacks values"), "{error}");
}

proptest! {
    /// A checksum in the manifest guards against accidents; a forged one must not crash us.
    #[test]
    fn damaged_tables_never_panic(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
        let mut bytes = bytes(&table(50));
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = Table::read(bytes.clone());
        bytes.truncate(cut.index(bytes.len()));
        let _ = Table::read(bytes);
    }
}
