//! Tenant traffic: real TCP between the hosts of two VMs, elastic or paced.
//!
//! One thread a flow and end; a flow ends when its socket is shut down from outside, so closing is
//! prompt whatever the thread waits for.

use super::net;
use crate::clock::{mono_ns, sleep_until};
use crate::ids::FlowId;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A write of an elastic flow: large enough that system calls do not bound it.
const CHUNK: usize = 64 << 10;

/// A paced flow writes this often; short against a balancer's windows, long against timer lateness.
const PACE_NS: u64 = 5_000_000;

/// A thread of the tenant could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum TenantError {
    /// No socket.
    #[error(transparent)]
    Socket(#[from] net::SocketError),
    /// No thread, or its handle could not be duplicated.
    #[error("tenant flow: {0}")]
    Io(#[from] io::Error),
}

/// What ends a flow's thread from outside.
#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    socket: Mutex<Option<TcpStream>>,
}

impl Stop {
    /// Shares the socket so that `ask` can shut it; refuses when asked already.
    fn adopt(&self, stream: &TcpStream) -> io::Result<bool> {
        let shared = stream.try_clone()?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared);
        Ok(!self.asked.load(Ordering::Acquire))
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        if let Some(stream) = &*self.socket.lock().unwrap_or_else(PoisonError::into_inner) {
            // The peer may have closed first; then there is nothing left to shut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Whether the VM an end belongs to runs: a paused guest neither sends nor receives.
pub(super) type Runs = Box<dyn Fn() -> bool + Send + Sync>;

/// How often an end whose VM is paused looks again; short against the shortest downtime.
const PAUSED_LOOK_NS: u64 = 200_000;

/// What a sink has seen.
#[derive(Debug, Default)]
struct Received {
    bytes: AtomicU64,
    /// Monotonic ns; 0 before.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

#[derive(Debug)]
struct Sink {
    stop: Arc<Stop>,
    received: Arc<Received>,
    opened_ns: u64,
    address: SocketAddr,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Source {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

/// The open flows of one agent.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    sinks: BTreeMap<FlowId, Sink>,
    sources: BTreeMap<FlowId, Source>,
}

/// What a closed sink received.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClosedSink {
    /// Payload bytes.
    pub received_bytes: u64,
    /// How long it was open.
    pub open_ns: u64,
    /// First and last payload, monotonic ns.
    pub carried_ns: Option<(u64, u64)>,
}

/// A flow to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing {
    /// Where its sink listens.
    pub to: SocketAddr,
    /// Payload bit/s, or as much as TCP gives.
    pub rate_bps: Option<u64>,
    /// Begin of its schedule, monotonic ns.
    pub since_ns: u64,
}

impl Tenants {
    /// Listens for a flow; returns the port.
    ///
    /// # Errors
    /// When no socket or thread can be had.
    pub(super) fn open_sink(
        &mut self,
        flow: FlowId,
        host: SocketAddr,
        runs: Runs,
        congestion: &str,
    ) -> Result<u16, TenantError> {
        let listener = net::listen(host, congestion)?;
        let address = listener.local_addr()?;
        let (stop, received) = (Arc::new(Stop::default()), Arc::new(Received::default()));
        let thread = {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::Builder::new()
                .name(format!("sink-{}", flow.0))
                .stack_size(THREAD_STACK)
                .spawn(move || receive(&listener, &stop, &received, &runs))?
        };
        let sink = Sink {
            stop,
            received,
            opened_ns: mono_ns(),
            address,
            thread,
        };
        self.sinks.insert(flow, sink);
        Ok(address.port())
    }

    /// Begins to send a flow.
    ///
    /// # Errors
    /// When the sink cannot be reached.
    pub(super) fn open_source(
        &mut self,
        flow: FlowId,
        out: Outgoing,
        runs: Runs,
        congestion: &str,
    ) -> Result<(), TenantError> {
        let stream = net::connect(out.to, congestion)?;
        let stop = Arc::new(Stop::default());
        stop.adopt(&stream)?;
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::Builder::new()
                .name(format!("flow-{}", flow.0))
                .stack_size(THREAD_STACK)
                .spawn(move || {
                    let sent = match out.rate_bps {
                        Some(rate) => send_paced(stream, rate, out.since_ns, &stop, &runs),
                        None => send_elastic(stream, &stop, &runs),
                    };
                    // A flow ends by being shut down; any other error ends it too, and the sink's
                    // byte count shows it.
                    drop(sent);
                })?
        };
        self.sources.insert(flow, Source { stop, thread });
        Ok(())
    }

    /// Payload received by every open sink.
    #[must_use]
    pub(super) fn received(&self) -> Vec<(FlowId, u64)> {
        self.sinks
            .iter()
            .map(|(&flow, sink)| (flow, sink.received.bytes.load(Ordering::Relaxed)))
            .collect()
    }

    /// Closes whichever end of the flow is here.
    pub(super) fn close(&mut self, flow: FlowId) -> Option<ClosedSink> {
        if let Some(source) = self.sources.remove(&flow) {
            source.stop.ask();
            // A flow's thread never panics by intent; if it did there is nothing to add here.
            let _ = source.thread.join();
        }
        self.sinks.remove(&flow).map(|sink| {
            sink.stop.ask();
            // A sink nobody has connected to waits in accept: wake it.
            drop(TcpStream::connect(sink.address));
            let _ = sink.thread.join();
            let received = &sink.received;
            let at = |instant: &AtomicU64| instant.load(Ordering::Relaxed);
            let (first_ns, last_ns) = (at(&received.first_ns), at(&received.last_ns));
            ClosedSink {
                received_bytes: at(&received.bytes),
                carried_ns: (first_ns > 0).then_some((first_ns, last_ns)),
                open_ns: mono_ns().saturating_sub(sink.opened_ns),
            }
        })
    }
}

/// Flow threads are shallow; a thousand of them should not reserve gigabytes.
const THREAD_STACK: usize = 128 << 10;

fn receive(listener: &TcpListener, stop: &Stop, received: &Received, runs: &Runs) {
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    if !stop.adopt(&stream).unwrap_or(false) {
        return;
    }
    let mut buffer = vec![0u8; CHUNK];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            return;
        }
        let now = mono_ns();
        if received.bytes.fetch_add(read as u64, Ordering::Relaxed) == 0 {
            received.first_ns.store(now, Ordering::Relaxed);
        }
        received.last_ns.store(now, Ordering::Relaxed);
        wait_to_run(stop, runs);
    }
}

/// Waits while the VM is paused, or until the flow is closed.
fn wait_to_run(stop: &Stop, runs: &Runs) {
    while !runs() && !stop.asked.load(Ordering::Acquire) {
        sleep_until(mono_ns() + PAUSED_LOOK_NS);
    }
}

fn send_elastic(mut stream: TcpStream, stop: &Stop, runs: &Runs) -> io::Result<()> {
    let chunk = vec![0u8; CHUNK];
    while !stop.asked.load(Ordering::Acquire) {
        stream.write_all(&chunk)?;
        wait_to_run(stop, runs);
    }
    Ok(())
}

/// Bytes due up to the end of a step, counted from the begin of the schedule.
fn due_bytes(rate_bps: u64, steps: u64) -> u128 {
    // Rate, steps and 5 ms are below 2^63, 2^42 (584 years) and 2^23: the product fits.
    u128::from(rate_bps) * u128::from(steps) * u128::from(PACE_NS) / 8_000_000_000
}

/// Writes what the rate allows every 5 ms, at the instants of a schedule that began at `since_ns`.
/// What TCP does not take in time, what was due while the VM was paused or before it came here, is not
/// caught up with: a request that found nobody is late, not sent twice as fast later.
fn send_paced(
    mut stream: TcpStream,
    rate_bps: u64,
    since_ns: u64,
    stop: &Stop,
    runs: &Runs,
) -> io::Result<()> {
    let chunk = vec![0u8; CHUNK];
    let passed = || mono_ns().saturating_sub(since_ns) / PACE_NS;
    let mut step = passed();
    while !stop.asked.load(Ordering::Acquire) {
        let due = due_bytes(rate_bps, step + 1) - due_bytes(rate_bps, step);
        let mut left = u64::try_from(due).unwrap_or(u64::MAX);
        while left > 0 {
            let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            stream.write_all(&chunk[..now])?;
            left -= now as u64;
        }
        wait_to_run(stop, runs);
        step = (step + 1).max(passed());
        sleep_until(since_ns + step * PACE_NS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// The rate a flow of 40 Mbit/s reaches in a second.
    fn paced() -> f64 {
        let (mut tenants, flow) = (Tenants::default(), FlowId(1));
        let port = tenants
            .open_sink(flow, loopback(), Box::new(|| true), "cubic")
            .unwrap();
        let out = Outgoing {
            to: SocketAddr::new(loopback().ip(), port),
            rate_bps: Some(40_000_000),
            since_ns: mono_ns(),
        };
        tenants
            .open_source(flow, out, Box::new(|| true), "cubic")
            .unwrap();
        let begun = mono_ns();
        sleep_until(begun + 1_000_000_000);
        let (_, bytes) = tenants.received()[0];
        let rate = bytes as f64 * 8.0 / ((mono_ns() - begun) as f64 / 1e9);
        let closed = tenants.close(flow).unwrap();
        assert!(closed.received_bytes >= bytes);
        rate
    }

    #[test]
    fn a_paced_flow_keeps_its_rate() {
        // Steps missed on a busy machine are not caught up with, so a run may be too slow, but one
        // in five is not; none is too fast. One pace step of 200 in either direction, doubled.
        let rates: Vec<f64> = (0..5).map(|_| paced()).collect();
        assert!(rates.iter().all(|rate| *rate < 44e6), "{rates:?} bit/s");
        assert!(rates.iter().any(|rate| *rate > 36e6), "{rates:?} bit/s");
    }

    #[test]
    fn closing_does_not_wait_for_a_peer() {
        let mut tenants = Tenants::default();
        tenants
            .open_sink(FlowId(7), loopback(), Box::new(|| true), "cubic")
            .unwrap();
        assert_eq!(tenants.close(FlowId(7)).unwrap().received_bytes, 0);
        assert!(tenants.close(FlowId(7)).is_none());
    }

    #[test]
    fn a_schedule_neither_drifts_nor_catches_up() {
        // 12345 bit/s: 7.715625 bytes a step.
        let sent: u128 = (0..1600)
            .map(|step| due_bytes(12_345, step + 1) - due_bytes(12_345, step))
            .sum();
        assert_eq!(sent, 12_345, "8 s of it");
    }

    #[test]
    fn a_paused_guest_sends_nothing() {
        let (mut tenants, flow) = (Tenants::default(), FlowId(1));
        let port = tenants
            .open_sink(flow, loopback(), Box::new(|| true), "cubic")
            .unwrap();
        let out = Outgoing {
            to: SocketAddr::new(loopback().ip(), port),
            rate_bps: Some(8_000_000),
            since_ns: mono_ns(),
        };
        let running = Arc::new(AtomicBool::new(true));
        let runs = Arc::clone(&running);
        let runs: Runs = Box::new(move || runs.load(Ordering::Relaxed));
        tenants.open_source(flow, out, runs, "cubic").unwrap();
        let wait = |ns| sleep_until(mono_ns() + ns);
        wait(100_000_000);
        running.store(false, Ordering::Relaxed);
        wait(20_000_000);
        let before = tenants.received()[0].1;
        assert!(before > 0);
        wait(100_000_000);
        assert_eq!(tenants.received()[0].1, before);
        running.store(true, Ordering::Relaxed);
        wait(50_000_000);
        assert!(tenants.received()[0].1 > before);
        tenants.close(flow).unwrap();
    }
}
