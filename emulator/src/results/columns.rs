//! Every column of every table: name, unit (the name's end), definition, tag. One list, from which
//! the Parquet files' metadata come and against which `docs/results.md` is tested.

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

use Kind::{Bool, Float, Int, Text};
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

/// `migrations.parquet`.
pub const MIGRATIONS: &[Column] = &[
    column("id", Int, Measured, "number in the run, from 1"),
    column(
        "requested_t_s",
        Float,
        Measured,
        "request accepted, trace seconds",
    ),
    column("requested_mono_ns", Int, Measured, "the same, monotonic ns"),
    column(
        "ended_t_s",
        Float,
        Measured,
        "record written, trace seconds",
    ),
    column("ended_mono_ns", Int, Measured, "the same, monotonic ns"),
    column("vm", Text, Measured, "VM by name"),
    column("source", Text, Measured, "host it left"),
    column("destination", Text, Measured, "host it went to"),
    column("reason", Text, Measured, "why it was asked for"),
    column(
        "kind",
        Text,
        Measured,
        "PreCopy, PostCopy, Hybrid or StopAndCopy",
    ),
    column("status", Text, Measured, "completed, cancelled or failed"),
    column(
        "owner",
        Text,
        Measured,
        "who may run the guest: source, destination, lost or stranded",
    ),
    column(
        "error",
        Text,
        Measured,
        "the error, empty when there was none",
    ),
    column(
        "ram_bytes",
        Int,
        Measured,
        "RAM of the VM, at the carried scale",
    ),
    column(
        "total_time_ms",
        Float,
        Measured,
        "QMP's total-time; missing if it never began",
    ),
    column("setup_time_ms", Float, Measured, "QMP's setup-time"),
    column(
        "downtime_ms",
        Float,
        Measured,
        "QMP's downtime, as the engine reports it",
    ),
    column(
        "observed_outage_ms",
        Float,
        Measured,
        "paused at the source to resumed, one clock",
    ),
    column(
        "network_downtime_ms",
        Float,
        Measured,
        "last answer of the VM's address from the source to the first from the destination, seen by its first probe; null without one",
    ),
    column(
        "request_to_release_ms",
        Float,
        Measured,
        "request accepted to source released",
    ),
    column("rounds", Int, Measured, "rounds, the final one included"),
    column(
        "sent_bytes",
        Int,
        Measured,
        "bytes handed to the socket, at the carried scale",
    ),
    column(
        "sent_bytes_full",
        Float,
        Measured,
        "sent_bytes multiplied by k: the full-size system's",
    ),
    column(
        "precopy_bytes",
        Int,
        Measured,
        "bytes handed over before the guest was stopped",
    ),
    column(
        "downtime_bytes",
        Int,
        Measured,
        "bytes handed over after the guest was stopped",
    ),
    column("normal_pages", Int, Measured, "pages sent whole"),
    column("zero_pages", Int, Measured, "zero pages sent as a marker"),
    column(
        "sent_rate_bps",
        Float,
        Measured,
        "sent bytes x 8 / (total time minus setup), bit/s",
    ),
    column(
        "verified",
        Bool,
        Measured,
        "every page arrived in its right version",
    ),
    column(
        "grade",
        Text,
        Measured,
        "A, B, C or invalid: the migration's error budget",
    ),
    column(
        "grade_reasons",
        Text,
        Measured,
        "why not A, joined by semicolons",
    ),
    column(
        "rate_error_10ms",
        Float,
        Measured,
        "error of its links' rates over 10 ms, beyond one frame: 95th percentile, worst link",
    ),
    column("rate_error_100ms", Float, Measured, "the same over 100 ms"),
    column(
        "rate_error_1000ms",
        Float,
        Measured,
        "the same over 1000 ms",
    ),
    column(
        "delay_error_us",
        Float,
        Measured,
        "largest error of its links' delays when calibrated, microseconds",
    ),
    column(
        "late_us_mean",
        Float,
        Measured,
        "lateness of departures while it was under way, microseconds, mean",
    ),
    column("late_us_p99", Float, Measured, "the same, 99th percentile"),
    column(
        "run_delay_share",
        Float,
        Measured,
        "share of its time in which the relay waited for a CPU",
    ),
    column(
        "emulator_limited_share",
        Float,
        Measured,
        "share of its time in which TCP was held up by this computer",
    ),
    column(
        "path_idle_share",
        Float,
        Measured,
        "share of its sending time in which no link of its path was busy",
    ),
    column(
        "path_idle_emulator_share",
        Float,
        Measured,
        "the part of it that the congestion window does not explain",
    ),
    column(
        "steal_share",
        Float,
        Measured,
        "share of this computer's CPU time stolen from below meanwhile",
    ),
    column(
        "postcopy_bytes",
        Float,
        Measured,
        "RAM bytes handed over since the guest ran at the destination; missing if it was no post-copy",
    ),
    column(
        "postcopy_requests",
        Float,
        Measured,
        "pages that the guest touched before they had come",
    ),
    column(
        "postcopy_latency_us",
        Float,
        Measured,
        "from such a touch to the page's being there, mean, microseconds",
    ),
    column(
        "postcopy_blocktime_ms",
        Float,
        Measured,
        "how long the guest stood still for want of pages",
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
