//! The traffic of a calibration: datagrams for the delay, TCP streams for the rate.
//!
//! Sockets are made in the hosts' namespaces and used from this process. Nothing here judges.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::CalibrateError;
use super::cover::Way;
use crate::sys::clock::{now_ns, wait_until};
use crate::sys::netns::with_netns;
use crate::sys::tcpinfo::set_congestion_control;
use crate::topology::{HostId, host_address};

/// A datagram: IPv4, UDP and the instant it was sent.
pub(super) const PING_IP_BYTES: u32 = 20 + 8 + 8;

/// Between two datagrams, so that each finds idle links.
pub(super) const PING_GAP_NS: u64 = 5_000_000;
/// What a datagram may take beyond the delay asked before it counts as lost.
const PING_PATIENCE: Duration = Duration::from_millis(500);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How often a blocked reader or writer looks at the clock.
const IO_SLICE: Duration = Duration::from_millis(100);

type Hosts = BTreeMap<HostId, OwnedFd>;

/// Sockets for datagrams along one way.
pub(super) struct Probe {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Probe {
    pub(super) fn open(hosts: &Hosts, ways: &[Way]) -> Result<Vec<Self>, CalibrateError> {
        ways.iter().map(|way| Self::open_one(hosts, *way)).collect()
    }

    /// Sends `count` datagrams along every way, `gap_ns` apart and ways in turn; delays of those that arrive, sorted.
    pub(super) fn run(
        probes: &[Self],
        count: u32,
        gap_ns: u64,
        longest: Duration,
    ) -> Vec<Vec<u64>> {
        let waiting = u64::try_from((longest + PING_PATIENCE).as_nanos()).unwrap_or(u64::MAX);
        // Known once all are sent: a computer that is slow to send must not be told that its links lose.
        let end_ns = &AtomicU64::new(u64::MAX);
        std::thread::scope(|scope| {
            let receiving: Vec<_> = probes
                .iter()
                .map(|probe| scope.spawn(move || probe.receive(count, end_ns)))
                .collect();
            send(probes, count, gap_ns);
            end_ns.store(now_ns().saturating_add(waiting), Ordering::Relaxed);
            let received = receiving.into_iter().map(|way| way.join());
            received.map(Result::unwrap_or_default).collect()
        })
    }

    fn open_one(hosts: &Hosts, (from, to): Way) -> Result<Self, CalibrateError> {
        let failed = |what| {
            move |source| CalibrateError::Socket {
                from,
                to,
                what,
                source,
            }
        };
        let bind = |host: HostId| {
            let address = SocketAddr::from((host_address(host), 0));
            with_netns(hosts[&host].as_fd(), || UdpSocket::bind(address))
        };
        let receiver = bind(to)?.map_err(failed("bind a datagram socket"))?;
        let sender = bind(from)?.map_err(failed("bind a datagram socket"))?;
        let address = receiver.local_addr().map_err(failed("read its address"))?;
        sender
            .connect(address)
            .map_err(failed("connect a datagram socket"))?;
        receiver
            .set_read_timeout(Some(IO_SLICE))
            .map_err(failed("set a timeout"))?;
        Ok(Self { sender, receiver })
    }

    fn receive(&self, count: u32, end_ns: &AtomicU64) -> Vec<u64> {
        let mut delays = Vec::new();
        let mut stamp = [0; 8];
        while delays.len() < count as usize && now_ns() < end_ns.load(Ordering::Relaxed) {
            if self
                .receiver
                .recv(&mut stamp)
                .is_ok_and(|length| length == stamp.len())
            {
                delays.push(now_ns().saturating_sub(u64::from_ne_bytes(stamp)));
            }
        }
        delays.sort_unstable();
        delays
    }
}

/// By one thread, so that datagrams of different ways do not meet. After a delay of its own it goes on at the same pace
/// and makes up for nothing, so that datagrams of one way do not meet either.
fn send(probes: &[Probe], count: u32, gap_ns: u64) {
    let step_ns = gap_ns / probes.len().max(1) as u64;
    let mut at_ns = now_ns();
    for _ in 0..count {
        for probe in probes {
            if wait_until(at_ns).is_err() {
                return;
            }
            at_ns = now_ns().max(at_ns) + step_ns;
            // A datagram that cannot be sent is one that does not arrive.
            if let Err(error) = probe.sender.send(&now_ns().to_ne_bytes()) {
                tracing::debug!(%error, "a datagram of the calibration was not sent");
            }
        }
    }
}

/// Connected streams, one for each way.
pub(crate) struct Load {
    streams: Vec<(TcpStream, TcpStream)>,
    pub(crate) congestion_control: String,
}

impl Load {
    pub(crate) fn connect(hosts: &Hosts, ways: &[Way]) -> Result<Self, CalibrateError> {
        let mut load = Self {
            streams: Vec::new(),
            congestion_control: String::new(),
        };
        for &(from, to) in ways {
            let failed = |what| {
                move |source| CalibrateError::Socket {
                    from,
                    to,
                    what,
                    source,
                }
            };
            let address = SocketAddr::from((host_address(to), 0));
            let listener = with_netns(hosts[&to].as_fd(), || TcpListener::bind(address))?
                .map_err(failed("listen"))?;
            let address = listener.local_addr().map_err(failed("read its address"))?;
            let connect = || TcpStream::connect_timeout(&address, CONNECT_WITHIN);
            let sender = with_netns(hosts[&from].as_fd(), connect)?.map_err(failed("connect"))?;
            // The connection is complete, so there is one to accept.
            let (receiver, _) = listener.accept().map_err(failed("accept"))?;
            load.congestion_control = set_congestion_control(&sender, &["cubic", "reno"])
                .map_err(failed("set congestion control"))?;
            sender
                .set_write_timeout(Some(IO_SLICE))
                .map_err(failed("set a timeout"))?;
            receiver
                .set_read_timeout(Some(IO_SLICE))
                .map_err(failed("set a timeout"))?;
            // Reset at the end: what is still in a send buffer must not keep the links busy.
            let reset = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&sender, sockopt::Linger, &reset)
                .map_err(|e| failed("set linger")(e.into()))?;
            load.streams.push((sender, receiver));
        }
        Ok(load)
    }

    /// Streams on all ways until `end_ns` while `measure` looks at what the receivers got so far.
    pub(crate) fn run<T>(
        self,
        end_ns: u64,
        measure: impl FnOnce(&dyn Fn() -> Vec<u64>) -> Result<T, CalibrateError>,
    ) -> Result<T, CalibrateError> {
        let received: Vec<AtomicU64> = self.streams.iter().map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for ((sender, receiver), count) in self.streams.into_iter().zip(&received) {
                scope.spawn(move || pour(sender, end_ns));
                scope.spawn(move || swallow(receiver, end_ns, count));
            }
            measure(&|| {
                received
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed))
                    .collect()
            })
        })
    }
}

const CHUNK: usize = 256 << 10;

/// By value: dropping the socket here resets the stream.
fn pour(mut socket: TcpStream, end_ns: u64) {
    let chunk = vec![0x5a; CHUNK];
    while now_ns() < end_ns {
        match socket.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_slice_over(&error) => {}
            Err(_) => return,
        }
    }
}

/// By value: dropping the socket here closes the stream.
fn swallow(mut socket: TcpStream, end_ns: u64, count: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    while now_ns() < end_ns {
        match socket.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => {
                count.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
            }
            Err(error) if is_slice_over(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_slice_over(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
