//! Guests whose vCPUs may only run so far: post-copy's, each up to the next page of its own that has not come.
//!
//! A limit is a reading of the vCPU's own clocks. It is kept to the nanosecond whenever somebody looks:
//! a host is never brought beyond the instant at which one of its guests' vCPUs reaches its limit without that
//! vCPU being made to wait there. Pure. Never inside: which pages are missing.

use crate::migration::upcoming::Limit;
use replay::clock::TraceNs;
use replay::host::{GuestClock, Host, HostError};
use std::collections::BTreeMap;
use traces::class::Coupling;

/// How far ahead it is said when a vCPU reaches its limit.
const LOOK_NS: u64 = 1_000_000_000;

/// A vCPU stands at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop {
    /// Whose limit it is.
    pub(super) clock: Coupling,
    /// Since when.
    pub(super) since: TraceNs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Within {
    limit: Limit,
    stop: Option<Stop>,
}

/// A guest's key, and which vCPU of it.
type Vcpu = (u64, usize);

/// The limits of a host's guests.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<Vcpu, Within>);

impl Limits {
    /// Lets vCPUs of a guest run to other limits, whether or not it is on the host yet.
    pub(super) fn set(
        &mut self,
        host: &mut Host,
        key: u64,
        limits: &[(usize, Limit)],
    ) -> Result<(), HostError> {
        for &(vcpu, limit) in limits {
            let before = match limit {
                Limit::NONE => self.0.remove(&(key, vcpu)),
                _ => self.0.insert((key, vcpu), Within { limit, stop: None }),
            };
            if before.is_some_and(|within| within.stop.is_some()) {
                host.set_waits(key, number(vcpu), false)?;
            }
        }
        Ok(())
    }

    /// Forgets a guest that leaves.
    pub(super) fn forget(&mut self, key: u64) {
        self.0.retain(|(of, _), _| *of != key);
    }

    /// Where a vCPU stands, if it stands at its limit.
    pub(super) fn stop(&self, key: u64, vcpu: usize) -> Option<Stop> {
        self.0.get(&(key, vcpu))?.stop
    }

    /// When the first vCPU of a guest that runs reaches its limit, as far as is known: else when to ask again.
    pub(super) fn reaches(&self, host: &Host, key: u64) -> Result<Option<TraceNs>, HostError> {
        let all = self.0.range((key, 0)..=(key, usize::MAX));
        let mut running = all.filter(|(_, within)| within.stop.is_none()).peekable();
        if running.peek().is_none() {
            return Ok(None);
        }
        let clock = host.guest_clock(key)?;
        let last = clock.valid().1.min(TraceNs(host.now().0 + LOOK_NS));
        let since = running.filter_map(|(&(_, vcpu), within)| {
            let stop = stop_by(&clock, number(vcpu), within.limit, host.now(), last);
            stop.map(|stop| stop.since)
        });
        Ok(Some(since.min().unwrap_or(last)))
    }

    /// Brings the host to an instant, and makes every vCPU wait where it reaches its limit.
    pub(super) fn advance(&mut self, host: &mut Host, to: TraceNs) -> Result<(), HostError> {
        while to > host.now() {
            if self.0.values().all(|within| within.stop.is_some()) {
                return host.advance(to);
            }
            // Rates are constant up to the host's next change.
            let now = host.now();
            let step = to.min(host.next_change()).max(TraceNs(now.0 + 1));
            let Some((stop, of)) = self.first(host, step)? else {
                host.advance(step)?;
                continue;
            };
            if stop.since > now {
                host.advance(stop.since)?;
            }
            host.set_waits(of.0, number(of.1), true)?;
            if let Some(within) = self.0.get_mut(&of) {
                within.stop = Some(stop);
            }
        }
        Ok(())
    }

    /// The first of all vCPUs that reaches its limit by an instant up to which rates are constant.
    fn first(&self, host: &Host, by: TraceNs) -> Result<Option<(Stop, Vcpu)>, HostError> {
        let mut first: Option<(Stop, Vcpu)> = None;
        let mut clock: Option<(u64, Option<GuestClock>)> = None;
        for (&(key, vcpu), within) in self.0.iter().filter(|(_, within)| within.stop.is_none()) {
            if clock.as_ref().is_none_or(|(of, _)| *of != key) {
                clock = Some(match host.guest_clock(key) {
                    Ok(found) => (key, Some(found)),
                    Err(HostError::Absent { .. }) => (key, None), // still on its way
                    Err(error) => return Err(error),
                });
            }
            let Some((_, Some(clock))) = &clock else {
                continue;
            };
            let stop = stop_by(clock, number(vcpu), within.limit, host.now(), by);
            if let Some(stop) = stop.filter(|stop| first.is_none_or(|(f, _)| stop.since < f.since))
            {
                first = Some((stop, (key, vcpu)));
            }
        }
        Ok(first)
    }
}

/// As a host counts vCPUs.
fn number(vcpu: usize) -> u32 {
    u32::try_from(vcpu).unwrap_or(u32::MAX)
}

/// The last instant in `[now, to]` at which the vCPU has not reached its limit, if it reaches it by `to`.
fn stop_by(clock: &GuestClock, vcpu: u32, limit: Limit, now: TraceNs, to: TraceNs) -> Option<Stop> {
    let reached = |at: u64| {
        let time = clock.vcpu_at(vcpu, TraceNs(at))?;
        limit.reached(time)
    };
    let mut by = reached(to.0)?;
    if let Some(clock) = reached(now.0) {
        // It is beyond, which only a limit set too late can do.
        return Some(Stop { clock, since: now });
    }
    let (mut below, mut at) = (now.0, to.0);
    while at - below > 1 {
        let middle = below + (at - below) / 2;
        match reached(middle) {
            Some(clock) => (at, by) = (middle, clock),
            None => below = middle,
        }
    }
    Some(Stop {
        clock: by,
        since: TraceNs(below),
    })
}

#[cfg(test)]
mod tests;
