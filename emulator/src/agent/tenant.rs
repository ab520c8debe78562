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

#[derive(Debug)]
struct Sink {
    stop: Arc<Stop>,
    received: Arc<AtomicU64>,
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
        congestion: &str,
    ) -> Result<u16, TenantError> {
        let listener = net::listen(host, congestion)?;
        let address = listener.local_addr()?;
        let (stop, received) = (Arc::new(Stop::default()), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::Builder::new()
                .name(format!("sink-{}", flow.0))
                .stack_size(THREAD_STACK)
                .spawn(move || receive(&listener, &stop, &received))?
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
        to: SocketAddr,
        rate_bps: Option<u64>,
        congestion: &str,
    ) -> Result<(), TenantError> {
        let stream = net::connect(to, congestion)?;
        let stop = Arc::new(Stop::default());
        stop.adopt(&stream)?;
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::Builder::new()
                .name(format!("flow-{}", flow.0))
                .stack_size(THREAD_STACK)
                .spawn(move || {
                    let sent = match rate_bps {
                        Some(rate) => send_paced(stream, rate, &stop),
                        None => send_elastic(stream, &stop),
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
            .map(|(&flow, sink)| (flow, sink.received.load(Ordering::Relaxed)))
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
            ClosedSink {
                received_bytes: sink.received.load(Ordering::Relaxed),
                open_ns: mono_ns().saturating_sub(sink.opened_ns),
            }
        })
    }
}

/// Flow threads are shallow; a thousand of them should not reserve gigabytes.
const THREAD_STACK: usize = 128 << 10;

fn receive(listener: &TcpListener, stop: &Stop, received: &AtomicU64) {
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
        received.fetch_add(read as u64, Ordering::Relaxed);
    }
}

fn send_elastic(mut stream: TcpStream, stop: &Stop) -> io::Result<()> {
    let chunk = vec![0u8; CHUNK];
    while !stop.asked.load(Ordering::Acquire) {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

/// Writes what the rate allows every 5 ms. What TCP does not take in time is not caught up with: a
/// request that found the network full is late, not sent twice as fast later.
fn send_paced(mut stream: TcpStream, rate_bps: u64, stop: &Stop) -> io::Result<()> {
    let chunk = vec![0u8; CHUNK];
    let (begun, mut step, mut carried) = (mono_ns(), 0u64, 0u64);
    while !stop.asked.load(Ordering::Acquire) {
        // rate ≤ 2^63 and 5 ms: the product fits u128; the remainder is carried, so no drift.
        let bits_ns = u128::from(rate_bps) * u128::from(PACE_NS) + u128::from(carried);
        let bytes = u64::try_from(bits_ns / 8_000_000_000).unwrap_or(u64::MAX);
        carried = u64::try_from(bits_ns % 8_000_000_000).unwrap_or(0);
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            stream.write_all(&chunk[..now])?;
            left -= now as u64;
        }
        step = (step + 1).max((mono_ns() - begun) / PACE_NS);
        sleep_until(begun + step * PACE_NS);
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
        let port = tenants.open_sink(flow, loopback(), "cubic").unwrap();
        let to = SocketAddr::new(loopback().ip(), port);
        tenants
            .open_source(flow, to, Some(40_000_000), "cubic")
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
        tenants.open_sink(FlowId(7), loopback(), "cubic").unwrap();
        assert_eq!(tenants.close(FlowId(7)).unwrap().received_bytes, 0);
        assert!(tenants.close(FlowId(7)).is_none());
    }
}
