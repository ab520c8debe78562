//! When links have to change on the machine's clock. Pure.
//!
//! Inside: the schedule's trace instants turned into monotonic ones by the segments that the machine
//! hears of, and the net effect of what is due. Never inside: reading a clock, changing a link.

use netmodel::link::LinkSpec;
use netmodel::schedule::Schedule;
use netmodel::topology::LinkId;
use replay::clock::{Clock, ClockError, MonoNs, Segment, SegmentKind, TraceNs};
use std::collections::{BTreeMap, VecDeque};

/// What a link has to be from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Trace instant of the change, or of the landing that passed it.
    pub(super) trace_ns: u64,
    /// The same on the machine's clock.
    pub(super) at_ns: u64,
    /// Which link.
    pub(super) link: LinkId,
    /// All of it.
    pub(super) spec: LinkSpec,
}

/// The schedule of a run and how far it has been carried out.
#[derive(Debug)]
pub(super) struct Timetable {
    schedule: Schedule,
    clock: Clock,
    /// Changes that have a place on the machine's clock for good: the segment they fall into has a
    /// known end.
    planned: VecDeque<Due>,
    /// How many changes of the schedule are planned or done.
    next: usize,
}

impl Timetable {
    /// Nothing done yet, the clock held at trace instant 0.
    pub(super) fn new(schedule: Schedule, now: MonoNs) -> Self {
        let first = Segment {
            number: 0,
            kind: SegmentKind::Hold,
            at: now,
            trace: TraceNs(0),
        };
        let mut timetable = Self {
            schedule,
            clock: Clock::new(first),
            planned: VecDeque::new(),
            next: 0,
        };
        timetable.plan(0, |_| (0, now.0));
        timetable
    }

    /// Whether there will never be anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.schedule.changes().is_empty()
    }

    /// A segment that was announced, perhaps ahead of its begin.
    ///
    /// # Errors
    /// When it would turn time back.
    pub(super) fn begin(&mut self, segment: Segment) -> Result<(), ClockError> {
        let before = self.clock.current();
        self.clock.begin(segment)?;
        // Up to where the segment before comes, at its own speed; over what is jumped, at the landing.
        let reached = before.trace_at(segment.at);
        self.plan(reached.0, |at_ns| (at_ns, instant(&before, at_ns)));
        self.plan(segment.trace.0, |_| (segment.trace.0, segment.at.0));
        Ok(())
    }

    /// A jump: held at the landing. A segment that was announced ahead begins first.
    ///
    /// # Errors
    /// When the landing has passed.
    pub(super) fn jump(&mut self, number: u64, to: TraceNs, now: MonoNs) -> Result<(), ClockError> {
        let at = now.max(self.clock.current().at);
        self.begin(Segment {
            number,
            kind: SegmentKind::Hold,
            at,
            trace: to,
        })
    }

    /// The monotonic instant at which trace time was 0, or would have been, had it always run as
    /// the newest segment does; negative if that is before the computer started.
    pub(super) fn origin_ns(&self) -> i64 {
        let segment = self.clock.current();
        // Both are far below 2^63 ns, which is 292 years.
        let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        signed(segment.at.0) - signed(segment.trace.0)
    }

    /// Trace time at an instant, as far as segments have been announced.
    pub(super) fn trace_at(&self, at: MonoNs) -> TraceNs {
        self.clock.trace_at(at)
    }

    /// What is due by now, the last change of each link only, and as done from here on.
    pub(super) fn take_due(&mut self, now: MonoNs) -> Vec<Due> {
        let current = self.clock.current();
        if current.at <= now {
            let reached = current.trace_at(now);
            self.plan(reached.0, |at_ns| (at_ns, instant(&current, at_ns)));
        }
        let due = self.planned.partition_point(|due| due.at_ns <= now.0);
        let last: BTreeMap<LinkId, Due> = self
            .planned
            .drain(..due)
            .map(|due| (due.link, due))
            .collect();
        last.into_values().collect()
    }

    /// When there is something to do next, if time goes on as it is known to.
    pub(super) fn next_at(&self) -> Option<MonoNs> {
        if let Some(planned) = self.planned.front() {
            return Some(MonoNs(planned.at_ns));
        }
        let next = self.schedule.changes().get(self.next)?;
        self.clock.mono_at(TraceNs(next.at_ns))
    }

    /// Gives every change up to a trace instant its place on the clock.
    fn plan(&mut self, until_ns: u64, place: impl Fn(u64) -> (u64, u64)) {
        let changes = &self.schedule.changes()[self.next..];
        let due = changes.partition_point(|change| change.at_ns <= until_ns);
        self.planned.extend(changes[..due].iter().map(|change| {
            let (trace_ns, at_ns) = place(change.at_ns);
            Due {
                trace_ns,
                at_ns,
                link: change.link,
                spec: change.spec,
            }
        }));
        self.next += due;
    }
}

/// When a running segment reaches a trace instant of its own.
fn instant(segment: &Segment, trace_ns: u64) -> u64 {
    let ahead = trace_ns.saturating_sub(segment.trace.0);
    segment.at.0.saturating_add(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netmodel::schedule::Change;
    use netmodel::units::BitRate;
    use proptest::prelude::*;

    fn spec(mbit: u64) -> LinkSpec {
        LinkSpec::with_rate(BitRate::from_bps(mbit * 1_000_000).unwrap())
    }

    fn timetable(changes: &[(u64, u32, u64)], now: u64) -> Timetable {
        let change = |&(at_ns, link, mbit): &(u64, u32, u64)| Change {
            at_ns,
            link: LinkId(link),
            spec: spec(mbit),
        };
        let changes: Vec<Change> = changes.iter().map(change).collect();
        Timetable::new(changes.into(), MonoNs(now))
    }

    fn segment(number: u64, kind: SegmentKind, at: u64, trace: u64) -> Segment {
        Segment {
            number,
            kind,
            at: MonoNs(at),
            trace: TraceNs(trace),
        }
    }

    fn due(trace_ns: u64, at_ns: u64, link: u32, mbit: u64) -> Due {
        Due {
            trace_ns,
            at_ns,
            link: LinkId(link),
            spec: spec(mbit),
        }
    }

    #[test]
    fn what_holds_from_the_start_is_due_at_once() {
        let mut table = timetable(&[(0, 3, 5)], 1000);
        assert_eq!(table.next_at(), Some(MonoNs(1000)));
        assert_eq!(table.take_due(MonoNs(1000)), [due(0, 1000, 3, 5)]);
        assert_eq!(table.next_at(), None);
    }

    #[test]
    fn a_running_segment_changes_links_at_their_instants() {
        let mut table = timetable(&[(100, 0, 1), (150, 0, 2)], 0);
        table.begin(segment(1, SegmentKind::Run, 1000, 50)).unwrap();
        assert_eq!(table.next_at(), Some(MonoNs(1050)));
        assert_eq!(table.take_due(MonoNs(1049)), []);
        assert_eq!(table.take_due(MonoNs(1060)), [due(100, 1050, 0, 1)]);
        assert_eq!(table.next_at(), Some(MonoNs(1100)));
    }

    #[test]
    fn traces_begin_where_trace_time_does() {
        let mut table = timetable(&[], 500);
        table.begin(segment(1, SegmentKind::Run, 1000, 50)).unwrap();
        assert_eq!(table.origin_ns(), 950);
        table.jump(2, TraceNs(9000), MonoNs(2000)).unwrap();
        assert_eq!(table.origin_ns(), -7000);
    }

    #[test]
    fn a_held_clock_changes_nothing() {
        let mut table = timetable(&[(100, 0, 1)], 0);
        table.begin(segment(1, SegmentKind::Hold, 10, 99)).unwrap();
        assert_eq!(table.next_at(), None);
        assert_eq!(table.take_due(MonoNs(u64::MAX)), []);
    }

    #[test]
    fn a_jump_lands_in_the_net_effect() {
        let mut table = timetable(&[(100, 0, 1), (120, 1, 7), (150, 0, 2), (151, 0, 3)], 0);
        table.jump(1, TraceNs(150), MonoNs(10)).unwrap();
        let landed = [due(150, 10, 0, 2), due(150, 10, 1, 7)];
        assert_eq!(table.take_due(MonoNs(10)), landed);
        assert_eq!(table.take_due(MonoNs(1_000_000)), []);
    }

    /// A hold is announced 5 ms ahead: what falls into these is due as if it had not been.
    #[test]
    fn an_announcement_does_not_delay_what_comes_before_it() {
        let mut table = timetable(&[(100, 0, 1), (130, 0, 2)], 0);
        table.begin(segment(1, SegmentKind::Run, 1000, 0)).unwrap();
        table
            .begin(segment(2, SegmentKind::Hold, 1120, 120))
            .unwrap();
        assert_eq!(table.next_at(), Some(MonoNs(1100)));
        assert_eq!(table.take_due(MonoNs(1100)), [due(100, 1100, 0, 1)]);
        assert_eq!(
            table.next_at(),
            None,
            "130 is not reached while time is held"
        );
        // A jump asked for before the hold has begun lands right after it.
        table.jump(3, TraceNs(140), MonoNs(1110)).unwrap();
        assert_eq!(table.next_at(), Some(MonoNs(1120)));
        assert_eq!(table.take_due(MonoNs(1120)), [due(140, 1120, 0, 2)]);
    }

    proptest! {
        /// However time goes and whenever it is asked: a link is what the schedule says of the
        /// trace instant that has been reached.
        #[test]
        fn links_are_what_the_schedule_says(
            changes in prop::collection::vec((0u64..200, 0u32..3, 1u64..9), 0..12),
            steps in prop::collection::vec((0u64..40, 0u64..30, any::<bool>(), 0u64..20), 1..14),
        ) {
            let mut table = timetable(&changes, 0);
            let mut clock = Clock::new(segment(0, SegmentKind::Hold, 0, 0));
            let mut links: BTreeMap<LinkId, LinkSpec> = BTreeMap::new();
            let mut now = 0;
            for (number, (wait, ahead, run, jump)) in (1u64..).zip(steps) {
                let at = (now + ahead).max(clock.current().at.0);
                let kind = if run { SegmentKind::Run } else { SegmentKind::Hold };
                let trace = clock.current().trace_at(MonoNs(at)).0 + jump;
                let next = segment(number, kind, at, trace);
                clock.begin(next).unwrap();
                table.begin(next).unwrap();
                now += wait;
                for due in table.take_due(MonoNs(now)) {
                    prop_assert!(due.at_ns <= now);
                    links.insert(due.link, due.spec);
                }
                let reached = clock.trace_at(MonoNs(now)).0;
                let mut expected: BTreeMap<LinkId, LinkSpec> = BTreeMap::new();
                for change in table.schedule.changes() {
                    if change.at_ns <= reached {
                        expected.insert(change.link, change.spec);
                    }
                }
                prop_assert_eq!(&links, &expected);
            }
        }
    }
}
