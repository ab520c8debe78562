//! Skips that are seen and counted, and tests that take turns.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// Says that a test is not run, and why, even where libtest captures what tests print. `.ci/run`
/// counts these lines in the file that `MIGBED_SKIP_LOG` names.
pub fn skip(test: &str, lacks: &str) {
    let line = format!("SKIPPED {test}: missing {lacks}\n");
    // A closed standard error is no reason to fail a test that is not run.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("MIGBED_SKIP_LOG") {
        let log = OpenOptions::new().create(true).append(true).open(&path);
        log.and_then(|mut log| log.write_all(line.as_bytes()))
            .expect("MIGBED_SKIP_LOG names a file that can be written");
    }
}

/// What this machine lacks to run anything, as `migbed doctor` says.
///
/// # Panics
/// When `migbed doctor` does not answer.
pub fn missing() -> &'static [String] {
    static MISSING: OnceLock<Vec<String>> = OnceLock::new();
    MISSING.get_or_init(|| {
        let output = std::process::Command::new(crate::binary())
            .args(["doctor", "--json"])
            .output()
            .expect("migbed doctor starts");
        let found: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).expect("migbed doctor --json is a list");
        let lacks = |c: &&serde_json::Value| c["required"] == true && c["present"] == false;
        let name = |c: &serde_json::Value| c["name"].as_str().unwrap_or("?").to_owned();
        found.iter().filter(lacks).map(name).collect()
    })
}

/// The right to load the machine; as long as it is held, no other test of this package has it.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "closing it ends the turn")] nix::fcntl::Flock<File>);

/// Waits until no other test measures or loads this machine; skips the test when the machine cannot
/// run migbed at all.
///
/// # Panics
/// When the lock cannot be had.
#[must_use]
pub fn turn(test: &str) -> Option<Turn> {
    if let Some(lacks) = missing().first() {
        skip(test, lacks);
        return None;
    }
    // The folder of the binary: there for every test program, readable for every user.
    let folder = crate::binary().parent().expect("a program is in a folder");
    let folder = File::open(folder).expect("the folder of migbed can be opened");
    let lock = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive);
    Some(Turn(
        lock.map_err(|(_, e)| e).expect("folders can be locked"),
    ))
}
