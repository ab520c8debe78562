//! How many instructions the data path takes: callgrind's count, which another program on the machine does not change.
//!
//!     cargo bench -p migbed-tests --bench instructions -- [--only NAME] [--repeats 2] [--keep DIR]
//!
//! Every case is this program once more, under valgrind, which does the case's work once and, in another process, three times: half
//! the difference is what one pass takes in all threads, free of start-up and of buffers that grow once. Instructions of the kernel
//! are not counted. Never inside: what is counted (`pieces`, `ends`).

mod ends;
mod pieces;

use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use migbed_tests::measure::figures::spread;
use migbed_tests::measure::{Options, finish};
use migbed_tests::skip;

/// Passes of the two counts whose difference is taken.
const PASSES: [u64; 2] = [1, 3];
/// Pages of a GiB.
const GIB_PAGES: f64 = 262_144.0;
/// A run takes seconds; on a machine that is busy otherwise some times that.
const LIMIT_S: u64 = 900;

/// Something whose instructions are counted.
struct Case {
    name: String,
    /// What it is counted by.
    per: &'static str,
    what: What,
}

enum What {
    /// Work of one thread; how many of what it is counted by a pass has.
    Piece(fn() -> Box<dyn FnMut() -> u64>),
    /// A whole end of a migration.
    End(ends::End),
}

fn main() -> Result<()> {
    let mut options = Options::read()?;
    let case = options.take("--case", "");
    let passes: u64 = options.take("--passes", "1").parse()?;
    let only = options.take("--only", "");
    let repeats: usize = options.take("--repeats", "2").parse()?;
    let keep = options.take("--keep", "");
    let port: u16 = options.take("--port", "0").parse()?;
    options.done()?;
    let cases = cases();
    if !case.is_empty() {
        let case = cases.iter().find(|known| known.name == case);
        return work(&case.context("no such case")?.what, passes, port);
    }
    let Some(version) = valgrind() else {
        skip(
            "instructions",
            "program valgrind (of the package of that name)",
        );
        return Ok(());
    };
    println!("{version}; {repeats} counts of each, median (least to most)\n");
    println!("| what | per | instructions | of a GiB, 10⁹ | spread % |");
    println!("|---|---|---|---|---|");
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        let counts: Vec<f64> = (0..repeats)
            .map(|_| counted(case, &keep))
            .collect::<Result<_>>()
            .with_context(|| case.name.clone())?;
        print_row(case, &counts);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let pieces = pieces::ALL.iter().map(|&(name, per, prepare)| Case {
        name: name.to_owned(),
        per,
        what: What::Piece(prepare),
    });
    let ends = ends::all().map(|end| Case {
        name: end.name(),
        per: "page",
        what: What::End(end),
    });
    pieces.chain(ends).collect()
}

/// In the process that is counted.
fn work(what: &What, passes: u64, port: u16) -> Result<()> {
    match what {
        What::Piece(prepare) => {
            let mut pass = prepare();
            for _ in 0..passes {
                std::hint::black_box(pass());
            }
            Ok(())
        }
        What::End(end) => end.counted(passes, port),
    }
}

fn print_row(case: &Case, counts: &[f64]) {
    let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = counts.iter().copied().fold(0.0, f64::max);
    let gib = match case.per {
        "page" => format!("{:.2}", least * GIB_PAGES / 1e9),
        _ => "–".to_owned(),
    };
    println!(
        "| {} | {} | {} | {gib} | {:.3} |",
        case.name,
        case.per,
        spread(counts, 1),
        100.0 * (most - least) / least
    );
}

/// Instructions of one of what the case is counted by.
fn counted(case: &Case, keep: &str) -> Result<f64> {
    let mut totals = [0; 2];
    for (total, passes) in totals.iter_mut().zip(PASSES) {
        *total = under_callgrind(case, passes, keep)?;
    }
    let units = match &case.what {
        What::Piece(prepare) => {
            let mut pass = prepare();
            let of: Vec<u64> = (0..PASSES[1]).map(|_| pass()).collect();
            of[usize::try_from(PASSES[0])?..].iter().sum()
        }
        What::End(_) => (PASSES[1] - PASSES[0]) * ends::PASS_PAGES,
    };
    let more = totals[1].checked_sub(totals[0]);
    let more = more.context("three passes took fewer instructions than one")?;
    Ok(more as f64 / units as f64)
}

fn under_callgrind(case: &Case, passes: u64, keep: &str) -> Result<u64> {
    let file = match keep {
        "" => "/dev/null".to_owned(),
        folder => format!(
            "{folder}/{}.{passes}.callgrind",
            case.name.replace([' ', '/', ','], "-")
        ),
    };
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", &format!("--callgrind-out-file={file}")])
        .arg(std::env::current_exe()?)
        .args(["--case", &case.name, "--passes", &passes.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = match &case.what {
        What::Piece(_) => finish(command.spawn()?, LIMIT_S)?,
        What::End(end) => end.beside(command, passes)?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("under valgrind it ended with {}:\n{said}", output.status);
    }
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, count) = count.with_context(|| format!("valgrind says no count:\n{said}"))?;
    Ok(count.trim().parse()?)
}

/// Waits for the counted process.
fn ended(child: Child) -> Result<Output> {
    finish(child, LIMIT_S)
}

fn valgrind() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| version.trim().to_owned())
}
