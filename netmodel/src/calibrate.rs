//! Measures every link against its spec, before a run: delay while idle, rate while all links are loaded at once.
//!
//! Hosts form a ring: host i streams to host i + 1, so that every link carries one stream each way. The ring is loaded
//! in a few parts, one after another, so that no part asks for more than the computer carries; links of one part are
//! loaded at once. Rates come from the relay's counters at the far end of a link, goodput from the receiver; the two
//! must agree. Everything ends by a deadline.

mod load;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::load::{Load, Ping};
use crate::audit::{Judged, Limits, audit};
use crate::backend::{Fabric, FabricError};
use crate::counters::{Counters, LinkCounters};
use crate::link::{LinkSpec, PacketSize};
use crate::sys::clock::{now_ns, wait_until};
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
    /// Largest relative error of a rate.
    pub rate_tolerance: f64,
    /// Largest error of a path's delay, what the computer itself adds included.
    pub delay_tolerance: Duration,
    /// Links loaded at once may ask for this much together; beyond it the ring is loaded in parts.
    pub together_bps: u64,
    /// Parts at the most, so that a large network does not take for ever; then `together_bps` gives way.
    pub parts_max: usize,
}

impl Default for Settings {
    /// 1 % and 1 ms: the rate of grade A and the delay of grade B (DESIGN §5), as a calm computer adds some 0.1 ms itself.
    fn default() -> Self {
        Self {
            ramp: Duration::from_millis(500),
            window: Duration::from_secs(1),
            pings: 20,
            rate_tolerance: 0.01,
            delay_tolerance: Duration::from_millis(1),
            together_bps: 2_000_000_000,
            parts_max: 4,
        }
    }
}

/// What a rate measurement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within tolerance.
    Pass,
    /// Outside of it.
    Fail,
    /// The stream did not fill the link (a slower one is on its path, or the computer has no more), so it says nothing.
    NotLoaded,
    /// Nothing was asked.
    Unshaped,
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
    /// Wire rate at its far end, under load on all links.
    pub got_rate_bps: f64,
    /// Goodput the receiver of its stream saw.
    pub got_goodput_bps: f64,
    /// Share of the window it was serialising; zero for an unshaped link.
    pub busy: f64,
    /// One-way delay asked of the path its datagrams took: delays and serialisation of all its links.
    pub path_delay_asked_ns: u64,
    /// Median one-way delay got, the computer's own share included; none if no datagram came.
    pub path_delay_got_ns: Option<u64>,
    /// On its rate.
    pub rate: Verdict,
    /// On the delay of its path.
    pub delay: Verdict,
}

/// All links, and what the computer carried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Per direction of a link, in order of their ids.
    pub links: Vec<LinkCalibration>,
    /// Wire rate into all hosts together: with unshaped links, what this computer can carry.
    pub carried_bps: f64,
    /// Congestion control of the streams.
    pub congestion_control: String,
    /// What the audit of the measurement itself found.
    pub findings: Vec<Judged>,
}

impl Calibration {
    /// No link failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.links
            .iter()
            .all(|link| link.rate != Verdict::Fail && link.delay != Verdict::Fail)
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

/// Measures all links of a running fabric. Takes ramp + window + some round trips; leaves the fabric drained.
///
/// # Errors
/// [`CalibrateError`]; a link that fails its spec is a verdict, not an error.
pub fn calibrate(
    fabric: &Fabric,
    hosts: &BTreeMap<HostId, OwnedFd>,
    settings: &Settings,
) -> Result<Calibration, CalibrateError> {
    let ring = ring(fabric.plan().topology().host_count());
    let before = fabric.counters()?;
    let delays = Ping::all(hosts, &ring, settings.pings, longest_path(fabric))?;
    let mut links = Vec::new();
    let mut delays = delays.as_slice();
    let mut congestion_control = String::new();
    for part in parts(fabric, &ring, settings) {
        let measured = load(fabric, hosts, part, settings)?;
        fabric.drained(DRAIN_WITHIN)?;
        let (here, rest) = delays.split_at(part.len());
        links.extend(judge(fabric, part, here, &measured, settings));
        delays = rest;
        congestion_control = measured.congestion_control;
    }
    links.sort_by_key(|link| link.link);
    let after = fabric.counters()?;
    let into_hosts = |link: &LinkCalibration| {
        let to = &fabric.plan().topology().links()[link.link.0 as usize].to;
        matches!(to, crate::topology::Place::Host(_))
    };
    Ok(Calibration {
        carried_bps: links
            .iter()
            .filter(|link| into_hosts(link))
            .map(|l| l.got_rate_bps)
            .sum(),
        links,
        congestion_control,
        findings: audit(&before, &after, &Limits::default()),
    })
}

/// Bounds what a full queue and delay line can take to empty; streams are reset before.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

fn ring(hosts: usize) -> Vec<(HostId, HostId)> {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    (0..hosts)
        .map(|n| (HostId(n), HostId((n + 1) % hosts)))
        .collect()
}

/// Consecutive ways of the ring that ask for no more than `together_bps`, or for an equal share of everything if that
/// would make too many parts. An unshaped way asks for all there is.
fn parts<'r>(
    fabric: &Fabric,
    ring: &'r [(HostId, HostId)],
    settings: &Settings,
) -> Vec<&'r [(HostId, HostId)]> {
    let topology = fabric.plan().topology();
    let asks = |&(from, to): &(HostId, HostId)| -> u64 {
        let path = topology.path(from, to);
        let rates = path
            .iter()
            .filter_map(|id| topology.links()[id.0 as usize].spec.rate);
        rates
            .map(crate::units::BitRate::bps)
            .min()
            .unwrap_or(settings.together_bps)
    };
    let all: u64 = ring.iter().map(asks).fold(0, u64::saturating_add);
    let share = all.div_ceil(u64::try_from(settings.parts_max.max(1)).unwrap_or(1));
    let most = settings.together_bps.max(share);
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut asked = 0_u64;
    for (n, way) in ring.iter().enumerate() {
        let more = asks(way);
        if n > begin && asked.saturating_add(more) > most {
            parts.push(&ring[begin..n]);
            (begin, asked) = (n, 0);
        }
        asked = asked.saturating_add(more);
    }
    parts.push(&ring[begin..]);
    parts
}

fn longest_path(fabric: &Fabric) -> Duration {
    fabric.plan().topology().longest_delay()
}

struct Measured {
    from: Counters,
    to: Counters,
    /// Goodput per stream, in the order of the ring.
    goodput_bps: Vec<f64>,
    congestion_control: String,
}

fn load(
    fabric: &Fabric,
    hosts: &BTreeMap<HostId, OwnedFd>,
    ring: &[(HostId, HostId)],
    settings: &Settings,
) -> Result<Measured, CalibrateError> {
    // Slow start doubles each round trip: ten take an initial window of ten segments to 15 MB.
    let ramp = settings
        .ramp
        .max(longest_path(fabric).saturating_mul(2 * 10));
    let load = Load::connect(hosts, ring)?;
    let congestion_control = load.congestion_control.clone();
    let start_ns = now_ns().saturating_add(nanoseconds(ramp));
    let end_ns = start_ns.saturating_add(nanoseconds(settings.window));
    load.run(end_ns, |received| {
        wait_until(start_ns)?;
        let (bytes_before, from) = (received(), fabric.counters()?);
        wait_until(end_ns)?;
        let (bytes_after, to) = (received(), fabric.counters()?);
        let span_s = seconds(&from, &to);
        let rate = |(after, before): (u64, u64)| (after - before) as f64 * 8.0 / span_s;
        let goodput_bps = bytes_after
            .into_iter()
            .zip(bytes_before)
            .map(rate)
            .collect();
        Ok(Measured {
            from,
            to,
            goodput_bps,
            congestion_control,
        })
    })
}

fn seconds(from: &Counters, to: &Counters) -> f64 {
    to.at_ns.saturating_sub(from.at_ns).max(1) as f64 / 1e9
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn judge(
    fabric: &Fabric,
    ring: &[(HostId, HostId)],
    delays: &[Option<u64>],
    measured: &Measured,
    settings: &Settings,
) -> Vec<LinkCalibration> {
    let topology = fabric.plan().topology();
    let mut links: BTreeMap<LinkId, LinkCalibration> = BTreeMap::new();
    for (n, &(from, to)) in ring.iter().enumerate() {
        let path = topology.path(from, to);
        let specs = path.iter().map(|id| &topology.links()[id.0 as usize].spec);
        let asked_ns = specs.map(path_share_ns).sum();
        for id in path {
            let link = &topology.links()[id.0 as usize];
            let (rate, busy) = rate_of(id, measured);
            let calibration = LinkCalibration {
                link: id,
                name: link.name.clone(),
                asked: link.spec,
                got_rate_bps: rate,
                got_goodput_bps: measured.goodput_bps[n],
                busy,
                path_delay_asked_ns: asked_ns,
                path_delay_got_ns: delays[n],
                rate: rate_verdict(&link.spec, rate, busy, settings),
                delay: delay_verdict(asked_ns, delays[n], settings),
            };
            links.insert(id, calibration);
        }
    }
    links.into_values().collect()
}

/// What one datagram of the measurement takes on a link.
fn path_share_ns(spec: &LinkSpec) -> u64 {
    let wire_bytes = PacketSize::plain(load::PING_IP_BYTES).wire_bytes(spec.overhead_bytes);
    // Some hundred bytes × 8 × 10⁹ stays far below 2^64.
    let serialising = spec
        .rate
        .map_or(0, |rate| wire_bytes * 8_000_000_000 / rate.bps());
    nanoseconds(spec.delay).saturating_add(serialising)
}

fn rate_of(link: LinkId, measured: &Measured) -> (f64, f64) {
    let of = |counters: &Counters| -> LinkCounters {
        counters.links.get(&link).copied().unwrap_or_default()
    };
    let (before, after) = (of(&measured.from), of(&measured.to));
    let span_s = seconds(&measured.from, &measured.to);
    let bytes = after.sent.wire_bytes.saturating_sub(before.sent.wire_bytes);
    let busy_ns = after.busy_ns.saturating_sub(before.busy_ns);
    (
        bytes as f64 * 8.0 / span_s,
        (busy_ns as f64 / 1e9 / span_s).min(1.0),
    )
}

/// Below this share of the window a link was not full, and its throughput is somebody else's limit.
const FULL: f64 = 0.98;

fn rate_verdict(spec: &LinkSpec, got_bps: f64, busy: f64, settings: &Settings) -> Verdict {
    let Some(rate) = spec.rate else {
        return Verdict::Unshaped;
    };
    let error = got_bps / rate.bps() as f64 - 1.0;
    // Too fast is wrong whether the link was full or not.
    if error > settings.rate_tolerance || (busy >= FULL && error < -settings.rate_tolerance) {
        Verdict::Fail
    } else if busy >= FULL {
        Verdict::Pass
    } else {
        Verdict::NotLoaded
    }
}

fn delay_verdict(asked_ns: u64, got_ns: Option<u64>, settings: &Settings) -> Verdict {
    match got_ns {
        Some(got) if got.abs_diff(asked_ns) <= nanoseconds(settings.delay_tolerance) => {
            Verdict::Pass
        }
        _ => Verdict::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BitRate;

    #[test]
    fn a_link_is_judged_only_when_it_was_full_or_too_fast() {
        let spec = LinkSpec::with_rate(BitRate::from_bps(1_000_000).unwrap());
        let verdict = |got, busy| rate_verdict(&spec, got, busy, &Settings::default());
        assert_eq!(verdict(995_000.0, 1.0), Verdict::Pass);
        assert_eq!(verdict(985_000.0, 1.0), Verdict::Fail);
        assert_eq!(verdict(1_015_000.0, 0.5), Verdict::Fail);
        assert_eq!(verdict(500_000.0, 0.5), Verdict::NotLoaded);
        let unshaped = LinkSpec::default();
        assert_eq!(
            rate_verdict(&unshaped, 1.0, 0.0, &Settings::default()),
            Verdict::Unshaped
        );
    }

    #[test]
    fn a_silent_path_fails() {
        let settings = Settings::default();
        assert_eq!(delay_verdict(10_000_000, None, &settings), Verdict::Fail);
        assert_eq!(
            delay_verdict(10_000_000, Some(10_150_000), &settings),
            Verdict::Pass
        );
        assert_eq!(
            delay_verdict(10_000_000, Some(8_000_000), &settings),
            Verdict::Fail
        );
    }

    #[test]
    fn the_ring_loads_every_link_both_ways() {
        assert_eq!(ring(2), [(HostId(0), HostId(1)), (HostId(1), HostId(0))]);
        assert_eq!(ring(3)[2], (HostId(2), HostId(0)));
    }
}
