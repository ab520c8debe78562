//! The same links, and the same migrations, on every backend this kernel has, and whether they come out the same. Run by hand or by CI:
//!
//!     cargo bench -p migbed-tests --bench conformance -- [--backends relay,netem,htb] [--repeats 30] [--scale small|large]
//!                                                        [--only links,jitter,loss,congestion,migration] [--json FILE]
//!
//! Two one-sided tests on trimmed means (`measure::equivalence`), margins in the table. *Added delay* is what a link with a
//! delay takes beyond the same link without, on the same backend and in the same repetition; what the backend itself takes
//! is the case "idle, no delay". Backends take turns within each
//! repetition, so that a disturbance meets all of them. `small` keeps to 20 Mbit/s, which a kernel of one slow processor
//! (tests/netem-guest) carries; `large` goes to 1 Gbit/s. Exit code 1 when a difference is shown or equivalence is not.
//! This program is `migbed` too, so that what migrates is what was just built. Needs no privileges.

mod cases;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use migbed_tests::measure::equivalence::compare;
use migbed_tests::measure::figures::circumstances;
use migbed_tests::measure::path::Path;
use migbed_tests::measure::probe::datagrams;
use migbed_tests::measure::{Options, finish};
use netmodel::backend::BackendKind;
use netmodel::link::{Jitter, LinkSpec, Loss};
use netmodel::sys::netns::enter_machine;
use serde_json::{Value, json};

use cases::{Case, What, cases};

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if matches!(first.as_deref(), Some("migrate" | "machine" | "agent")) {
        return migbed::cli::main();
    }
    match study() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

type Figures = BTreeMap<&'static str, Vec<f64>>;

/// Whether everything was shown to be equivalent.
fn study() -> Result<bool> {
    let mut options = Options::read()?;
    let one = options.take("--links-cell", "");
    if !one.is_empty() {
        return links_cell(&one).map(|()| true);
    }
    let asked = options.take("--backends", "relay,netem,htb");
    let repeats: usize = options.take("--repeats", "30").parse()?;
    let scale = options.take("--scale", "small");
    let only = options.take("--only", "links,jitter,loss,congestion,migration");
    let file = options.take("--json", "");
    options.done()?;
    let backends = available(&asked)?;
    let cases = cases(&scale, &only)?;
    println!("{}; {repeats} interleaved repetitions\n", circumstances());
    println!(
        "| case | figure | backends | trimmed means | difference, 90 % interval | margin | verdict |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut all_equivalent = true;
    let mut rows = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let got = measure(case, number, &backends, repeats, &scale, &only)?;
        for row in judge(case, &got) {
            all_equivalent &= row["equivalent"] == json!(true);
            rows.push(row);
        }
    }
    if !file.is_empty() {
        std::fs::write(&file, serde_json::to_string_pretty(&rows)?)?;
    }
    if rows.is_empty() {
        bail!("fewer than two backends can carry any of the cases here");
    }
    Ok(all_equivalent)
}

/// The backends asked for that this kernel has; the others are named.
fn available(asked: &str) -> Result<Vec<BackendKind>> {
    let capabilities = netmodel::sys::probe::probe();
    let mut there = Vec::new();
    for name in asked.split(',') {
        let kind: BackendKind = name.parse()?;
        match kind.needs().iter().find(|need| !capabilities.has(need)) {
            None => there.push(kind),
            Some(lack) => eprintln!("SKIPPED backend {kind}: missing {lack}"),
        }
    }
    Ok(there)
}

/// Figures of every backend that can carry the case, taken in turns.
fn measure(
    case: &Case,
    number: usize,
    backends: &[BackendKind],
    repeats: usize,
    scale: &str,
    only: &str,
) -> Result<BTreeMap<BackendKind, Figures>> {
    let able: Vec<BackendKind> = backends
        .iter()
        .copied()
        .filter(|kind| kind.check("", case.what.spec()).is_ok())
        .collect();
    let mut got: BTreeMap<BackendKind, Figures> = BTreeMap::new();
    if able.len() < 2 {
        return Ok(got);
    }
    let mut keep = |kind: BackendKind, figures: &Value| {
        for (name, _) in &case.margins {
            let value = figures[*name].as_f64().unwrap_or(f64::NAN);
            got.entry(kind)
                .or_default()
                .entry(name)
                .or_default()
                .push(value);
        }
    };
    match &case.what {
        What::Migration { arguments, .. } => {
            for repetition in 0..repeats {
                for turn in 0..able.len() {
                    let kind = able[(turn + repetition) % able.len()];
                    keep(kind, &migrate(arguments, kind, repetition)?);
                }
                eprintln!("{}: {}/{repeats}", case.name, repetition + 1);
            }
        }
        // One process for all repetitions of a case: entering namespaces takes a process of one thread.
        _ => {
            let names: Vec<&str> = able.iter().map(|kind| kind.name()).collect();
            let asked = json!([scale, only, number, names, repeats]).to_string();
            let lines = run_cell(&asked)?;
            for line in lines {
                let (kind, figures): (String, Value) = serde_json::from_value(line)?;
                keep(kind.parse()?, &figures);
            }
        }
    }
    Ok(got)
}

/// This program again, for the link cases; its answer is one line a measurement.
fn run_cell(asked: &str) -> Result<Vec<Value>> {
    let mut command = Command::new("/proc/self/exe");
    let child = command
        .args(["--links-cell", asked])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = finish(child, CELL_WITHIN_S)?;
    if !output.status.success() {
        bail!("measuring {asked} ended with {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// A thousand repetitions of the longest case.
const CELL_WITHIN_S: u64 = 3600;

fn links_cell(asked: &str) -> Result<()> {
    let (scale, only, number, names, repeats): (String, String, usize, Vec<String>, usize) =
        serde_json::from_str(asked)?;
    let cases = cases(&scale, &only)?;
    let case = &cases[number];
    let kinds: Vec<BackendKind> = names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    enter_machine()?;
    for repetition in 0..repeats {
        for turn in 0..kinds.len() {
            let kind = kinds[(turn + repetition) % kinds.len()];
            let figures = once(&case.what, kind, repetition as u64)?;
            println!("{}", json!([kind.name(), figures]));
        }
        eprintln!("{}: {}/{repeats}", case.name, repetition + 1);
    }
    Ok(())
}

/// One measurement on a fabric of its own.
fn once(what: &What, kind: BackendKind, seed: u64) -> Result<Value> {
    match what {
        What::Link { spec, stream } => {
            let path = Path::build(*spec, kind, seed)?;
            let got = stream.run(&path.ends)?;
            let late = path.fabric.counters()?.relay.lateness;
            Ok(json!({
                "late_us": [late.quantile_ns(500) / 1000, late.quantile_ns(990) / 1000, late.max_ns() / 1000],
                "goodput_mbps": got.goodput_bps / 1e6,
                "rtt_ms": got.rtt_ms,
                "retransmits": got.retransmits,
            }))
        }
        What::Idle {
            spec,
            datagrams: count,
        } => {
            let of = |spec: LinkSpec, count| {
                let path = Path::build(spec, kind, seed)?;
                let longest = spec.delay_most() + Duration::from_millis(500);
                datagrams(&path.ends, count, Duration::from_millis(5), longest)
            };
            let (without, _) = of(undelayed(spec), BASELINE_DATAGRAMS)?.delay();
            let got = of(*spec, *count)?;
            let (mean, deviation) = got.delay();
            Ok(json!({
                "delay_ms": mean,
                "added_delay_ms": mean - without,
                "deviation_ms": deviation,
                "lost_percent": got.lost_share() * 100.0,
                "overtaken": got.overtaken,
            }))
        }
        What::Migration { .. } => bail!("migrations have processes of their own"),
    }
}

/// Enough for what a path takes without any delay: it varies little.
const BASELINE_DATAGRAMS: u32 = 50;

/// The link as it is but for its delay and losses.
fn undelayed(spec: &LinkSpec) -> LinkSpec {
    LinkSpec {
        delay: Duration::ZERO,
        jitter: Jitter::default(),
        loss: Loss::None,
        ..*spec
    }
}

/// One `migbed migrate` over a backend.
fn migrate(arguments: &[String], kind: BackendKind, repetition: usize) -> Result<Value> {
    let mut command = Command::new("/proc/self/exe");
    let child = command
        .arg("migrate")
        .args(arguments)
        .args([
            "--json",
            "--backend",
            kind.name(),
            "--seed",
            &repetition.to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = finish(child, 120)?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("migbed migrate over {kind} ended with {}", output.status))?;
    let total = answer
        .pointer("/query_migrate/total-time")
        .and_then(Value::as_f64);
    let sent = answer
        .pointer("/query_migrate/ram/transferred")
        .and_then(Value::as_f64);
    Ok(json!({
        "total_ms": total.context("no total-time")?,
        "sent_mib": sent.context("no transferred")? / f64::from(1 << 20),
    }))
}

/// A row a figure and pair of backends, printed and returned.
fn judge(case: &Case, got: &BTreeMap<BackendKind, Figures>) -> Vec<Value> {
    let kinds: Vec<BackendKind> = got.keys().copied().collect();
    let mut rows = Vec::new();
    for (figure, margin) in &case.margins {
        for (n, first) in kinds.iter().enumerate() {
            for second in &kinds[n + 1..] {
                let Some(found) = compare(&got[first][figure], &got[second][figure], *margin)
                else {
                    continue;
                };
                let verdict = match (found.is_equivalent(), found.is_different()) {
                    (true, _) => "equivalent",
                    (_, true) => "DIFFERENT",
                    _ => "not shown",
                };
                println!(
                    "| {} | {figure} | {first}, {second} | {:.4}, {:.4} | {:.4} to {:.4} | {:.4} | {verdict} |",
                    case.name,
                    found.first,
                    found.second,
                    found.difference.0,
                    found.difference.1,
                    found.margin
                );
                rows.push(json!({
                    "case": case.name, "figure": figure, "first": first.name(), "second": second.name(),
                    "first_mean": found.first, "second_mean": found.second,
                    "low": found.difference.0, "high": found.difference.1, "margin": found.margin,
                    "equivalent": found.is_equivalent(), "n": got[first][figure].len(),
                }));
            }
        }
    }
    rows
}
