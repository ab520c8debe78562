//! The measurements of a calibration, each repeated while this computer disturbs it.
//!
//! Knows the fabric and the clock; what the figures mean is judged elsewhere.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::cover::{Part, Way};
use super::delay::undisturbed_gap;
use super::load::{Load, PING_GAP_NS, Probe};
use super::{CalibrateError, Disturbed, Measurement, Settings, nanoseconds};
use crate::audit::{Finding, Judged, Limits, audit};
use crate::backend::Fabric;
use crate::counters::{Counters, Sample};
use crate::sys::clock::{now_ns, wait_until};
use crate::topology::{HostId, LinkId, Place};

/// What the datagrams of a path did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathDelays {
    pub(super) way: Way,
    pub(super) sent: u64,
    /// One-way delays of those that arrived, sorted.
    pub(super) delays_ns: Vec<u64>,
    pub(super) disturbed: bool,
}

/// What a part's streams did.
#[derive(Debug, Clone)]
pub(super) struct PartRates {
    /// Links of the part, in the order of the samples.
    pub(super) links: Vec<LinkId>,
    pub(super) samples: Vec<Sample>,
    /// Goodput per stream, in the order of the part's ways.
    pub(super) goodput_bps: Vec<f64>,
    pub(super) ways: Vec<Way>,
    /// Wire rate into all hosts.
    pub(super) carried_bps: f64,
    pub(super) congestion_control: String,
    pub(super) disturbed: bool,
}

/// Ways whose datagrams are under way together.
const BATCH: usize = 32;
/// Between datagrams of different ways: each finds a computer that is done with the one before (some 50 µs).
const STAGGER_NS: u64 = 250_000;
/// Where only loss or jitter count, that does not matter.
const PROBE_STAGGER_NS: u64 = 50_000;
/// Between datagrams of a way that asks for loss.
const PROBE_GAP: Duration = Duration::from_micros(500);
/// How long probing a batch may take; then there are fewer datagrams.
const PROBING: Duration = Duration::from_millis(1500);
/// Enough for quartiles.
const PROBES_MIN: u32 = 50;
/// Between samples of a part's links.
const SAMPLE_GAP_NS: u64 = 10_000_000;
/// Bounds what a full queue and delay line can take to empty; streams are reset before.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// Where measurements are made.
pub(super) struct Bench<'f> {
    fabric: &'f Fabric,
    hosts: &'f BTreeMap<HostId, OwnedFd>,
    settings: &'f Settings,
    /// No repeat begins after this.
    repeats_end_ns: u64,
    pub(super) disturbed: Vec<Disturbed>,
}

impl<'f> Bench<'f> {
    pub(super) fn new(
        fabric: &'f Fabric,
        hosts: &'f BTreeMap<HostId, OwnedFd>,
        settings: &'f Settings,
    ) -> Self {
        Self {
            fabric,
            hosts,
            settings,
            repeats_end_ns: now_ns().saturating_add(nanoseconds(settings.repeats_within)),
            disturbed: Vec::new(),
        }
    }

    /// Delays of all ways, while idle.
    pub(super) fn delays(&mut self, ways: &[Way]) -> Result<Vec<PathDelays>, CalibrateError> {
        let mut all = Vec::new();
        for batch in ways.chunks(BATCH) {
            let count = self.settings.pings;
            let gap_ns = PING_GAP_NS.max(STAGGER_NS * batch.len() as u64);
            let measure = |bench: &Self| bench.pings(batch, count, gap_ns);
            all.extend(self.calm(Measurement::Delays, measure)?);
        }
        Ok(all)
    }

    /// Losses and delays of ways that ask for loss or jitter.
    pub(super) fn probes(&mut self, ways: &[Way]) -> Result<Vec<PathDelays>, CalibrateError> {
        let mut all = Vec::new();
        let topology = self.fabric.plan().topology();
        for batch in ways.chunks(BATCH) {
            let links = batch.iter().flat_map(|way| topology.path(way.0, way.1));
            let jitters = links.map(|id| undisturbed_gap(&topology.link(id).spec.jitter));
            let gap = jitters
                .max()
                .unwrap_or_default()
                .max(PROBE_GAP)
                .min(PROBING);
            let gap_ns = nanoseconds(gap).max(PROBE_STAGGER_NS * batch.len() as u64);
            let within = u32::try_from(nanoseconds(PROBING) / gap_ns).unwrap_or(u32::MAX);
            let count = within.max(PROBES_MIN).min(self.settings.probes_max);
            let measure = |bench: &Self| bench.pings(batch, count, gap_ns);
            all.extend(self.calm(Measurement::Probes, measure)?);
        }
        Ok(all)
    }

    fn pings(
        &self,
        ways: &[Way],
        count: u32,
        gap_ns: u64,
    ) -> Result<(Vec<PathDelays>, Vec<Judged>), CalibrateError> {
        let probes = Probe::open(self.hosts, ways)?;
        let before = self.fabric.counters()?;
        let delays = Probe::run(&probes, count, gap_ns, self.longest_path());
        let findings = self.disturbances(&before)?;
        let disturbed = !findings.is_empty();
        let paths = ways.iter().zip(delays).map(|(way, delays_ns)| PathDelays {
            way: *way,
            sent: u64::from(count),
            delays_ns,
            disturbed,
        });
        Ok((paths.collect(), findings))
    }

    /// Rates of a part under load.
    pub(super) fn rates(
        &mut self,
        number: usize,
        part: &Part,
    ) -> Result<PartRates, CalibrateError> {
        let measurement = Measurement::Rates { part: number };
        self.calm(measurement, |bench| bench.load(part))
    }

    fn load(&self, part: &Part) -> Result<(PartRates, Vec<Judged>), CalibrateError> {
        let topology = self.fabric.plan().topology();
        let crossed = part.ways.iter().flat_map(|way| topology.path(way.0, way.1));
        let links: Vec<LinkId> = crossed
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let into_hosts: Vec<usize> = (0..links.len())
            .filter(|n| matches!(topology.link(links[*n]).to, Place::Host(_)))
            .collect();
        // Slow start doubles each round trip: ten take an initial window of ten segments to 15 MB.
        let ramp = self
            .settings
            .ramp
            .max(self.longest_path().saturating_mul(2 * 10));
        let load = Load::connect(self.hosts, &part.ways)?;
        let congestion_control = load.congestion_control.clone();
        let start_ns = now_ns().saturating_add(nanoseconds(ramp));
        let end_ns = start_ns.saturating_add(nanoseconds(self.settings.window));
        let (rates, findings) = load.run(end_ns, |received| {
            wait_until(start_ns)?;
            let (before, bytes_before) = (self.fabric.counters()?, received());
            let samples = self.samples(&links, start_ns, end_ns)?;
            let (bytes_after, findings) = (received(), self.disturbances(&before)?);
            let span_s = span_s(&samples);
            let rate = |(after, before): (u64, u64)| (after - before) as f64 * 8.0 / span_s;
            let carried = into_hosts.iter().map(|n| rate(sent(&samples, *n)));
            let rates = PartRates {
                goodput_bps: bytes_after
                    .into_iter()
                    .zip(bytes_before)
                    .map(rate)
                    .collect(),
                carried_bps: carried.sum(),
                ways: part.ways.clone(),
                disturbed: !findings.is_empty(),
                links,
                samples,
                congestion_control,
            };
            Ok((rates, findings))
        })?;
        self.fabric.drained(DRAIN_WITHIN)?;
        Ok((rates, findings))
    }

    fn samples(
        &self,
        links: &[LinkId],
        start_ns: u64,
        end_ns: u64,
    ) -> Result<Vec<Sample>, CalibrateError> {
        let mut samples = vec![self.fabric.sample(links)?];
        let mut at_ns = start_ns;
        while at_ns < end_ns {
            // An instant that has passed is not made up for: samples carry their own.
            at_ns = (at_ns + SAMPLE_GAP_NS).max(now_ns());
            wait_until(at_ns.min(end_ns))?;
            samples.push(self.fabric.sample(links)?);
        }
        Ok(samples)
    }

    /// Measures until nothing disturbed, there were repeats enough, or it is too late for another; keeps the last.
    fn calm<T>(
        &mut self,
        measurement: Measurement,
        measure: impl Fn(&Self) -> Result<(T, Vec<Judged>), CalibrateError>,
    ) -> Result<T, CalibrateError> {
        for attempt in 1.. {
            let (measured, findings) = measure(self)?;
            if findings.is_empty() {
                return Ok(measured);
            }
            self.disturbed.push(Disturbed {
                measurement,
                attempt,
                findings,
            });
            if attempt > self.settings.repeats_max || now_ns() > self.repeats_end_ns {
                return Ok(measured);
            }
        }
        unreachable!("attempts end with repeats_max");
    }

    fn disturbances(&self, before: &Counters) -> Result<Vec<Judged>, CalibrateError> {
        let limits = Limits {
            drained: false,
            ..Limits::default()
        };
        let mut findings = audit(before, &self.fabric.counters()?, &limits);
        findings.retain(|judged| disturbs(&judged.finding));
        Ok(findings)
    }

    fn longest_path(&self) -> Duration {
        self.fabric.plan().topology().longest_delay()
    }
}

/// Whether a finding says that this computer disturbed. Frames are conserved in a network at rest only: the kernel's
/// counters are read one after another while packets pass. Pressure explains lateness and does nothing by itself.
fn disturbs(finding: &Finding) -> bool {
    !matches!(
        finding,
        Finding::NotConserved { .. }
            | Finding::NotForwarded { .. }
            | Finding::NotDrained { .. }
            | Finding::Pressure { .. }
    )
}

/// Wire bytes a link had sent at the end and at the beginning.
fn sent(samples: &[Sample], position: usize) -> (u64, u64) {
    let of = |sample: Option<&Sample>| sample.map_or(0, |s| s.links[position].sent.wire_bytes);
    (of(samples.last()), of(samples.first()))
}

pub(super) fn span_s(samples: &[Sample]) -> f64 {
    let at = |sample: Option<&Sample>| sample.map_or(0, |s| s.at_ns);
    at(samples.last())
        .saturating_sub(at(samples.first()))
        .max(1) as f64
        / 1e9
}
