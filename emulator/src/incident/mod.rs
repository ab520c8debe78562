//! A migration that somebody watched, made an emulated one: what its log says of guest, link and options, and how that is known.
//!
//! Inside: the inputs (here), the link (`path`), the scenario as text (`scenario`), the bundle (`bundle`). Never inside: reading logs and what
//! they say of the dirty log (`traces::migration_log`), running anything.

mod bundle;
mod path;
mod scenario;

pub use bundle::bundle;
pub use scenario::scenario;

use crate::lone::{Company, Lone, Writes};
use crate::migration::params::{
    AutoConvergeParams, EngineKind, MigrationParams, PostcopyParams, Reprotect,
};
use crate::scenario::Backing;
use netmodel::link::LinkSpec;
use netmodel::units::{BitRate, ByteSize};
use traces::class::Coupling;
use traces::content::ContentProfile;
use traces::migration_log::{Curve, CurveError, MigrationLog, Sync};
use traces::units::{PAGE_SIZE, round_u32};

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
    /// Whether it is of the QEMU that tells the pages of each round, whose loop is not QEMU's.
    pub in_rounds: bool,
    /// When the guest was switched to post-copy, ms.
    pub postcopy_at_ms: Option<u64>,
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
    /// Post-copy without an end.
    #[error(
        "{name}: the guest was switched to post-copy at {at_ms} ms and the log does not tell the end, so nothing says what the link \
         carries; it needs the answers up to `completed`, with ram.precopy-bytes"
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
/// `page-count` is one QEMU's alone (8.1.2, patched): its source says so, and so do its 90 logs: none of 172 rounds with the guest
/// running had fewer than 5058 pages, none of 90 with the guest stopped more than 4996.
const IN_ROUNDS: &str = "engine qemu-rounds: the log tells the pages of each round, which only a QEMU does that sends each \
                         round whole and stops the guest at 5000 pages, whatever the downtime-limit";
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
        let bytes_per_s = log.bytes_per_s().filter(|rate| *rate > 0.0);
        let bytes_per_s = bytes_per_s.ok_or_else(|| IncidentError::NoBandwidth { name: name() })?;
        let mut notes = Vec::new();
        let in_rounds = !log.rounds.is_empty();
        let (limit_ms, how) = match log.downtime_limit_ms() {
            Some(ms) => (ms, "what QEMU expects before it has an estimate"),
            None => (DOWNTIME_LIMIT_MS, "QEMU's default, as the log does not say"),
        };
        notes.push(match in_rounds {
            true => IN_ROUNDS.to_owned(),
            false => format!("downtime-limit {limit_ms} ms: {how}"),
        });
        let nonzero_pages = log.nonzero_pages();
        notes.push(format!(
            "{nonzero_pages} of {} pages are not zero: all but what the first pass sent as zero",
            log.pages()
        ));
        let postcopy_at_ms = log.postcopy_at_ms();
        let (rate, max_bandwidth) = match postcopy_at_ms {
            Some(at_ms) => path::pulled(log, bytes_per_s, at_ms, &mut notes)?,
            None => path::path(log, bytes_per_s, &mut notes),
        };
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
            in_rounds,
            postcopy_at_ms,
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
        let engine = match (self.curve.is_none(), self.in_rounds) {
            (true, _) => EngineKind::StopAndCopy,
            (false, true) => EngineKind::QemuRounds,
            (false, false) => EngineKind::Qemu,
        };
        let limited = self.max_bandwidth.filter(|_| engine.has("max-bandwidth"));
        MigrationParams {
            engine,
            max_bandwidth: limited.unwrap_or(0),
            downtime_limit: match engine.has("downtime-limit") {
                true => self.downtime_limit_ms,
                false => base.downtime_limit,
            },
            return_path: self.return_path,
            // The curve is what readings found, lazily re-armed as the log was: see `Curve::fit`.
            reprotect: Reprotect::AtSync,
            completion_timeout: Some(self.cancel_after_ms.unwrap_or(0)),
            auto_converge: AutoConvergeParams {
                enabled: self.auto_converge,
                ..base.auto_converge
            },
            postcopy: PostcopyParams {
                ram: self.postcopy_at_ms.is_some(),
                timeout: self.postcopy_at_ms,
                ..base.postcopy
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
            send_buffer_max: None,
            receive_buffer_max: None,
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
        log.syncs(limit_ms)
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
