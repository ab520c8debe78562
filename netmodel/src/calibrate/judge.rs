//! What was measured against what was asked. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::cover::{Cover, Way};
use super::delay::{PathError, has_shape, link_errors, off_by};
use super::loss::{FAMILYWISE, Losses, inflation, path_loss, plausible};
use super::measure::{PartRates, PathDelays, span_s};
use super::{LinkCalibration, Settings, Verdict, load, nanoseconds};
use crate::counters::Sample;
use crate::link::{Jitter, LinkSpec, PacketSize};
use crate::plan::Plan;
use crate::residual::{History, largest_frame, residuals};
use crate::topology::{Link, LinkId, Topology};

/// Below this share of the window a link was not full, and its throughput is somebody else's limit.
const FULL: f64 = 0.98;
/// Up to here [`Settings::rate_tolerance`] holds.
const FAST_BPS: u64 = 1_000_000_000;

/// Ways to probe: for each link with loss or jitter the one that crosses fewest others of them.
pub(super) fn special_ways(topology: &Topology, ways: &[Way]) -> Vec<Way> {
    let mut chosen: BTreeMap<LinkId, (usize, Way)> = BTreeMap::new();
    for way in ways {
        let path = topology.path(way.0, way.1);
        let special: Vec<LinkId> = path
            .into_iter()
            .filter(|id| is_special(&topology.link(*id).spec))
            .collect();
        for id in &special {
            let best = chosen.entry(*id).or_insert((special.len(), *way));
            *best = (*best).min((special.len(), *way));
        }
    }
    let ways: BTreeSet<Way> = chosen.into_values().map(|(_, way)| way).collect();
    ways.into_iter().collect()
}

fn is_special(spec: &LinkSpec) -> bool {
    has_jitter(spec) || !spec.loss.is_none()
}

fn has_jitter(spec: &LinkSpec) -> bool {
    !spec.jitter.spread.is_zero()
}

/// Knows what was asked.
pub(super) struct Judge<'p> {
    plan: &'p Plan,
    settings: &'p Settings,
}

impl<'p> Judge<'p> {
    pub(super) fn new(plan: &'p Plan, settings: &'p Settings) -> Self {
        Self { plan, settings }
    }

    /// Every link, in order: as measured, as one of its class was, or as not judged.
    pub(super) fn links(
        &self,
        cover: &Cover,
        delays: &[PathDelays],
        probes: &[PathDelays],
        rates: &[PartRates],
    ) -> Vec<LinkCalibration> {
        let topology = self.plan.topology();
        let mut links: BTreeMap<LinkId, LinkCalibration> = BTreeMap::new();
        for link in topology.links() {
            links.insert(link.id, not_judged(link));
        }
        for part in rates {
            self.rates(cover, part, &mut links);
        }
        self.delays(delays, &mut links);
        self.probes(probes, &mut links);
        for (link, other) in &cover.stands_for {
            let Some(measured) = links.get(other).cloned() else {
                continue;
            };
            let link = topology.link(*link);
            let own = not_judged(link);
            // Datagrams may have crossed it although no stream filled it.
            let known = links
                .get(&link.id)
                .filter(|l| l.delay != Verdict::NotJudged);
            let (delay, delay_error_ns) = known
                .map_or((measured.delay, measured.delay_error_ns), |l| {
                    (l.delay, l.delay_error_ns)
                });
            links.insert(
                link.id,
                LinkCalibration {
                    link: own.link,
                    name: own.name,
                    asked: own.asked,
                    delay,
                    delay_error_ns,
                    ..measured
                },
            );
        }
        links.into_values().collect()
    }

    /// Rates of the links a part was to fill, where it did better than an earlier one.
    fn rates(
        &self,
        cover: &Cover,
        part: &PartRates,
        links: &mut BTreeMap<LinkId, LinkCalibration>,
    ) {
        let topology = self.plan.topology();
        for (position, id) in part.links.iter().enumerate() {
            let Some(link) = links.get_mut(id).filter(|_| cover.is_measured(*id)) else {
                continue;
            };
            let crossing = part.ways.iter().zip(&part.goodput_bps);
            let crossing = crossing.filter(|(way, _)| topology.path(way.0, way.1).contains(id));
            let goodput_bps = crossing.map(|(_, bps)| bps).sum();
            let frame_bytes = largest_frame(self.plan, *id);
            let got = rate_of(
                &link.asked,
                &part.samples,
                position,
                frame_bytes,
                self.settings,
            );
            if link.got_rate_bps == 0.0 || got.busy > link.busy {
                link.got_rate_bps = got.rate_bps;
                link.got_goodput_bps = goodput_bps;
                link.busy = got.busy;
                link.rate_error = got.error;
                link.residuals = link.asked.rate.map(|_| {
                    residuals(
                        &part.samples,
                        position,
                        &History::new(link.asked),
                        frame_bytes,
                    )
                });
                // A packet-delivery trace promises no rate.
                link.rate = match topology.link(*id).delivery {
                    Some(_) => Verdict::NotJudged,
                    None => got.verdict,
                };
                link.disturbed |= part.disturbed;
            }
            let lost = part
                .samples
                .last()
                .zip(part.samples.first())
                .map(|(last, first)| {
                    last.links[position].lost.packets - first.links[position].lost.packets
                });
            // What no spec asks for, a single one is too many of.
            if link.asked.loss.is_none() && lost.is_some_and(|lost| lost > 0) {
                link.loss = Verdict::Fail;
            }
        }
    }

    fn delays(&self, delays: &[PathDelays], links: &mut BTreeMap<LinkId, LinkCalibration>) {
        let topology = self.plan.topology();
        let mut paths = Vec::new();
        for path in delays {
            let ids = topology.path(path.way.0, path.way.1);
            let specs = || ids.iter().map(|id| &topology.link(*id).spec);
            let asked_ns: u64 = specs().map(path_share_ns).sum();
            let median = path.delays_ns.get(path.delays_ns.len() / 2);
            for id in &ids {
                if let Some(link) = links.get_mut(id) {
                    link.disturbed |= path.disturbed;
                    // A path that lets nothing through is wrong in each of its links until another one proves it right.
                    if median.is_none() && link.delay == Verdict::NotJudged {
                        link.delay = Verdict::Fail;
                    }
                }
            }
            // What varies by itself would pass for errors of its neighbours; jitter is probed for itself.
            let varies = |id: &LinkId| {
                let link = topology.link(*id);
                has_jitter(&link.spec) || link.delivery.is_some()
            };
            if let Some(median) = median.filter(|_| !ids.iter().any(varies)) {
                paths.push(PathError {
                    error_ns: *median as f64 - asked_ns as f64,
                    links: ids,
                });
            }
        }
        for (id, error_ns) in link_errors(&paths) {
            if let Some(link) = links.get_mut(&id) {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "as many ns as a median of delays may be off, far below 2^53"
                )]
                let error_ns = error_ns.round() as i64;
                link.delay_error_ns = Some(error_ns);
                link.delay = self.delay_verdict(error_ns);
            }
        }
    }

    fn delay_verdict(&self, error_ns: i64) -> Verdict {
        if error_ns.unsigned_abs() <= nanoseconds(self.settings.delay_tolerance) {
            Verdict::Pass
        } else {
            Verdict::Fail
        }
    }

    /// Losses and jitter of paths, put to each of their links that asks for them: which of several is wrong, a path does
    /// not say.
    fn probes(&self, probes: &[PathDelays], links: &mut BTreeMap<LinkId, LinkCalibration>) {
        let topology = self.plan.topology();
        let alpha = FAMILYWISE / probes.len().max(1) as f64;
        for path in probes {
            let ids = topology.path(path.way.0, path.way.1);
            let specs = || ids.iter().map(|id| &topology.link(*id).spec);
            let losses = Losses {
                sent: path.sent,
                lost: path.sent.saturating_sub(path.delays_ns.len() as u64),
            };
            let p = path_loss(specs().map(|spec| &spec.loss));
            let bursts = specs()
                .map(|spec| inflation(&spec.loss))
                .fold(1.0, f64::max);
            let lost_as_asked = plausible(losses, p, bursts, alpha);
            let jitters: Vec<Jitter> = specs()
                .filter(|s| has_jitter(s))
                .map(|s| s.jitter)
                .collect();
            let base_ns = specs().map(path_share_ns).sum();
            let slack_ns = nanoseconds(self.settings.delay_tolerance) * ids.len() as u64;
            for id in &ids {
                let Some(link) = links.get_mut(id) else {
                    continue;
                };
                if !link.asked.loss.is_none() {
                    link.losses = Some((losses.sent, losses.lost));
                    link.loss = verdict(lost_as_asked);
                }
                // The sum of two jitters has neither's quartiles.
                if let ([jitter], true) = (jitters.as_slice(), has_jitter(&link.asked)) {
                    link.jitter =
                        verdict(has_shape(&path.delays_ns, base_ns, jitter, alpha, slack_ns));
                    link.delay_error_ns = off_by(&path.delays_ns, base_ns, jitter, alpha);
                    link.delay = link
                        .delay_error_ns
                        .map_or(Verdict::Fail, |e| self.delay_verdict(e));
                }
            }
        }
    }
}

fn verdict(good: bool) -> Verdict {
    if good { Verdict::Pass } else { Verdict::Fail }
}

fn not_judged(link: &Link) -> LinkCalibration {
    LinkCalibration {
        link: link.id,
        name: link.name.clone(),
        asked: link.spec,
        measured_on: link.id,
        got_rate_bps: 0.0,
        got_goodput_bps: 0.0,
        busy: 0.0,
        rate_error: None,
        residuals: None,
        delay_error_ns: None,
        losses: None,
        rate: Verdict::NotJudged,
        delay: Verdict::NotJudged,
        jitter: Verdict::NotJudged,
        loss: Verdict::NotJudged,
        disturbed: false,
    }
}

/// What one datagram of the measurement takes on a link.
fn path_share_ns(spec: &LinkSpec) -> u64 {
    let wire_bytes = PacketSize::plain(load::PING_IP_BYTES).wire_bytes(spec.overhead_bytes);
    // Some hundred bytes × 8 × 10⁹ stays far below 2^64.
    let serialising = spec
        .in_fabric()
        .rate
        .map_or(0, |rate| wire_bytes * 8_000_000_000 / rate.bps());
    nanoseconds(spec.delay).saturating_add(serialising)
}

#[derive(Debug, PartialEq)]
struct Rate {
    rate_bps: f64,
    busy: f64,
    error: Option<f64>,
    verdict: Verdict,
}

/// The rate of a link over all samples.
fn rate_of(
    spec: &LinkSpec,
    samples: &[Sample],
    position: usize,
    frame_bytes: u64,
    settings: &Settings,
) -> Rate {
    let span_s = span_s(samples);
    let passed = |sample: Option<&Sample>| {
        sample.map_or(0, |s| {
            s.links[position].sent.wire_bytes + s.links[position].lost.wire_bytes
        })
    };
    let got = passed(samples.last()).saturating_sub(passed(samples.first())) as f64;
    let Some(rate) = spec.rate else {
        return Rate {
            rate_bps: got * 8.0 / span_s,
            busy: 0.0,
            error: None,
            verdict: Verdict::Unshaped,
        };
    };
    let most = rate.bps() as f64 / 8.0 * span_s;
    // Nobody sees what waits at the source; a stream that got nearly all of the rate was waiting all the time.
    let busy = if spec.is_shaped_at_source() {
        let full = got / most >= FULL;
        if full { 1.0 } else { got / most }
    } else {
        1.0 - residuals(samples, position, &History::new(*spec), frame_bytes).idle_share
    };
    let tolerance = if rate.bps() > FAST_BPS {
        settings.fast_rate_tolerance
    } else {
        settings.rate_tolerance
    };
    // Beyond what one frame explains.
    let error = |due: f64| {
        let off = got - due;
        (off.abs() - frame_bytes as f64).max(0.0).copysign(off) / due
    };
    if busy >= FULL {
        let due = most * busy;
        return Rate {
            rate_bps: got * 8.0 / (span_s * busy),
            busy,
            error: Some(error(due)),
            verdict: verdict(error(due).abs() <= tolerance),
        };
    }
    // Too fast is wrong whether the link was full or not.
    let too_fast = error(most) > tolerance;
    Rate {
        rate_bps: got * 8.0 / span_s,
        busy,
        error: too_fast.then(|| error(most)),
        verdict: if too_fast {
            Verdict::Fail
        } else {
            Verdict::NotLoaded
        },
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
