//! What the tests of this crate share.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// A path under the shared fixtures; says loudly when they are not there.
pub(crate) fn shared(path: &str, test: &str) -> Option<PathBuf> {
    let full = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if full.exists() {
        return Some(full);
    }
    skipped(&format!(
        "SKIPPED {test}: missing shared/{path} beside the repository\n"
    ));
    None
}

/// Past libtest, which captures what tests print, and to the file in which `.ci/run` counts.
fn skipped(line: &str) {
    // A closed standard error is no reason to fail a test that is not run.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("MIGBED_SKIP_LOG") {
        let log = OpenOptions::new().create(true).append(true).open(log);
        log.and_then(|mut log| log.write_all(line.as_bytes()))
            .expect("MIGBED_SKIP_LOG names a file that can be written");
    }
}
