//! `migbed report`.

use super::Exit;
use super::output::say;
use crate::results::{self, RunDir};
use crate::run::Unusable;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// A run directory.
    run: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

impl ReportArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let dir = RunDir::open(&self.run).map_err(|error| Unusable(error.to_string()))?;
        results::rebuild(&dir)?;
        crate::report::write(&dir)?;
        let summary = dir.summary()?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&summary)?);
        } else {
            say!("report: {}", dir.file("report.html").display());
            say!("{}", summary.verdict);
        }
        Ok(Exit::Done)
    }
}
