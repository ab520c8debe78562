//! The harness of the end-to-end tests and benchmarks.
//!
//! Inside: finding and starting `migbed`, small scenarios, what a run leaves in /proc and on disk,
//! loud skips; `measure` is the benchmarks'. Never inside: what is right or wrong; each test says
//! that itself. Tests that corrupt a dirty log on purpose are beside the engine
//! (`emulator/src/migration/tests.rs`), tests of single decisions beside the decisions.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod bands;
mod binary;
mod events;
mod leftovers;
pub mod measure;
mod processes;
mod sandbox;
mod scenarios;
mod skip;
mod wait;

pub use bands::{one_of, within};
pub use binary::{binary, helper};
pub use events::{Seen, json_file, records, seen};
pub use leftovers::Before;
pub use processes::{Process, Tree, tree_of};
pub use sandbox::{Finished, Running, Sandbox};
pub use scenarios::{
    DAY, MOVES, PAIR, QUEUE, SLOW, WEB_PROBED, endless, far_hosts, moves, one_move, shop, trace,
};
pub use skip::{Turn, missing, skip, turn};
pub use wait::wait_for;

use std::path::PathBuf;

/// The repository. At run time, because test programs may be run from a copy of it.
#[must_use]
pub fn repository() -> PathBuf {
    let own = std::env::var_os("MIGBED_REPOSITORY").map(PathBuf::from);
    own.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))
}
