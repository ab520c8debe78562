//! What a line of ground truth means for an emulated migration.
//!
//! Never inside: reading files, or figures that differ from run to run but are not in its columns.

use super::columns::{Left, Line, Placement};
use super::image;
use super::input::RealRun;
use crate::lone::{Company, Lone, Writes, classes};
use crate::migration::params::{
    AutoConvergeParams, MigrationParams, MultifdParams, PostcopyParams, Reprotect, XbzrleParams,
};
use crate::scenario::Backing;
use netmodel::flow;
use netmodel::link::{LinkSpec, Loss, MTU, ShaperAt};
use netmodel::units::{BitRate, ByteSize, Probability};
use std::time::Duration;
use traces::class::{ClassPhase, Coupling, PageClass, PhasedClasses};
use traces::content::{ContentProfile, Rewrite};
use traces::units::{PAGE_SIZE, round_u32, round_u64};

/// How long the guest has been writing when a migration begins, at least.
const WARM_UP_NS: u64 = 5_000_000_000;

/// A page of one random line of 64 bytes, repeated: what codecs make of it, measured page by page with the
/// codecs themselves (a test makes such pages and compares).
pub(super) const REPEATED_LINE: ContentProfile = ContentProfile {
    incompressible_share: 0.0,
    zlib_ratio: Some(28.1),
    zstd_ratio: Some(48.8),
    ..ContentProfile::RANDOM
};

/// A random page of which a write changes 16 bytes: 18 or 19 bytes of XBZRLE, by where in the page they are. Between two of
/// ours the stamp changes too, so the same bytes come in more runs.
pub(super) const CHANGED_WORD: ContentProfile = ContentProfile {
    rewrite: Rewrite {
        unchanged_share: 0.0,
        overflow_share: 0.0,
        xbzrle_bytes: 18.0,
        changed_runs: 3.6,
    },
    ..ContentProfile::RANDOM
};

/// Why a mode cannot be replayed; `None` if it can.
pub(super) fn unlike_any(mode: &str) -> Option<String> {
    match mode {
        "precopy" | "auto-converge" | "multifd" | "xbzrle" | "postcopy" => None,
        mode => Some(format!("mode {mode} is not emulated")),
    }
}

/// QEMU's options as a line has them.
pub(super) fn params(line: &Line) -> MigrationParams {
    let base = MigrationParams::default();
    let mode = |name: &str| line.mode == name;
    let channels = line.multifd_channels.filter(|channels| *channels > 0);
    let cache = line.xbzrle_cache_mib.filter(|mib| *mib > 0);
    MigrationParams {
        downtime_limit: line.downtime_limit_ms,
        // Post-copy opens one by itself.
        return_path: line.return_path || mode("postcopy"),
        // The runs were made under TCG.
        reprotect: Reprotect::AtSync,
        page_tables: image::page_tables(),
        load_time: match mode("postcopy") {
            true => image::LOAD_TIME_MS + image::POSTCOPY_LOAD_TIME_MS,
            false => image::LOAD_TIME_MS,
        },
        completion_timeout: Some(line.cancel_after_s.saturating_mul(1000)),
        auto_converge: AutoConvergeParams {
            enabled: mode("auto-converge"),
            ..base.auto_converge
        },
        postcopy: PostcopyParams {
            ram: mode("postcopy"),
            // Switched with migrate-start-postcopy after the first full pass.
            after_precopy: mode("postcopy"),
            ..base.postcopy
        },
        multifd: MultifdParams {
            enabled: mode("multifd"),
            // What does not fit is none that QEMU takes.
            channels: channels.map_or(base.multifd.channels, |n| u8::try_from(n).unwrap_or(0)),
            compression: line.compression().unwrap_or_default(),
            ..base.multifd
        },
        xbzrle: XbzrleParams {
            enabled: mode("xbzrle"),
            cache_size: cache.map_or(base.xbzrle.cache_size, |mib| mib << 20),
        },
        ..base
    }
}

/// Runs with the same inputs.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Its name in the file.
    pub config_id: String,
    /// Distinct pages dirtied a second over 1 s, as bytes, by the link's goodput.
    pub lambda: f64,
    /// Kind of configuration: `plain`, `boundary`, `wan`, `contended`, `rate-change`, or whatever the file says.
    pub kind: String,
    /// Mode of migration: `precopy`, `auto-converge`, …
    pub mode: String,
    /// Its runs.
    pub runs: Vec<RealRun>,
    line: Line,
}

impl Configuration {
    pub(super) fn new(line: Line, run: RealRun) -> Self {
        let mut configuration = Self {
            config_id: line.config_id.clone(),
            lambda: 0.0,
            kind: line.kind().to_owned(),
            mode: line.mode.clone(),
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
            "{} {}: {} MiB, {} {} writes/s over {} MiB, {} Mbit/s, limit {} ms{shared}",
            self.kind,
            self.mode,
            line.ram_mib,
            line.pattern_name(),
            line.rate_pps,
            line.ws_mib,
            line.link_mbit,
            line.downtime_limit_ms
        )
    }

    /// VMs that move at once.
    #[must_use]
    pub fn moving(&self) -> u32 {
        self.line.moving()
    }

    /// How long real QEMU took, the longest of its runs, ms: about what an emulation takes.
    #[must_use]
    pub fn longest_ms(&self) -> f64 {
        let times = self
            .runs
            .iter()
            .filter_map(|run| run.measured.total_time_ms);
        times.fold(0.0, f64::max)
    }

    /// When what had not ended was cancelled, ms.
    #[must_use]
    pub fn cancel_after_ms(&self) -> Option<f64> {
        let seconds = self.line.cancel_after_s;
        (seconds > 0).then_some(seconds as f64 * 1e3)
    }

    fn link(&self) -> LinkSpec {
        let line = &self.line;
        let ppb = u32::try_from(line.loss_ppm.saturating_mul(1000)).ok();
        let share = ppb.filter(|ppb| *ppb > 0).and_then(Probability::from_ppb);
        let loss = share.map_or(Loss::None, Loss::Independent);
        let rate = BitRate::from_bps(line.link_mbit.saturating_mul(1_000_000));
        let frames = line.segments_per_frame().zip(rate);
        let frame = frames.map(|(segments, rate)| rate.time_for(segments * u64::from(MTU)));
        let spec = LinkSpec {
            loss,
            rate,
            super_frame: frame.unwrap_or(LinkSpec::default().super_frame),
            delay: Duration::from_micros(line.delay_us),
            overhead_bytes: line.overhead_bytes(),
            ..LinkSpec::default()
        };
        let bytes = |bytes: Option<u64>, usual| bytes.map_or(usual, ByteSize::from_bytes);
        match (line.placement(), rate) {
            (Some(Placement::SourceEgress), Some(rate)) => {
                let burst = bytes(line.burst_bytes, LinkSpec::usual_burst(rate));
                // TBF's limit: what the rate carries in the queue's latency of 50 ms, and the bucket.
                let waiting = rate.bytes_in(Duration::from_millis(50));
                let limit = ByteSize::from_bytes(waiting.saturating_add(burst.bytes()));
                LinkSpec {
                    queue: bytes(line.queue_bytes, limit),
                    shaper_at: ShaperAt::SourceEgress { burst },
                    ..spec
                }
            }
            _ => LinkSpec {
                queue: bytes(line.queue_bytes_used, ByteSize::from_bytes(500_000)),
                ..spec
            },
        }
    }

    /// Set A's sockets as they were; those of set B grow here as they did there, with a window that fills the queue.
    fn send_buffer(&self) -> Option<ByteSize> {
        let line = &self.line;
        let rate = BitRate::from_bps(line.link_mbit.saturating_mul(1_000_000));
        let source = line.placement() == Some(Placement::SourceEgress);
        rate.filter(|_| source).map(image::send_buffer)
    }

    /// The classes that the dirtier writes, and what it leaves in their pages.
    fn written(&self) -> Vec<PageClass> {
        let line = &self.line;
        let pages = round_u32(((line.ws_mib << 20) / PAGE_SIZE) as f64);
        let content = match line.left() {
            Some(Left::Comp) => Some(REPEATED_LINE),
            Some(Left::Word) => Some(CHANGED_WORD),
            Some(Left::Random) | None => None,
        };
        let pattern = line.pattern();
        let written =
            pattern.map_or_else(Vec::new, |pattern| classes(pattern, pages, line.rate_pps));
        let scan = Some(image::REPORT);
        let left = |class: PageClass| match self.cpu() {
            None => PageClass {
                content,
                scan,
                ..class
            },
            Some(cores) => PageClass {
                content,
                scan,
                coupling: Coupling::Cpu,
                rate: class.rate / cores,
                ..class
            },
        };
        written.into_iter().map(left).collect()
    }

    /// Cores that the guest keeps busy, where it matters: a throttle takes what it does not need first, and only then slows
    /// the dirtier, which is paced by the clock.
    fn cpu(&self) -> Option<f64> {
        let line = &self.line;
        let throttled = line.mode == "auto-converge" && line.rate_pps > 0.0;
        throttled.then(|| image::cores(line))
    }

    /// What is written when, and how long before the migration it begins. Bursts begin anywhere at the start of
    /// a migration, as they did: the golden section of seeds spreads them evenly.
    fn writes(&self, written: Vec<PageClass>, seed: u64) -> (Writes, u64) {
        let line = &self.line;
        // What is written besides is little in a page: of 11,428 pages that were in the cache none took more as a delta than
        // whole (`xbzrle_overflow` of set A's only run).
        let content = (line.mode == "xbzrle").then_some(CHANGED_WORD);
        let little = |class: PageClass| PageClass { content, ..class };
        let background = image::background().map(little).to_vec();
        // The books lie behind the working set; here before it, where they stay when nothing else is written.
        let with_books = |line: &Line| -> Vec<PageClass> {
            let books = image::books(line).into_iter().map(little);
            background.iter().copied().chain(books).collect()
        };
        let mut both = with_books(line);
        both.extend(written);
        if line.on_ms == 0 {
            return (Writes::Classes(both), WARM_UP_NS);
        }
        let mut resting = line.clone();
        resting.rate_pps = 0.0;
        let resting = with_books(&resting);
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let phase = |ms: u64, classes| ClassPhase {
            length_ns: ns(ms),
            first_page: 0,
            classes,
            variation: None,
        };
        let phases = vec![phase(line.on_ms, both), phase(line.off_ms, resting)];
        let coupling = Coupling::Time;
        let lap_ns = ns(line.on_ms).saturating_add(ns(line.off_ms));
        let section = (seed as f64 * 0.618_033_988_749_895).fract();
        let into_lap = round_u64(section * lap_ns as f64);
        let writes = Writes::Phases(PhasedClasses { coupling, phases });
        (writes, WARM_UP_NS.saturating_add(into_lap))
    }

    /// The emulated migration.
    #[must_use]
    pub fn lone(&self, seed: u64) -> Lone {
        let line = &self.line;
        let mib = |mib: u64| mib << 20;
        let written = self.written();
        let idle = if written.is_empty() {
            mib(line.ws_mib)
        } else {
            0
        };
        let (writes, warm_up_ns) = self.writes(written, seed);
        let cubic = || "cubic".to_owned();
        let change = BitRate::from_bps(line.rate_change_mbit.saturating_mul(1_000_000));
        Lone {
            faults: Vec::new(),
            ram_bytes: mib(line.ram_mib) + image::SMALL_BLOCK_BYTES,
            resident_bytes: mib(line.resident_mib) + image::base_bytes(line) + idle,
            resident_high_bytes: image::high_bytes(line),
            cpu_milli: self.cpu().map_or(0, |cores| round_u32(cores * 1000.0)),
            writes,
            content: ContentProfile::RANDOM,
            memory: Backing::Synthetic,
            link: self.link(),
            congestion: line.congestion.clone().unwrap_or_else(cubic),
            send_buffer: self.send_buffer(),
            send_buffer_max: Some(ByteSize::from_bytes(image::SEND_BUFFER_MAX)),
            receive_buffer_max: Some(ByteSize::from_bytes(image::RECEIVE_BUFFER_MAX)),
            params: params(line),
            seed,
            warm_up_ns,
            scale: 1,
            calibrate: true,
            backend: None,
            company: Company {
                more_vms: self.moving() - 1,
                flows: line.flows,
                rate_change: change.map(|rate| (round_u64(line.rate_change_s * 1e9), rate)),
            },
        }
    }
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
