//! One line of a ground-truth file: a configuration of a migration and what real QEMU made of it.
//!
//! Inside: the columns that are used, and what cannot be replayed with the reason. Never inside: what a
//! column means for an emulated migration (`configuration`).

use super::errors::Measured;
use crate::lone::Pattern;
use crate::migration::params::{COMPRESSIONS, Compression};
use netmodel::link::OVERHEAD_KERNEL;
use serde::Deserialize;
use serde_json::{Map, Value};
use traces::units::round_u64;

/// One line, as far as it is used.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    pub(super) run_id: String,
    pub(super) config_id: String,
    pub(super) ram_mib: u64,
    pub(super) resident_mib: u64,
    pub(super) ws_mib: u64,
    pub(super) rate_pps: f64,
    pattern: String,
    #[serde(default = "random")]
    content: String,
    #[serde(default)]
    pub(super) on_ms: u64,
    #[serde(default)]
    pub(super) off_ms: u64,
    pub(super) link_mbit: u64,
    pub(super) downtime_limit_ms: u64,
    pub(super) mode: String,
    status: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    set: Option<String>,
    #[serde(default)]
    shaper_at: Option<String>,
    #[serde(default)]
    pub(super) burst_bytes: Option<u64>,
    #[serde(default)]
    pub(super) queue_bytes: Option<u64>,
    #[serde(default)]
    pub(super) delay_us: u64,
    #[serde(default)]
    pub(super) loss_ppm: u64,
    #[serde(default)]
    overhead_bytes: Option<u16>,
    #[serde(default)]
    pub(super) queue_bytes_used: Option<u64>,
    #[serde(default)]
    shaper: Option<Value>,
    #[serde(default)]
    pub(super) return_path: bool,
    #[serde(default)]
    pub(super) congestion: Option<String>,
    #[serde(default)]
    pub(super) multifd_channels: Option<u64>,
    #[serde(default)]
    multifd_compression: Option<String>,
    #[serde(default)]
    pub(super) xbzrle_cache_mib: Option<u64>,
    #[serde(default)]
    disturbed: bool,
    #[serde(default)]
    pub(super) cancel_after_s: u64,
    #[serde(default)]
    pub(super) repeat: u32,
    #[serde(default)]
    pub(super) flows: u32,
    #[serde(default)]
    vms: Option<u32>,
    #[serde(default)]
    pub(super) rate_change_s: f64,
    #[serde(default)]
    pub(super) rate_change_mbit: u64,
    total_time_ms: Option<f64>,
    downtime_ms: Option<f64>,
    stop_to_resume_ms: Option<f64>,
    ram_transferred: Option<f64>,
    ram_normal: Option<f64>,
    ram_duplicate: Option<f64>,
    ram_dirty_sync_count: Option<f64>,
    ram_postcopy_requests: Option<f64>,
    pub(super) guest_distinct_pps_before: Option<f64>,
}

/// What the shaper of a run counted, as far as it is used; set A's says only what it is.
#[derive(Debug, Clone, Deserialize)]
struct ShaperCounters {
    /// From the source to the destination.
    ab: DirectionCounters,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct DirectionCounters {
    segments_in: u64,
    packets_out: u64,
    dropped: u64,
    lost: u64,
}

impl DirectionCounters {
    /// Segments of a super-frame: nearly all are as large as the device allowed.
    fn segments_per_frame(self) -> u64 {
        let arrived = self.segments_in.saturating_sub(self.dropped + self.lost);
        round_u64(arrived as f64 / self.packets_out.max(1) as f64).max(1)
    }
}

/// What set A's dirtier leaves where nothing is said.
fn random() -> String {
    "random".to_owned()
}

/// What a write leaves in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// 4 KiB of random bytes.
    Random,
    /// One random line of 64 bytes, repeated.
    Comp,
    /// 16 bytes that changed.
    Word,
}

/// Where the rate was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// In the middle.
    Fabric,
    /// On the source's device.
    SourceEgress,
}

/// Columns of inputs that files may have: on a line of a kind nobody has seen, another one that is not
/// empty may be an input that is not understood.
const UNDERSTOOD: &[&str] = &[
    "run_id",
    "config_id",
    "repeat",
    "set",
    "kind",
    "ram_mib",
    "resident_mib",
    "ws_mib",
    "rate_pps",
    "pattern",
    "content",
    "on_ms",
    "off_ms",
    "link_mbit",
    "downtime_limit_ms",
    "mode",
    "multifd_channels",
    "multifd_compression",
    "xbzrle_cache_mib",
    "cancel_after_s",
    "calc_timeline_s",
    "calc_sampling_mbps",
    "delay_us",
    "loss_ppm",
    "overhead_bytes",
    "burst_bytes",
    "queue_bytes",
    "queue_bytes_used",
    "shaper",
    "shaper_at",
    "shaper_name",
    "congestion",
    "return_path",
    "flows",
    "vms",
    "vm",
    "rate_change_s",
    "rate_change_mbit",
    "qemu",
    "qemu_cpu_pct",
    "disturbed",
    "status",
    "started_utc",
    "boot_s",
    "loadavg",
    "wall_s",
    "total_time_ms",
    "downtime_ms",
    "setup_time_ms",
    "expected_downtime_ms",
    "cpu_throttle_percentage",
    "stop_event_ms",
    "resume_event_ms",
    "stop_to_resume_ms",
    "pass_ms",
    "postcopy_started_ms",
    "wire_tx_bytes",
    "wire_mbit",
    "src_cpu_pct",
    "dst_cpu_pct",
    "other_cpu_pct",
    "host_cpu_busy_pct",
    "src_guest_timeline_during",
];
/// Beginnings of the names of results.
const RESULTS: &[&str] = &["ram_", "guest_", "xbzrle_"];
/// Kinds of the files at hand.
const KINDS: &[&str] = &["plain", "boundary", "wan", "contended", "rate-change"];

/// The first column with a value on this line that nothing is known about.
fn foreign(columns: &Map<String, Value>) -> Option<&str> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    };
    let known = |name: &str| {
        UNDERSTOOD.contains(&name) || RESULTS.iter().any(|begin| name.starts_with(begin))
    };
    let foreign = |(name, value): &(&String, &Value)| !known(name) && !empty(value);
    columns.iter().find(foreign).map(|(name, _)| name.as_str())
}

impl Line {
    /// Kind of configuration; set A has no such column, and only plain links.
    pub(super) fn kind(&self) -> &str {
        self.kind
            .as_deref()
            .filter(|kind| !kind.is_empty())
            .unwrap_or("plain")
    }

    /// Which pages a write falls on; `None` if nobody knows.
    pub(super) fn pattern(&self) -> Option<Pattern> {
        match self.pattern.as_str() {
            "uniform" => Some(Pattern::Uniform),
            "seq" => Some(Pattern::Seq),
            "hotcold" => Some(Pattern::Hotcold),
            _ => None,
        }
    }

    /// The pattern's word.
    pub(super) fn pattern_name(&self) -> &str {
        &self.pattern
    }

    /// What a write leaves; `None` if nobody knows.
    pub(super) fn left(&self) -> Option<Left> {
        match self.content.as_str() {
            "random" => Some(Left::Random),
            "comp" => Some(Left::Comp),
            "word" => Some(Left::Word),
            _ => None,
        }
    }

    /// Multifd's codec; `None` if nobody knows it.
    pub(super) fn compression(&self) -> Option<Compression> {
        let name = self.multifd_compression.as_deref().unwrap_or("none");
        let known = COMPRESSIONS.iter().find(|(word, _)| *word == name);
        known.map(|(_, compression)| *compression)
    }

    /// Where the rate was kept: files without the column are of set B's making, shaped in the middle, or of A's.
    pub(super) fn placement(&self) -> Option<Placement> {
        match (self.shaper_at.as_deref(), self.set.as_deref()) {
            (Some("source-egress"), _) | (None, Some("A")) => Some(Placement::SourceEgress),
            (Some("fabric") | None, _) => Some(Placement::Fabric),
            (Some(_), _) => None,
        }
    }

    /// Segments of the super-frames that the recorded shaper let through, where it counted.
    pub(super) fn segments_per_frame(&self) -> Option<u64> {
        let counters = ShaperCounters::deserialize(self.shaper.as_ref()?).ok()?;
        Some(counters.ab.segments_per_frame())
    }

    /// What the rate counts over the IP bytes of a segment.
    pub(super) fn overhead_bytes(&self) -> u16 {
        let usual = match self.placement() {
            Some(Placement::SourceEgress) => OVERHEAD_KERNEL,
            _ => 38,
        };
        self.overhead_bytes.unwrap_or(usual)
    }

    /// VMs that move at once.
    pub(super) fn moving(&self) -> u32 {
        self.vms.unwrap_or(1).max(1)
    }

    /// Why a run is not replayed, if so.
    pub(super) fn why_not(&self, columns: &Map<String, Value>) -> Option<String> {
        let said = |what: &str| Some(what.to_owned());
        if self.disturbed {
            return said("disturbed: others had the processor");
        }
        if !["completed", "cancelled"].contains(&self.status.as_str()) {
            return Some(format!("ended as `{}`", self.status));
        }
        if let Some(why) = super::configuration::unlike_any(&self.mode) {
            return Some(why);
        }
        if self.pattern().is_none() {
            return Some(format!("pattern `{}` is not known", self.pattern));
        }
        if self.left().is_none() {
            return Some(format!("content `{}` is not known", self.content));
        }
        match self.placement() {
            None => {
                let at = self.shaper_at.as_deref().unwrap_or_default();
                return Some(format!("shaped at `{at}`, which is not known"));
            }
            Some(Placement::SourceEgress) if self.overhead_bytes() != OVERHEAD_KERNEL => {
                return said("shaped at the source, but not counted as TBF counts");
            }
            Some(Placement::SourceEgress) if self.rate_change_mbit > 0 => {
                return said("a rate that changes at the source");
            }
            Some(_) => {}
        }
        if self.compression().is_none() {
            let name = self.multifd_compression.as_deref().unwrap_or_default();
            return Some(format!("multifd-compression `{name}` is not emulated"));
        }
        if let Err(refused) = super::configuration::params(self).check() {
            return Some(format!("options that QEMU refuses: {refused}"));
        }
        if (self.on_ms > 0) != (self.off_ms > 0) {
            return said("bursts without rests, or rests without bursts");
        }
        let unknown = !KINDS.contains(&self.kind());
        if let (true, Some(column)) = (unknown, foreign(columns)) {
            let kind = self.kind();
            return Some(format!(
                "kind `{kind}` with a column `{column}` that is not known"
            ));
        }
        None
    }

    /// What QEMU measured. Of post-copy only the outage counts: QEMU's downtime is sometimes the time to the
    /// end of the migration (the README of the ground truth).
    pub(super) fn measured(&self) -> Measured {
        let pulled = self.mode == "postcopy";
        Measured {
            completed: self.status == "completed",
            total_time_ms: self.total_time_ms,
            bytes: self.ram_transferred,
            normal: self.ram_normal,
            zero: self.ram_duplicate,
            outage_ms: self.stop_to_resume_ms,
            downtime_ms: self.downtime_ms.filter(|_| !pulled),
            syncs: self.ram_dirty_sync_count,
            requests: self.ram_postcopy_requests.filter(|_| pulled),
        }
    }
}

#[cfg(test)]
#[path = "columns_tests.rs"]
pub(super) mod tests;
