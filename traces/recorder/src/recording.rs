//! A recording: the page-write trace, and the sidecar with everything else.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::content::{Census, Written};
use crate::frames::Place;
use traces::dirty::PageWriteTrace;

/// What [`crate::record`] returns.
#[derive(Debug)]
pub struct Recording {
    /// Which pages were written; `None` where the kernel cannot tell.
    pub pages: Option<PageWriteTrace>,
    /// Where each page of the trace lies in the programs, by page number. Not stored: addresses mean
    /// nothing to a reader.
    pub places: Vec<Place>,
    /// Per tick, the monotonic clock (ns) when its scan began and had ended. A page written before
    /// the scan began is in this tick or an earlier one; one written during it, in this or the next.
    pub scans: Vec<Range<u64>>,
    /// Everything else.
    pub sidecar: Sidecar,
}

/// Whether pages were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The exact set of pages written per tick.
    PageSets,
    /// CPU, memory and network only.
    RatesOnly,
}

/// What was recorded beside the pages; stored as JSON next to the `.mbpw` file. What could not be had is
/// null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sidecar {
    /// Version of this format, 1.
    pub version: u32,
    /// What it is.
    pub about: About,
    /// Sums.
    pub totals: Totals,
    /// What the recorder itself took.
    pub overhead: Overhead,
    /// What the written pages held.
    pub written: Option<Written>,
    /// What all pages held, now and then.
    pub census: Vec<Census>,
    /// Pages read and not written, of a sample of pages.
    #[serde(default)]
    pub reads: Reads,
    /// Memory, network and tasks about once a second.
    pub samples: Samples,
    /// The threads by CPU time, most first; at most 32, the rest together as `others`.
    pub threads: Vec<Thread>,
    /// To be read before trusting the figures.
    pub warnings: Vec<String>,
}

/// What was recorded, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The command.
    pub command: Vec<String>,
    /// Whether pages were recorded.
    pub kind: Kind,
    /// When it began, Unix time.
    pub started_unix_ms: u64,
    /// Nominal tick.
    pub tick_ns: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Transparent huge pages were left on: a first write may mark 512 pages.
    pub huge_pages: bool,
    /// Only pages of shared memory were recorded.
    #[serde(default)]
    pub only_shared: bool,
    /// How the program ended: its exit code, or null when by a signal or not at all.
    pub exit_code: Option<i32>,
}

/// Sums over the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Length.
    pub duration_ns: u64,
    /// Ticks.
    pub ticks: u64,
    /// CPU time of the program and all it started.
    pub cpu_ns: u64,
    /// Processes.
    pub processes: u64,
    /// Program images (`exec`).
    pub images: u64,
    /// Pages ever written.
    pub pages: Option<u64>,
    /// (tick, page) marks.
    pub page_marks: Option<u64>,
    /// Address spaces whose pages were not recorded.
    pub spaces_unwatched: u64,
}

/// What recording took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// CPU time of the recorder.
    pub recorder_cpu_ns: u64,
    /// The same per CPU time of the program.
    pub share_of_program: Option<f64>,
    /// Times a thread of the program was stopped.
    pub stops: u64,
    /// Time in scans, in all and the longest tick's.
    pub scan_ns: u64,
    /// The longest.
    pub scan_ns_max: u64,
    /// Scans the kernel refused: processes just gone, as a rule.
    pub failed_scans: u64,
    /// The latest a tick began after its time.
    pub late_ns_max: u64,
    /// Write faults taken because pages were protected: one a (tick, page) mark. Each costs the program
    /// about 0.5 to 2 µs (see `docs/recording.md`), in its own CPU time.
    pub write_faults: Option<u64>,
}

/// Columns, one row a sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// End of the sample, from the start.
    pub t_ms: Vec<u64>,
    /// CPU time since the sample before.
    pub cpu_ms: Vec<u64>,
    /// Resident memory of all processes, pages shared by several counted once (PSS).
    pub resident_bytes: Vec<Option<u64>>,
    /// Memory whose accessed bit was set in the last `accessed_ms`: read or written, of all processes
    /// (shared pages once for each). Hardware sets the bit when it walks the page table, so a page still
    /// in the TLB may be missed: a lower bound.
    pub accessed_bytes: Vec<Option<u64>>,
    /// How long ago the bits had been cleared, where they were read with this sample: they gather over
    /// windows of 1, 2, 4, 8 and 16 samples in turn. No column at all: since the sample before.
    #[serde(default)]
    pub accessed_ms: Vec<Option<u64>>,
    /// Pages of these that were not written in that time, so read: what was accessed less
    /// what was written, at least 0. A lower bound, as `accessed_bytes` is.
    #[serde(default)]
    pub read_only_pages: Vec<Option<u64>>,
    /// Bytes received since the sample before by the network namespace of the program: by everything in
    /// it. Unix sockets are not in it.
    pub net_rx_bytes: Vec<Option<u64>>,
    /// Bytes sent, likewise.
    pub net_tx_bytes: Vec<Option<u64>>,
    /// Of those, over the loopback device.
    pub net_loopback_bytes: Vec<Option<u64>>,
    /// Processes and threads at the sample.
    pub processes: Vec<u32>,
    /// Threads.
    pub threads: Vec<u32>,
}

/// Pages read and not written, by idle page tracking: of up to 1,024 resident pages of the recording, chosen by a
/// hash of the frame, so that they are the same ones as long as they are there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    /// Why nothing could be sampled; null where it could.
    pub unavailable: Option<String>,
    /// Pages watched from one sample to the next, over all samples.
    pub sampled: u64,
    /// Of these, those written: whether they were read too cannot be told.
    pub written: u64,
    /// Of the others, those accessed: read.
    pub read: u64,
    /// Pages that moved or went while they were watched, and are in none of these.
    pub lost: u64,
    /// Share of pages not written in a sample that are read in it.
    pub share: Option<f64>,
    /// Its standard error, as if every look were at another page: at least this.
    pub standard_error: Option<f64>,
}

/// A thread's CPU time. What it used after its last sample is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its process and itself; 0 for the rest of threads.
    pub pid: i32,
    /// Thread id.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// In all.
    pub cpu_ms: u64,
}

/// The sidecar's place beside a `.mbpw` file.
#[must_use]
pub fn sidecar_path(mbpw: &Path) -> PathBuf {
    mbpw.with_extension("json")
}
