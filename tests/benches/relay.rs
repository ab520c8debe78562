//! The relay against iperf3 and ping, in namespaces of its own: asked against got. Run by hand, needs no privileges:
//!
//!     cargo bench -p migbed-tests --bench relay -- [--rates 100Mbit,1Gbit,2Gbit,unshaped] [--delays 0ms,1ms,10ms,50ms]
//!                                                  [--seconds 4] [--repeats 3] [--pings 50]
//!
//! Every repetition goes through all cells before the next begins, so that a disturbance does not fall on one cell alone.
//! Prints a Markdown table. Without iperf3 or ping, streams and datagrams of our own take their place, said aloud.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use netmodel::flow::goodput_bps;
use netmodel::link::{LinkSpec, PacketSize};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::units::{BitRate, ByteSize, parse_delay};
use serde_json::{Value, json};

use migbed_tests::measure::figures::{circumstances, median, spread};
use migbed_tests::measure::path::Path;
use migbed_tests::measure::tools::{self, Amount, Stream};
use migbed_tests::measure::{Options, cell};

/// Name of the option that makes this program measure one cell and print it.
const ONE_CELL: &str = "--cell";

fn main() -> Result<()> {
    let mut options = Options::read()?;
    let one = options.take(ONE_CELL, "");
    if !one.is_empty() {
        let asked: Asked = Asked::from_json(&serde_json::from_str(&one)?)?;
        println!("{}", asked.measure()?);
        return Ok(());
    }
    let rates = options.take("--rates", "100Mbit,1Gbit,2Gbit,unshaped");
    let delays = options.take("--delays", "0ms,1ms,10ms,50ms");
    let seconds: u64 = options.take("--seconds", "4").parse()?;
    let repeats: u32 = options.take("--repeats", "3").parse()?;
    let pings: u32 = options.take("--pings", "50").parse()?;
    options.done()?;
    let iperf3 = tools::installed("iperf3", "a stream of our own takes its place");
    let ping = tools::installed("ping", "datagrams of our own take its place");
    let mut cells = Vec::new();
    for rate in rates.split(',') {
        for delay in delays.split(',') {
            cells.push(Asked {
                rate: rate.to_owned(),
                delay: delay.to_owned(),
                seconds,
                pings,
                iperf3,
                ping,
            });
        }
    }
    print_table(&cells, repeats)
}

/// A cell of the table.
struct Asked {
    rate: String,
    delay: String,
    seconds: u64,
    pings: u32,
    iperf3: bool,
    ping: bool,
}

impl Asked {
    fn to_json(&self) -> Value {
        json!([
            self.rate,
            self.delay,
            self.seconds,
            self.pings,
            self.iperf3,
            self.ping
        ])
    }

    fn from_json(value: &Value) -> Result<Self> {
        let (rate, delay, seconds, pings, iperf3, ping) = serde_json::from_value(value.clone())?;
        Ok(Self {
            rate,
            delay,
            seconds,
            pings,
            iperf3,
            ping,
        })
    }

    fn delay(&self) -> Result<Duration> {
        Ok(parse_delay(&self.delay)?)
    }

    /// A queue of at least one bandwidth-delay product, so that one stream can fill the link.
    fn link(&self) -> Result<LinkSpec> {
        let rate: Option<BitRate> = match self.rate.as_str() {
            "unshaped" => None,
            rate => Some(rate.parse()?),
        };
        let delay = self.delay()?;
        let in_flight = rate.map_or(0, |rate| rate.bytes_in(2 * delay));
        let queue = in_flight.max(LinkSpec::default().queue.bytes());
        Ok(LinkSpec {
            rate,
            delay,
            queue: ByteSize::from_bytes(queue),
            ..LinkSpec::default()
        })
    }

    /// What an idle path should add to a round trip: the delay and the serialisation of a ping, both ways.
    fn added_ms(&self) -> Result<f64> {
        let link = self.link()?;
        let wire = PacketSize::plain(tools::PING_IP_BYTES).wire_bytes(link.overhead_bytes) as f64;
        let serialisation_ms = link.rate.map_or(0.0, |rate| wire * 8e3 / rate.bps() as f64);
        Ok(2.0 * (link.delay.as_secs_f64() * 1e3 + serialisation_ms))
    }

    /// Slow start doubles each round trip until the link is full, unless Cubic leaves it early; 100 round trips let
    /// it grow from there (seen: 2 Gbit/s × 100 ms is full after 6 s).
    fn warm_up_s(&self) -> Result<u64> {
        Ok((200 * self.delay()?).as_secs().clamp(1, 10))
    }

    /// Measures this cell; the process is in the machine's namespaces afterwards.
    fn measure(&self) -> Result<Value> {
        let path = Path::enter(self.link()?)?;
        let round_trips = tools::own_ping(&path, self.pings)?;
        let pinged = match self.ping {
            true => tools::ping(&path, self.pings)?,
            false => f64::NAN,
        };
        let warm_up_s = self.warm_up_s()?;
        let begin_ns = now_ns();
        let whole = path.fabric.counters()?;
        // From well after the warm-up to well before the end: what is counted lies inside the stream's measured part.
        let from_ns = begin_ns + warm_up_s * 1_000_000_000 + 500_000_000;
        let to_ns = begin_ns + (warm_up_s + self.seconds) * 1_000_000_000 - 200_000_000;
        let (stream, carried) = std::thread::scope(|scope| {
            let stream = scope.spawn(|| self.stream(&path, warm_up_s));
            wait_until(from_ns)?;
            let before = path.fabric.counters()?;
            wait_until(to_ns)?;
            let after = path.fabric.counters()?;
            let stream = stream
                .join()
                .ok()
                .context("the stream's thread panicked")??;
            anyhow::Ok((stream, path.between(&before, &after)))
        })?;
        let span_s = carried.span.as_secs_f64();
        let us = |per_mille| carried.lateness.quantile_ns(per_mille) as f64 / 1e3;
        let gbit = stream.goodput_bps * span_s / 1e9;
        Ok(json!({
            "round_trip_ms": median(&round_trips),
            "ping_ms": pinged,
            "goodput_bps": stream.goodput_bps,
            "retransmits": stream.retransmits,
            "wire_bps": carried.wire_bytes as f64 * 8.0 / span_s,
            "segments_per_frame": carried.segments_per_frame,
            "dropped_packets": carried.dropped_packets,
            // Of the whole stream: one lost in slow start decides what follows.
            "lost_frames": path.between(&whole, &path.fabric.counters()?).lost_frames,
            "late_us_p50": us(500),
            "late_us_p99": us(990),
            "relay_ms_per_gbit": carried.relay_cpu.as_secs_f64() * 1e3 / gbit,
            "relay_wait": carried.relay_wait.as_secs_f64() / span_s,
        }))
    }

    fn stream(&self, path: &Path, warm_up_s: u64) -> Result<Stream> {
        let seconds = self.seconds;
        match self.iperf3 {
            true => tools::iperf3(path, &Amount::Timed { warm_up_s, seconds }, None),
            false => tools::own_stream(path, warm_up_s, seconds),
        }
    }
}

/// Measures everything `repeats` times and prints a row a cell.
fn print_table(cells: &[Asked], repeats: u32) -> Result<()> {
    println!(
        "{}; {repeats} interleaved repetitions, median (least to most)\n",
        circumstances()
    );
    let mut got: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    let mut baselines = Vec::new();
    for repetition in 1..=repeats {
        baselines.push(baseline(cells)?);
        for (index, asked) in cells.iter().enumerate() {
            eprintln!("{repetition}/{repeats}: {} {}", asked.rate, asked.delay);
            let arguments = [ONE_CELL, &asked.to_json().to_string()];
            let within_s = asked.warm_up_s()? + asked.seconds + 60;
            got.entry(index)
                .or_default()
                .push(cell(&arguments, within_s)?);
        }
    }
    println!(
        "| rate | delay | goodput Mbit/s | of ideal % | wire rate − asked % | round trip asked ms | got − baseline − asked µs | \
         ping's mean − baseline − asked µs | \
         late p50 / p99 µs | relay ms per Gbit | relay waited % | segments a frame | drops in queue / elsewhere |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (index, asked) in cells.iter().enumerate() {
        println!("{}", asked.row(&got[&index], &baselines)?);
    }
    println!(
        "\nbaseline round trip (unshaped, no delay): {} ms, by ping {} ms",
        spread(&all("round_trip_ms", &baselines), 3),
        spread(&all("ping_ms", &baselines), 3)
    );
    Ok(())
}

/// A path with nothing to emulate, with a stream as short as can be: for its round trips.
fn baseline(cells: &[Asked]) -> Result<Value> {
    let like = cells.first().context("no cells")?;
    let bare = Asked {
        rate: "unshaped".to_owned(),
        delay: "0ms".to_owned(),
        seconds: 1,
        ..*like
    };
    cell(&[ONE_CELL, &bare.to_json().to_string()], 60)
}

/// One field of every repetition.
fn all(name: &str, got: &[Value]) -> Vec<f64> {
    let field = |one: &Value| one[name].as_f64().unwrap_or(f64::NAN);
    got.iter().map(field).collect()
}

impl Asked {
    fn row(&self, got: &[Value], baselines: &[Value]) -> Result<String> {
        let link = self.link()?;
        let times = |values: Vec<f64>, factor: f64| -> Vec<f64> {
            values.into_iter().map(|value| value * factor).collect()
        };
        let goodput = times(all("goodput_bps", got), 1e-6);
        let of_ideal = goodput_bps(&link).map_or("–".to_owned(), |ideal| {
            spread(&times(goodput.clone(), 1e8 / ideal), 2)
        });
        let wire = link.rate.map_or("–".to_owned(), |rate| {
            let share = times(all("wire_bps", got), 100.0 / rate.bps() as f64);
            let off: Vec<f64> = share.into_iter().map(|percent| percent - 100.0).collect();
            spread(&off, 3)
        });
        let added_ms = self.added_ms()?;
        // The baseline's median: one repetition's may be off by a preemption.
        let off_us = |name: &str| -> Vec<f64> {
            let base_ms = median(&all(name, baselines));
            let off = |got: f64| (got - base_ms - added_ms) * 1e3;
            all(name, got).into_iter().map(off).collect()
        };
        let one = |name: &str, digits: usize| {
            let middle = median(&all(name, got));
            format!("{middle:.digits$}")
        };
        Ok(format!(
            "| {} | {} | {} | {of_ideal} | {wire} | {added_ms:.3} | {} | {} | {} / {} | {} | {:.1} | {} | {} / {} |",
            self.rate,
            self.delay,
            spread(&goodput, 1),
            spread(&off_us("round_trip_ms"), 0),
            spread(&off_us("ping_ms"), 0),
            one("late_us_p50", 0),
            one("late_us_p99", 0),
            spread(&all("relay_ms_per_gbit", got), 0),
            100.0 * median(&all("relay_wait", got)),
            one("segments_per_frame", 1),
            one("dropped_packets", 0),
            one("lost_frames", 0),
        ))
    }
}
