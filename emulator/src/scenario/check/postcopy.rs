//! `[migration]`: post-copy, and the combinations that QEMU refuses.

use super::moves::{bandwidth, ms};
use crate::migration::params::{EngineKind, MigrationParams, PostcopyParams};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::Table;

/// Its keys, which not every engine has.
pub(super) const OPTIONS: &[&str] = &[
    "postcopy-ram",
    "postcopy-preempt",
    "postcopy-after-precopy",
    "timeout-postcopy",
    "max-postcopy-bandwidth",
    "postcopy-stall-timeout",
    "postcopy-recover-tries",
    "postcopy-recover-interval",
    "postcopy-recover-timeout",
];

/// More tries than anybody waits for.
const TRIES_MAX: u64 = 100_000;

pub(super) fn parameters(table: &Table<'_>, engine: EngineKind) -> PostcopyParams {
    let base = PostcopyParams::of(engine);
    let yes = |key| table.get(key).and_then(|v| v.boolean());
    let time = |key| table.get(key).and_then(|v| ms(&v));
    let tries = table.get("postcopy-recover-tries");
    let tries = tries.and_then(|v| u32::try_from(v.integer(0..=TRIES_MAX)?).ok());
    PostcopyParams {
        ram: yes("postcopy-ram").unwrap_or(base.ram),
        preempt: yes("postcopy-preempt").unwrap_or(base.preempt),
        after_precopy: yes("postcopy-after-precopy").unwrap_or(base.after_precopy),
        timeout: time("timeout-postcopy").or(base.timeout),
        max_bandwidth: bandwidth(table, "max-postcopy-bandwidth").unwrap_or(base.max_bandwidth),
        stall_timeout: time("postcopy-stall-timeout").unwrap_or(base.stall_timeout),
        recover_tries: tries.unwrap_or(base.recover_tries),
        recover_interval: time("postcopy-recover-interval").unwrap_or(base.recover_interval),
        recover_timeout: time("postcopy-recover-timeout").unwrap_or(base.recover_timeout),
    }
}

/// Notes what cannot be combined, at the key that asks for it.
pub(super) fn refuse(table: &Table<'_>, params: &MigrationParams) {
    let note = |key: &'static str, why: &str| {
        if let Some(value) = table.get(key) {
            value.note(ProblemKind::Refused {
                key: key.to_owned(),
                why: why.to_owned(),
            });
        }
    };
    if let Some((key, why)) = params.refused() {
        note(key, why);
    }
}
