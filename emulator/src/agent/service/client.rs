//! The end that asks. Latency counts from the instant a request was due, not from when a connection
//! was free for it: a stall delays every request that falls into it (no coordinated omission).

use super::server::pass;
use super::{Asking, CHUNK, HEADER, ServiceError, THREAD_STACK};
use crate::agent::net;
use crate::agent::tenant::Runs;
use crate::clock::{mono_ns, sleep_until};
use crate::scenario::Arrivals;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A connection that broke is tried again so soon.
const RETRY: Duration = Duration::from_millis(20);
/// The last stretch before a request is due is slept to its instant, not waited out.
const PRECISE_NS: u64 = 2_000_000;

/// What became of requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::agent) struct Closed {
    /// When each was due, monotonic ns, and how long after that its answer was there, µs.
    pub(in crate::agent) requests: Vec<(u64, u64)>,
    /// Due and not answered when the client was closed.
    pub(in crate::agent) cut: Vec<u64>,
    /// Connections that were opened.
    pub(in crate::agent) connections: u32,
}

/// A client of a service.
#[derive(Debug)]
pub(in crate::agent) struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    asking: Asking,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stop: bool,
    /// Of an open loop: the next request that nobody has taken, and its number.
    next_ns: u64,
    number: u64,
    done: Closed,
    workers: Vec<Worker>,
}

#[derive(Debug, Default)]
struct Worker {
    /// When its request was due.
    due_ns: Option<u64>,
    /// To be shut down from outside.
    stream: Option<TcpStream>,
}

impl Client {
    pub(super) fn open(asking: Asking, runs: Runs) -> Result<Self, ServiceError> {
        let count = asking.spec.connections;
        let state = State {
            stop: false,
            next_ns: asking.since_ns + gap_ns(asking.spec.arrivals, asking.seed, 0),
            number: 1,
            done: Closed::default(),
            workers: (0..count).map(|_| Worker::default()).collect(),
        };
        let shared = Arc::new(Shared {
            asking,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let client = Self(Arc::clone(&shared));
        let runs: Arc<dyn Fn() -> bool + Send + Sync> = Arc::new(runs);
        for worker in 0..count as usize {
            let (shared, runs) = (Arc::clone(&shared), Arc::clone(&runs));
            std::thread::Builder::new()
                .name(format!("ask-{worker}"))
                .stack_size(THREAD_STACK)
                .spawn(move || shared.work(worker, &*runs))?;
        }
        Ok(client)
    }

    pub(super) fn answered(&self) -> Closed {
        let mut state = self.0.lock();
        // What else has happened is told with the next answers.
        if state.done.requests.is_empty() {
            return Closed::default();
        }
        std::mem::take(&mut state.done)
    }

    /// Threads end by themselves: what they are about has been cut.
    pub(super) fn close(self) -> Closed {
        let now_ns = mono_ns();
        let mut state = self.0.lock();
        state.stop = true;
        let mut cut: Vec<u64> = state
            .workers
            .iter_mut()
            .filter_map(|worker| worker.due_ns.take())
            .filter(|&due_ns| due_ns <= now_ns)
            .collect();
        // Due, with no connection free.
        while let Some(due_ns) = self.0.take(&mut state).filter(|&due_ns| due_ns <= now_ns) {
            cut.push(due_ns);
        }
        state.done.cut.extend(cut);
        state.hang_up();
        self.0.changed.notify_all();
        std::mem::take(&mut state.done)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stop = true;
        state.hang_up();
        self.0.changed.notify_all();
    }
}

impl State {
    fn hang_up(&mut self) {
        for worker in &mut self.workers {
            if let Some(stream) = worker.stream.take() {
                // The peer may have closed first; then there is nothing left to shut.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request of an open loop; `None` in a closed one.
    fn take(&self, state: &mut State) -> Option<u64> {
        let arrivals = self.asking.spec.arrivals;
        if matches!(arrivals, Arrivals::Closed { .. }) {
            return None;
        }
        let due_ns = state.next_ns;
        state.next_ns += gap_ns(arrivals, self.asking.seed, state.number);
        state.number += 1;
        Some(due_ns)
    }

    /// One connection: request after request, until the client is closed.
    fn work(&self, worker: usize, runs: &dyn Fn() -> bool) {
        let mut connection: Option<TcpStream> = None;
        let mut buffer = vec![0u8; CHUNK];
        let mut free_ns = self.asking.since_ns;
        while let Some(due_ns) = self.wait_for_next(worker, free_ns) {
            while !runs() && !self.lock().stop {
                sleep_until(mono_ns() + 200_000);
            }
            while self.ask(worker, &mut connection, &mut buffer).is_err() {
                connection = None;
                if !self.wait_for_server() {
                    return;
                }
            }
            free_ns = mono_ns();
            let mut state = self.lock();
            if state.stop {
                return;
            }
            state.workers[worker].due_ns = None;
            let latency_us = free_ns.saturating_sub(due_ns).div_ceil(1000);
            state.done.requests.push((due_ns, latency_us));
        }
    }

    /// Waits until a request is due; `None` when the client is closed.
    fn wait_for_next(&self, worker: usize, free_ns: u64) -> Option<u64> {
        let mut state = self.lock();
        if state.stop {
            return None;
        }
        let due_ns = match self.asking.spec.arrivals {
            Arrivals::Closed { think_ns } => free_ns.saturating_add(think_ns),
            Arrivals::Poisson { .. } | Arrivals::Paced { .. } => self.take(&mut state)?,
        };
        state.workers[worker].due_ns = Some(due_ns);
        loop {
            if state.stop {
                return None;
            }
            let left_ns = due_ns.saturating_sub(mono_ns());
            if left_ns <= PRECISE_NS {
                drop(state);
                sleep_until(due_ns);
                return Some(due_ns);
            }
            let wait = Duration::from_nanos(left_ns - PRECISE_NS);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits a little; false when the client is closed.
    fn wait_for_server(&self) -> bool {
        let state = self.lock();
        let open = |state: &mut State| !state.stop;
        let waited = self.changed.wait_timeout_while(state, RETRY, open);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// Asks once, over the connection there is or a new one.
    fn ask(
        &self,
        worker: usize,
        connection: &mut Option<TcpStream>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if connection.is_none() {
            *connection = Some(self.connect(worker)?);
        }
        let Some(stream) = connection else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let spec = &self.asking.spec;
        let mut header = [0u8; HEADER];
        header[..4].copy_from_slice(&spec.request_bytes.to_be_bytes());
        header[4..8].copy_from_slice(&spec.response_bytes.to_be_bytes());
        header[8..].copy_from_slice(&spec.cpu_ns.to_be_bytes());
        stream.write_all(&header)?;
        pass(spec.request_bytes as usize, |part| {
            stream.write_all(&buffer[..part])
        })?;
        pass(spec.response_bytes as usize, |part| {
            stream.read_exact(&mut buffer[..part])
        })
    }

    fn connect(&self, worker: usize) -> io::Result<TcpStream> {
        let stream =
            net::connect(self.asking.to, &self.asking.congestion).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        let mut state = self.lock();
        if state.stop {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        state.done.connections += 1;
        state.workers[worker].stream = Some(stream.try_clone()?);
        Ok(stream)
    }
}

/// Time from request `number` − 1 to request `number` of an open loop.
fn gap_ns(arrivals: Arrivals, seed: u64, number: u64) -> u64 {
    // A thousandth of a request a second is one in 10^12 ns.
    let mean_ns = |rate_milli: u64| 1e12 / rate_milli.max(1) as f64;
    let gap_ns = match arrivals {
        Arrivals::Closed { .. } => return 0,
        Arrivals::Paced { rate_milli } => mean_ns(rate_milli),
        Arrivals::Poisson { rate_milli } => {
            let draw = mixed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let uniform = (draw >> 11) as f64 / (1u64 << 53) as f64;
            -mean_ns(rate_milli) * (1.0 - uniform).ln()
        }
    };
    traces::units::round_u64(gap_ns)
}

/// SplitMix64's output function (Steele, Lea, Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_rate_asked_for() {
        let count = 20_000u64;
        let sum = |arrivals| (0..count).map(|n| gap_ns(arrivals, 3, n)).sum::<u64>() as f64;
        let paced = sum(Arrivals::Paced {
            rate_milli: 250_000,
        });
        assert!((paced / 1e9 - count as f64 / 250.0).abs() < 1e-6, "{paced}");
        // The mean of 20,000 exponential gaps is within 3 / √20,000 = 2.1 % of theirs.
        let poisson = sum(Arrivals::Poisson {
            rate_milli: 250_000,
        });
        let mean = poisson / count as f64 / 4e6;
        assert!((mean - 1.0).abs() < 0.022, "{mean}");
    }
}
