//! What carrying a gigabit costs: the relay with super-frames and packet at a time, HTB, netem, and a plain veth pair side
//! by side. Run by hand on a calm machine:
//!
//!     cargo bench -p migbed-tests --bench backends -- [--rates unshaped,1Gbit,5Gbit] [--seconds 2] [--repeats 5]
//!
//! One TCP stream between two namespaces, everything in one process, ways taking turns within a repetition. *Packet at a
//! time* is the same relay with `gso_max_segs` 1 at the hosts, so that every frame is one segment: what emulators do that switch
//! the offloads off. Processor time is that of sender, relay and receiver, and soft interrupts beside it. Needs no privileges.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use migbed_tests::measure::figures::{circumstances, spread};
use migbed_tests::measure::path::{Ends, FAR, NEAR, Path};
use migbed_tests::measure::probe::Stream;
use migbed_tests::measure::usage::Spent;
use migbed_tests::measure::{Options, finish};
use netmodel::backend::BackendKind;
use netmodel::link::LinkSpec;
use netmodel::plan::HOST_DEVICE;
use netmodel::sys::netlink::Netlink;
use netmodel::sys::netns::enter_machine;
use netmodel::units::{BitRate, ByteSize};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let mut options = Options::read()?;
    let cells = options.take("--cells", "");
    let seconds: u64 = options.take("--seconds", "2").parse()?;
    if !cells.is_empty() {
        return measure(&serde_json::from_str::<Vec<Cell>>(&cells)?, seconds);
    }
    let rates = options.take("--rates", "unshaped,1Gbit,5Gbit");
    let repeats: usize = options.take("--repeats", "5").parse()?;
    options.done()?;
    let cells = cells_here(&rates);
    println!(
        "{}; {repeats} interleaved repetitions, median (least to most)\n",
        circumstances()
    );
    let mut got: BTreeMap<usize, Vec<[f64; 3]>> = BTreeMap::new();
    for repetition in 0..repeats {
        let text = serde_json::to_string(&cells)?;
        let arguments = ["--cells", &text, "--seconds", &seconds.to_string()];
        let child = Command::new("/proc/self/exe")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = finish(child, 600)?;
        if !output.status.success() {
            bail!("measuring ended with {}", output.status);
        }
        for line in String::from_utf8(output.stdout)?.lines() {
            let (cell, figures): (usize, [f64; 3]) = serde_json::from_str(line)?;
            got.entry(cell).or_default().push(figures);
        }
        eprintln!("{}/{repeats}", repetition + 1);
    }
    println!(
        "| rate | carried by | goodput Gbit/s | processor ms per Gbit | of it in soft interrupts |"
    );
    println!("|---|---|---|---|---|");
    for (n, (rate, way)) in cells.iter().enumerate() {
        let of = |field: usize| got[&n].iter().map(|one| one[field]).collect::<Vec<_>>();
        println!(
            "| {rate} | {way} | {} | {} | {} |",
            spread(&of(0), 3),
            spread(&of(1), 0),
            spread(&of(2), 0)
        );
    }
    Ok(())
}

/// Rate, and the way it is carried.
type Cell = (String, String);

const VETH: &str = "veth, nothing emulated";
const PACKETWISE: &str = "relay, packet at a time";

fn cells_here(rates: &str) -> Vec<Cell> {
    let capabilities = netmodel::sys::probe::probe();
    let mut ways: Vec<String> = Vec::new();
    for kind in BackendKind::ALL {
        match kind.needs().iter().find(|need| !capabilities.has(need)) {
            None => ways.push(kind.name().to_owned()),
            Some(lack) => eprintln!("SKIPPED backend {kind}: missing {lack}"),
        }
    }
    ways.push(PACKETWISE.to_owned());
    let mut cells = Vec::new();
    for rate in rates.split(',') {
        if rate == "unshaped" {
            cells.push((rate.to_owned(), VETH.to_owned()));
        }
        cells.extend(ways.iter().map(|way| (rate.to_owned(), way.clone())));
    }
    cells
}

fn measure(cells: &[Cell], seconds: u64) -> Result<()> {
    enter_machine()?;
    for (n, (rate, way)) in cells.iter().enumerate() {
        let figures = once(rate, way, seconds).with_context(|| format!("{rate}, {way}"))?;
        println!("{}", json!([n, figures]));
    }
    Ok(())
}

fn once(rate: &str, way: &str, seconds: u64) -> Result<Value> {
    if way == VETH {
        return stream(&Ends::joined()?, seconds);
    }
    let rate: Option<BitRate> = match rate {
        "unshaped" => None,
        rate => Some(rate.parse()?),
    };
    let spec = LinkSpec {
        rate,
        // 5 ms of the rate: deep enough that the sender is never what leaves the link idle.
        queue: ByteSize::from_bytes(rate.map_or(4 << 20, |rate| {
            rate.bytes_in(Duration::from_millis(5)).max(512 << 10)
        })),
        ..LinkSpec::default()
    };
    let packetwise = way == PACKETWISE;
    let kind = match packetwise {
        true => BackendKind::Relay,
        false => way.parse()?,
    };
    let path = Path::build(spec, kind, 0)?;
    if packetwise {
        for host in [NEAR, FAR] {
            path.on(host, || {
                Netlink::open()?.set_gso_max_segments(HOST_DEVICE, 1)
            })??;
        }
    }
    stream(&path.ends, seconds)
}

/// Goodput in Gbit/s, processor ms per Gbit of it, and those of them in soft interrupts.
fn stream(ends: &Ends, seconds: u64) -> Result<Value> {
    let warm_up = Duration::from_millis(300);
    let stream = Stream {
        congestion: "cubic",
        warm_up,
        measured: Duration::from_secs(seconds),
    };
    let before = Spent::now()?;
    let got = stream.run(ends)?;
    let (own_s, soft_s) = Spent::now()?.since(&before);
    // Processor time is of the whole stream, its warm-up included, which carries as much a second.
    let gbit = got.goodput_bps / 1e9 * (stream.measured + warm_up).as_secs_f64();
    Ok(json!([
        got.goodput_bps / 1e9,
        (own_s + soft_s) * 1e3 / gbit,
        soft_s * 1e3 / gbit
    ]))
}
