//! The end of a run: audit, last counters, the baseline, the machine let go.

use super::{Drive, Driver, SILENCE};
use crate::control::message::{FromMachine, ToMachine};
use crate::event::EventKind;
use crate::run::RunError;
use crate::run::grade::{self, Grade};

impl Driver<'_> {
    /// Audits the network, collects the last counters, lets the machine go.
    pub(super) async fn close(mut self, forced: Option<String>) -> Result<Drive, RunError> {
        self.progress.phase("auditing");
        for missed in self.faults.missed() {
            self.warn(missed)?;
        }
        self.machine.send(&ToMachine::SampleLinks).await?;
        self.machine.send(&ToMachine::Audit).await?;
        loop {
            let message = tokio::time::timeout(SILENCE, self.machine.recv()).await;
            match message
                .map_err(|_| RunError::Silent)??
                .ok_or(RunError::MachineGone)?
            {
                FromMachine::Audited(findings) => {
                    self.findings = findings;
                    break;
                }
                message => self.heard(message).await?,
            }
        }
        let trace_ns = self.trace_ns();
        let outcome = if self.end == Some(true) {
            "interrupted"
        } else {
            "completed"
        };
        let (mut grade, mut reasons) = grade::run_grade(&self.ready.calibration, &self.findings);
        if let Some(why) = &forced {
            grade = Grade::Invalid;
            reasons.push(format!("invalid: forced: {why}"));
        }
        let named = grade.name().to_owned();
        self.write(EventKind::Audit {
            grade: named,
            reasons: reasons.clone(),
        })?;
        self.baseline(trace_ns)?;
        self.write(EventKind::RunEnded {
            outcome: outcome.to_owned(),
        })?;
        self.log.finish()?;
        self.machine.send(&ToMachine::Shutdown).await?;
        self.machine.wait()?;
        self.progress.finish();
        Ok(Drive {
            interrupted: self.end == Some(true),
            migrations: self.migrations,
            grade: (grade, reasons),
            forced: forced.is_some(),
            warnings: self.warnings,
            trace_ns,
            hosts_lost: self.lost.len(),
        })
    }

    /// The same demand under `none`, over the span of the run, by the code of the agents' hosts.
    pub(super) fn baseline(&mut self, trace_ns: u64) -> Result<(), RunError> {
        let step_ns = self.scenario.balancer.interval_ns;
        let Some(baseline) = self.predictor.baseline(self.scenario, trace_ns, step_ns) else {
            return self.warn("no comparison with `none`: its hosts could not be modelled".into());
        };
        let (tag, metrics) = ("modelled".to_owned(), baseline.metrics.to_map());
        self.write(EventKind::Baseline { tag, metrics })
    }
}
