//! A ground-truth file: one JSON object a line, a migration measured on real QEMU each.

use super::errors::Measured;
use super::select::Selection;
use crate::lone::{Company, Lone, Pattern, Writes, classes};
use crate::migration::params::{MigrationParams, Reprotect};
use crate::scenario::Backing;
use netmodel::flow;
use netmodel::link::{LinkSpec, Loss, MTU};
use netmodel::units::{BitRate, ByteSize, Probability};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use traces::class::{Coupling, PageClass};
use traces::content::ContentProfile;
use traces::units::{PAGE_SIZE, round_u32, round_u64};

/// What the guest image of the ground truth adds to every configuration, from set A of the ground
/// truth alone (`docs/validation.md` has the derivation), so that nothing here was fitted to the
/// runs this replays.
pub mod image {
    /// Pages that are not zero besides the configured ones, in a guest without RAM: kernel and
    /// boot leftovers. Least squares over 256, 512 and 1024 MiB: 15,470 + 4.33 a MiB, of which 4
    /// are the kernel's 64-byte descriptor of every page.
    pub const BASE_PAGES: f64 = 15_470.0;
    /// … and for every MiB of RAM.
    pub const PAGES_PER_MIB: f64 = 4.33;
    /// How many of those lie at the top of RAM, above the zero pages, in a guest without RAM: where the
    /// first pass of a migration of set A ends, 2,150 pages of 256 MiB, 3,130 of 512, 5,080 of 1024.
    pub const HIGH_PAGES: f64 = 1_170.0;
    /// … and for every MiB of RAM: the kernel's descriptors.
    pub const HIGH_PAGES_PER_MIB: f64 = 3.82;
    /// QEMU's own small blocks (BIOS, ROMs): 532,480 bytes, see `ram_total`.
    pub const SMALL_BLOCK_BYTES: u64 = 532_480;
    /// Pages written whenever the guest's process wakes up, and how often a second: every 5 ms (its
    /// batches), and the kernel works for it then. With [`WARM`] this is the mean of the three
    /// timelines of set A that tell background from working set: 57 pages in 0.5 s, 70 in 1 s, 78 in 2 s
    /// (its README: 50 to 90 a second).
    pub const HOT: (u32, f64) = (40, 200.0);
    /// Pages it writes now and then; idle guests of set A were resent 114 to 137 pages in 6 to 16 s.
    pub const WARM: (u32, f64) = (72, 0.54);
    /// Last byte in → guest runs, ms. In set B the link is exact, so total time less the time its
    /// bytes take on the wire is what the link stood idle, set-up and load together: at least
    /// 3.6 ms over the 17 runs at the boundary of convergence, of which QEMU reports 2 as set-up.
    pub const LOAD_TIME_MS: u64 = 2;
}

/// One line of the file, as far as it is used.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    run_id: String,
    config_id: String,
    ram_mib: u64,
    resident_mib: u64,
    ws_mib: u64,
    rate_pps: f64,
    pattern: String,
    #[serde(default)]
    on_ms: u64,
    link_mbit: u64,
    downtime_limit_ms: u64,
    mode: String,
    status: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    set: String,
    #[serde(default)]
    delay_us: u64,
    #[serde(default)]
    loss_ppm: u64,
    #[serde(default)]
    overhead_bytes: Option<u16>,
    #[serde(default)]
    queue_bytes_used: Option<u64>,
    #[serde(default)]
    shaper: Option<ShaperCounters>,
    #[serde(default)]
    return_path: bool,
    #[serde(default)]
    congestion: Option<String>,
    #[serde(default)]
    disturbed: bool,
    #[serde(default)]
    cancel_after_s: u64,
    #[serde(default)]
    repeat: u32,
    #[serde(default)]
    flows: u32,
    #[serde(default)]
    vms: Option<u32>,
    #[serde(default)]
    rate_change_s: f64,
    #[serde(default)]
    rate_change_mbit: u64,
    total_time_ms: Option<f64>,
    downtime_ms: Option<f64>,
    stop_to_resume_ms: Option<f64>,
    ram_transferred: Option<f64>,
    ram_normal: Option<f64>,
    ram_duplicate: Option<f64>,
    ram_dirty_sync_count: Option<f64>,
    guest_distinct_pps_before: Option<f64>,
}

/// What the shaper of a run counted, as far as it is used.
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

/// A real run that can be replayed.
#[derive(Debug, Clone)]
pub struct RealRun {
    /// Its name in the file.
    pub run_id: String,
    /// Which repeat of its configuration.
    pub repeat: u32,
    /// What QEMU measured.
    pub measured: Measured,
}

/// Runs with the same inputs.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Its name in the file.
    pub config_id: String,
    /// Distinct pages dirtied a second over 1 s, as bytes, by the link's goodput.
    pub lambda: f64,
    /// Kind of configuration: `plain`, `boundary`, `wan`, `contended`, `rate-change`.
    pub kind: String,
    /// Its runs.
    pub runs: Vec<RealRun>,
    line: Line,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a migration.
    #[error("{}:{line}: {source}; expected one JSON object a line, as groundtruth/README.md describes", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A condition on a column that no line has.
    #[error("{}: --select: no line has a column `{column}`", path.display())]
    NoColumn {
        /// Which file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// Nothing in it can be replayed.
    #[error("{}: none of its {lines} runs can be replayed ({})", path.display(), reasons(left_out))]
    Nothing {
        /// Which file.
        path: PathBuf,
        /// Runs it holds.
        lines: usize,
        /// Why not.
        left_out: BTreeMap<String, usize>,
    },
}

fn reasons(left_out: &BTreeMap<String, usize>) -> String {
    let each = left_out.iter().map(|(why, runs)| format!("{runs}: {why}"));
    each.collect::<Vec<_>>().join("; ")
}

/// What a file holds.
#[derive(Debug)]
pub struct GroundTruth {
    /// What can be replayed, in the order of the file.
    pub configurations: Vec<Configuration>,
    /// Runs left out, by reason.
    pub left_out: BTreeMap<String, usize>,
}

/// Reads a ground-truth file.
///
/// # Errors
/// When it cannot be read, a line is not a migration, or nothing can be replayed.
pub fn read(path: &Path, selection: &Selection) -> Result<GroundTruth, InputError> {
    let text = std::fs::read_to_string(path).map_err(|source| InputError::Io {
        path: path.into(),
        source,
    })?;
    let mut truth = GroundTruth {
        configurations: Vec::new(),
        left_out: BTreeMap::new(),
    };
    let (mut lines, mut known) = (0, BTreeSet::new());
    for (index, text) in text
        .lines()
        .enumerate()
        .filter(|(_, text)| !text.trim().is_empty())
    {
        lines += 1;
        let wrong = |source| InputError::Line {
            path: path.into(),
            line: index + 1,
            source,
        };
        let columns: serde_json::Map<_, _> = serde_json::from_str(text).map_err(wrong)?;
        known.extend(columns.keys().cloned());
        let fits = selection.fits(&columns);
        let line = Line::deserialize(serde_json::Value::Object(columns)).map_err(wrong)?;
        let reason = if fits {
            why_not(&line)
        } else {
            Some("not selected")
        };
        match reason {
            Some(reason) => *truth.left_out.entry(reason.to_owned()).or_default() += 1,
            None => truth.add(line),
        }
    }
    if let Some(column) = selection.unknown(|column| known.contains(column)) {
        return Err(InputError::NoColumn {
            path: path.into(),
            column: column.to_owned(),
        });
    }
    if truth.configurations.is_empty() {
        return Err(InputError::Nothing {
            path: path.into(),
            lines,
            left_out: truth.left_out,
        });
    }
    Ok(truth)
}

/// Why a run is not replayed (yet), if so.
fn why_not(line: &Line) -> Option<&'static str> {
    match (line.kind.as_str(), line.mode.as_str()) {
        _ if line.set != "B" => Some("shaped on the source's own device (set A)"),
        (_, mode) if mode != "precopy" => Some("not pre-copy"),
        _ if line.disturbed => Some("disturbed"),
        _ if line.on_ms > 0 => Some("writes in bursts"),
        _ if pattern(&line.pattern).is_none() => Some("unknown pattern"),
        ("plain" | "boundary" | "wan" | "contended" | "rate-change", _) => None,
        _ => Some("another kind"),
    }
}

fn pattern(name: &str) -> Option<Pattern> {
    match name {
        "uniform" => Some(Pattern::Uniform),
        "seq" => Some(Pattern::Seq),
        "hotcold" => Some(Pattern::Hotcold),
        _ => None,
    }
}

impl GroundTruth {
    fn add(&mut self, line: Line) {
        let run = RealRun {
            run_id: line.run_id.clone(),
            repeat: line.repeat,
            measured: Measured {
                completed: line.status == "completed",
                total_time_ms: line.total_time_ms.unwrap_or(0.0),
                bytes: line.ram_transferred.unwrap_or(0.0),
                normal: line.ram_normal.unwrap_or(0.0),
                zero: line.ram_duplicate.unwrap_or(0.0),
                outage_ms: line.stop_to_resume_ms.unwrap_or(0.0),
                downtime_ms: line.downtime_ms.unwrap_or(0.0),
                rounds: line.ram_dirty_sync_count.unwrap_or(0.0),
            },
        };
        let known = self
            .configurations
            .iter_mut()
            .find(|c| c.config_id == line.config_id);
        match known {
            Some(configuration) => configuration.runs.push(run),
            None => self.configurations.push(Configuration::new(line, run)),
        }
    }
}

impl Configuration {
    fn new(line: Line, run: RealRun) -> Self {
        let mut configuration = Self {
            config_id: line.config_id.clone(),
            lambda: 0.0,
            kind: line.kind.clone(),
            runs: vec![run],
            line,
        };
        let goodput = flow::goodput_bps(&configuration.link()).unwrap_or(f64::INFINITY) / 8.0;
        let distinct = configuration.line.guest_distinct_pps_before.unwrap_or(0.0);
        configuration.lambda = distinct * PAGE_SIZE as f64 / goodput;
        configuration
    }

    /// In a few words.
    #[must_use]
    pub fn title(&self) -> String {
        let line = &self.line;
        let shared = match (self.moving(), line.flows) {
            (1, 0) => String::new(),
            (vms, flows) => format!(", {vms} at once, {flows} flows"),
        };
        format!(
            "{}: {} MiB, {} {} writes/s over {} MiB, {} Mbit/s, limit {} ms{shared}",
            line.kind,
            line.ram_mib,
            line.pattern,
            line.rate_pps,
            line.ws_mib,
            line.link_mbit,
            line.downtime_limit_ms
        )
    }

    /// VMs that move at once.
    #[must_use]
    pub fn moving(&self) -> u32 {
        self.line.vms.unwrap_or(1).max(1)
    }

    fn link(&self) -> LinkSpec {
        let line = &self.line;
        let ppb = u32::try_from(line.loss_ppm.saturating_mul(1000)).ok();
        let share = ppb.filter(|ppb| *ppb > 0).and_then(Probability::from_ppb);
        let loss = share.map_or(Loss::None, Loss::Independent);
        let rate = BitRate::from_bps(line.link_mbit * 1_000_000);
        let frame =
            line.shaper.as_ref().zip(rate).map(|(shaper, rate)| {
                rate.time_for(shaper.ab.segments_per_frame() * u64::from(MTU))
            });
        LinkSpec {
            loss,
            rate,
            super_frame: frame.unwrap_or(LinkSpec::default().super_frame),
            delay: Duration::from_micros(line.delay_us),
            queue: ByteSize::from_bytes(line.queue_bytes_used.unwrap_or(500_000)),
            overhead_bytes: line.overhead_bytes.unwrap_or(38),
            ..LinkSpec::default()
        }
    }

    /// The emulated migration.
    #[must_use]
    pub fn lone(&self, seed: u64) -> Lone {
        let line = &self.line;
        let mib = |mib: u64| mib << 20;
        let base = image::BASE_PAGES + image::PAGES_PER_MIB * line.ram_mib as f64;
        let high = image::HIGH_PAGES + image::HIGH_PAGES_PER_MIB * line.ram_mib as f64;
        let kernel_writes = image::HOT.0 + image::WARM.0;
        let base_pages = u64::from(round_u32(base).saturating_sub(kernel_writes));
        let written = pattern(&line.pattern).map_or_else(Vec::new, |pattern| {
            classes(
                pattern,
                round_u32((mib(line.ws_mib) / PAGE_SIZE) as f64),
                line.rate_pps,
            )
        });
        let idle = if written.is_empty() {
            mib(line.ws_mib)
        } else {
            0
        };
        let background = [image::HOT, image::WARM].map(|(pages, rate)| PageClass {
            coupling: Coupling::Time,
            ..PageClass::new(pages, rate)
        });
        Lone {
            faults: Vec::new(),
            ram_bytes: mib(line.ram_mib) + image::SMALL_BLOCK_BYTES,
            resident_bytes: mib(line.resident_mib) + base_pages * PAGE_SIZE + idle,
            resident_high_bytes: u64::from(round_u32(high)) * PAGE_SIZE,
            writes: Writes::Classes(background.into_iter().chain(written).collect()),
            content: ContentProfile::RANDOM,
            memory: Backing::Synthetic,
            link: self.link(),
            congestion: line
                .congestion
                .clone()
                .unwrap_or_else(|| "cubic".to_owned()),
            params: MigrationParams {
                downtime_limit: line.downtime_limit_ms,
                return_path: line.return_path,
                // The runs were made under TCG.
                reprotect: Reprotect::AtSync,
                load_time: image::LOAD_TIME_MS,
                completion_timeout: Some(line.cancel_after_s * 1000),
                ..MigrationParams::default()
            },
            seed,
            warm_up_ns: 5_000_000_000,
            calibrate: true,
            backend: None,
            company: Company {
                more_vms: self.moving() - 1,
                flows: line.flows,
                rate_change: BitRate::from_bps(line.rate_change_mbit.saturating_mul(1_000_000))
                    .map(|rate| (round_u64(line.rate_change_s * 1e9), rate)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set B's relay let frames of two segments through at 200 Mbit/s, of five at 500.
    #[test]
    fn super_frames_are_as_long_as_the_shaper_saw_them() {
        let frames = |arrived: u64, packets_out| {
            let counters = DirectionCounters {
                segments_in: arrived + 30,
                packets_out,
                dropped: 26,
                lost: 4,
            };
            counters.segments_per_frame()
        };
        assert_eq!(frames(274_765, 137_684), 2);
        assert_eq!(frames(147_596, 29_780), 5);
        assert_eq!(frames(109_992, 109_992), 1);
        assert_eq!(frames(0, 0), 1);
    }
}
