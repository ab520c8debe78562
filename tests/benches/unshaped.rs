//! Goodput of one unshaped migration next to iperf3 on the same path, and who used the processors. Run by hand:
//!
//!     cargo bench -p migbed-tests --bench unshaped -- [--resident 2000MiB] [--repeats 9] [--also "OPTIONS"]
//!
//! Interleaved, in turning order: one migration of an idle VM whose pages are stamped as they are sent and verified as they
//! arrive; one whose pages lie ready in memory (`--memory resident`); with `--also`, one with these options of `migbed
//! migrate` besides; one iperf3 stream of as many bytes; one with writes of 4104 bytes (a page and its header). The path is the same code with the same settings: host, relay, host. This program is
//! `migbed` too, so that what is measured is what was just built. Needs no privileges; without iperf3 there is no
//! comparison, said aloud.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use migbed_tests::measure::figures::{circumstances, median, spread};
use migbed_tests::measure::path::Path;
use migbed_tests::measure::tools::{self, Amount};
use migbed_tests::measure::usage::{Busy, ThreadWatch};
use migbed_tests::measure::{Options, cell};
use netmodel::link::LinkSpec;
use netmodel::sys::clock::{now_ns, wait_until};
use serde_json::{Value, json};

/// Name of the option that makes this program run one iperf3 stream and print what it carried.
const ONE_STREAM: &str = "--stream";
/// A page and its header on the wire.
const PAGE_WRITE: u32 = 4104;
/// How often processors are looked at, ns: a migration takes a second or more.
const LOOK_NS: u64 = 10_000_000;

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if matches!(first.as_deref(), Some("migrate" | "machine" | "agent")) {
        return migbed::cli::main();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unshaped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let mut options = Options::read()?;
    let one = options.take(ONE_STREAM, "");
    if !one.is_empty() {
        println!("{}", stream(&serde_json::from_str(&one)?)?);
        return Ok(());
    }
    let resident = options.take("--resident", "2000MiB");
    let also = options.take("--also", "");
    let repeats: usize = options.take("--repeats", "9").parse()?;
    options.done()?;
    let compare = tools::installed("iperf3", "the migrations stand alone");
    println!(
        "{}; {repeats} interleaved repetitions, median (least to most)\n",
        circumstances()
    );
    let runners = runners(&also, compare);
    let mut rounds = Vec::new();
    let mut bytes: u64 = 2 << 30;
    for repetition in 0..repeats {
        let mut round = vec![Value::Null; runners.len()];
        // Turning the order spreads a drift over all of them.
        for turn in 0..runners.len() {
            let which = (turn + repetition) % runners.len();
            round[which] = match &runners[which].1 {
                Runner::Migration(more) => migration(&resident, more)?,
                Runner::Stream(write_bytes) => {
                    // Small writes are ten times as slow: an eighth of the bytes.
                    let bytes = if write_bytes.is_some() {
                        bytes / 8
                    } else {
                        bytes
                    };
                    let asked = json!([bytes, write_bytes]).to_string();
                    cell(&[ONE_STREAM, &asked], 120)?
                }
            };
            bytes = round[0]["bytes"].as_u64().unwrap_or(bytes);
        }
        eprintln!("{}/{repeats}: {round:?}", repetition + 1);
        rounds.push(round);
    }
    print_tables(&runners, &rounds);
    Ok(())
}

/// Who is measured.
enum Runner {
    /// A migration with these options besides.
    Migration(Vec<String>),
    /// An iperf3 stream, with writes of so many bytes.
    Stream(Option<u32>),
}

fn runners(also: &str, compare: bool) -> Vec<(String, Runner)> {
    let words = |options: &str| options.split_whitespace().map(str::to_owned).collect();
    let ready = "--memory resident";
    let mut all = vec![
        (
            "migration, stamped and verified".to_owned(),
            Runner::Migration(Vec::new()),
        ),
        (
            "migration, pages ready in memory".to_owned(),
            Runner::Migration(words(ready)),
        ),
    ];
    if !also.is_empty() {
        all.push((format!("migration {also}"), Runner::Migration(words(also))));
    }
    if compare {
        all.push(("iperf3".to_owned(), Runner::Stream(None)));
        let name = format!("iperf3, writes of {PAGE_WRITE} bytes");
        all.push((name, Runner::Stream(Some(PAGE_WRITE))));
    }
    all
}

/// One iperf3 stream in namespaces of its own.
fn stream(asked: &Value) -> Result<Value> {
    let (bytes, write_bytes): (u64, Option<u32>) = serde_json::from_value(asked.clone())?;
    let path = Path::enter(LinkSpec::default())?;
    let (before, then) = (path.fabric.counters()?, Busy::now());
    let got = tools::iperf3(&path, &Amount::Bytes(bytes), write_bytes)?;
    let (after, now) = (path.fabric.counters()?, Busy::now());
    let carried = path.between(&before, &after);
    Ok(json!({
        "bytes": bytes,
        "goodput_bps": got.goodput_bps,
        "seconds": got.seconds,
        "source_s": got.sender_cpu_s,
        "destination_s": got.receiver_cpu_s,
        "relay_s": carried.relay_cpu.as_secs_f64(),
        "relay_wait_s": carried.relay_wait.as_secs_f64(),
        "segments_per_frame": carried.segments_per_frame,
        "busy": now.share_since(&then),
        "retransmits": got.retransmits,
    }))
}

/// One `migbed migrate`, with the processors watched from outside.
fn migration(resident: &str, more: &[String]) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("run");
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "migrate",
        "--json",
        "--no-calibration",
        "--link",
        "unshaped",
    ]);
    command.args([
        "--ram",
        resident,
        "--resident",
        resident,
        "--working-set",
        "0MiB",
    ]);
    command.args(more);
    command.arg("--out").arg(&out).stdout(Stdio::null());
    let mut child = command.spawn()?;
    let mut relay = ThreadWatch::new("relay");
    let mut busy = vec![Busy::now()];
    let deadline_ns = now_ns() + 120_000_000_000;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if now_ns() > deadline_ns {
            child.kill()?;
            child.wait()?;
            bail!("a migration took more than two minutes and was killed");
        }
        relay.look(child.id());
        busy.push(Busy::now());
        wait_until(now_ns() + LOOK_NS)?;
    };
    if !status.success() {
        bail!("`migbed migrate` ended with {status}");
    }
    let record = std::fs::read_to_string(out.join("migrations.jsonl"))?;
    let record: Value = serde_json::from_str(record.lines().next().context("no record")?)?;
    summarise(&record, &relay, &busy)
}

fn summarise(record: &Value, relay: &ThreadWatch, busy: &[Busy]) -> Result<Value> {
    let number = |pointer: &str| {
        let value = record.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("the record has no {pointer}"))
    };
    let (from_ns, to_ns) = (
        number("/source_report/setup_end_ns")?,
        number("/source_report/end_ns")?,
    );
    let bytes = number("/query_migrate/ram/transferred")?;
    // What QMP calls total-time − setup-time, in finer units.
    let seconds = (to_ns - from_ns) as f64 / 1e9;
    let (relay_s, relay_wait_s) = relay
        .between(from_ns, to_ns)
        .context("no thread named relay was seen")?;
    let first = busy
        .iter()
        .rfind(|look| look.at_ns <= from_ns)
        .or(busy.first());
    let last = busy.iter().find(|look| look.at_ns >= to_ns).or(busy.last());
    let (first, last) = first.zip(last).context("processors were not looked at")?;
    let s = |pointer: &str| Ok::<_, anyhow::Error>(number(pointer)? as f64 / 1e9);
    Ok(json!({
        "bytes": bytes,
        "goodput_bps": bytes as f64 * 8.0 / seconds,
        "seconds": seconds,
        "source_s": s("/source_report/cpu_ns")?,
        "source_wait_s": s("/source_report/run_queue_ns")?,
        "destination_s": s("/destination_report/cpu_ns")?,
        "destination_wait_s": s("/destination_report/run_queue_ns")?,
        "relay_s": relay_s,
        "relay_wait_s": relay_wait_s,
        "busy": last.share_since(first),
        "verified": record["verified"],
    }))
}

fn print_tables(runners: &[(String, Runner)], rounds: &[Vec<Value>]) {
    println!(
        "| | goodput Gbit/s | source s/GiB | relay s/GiB | destination s/GiB | both processors busy % | relay waited % |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (which, (name, _)) in runners.iter().enumerate() {
        let of = |value: &dyn Fn(&Value) -> f64| -> Vec<f64> {
            rounds.iter().map(|round| value(&round[which])).collect()
        };
        let field = |one: &Value, name: &str| one[name].as_f64().unwrap_or(f64::NAN);
        let gib = |one: &Value| field(one, "bytes") / f64::from(1 << 30);
        let per_gib = |name: &'static str| spread(&of(&move |one| field(one, name) / gib(one)), 3);
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            spread(&of(&|one| field(one, "goodput_bps") / 1e9), 2),
            per_gib("source_s"),
            per_gib("relay_s"),
            per_gib("destination_s"),
            spread(&of(&|one| 100.0 * field(one, "busy")), 0),
            spread(
                &of(&|one| 100.0 * field(one, "relay_wait_s") / field(one, "seconds")),
                0
            ),
        );
    }
    println!();
    let chosen = |migrations: bool| {
        let all = runners.iter().enumerate();
        all.filter(move |(_, (_, runner))| matches!(runner, Runner::Migration(_)) == migrations)
    };
    for (ours, (our_name, _)) in chosen(true) {
        for (theirs, (their_name, _)) in chosen(false) {
            let goodput = |round: &[Value], which: usize| round[which]["goodput_bps"].as_f64();
            let ratios: Vec<f64> = rounds
                .iter()
                .filter_map(|round| Some(goodput(round, ours)? / goodput(round, theirs)?))
                .collect();
            println!(
                "goodput of {our_name} / {their_name}, by pairs: {}",
                spread(&ratios, 3)
            );
        }
        let bounded = |name: &str| {
            let share = |one: &Value| Some(100.0 * one[name].as_f64()? / one["seconds"].as_f64()?);
            let shares: Vec<f64> = rounds
                .iter()
                .filter_map(|round| share(&round[ours]))
                .collect();
            median(&shares)
        };
        println!(
            "{our_name}, share of its time: source on a processor {:.0} %, waiting for one {:.0} %; relay {:.0} %, {:.0} %; \
             destination {:.0} %, {:.0} %",
            bounded("source_s"),
            bounded("source_wait_s"),
            bounded("relay_s"),
            bounded("relay_wait_s"),
            bounded("destination_s"),
            bounded("destination_wait_s"),
        );
    }
}
