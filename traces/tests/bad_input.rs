//! Importers on bad input: every error names the file and the line and says what was expected, and
//! no bytes make them panic.

#[path = "common/files.rs"]
mod files;

use std::fs;
use std::path::Path;

use files::{BITBRAINS, RECORDED, bitbrains_line, file, gzip, import, import_as};
use proptest::prelude::*;
use traces::import::{Format, ImportErrorKind, ImportOptions, detect, import_path};

/// Each content must give an error that starts so.
fn check(cases: &[(String, &str)]) {
    for (content, expected) in cases {
        let error = import(content).expect_err(expected);
        assert!(
            error.starts_with(expected),
            "{content:?}: {error:?}, expected {expected:?}"
        );
    }
}

#[test]
fn bad_planetlab_files_are_refused_with_their_line() {
    check(&[
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
    ]);
}

#[test]
fn bad_bitbrains_files_are_refused_with_their_line() {
    let good = bitbrains_line(1_372_629_804, "1");
    let bit = |rest: &str| format!("{BITBRAINS}{good}{rest}");
    check(&[
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
    ]);
}

#[test]
fn bad_recordings_are_refused_with_their_line() {
    let rec = |rest: &str| format!("{RECORDED}0,1,1,1,5\n{rest}");
    check(&[
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
    ]);
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_line() {
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/library/compiler.mbpw");
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
