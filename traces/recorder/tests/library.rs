//! The library of recordings: every file is whole, and the table of its README is computed from the files.
//! `cargo test -p recorder --test library -- --nocapture` prints the table.

#![expect(clippy::unwrap_used, reason = "tests: whatever fails fails the test")]

use recorder::{Kind, Sidecar, sidecar_path};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use traces::dirty::PageWriteTrace;
use traces::stats::dirty_curve;
use traces::store::page_write::read_page_writes;

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../library")
}

fn recordings() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(library())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "mbpw")
        })
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> (PageWriteTrace, Sidecar) {
    let trace = read_page_writes(BufReader::new(File::open(path).unwrap())).unwrap();
    let sidecar = std::fs::read(sidecar_path(path)).unwrap();
    (trace, serde_json::from_slice(&sidecar).unwrap())
}

/// The line of the table.
fn row(path: &Path, trace: &PageWriteTrace, sidecar: &Sidecar) -> String {
    // Start-up left out: the first five seconds hold the program's loading.
    let range = 5_000_000_000..u64::MAX;
    let curve = dirty_curve(trace, &[1, 10, 100], range);
    let pages = |index: usize| {
        curve
            .get(index)
            .map_or_else(|| "–".to_owned(), |point| format!("{:.0}", point.pages))
    };
    let totals = &sidecar.totals;
    let seconds = totals.duration_ns as f64 / 1e9;
    let last = sidecar.census.last();
    let share = |part: u64, of: u64| part as f64 * 100.0 / of.max(1) as f64;
    let zero = last.map(|census| share(census.pages.zero, census.pages.sampled));
    let ratio = last.and_then(|census| census.zstd_packet_ratio);
    let rewrites = &sidecar.written.as_ref().unwrap().rewrites;
    let text = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "| `{}` | {} | {seconds:.0} | {} | {} | {} | {} | {} | {:.2} | {} | {} | {:.0} | {} |",
        path.file_stem().unwrap().to_string_lossy(),
        trace.title,
        trace.pages,
        trace.marks(),
        pages(0),
        pages(1),
        pages(2),
        totals.cpu_ns as f64 / totals.duration_ns as f64,
        text(zero, 1),
        text(ratio, 2),
        share(rewrites.unchanged, rewrites.compared),
        text(rewrites.xbzrle.map(|spread| spread.mean), 0),
    )
}

#[test]
fn recordings_are_whole_and_the_readme_says_what_they_hold() {
    let readme = std::fs::read_to_string(library().join("README.md")).unwrap();
    let mut missing = Vec::new();
    for path in recordings() {
        let (trace, sidecar) = read(&path);
        trace.check().unwrap();
        assert_eq!(sidecar.about.kind, Kind::PageSets, "{}", path.display());
        assert_eq!(sidecar.totals.pages, Some(u64::from(trace.pages)));
        assert_eq!(sidecar.totals.page_marks, Some(trace.marks()));
        assert_eq!(sidecar.totals.spaces_unwatched, 0, "{}", path.display());
        let row = row(&path, &trace, &sidecar);
        println!("{row}");
        if !readme.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "README lacks:\n{}", missing.join("\n"));
}

#[test]
fn the_library_stays_small() {
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let files = recordings();
    assert!(files.len() >= 8, "{files:?}");
    let each: Vec<u64> = files
        .iter()
        .map(|path| size(path) + size(&sidecar_path(path)))
        .collect();
    assert!(
        each.iter().all(|&bytes| bytes <= 800 << 10),
        "{files:?} {each:?}"
    );
    assert!(each.iter().sum::<u64>() <= 3 << 20);
}
