//! Measures every link against its spec, before a run: delay, jitter and loss while idle, rate while loaded.
//!
//! 1. *Delay.* Datagrams along pairs of hosts that cross every link, each finding idle links; medians of paths, from which
//!    errors of links are worked out (`delay`).
//! 2. *Jitter and loss.* More datagrams across the links that ask for them: quartiles against the distribution, losses
//!    against binomial bounds, familywise 10⁻⁴ (`loss`).
//! 3. *Rate.* TCP streams that fill every link, both directions, links between switches included (`cover`), in a few
//!    parts: no part asks for more than the computer carries, and the links of a part are loaded at once. Rates are
//!    what passed in the time the link was busy, at its far end; a link that was not full says nothing.
//!
//! A measurement that this computer itself disturbed (what the audit finds in its span) is repeated, at most
//! [`Settings::repeats_max`] times, and the repeats are part of the result. In a network too large to be measured within
//! the parts there may be, links of one class (same spec, same position: out of a host, into one, between switches)
//! share what was measured on some of them; [`LinkCalibration::measured_on`] says which. Not judged: ECN, links that are
//! down. Everything ends by a deadline; only fabric, counters and sockets are used, so all backends are measured alike.

mod cover;
mod delay;
mod judge;
pub(crate) mod load;
mod loss;
mod measure;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audit::{Judged, Limits, audit};
use crate::backend::{Fabric, FabricError};
use crate::link::LinkSpec;
use crate::residual::Residuals;
use crate::sys::netns::NetnsError;
use crate::topology::{HostId, LinkId};

/// How long to measure and what still passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Load before the window; TCP needs some round trips to fill a link.
    pub ramp: Duration,
    /// How long rates are measured.
    pub window: Duration,
    /// Datagrams per path for the delay.
    pub pings: u32,
    /// Datagrams at most per path with loss or jitter.
    pub probes_max: u32,
    /// Largest relative error of a rate up to 1 Gbit/s.
    pub rate_tolerance: f64,
    /// Largest relative error of a faster one.
    pub fast_rate_tolerance: f64,
    /// Largest error of a link's delay, what the computer itself adds included.
    pub delay_tolerance: Duration,
    /// Streams loaded at once may ask for this much together.
    pub together_bps: u64,
    /// Parts at the most, so that a large network does not take for ever; links beyond are represented by their class.
    pub parts_max: usize,
    /// How often a disturbed measurement is repeated at the most.
    pub repeats_max: u32,
    /// No repeat begins later than this after the calibration began.
    pub repeats_within: Duration,
}

impl Default for Settings {
    /// Rates as DESIGN §10 asks of a calm machine, delay as grade A (§5). Four parts of 1.5 s, a second of datagrams and a
    /// few repeats stay near 10 s.
    fn default() -> Self {
        Self {
            ramp: Duration::from_millis(500),
            window: Duration::from_secs(1),
            pings: 20,
            probes_max: 2000,
            rate_tolerance: 0.005,
            fast_rate_tolerance: 0.01,
            delay_tolerance: Duration::from_micros(200),
            together_bps: 2_000_000_000,
            parts_max: 4,
            repeats_max: 3,
            repeats_within: Duration::from_secs(8),
        }
    }
}

/// What a measurement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within tolerance.
    Pass,
    /// Outside of it.
    Fail,
    /// The streams did not fill the link (something slower is on their path, or the computer has no more), so they say
    /// nothing.
    NotLoaded,
    /// No rate was asked.
    Unshaped,
    /// Nothing was asked, or the link could not be measured: it is down, or no pair of hosts reaches each other across it.
    NotJudged,
}

/// One direction of a link, asked and got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkCalibration {
    /// The link.
    pub link: LinkId,
    /// Its name.
    pub name: String,
    /// What was asked.
    pub asked: LinkSpec,
    /// The link the figures were measured on: this one, or one of its class.
    pub measured_on: LinkId,
    /// Wire rate at its far end while it was busy; plain rate if it has none to be busy with.
    pub got_rate_bps: f64,
    /// Payload rate its streams' receivers saw together.
    pub got_goodput_bps: f64,
    /// Share of the window it was serialising; zero for an unshaped link.
    pub busy: f64,
    /// Relative error of the rate beyond what one frame explains; none if it was not full.
    pub rate_error: Option<f64>,
    /// Errors of the rate over windows of 10, 100 and 1000 ms under this load; none for an unshaped link.
    pub residuals: Option<Residuals>,
    /// By how much its median delay is off, the computer's own share included; none if no datagram came. With jitter:
    /// beyond what so many datagrams may be off by chance.
    pub delay_error_ns: Option<i64>,
    /// Datagrams sent for its loss, over all links of their path, and how many did not arrive.
    pub losses: Option<(u64, u64)>,
    /// On its rate.
    pub rate: Verdict,
    /// On its delay.
    pub delay: Verdict,
    /// On the distribution of its jitter.
    pub jitter: Verdict,
    /// On its share of losses.
    pub loss: Verdict,
    /// The last repeat was disturbed, too: a failure may be this computer's.
    pub disturbed: bool,
}

impl LinkCalibration {
    /// Nothing about it failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        let verdicts = [self.rate, self.delay, self.jitter, self.loss];
        !verdicts.contains(&Verdict::Fail)
    }
}

/// What was measured again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measurement {
    /// Delays of some paths.
    Delays,
    /// Losses and jitter.
    Probes,
    /// Rates of a part.
    Rates {
        /// Its number, from 0.
        part: usize,
    },
}

/// A measurement that this computer disturbed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disturbed {
    /// Which.
    pub measurement: Measurement,
    /// The how many-th try, from 1; the last one of a measurement was kept.
    pub attempt: u32,
    /// What disturbed it.
    pub findings: Vec<Judged>,
}

/// All links, and what the computer carried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Per direction of a link, in order of their ids.
    pub links: Vec<LinkCalibration>,
    /// How many of them were loaded themselves; the others share the figures of their class.
    pub measured: usize,
    /// Parts the links were loaded in.
    pub parts: usize,
    /// Streams of all parts.
    pub streams: usize,
    /// Largest wire rate into all hosts at once: with unshaped links, what this computer carries.
    pub carried_bps: f64,
    /// Congestion control of the streams.
    pub congestion_control: String,
    /// Measurements that were disturbed, in order.
    pub disturbed: Vec<Disturbed>,
    /// What the audit of the whole calibration found.
    pub findings: Vec<Judged>,
}

impl Calibration {
    /// No link failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.links.iter().all(LinkCalibration::passed)
    }
}

/// Why a calibration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The fabric does not answer.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A measuring socket failed.
    #[error("calibration from {from} to {to}: {what}: {source}")]
    Socket {
        /// The stream's source.
        from: HostId,
        /// The stream's destination.
        to: HostId,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No timer for the measuring window.
    #[error("calibration cannot wait: {source}")]
    Wait {
        /// The kernel's answer.
        #[from]
        source: io::Error,
    },
}

/// Measures the links of a running fabric. Takes some seconds ([`Settings`]); leaves the fabric drained.
///
/// # Errors
/// [`CalibrateError`]; a link that fails its spec is a verdict, not an error.
pub fn calibrate(
    fabric: &Fabric,
    hosts: &BTreeMap<HostId, OwnedFd>,
    settings: &Settings,
) -> Result<Calibration, CalibrateError> {
    let topology = fabric.plan().topology();
    let cover = cover::cover(topology, settings);
    let before = fabric.counters()?;
    let mut bench = measure::Bench::new(fabric, hosts, settings);
    let ways = cover.ways(topology);
    let delays = bench.delays(&ways)?;
    let special = judge::special_ways(topology, &ways);
    let probes = bench.probes(&special)?;
    let mut rates = Vec::new();
    for (number, part) in cover.parts.iter().enumerate() {
        rates.push(bench.rates(number, part)?);
    }
    let disturbed = bench.disturbed;
    let judge = judge::Judge::new(fabric.plan(), settings);
    let links = judge.links(&cover, &delays, &probes, &rates);
    let after = fabric.counters()?;
    let carried = rates.iter().map(|part| part.carried_bps);
    Ok(Calibration {
        links,
        measured: cover.measured(),
        parts: cover.parts.len(),
        streams: cover.parts.iter().map(|part| part.ways.len()).sum(),
        carried_bps: carried.fold(0.0, f64::max),
        congestion_control: rates
            .first()
            .map_or_else(String::new, |part| part.congestion_control.clone()),
        disturbed,
        findings: audit(&before, &after, &Limits::default()),
    })
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
