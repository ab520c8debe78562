//! The library's recordings: their names, and reading them.

use traces::dirty::PageWriteTrace;
use traces::import::{ImportOptions, import_path};

/// Recorded programs.
pub(crate) const LIBRARY: [&str; 9] = [
    "compiler",
    "java",
    "memcached",
    "nginx",
    "postgresql",
    "redis",
    "shell",
    "sqlite",
    "stencil",
];

/// A file of the library.
pub(crate) fn library(file: &str) -> String {
    format!("{}/library/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The page writes of a recording.
pub(crate) fn recorded(file: &str) -> PageWriteTrace {
    let imported = import_path(library(file).as_ref(), ImportOptions::default()).expect("ours");
    let vm = imported.vms.into_iter().next().expect("one VM");
    vm.page_writes.expect("a page-level recording")
}
