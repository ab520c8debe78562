//! What one direction of a link promises, and the arithmetic of bytes on its wire.
//!
//! Pure values; how a promise is kept is the business of a backend.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{BitRate, ByteSize, Probability};

/// Bytes Ethernet adds to an IP packet: header 14, FCS 4, preamble and SFD 8, inter-frame gap 12.
pub const OVERHEAD_ETHERNET: u16 = 38;
/// What the kernel's TBF, HTB and netem count over the IP packet: the Ethernet header alone.
pub const OVERHEAD_KERNEL: u16 = 14;
/// MTU of every emulated device, in IP bytes.
pub const MTU: u16 = 1500;

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// Rate on the wire; `None` leaves the direction unshaped.
    #[serde(default)]
    pub rate: Option<BitRate>,
    /// One-way delay added after serialisation.
    #[serde(default)]
    pub delay: Duration,
    /// How the delay varies from packet to packet.
    #[serde(default)]
    pub jitter: Jitter,
    /// Which segments are lost on the way, after they took their share of the rate.
    #[serde(default)]
    pub loss: Loss,
    /// Room of the drop-tail queue in wire bytes; ignored while unshaped.
    #[serde(default = "default_queue")]
    pub queue: ByteSize,
    /// Packets that find more than this in the queue are marked (RFC 3168 CE) if their sender can be told so: the
    /// step marking of a data-centre switch. `None` never marks.
    #[serde(default)]
    pub ecn_threshold: Option<ByteSize>,
    /// What the rate counts over the IP bytes of each segment.
    #[serde(default = "default_overhead")]
    pub overhead_bytes: u16,
    /// Super-frames (GSO) of the hosts that send into it are at most as long as this takes to serialise.
    #[serde(default = "default_super_frame")]
    pub super_frame: Duration,
    /// Whether the link carries anything: what is sent into a link that is down is dropped, what is on it arrives.
    #[serde(default = "default_up")]
    pub up: bool,
    /// Where its rate is kept.
    #[serde(default)]
    pub shaper_at: ShaperAt,
}

/// Where a link's rate is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ShaperAt {
    /// In the fabric: the sender sees nothing of the queue but delay and drops, as of a network.
    #[default]
    Fabric,
    /// On the sending host's own device, by the kernel's TBF, whose queue is the link's: what waits there is still charged
    /// to the sender's socket, so that TCP small queues keep it short. To reproduce measurements that were shaped so
    /// (`tc qdisc add dev eth0 root tbf …`); a real network is not like that. Only for the way out of a host.
    SourceEgress {
        /// Depth of the token bucket.
        burst: ByteSize,
    },
}

/// How a one-way delay varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Half the width of a uniform distribution, standard deviation of the others: what netem calls jitter.
    #[serde(default)]
    pub spread: Duration,
    /// Its shape.
    #[serde(default)]
    pub distribution: Distribution,
    /// Whether a packet may overtake another. Without it a packet is never due before the one ahead of it.
    #[serde(default)]
    pub reorder: bool,
}

/// Shapes of jitter, as netem names them. All have mean 0 before what would be negative is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Evenly within ± the spread.
    #[default]
    Uniform,
    /// Gaussian.
    Normal,
    /// Long to the right, as queues in a wide-area network are.
    Pareto,
}

/// Which segments a link loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with the same probability, whatever became of the others.
    Independent(Probability),
    /// In bursts.
    GilbertElliott(GilbertElliott),
}

/// Two states with a loss probability each; a step for each segment. Parameters as netem's `loss gemodel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// From good to bad (netem's p).
    pub good_to_bad: Probability,
    /// From bad to good (netem's r).
    pub bad_to_good: Probability,
    /// Loss while bad (netem's 1 - h).
    pub loss_in_bad: Probability,
    /// Loss while good (netem's 1 - k).
    pub loss_in_good: Probability,
}

impl GilbertElliott {
    /// Share of all segments that are lost in the long run.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        let (p, r) = (self.good_to_bad.share(), self.bad_to_good.share());
        // Never leaving the state it begins in, good.
        let bad = if p + r > 0.0 { p / (p + r) } else { 0.0 };
        bad * self.loss_in_bad.share() + (1.0 - bad) * self.loss_in_good.share()
    }
}

impl Loss {
    /// Each segment with this probability; none at all with 0.
    #[must_use]
    pub fn independent(share: Probability) -> Self {
        if share.ppb() == 0 {
            Self::None
        } else {
            Self::Independent(share)
        }
    }

    /// Whether anything can be lost.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.mean() <= 0.0
    }

    /// Share of all segments that are lost in the long run.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Independent(share) => share.share(),
            Self::GilbertElliott(states) => states.mean_loss(),
        }
    }
}

/// 512 KiB: the shared buffer a port of a shallow-buffered data-centre switch can take.
fn default_queue() -> ByteSize {
    ByteSize::from_bytes(512 << 10)
}

fn default_overhead() -> u16 {
    OVERHEAD_ETHERNET
}

/// A compromise between burstiness and the relay's CPU time, which goes with the number of frames.
fn default_super_frame() -> Duration {
    Duration::from_micros(250)
}

fn default_up() -> bool {
    true
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Jitter::default(),
            loss: Loss::None,
            queue: default_queue(),
            ecn_threshold: None,
            overhead_bytes: OVERHEAD_ETHERNET,
            super_frame: default_super_frame(),
            up: true,
            shaper_at: ShaperAt::Fabric,
        }
    }
}

impl LinkSpec {
    /// An otherwise default link of this rate.
    #[must_use]
    pub fn with_rate(rate: BitRate) -> Self {
        Self {
            rate: Some(rate),
            ..Self::default()
        }
    }

    /// What of it the fabric has to do: all but a rate that is kept at the source.
    #[must_use]
    pub fn in_fabric(&self) -> Self {
        match self.shaper_at {
            ShaperAt::Fabric => *self,
            ShaperAt::SourceEgress { .. } => Self {
                rate: None,
                ecn_threshold: None,
                shaper_at: ShaperAt::Fabric,
                ..*self
            },
        }
    }

    /// Whether its rate is kept on the sending host's device.
    #[must_use]
    pub fn is_shaped_at_source(&self) -> bool {
        self.rate.is_some() && self.shaper_at != ShaperAt::Fabric
    }

    /// The usual bucket of a TBF of this rate: 2 ms of it, at least 32 KiB.
    #[must_use]
    pub fn usual_burst(rate: BitRate) -> ByteSize {
        let bytes = rate.bytes_in(Duration::from_millis(2)).max(32 << 10);
        ByteSize::from_bytes(bytes)
    }

    /// Nothing to emulate: packets pass at once.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.rate.is_none()
            && self.delay.is_zero()
            && self.jitter.spread.is_zero()
            && self.loss.is_none()
            && self.up
    }

    /// Bytes in flight on the wire when the link is full: rate × delay.
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.rate.map_or(0, |rate| rate.bytes_in(self.delay))
    }

    /// Longest a packet is under way but for its queue and serialisation: delay and four spreads, which normal jitter
    /// exceeds once in 30,000 packets.
    #[must_use]
    pub fn delay_most(&self) -> Duration {
        self.delay
            .saturating_add(self.jitter.spread.saturating_mul(4))
    }

    /// Largest super-frame to let onto this link, in IP bytes: what it serialises in `super_frame`, at least two segments,
    /// at most what a GSO packet can be. A device that shapes by itself is left what it has: TBF cuts what its bucket does
    /// not hold.
    #[must_use]
    pub fn gso_bytes(&self) -> u32 {
        if self.is_shaped_at_source() {
            return GSO_LARGEST;
        }
        let smallest = 2 * u64::from(MTU);
        let bytes = self.rate.map_or(u64::from(GSO_LARGEST), |rate| {
            rate.bytes_in(self.super_frame)
                .clamp(smallest, u64::from(GSO_LARGEST))
        });
        u32::try_from(bytes).unwrap_or(GSO_LARGEST)
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.spread.is_zero() {
            return f.write_str("no jitter");
        }
        let shape = format!("{:?}", self.distribution).to_lowercase();
        let order = if self.reorder { ", may reorder" } else { "" };
        write!(f, "jitter {:?} {shape}{order}", self.spread)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no loss"),
            Self::Independent(share) => write!(f, "loss {share}"),
            Self::GilbertElliott(states) => {
                write!(f, "loss {:.3}% in bursts", states.mean_loss() * 100.0)
            }
        }
    }
}

impl fmt::Display for LinkSpec {
    /// What is promised beyond an unshaped link that is up: `100Mbit, queue 256KiB, +38 B, delay 4ms, loss 0.1%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            None => f.write_str("unshaped")?,
            Some(rate) => write!(
                f,
                "{rate}, queue {}, +{} B",
                self.queue, self.overhead_bytes
            )?,
        }
        if let (ShaperAt::SourceEgress { burst }, true) =
            (self.shaper_at, self.is_shaped_at_source())
        {
            write!(f, ", by TBF on the sender's device, burst {burst}")?;
        }
        if !self.delay.is_zero() {
            write!(f, ", delay {:?}", self.delay)?;
        }
        if !self.jitter.spread.is_zero() {
            write!(f, ", {}", self.jitter)?;
        }
        if self.loss != Loss::None {
            write!(f, ", {}", self.loss)?;
        }
        if let Some(bytes) = self.ecn_threshold {
            write!(f, ", ECN above {bytes}")?;
        }
        if !self.up {
            f.write_str(", down")?;
        }
        Ok(())
    }
}

/// Legacy GSO limit of the kernel (GSO_LEGACY_MAX_SIZE); beyond it IPv4 packets would need BIG TCP.
pub const GSO_LARGEST: u32 = 65_536;

/// One packet as a link accounts it. A super-frame stands for `segments` packets on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketSize {
    /// Length of the IP packet as handed over, headers once.
    pub ip_bytes: u32,
    /// Packets it becomes on a wire.
    pub segments: u32,
    /// L3 + L4 header bytes each further segment repeats.
    pub header_bytes: u32,
}

impl PacketSize {
    /// A packet that is not a super-frame.
    #[must_use]
    pub fn plain(ip_bytes: u32) -> Self {
        Self {
            ip_bytes,
            segments: 1,
            header_bytes: 0,
        }
    }

    /// Bytes on the wire: IP bytes + (segments − 1) × headers + segments × overhead.
    #[must_use]
    pub fn wire_bytes(&self, overhead_bytes: u16) -> u64 {
        let repeats = u64::from(self.segments.saturating_sub(1));
        u64::from(self.ip_bytes)
            + repeats * u64::from(self.header_bytes)
            + u64::from(self.segments) * u64::from(overhead_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_frame_costs_what_its_segments_cost() {
        // Ten full segments: 1448 payload + 52 header each, 38 bytes of Ethernet around each.
        let frame = PacketSize {
            ip_bytes: 14_480 + 52,
            segments: 10,
            header_bytes: 52,
        };
        assert_eq!(frame.wire_bytes(OVERHEAD_ETHERNET), 10 * 1538);
        assert_eq!(frame.wire_bytes(OVERHEAD_KERNEL), 10 * 1514);
        assert_eq!(PacketSize::plain(40).wire_bytes(OVERHEAD_ETHERNET), 78);
    }

    #[test]
    fn a_spec_is_said_as_scenarios_spell_it() {
        assert_eq!(LinkSpec::default().to_string(), "unshaped");
        let spec = LinkSpec {
            delay: Duration::from_millis(4),
            loss: Loss::Independent("0.1%".parse().unwrap()),
            up: false,
            ..LinkSpec::with_rate(BitRate::from_bps(100_000_000).unwrap())
        };
        let expected = "100Mbit, queue 512KiB, +38 B, delay 4ms, loss 0.1%, down";
        assert_eq!(spec.to_string(), expected);
    }

    #[test]
    fn a_rate_kept_at_the_source_is_not_the_fabrics() {
        let rate = BitRate::from_bps(500_000_000).unwrap();
        let burst = LinkSpec::usual_burst(rate);
        assert_eq!(burst.bytes(), 125_000);
        let slow = BitRate::from_bps(100_000_000).unwrap();
        assert_eq!(LinkSpec::usual_burst(slow).bytes(), 32_768);
        let spec = LinkSpec {
            delay: Duration::from_millis(1),
            shaper_at: ShaperAt::SourceEgress { burst },
            ..LinkSpec::with_rate(rate)
        };
        assert!(spec.is_shaped_at_source() && !spec.in_fabric().is_shaped_at_source());
        assert_eq!(spec.in_fabric().rate, None);
        assert_eq!(spec.in_fabric().delay, spec.delay);
        assert_eq!(spec.gso_bytes(), GSO_LARGEST);
        let text = spec.to_string();
        assert!(
            text.contains("by TBF on the sender's device, burst 125KB"),
            "{text}"
        );
        let plain = LinkSpec::with_rate(rate);
        assert_eq!(plain.in_fabric(), plain);
    }

    #[test]
    fn super_frames_shrink_with_the_rate() {
        let gso = |bps| LinkSpec::with_rate(BitRate::from_bps(bps).unwrap()).gso_bytes();
        assert_eq!(gso(10_000_000), 3000);
        assert_eq!(gso(1_000_000_000), 31_250);
        assert_eq!(gso(10_000_000_000), 65_536);
        assert_eq!(LinkSpec::default().gso_bytes(), 65_536);
        let half = LinkSpec {
            super_frame: Duration::from_micros(125),
            ..LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).unwrap())
        };
        assert_eq!(half.gso_bytes(), 15_625);
    }
}
