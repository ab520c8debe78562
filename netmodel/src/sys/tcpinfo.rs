//! What the kernel knows of a TCP connection (TCP_INFO), and the congestion control it uses.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt::TcpCongestion};
use serde::{Deserialize, Serialize};

/// The part of TCP_INFO that says what limits a connection. Fields newer than the kernel are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Smallest round-trip time seen.
    pub rtt_min: Duration,
    /// Congestion window in segments.
    pub cwnd_segments: u32,
    /// Slow-start threshold in segments.
    pub ssthresh_segments: u32,
    /// Segments sent again, ever.
    pub retransmits: u32,
    /// Segments believed lost now.
    pub lost_segments: u32,
    /// TCP answers a loss or a mark: it sends as its recovery allows, not as its window would.
    pub recovering: bool,
    /// Payload bytes the other end acknowledged.
    pub acked_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Bytes written but not sent yet.
    pub unsent_bytes: u32,
    /// Recent rate of delivery, in bytes per second.
    pub delivery_bytes_per_s: u64,
    /// Time with something to send.
    pub busy: Duration,
    /// Of that, limited by the receiver's window.
    pub window_limited: Duration,
    /// Of that, limited by the send buffer.
    pub buffer_limited: Duration,
}

/// `struct tcp_info` up to what is used; the kernel fills as much as it knows and we ask for.
#[repr(C)]
#[derive(Default)]
struct RawTcpInfo {
    bytes: [u8; 8],
    words: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
}

/// Place of `tcpi_ca_state` among the first eight bytes, and its first value that slows a sender down: 2 is CWR, 3 recovery,
/// 4 loss; 0 is open, 1 disorder.
const CA_STATE: usize = 1;
const CA_CWR: u8 = 2;
/// Places of the u32 fields between `tcpi_rto` (0) and `tcpi_total_retrans` (23).
const LOST: usize = 6;
const RTT: usize = 15;
const SSTHRESH: usize = 17;
const CWND: usize = 18;
const TOTAL_RETRANS: usize = 23;

/// Reads a TCP socket's state.
///
/// # Errors
/// The kernel's, for a descriptor that is no TCP socket.
pub fn read(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = RawTcpInfo::default();
    let mut length = u32::try_from(size_of::<RawTcpInfo>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into `raw`, a C struct of integers that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut raw).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let us = |n: u32| Duration::from_micros(u64::from(n));
    Ok(TcpInfo {
        rtt: us(raw.words[RTT]),
        rtt_min: us(raw.min_rtt),
        cwnd_segments: raw.words[CWND],
        ssthresh_segments: raw.words[SSTHRESH],
        retransmits: raw.words[TOTAL_RETRANS],
        lost_segments: raw.words[LOST],
        recovering: raw.bytes[CA_STATE] >= CA_CWR,
        acked_bytes: raw.bytes_acked,
        received_bytes: raw.bytes_received,
        unsent_bytes: raw.notsent_bytes,
        delivery_bytes_per_s: raw.delivery_rate,
        busy: Duration::from_micros(raw.busy_time),
        window_limited: Duration::from_micros(raw.rwnd_limited),
        buffer_limited: Duration::from_micros(raw.sndbuf_limited),
    })
}

/// Sets a socket's congestion control to the first of `wanted` the kernel offers; returns the one in force.
///
/// # Errors
/// The kernel's, when it offers none of them.
pub fn set_congestion_control(socket: impl AsFd, wanted: &[&str]) -> io::Result<String> {
    let mut last = io::Error::from(io::ErrorKind::InvalidInput);
    for name in wanted {
        match setsockopt(&socket, TcpCongestion, &(*name).into()) {
            Ok(()) => {
                let name = getsockopt(&socket, TcpCongestion)?;
                let name = name.to_string_lossy();
                return Ok(name.trim_end_matches('\0').to_owned());
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn acknowledged_and_received_bytes_are_read_from_the_right_places() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        assert_eq!(
            set_congestion_control(&sender, &["no-such", "reno"]).unwrap(),
            "reno"
        );
        sender.write_all(&[7; 10_000]).unwrap();
        receiver.read_exact(&mut [0; 10_000]).unwrap();
        receiver.write_all(&[1]).unwrap();
        sender.read_exact(&mut [0]).unwrap();
        assert_eq!(read(&receiver).unwrap().received_bytes, 10_000);
        let info = read(&sender).unwrap();
        // The SYN may count as one.
        assert!((10_000..=10_001).contains(&info.acked_bytes), "{info:?}");
        assert!(
            info.cwnd_segments >= 2 && info.rtt > Duration::ZERO,
            "{info:?}"
        );
        assert_eq!(info.retransmits, 0);
        assert!(info.rtt_min > Duration::ZERO && info.rtt_min < Duration::from_secs(1));
    }
}
