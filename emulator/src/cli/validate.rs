//! `migbed validate`.

use super::Exit;
use super::output::say;
use crate::clock::mono_ns;
use crate::report::validation;
use crate::run::Unusable;
use crate::validate::errors::{Comparison, Row, Verdict, table, verdicts};
use crate::validate::input;
use crate::validate::select::Selection;
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
    /// Replay only lines whose columns fit: kind=plain|boundary,link_mbit>=200.
    #[arg(long, value_name = "EXPR", default_value = "")]
    select: Selection,
    /// Write the comparisons and a page with scatter plots here; a new or an empty directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
        if let Some(out) = &self.out {
            let taken = std::fs::read_dir(out).is_ok_and(|mut all| all.next().is_some());
            if taken {
                return Err(Unusable(format!("{}: not empty", out.display())).into());
            }
        }
        let truth =
            input::read(&self.file, &self.select).map_err(|error| Unusable(error.to_string()))?;
        let mut comparisons = Vec::new();
        let total = truth.configurations.len() * self.repeats as usize;
        let (mut done, began_ns) = (0, mono_ns());
        for configuration in &truth.configurations {
            for seed in 1..=u64::from(self.repeats) {
                if !self.json {
                    let left = ahead(done, total, mono_ns() - began_ns);
                    let title = configuration.title();
                    eprintln!("migbed: {} of {total}{left}: {title}", done + 1);
                }
                let scratch = super::migrate::temporary_directory()?;
                let result = emulate(configuration, seed, &scratch);
                // Best effort: the result is what matters.
                let _ = std::fs::remove_dir_all(&scratch);
                comparisons.extend(compare(configuration, &result?));
                done += 1;
            }
        }
        let (rows, verdicts) = (table(&comparisons), verdicts(&comparisons));
        let all = json!({
            "rows": rows,
            "verdicts": verdicts,
            "comparisons": comparisons,
            "left_out": truth.left_out,
        });
        if let Some(out) = &self.out {
            let page = validation::page(&self.file, &rows, &verdicts, &comparisons);
            std::fs::create_dir_all(out)
                .and_then(|()| std::fs::write(out.join("validation.json"), all.to_string()))
                .and_then(|()| std::fs::write(out.join("index.html"), page))
                .map_err(|error| Unusable(format!("{}: {error}", out.display())))?;
        }
        if self.json {
            say!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            print(&rows, &verdicts, &comparisons);
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

/// What is left, by what was done.
fn ahead(done: usize, total: usize, elapsed_ns: u64) -> String {
    if done == 0 {
        return String::new();
    }
    let seconds = elapsed_ns as f64 / 1e9 / done as f64 * (total - done) as f64;
    format!(" (about {seconds:.0} s left)")
}

fn print(rows: &[Row], verdicts: &[Verdict], comparisons: &[Comparison]) {
    let mut runs = Table::new();
    runs.set_header([
        "run",
        "kind",
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
            c.kind.clone(),
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
    for verdict in verdicts.iter().filter(|verdict| verdict.completed < 1.0) {
        let own = verdict
            .real
            .map_or_else(|| "–".to_owned(), |score| format!("{score:.3}"));
        say!(
            "{}: {:.0} % of {} real runs completed; Brier score of the emulation {:.3}, of real QEMU's own \
             frequencies {own}",
            verdict.band,
            verdict.completed * 100.0,
            verdict.runs,
            verdict.emulation,
        );
    }
}
