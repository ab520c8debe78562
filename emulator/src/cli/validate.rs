//! `migbed validate`.

use super::Exit;
use super::output::say;
use crate::clock::mono_ns;
use crate::report::validation;
use crate::run::Unusable;
use crate::validate::bars::Bar;
use crate::validate::errors::{Comparison, FIELDS, Row};
use crate::validate::input::{self, GroundTruth};
use crate::validate::logs::{self, CurveFrom, Logged};
use crate::validate::select::Selection;
use crate::validate::verdicts::Verdict;
use crate::validate::{Configuration, Emulated, Validation, compare, emulate};
use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::Table;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum ValidateCommand {
    /// Replay migrations measured on real QEMU and print the error of the emulation, of each
    /// model, and of real QEMU against its own repeats.
    Qemu(QemuArgs),
    /// Emulate migrations from their logs (query-migrate or domjobinfo, polled) and print how far off that is.
    Log(LogArgs),
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
    /// Write the comparisons, a page with scatter plots and the emulated migrations (migrations.jsonl) here, anew after each
    /// emulation; a new or an empty directory.
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
            Self::Log(args) => args.execute(),
        }
    }
}

/// Something to emulate once.
trait Task {
    /// In a few words.
    fn title(&self) -> String;
    /// How long the real one took, ms: about what the emulation takes.
    fn real_ms(&self) -> f64;
    /// Real runs it stands for.
    fn runs(&self) -> usize;
    /// Which of its repeats.
    fn seed(&self) -> u64;
    /// Emulates it in a scratch directory: the comparisons with what was real, and what was emulated.
    fn compare(&self, scratch: &Path) -> Result<(Vec<Comparison>, Vec<Emulated>)>;
}

impl Task for (&Configuration, u64) {
    fn title(&self) -> String {
        self.0.title()
    }

    fn real_ms(&self) -> f64 {
        self.0.longest_ms()
    }

    fn runs(&self) -> usize {
        self.0.runs.len()
    }

    fn seed(&self) -> u64 {
        self.1
    }

    fn compare(&self, scratch: &Path) -> Result<(Vec<Comparison>, Vec<Emulated>)> {
        let emulated = emulate(self.0, self.1, scratch)?;
        Ok((compare(self.0, &emulated), emulated))
    }
}

impl Task for (&Logged, u64) {
    fn title(&self) -> String {
        self.0.title()
    }

    fn real_ms(&self) -> f64 {
        self.0.real_ms()
    }

    fn runs(&self) -> usize {
        1
    }

    fn seed(&self) -> u64 {
        self.1
    }

    fn compare(&self, scratch: &Path) -> Result<(Vec<Comparison>, Vec<Emulated>)> {
        self.0.compare(self.1, scratch)
    }
}

/// What both commands do with what they emulate, and where it goes.
struct Series<'a> {
    title: String,
    out: Option<&'a Path>,
    json: bool,
}

impl Series<'_> {
    fn check(&self) -> Result<()> {
        if let Some(out) = self.out {
            let taken = std::fs::read_dir(out).is_ok_and(|mut all| all.next().is_some());
            if taken {
                return Err(Unusable(format!("{}: not empty", out.display())).into());
            }
        }
        Ok(())
    }

    fn run(&self, plan: &[impl Task], mut left_out: BTreeMap<String, usize>) -> Result<Exit> {
        let mut comparisons = Vec::new();
        let (mut broken, began_ns) = (false, mono_ns());
        for (done, task) in plan.iter().enumerate() {
            if !self.json {
                let left = ahead(plan, done, mono_ns() - began_ns);
                eprintln!(
                    "migbed: {} of {}{left}: {}",
                    done + 1,
                    plan.len(),
                    task.title()
                );
            }
            match one(task) {
                Ok((more, emulated)) => {
                    comparisons.extend(more);
                    if let Some(out) = self.out {
                        append(out, task, &emulated)?;
                    }
                }
                // A long series is not lost with one of its members.
                Err(error) => {
                    eprintln!("migbed: {}: {error:#}", task.title());
                    let why = "their emulation did not get to a result".to_owned();
                    *left_out.entry(why).or_default() += task.runs();
                    broken = true;
                }
            }
            if let Some(out) = self.out {
                self.write(out, &Validation::new(comparisons.clone(), left_out.clone()))?;
            }
        }
        let all = Validation::new(comparisons, left_out);
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

    fn write(&self, out: &Path, all: &Validation) -> Result<()> {
        let page = validation::page(&self.title, all);
        let json = serde_json::to_string(all)?;
        std::fs::create_dir_all(out)
            .and_then(|()| std::fs::write(out.join("validation.json"), json))
            .and_then(|()| std::fs::write(out.join("index.html"), page))
            .map_err(|error| Unusable(format!("{}: {error}", out.display())).into())
    }
}

fn named(files: &[PathBuf]) -> String {
    let names: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    names.join(", ")
}

/// Each with the first seed before any with the second: what is there when it is interrupted covers all.
fn with_seeds<T>(each: &[T], repeats: u32) -> Vec<(&T, u64)> {
    let seeds = 1..=u64::from(repeats);
    seeds
        .flat_map(|seed| each.iter().map(move |one| (one, seed)))
        .collect()
}

impl QemuArgs {
    fn execute(&self) -> Result<Exit> {
        let series = Series {
            title: named(&self.files),
            out: self.out.as_deref(),
            json: self.json,
        };
        series.check()?;
        let truth = self.read()?;
        series.run(
            &with_seeds(&truth.configurations, self.repeats),
            truth.left_out,
        )
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
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Logs of migrations; one that holds several takes what the guest writes from the others of it.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What the guest writes is taken from these logs of the same guest instead; may be given again.
    #[arg(long, value_name = "LOG")]
    curve_from: Vec<PathBuf>,
    /// What the guest writes is taken from each migration's own log, not from the others of its file.
    #[arg(long, conflicts_with = "curve_from")]
    own_curve: bool,
    /// Only so many migrations of each file.
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// Space scale; without it as much as brings the link to 1.1 Gbit/s.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65536))]
    scale: Option<u32>,
    /// Emulate every migration so many times, with seeds 1, 2, …
    #[arg(long, default_value_t = 1)]
    repeats: u32,
    /// Write the comparisons, a page with scatter plots and the emulated migrations (migrations.jsonl) here; a new or an
    /// empty directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl LogArgs {
    fn execute(&self) -> Result<Exit> {
        let series = Series {
            title: named(&self.files),
            out: self.out.as_deref(),
            json: self.json,
        };
        series.check()?;
        let unusable = |error: traces::import::ImportError| Unusable(error.to_string());
        let curve = match (self.own_curve, &self.curve_from[..]) {
            (true, _) => CurveFrom::Own,
            (false, []) => CurveFrom::Others,
            (false, files) => CurveFrom::Given(logs::all(files).map_err(unusable)?),
        };
        let (mut all, mut left_out) = (Vec::new(), BTreeMap::new());
        for file in &self.files {
            let found = logs::read(file, &curve).map_err(unusable)?;
            for (log, incident) in found.into_iter().take(self.first.unwrap_or(usize::MAX)) {
                match incident {
                    Ok(incident) => {
                        let scale = self
                            .scale
                            .unwrap_or_else(|| incident.scale(logs::CARRIED_BPS));
                        all.push(Logged {
                            log,
                            incident,
                            scale,
                            file: file.display().to_string(),
                        });
                    }
                    Err(why) => *left_out.entry(why.to_string()).or_default() += 1,
                }
            }
        }
        if all.is_empty() {
            let why: Vec<String> = left_out.into_keys().collect();
            return Err(Unusable(format!("nothing to emulate: {}", why.join("; "))).into());
        }
        for logged in all.iter().filter(|_| !self.json) {
            say!("{}", logged.title());
            for note in &logged.incident.notes {
                say!("  {note}");
            }
        }
        series.run(&with_seeds(&all, self.repeats), left_out)
    }
}

/// Adds what was emulated to a directory's `migrations.jsonl`: of each migration what it stands for, its seed and its record.
fn append(out: &Path, task: &impl Task, emulated: &[Emulated]) -> Result<()> {
    let path = out.join("migrations.jsonl");
    let mut lines = String::new();
    for each in emulated {
        let line = serde_json::json!({
            "title": task.title(), "seed": task.seed(), "migration": each.record,
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    let appended = std::fs::create_dir_all(out).and_then(|()| {
        let mut file = File::options().create(true).append(true).open(&path)?;
        file.write_all(lines.as_bytes())
    });
    appended.map_err(|error| Unusable(format!("{}: {error}", path.display())).into())
}

/// One of a series.
fn one(task: &impl Task) -> Result<(Vec<Comparison>, Vec<Emulated>)> {
    let scratch = super::migrate::temporary_directory()?;
    let result = task.compare(&scratch);
    // Best effort: the result is what matters.
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

/// What an emulation takes besides the migration: measuring links, building, tearing down.
const BESIDES_MS: f64 = 8_000.0;

/// What is left, by what was done: a migration takes about as long as the real one.
fn ahead(plan: &[impl Task], done: usize, elapsed_ns: u64) -> String {
    fn work(part: &[impl Task]) -> f64 {
        part.iter().map(|task| task.real_ms() + BESIDES_MS).sum()
    }
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
