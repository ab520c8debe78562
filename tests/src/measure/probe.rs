//! Short measurements of a path, the same whatever backend carries it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::tcpinfo;

use super::figures::median;
use super::path::{Ends, FAR, NEAR, Path};

/// What a stream was like in its measured part.
#[derive(Debug, Clone, Copy)]
pub struct Streamed {
    /// Payload that arrived, bit/s.
    pub goodput_bps: f64,
    /// Median of the sender's smoothed round-trip times, ms.
    pub rtt_ms: f64,
    /// Segments sent again, the whole stream over.
    pub retransmits: u64,
}

/// How long and under what congestion control to stream.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// `cubic`, `reno`, `bbr`.
    pub congestion: &'static str,
    /// Before anything counts.
    pub warm_up: Duration,
    /// What counts.
    pub measured: Duration,
}

const PORT: u16 = 5001;
/// Between two looks at the sender's round-trip time.
const LOOK_NS: u64 = 20_000_000;

impl Stream {
    /// Streams from the near host to the far one.
    ///
    /// # Errors
    /// When the stream breaks, or the kernel lacks the congestion control.
    pub fn run(&self, ends: &Ends) -> Result<Streamed> {
        let address = (Path::far_address(), PORT);
        let listener = ends.on(FAR, || TcpListener::bind(&address))??;
        let mut sender = ends.on(NEAR, || TcpStream::connect(&address))??;
        let congestion = self.congestion;
        tcpinfo::set_congestion_control(&sender, &[congestion])
            .with_context(|| format!("congestion control {congestion}"))?;
        sender.set_write_timeout(Some(Duration::from_secs(5)))?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let watched = sender.try_clone()?;
        let start_ns = now_ns() + nanoseconds(self.warm_up);
        let end_ns = start_ns + nanoseconds(self.measured);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let data = vec![7; 64 << 10];
                while now_ns() < end_ns && sender.write_all(&data).is_ok() {}
                // Reading goes on until the end of the stream, so nothing stays under way.
                let _ = sender.shutdown(std::net::Shutdown::Write);
            });
            let looking = scope.spawn(move || looks(&watched, start_ns, end_ns));
            let mut buffer = vec![0; 256 << 10];
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
            read_until(end_ns + 5_000_000_000)?;
            let (rtts, retransmits) = looking.join().ok().context("the watcher panicked")??;
            Ok(Streamed {
                goodput_bps: bytes as f64 * 8e9 / (to_ns - from_ns) as f64,
                rtt_ms: median(&rtts),
                retransmits,
            })
        })
    }
}

fn looks(sender: &TcpStream, start_ns: u64, end_ns: u64) -> std::io::Result<(Vec<f64>, u64)> {
    let mut rtts = Vec::new();
    let mut at_ns = start_ns;
    let mut retransmits = 0;
    while at_ns < end_ns {
        wait_until(at_ns)?;
        let info = tcpinfo::read(sender)?;
        rtts.push(info.rtt.as_secs_f64() * 1e3);
        retransmits = u64::from(info.retransmits);
        at_ns += LOOK_NS;
    }
    Ok((rtts, retransmits))
}

/// What datagrams over the idle path met.
#[derive(Debug, Clone, Default)]
pub struct Datagrams {
    /// One-way delays of those that arrived, ms, in the order they arrived.
    pub delays_ms: Vec<f64>,
    /// How many were sent.
    pub sent: u32,
    /// Arrived behind one that was sent later.
    pub overtaken: u32,
}

impl Datagrams {
    /// Share of those sent that did not arrive.
    #[must_use]
    pub fn lost_share(&self) -> f64 {
        1.0 - self.delays_ms.len() as f64 / f64::from(self.sent.max(1))
    }

    /// Mean and standard deviation of the delays, ms.
    #[must_use]
    pub fn delay(&self) -> (f64, f64) {
        let n = self.delays_ms.len() as f64;
        let mean = self.delays_ms.iter().sum::<f64>() / n;
        let squares: f64 = self.delays_ms.iter().map(|d| (d - mean).powi(2)).sum();
        (mean, (squares / (n - 1.0)).sqrt())
    }
}

/// Sends `count` small datagrams, one every `gap`, and says what became of them.
///
/// # Errors
/// When a socket fails.
pub fn datagrams(ends: &Ends, count: u32, gap: Duration, longest: Duration) -> Result<Datagrams> {
    let address = (Path::far_address(), 7);
    let receiver = ends.on(FAR, || UdpSocket::bind(&address))??;
    let sender = ends.on(NEAR, || UdpSocket::bind(("0.0.0.0", 0)))??;
    sender.connect(&address)?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let end_ns = now_ns() + u64::from(count) * nanoseconds(gap) + nanoseconds(longest);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at_ns = now_ns();
            for number in 0..count {
                let mut payload = [0; 16];
                payload[..4].copy_from_slice(&number.to_ne_bytes());
                payload[8..].copy_from_slice(&now_ns().to_ne_bytes());
                at_ns += nanoseconds(gap);
                // One that cannot be sent is one that does not arrive.
                if sender.send(&payload).is_err() || wait_until(at_ns).is_err() {
                    return;
                }
            }
        });
        let mut seen = Datagrams {
            sent: count,
            ..Datagrams::default()
        };
        let mut latest = 0;
        let mut payload = [0; 16];
        while now_ns() < end_ns && seen.delays_ms.len() < count as usize {
            if !matches!(receiver.recv(&mut payload), Ok(16)) {
                continue;
            }
            let arrived_ns = now_ns();
            let (number, sent) = (payload.first_chunk(), payload.last_chunk());
            let (Some(&number), Some(&sent)) = (number, sent) else {
                continue;
            };
            let (number, sent_ns) = (u32::from_ne_bytes(number), u64::from_ne_bytes(sent));
            seen.overtaken += u32::from(number < latest);
            latest = latest.max(number);
            let delay_ms = arrived_ns.saturating_sub(sent_ns) as f64 / 1e6;
            seen.delays_ms.push(delay_ms);
        }
        Ok(seen)
    })
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
