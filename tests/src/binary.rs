//! The programs under test.
//!
//! Cargo tells no test where another package's binary is, so it is built here, once a test program,
//! into the folder the test program itself is in. `MIGBED_BINARIES` names a folder that has them
//! already: `.ci/run` uses it for the ordinary user, who has no toolchain.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `migbed`, as current as the test.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let path = folder().join("migbed");
        if prebuilt().is_none() {
            build(&folder());
        }
        assert!(path.is_file(), "no {}", path.display());
        path
    })
}

/// The tests' own helper program (`src/bin/helper.rs`), which Cargo builds with any test of this
/// package.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn helper() -> PathBuf {
    let path = folder().join("migbed-test-helper");
    assert!(path.is_file(), "no {}", path.display());
    path
}

fn prebuilt() -> Option<PathBuf> {
    std::env::var_os("MIGBED_BINARIES").map(PathBuf::from)
}

/// `target/debug`, or wherever the test program's profile puts binaries: test programs are one
/// folder deeper, in `deps`.
fn folder() -> PathBuf {
    prebuilt().unwrap_or_else(|| {
        let own = std::env::current_exe().expect("/proc/self/exe is readable");
        let deps = own.parent().expect("a program is in a folder");
        deps.parent().expect("deps is in a folder").to_owned()
    })
}

fn build(folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = folder.file_name().expect("the profile's folder has a name");
    let profile = match profile.to_str() {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = folder.parent().expect("the profile's folder is in target");
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "migbed", "--bin", "migbed"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(crate::repository())
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "migbed does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
