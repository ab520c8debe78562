//! A network alone: built, measured, audited, and gone again. What `migbed links` does.
//!
//! Hosts are network namespaces without processes. Never inside: printing.

use super::progress::{Progress, Show};
use super::{RunError, backend, carried, explain, interrupts, lacks_nothing, unchosen};
use crate::control::message::{
    AuditFinding, Built, FromMachine, MachineSetup, PROTOCOL, ToMachine,
};
use crate::event::LinkCalibration;
use crate::machine::launch::Machine;
use crate::run::grade;
use crate::scenario::Scenario;
use netmodel::backend::BackendKind;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// A thousand hosts are built in seconds and measured in as many more; beyond this it hangs.
const WITHIN: Duration = Duration::from_secs(300);

/// What a network was found to be.
#[derive(Debug, Clone, Serialize)]
pub struct LinksReport {
    /// What carried it.
    pub backend: BackendKind,
    /// Space scale its rates and queues were divided by.
    pub k: u32,
    /// How many hosts there were.
    pub hosts: usize,
    /// Asked against got, by link direction.
    pub links: Vec<LinkCalibration>,
    /// Audits of the measurement and of what is left after it.
    pub findings: Vec<AuditFinding>,
    /// A, B, C or invalid, as a run's.
    pub grade: String,
    /// Why not A.
    pub grade_reasons: Vec<String>,
    /// What it took.
    pub built: Built,
    /// Things to read before trusting the numbers.
    pub warnings: Vec<String>,
}

impl LinksReport {
    /// Whether every link is what was asked for, and nothing was lost on the way.
    #[must_use]
    pub fn holds(&self) -> bool {
        let invalid = |finding: &AuditFinding| finding.grade == "invalid";
        self.links.iter().all(|link| link.ok) && !self.findings.iter().any(invalid)
    }
}

/// How it ended.
#[derive(Debug)]
pub enum Measured {
    /// With a report.
    Done(Box<LinksReport>),
    /// By the user.
    Interrupted,
}

/// Builds a scenario's network and measures it. To be called from the main thread.
///
/// # Errors
/// What is missing, what cannot be carried, or whatever stopped it.
pub fn measure(scenario: &Scenario, show: Show) -> anyhow::Result<Measured> {
    // Probing forks, so it comes before any thread.
    let capabilities = netmodel::sys::probe::probe();
    lacks_nothing(&capabilities)?;
    let kind = backend::choose(&scenario.network, &capabilities).map_err(unchosen)?;
    let scenario = carried(scenario)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let mut interrupts = interrupts()?;
        let measuring = tokio::time::timeout(WITHIN, on_machine(&scenario, kind, show));
        tokio::select! {
            measured = measuring => {
                let report = measured.map_err(|_| RunError::Silent)??;
                Ok(Measured::Done(Box::new(report)))
            }
            // The machine goes with its parent's end of the socket.
            _ = interrupts.recv() => Ok(Measured::Interrupted),
        }
    });
    runtime.shutdown_background();
    done.map_err(explain)
}

async fn on_machine(
    scenario: &Scenario,
    backend: BackendKind,
    show: Show,
) -> Result<LinksReport, RunError> {
    let mut progress = Progress::new(show, 0);
    let mut machine = Machine::launch()?;
    let setup = MachineSetup {
        protocol: PROTOCOL,
        hosts: super::processes(scenario),
        network: scenario.network.clone(),
        inputs: PathBuf::new(),
        seed: scenario.seed,
        divided_by: scenario.divided_by,
        calibrate: true,
        backend,
        demand: None,
        agents: false,
    };
    let hosts = setup.hosts.len();
    let ready = super::build(&mut machine, setup, &mut progress, |_| Ok(())).await?;
    machine.send(&ToMachine::Audit).await?;
    let left = loop {
        match machine.recv().await?.ok_or(RunError::MachineGone)? {
            FromMachine::Audited(findings) => break findings,
            FromMachine::Failed {
                message,
                missing_capability,
            } => {
                return Err(RunError::Machine {
                    message,
                    missing_capability,
                });
            }
            other => tracing::debug!(?other, "before the audit"),
        }
    };
    machine.send(&ToMachine::Shutdown).await?;
    machine.wait()?;
    progress.finish();
    let findings: Vec<AuditFinding> = ready.findings.into_iter().chain(left).collect();
    let (grade, grade_reasons) = grade::run_grade(&ready.calibration, &findings);
    Ok(LinksReport {
        backend,
        k: scenario.divided_by,
        hosts,
        links: ready.calibration,
        findings,
        grade: grade.name().to_owned(),
        grade_reasons,
        built: ready.built,
        warnings: ready.warnings,
    })
}
