//! Every column of every table: name, unit (the name's end), definition, tag. One list, from which
//! the Parquet files' metadata come and against which `docs/results.md` is tested.

mod migrations;

pub use migrations::MIGRATIONS;

use serde::{Deserialize, Serialize};

/// How a value came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tag {
    /// Read off clocks, sockets and counters while real bytes moved.
    Measured,
    /// Computed by a stated model.
    Modelled,
    /// Made up by a named, seeded profile.
    Synthesised,
}

impl Tag {
    /// Its name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Synthesised => "synthesised",
        }
    }

    /// In a simulation nothing is measured.
    #[must_use]
    pub fn in_run(self, run_tag: &str) -> Self {
        if run_tag == Self::Modelled.name() && self == Self::Measured {
            Self::Modelled
        } else {
            self
        }
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 64-bit float, may be missing.
    Float,
    /// 64-bit integer.
    Int,
    /// UTF-8.
    Text,
    /// True or false.
    Bool,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// With its unit last.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// In a run that carried real bytes.
    pub tag: Tag,
    /// In one sentence.
    pub definition: &'static str,
}

const fn column(name: &'static str, kind: Kind, tag: Tag, definition: &'static str) -> Column {
    Column {
        name,
        kind,
        tag,
        definition,
    }
}

use Kind::{Float, Int, Text};
use Tag::{Measured, Modelled};

const T_S: Column = column(
    "t_s",
    Float,
    Measured,
    "end of the sample's span, trace seconds",
);
const MONO_NS: Column = column(
    "mono_ns",
    Int,
    Measured,
    "the same instant on the machine's monotonic clock, ns",
);
const SPAN_S: Column = column("span_s", Float, Measured, "trace seconds the sample covers");

/// `hosts.parquet`.
pub const HOSTS: &[Column] = &[
    T_S,
    MONO_NS,
    column("host", Text, Measured, "host by name"),
    SPAN_S,
    column(
        "cores",
        Int,
        Measured,
        "cores of the host, as the scenario says",
    ),
    column(
        "speed",
        Float,
        Measured,
        "speed of a core, in reference cores, as the scenario says",
    ),
    column(
        "demand_core_s",
        Float,
        Modelled,
        "core-seconds its VMs asked for in the span",
    ),
    column(
        "granted_core_s",
        Float,
        Modelled,
        "core-seconds they were granted",
    ),
    column(
        "steal_core_s",
        Float,
        Modelled,
        "demand minus granted, never below 0",
    ),
    column(
        "load",
        Float,
        Modelled,
        "granted core-seconds / (cores x speed x span)",
    ),
    column(
        "pressure_some_s",
        Float,
        Modelled,
        "seconds in which some VM wanted more than it got",
    ),
    column(
        "ram_used_bytes",
        Int,
        Modelled,
        "RAM of the VMs on it, at the carried scale",
    ),
    column("vms", Int, Modelled, "VMs on it at the end of the span"),
];

/// `vms.parquet`.
pub const VMS: &[Column] = &[
    T_S,
    MONO_NS,
    column("vm", Text, Measured, "VM by name"),
    column("host", Text, Measured, "host it was on"),
    SPAN_S,
    column(
        "demand_core_s",
        Float,
        Modelled,
        "core-seconds its trace asked for in the span",
    ),
    column(
        "granted_core_s",
        Float,
        Modelled,
        "core-seconds it was granted",
    ),
    column(
        "steal_core_s",
        Float,
        Modelled,
        "demand minus granted, never below 0",
    ),
    column(
        "lost_core_s",
        Float,
        Modelled,
        "demand dropped from a full backlog",
    ),
    column(
        "paused_s",
        Float,
        Measured,
        "seconds it was paused by migrations",
    ),
    column(
        "guest_cpu_s",
        Float,
        Modelled,
        "guest CPU time so far, that of its offset into its trace included",
    ),
];

/// `links.parquet`.
pub const LINKS: &[Column] = &[
    T_S,
    MONO_NS,
    column(
        "link",
        Text,
        Measured,
        "link direction, `h1-up`, `h1-down` or `a>b`",
    ),
    column(
        "segments_in",
        Int,
        Measured,
        "segments that entered since the run began",
    ),
    column(
        "wire_bytes_in",
        Int,
        Measured,
        "wire bytes that entered, overhead_bytes included",
    ),
    column("wire_bytes_out", Int, Measured, "wire bytes that left"),
    column(
        "dropped_bytes",
        Int,
        Measured,
        "wire bytes dropped at the queue",
    ),
    column(
        "dropped_segments",
        Int,
        Measured,
        "segments dropped at the queue",
    ),
    column(
        "lost_bytes",
        Int,
        Measured,
        "wire bytes lost on the way, as the scenario asks",
    ),
    column("lost_segments", Int, Measured, "segments lost on the way"),
    column(
        "marked_packets",
        Int,
        Measured,
        "frames marked with congestion experienced",
    ),
    column(
        "queued_bytes",
        Int,
        Measured,
        "wire bytes waiting at this instant",
    ),
    column("queue_bytes_max", Int, Measured, "highest the queue stood"),
    column(
        "late_us_mean",
        Float,
        Measured,
        "lateness of departures, microseconds, mean",
    ),
    column("late_us_p99", Float, Measured, "the same, 99th percentile"),
    column("late_us_max", Float, Measured, "the same, maximum"),
    column(
        "asked_rate_bps",
        Float,
        Measured,
        "rate of the scenario, bit/s; missing: unshaped",
    ),
    column(
        "got_rate_bps",
        Float,
        Measured,
        "rate measured under load before the run, bit/s",
    ),
    column(
        "asked_delay_us",
        Float,
        Measured,
        "one-way delay of the scenario, microseconds",
    ),
    column(
        "got_delay_us",
        Float,
        Measured,
        "median of the one-way delay added before the run",
    ),
];

/// Every table with its columns.
pub const TABLES: &[(&str, &[Column])] = &[
    ("hosts.parquet", HOSTS),
    ("vms.parquet", VMS),
    ("links.parquet", LINKS),
    ("migrations.parquet", MIGRATIONS),
    ("services.parquet", SERVICES),
];

/// `services.parquet`.
pub const SERVICES: &[Column] = &[
    column("service", Text, Measured, "service by name"),
    column("server", Text, Measured, "VM that answers"),
    column("client", Text, Measured, "VM that asks, or internet"),
    column(
        "window",
        Text,
        Measured,
        "run; or before, during, after a migration of the server or the client",
    ),
    column("migration", Int, Measured, "its number; 0: the whole run"),
    column(
        "from_mono_ns",
        Int,
        Measured,
        "begin of the window, monotonic ns",
    ),
    column(
        "span_s",
        Float,
        Measured,
        "length of the window, seconds of the clock",
    ),
    column(
        "answered",
        Int,
        Measured,
        "requests that were due in it and were answered",
    ),
    column(
        "cut",
        Int,
        Measured,
        "requests that were due in it and were not when the clock stopped",
    ),
    column(
        "connections",
        Float,
        Measured,
        "connections the client opened in the whole run; null in other windows",
    ),
    column(
        "mean_ms",
        Float,
        Measured,
        "latency from when they were due, mean",
    ),
    column("p50_ms", Float, Measured, "the same, median"),
    column("p90_ms", Float, Measured, "the same, 90th percentile"),
    column("p99_ms", Float, Measured, "the same, 99th percentile"),
    column("p999_ms", Float, Measured, "the same, 99.9th percentile"),
    column("max_ms", Float, Measured, "the same, maximum"),
];
