//! The programs under test: built by Cargo with any test of this package, into the folder above the
//! test programs'. `MIGBED_BINARIES` names another folder that has them: `.ci/run` uses it for the
//! ordinary user, who has no toolchain.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `migbed` (`src/bin/migbed.rs`).
///
/// # Panics
/// When it is not there.
pub fn binary() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find("migbed-under-test"))
}

/// The tests' own helper program (`src/bin/helper.rs`).
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn helper() -> PathBuf {
    find("migbed-test-helper")
}

fn find(name: &str) -> PathBuf {
    let folder = std::env::var_os("MIGBED_BINARIES").map(PathBuf::from);
    let path = folder.unwrap_or_else(beside_tests).join(name);
    assert!(path.is_file(), "no {}", path.display());
    path
}

/// `target/debug` or another profile's: test programs are one folder deeper, in `deps`.
fn beside_tests() -> PathBuf {
    let own = std::env::current_exe().expect("/proc/self/exe is readable");
    let deps = own.parent().expect("a program is in a folder");
    deps.parent().expect("deps is in a folder").to_owned()
}
