//! iperf3 and ping inside a path's namespaces, and what stands in for them where they are not installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::tcpinfo;

use super::finish;
use super::path::{FAR, NEAR, Path};

/// Congestion control of every stream: machines differ in their default.
const CONGESTION: &str = "cubic";
/// What a tool may take beyond what it was told to.
const SLACK_S: u64 = 20;

/// Whether a tool is there; says so loudly if not.
#[must_use]
pub fn installed(tool: &str, instead: &str) -> bool {
    let mut asked = Command::new(tool);
    asked.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
    let there = asked.status().is_ok();
    if !there {
        eprintln!("SKIPPED {tool}: missing program {tool}; {instead}");
    }
    there
}

/// How much to send.
#[derive(Debug)]
pub enum Amount {
    /// Seconds that do not count, then seconds that do.
    Timed {
        /// Do not count.
        warm_up_s: u64,
        /// Count.
        seconds: u64,
    },
    /// So many bytes, from the first on.
    Bytes(u64),
}

/// What a stream carried, and the processor time of its two ends in seconds.
#[derive(Debug)]
pub struct Stream {
    /// Payload that arrived, bit/s.
    pub goodput_bps: f64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Of the sending process.
    pub sender_cpu_s: f64,
    /// Of the receiving one.
    pub receiver_cpu_s: f64,
    /// How long it took.
    pub seconds: f64,
}

/// One iperf3 stream from the near host to the far one, in writes of `write_bytes` (128 KiB, iperf3's own, if `None`).
///
/// # Errors
/// When iperf3 fails, hangs, or prints what is not its JSON.
pub fn iperf3(path: &Path, amount: &Amount, write_bytes: Option<u32>) -> Result<Stream> {
    let mut server = Command::new("iperf3");
    server
        .args(["-s", "-1", "--forceflush"])
        .stdout(Stdio::piped());
    let mut server = path.spawn(FAR, &mut server)?;
    let said = server.stdout.take().context("a piped stdout")?;
    let mut said = BufReader::new(said).lines();
    while !said
        .next()
        .context("iperf3 -s ended before it listened")??
        .contains("listening")
    {}
    let mut client = Command::new("iperf3");
    client.args([
        "-c",
        &Path::far_address(),
        "-C",
        CONGESTION,
        "-J",
        "-i",
        "0",
    ]);
    let expected_s = match *amount {
        Amount::Timed { warm_up_s, seconds } => {
            client.args(["-O", &warm_up_s.to_string(), "-t", &seconds.to_string()]);
            warm_up_s + seconds
        }
        Amount::Bytes(bytes) => {
            client.args(["-n", &bytes.to_string()]);
            SLACK_S
        }
    };
    if let Some(bytes) = write_bytes {
        client.args(["-l", &bytes.to_string()]);
    }
    let client = path.spawn(NEAR, client.stdout(Stdio::piped()))?;
    let output = finish(client, expected_s + SLACK_S)?;
    // The server ends by itself after one test; one that does not is not waited for.
    server.kill()?;
    server.wait()?;
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("iperf3 -J printed no JSON")?;
    if let Some(error) = answer["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &answer["end"];
    let number = |pointer: &str| {
        let value = end.pointer(pointer).and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("iperf3 -J has no end{pointer}"))
    };
    let seconds = number("/sum_received/seconds")?;
    Ok(Stream {
        goodput_bps: number("/sum_received/bits_per_second")?,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        sender_cpu_s: number("/cpu_utilization_percent/host_total")? / 100.0 * seconds,
        receiver_cpu_s: number("/cpu_utilization_percent/remote_total")? / 100.0 * seconds,
        seconds,
    })
}

/// What stands in for iperf3: one stream of our own, 128 KiB a write; processor times are not taken.
///
/// # Errors
/// When the stream breaks.
pub fn own_stream(path: &Path, warm_up_s: u64, seconds: u64) -> Result<Stream> {
    let listener = path.on(FAR, || TcpListener::bind((Path::far_address(), 5001)))??;
    let mut sender = path.on(NEAR, || TcpStream::connect((Path::far_address(), 5001)))??;
    tcpinfo::set_congestion_control(&sender, &[CONGESTION])?;
    sender.set_write_timeout(Some(Duration::from_secs(5)))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let start_ns = now_ns() + warm_up_s * 1_000_000_000;
    let end_ns = start_ns + seconds * 1_000_000_000;
    std::thread::scope(|scope| {
        let pump = scope.spawn(move || {
            let data = vec![7; 128 << 10];
            while now_ns() < end_ns && sender.write_all(&data).is_ok() {}
            tcpinfo::read(&sender).map(|info| info.retransmits)
        });
        let mut buffer = vec![0; 1 << 20];
        let mut read_until = |at_ns: u64| -> std::io::Result<(u64, u64)> {
            let mut total = 0;
            while now_ns() < at_ns {
                match receiver.read(&mut buffer)? {
                    0 => break,
                    bytes => total += bytes as u64,
                }
            }
            Ok((total, now_ns()))
        };
        let (_, from_ns) = read_until(start_ns)?;
        let (bytes, to_ns) = read_until(end_ns)?;
        // What is still under way, so that the sender is not stuck in a full queue.
        read_until(to_ns + 1_000_000_000)?;
        let retransmits = pump.join().ok().context("the sender panicked")??;
        Ok(Stream {
            goodput_bps: bytes as f64 * 8e9 / (to_ns - from_ns) as f64,
            retransmits: u64::from(retransmits),
            sender_cpu_s: f64::NAN,
            receiver_cpu_s: f64::NAN,
            seconds: (to_ns - from_ns) as f64 / 1e9,
        })
    })
}

/// IP bytes of one of `ping`'s packets: 56 of payload, ICMP header, IP header.
pub const PING_IP_BYTES: u32 = 56 + 8 + 20;
/// Between two of them: each finds an idle path unless the round trip is longer.
const PING_GAP_MS: u64 = 20;

/// Mean round trip of `count` pings through the idle path, in milliseconds: single ones ping rounds to three digits.
///
/// # Errors
/// When ping cannot be run, hangs, or gets no answer.
pub fn ping(path: &Path, count: u32) -> Result<f64> {
    let mut command = Command::new("ping");
    let gap = format!("0.{PING_GAP_MS:03}");
    command.args([
        "-n",
        "-i",
        &gap,
        "-c",
        &count.to_string(),
        &Path::far_address(),
    ]);
    let child = path.spawn(NEAR, command.stdout(Stdio::piped()))?;
    let output = finish(child, u64::from(count) * PING_GAP_MS / 1000 + SLACK_S)?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "rtt min/avg/max/mdev = 0.061/0.072/0.083/0.005 ms"
    let summary = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let mean = summary.and_then(|figures| figures.split('/').nth(1)?.parse().ok());
    mean.with_context(|| format!("ping got no answers: {text}"))
}

/// Datagrams of the same size, sent back by a thread of ours: single round trips to the nanosecond.
///
/// # Errors
/// When a socket fails, or an answer takes two seconds.
pub fn own_ping(path: &Path, count: u32) -> Result<Vec<f64>> {
    let server = path.on(FAR, || UdpSocket::bind((Path::far_address(), 7)))??;
    let client = path.on(NEAR, || UdpSocket::bind(("0.0.0.0", 0)))??;
    client.connect((Path::far_address(), 7))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    let payload = [0; PING_IP_BYTES as usize - 28];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = payload;
            for _ in 0..count {
                let Ok((_, from)) = server.recv_from(&mut bytes) else {
                    return;
                };
                if server.send_to(&bytes, from).is_err() {
                    return;
                }
            }
        });
        let mut round_trips = Vec::new();
        for _ in 0..count {
            wait_until(now_ns() + PING_GAP_MS * 1_000_000)?;
            let sent_ns = now_ns();
            client.send(&payload)?;
            client.recv(&mut payload.clone())?;
            round_trips.push((now_ns() - sent_ns) as f64 / 1e6);
        }
        Ok(round_trips)
    })
}
