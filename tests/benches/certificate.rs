//! Whether the certificate tells a calm run from a disturbed one. Run by hand on a calm machine:
//!
//!     cargo bench -p migbed-tests --bench certificate -- [--repeats 30] [--kinds calm,hogs,relay-stop,source-stop,destination-stop]
//!                                                        [--link 1Gbit] [--backend relay]
//!
//! Each repetition is one `migbed migrate` of about two seconds on the wire, of each kind in turn:
//! - `calm`: nothing else of ours runs.
//! - `hogs`: as many busy loops as there are processors, during all of it.
//! - `relay-stop`, `source-stop`, `destination-stop`: that process is stopped (SIGSTOP) for 150 ms in the middle.
//!
//! A disturbed run is *flagged* by any grade but A. For those that were not, the table says how far their total time lay
//! from the calm median: a disturbance that changed nothing needs no flag, and is counted as not flagged all the same.
//! This program is `migbed` too. Needs no privileges.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use migbed::event::EventKind;
use migbed::migration::record::Phase;
use migbed_tests::measure::Options;
use migbed_tests::measure::figures::{circumstances, median, spread};
use migbed_tests::{Running, Sandbox};
use netmodel::sys::clock::{now_ns, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if matches!(first.as_deref(), Some("migrate" | "machine" | "agent")) {
        return migbed::cli::main();
    }
    match study() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("certificate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One run: its grade, why, and QMP's total-time.
struct Got {
    grade: String,
    reasons: String,
    total_ms: f64,
}

fn study() -> Result<()> {
    let mut options = Options::read()?;
    let repeats: usize = options.take("--repeats", "30").parse()?;
    let kinds = options.take(
        "--kinds",
        "calm,hogs,relay-stop,source-stop,destination-stop",
    );
    let link = options.take("--link", "1Gbit");
    let backend = options.take("--backend", "relay");
    options.done()?;
    println!("{}; {repeats} interleaved repetitions\n", circumstances());
    let mut got: BTreeMap<String, Vec<Got>> = BTreeMap::new();
    for repetition in 0..repeats {
        for kind in kinds.split(',') {
            let one =
                once(kind, &link, &backend).with_context(|| format!("{kind}, {repetition}"))?;
            eprintln!(
                "{}/{repeats} {kind}: {} {:.0} ms {}",
                repetition + 1,
                one.grade,
                one.total_ms,
                one.reasons
            );
            got.entry(kind.to_owned()).or_default().push(one);
        }
    }
    let totals = |of: &[Got]| of.iter().map(|one| one.total_ms).collect::<Vec<_>>();
    let calm = got
        .get("calm")
        .map_or(f64::NAN, |calm| median(&totals(calm)));
    println!("| kind | A | B | C | invalid | total time ms | not flagged: off the calm median % |");
    println!("|---|---|---|---|---|---|---|");
    for kind in kinds.split(',') {
        let runs = &got[kind];
        let count = |grade: &str| runs.iter().filter(|one| one.grade == grade).count();
        let unflagged = runs.iter().filter(|one| one.grade == "A");
        let off: Vec<f64> = unflagged
            .map(|one| (one.total_ms / calm - 1.0) * 100.0)
            .collect();
        let off = if off.is_empty() {
            "–".to_owned()
        } else {
            spread(&off, 2)
        };
        println!(
            "| {kind} | {} | {} | {} | {} | {} | {off} |",
            count("A"),
            count("B"),
            count("C"),
            count("invalid"),
            spread(&totals(runs), 0)
        );
    }
    Ok(())
}

/// How long a process is stopped: 7 % of the transfer, twice what grade B allows.
const STOPPED_NS: u64 = 150_000_000;
/// After the first page: well before the end.
const INTO_NS: u64 = 700_000_000;

fn once(kind: &str, link: &str, backend: &str) -> Result<Got> {
    let sandbox = Sandbox::new();
    let hogs = match kind {
        "hogs" => Hogs::start()?,
        _ => Hogs(Vec::new()),
    };
    let arguments = [
        "migrate",
        "--ram",
        "512MiB",
        "--resident",
        "256MiB",
        "--working-set",
        "16MiB",
        "--write-rate",
        "200",
        "--link",
        link,
        "--backend",
        backend,
        "--json",
        "--out",
        "run",
    ];
    let command = sandbox.command(Path::new("/proc/self/exe"), &arguments);
    let mut running = sandbox.start_command(command);
    match kind {
        "calm" | "hogs" => {}
        "relay-stop" => stop(&mut running, &sandbox, |tree| tree.init)?,
        "source-stop" => stop(&mut running, &sandbox, |tree| {
            tree.agents.into_iter().next()
        })?,
        "destination-stop" => stop(&mut running, &sandbox, |tree| {
            tree.agents.into_iter().nth(1)
        })?,
        other => bail!("--kinds: there is no {other}"),
    }
    let finished = running.finish_within(Duration::from_secs(120));
    drop(hogs);
    let answer: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("migbed migrate said {}", finished.stderr))?;
    let reasons = answer["grade_reasons"].as_array().into_iter().flatten();
    let reasons: Vec<&str> = reasons.filter_map(Value::as_str).collect();
    Ok(Got {
        grade: answer["grade"].as_str().unwrap_or("invalid").to_owned(),
        reasons: reasons.join("; "),
        total_ms: answer
            .pointer("/query_migrate/total-time")
            .and_then(Value::as_f64)
            .context("no total-time")?,
    })
}

fn stop(
    running: &mut Running,
    sandbox: &Sandbox,
    which: impl FnOnce(migbed_tests::Tree) -> Option<migbed_tests::Process>,
) -> Result<()> {
    let sending = |kind: &EventKind| {
        matches!(
            kind,
            EventKind::MigrationPhase {
                phase: Phase::Rounds,
                ..
            }
        )
    };
    running.until(&sandbox.work().join("run"), sending);
    let process = which(running.tree(2)).context("no such process")?;
    wait_until(now_ns() + INTO_NS)?;
    process.signal(Signal::SIGSTOP);
    wait_until(now_ns() + STOPPED_NS)?;
    process.signal(Signal::SIGCONT);
    Ok(())
}

/// Busy loops, ended when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start() -> Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut hogs = Self(Vec::new());
        for _ in 0..cpus {
            // Bounded, should this program be killed.
            let mut command = Command::new("timeout");
            command.args(["120", "sh", "-c", "while :; do :; done"]);
            hogs.0.push(command.stdout(Stdio::null()).spawn()?);
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // `timeout` passes SIGTERM on; one that has ended takes none.
            let pid = nix::unistd::Pid::from_raw(i32::try_from(hog.id()).unwrap_or(0));
            let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            let _ = hog.wait();
        }
    }
}
