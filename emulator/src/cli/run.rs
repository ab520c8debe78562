//! `migbed run` and `migbed rerun`.

use super::Exit;
use super::backend::BackendArg;
use super::output::say;
use crate::results::{self, RunDir, ScenarioFile};
use crate::run::progress::Show;
use crate::run::{self, RunOutcome, RunRequest, Unusable};
use crate::scenario::inputs::{Inputs, Needs};
use crate::scenario::{self, Pace, Scenario};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Options that replace what a scenario says, and that choose where results go.
#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// Where to put the run directory [default: runs/NAME-N].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw everything random from this instead of the scenario's seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Space scale k: divide bytes, pages and rates by it, and no times.
    #[arg(long, value_name = "K")]
    scale: Option<u32>,
    /// How trace time follows wall time.
    #[arg(long, value_enum)]
    pace: Option<PaceArg>,
    /// Which backend carries the network.
    #[arg(long, value_enum)]
    backend: Option<BackendArg>,
    /// Do not load and measure every link before the run; the run is then graded invalid.
    #[arg(long)]
    no_calibration: bool,
    /// Run although this machine does not carry the scenario: the run is then invalid, and ends in
    /// exit 4. A run that only its audit calls invalid ends in exit 0 with this.
    #[arg(long)]
    force: bool,
    /// Print the summary as JSON on standard output, and no progress.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaceArg {
    /// At the speed of the clock throughout.
    Real,
    /// Jumps while nothing real is on the wire.
    Warp,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The scenario, a TOML file (docs/scenario.md).
    scenario: PathBuf,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Debug, Args)]
pub(super) struct RerunArgs {
    /// A run directory; its own copy of scenario and traces is used.
    run: PathBuf,
    #[command(flatten)]
    options: RunOptions,
}

impl RunArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let loaded = scenario::load(&self.scenario)?;
        let file = ScenarioFile {
            name: file_name(&self.scenario),
            text: std::fs::read_to_string(&self.scenario)
                .with_context(|| format!("{}", self.scenario.display()))?,
        };
        self.options.run(loaded.scenario, loaded.inputs, Some(file))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

impl RerunArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let unusable = |error: &dyn std::error::Error| Unusable(error.to_string());
        let dir = RunDir::open(&self.run).map_err(|error| unusable(&error))?;
        let header = dir.header().map_err(|error| unusable(&error))?;
        let inputs = Inputs::read(&dir.inputs(), &Needs::all(&header.scenario))
            .map_err(|error| unusable(&error))?;
        self.options
            .run(header.scenario, inputs, header.scenario_file)
    }
}

impl RunOptions {
    fn run(&self, scenario: Scenario, inputs: Inputs, file: Option<ScenarioFile>) -> Result<Exit> {
        let scenario = self.adapted(scenario);
        let out = match &self.out {
            Some(out) => out.clone(),
            None => free_directory(&scenario.name)?,
        };
        let quiet = self.quiet || self.json;
        let request = RunRequest {
            scenario,
            inputs,
            file,
            out,
            show: if quiet { Show::Quiet } else { Show::Auto },
            calibrate: !self.no_calibration,
            force: self.force,
        };
        let outcome = run::run(&request)?;
        self.tell(&outcome)?;
        Ok(self.exit(&outcome))
    }

    fn adapted(&self, mut scenario: Scenario) -> Scenario {
        if let Some(seed) = self.seed {
            scenario.seed = seed;
        }
        if let Some(scale) = self.scale {
            scenario.scale = scale;
        }
        if let Some(pace) = self.pace {
            scenario.pace = match pace {
                PaceArg::Real => Pace::Real,
                PaceArg::Warp => Pace::Warp,
            };
        }
        if let Some(backend) = self.backend {
            scenario.network.backend = backend.kind();
        }
        scenario
    }

    /// The table of migrations, where the report is, and what the balancer achieved.
    fn tell(&self, outcome: &RunOutcome) -> Result<()> {
        let summary = outcome.dir.summary()?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&summary)?);
            return Ok(());
        }
        say!("{}", results::table_of_migrations(&outcome.migrations));
        for warning in &outcome.warnings {
            say!("warning: {warning}");
        }
        for reason in &outcome.grade_reasons {
            say!("grade {reason}");
        }
        say!("report: {}", outcome.dir.file("report.html").display());
        say!("{}", summary.verdict);
        Ok(())
    }

    fn exit(&self, outcome: &RunOutcome) -> Exit {
        let completed = |m: &&crate::migration::record::MigrationRecord| {
            m.status == crate::migration::record::Status::Completed
        };
        if outcome.interrupted {
            Exit::Interrupted
        } else if outcome.forced || (outcome.grade == "invalid" && !self.force) {
            Exit::Invalid
        } else if outcome
            .migrations
            .iter()
            .filter(completed)
            .any(|m| !m.verified)
        {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

/// `runs/NAME-1`, or the first number that is free.
fn free_directory(name: &str) -> Result<PathBuf> {
    let safe = |c: char| {
        if c.is_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(safe).collect();
    (1..=9_999u32)
        .map(|n| Path::new("runs").join(format!("{name}-{n}")))
        .find(|path| !path.exists())
        .context("runs/ holds 9,999 runs of this name; say where with --out")
}
