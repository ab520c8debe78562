//! Trace time as a piecewise linear function of the machine's monotonic clock.
//!
//! Inside: the arithmetic of numbered segments. A segment runs (slope 1) or is held (slope 0); a
//! jump is a segment whose trace instant is later than where the one before it had come to. Never
//! inside: reading a clock. Whoever calls brings the monotonic instant.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// An instant of the machine's monotonic clock, in nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct MonoNs(pub u64);

/// An instant of trace time, in nanoseconds from the start of the scenario.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct TraceNs(pub u64);

/// Whether trace time moves within a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentKind {
    /// Trace time moves as the monotonic clock does.
    Run,
    /// Trace time stands still.
    Hold,
}

/// A stretch of one slope, in force from `at` until the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Increases by at least one from segment to segment, so that late messages are recognised.
    pub number: u64,
    /// Slope.
    pub kind: SegmentKind,
    /// First monotonic instant of the segment.
    pub at: MonoNs,
    /// Trace instant at `at`.
    pub trace: TraceNs,
}

impl Segment {
    /// Trace time at a monotonic instant; before the segment begins, its first trace instant.
    #[must_use]
    pub fn trace_at(&self, mono: MonoNs) -> TraceNs {
        match self.kind {
            SegmentKind::Hold => self.trace,
            SegmentKind::Run => TraceNs(
                self.trace
                    .0
                    .saturating_add(mono.0.saturating_sub(self.at.0)),
            ),
        }
    }
}

/// A segment that would turn time back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// A number that is not above the current one.
    #[error("clock segment {offered} does not follow segment {current}")]
    Number {
        /// Number of the segment in force.
        current: u64,
        /// Number offered.
        offered: u64,
    },
    /// It begins before the segment in force began.
    #[error(
        "clock segment {number} begins at {offered} ns, before its predecessor at {current} ns"
    )]
    MonoBack {
        /// Number offered.
        number: u64,
        /// Begin of the segment in force.
        current: u64,
        /// Begin offered.
        offered: u64,
    },
    /// It would take trace time back.
    #[error("clock segment {number} turns trace time back from {reached} ns to {offered} ns")]
    TraceBack {
        /// Number offered.
        number: u64,
        /// What trace time has come to by then.
        reached: u64,
        /// Trace instant offered.
        offered: u64,
    },
}

/// Trace time as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// Ascending; the last is the newest. Never empty.
    segments: VecDeque<Segment>,
}

/// Segments remembered. A segment is announced before it begins, so instants are still asked for
/// that belong to the one before; two would do, more serve instants read late.
const REMEMBERED: usize = 16;

impl Clock {
    /// A clock in its first segment.
    #[must_use]
    pub fn new(first: Segment) -> Self {
        Self {
            segments: VecDeque::from([first]),
        }
    }

    /// Appends a segment and returns the trace time it jumps over, in nanoseconds (0: no jump).
    ///
    /// # Errors
    /// When its number does not increase, or when either time would go back. The clock is then
    /// unchanged.
    pub fn begin(&mut self, segment: Segment) -> Result<u64, ClockError> {
        let current = self.current();
        if segment.number <= current.number {
            return Err(ClockError::Number {
                current: current.number,
                offered: segment.number,
            });
        }
        if segment.at < current.at {
            return Err(ClockError::MonoBack {
                number: segment.number,
                current: current.at.0,
                offered: segment.at.0,
            });
        }
        let reached = current.trace_at(segment.at);
        if segment.trace < reached {
            return Err(ClockError::TraceBack {
                number: segment.number,
                reached: reached.0,
                offered: segment.trace.0,
            });
        }
        if self.segments.len() == REMEMBERED {
            self.segments.pop_front();
        }
        self.segments.push_back(segment);
        Ok(segment.trace.0 - reached.0)
    }

    /// The newest segment, even if it has not begun yet.
    #[must_use]
    pub fn current(&self) -> Segment {
        *self
            .segments
            .back()
            .expect("a clock is made with a segment and never loses its last")
    }

    /// Trace time at a monotonic instant. Instants before the oldest segment remembered (16 of
    /// them) are taken as its beginning.
    #[must_use]
    pub fn trace_at(&self, mono: MonoNs) -> TraceNs {
        let in_force = self
            .segments
            .iter()
            .rev()
            .find(|segment| segment.at <= mono);
        in_force.unwrap_or(&self.segments[0]).trace_at(mono)
    }

    /// When the newest segment reaches a trace instant: `None` if it never does (it is held, or
    /// the instant lies before it).
    #[must_use]
    pub fn mono_at(&self, trace: TraceNs) -> Option<MonoNs> {
        let current = self.current();
        let ahead = trace.0.checked_sub(current.trace.0)?;
        match current.kind {
            SegmentKind::Hold if ahead > 0 => None,
            SegmentKind::Hold | SegmentKind::Run => current.at.0.checked_add(ahead).map(MonoNs),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(number: u64, kind: SegmentKind, at: u64, trace: u64) -> Segment {
        Segment {
            number,
            kind,
            at: MonoNs(at),
            trace: TraceNs(trace),
        }
    }

    #[test]
    fn runs_holds_and_jumps() {
        let mut clock = Clock::new(segment(1, SegmentKind::Run, 100, 0));
        assert_eq!(clock.begin(segment(2, SegmentKind::Hold, 150, 50)), Ok(0));
        assert_eq!(
            clock.begin(segment(3, SegmentKind::Run, 200, 1000)),
            Ok(950)
        );
        assert_eq!(
            clock.trace_at(MonoNs(120)),
            TraceNs(20),
            "before a later segment begins"
        );
        assert_eq!(clock.trace_at(MonoNs(180)), TraceNs(50));
        assert_eq!(clock.trace_at(MonoNs(205)), TraceNs(1005));
        assert_eq!(clock.mono_at(TraceNs(1005)), Some(MonoNs(205)));
        assert_eq!(clock.mono_at(TraceNs(999)), None);
    }

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new(segment(5, SegmentKind::Run, 100, 0));
        let stale = clock.begin(segment(5, SegmentKind::Hold, 200, 100));
        assert_eq!(
            stale,
            Err(ClockError::Number {
                current: 5,
                offered: 5
            })
        );
        assert!(matches!(
            clock.begin(segment(6, SegmentKind::Run, 99, 0)),
            Err(ClockError::MonoBack { .. })
        ));
        let back = clock.begin(segment(6, SegmentKind::Run, 200, 99));
        assert_eq!(
            back,
            Err(ClockError::TraceBack {
                number: 6,
                reached: 100,
                offered: 99
            })
        );
        assert_eq!(clock.current().number, 5);
    }

    #[test]
    fn a_held_clock_reaches_only_its_own_instant() {
        let clock = Clock::new(segment(1, SegmentKind::Hold, 10, 7));
        assert_eq!(clock.mono_at(TraceNs(7)), Some(MonoNs(10)));
        assert_eq!(clock.mono_at(TraceNs(8)), None);
    }

    proptest! {
        #[test]
        fn monotone_and_continuous_but_at_jumps(
            steps in prop::collection::vec((0u64..1000, any::<bool>(), 0u64..3, 1u64..500), 1..14)
        ) {
            let mut clock = Clock::new(segment(0, SegmentKind::Run, 0, 0));
            let mut jumps = Vec::new();
            for (number, (wait, run, jumpy, size)) in (1u64..).zip(steps) {
                let at = clock.current().at.0 + wait;
                let jump = if jumpy == 0 { size } else { 0 };
                let kind = if run { SegmentKind::Run } else { SegmentKind::Hold };
                let trace = clock.current().trace_at(MonoNs(at)).0 + jump;
                prop_assert_eq!(clock.begin(segment(number, kind, at, trace)), Ok(jump));
                jumps.push((at, jump));
            }
            let mut last = clock.trace_at(MonoNs(0));
            for mono in 1..clock.current().at.0 + 50 {
                let now = clock.trace_at(MonoNs(mono));
                let jumped: u64 = jumps.iter().filter(|(at, _)| *at == mono).map(|j| j.1).sum();
                prop_assert!(now >= last);
                prop_assert!(now.0 - last.0 <= 1 + jumped);
                last = now;
            }
        }
    }
}
