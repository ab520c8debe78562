//! KubeVirt's keys of `[orchestrator]`: its `migrationConfiguration`, and what its feature gates open.

use super::{count, time, yes};
use crate::orchestrator::{DowntimeTuningParams, KubevirtParams, StallDetectorParams};
use crate::scenario::check::moves::ms;
use crate::scenario::raw::{Table, Value};
use std::ops::RangeInclusive;

/// What KubeVirt's own validation takes for `maxDowntimeMs`: above 0, and not above QEMU's most.
const DOWNTIME_MS: RangeInclusive<u64> = 1..=2_000_000;

pub(super) fn read(table: &Table<'_>) -> KubevirtParams {
    let base = KubevirtParams::default();
    let bandwidth = table.get("bandwidth-per-migration");
    let tuning = table.get("downtime-tuning");
    let stall = table.get("stall-detector");
    KubevirtParams {
        completion_timeout_per_gib: time(
            table,
            "completion-timeout-per-gib",
            base.completion_timeout_per_gib,
        ),
        progress_timeout: time(table, "progress-timeout", base.progress_timeout),
        parallel_migrations_per_cluster: count(
            table,
            "parallel-migrations-per-cluster",
            base.parallel_migrations_per_cluster,
        ),
        parallel_outbound_migrations_per_node: count(
            table,
            "parallel-outbound-migrations-per-node",
            base.parallel_outbound_migrations_per_node,
        ),
        bandwidth_per_migration: bandwidth
            .and_then(|value| value.bytes_per_second())
            .unwrap_or(base.bandwidth_per_migration),
        allow_auto_converge: yes(table, "allow-auto-converge").unwrap_or_default(),
        allow_post_copy: yes(table, "allow-post-copy").unwrap_or_default(),
        allow_workload_disruption: yes(table, "allow-workload-disruption"),
        max_downtime: downtime(table, "max-downtime", base.max_downtime),
        downtime_tuning: tuning
            .and_then(|value| value.table("downtime-tuning", "a table, perhaps empty", tuning_of)),
        stall_detector: stall
            .and_then(|value| value.table("stall-detector", "a table, perhaps empty", stall_of)),
    }
}

fn downtime(table: &Table<'_>, key: &'static str, default: u64) -> u64 {
    let within = |value: Value<'_>| {
        let limit_ms = ms(&value)?;
        if !DOWNTIME_MS.contains(&limit_ms) {
            value.out_of_bounds(format!("{limit_ms}ms"), "1ms to 2000s, as KubeVirt asks");
            return None;
        }
        Some(limit_ms)
    };
    table.get(key).and_then(within).unwrap_or(default)
}

fn tuning_of(table: &Table<'_>) -> DowntimeTuningParams {
    let base = DowntimeTuningParams::default();
    let iteration = table.get("start-after-iteration");
    DowntimeTuningParams {
        initial: downtime(table, "initial", base.initial),
        steps: count(table, "steps", base.steps),
        start_after_iteration: iteration
            .and_then(|value| value.integer(0..=u64::from(u32::MAX)))
            .unwrap_or(base.start_after_iteration),
        cooldown: span(table, "cooldown", base.cooldown),
    }
}

fn stall_of(table: &Table<'_>) -> StallDetectorParams {
    let base = StallDetectorParams::default();
    let number = |key, bounds, default| {
        let value = table.get(key);
        let read = value.and_then(|value| value.number(bounds));
        read.unwrap_or(default)
    };
    let margin = table.get("stall-margin");
    StallDetectorParams {
        stall_margin: margin
            .and_then(|value| value.small(0..=100))
            .unwrap_or(base.stall_margin),
        stall_progress_timeout: span(table, "stall-progress-timeout", base.stall_progress_timeout),
        switchover_timeout: span(table, "switchover-timeout", base.switchover_timeout),
        ewma_alpha: number("ewma-alpha", 0.001..=1.0, base.ewma_alpha),
        precopy_possible_factor: number(
            "precopy-possible-factor",
            1.0..=1000.0,
            base.precopy_possible_factor,
        ),
        patience_window_decay_factor: number(
            "patience-window-decay-factor",
            0.0..=1.0,
            base.patience_window_decay_factor,
        ),
        search_local_minima: yes(table, "search-local-minima").unwrap_or(base.search_local_minima),
        completion_timeout_factor: number(
            "completion-timeout-factor",
            1.0..=1000.0,
            base.completion_timeout_factor,
        ),
    }
}

/// A time that is not 0.
fn span(table: &Table<'_>, key: &'static str, default: u64) -> u64 {
    let some = |value: Value<'_>| {
        let span_ms = ms(&value)?;
        if span_ms == 0 {
            value.out_of_bounds("0s".to_owned(), "more than 0");
            return None;
        }
        Some(span_ms)
    };
    table.get(key).and_then(some).unwrap_or(default)
}
