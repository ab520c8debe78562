//! Every metric of `summary.json`: name, unit, tag, definition.

use crate::results::columns::Tag::{self, Measured, Modelled};

/// A metric's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    /// Its key.
    pub name: &'static str,
    /// Its unit; `1` is a ratio.
    pub unit: &'static str,
    /// In a run that carried real bytes.
    pub tag: Tag,
    /// What it is.
    pub text: &'static str,
}

const fn define(
    name: &'static str,
    unit: &'static str,
    tag: Tag,
    text: &'static str,
) -> Definition {
    Definition {
        name,
        unit,
        tag,
        text,
    }
}

/// All metrics. L_i is granted CPU over capacity of host i, D_j and A_j the demand and the grant of
/// VM j.
pub const DEFINITIONS: &[Definition] = &[
    define(
        "steal_core_s",
        "core-s",
        Modelled,
        "sum over VMs of max(0, integral of D_j - A_j), pauses included; what a backlog made up for later is not in it",
    ),
    define(
        "demand_core_s",
        "core-s",
        Modelled,
        "sum over VMs of the integral of D_j",
    ),
    define(
        "granted_core_s",
        "core-s",
        Modelled,
        "sum over VMs of the integral of A_j",
    ),
    define(
        "lost_core_s",
        "core-s",
        Modelled,
        "demand dropped from full backlogs",
    ),
    define(
        "sla_violation",
        "1",
        Modelled,
        "steal_core_s / demand_core_s",
    ),
    define(
        "steal_share_p50",
        "1",
        Modelled,
        "steal over demand of each VM, median over VMs",
    ),
    define(
        "steal_share_p95",
        "1",
        Modelled,
        "the same, 95th percentile over VMs",
    ),
    define(
        "steal_share_p99",
        "1",
        Modelled,
        "the same, 99th percentile over VMs",
    ),
    define(
        "slatah",
        "1",
        Modelled,
        "mean over hosts of time with unmet demand / time active",
    ),
    define(
        "overload_time_fraction",
        "1",
        Modelled,
        "sum of time with unmet demand / sum of time active, over hosts",
    ),
    define(
        "imbalance_gap",
        "1",
        Modelled,
        "max L_i - min L_i, averaged over trace time",
    ),
    define(
        "imbalance_sd",
        "1",
        Modelled,
        "standard deviation of L_i over hosts, averaged over time",
    ),
    define(
        "imbalance_cv",
        "1",
        Modelled,
        "standard deviation of L_i / mean L_i, averaged over time",
    ),
    define(
        "jain_index",
        "1",
        Modelled,
        "(sum L_i)^2 / (N sum L_i^2), averaged over time; 1 is even",
    ),
    define(
        "migrations_requested",
        "count",
        Measured,
        "migrations accepted",
    ),
    define(
        "migrations_completed",
        "count",
        Measured,
        "migrations whose guest runs at the destination",
    ),
    define(
        "migrations_failed",
        "count",
        Measured,
        "migrations that ended with an error",
    ),
    define(
        "migrations_cancelled",
        "count",
        Measured,
        "migrations cancelled; the guest stayed",
    ),
    define(
        "migrations_unended",
        "count",
        Measured,
        "migrations queued or under way when the run stopped",
    ),
    define(
        "migrations_verified",
        "count",
        Measured,
        "completed ones of which every page was right",
    ),
    define(
        "vms_lost",
        "count",
        Measured,
        "VMs that died while they were moved: their process, or their host",
    ),
    define(
        "vms_stranded",
        "count",
        Measured,
        "VMs that nobody can vouch for after they were moved: a host is silent, and nobody knows whether it is dead",
    ),
    define(
        "faults_struck",
        "count",
        Measured,
        "faults of the scenario's plan that struck a migration",
    ),
    define(
        "migrations_returned",
        "count",
        Measured,
        "completed ones that undid the VM's last one: A to B, then B to A",
    ),
    define(
        "moves_rejected",
        "count",
        Measured,
        "moves the balancer asked for that were refused",
    ),
    define(
        "migration_bytes",
        "bytes",
        Measured,
        "bytes handed to sockets, multiplied by k: the full-size system's",
    ),
    define(
        "migration_bytes_carried",
        "bytes",
        Measured,
        "bytes handed to sockets in this run",
    ),
    define(
        "migration_amplification",
        "1",
        Measured,
        "bytes of completed migrations / RAM of their VMs",
    ),
    define(
        "total_time_ms_p50",
        "ms",
        Measured,
        "QMP's total-time of completed migrations, median",
    ),
    define(
        "total_time_ms_p95",
        "ms",
        Measured,
        "the same, 95th percentile",
    ),
    define("total_time_ms_max", "ms", Measured, "the same, maximum"),
    define("total_time_ms_sum", "ms", Measured, "the same, sum"),
    define(
        "downtime_ms_p50",
        "ms",
        Measured,
        "QMP's downtime of completed migrations, median",
    ),
    define(
        "downtime_ms_p95",
        "ms",
        Measured,
        "the same, 95th percentile",
    ),
    define("downtime_ms_max", "ms", Measured, "the same, maximum"),
    define("downtime_ms_sum", "ms", Measured, "the same, sum"),
    define(
        "observed_outage_ms_p50",
        "ms",
        Measured,
        "guest paused to resumed, one clock, median",
    ),
    define(
        "observed_outage_ms_p95",
        "ms",
        Measured,
        "the same, 95th percentile",
    ),
    define(
        "observed_outage_ms_max",
        "ms",
        Measured,
        "the same, maximum",
    ),
    define("observed_outage_ms_sum", "ms", Measured, "the same, sum"),
    define("ticks", "count", Measured, "times the balancer was asked"),
    define(
        "decision_ms_max",
        "ms",
        Measured,
        "longest the balancer took to answer, wall time",
    ),
];
