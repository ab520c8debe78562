//! `migbed validate`.

use super::Exit;
use super::output::say;
use crate::run::Unusable;
use crate::validate::errors::{Comparison, Row, table};
use crate::validate::input::{self, Selection};
use crate::validate::{compare, emulate};
use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum ValidateCommand {
    /// Replay migrations measured on real QEMU and print the error of the emulation, of each
    /// model, and of real QEMU against its own repeats.
    Qemu(QemuArgs),
}

#[derive(Debug, Args)]
pub(super) struct QemuArgs {
    /// One JSON object a line: configuration and result of a migration each.
    file: PathBuf,
    /// Emulate every configuration so many times, with seeds 1, 2, …
    #[arg(long, default_value_t = 1)]
    repeats: u32,
    /// Also replay runs near the boundary of convergence.
    #[arg(long)]
    boundary: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ValidateCommand {
    pub(super) fn execute(&self) -> Result<Exit> {
        match self {
            Self::Qemu(args) => args.execute(),
        }
    }
}

impl QemuArgs {
    fn execute(&self) -> Result<Exit> {
        let truth = input::read(
            &self.file,
            Selection {
                boundary: self.boundary,
            },
        )
        .map_err(|error| Unusable(error.to_string()))?;
        let mut comparisons = Vec::new();
        let total = truth.configurations.len() * self.repeats as usize;
        let mut done = 0;
        for configuration in &truth.configurations {
            for seed in 1..=u64::from(self.repeats) {
                done += 1;
                if !self.json {
                    eprintln!("migbed: {done} of {total}: {}", configuration.title());
                }
                let scratch = super::migrate::temporary_directory()?;
                let result = emulate(configuration, seed, &scratch);
                // Best effort: the result is what matters.
                let _ = std::fs::remove_dir_all(&scratch);
                let (record, measured) = result?;
                let runs: Vec<_> = configuration.runs.iter().collect();
                comparisons.extend(compare(configuration, &runs, &record, &measured));
            }
        }
        let rows = table(&comparisons);
        if self.json {
            let all = json!({
                "rows": rows,
                "comparisons": comparisons,
                "left_out": truth.left_out,
            });
            say!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            print(&rows, &comparisons);
            for (reason, runs) in &truth.left_out {
                say!("left out: {runs} runs, {reason}");
            }
        }
        let bad = comparisons
            .iter()
            .any(|c| c.emulated.completed && !c.verified);
        Ok(if bad { Exit::Failed } else { Exit::Done })
    }
}

fn print(rows: &[Row], comparisons: &[Comparison]) {
    let mut runs = Table::new();
    runs.set_header([
        "run",
        "λ",
        "total ms",
        "emulated",
        "MiB",
        "emulated",
        "outage ms",
        "emulated",
        "syncs",
        "emulated",
        "grade",
    ]);
    let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    for c in comparisons {
        runs.add_row([
            c.run_id.clone(),
            format!("{:.2}", c.lambda),
            format!("{:.0}", c.real.total_time_ms),
            format!("{:.0}", c.emulated.total_time_ms),
            mib(c.real.bytes),
            mib(c.emulated.bytes),
            format!("{:.0}", c.real.outage_ms),
            format!("{:.0}", c.emulated.outage_ms),
            format!("{:.0}", c.real.rounds),
            format!("{:.0}", c.emulated.rounds),
            c.grade.clone(),
        ]);
    }
    say!("{runs}");
    let mut table = Table::new();
    table.set_header(["", "field", "λ", "n", "median error", "p90 error"]);
    for row in rows {
        table.add_row([
            row.who.clone(),
            row.what.clone(),
            row.band.clone(),
            row.error.n.to_string(),
            format!("{:.2} %", row.error.median * 100.0),
            format!("{:.2} %", row.error.p90 * 100.0),
        ]);
    }
    say!("{table}");
}
