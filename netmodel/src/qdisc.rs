//! What the kernel is asked to queue with, as values: queueing disciplines, classes and the filter that redirects.
//!
//! Pure: which of them a link needs is in `shape`, how they become bytes in `sys::tc`, and `Display` prints what a
//! person would tell `tc`. Nothing here knows devices by number or talks to anybody.

mod jitter;
mod shape;
mod tbf;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::jitter::table;
pub use self::shape::{Framing, Shape};
pub use self::tbf::Tbf;
use crate::link::{Distribution, OVERHEAD_KERNEL};

/// The number of a qdisc or class, `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// Parent of a device's outermost qdisc (TC_H_ROOT).
    pub const ROOT: Self = Self(0xFFFF_FFFF);
    /// Parent of what is done with packets a device receives (TC_H_INGRESS).
    pub const INGRESS: Self = Self(0xFFFF_FFF1);

    /// `major:minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self(((major as u32) << 16) | minor as u32)
    }
}

/// One thing to hang on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A queueing discipline.
    Qdisc {
        /// What it hangs on.
        parent: Handle,
        /// Its own number.
        handle: Handle,
        /// Which, and its parameters.
        kind: Qdisc,
    },
    /// The class of an HTB.
    Class {
        /// Its HTB.
        parent: Handle,
        /// Its own number.
        handle: Handle,
        /// Its parameters.
        class: HtbClass,
    },
    /// Hands everything the device receives to other devices, as if they were to send it.
    Redirect(Redirect),
}

/// A queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qdisc {
    /// Where filters for received packets hang.
    Ingress,
    /// Delay, jitter and loss.
    Netem(Netem),
    /// Token buckets; what no filter classifies goes to class `default`.
    Htb {
        /// Minor number of a class.
        default: u32,
    },
    /// Token bucket with a queue of its own.
    Tbf(Tbf),
    /// Drop-tail queue in bytes.
    Bfifo {
        /// Room in bytes as the kernel counts them; 0 refuses everything.
        limit: u32,
    },
}

/// A token bucket, its rate also its ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HtbClass {
    /// Bytes per second, as the kernel counts them.
    pub rate_bytes: u64,
    /// Depth of the bucket, as the time it takes to fill: in ticks of 64 ns.
    pub burst_ticks: u32,
    /// What a class may send before a sibling's turn; there is never a sibling, but without it the kernel guesses and
    /// complains.
    pub quantum: u32,
    /// Bytes added to each packet.
    pub overhead: u16,
}

/// Delay, jitter and loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netem {
    /// Mean delay.
    pub delay_ns: u64,
    /// What [`Distribution`] is multiplied with; 0 for none.
    pub jitter_ns: u64,
    /// Shape of the jitter. The kernel does not tell it back.
    pub distribution: Distribution,
    /// What is lost when it is offered.
    pub loss: NetemLoss,
    /// Packets it may hold, those of the qdiscs within counted too.
    pub limit: u32,
    /// Bytes per second; only there to keep packets in order (netem sorts by due time otherwise).
    pub rate_bytes: Option<u64>,
    /// Seed of its random numbers, where the kernel knows it (Linux 6.7).
    pub seed: u64,
}

/// Probabilities in parts of 2³² − 1, as netem has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetemLoss {
    /// Each packet by itself; 0 loses none, `u32::MAX` all.
    Independent(u32),
    /// In bursts.
    GilbertElliott {
        /// From good to bad.
        p: u32,
        /// From bad to good.
        r: u32,
        /// Kept while bad.
        h: u32,
        /// Lost while good.
        k1: u32,
    },
}

/// Where received packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The device that gets them.
    pub to: String,
    /// With a sink, `to` gets a copy and the sink the original. A copy is charged to no socket, so TCP small queues
    /// do not see how long it waits; netem detaches packets itself, HTB does not.
    pub sink: Option<String>,
}

/// One tick of the kernel's packet scheduler (PSCHED_SHIFT 6).
const TICK_NS: u32 = 64;

impl Object {
    /// Every parameter the kernel tells back, with the value it has to tell.
    pub(crate) fn facts(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Qdisc { kind, .. } => kind.facts(),
            Self::Class { class, .. } => vec![
                ("rate", class.rate_bytes),
                ("ceil", class.rate_bytes),
                ("burst", class.burst_ticks.into()),
                ("cburst", class.burst_ticks.into()),
                ("quantum", class.quantum.into()),
                ("overhead", class.overhead.into()),
            ],
            // Devices have numbers only where they are: `sys::tc` compares these.
            Self::Redirect(_) => Vec::new(),
        }
    }
}

impl Qdisc {
    /// As the kernel calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Netem(_) => "netem",
            Self::Htb { .. } => "htb",
            Self::Tbf(_) => "tbf",
            Self::Bfifo { .. } => "bfifo",
        }
    }

    fn facts(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Ingress => Vec::new(),
            Self::Htb { default } => vec![("default", (*default).into())],
            Self::Bfifo { limit } => vec![("limit", (*limit).into())],
            Self::Tbf(tbf) => tbf.facts(),
            Self::Netem(netem) => {
                let mut facts = vec![
                    ("delay", netem.delay_ns),
                    ("jitter", netem.jitter_ns),
                    ("limit", netem.limit.into()),
                    ("rate", netem.rate_bytes.unwrap_or(0)),
                ];
                match netem.loss {
                    NetemLoss::Independent(share) => facts.push(("loss", share.into())),
                    NetemLoss::GilbertElliott { p, r, h, k1 } => facts.extend([
                        ("gemodel p", p.into()),
                        ("gemodel r", r.into()),
                        ("gemodel h", h.into()),
                        ("gemodel k1", k1.into()),
                    ]),
                }
                facts
            }
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.0 >> 16, self.0 & 0xFFFF);
        match (*self, minor) {
            (Self::ROOT, _) => f.write_str("root"),
            (Self::INGRESS, _) => f.write_str("ingress"),
            (_, 0) => write!(f, "{major:x}:"),
            _ => write!(f, "{major:x}:{minor:x}"),
        }
    }
}

/// In `tc`'s words, without the device: `qdisc add dev DEVICE …` lacks its first four.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qdisc {
                kind: Qdisc::Ingress,
                ..
            } => f.write_str("ingress"),
            Self::Qdisc {
                parent,
                handle,
                kind,
            } => {
                if *parent != Handle::ROOT {
                    f.write_str("parent ")?;
                }
                write!(f, "{parent} handle {handle} {kind}")
            }
            Self::Class {
                parent,
                handle,
                class,
            } => write!(f, "parent {parent} classid {handle} {class}"),
            Self::Redirect(redirect) => write!(f, "parent ffff: protocol all {redirect}"),
        }
    }
}

impl fmt::Display for Qdisc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress => f.write_str("ingress"),
            Self::Htb { default } => write!(f, "htb default {default:x}"),
            Self::Bfifo { limit } => write!(f, "bfifo limit {limit}"),
            Self::Tbf(tbf) => tbf.fmt(f),
            Self::Netem(netem) => netem.fmt(f),
        }
    }
}

impl fmt::Display for HtbClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bps, quantum) = (self.rate_bytes.saturating_mul(8), self.quantum);
        let burst = self.burst_bytes();
        write!(
            f,
            "htb rate {bps}bit ceil {bps}bit burst {burst}b cburst {burst}b quantum {quantum}"
        )?;
        if self.overhead > 0 {
            write!(f, " overhead {}", self.overhead)?;
        }
        Ok(())
    }
}

impl HtbClass {
    /// Depth of the bucket in bytes.
    #[must_use]
    pub fn burst_bytes(&self) -> u64 {
        let ns = u128::from(self.burst_ticks) * u128::from(TICK_NS);
        u64::try_from(u128::from(self.rate_bytes) * ns / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Netem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netem limit {} delay {}ns", self.limit, self.delay_ns)?;
        if self.jitter_ns > 0 {
            write!(f, " {}ns", self.jitter_ns)?;
            match self.distribution {
                Distribution::Uniform => {}
                Distribution::Normal => f.write_str(" distribution normal")?,
                Distribution::Pareto => f.write_str(" distribution pareto")?,
            }
        }
        let percent = |share: u32| 100.0 * f64::from(share) / f64::from(u32::MAX);
        match self.loss {
            NetemLoss::Independent(0) => {}
            NetemLoss::Independent(share) => write!(f, " loss {:.7}%", percent(share))?,
            NetemLoss::GilbertElliott { p, r, h, k1 } => write!(
                f,
                " loss gemodel {:.7}% {:.7}% {:.7}% {:.7}%",
                percent(p),
                percent(r),
                100.0 - percent(h),
                percent(k1)
            )?,
        }
        self.rate_bytes.map_or(Ok(()), |rate| {
            write!(f, " rate {}bit", rate.saturating_mul(8))
        })
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("u32 match u32 0 0 ")?;
        write!(f, "action mirred egress redirect dev {}", self.to)?;
        match &self.sink {
            // `tc` cannot say that the first action goes on with the original.
            Some(sink) => write!(f, " pipe action mirred egress redirect dev {sink}"),
            None => Ok(()),
        }
    }
}

/// Wire bytes of packets which the kernel counted as `bytes`, its Ethernet header once per segment. Exact.
#[must_use]
pub(crate) fn wire_bytes(bytes: u64, segments: u64, overhead_bytes: u16) -> u64 {
    let counted = segments.saturating_mul(OVERHEAD_KERNEL.into());
    bytes
        .saturating_sub(counted)
        .saturating_add(segments.saturating_mul(overhead_bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_read_as_tc_writes_them() {
        assert_eq!(Handle::new(2, 0).to_string(), "2:");
        assert_eq!(Handle::new(0x10, 0x1f).to_string(), "10:1f");
        assert_eq!(Handle::ROOT.to_string(), "root");
    }

    #[test]
    fn bytes_of_the_kernel_become_bytes_of_the_wire() {
        // Ten full segments and an acknowledgement without options.
        assert_eq!(wire_bytes(10 * 1514 + 54, 11, 38), 10 * 1538 + 78);
        assert_eq!(wire_bytes(10 * 1514, 10, 0), 15_000);
    }
}
