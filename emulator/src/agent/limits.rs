//! Guests that may only run so far: post-copy's, up to the next page that has not come.
//!
//! A limit is a reading of the guest's own clocks. It is kept to the nanosecond whenever somebody looks:
//! a host is never brought beyond the instant at which one of its guests reaches its limit without that
//! guest being paused there. Pure. Never inside: which pages are missing.

use crate::migration::upcoming::Limit;
use replay::clock::TraceNs;
use replay::host::{GuestClock, Host, HostError};
use std::collections::BTreeMap;
use traces::class::Coupling;

/// How far ahead it is said when a guest reaches its limit.
const LOOK_NS: u64 = 1_000_000_000;

/// A guest stands at its limit.
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

/// The limits of a host's guests, by their keys.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<u64, Within>);

impl Limits {
    /// Lets a guest run to another limit, whether or not it is on the host yet.
    pub(super) fn set(&mut self, host: &mut Host, key: u64, limit: Limit) -> Result<(), HostError> {
        let stopped = self.0.get(&key).is_some_and(|within| within.stop.is_some());
        if limit == Limit::NONE {
            self.0.remove(&key);
        } else {
            self.0.insert(key, Within { limit, stop: None });
        }
        if stopped {
            host.resume(key)?;
        }
        Ok(())
    }

    /// Forgets a guest that leaves.
    pub(super) fn forget(&mut self, key: u64) {
        self.0.remove(&key);
    }

    /// Where a guest stands, if it stands at its limit.
    pub(super) fn stop(&self, key: u64) -> Option<Stop> {
        self.0.get(&key)?.stop
    }

    /// When a guest that runs reaches its limit, as far as is known: else when to ask again.
    pub(super) fn reaches(&self, host: &Host, key: u64) -> Result<Option<TraceNs>, HostError> {
        let Some(within) = self.0.get(&key) else {
            return Ok(None);
        };
        let clock = host.guest_clock(key)?;
        let last = clock.valid().1.min(TraceNs(host.now().0 + LOOK_NS));
        let stop = stop_by(&clock, within.limit, host.now(), last);
        Ok(Some(stop.map_or(last, |stop| stop.since)))
    }

    /// Brings the host to an instant, and pauses every guest where it reaches its limit.
    pub(super) fn advance(&mut self, host: &mut Host, to: TraceNs) -> Result<(), HostError> {
        while to > host.now() {
            if self.0.values().all(|within| within.stop.is_some()) {
                return host.advance(to);
            }
            // Rates are constant up to the host's next change.
            let now = host.now();
            let step = to.min(host.next_change()).max(TraceNs(now.0 + 1));
            let mut first: Option<(Stop, u64)> = None;
            for (&key, within) in self.0.iter().filter(|(_, within)| within.stop.is_none()) {
                let clock = match host.guest_clock(key) {
                    Ok(clock) => clock,
                    Err(HostError::Absent { .. }) => continue, // still on its way
                    Err(error) => return Err(error),
                };
                let stop = stop_by(&clock, within.limit, now, step);
                if let Some(stop) =
                    stop.filter(|stop| first.is_none_or(|(f, _)| stop.since < f.since))
                {
                    first = Some((stop, key));
                }
            }
            let Some((stop, key)) = first else {
                host.advance(step)?;
                continue;
            };
            if stop.since > now {
                host.advance(stop.since)?;
            }
            host.pause(key)?;
            if let Some(within) = self.0.get_mut(&key) {
                within.stop = Some(stop);
            }
        }
        Ok(())
    }
}

/// The last instant in `[now, to]` at which the guest has not reached its limit, if it reaches it by `to`.
fn stop_by(clock: &GuestClock, limit: Limit, now: TraceNs, to: TraceNs) -> Option<Stop> {
    let reached = |at: u64| clock.at(TraceNs(at)).and_then(|time| limit.reached(time));
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
