//! `migbed trace incident`: a log of a migration that went badly, made a scenario and a bundle.

use crate::cli::Exit;
use crate::cli::output::say;
use crate::incident::{Incident, bundle, scenario};
use crate::run::Unusable;
use crate::validate::logs;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use traces::import::migration_logs;

#[derive(Debug, Args)]
pub(in crate::cli) struct IncidentArgs {
    /// Answers of QEMU's query-migrate (JSON) or of `virsh domjobinfo`, polled while the migration went on.
    log: PathBuf,
    /// Where to: a new directory for `scenario.toml` and `bundle`.
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Which migration of a log that holds several, from 1.
    #[arg(long, value_name = "N")]
    migration: Option<usize>,
    /// What the guest writes is taken from these logs of the same guest instead; may be given again.
    #[arg(long, value_name = "LOG")]
    curve_from: Vec<PathBuf>,
    /// Space scale; without it as much as brings the link to 1.1 Gbit/s.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65536))]
    scale: Option<u32>,
}

impl IncidentArgs {
    pub(super) fn execute(&self) -> Result<Exit> {
        let unusable = |error: &dyn std::fmt::Display| Unusable(error.to_string());
        let mut found = migration_logs(&self.log).map_err(|error| unusable(&error))?;
        let (file, many) = (self.log.display(), found.len());
        let which = match self.migration {
            None if many > 1 => {
                return Err(Unusable(format!(
                    "{file} holds {many} migrations; say which with --migration 1 to {many}"
                ))
                .into());
            }
            None => 1,
            Some(which) if (1..=many).contains(&which) => which,
            Some(which) => {
                let what = format!("--migration {which}: {file} holds {many}");
                return Err(Unusable(what).into());
            }
        };
        let log = found.swap_remove(which - 1);
        let curve = logs::all(&self.curve_from).map_err(|error| unusable(&error))?;
        let incident =
            Incident::of(&log, &curve).map_err(|error| Unusable(format!("{file}: {error}")))?;
        let scale = self
            .scale
            .unwrap_or_else(|| incident.scale(logs::CARRIED_BPS));
        if self.out.exists() {
            return Err(Unusable(format!("{}: is there already", self.out.display())).into());
        }
        std::fs::create_dir_all(&self.out).with_context(|| format!("{}", self.out.display()))?;
        let path = self.out.join("scenario.toml");
        std::fs::write(&path, scenario(&incident, scale))
            .with_context(|| format!("{}", path.display()))?;
        bundle(&incident, &file.to_string()).write(&self.out.join("bundle"))?;
        for note in &incident.notes {
            say!("{note}");
        }
        let last = log.last();
        let ended = match (log.completed, log.downtime_ms) {
            (true, Some(ms)) => format!("completed, downtime {ms} ms"),
            (true, None) => "completed".to_owned(),
            (false, _) => "not completed".to_owned(),
        };
        say!(
            "the log: {ended}, {} ms, {} MiB, {} readings of the dirty log",
            last.at_ms,
            last.transferred >> 20,
            last.syncs
        );
        say!("{}: run it with `migbed run {0}`", path.display());
        Ok(Exit::Done)
    }
}
