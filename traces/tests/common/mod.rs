//! What the tests of this crate share.

use std::path::PathBuf;

/// A path under the shared fixtures; says loudly when they are not there.
pub(crate) fn shared(path: &str, test: &str) -> Option<PathBuf> {
    let full = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED {test}: missing shared/{path} beside the repository");
    None
}
