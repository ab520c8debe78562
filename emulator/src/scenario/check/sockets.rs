//! `[migration]`: the options of its connections.

use super::moves::ms;
use crate::migration::params::{MigrationParams, SocketParams};
use crate::scenario::problem::ProblemKind;
use crate::scenario::raw::{Table, Value};
use crate::units::show_time;
use traces::units::NS_PER_S;

/// The kernel's own bounds (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`).
const SECONDS_MAX: u64 = 32_767;
const PROBES_MAX: u32 = 127;

/// Reads them into `params`.
pub(super) fn read(table: &Table<'_>, params: &mut MigrationParams) {
    let count = table.get("keep-alive-count");
    let timeout = table.get("user-timeout");
    params.sockets = SocketParams {
        keep_alive: table.get("keep-alive").and_then(|value| value.boolean()),
        keep_alive_count: count.and_then(|value| value.small(1..=PROBES_MAX)),
        keep_alive_idle: seconds(table, "keep-alive-idle"),
        keep_alive_interval: seconds(table, "keep-alive-interval"),
        user_timeout: timeout.and_then(|value| user_timeout(&value)),
    };
    let idle = params.sockets.idle_option(params.engine);
    if let Some(value) = idle.and_then(|key| table.get(key)) {
        value.note(ProblemKind::Refused {
            key: value.key.clone(),
            why: "it does nothing without keep-alive = true".to_owned(),
        });
    }
}

/// Whole seconds, as the kernel counts them.
fn seconds(table: &Table<'_>, key: &'static str) -> Option<u32> {
    let value = table.get(key)?;
    let ns = value.time_ns()?;
    let s = ns / NS_PER_S;
    if !ns.is_multiple_of(NS_PER_S) || !(1..=SECONDS_MAX).contains(&s) {
        let bounds = format!("whole seconds, 1s to {SECONDS_MAX}s, as the kernel takes");
        value.out_of_bounds(show_time(ns), bounds);
        return None;
    }
    u32::try_from(s).ok()
}

fn user_timeout(value: &Value<'_>) -> Option<u32> {
    if value.as_text() == Some("never") {
        return Some(0);
    }
    let found = ms(value)?;
    match i32::try_from(found) {
        Ok(found) if found > 0 => Some(found.unsigned_abs()),
        _ => {
            let bounds = "1ms to 2147483647ms, as the kernel takes, or \"never\"";
            value.out_of_bounds(format!("{found}ms"), bounds);
            None
        }
    }
}
