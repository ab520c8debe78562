//! The driver's part for trace time: spans, jumps, and the samples taken at their ends.

use super::RunError;
use super::driver::Driver;
use crate::clock::mono_ns;
use crate::control::message::{ToAgent, ToMachine};
use crate::event::{Event, EventKind, SpanKind};
use crate::ids::HostId;
use crate::scenario::Scenario;
use crate::timeline::{Input, Schedule};
use replay::clock::{MonoNs, Segment, SegmentKind, TraceNs};
use std::collections::BTreeSet;

/// Samples of every agent, on their way.
#[derive(Debug)]
pub(super) struct Sampling {
    seq: u64,
    pub(super) waiting: BTreeSet<HostId>,
    pub(super) asked_ns: u64,
}

impl Driver<'_> {
    /// Jumps every agent, and ourselves, to a trace instant.
    pub(super) async fn jump(&mut self, to_trace_ns: u64) -> Result<(), RunError> {
        let from_trace_ns = self.trace_ns();
        self.seq += 1;
        let at = MonoNs(mono_ns()).max(self.clock.current().at);
        self.clock.begin(Segment {
            number: self.seq,
            kind: SegmentKind::Hold,
            at,
            trace: TraceNs(to_trace_ns),
        })?;
        self.await_samples();
        self.tell_all(ToAgent::Advance {
            seq: self.seq,
            to_trace_ns,
        })
        .await?;
        if to_trace_ns > from_trace_ns {
            self.write(EventKind::Jumped { from_trace_ns })?;
        }
        self.progress.trace(to_trace_ns, self.mover.running());
        self.nobody_left()
    }

    pub(super) async fn sample(&mut self) -> Result<(), RunError> {
        self.seq += 1;
        self.await_samples();
        self.tell_all(ToAgent::Sample {
            seq: self.seq,
            at_ns: mono_ns(),
        })
        .await?;
        self.machine.send(&ToMachine::SampleLinks).await?;
        self.progress.trace(self.trace_ns(), self.mover.running());
        self.nobody_left()
    }

    pub(super) fn await_samples(&mut self) {
        let waiting = self.hosts();
        self.sampling = Some(Sampling {
            seq: self.seq,
            waiting,
            asked_ns: mono_ns(),
        });
    }

    /// Without hosts there is nobody to answer; the run goes to its end all the same.
    pub(super) fn nobody_left(&mut self) -> Result<(), RunError> {
        if self.hosts().is_empty() {
            return Err(RunError::AllHostsLost);
        }
        Ok(())
    }

    /// Begins a segment here and, if they must know, at every agent.
    pub(super) async fn segment(
        &mut self,
        kind: SegmentKind,
        at_ns: u64,
        tell: bool,
    ) -> Result<(), RunError> {
        self.seq += 1;
        let at = MonoNs(at_ns).max(self.clock.current().at);
        let trace = self.clock.trace_at(at);
        self.clock.begin(Segment {
            number: self.seq,
            kind,
            at,
            trace,
        })?;
        if tell {
            let run = kind == SegmentKind::Run;
            self.tell_all(ToAgent::Go {
                number: self.seq,
                run,
                at_ns: at.0,
                trace_ns: trace.0,
            })
            .await?;
        }
        let span = match kind {
            SegmentKind::Run => SpanKind::Run,
            SegmentKind::Hold => SpanKind::Hold,
        };
        let kind = EventKind::Segment {
            number: self.seq,
            span,
        };
        Ok(self.log.append(&Event {
            mono_ns: at.0,
            trace_ns: trace.0,
            kind,
        })?)
    }

    pub(super) fn sampled(&mut self, seq: u64, host: HostId) {
        if let Some(sampling) = &mut self.sampling
            && sampling.seq == seq
        {
            sampling.waiting.remove(&host);
        }
        self.all_sampled();
    }

    pub(super) fn all_sampled(&mut self) {
        if self
            .sampling
            .as_ref()
            .is_some_and(|sampling| sampling.waiting.is_empty())
        {
            self.sampling = None;
            self.step(Input::Reached);
        }
    }
}

/// When the timeline has to act in a scenario.
pub(super) fn schedule(scenario: &Scenario, balanced: bool) -> Schedule {
    let tick_ns = if balanced {
        scenario.balancer.interval_ns
    } else {
        0
    };
    let mut planned_ns: Vec<u64> = scenario
        .migrations
        .iter()
        .map(|planned| planned.at_ns)
        .collect();
    planned_ns.sort_unstable();
    Schedule {
        pace: scenario.pace,
        end_ns: scenario.duration_ns,
        tick_ns,
        sample_ns: sample_step_ns(scenario),
        planned_ns,
        margin_ns: if scenario.services.is_empty() && scenario.probes.is_empty() {
            0
        } else {
            SERVICE_MARGIN_NS
        },
    }
}

/// Before and after migrations the clock runs so long for services and probes: 200 requests at 100 a second.
pub const SERVICE_MARGIN_NS: u64 = 2_000_000_000;

/// Six samples a balancer's interval, none closer than a second: enough to see a load's shape
/// between two decisions.
fn sample_step_ns(scenario: &Scenario) -> u64 {
    (scenario.balancer.interval_ns / 6).max(1_000_000_000)
}
