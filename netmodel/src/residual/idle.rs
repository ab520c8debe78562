//! What kept a transfer from using its path: the network, or this computer?
//!
//! Pure. While a sender has something to send, some link of its path should be busy: the one that limits it. An idle path
//! has two causes. TCP holds back: the congestion window is smaller than what the path holds (slow start), or a loss is being
//! repaired: that is the network as asked. Or bytes the window allows are not on any link, because a thread of this computer did not get to
//! writing, relaying or reading them: that is the emulator's, whatever TCP makes of it.
//!
//! **The network's part.** With a window of `W` wire bytes, an ideal path of bottleneck rate `r` and idle round trip `T`
//! (delays both ways, and one frame's serialisation on each link) is busy for `W / (r T)` of the time, all of it if that
//! exceeds 1. So at least `1 - W / (r T)` of idleness is explained, and no more. It uses the round trip asked and not
//! the one measured: a computer too slow to carry the traffic makes round trips longer, and TCP would call the time lost
//! "limited by the congestion window". What acknowledgements wait for on the way back, behind the traffic of others, is
//! the network's and belongs to `T`: the links themselves say how much they hold. While TCP answers a loss (its own state says so) it sends as its recovery allows,
//! whatever its window: all of that idleness is explained, between the two looks at it next to a loss also.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{History, frame_wire_bytes, ns, serialising_ns};
use crate::counters::Sample;
use crate::link::MTU;
use crate::sys::tcpinfo::TcpInfo;

/// A transfer, as it was watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'w> {
    /// Samples of the links of its path, in their order, then of those of the way back, while the sender had something to
    /// send.
    pub samples: &'w [Sample],
    /// What the links of its path promised, in the same order.
    pub path: &'w [History],
    /// What those of the way back promised.
    pub back: &'w [History],
    /// The connection's state now and then, with instants of the same clock, in order.
    pub tcp: &'w [(u64, TcpInfo)],
}

/// Where the time of a transfer went, as shares of it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PathIdle {
    /// How long it was watched.
    pub span_ns: u64,
    /// No link of the path was busy.
    pub idle_share: f64,
    /// Of that, what the congestion window explains: the network's.
    pub window_share: f64,
    /// The rest: nothing limited the transfer but this computer.
    pub emulator_share: f64,
    /// The receiver's window was closed: its thread did not get to reading. Part of the idle time, as TCP saw it.
    pub receiver_share: f64,
    /// Nothing was under way although there was something to send. Part of the idle time, as TCP saw it.
    pub sender_share: f64,
}

/// How a transfer's time was spent; none with fewer than two samples, or without any limited link on the path (which is
/// then limited by this computer by definition).
///
/// # Panics
/// When a sample does not have the links of the path and of the way back.
#[must_use]
pub fn path_idle(watched: &Watched<'_>) -> Option<PathIdle> {
    let (first, last) = (watched.samples.first()?, watched.samples.last()?);
    let span_ns = last.at_ns.checked_sub(first.at_ns).filter(|ns| *ns > 0)?;
    let (mut idle_ns, mut window_ns, mut limited) = (0.0, 0.0, false);
    for (n, pair) in watched.samples.windows(2).enumerate() {
        let (then, now) = (&pair[0], &pair[1]);
        let step_ns = now.at_ns.saturating_sub(then.at_ns) as f64;
        let Some(busy) = busiest(watched, then, now) else {
            continue;
        };
        limited = true;
        let idle = 1.0 - busy;
        idle_ns += step_ns * idle;
        if !is_stall(watched.samples, n) {
            window_ns += step_ns * idle.min(explained(watched, then, now));
        }
    }
    if !limited {
        return None;
    }
    let share = |part_ns: f64| part_ns / span_ns as f64;
    let (receiver_share, sender_share) = by_tcp(watched.tcp);
    Some(PathIdle {
        span_ns,
        idle_share: share(idle_ns),
        window_share: share(window_ns),
        emulator_share: share(idle_ns - window_ns),
        receiver_share,
        sender_share,
    })
}

/// Whether whoever takes the samples stood still between sample `n` and the next: no excuse of TCP's counts then, since
/// what it answers was done to it by this computer.
fn is_stall(samples: &[Sample], n: usize) -> bool {
    /// Three of the 10 ms between samples: a thread that waits for a processor does not wait for longer on a calm computer.
    const LONGEST_NS: u64 = 30_000_000;
    let step = |n: usize| {
        let (then, now) = (samples.get(n)?, samples.get(n + 1)?);
        now.at_ns.checked_sub(then.at_ns)
    };
    let around = [n.checked_sub(1).and_then(step), step(n + 1)];
    // Samples may be meant to be further apart: what is long is so beside its neighbours.
    let usual = around.into_iter().flatten().min().unwrap_or(0);
    step(n).is_some_and(|ns| ns > LONGEST_NS.max(usual.saturating_mul(3)))
}

/// The share of a step in which the busiest link of the path was busy: the link that limits a transfer is busy all the
/// time. None if no link is limited. A link that is down limits whatever wants to cross it.
fn busiest(watched: &Watched<'_>, then: &Sample, now: &Sample) -> Option<f64> {
    let step_ns = now.at_ns.saturating_sub(then.at_ns).max(1);
    let links = watched.path.iter().enumerate().filter_map(|(n, history)| {
        let spec = history.at(now.at_ns);
        if !spec.up {
            return Some(1.0);
        }
        spec.rate?;
        let (before, after) = (&then.links[n], &now.links[n]);
        let bytes = |c: &crate::counters::LinkCounters| c.sent.wire_bytes + c.lost.wire_bytes;
        // A backend that counts no busy time still counts bytes.
        let by_bytes = serialising_ns(bytes(after).saturating_sub(bytes(before)), spec);
        let by_time = after.busy_ns.saturating_sub(before.busy_ns);
        Some((by_time.max(by_bytes) as f64 / step_ns as f64).min(1.0))
    });
    links.max_by(f64::total_cmp)
}

/// Idle share of a step that the congestion window explains: with the smallest window known around it, since a window
/// that opened or shrank in between was that small for a part of it. Nothing is explained while nothing is known.
fn explained(watched: &Watched<'_>, then: &Sample, now: &Sample) -> f64 {
    let (from_ns, to_ns) = (then.at_ns, now.at_ns);
    let tcp = watched.tcp;
    let first = tcp.partition_point(|(at_ns, _)| *at_ns <= from_ns);
    let last = tcp.partition_point(|(at_ns, _)| *at_ns < to_ns);
    let around = &tcp[first.saturating_sub(1)..(last + 1).min(tcp.len())];
    let retransmits = |info: Option<&(u64, TcpInfo)>| info.map_or(0, |(_, info)| info.retransmits);
    let repaired = retransmits(around.last()) != retransmits(around.first());
    if repaired || around.iter().any(|(_, info)| info.recovering) {
        return 1.0;
    }
    let windows = around.iter().map(|(_, info)| info.cwnd_segments);
    let Some(segments) = windows.min() else {
        return 0.0;
    };
    let specs = || watched.path.iter().map(|history| history.at(to_ns));
    let slowest = specs().filter_map(|spec| Some((spec.rate?, spec.overhead_bytes)));
    let Some((rate, overhead_bytes)) = slowest.min_by_key(|(rate, _)| *rate) else {
        return 0.0;
    };
    let round_trip_ns = specs().fold(way_back_ns(watched, then, now), |sum, spec| {
        let frame = frame_wire_bytes(spec.gso_bytes(), spec.overhead_bytes);
        sum.saturating_add(ns(spec.delay))
            .saturating_add(serialising_ns(frame, spec))
    });
    let segment = u64::from(MTU) + u64::from(overhead_bytes);
    let window_bytes = u64::from(segments).saturating_mul(segment);
    let path_bytes = rate.bytes_in(Duration::from_nanos(round_trip_ns)).max(1);
    (1.0 - window_bytes as f64 / path_bytes as f64).max(0.0)
}

/// What the way back takes in a step: each link's delay, or what it holds at its rate if that is more; the mean of both ends.
fn way_back_ns(watched: &Watched<'_>, then: &Sample, now: &Sample) -> u64 {
    let first = watched.path.len();
    let links = watched.back.iter().enumerate().map(|(n, history)| {
        let spec = history.at(now.at_ns);
        let held = |sample: &Sample| serialising_ns(sample.links[first + n].held.wire_bytes, spec);
        ns(spec.delay).max(held(then).midpoint(held(now)))
    });
    links.fold(0, u64::saturating_add)
}

/// Shares of the time with a closed receiver's window, and with nothing under way.
fn by_tcp(tcp: &[(u64, TcpInfo)]) -> (f64, f64) {
    let (Some((from_ns, first)), Some((to_ns, last))) = (tcp.first(), tcp.last()) else {
        return (0.0, 0.0);
    };
    let span_ns = to_ns.saturating_sub(*from_ns).max(1);
    let since = |now: Duration, then: Duration| ns(now.saturating_sub(then)).min(span_ns);
    let receiver_ns = since(last.window_limited, first.window_limited);
    let idle_ns = span_ns - since(last.busy, first.busy);
    let share = |part_ns: u64| part_ns as f64 / span_ns as f64;
    if tcp.len() < 2 {
        return (0.0, 0.0);
    }
    (share(receiver_ns), share(idle_ns))
}
