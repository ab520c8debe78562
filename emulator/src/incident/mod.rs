//! A migration that somebody watched, made an emulated one: what its log says of guest, link and options, and how that is known.
//!
//! Inside: the inputs (here), the scenario as text (`scenario`), the bundle (`bundle`). Never inside: reading logs and what
//! they say of the dirty log (`traces::migration_log`), running anything.

mod bundle;
mod scenario;

pub use bundle::bundle;
pub use scenario::scenario;

use crate::lone::{Company, Lone, Writes};
use crate::migration::params::{AutoConvergeParams, EngineKind, MigrationParams, Reprotect};
use crate::scenario::Backing;
use netmodel::flow::segment_payload;
use netmodel::link::{LinkSpec, MTU, OVERHEAD_ETHERNET};
use netmodel::units::{BitRate, ByteSize};
use traces::class::Coupling;
use traces::content::ContentProfile;
use traces::migration_log::{Curve, CurveError, MigrationLog, Sync};
use traces::units::{PAGE_SIZE, round_u32, round_u64};

/// What is emulated of a log.
#[derive(Debug, Clone)]
pub struct Incident {
    /// Its name.
    pub name: String,
    /// RAM, bytes.
    pub ram_bytes: u64,
    /// Pages that are not zero when it begins.
    pub nonzero_pages: u64,
    /// What the guest writes; `None` of one that was stopped before.
    pub curve: Option<Curve>,
    /// What the link carries on its wire.
    pub rate: BitRate,
    /// `max-bandwidth`, bytes a second, where it and not the link was the limit.
    pub max_bandwidth: Option<u64>,
    /// `downtime-limit`, ms.
    pub downtime_limit_ms: u64,
    /// Whether auto-converge was on.
    pub auto_converge: bool,
    /// `return-path`.
    pub return_path: bool,
    /// Cancelled after so long, ms; `None`: never.
    pub cancel_after_ms: Option<u64>,
    /// How each was known, for people.
    pub notes: Vec<String>,
}

/// Why a log is not emulated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IncidentError {
    /// Nothing says what the guest wrote.
    #[error(transparent)]
    Curve(#[from] CurveError),
    /// Nothing was sent.
    #[error(
        "{name}: no bandwidth in its answers, and nothing sent between them; it needs two answers of a migration under way at least"
    )]
    NoBandwidth {
        /// Which migration.
        name: String,
    },
    /// No guest.
    #[error("{name}: its answers say no size of RAM (ram.total, Memory total)")]
    NoRam {
        /// Which migration.
        name: String,
    },
    /// What is not emulated.
    #[error(
        "{name}: the guest was switched to post-copy at {at_ms} ms, which is not emulated from a log"
    )]
    PostCopy {
        /// Which migration.
        name: String,
        /// When.
        at_ms: u64,
    },
}

/// QEMU's own.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// A last burst so much faster than the rest was let off a limit; one that is not came over the same link.
const LET_OFF: f64 = 1.25;
/// No more of it is believed: a burst of some milliseconds fills buffers, and sets nothing but its own length.
const BURST_MOST: f64 = 8.0;
/// A completed one may take so much longer before it is called off, ms.
const PATIENCE_MS: u64 = 60_000;

impl Incident {
    /// What a log says. `curve` are migrations of the same guest whose readings say what it wrote; without any, the log's own.
    ///
    /// # Errors
    /// [`IncidentError`]: what it does not say.
    pub fn of(log: &MigrationLog, curve: &[MigrationLog]) -> Result<Self, IncidentError> {
        let name = || log.name.clone();
        if log.ram_bytes == 0 {
            return Err(IncidentError::NoRam { name: name() });
        }
        if let Some(at_ms) = log.postcopy_at_ms() {
            let name = name();
            return Err(IncidentError::PostCopy { name, at_ms });
        }
        let bytes_per_s = log.bytes_per_s().filter(|rate| *rate > 0.0);
        let bytes_per_s = bytes_per_s.ok_or_else(|| IncidentError::NoBandwidth { name: name() })?;
        let mut notes = Vec::new();
        let (limit_ms, how) = match log.downtime_limit_ms() {
            Some(ms) => (ms, "what QEMU expects before it has an estimate"),
            None => (DOWNTIME_LIMIT_MS, "QEMU's default, as the log does not say"),
        };
        notes.push(format!("downtime-limit {limit_ms} ms: {how}"));
        let nonzero_pages = log.nonzero_pages();
        notes.push(format!(
            "{nonzero_pages} of {} pages are not zero: all but what the first pass sent as zero",
            log.pages()
        ));
        let (rate, max_bandwidth) = path(log, bytes_per_s, &mut notes);
        let curve = match log.was_stopped() {
            true => {
                notes
                    .push("the guest was stopped before: nothing was sent while it ran".to_owned());
                None
            }
            false => Some(written(log, curve, limit_ms, &mut notes)?),
        };
        let auto_converge = log.has_throttle();
        if auto_converge {
            notes.push("auto-converge: the log tells of a throttle".to_owned());
        }
        let last_ms = log.last().at_ms;
        let cancel_after_ms = match log.completed {
            true => last_ms.saturating_add(PATIENCE_MS),
            false => last_ms,
        };
        let return_path = log.libvirt;
        notes.push(format!(
            "return-path {return_path}: {}",
            if return_path {
                "libvirt switches it on"
            } else {
                "QEMU's default"
            }
        ));
        Ok(Self {
            name: name(),
            ram_bytes: log.ram_bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE,
            nonzero_pages,
            curve,
            rate,
            max_bandwidth,
            downtime_limit_ms: limit_ms,
            auto_converge,
            return_path,
            cancel_after_ms: Some(cancel_after_ms),
            notes,
        })
    }

    /// The smallest k at which the link carries no more than `most_bps`.
    #[must_use]
    pub fn scale(&self, most_bps: u64) -> u32 {
        u32::try_from(self.rate.bps().div_ceil(most_bps.max(1)))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Queue of the link: 4 ms of it, and what every k needs.
    fn queue(&self) -> ByteSize {
        const LEAST: u64 = 512 << 10;
        let bytes = self.rate.bytes_in(std::time::Duration::from_millis(4));
        ByteSize::from_bytes(bytes.max(LEAST))
    }

    /// Bytes that are not zero and not among those the classes write.
    fn resident_bytes(&self) -> u64 {
        let curve = self.curve.iter().flat_map(|curve| &curve.classes);
        let written: u64 = curve.map(|class| u64::from(class.pages)).sum();
        self.nonzero_pages
            .saturating_sub(written)
            .saturating_mul(PAGE_SIZE)
    }

    fn params(&self) -> MigrationParams {
        let base = MigrationParams::default();
        let stopped = self.curve.is_none();
        MigrationParams {
            engine: if stopped {
                EngineKind::StopAndCopy
            } else {
                EngineKind::Qemu
            },
            max_bandwidth: self.max_bandwidth.filter(|_| !stopped).unwrap_or(0),
            downtime_limit: self.downtime_limit_ms,
            return_path: self.return_path,
            // The curve is what readings found, lazily re-armed as the log was: see `Curve::fit`.
            reprotect: Reprotect::AtSync,
            completion_timeout: Some(self.cancel_after_ms.unwrap_or(0)),
            auto_converge: AutoConvergeParams {
                enabled: self.auto_converge,
                ..base.auto_converge
            },
            ..base
        }
    }

    /// The emulated migration at scale k.
    #[must_use]
    pub fn lone(&self, seed: u64, scale: u32) -> Lone {
        let writes = match &self.curve {
            Some(curve) => Writes::Phases(curve.behaviour()),
            None => Writes::Classes(Vec::new()),
        };
        Lone {
            faults: Vec::new(),
            ram_bytes: self.ram_bytes,
            resident_bytes: self.resident_bytes(),
            resident_high_bytes: 0,
            // Always busy: see `written`.
            cpu_milli: 1000,
            writes,
            content: ContentProfile::RANDOM,
            memory: Backing::Synthetic,
            link: LinkSpec {
                queue: self.queue(),
                ..LinkSpec::with_rate(self.rate)
            },
            congestion: "cubic".to_owned(),
            send_buffer: None,
            params: self.params(),
            seed,
            warm_up_ns: 10_000_000_000,
            scale,
            calibrate: true,
            backend: None,
            company: Company::default(),
        }
    }
}

/// The link, and QEMU's limit where it was one: the last burst, sent with the guest stopped, knows no limit.
fn path(log: &MigrationLog, bytes_per_s: f64, notes: &mut Vec<String>) -> (BitRate, Option<u64>) {
    let mbit = |bytes_per_s: f64| bytes_per_s * 8.0 / 1e6;
    let burst = log
        .burst_bytes_per_s()
        .filter(|burst| *burst > LET_OFF * bytes_per_s);
    // QEMU's figures are payload; the wire carries headers too.
    let wire = f64::from(MTU + OVERHEAD_ETHERNET) / segment_payload() as f64;
    let rate = |bytes_per_s: f64| {
        let bps = round_u64(bytes_per_s * 8.0 * wire).max(1);
        BitRate::from_bps(bps).expect("not 0")
    };
    let Some(burst) = burst.filter(|_| !log.was_stopped()) else {
        notes.push(format!(
            "the link carries {:.0} Mbit/s of payload, what QEMU sent with; whether that was the link or max-bandwidth the log does \
             not say",
            mbit(bytes_per_s)
        ));
        return (rate(bytes_per_s), None);
    };
    let link = burst.min(BURST_MOST * bytes_per_s);
    notes.push(format!(
        "max-bandwidth {:.0} Mbit/s: what QEMU sent with while the guest ran; its last burst came at {:.0}, of which {:.0} are taken for \
         the link",
        mbit(bytes_per_s),
        mbit(burst),
        mbit(link)
    ));
    (rate(link), Some(round_u64(bytes_per_s)))
}

/// What the guest wrote. Nothing in a log says how much CPU time it took: classes follow the CPU time of a guest that is always
/// busy, so that a throttle slows them and nothing else does.
fn written(
    log: &MigrationLog,
    others: &[MigrationLog],
    limit_ms: u64,
    notes: &mut Vec<String>,
) -> Result<Curve, CurveError> {
    let own = std::slice::from_ref(log);
    let from = if others.is_empty() { own } else { others };
    let readings = |log: &MigrationLog| {
        let limit_ms = log.downtime_limit_ms().unwrap_or(limit_ms);
        // A throttled guest wrote less than it does.
        let throttled = log.polls.iter().find(|poll| poll.throttle.is_some());
        let until_ms = throttled.map_or(f64::INFINITY, |poll| poll.at_ms as f64);
        let all = log.syncs(limit_ms).into_iter();
        all.filter(move |sync| sync.at_ms < until_ms)
            .collect::<Vec<Sync>>()
    };
    let syncs: Vec<Sync> = from.iter().flat_map(readings).collect();
    let names: Vec<&str> = from.iter().map(|log| log.name.as_str()).collect();
    let curve = Curve::fit(
        &names.join(", "),
        &syncs,
        log.nonzero_pages(),
        Coupling::Cpu,
    )?;
    let spread = match &curve.variation {
        Some(traces::class::Variation::LogNormal { cv, .. }) => {
            format!(", which vary by {:.0} %", cv * 100.0)
        }
        _ => String::new(),
    };
    notes.push(format!(
        "what the guest writes: {} page classes through {} readings of the dirty log in {}, {:.2} to {:.1} s apart, off by {:.1} % on \
         average{spread}",
        curve.classes.len(),
        curve.points,
        names.join(", "),
        curve.windows_s.0,
        curve.windows_s.1,
        curve.error * 100.0
    ));
    Ok(curve)
}

/// Pages as classes count them.
fn pages(bytes: u64) -> u32 {
    round_u32((bytes / PAGE_SIZE) as f64)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
