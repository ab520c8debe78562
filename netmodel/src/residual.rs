//! Did a link deliver what its rate promises, at every scale of time? Samples in, errors out.
//!
//! Pure. A window counts if the link was busy through all of it: then it must have delivered rate × window, whatever the
//! traffic. What a calibration or a run makes of the errors is decided elsewhere.
//!
//! **Quantisation.** A counter moves when a frame has wholly passed, so that it reads `C = F - x` where `F` is what a
//! fluid of the same rate would have delivered and `x`, the part of the frame under way, is in `[0, S)` for frames of at
//! most `S` wire bytes. Between two readings `ΔC - ΔF = x₁ - x₂`, which is in `(-S, S)`: up to one super-frame of error
//! says nothing about the link, and anything beyond it is the link's. Over 1 s at 1 Gbit/s that forgives 0.03 %, over
//! 10 ms 2.5 %: at the smallest window only standstills of more than a super-frame's time show, as they should.
//!
//! **Delay.** Frames are counted at the far end, busy time at the near one. What arrives in a window left the serialiser
//! one delay earlier (jitter: a spread earlier or later), so it is there that the link must have been busy.
//!
//! **Shapers at the source.** What waits on a host's own device is not seen from the fabric, so nobody can say when such a link
//! was busy: its windows are all unsettled.

pub mod idle;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counters::{LinkCounters, Sample};
use crate::flow::segment_payload;
use crate::link::{LinkSpec, MTU};
use crate::plan::{Plan, Step};
use crate::topology::{LinkId, Place};

/// The windows of DESIGN §5.
pub const WINDOWS: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(1000),
];

/// What a link promised over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    first: LinkSpec,
    /// Instants of the computer's clock, in order, and what held from each on.
    changes: Vec<(u64, LinkSpec)>,
}

impl History {
    /// One promise, for ever.
    #[must_use]
    pub fn new(spec: LinkSpec) -> Self {
        let changes = Vec::new();
        Self {
            first: spec.in_fabric(),
            changes,
        }
    }

    /// Another promise from an instant on. An instant before one already given counts as that one.
    pub fn change(&mut self, at_ns: u64, spec: LinkSpec) {
        let last_ns = self.changes.last().map_or(0, |(last_ns, _)| *last_ns);
        self.changes.push((at_ns.max(last_ns), spec.in_fabric()));
    }

    /// What held at an instant.
    #[must_use]
    pub fn at(&self, ns: u64) -> &LinkSpec {
        let begun = self.changes.partition_point(|(at_ns, _)| *at_ns <= ns);
        match begun.checked_sub(1) {
            Some(last) => &self.changes[last].1,
            None => &self.first,
        }
    }

    /// Whether anything measured in a span may still come from before a change or from within it: what was on the wire
    /// when a link changed arrives under the old promise.
    fn unsettled(&self, from_ns: u64, to_ns: u64) -> bool {
        let mut old = &self.first;
        for (at_ns, new) in &self.changes {
            let settling = ns(old.delay_most().max(new.delay_most()));
            if *at_ns < to_ns && from_ns < at_ns.saturating_add(settling) {
                return true;
            }
            old = new;
        }
        false
    }
}

/// The largest frame that may be on a link, in wire bytes: what the plan lets hosts send, cut into full segments with
/// TCP timestamps (as every stream of the testbed has them).
#[must_use]
pub fn largest_frame(plan: &Plan, link: LinkId) -> u64 {
    let link = plan.topology().link(link);
    let limit = |step: &Step| match (step, link.from) {
        // Only its own frames are on a host's way out.
        (Step::GsoMaxSize { host, bytes }, Place::Host(from)) if *host == from => Some(*bytes),
        (Step::GsoMaxSize { bytes, .. }, Place::Switch(_)) => Some(*bytes),
        _ => None,
    };
    let ip_bytes = plan.steps().iter().filter_map(limit).max();
    frame_wire_bytes(ip_bytes.unwrap_or(u32::from(MTU)), link.spec.overhead_bytes)
}

/// Wire bytes of a super-frame of this many IP bytes.
#[must_use]
pub fn frame_wire_bytes(ip_bytes: u32, overhead_bytes: u16) -> u64 {
    let header = u64::from(MTU) - segment_payload();
    let payload = u64::from(ip_bytes).saturating_sub(header).max(1);
    payload + payload.div_ceil(segment_payload()) * (header + u64::from(overhead_bytes))
}

/// Errors of a link's rate over windows of one size.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct WindowErrors {
    /// Nominal size of the window.
    pub window_ms: u64,
    /// Windows in which the link was busy all the time; one begins at every sample.
    pub windows: usize,
    /// Windows in which it was not.
    pub not_busy: usize,
    /// Windows whose samples were too far apart, or that reach beyond the first sample.
    pub unobserved: usize,
    /// Windows left out because the link changed, was down or had no rate.
    pub unsettled: usize,
    /// Median relative error beyond quantisation.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub worst: f64,
}

/// What the samples of a link say about its rate.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Residuals {
    /// Share of the time with a rate in which the link had nothing to serialise.
    pub idle_share: f64,
    /// Longest time between two samples: what happened in between is seen as a whole only.
    pub longest_gap_ns: u64,
    /// Per size of [`WINDOWS`].
    pub windows: [WindowErrors; 3],
}

/// Errors of the rate of one link, the `position`-th of every sample.
///
/// `frame_bytes` is the largest frame that may be on it ([`largest_frame`]).
///
/// # Panics
/// When a sample has no such link.
#[must_use]
pub fn residuals(
    samples: &[Sample],
    position: usize,
    history: &History,
    frame_bytes: u64,
) -> Residuals {
    let series = Series::new(samples, position, history, frame_bytes);
    Residuals {
        idle_share: series.idle_share(),
        longest_gap_ns: series.longest_gap_ns(),
        windows: WINDOWS.map(|window| series.errors(window)),
    }
}

/// A link busy through less than this of a window was not full. The rest is taken into account: what it should have
/// delivered is rate × the time it was busy.
const BUSY: f64 = 0.999;

#[derive(Debug, Clone, Copy)]
struct Point {
    at_ns: u64,
    /// Wire bytes that passed the serialiser, lost ones included.
    carried_bytes: u64,
    lost_bytes: u64,
    busy_ns: u64,
}

/// One link's samples, made comparable.
struct Series<'h> {
    points: Vec<Point>,
    history: &'h History,
    frame_bytes: u64,
}

/// What became of a window.
enum Window {
    Error(f64),
    NotBusy,
    Unobserved,
    Unsettled,
}

impl<'h> Series<'h> {
    fn new(samples: &[Sample], position: usize, history: &'h History, frame_bytes: u64) -> Self {
        let point = |sample: &Sample| {
            let link = &sample.links[position];
            Point {
                at_ns: sample.at_ns,
                carried_bytes: link.sent.wire_bytes + link.lost.wire_bytes,
                lost_bytes: link.lost.wire_bytes,
                busy_ns: link.busy_ns,
            }
        };
        let mut series = Self {
            points: samples.iter().map(point).collect(),
            history,
            frame_bytes,
        };
        if !series.is_busy_counted() {
            series.busy_by_backlog(samples, position);
        }
        series
    }

    /// Whether busy time was counted, and not worked out from bytes as the kernel's backends do: then a slow link would
    /// pass for an idle one.
    fn is_busy_counted(&self) -> bool {
        self.pairs().any(|(then, now)| {
            let busy_ns = now.busy_ns.saturating_sub(then.busy_ns);
            let bytes = now.carried_bytes.saturating_sub(then.carried_bytes);
            let by_bytes = serialising_ns(bytes, self.history.at(now.at_ns));
            // Each is a difference of two roundings.
            busy_ns > 0 && busy_ns.abs_diff(by_bytes) > 2
        })
    }

    /// Busy time where it is not counted: a link with more than a frame waiting at both of two samples was busy in
    /// between; otherwise for as long as its bytes take.
    fn busy_by_backlog(&mut self, samples: &[Sample], position: usize) {
        let mut busy_ns = 0;
        for n in 1..self.points.len() {
            let (then, now) = (self.points[n - 1], self.points[n]);
            let span_ns = now.at_ns.saturating_sub(then.at_ns);
            let spec = self.history.at(now.at_ns);
            let waits = |sample: &Sample| waiting(&sample.links[position], spec) > self.frame_bytes;
            let bytes = now.carried_bytes.saturating_sub(then.carried_bytes);
            busy_ns += if waits(&samples[n - 1]) && waits(&samples[n]) {
                span_ns
            } else {
                serialising_ns(bytes, spec).min(span_ns)
            };
            self.points[n].busy_ns = busy_ns;
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&Point, &Point)> {
        self.points.iter().zip(self.points.iter().skip(1))
    }

    fn idle_share(&self) -> f64 {
        let (mut time_ns, mut busy_ns) = (0_u64, 0_u64);
        for (then, now) in self.pairs() {
            if self.history.at(now.at_ns).rate.is_some() {
                let span_ns = now.at_ns.saturating_sub(then.at_ns);
                time_ns += span_ns;
                busy_ns += now.busy_ns.saturating_sub(then.busy_ns).min(span_ns);
            }
        }
        share(time_ns - busy_ns, time_ns)
    }

    fn longest_gap_ns(&self) -> u64 {
        let gaps = self
            .pairs()
            .map(|(then, now)| now.at_ns.saturating_sub(then.at_ns));
        gaps.max().unwrap_or(0)
    }

    fn errors(&self, window: Duration) -> WindowErrors {
        let window_ns = ns(window);
        let mut errors = WindowErrors {
            window_ms: window_ns / 1_000_000,
            ..WindowErrors::default()
        };
        let mut found = Vec::new();
        for begin in 0..self.points.len() {
            match self.window(begin, window_ns) {
                None => break,
                Some(Window::Error(error)) => found.push(error),
                Some(Window::NotBusy) => errors.not_busy += 1,
                Some(Window::Unobserved) => errors.unobserved += 1,
                Some(Window::Unsettled) => errors.unsettled += 1,
            }
        }
        found.sort_unstable_by(f64::total_cmp);
        errors.windows = found.len();
        errors.median = quantile(&found, 500);
        errors.p95 = quantile(&found, 950);
        errors.worst = quantile(&found, 1000);
        errors
    }

    /// The window that begins at a sample and ends at the one nearest to its nominal end; none once samples end.
    fn window(&self, begin: usize, window_ns: u64) -> Option<Window> {
        let from = self.points[begin];
        let nominal_ns = from.at_ns.saturating_add(window_ns);
        let after = self.points.partition_point(|p| p.at_ns < nominal_ns);
        let near = |n: &usize| self.points.get(*n).map(|p| p.at_ns.abs_diff(nominal_ns));
        let candidates = [after.saturating_sub(1).max(begin + 1), after.max(begin + 1)];
        let end = candidates
            .into_iter()
            .filter(|n| near(n).is_some())
            .min_by_key(near)?;
        if after == self.points.len() && near(&end)? > window_ns / 20 {
            return None;
        }
        if near(&end)? > window_ns / 2 {
            return Some(Window::Unobserved);
        }
        Some(self.judge(from, self.points[end]))
    }

    fn judge(&self, from: Point, to: Point) -> Window {
        let spec = self.history.at(from.at_ns);
        let Some(rate) = spec.rate.filter(|_| spec.up) else {
            return Window::Unsettled;
        };
        let (delay_ns, most_ns) = (ns(spec.delay), ns(spec.delay_most()));
        let spread_ns = most_ns - delay_ns;
        let Some(left_from_ns) = from.at_ns.checked_sub(most_ns) else {
            return Window::Unobserved;
        };
        let left_to_ns = to.at_ns.saturating_sub(delay_ns.saturating_sub(spread_ns));
        if self.history.unsettled(left_from_ns, to.at_ns) {
            return Window::Unsettled;
        }
        let begin = self.points.partition_point(|p| p.at_ns <= left_from_ns);
        let end = self.points.partition_point(|p| p.at_ns < left_to_ns);
        let (Some(begin), Some(end)) = (begin.checked_sub(1), self.points.get(end)) else {
            return Window::Unobserved;
        };
        let begin = &self.points[begin];
        let busy = share(
            end.busy_ns.saturating_sub(begin.busy_ns),
            end.at_ns.saturating_sub(begin.at_ns),
        );
        if busy < BUSY {
            return Window::NotBusy;
        }
        let span_s = to.at_ns.saturating_sub(from.at_ns) as f64 / 1e9;
        let bytes_per_s = rate.bps() as f64 / 8.0;
        let due = bytes_per_s * span_s * busy.min(1.0);
        let got = to.carried_bytes.saturating_sub(from.carried_bytes) as f64;
        // Jitter moves either end by up to a spread. A loss is counted somewhere between serialiser and far end.
        let jitter = bytes_per_s * 2.0 * spread_ns as f64 / 1e9;
        let lost = if spec.loss.is_none() {
            0
        } else {
            to.lost_bytes.saturating_sub(begin.lost_bytes)
        };
        let explained = self.frame_bytes as f64 + jitter + lost as f64;
        Window::Error(((got - due).abs() - explained).max(0.0) / due)
    }
}

/// Bytes that wait for the serialiser: what is held less what may be on the wire.
fn waiting(link: &LinkCounters, spec: &LinkSpec) -> u64 {
    let on_the_wire = spec.rate.map_or(0, |rate| rate.bytes_in(spec.delay_most()));
    link.held.wire_bytes.saturating_sub(on_the_wire)
}

fn serialising_ns(bytes: u64, spec: &LinkSpec) -> u64 {
    let Some(rate) = spec.rate else { return 0 };
    let work = u128::from(bytes) * 8_000_000_000;
    u64::try_from(work / u128::from(rate.bps())).unwrap_or(u64::MAX)
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Nearest rank; zero without any value. `values` are in order.
fn quantile(values: &[f64], per_mille: usize) -> f64 {
    let rank = (values.len() * per_mille).div_ceil(1000);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
