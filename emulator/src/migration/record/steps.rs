//! What ends of a migration note on the way: phases, rounds, decisions, bytes, TCP's state.

use crate::migration::faults::ParameterChange;
use serde::{Deserialize, Serialize};

/// The phases, in order. Both ends use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Connect, header, RAM list, dirty log started.
    Handshake,
    /// Pages while the guest runs.
    Rounds,
    /// The guest stops at the source.
    Pause,
    /// The remaining pages, guest paused.
    FinalRound,
    /// Device state.
    State,
    /// The commit point: after it only the destination may run the guest.
    Switchover,
    /// The guest runs at the destination.
    Resume,
    /// Post-copy: the guest runs at the destination, which pulls what it lacks.
    Pull,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: &[Self] = &[
        Self::Handshake,
        Self::Rounds,
        Self::Pause,
        Self::FinalRound,
        Self::State,
        Self::Switchover,
        Self::Resume,
        Self::Pull,
    ];

    /// Its name in scenarios and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rounds => "rounds",
            Self::Pause => "pause",
            Self::FinalRound => "final-round",
            Self::State => "state",
            Self::Switchover => "switchover",
            Self::Resume => "resume",
            Self::Pull => "pull",
        }
    }
}

/// One phase as one end saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// Begin, monotonic ns.
    pub begin_ns: u64,
    /// End, monotonic ns.
    pub end_ns: u64,
}

/// One round: from one sync of the dirty log to the next. Round 0 starts with all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Round {
    /// From 0.
    pub number: u32,
    /// When its sync ended, monotonic ns.
    pub begin_ns: u64,
    /// When the next sync began, or the last byte was written.
    pub end_ns: u64,
    /// Pages in the migration bitmap after its sync.
    pub dirty_pages: u64,
    /// Pages newly found dirty by its sync (all, for round 0).
    pub new_dirty_pages: u64,
    /// Pages sent whole.
    pub normal_pages: u64,
    /// Zero pages sent as a marker.
    pub zero_pages: u64,
    /// Pages sent as deltas, or left out since they had not changed.
    #[serde(default)]
    pub xbzrle_pages: u64,
    /// Bytes handed to the socket.
    pub sent_bytes: u64,
    /// Sent with the guest paused: the final round.
    pub paused: bool,
}

/// One evaluation of the switchover rule that read the dirty log or ended the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Bytes known dirty before the log was read.
    pub estimate_bytes: u64,
    /// Bytes dirty after it was read.
    pub exact_bytes: u64,
    /// Switchover bandwidth, bytes a second: the last 100 ms window's.
    pub bandwidth_bytes_per_s: u64,
    /// `threshold_size` = switchover bandwidth × downtime-limit.
    pub threshold_bytes: u64,
    /// Whether the guest was stopped.
    pub switchover: bool,
}

/// A change of the auto-converge throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleStep {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Percent of the CPUs' time from then on.
    pub percent: u8,
}

/// Parameters changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterStep {
    /// When the engine had them, monotonic ns.
    pub at_ns: u64,
    /// Which, to what.
    pub change: ParameterChange,
}

/// Bytes handed to the socket, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct BytesByKind {
    /// 4096 bytes a page sent whole; of packed pages, what the codec made of them.
    pub normal: u64,
    /// Deltas of XBZRLE with their 3 bytes of head.
    #[serde(default)]
    pub delta: u64,
    /// Page headers and zero-page markers; headers of packets.
    pub header: u64,
    /// Stream header, RAM list, section marks; hellos and SYNC packets of channels.
    pub control: u64,
    /// Device state.
    pub device: u64,
}

impl BytesByKind {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.normal + self.delta + self.header + self.control + self.device
    }
}

/// QMP's `xbzrle-cache`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct XbzrleReport {
    /// Bytes.
    pub cache_size: u64,
    /// Bytes of deltas with 3 of head each, and 4096 for each overflow.
    pub bytes: u64,
    /// Pages found in the cache, whatever came of it.
    pub pages: u64,
    /// Pages not found in it.
    pub cache_miss: u64,
    /// Of the pages sent in the last period of at least 1 s.
    pub cache_miss_rate: f64,
    /// Bytes of pages to bytes of deltas in that period.
    pub encoding_rate: f64,
    /// Pages that had changed too much.
    pub overflow: u64,
}

/// A sample of the sender's TCP state, of all connections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TcpSample {
    /// Monotonic ns.
    pub at_ns: u64,
    /// Smoothed round-trip time, µs.
    pub rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments retransmitted so far.
    pub retransmits: u32,
    /// Whether it was answering a loss or a mark: sending as its recovery allows.
    #[serde(default)]
    pub recovering: bool,
    /// Bytes a second, as the kernel estimates.
    pub delivery_rate: u64,
    /// µs in which the connection was busy sending.
    pub busy_us: u64,
    /// µs limited by the receiver's window.
    pub rwnd_limited_us: u64,
    /// µs limited by the send buffer.
    pub sndbuf_limited_us: u64,
    /// Bytes handed to the socket and not acknowledged yet, if known.
    pub unacked_bytes: u64,
}
