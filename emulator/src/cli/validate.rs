//! `migbed validate`.

use super::Exit;
use super::output::say;
use crate::clock::mono_ns;
use crate::report::validation;
use crate::run::Unusable;
use crate::validate::bars::Bar;
use crate::validate::errors::{Comparison, FIELDS, Row};
use crate::validate::input::{self, GroundTruth};
use crate::validate::select::Selection;
use crate::validate::verdicts::Verdict;
use crate::validate::{Configuration, Validation, compare, emulate};
use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::Table;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum ValidateCommand {
    /// Replay migrations measured on real QEMU and print the error of the emulation, of each
    /// model, and of real QEMU against its own repeats.
    Qemu(QemuArgs),
}

#[derive(Debug, Args)]
pub(super) struct QemuArgs {
    /// One JSON object a line: configuration and result of a migration each; several files are taken together.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Emulate every configuration so many times, with seeds 1, 2, …; all with the first before any with the second.
    #[arg(long, default_value_t = 1)]
    repeats: u32,
    /// Replay only lines whose columns fit: kind=plain|boundary,link_mbit>=200.
    #[arg(long, value_name = "EXPR", default_value = "")]
    select: Selection,
    /// Write the comparisons and a page with scatter plots here, anew after each emulation; a new or an empty directory.
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
        let truth = self.read()?;
        let mut plan = Vec::new();
        for seed in 1..=u64::from(self.repeats) {
            plan.extend(
                truth
                    .configurations
                    .iter()
                    .map(|configuration| (configuration, seed)),
            );
        }
        let (mut comparisons, mut failed) = (Vec::new(), truth.left_out.clone());
        let (mut broken, began_ns) = (false, mono_ns());
        for (done, (configuration, seed)) in plan.iter().enumerate() {
            if !self.json {
                let left = ahead(&plan, done, mono_ns() - began_ns);
                let (n, of, title) = (done + 1, plan.len(), configuration.title());
                eprintln!("migbed: {n} of {of}{left}: {title}");
            }
            match one(configuration, *seed) {
                Ok(more) => comparisons.extend(more),
                // A long series is not lost with one of its members.
                Err(error) => {
                    let id = &configuration.config_id;
                    eprintln!("migbed: {id}, seed {seed}: {error:#}");
                    let why = "their emulation did not get to a result".to_owned();
                    *failed.entry(why).or_default() += configuration.runs.len();
                    broken = true;
                }
            }
            if let Some(out) = &self.out {
                self.write(out, &Validation::new(comparisons.clone(), failed.clone()))?;
            }
        }
        let all = Validation::new(comparisons, failed);
        if self.json {
            say!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            print(&all);
        }
        let bad = |c: &Comparison| c.emulated.completed && !c.verified;
        Ok(match broken || all.comparisons.iter().any(bad) {
            true => Exit::Failed,
            false => Exit::Done,
        })
    }

    /// What the files hold together.
    fn read(&self) -> Result<GroundTruth> {
        let mut all = GroundTruth {
            configurations: Vec::new(),
            left_out: BTreeMap::new(),
        };
        for file in &self.files {
            let read = input::read(file, &self.select).map_err(|error| Unusable(error.to_string()));
            let GroundTruth {
                configurations,
                left_out,
            } = read?;
            all.configurations.extend(configurations);
            for (why, runs) in left_out {
                *all.left_out.entry(why).or_default() += runs;
            }
        }
        Ok(all)
    }

    fn write(&self, out: &Path, all: &Validation) -> Result<()> {
        let names: Vec<String> = self
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let page = validation::page(&names.join(", "), all);
        let json = serde_json::to_string(all)?;
        std::fs::create_dir_all(out)
            .and_then(|()| std::fs::write(out.join("validation.json"), json))
            .and_then(|()| std::fs::write(out.join("index.html"), page))
            .map_err(|error| Unusable(format!("{}: {error}", out.display())).into())
    }
}

/// One configuration with one seed.
fn one(configuration: &Configuration, seed: u64) -> Result<Vec<Comparison>> {
    let scratch = super::migrate::temporary_directory()?;
    let result = emulate(configuration, seed, &scratch);
    // Best effort: the result is what matters.
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(compare(configuration, &result?))
}

/// What an emulation takes besides the migration: measuring links, building, tearing down.
const BESIDES_MS: f64 = 8_000.0;

/// What is left, by what was done: a migration takes about as long as the real one.
fn ahead(plan: &[(&Configuration, u64)], done: usize, elapsed_ns: u64) -> String {
    let work = |part: &[(&Configuration, u64)]| -> f64 {
        part.iter().map(|(c, _)| c.longest_ms() + BESIDES_MS).sum()
    };
    let (behind, left) = (work(&plan[..done]), work(&plan[done..]));
    let pace = match done {
        0 => 1.0,
        _ => elapsed_ns as f64 / 1e6 / behind,
    };
    let minutes = left * pace / 60_000.0;
    format!(" (about {minutes:.1} min left)")
}

fn print(all: &Validation) {
    say!("{}", runs(&all.comparisons));
    say!("{}", errors(&all.rows));
    if !all.bars.is_empty() {
        say!("{}", bars(&all.bars));
    }
    for verdict in all
        .verdicts
        .iter()
        .filter(|verdict| verdict.completed < 1.0)
    {
        say!("{}", score(verdict));
    }
    for (reason, runs) in &all.left_out {
        say!("left out: {runs} runs, {reason}");
    }
}

fn runs(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new();
    let mut header = vec!["run".to_owned(), "kind".to_owned(), "λ".to_owned()];
    // Emulated below real: fourteen columns are more than a terminal has.
    header.extend(FIELDS.map(|(name, unit, _)| match unit {
        "ms" | "MiB" => format!("{name}, {unit}"),
        _ => name.to_owned(),
    }));
    header.push("grade".to_owned());
    table.set_header(header);
    for c in comparisons {
        let kind = if c.mode == "precopy" {
            &c.kind
        } else {
            &c.mode
        };
        let mut row = vec![c.run_id.clone(), kind.clone(), format!("{:.2}", c.lambda)];
        row.extend(FIELDS.map(|(_, unit, figure)| {
            let digits = usize::from(unit == "MiB");
            let shown = |value: Option<f64>| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
            };
            format!("{}\n{}", shown(figure(&c.real)), shown(figure(&c.emulated)))
        }));
        row.push(c.grade.clone());
        table.add_row(row);
    }
    table
}

fn errors(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.set_header(["", "field", "group", "n", "median error", "p90 error"]);
    for row in rows {
        table.add_row([
            row.who.clone(),
            row.what.clone(),
            row.band.clone(),
            row.error.n.to_string(),
            percent(row.error.median),
            percent(row.error.p90),
        ]);
    }
    table
}

fn bars(bars: &[Bar]) -> Table {
    let mut table = Table::new();
    table.set_header(["bar", "group", "is", "at most", "", ""]);
    for bar in bars {
        let shown = |value: f64| match bar.in_ms {
            true => format!("{value:.1} ms"),
            false => percent(value),
        };
        let kept = if bar.holds() { "kept" } else { "missed" };
        table.add_row([
            bar.what.clone(),
            bar.band.clone(),
            shown(bar.got),
            shown(bar.most),
            kept.to_owned(),
            bar.why.clone(),
        ]);
    }
    table
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn score(verdict: &Verdict) -> String {
    let scores = verdict.scores.iter();
    let scores: Vec<String> = scores
        .map(|score| format!("{} {:.3}", score.who, score.brier))
        .collect();
    format!(
        "{}: {:.0} % of {} real runs completed; Brier scores: {}",
        verdict.band,
        verdict.completed * 100.0,
        verdict.runs,
        scores.join(", ")
    )
}
