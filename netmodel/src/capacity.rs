//! What this computer carries, and whether a network asks for more: admission before a run.
//!
//! The model is pure; `measure` alone touches the kernel. A capacity serves admission only: what a run really did is
//! calibrated and audited anew each time.
//!
//! **Model.** To carry a byte costs a share of the computer: `1 / B(f)` seconds in frames of `f` bytes, where `B` is the
//! measured throughput. Work is done per frame and per byte, so `1 / B(f) = α / f + β`; two measured sizes give both. A
//! demand fits if the seconds of work it makes per second stay below [`HEADROOM`].

mod measure;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::measure::{CapacityError, key, measure};
use crate::backend::BackendKind;
use crate::link::{GSO_LARGEST, LinkSpec, MTU};

/// What a measured capacity is valid for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CapacityKey {
    /// Release of the kernel, as uname has it.
    pub kernel: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// What carries.
    pub backend: BackendKind,
    /// Version of this crate.
    pub version: String,
}

/// Throughput with frames of one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// The largest frame hosts were allowed, wire bytes.
    pub frame_bytes: f64,
    /// Wire bytes per second.
    pub bytes_per_s: f64,
    /// Frames per second, were all of them that large.
    pub frames_per_s: f64,
    /// CPU time of everything involved (senders and receivers too), per second.
    pub cpu_share: f64,
}

/// What this computer carries through a backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// What it is valid for.
    pub key: CapacityKey,
    /// Measured with small and with large frames, in this order.
    pub measured: [Throughput; 2],
    /// Timers of this computer fire this late, 99th percentile.
    pub timer_late_p99_ns: u64,
}

/// What a network may ask for at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Demand {
    /// Rates at which bytes may enter the network together, and the frames they come in.
    pub loads: Vec<Load>,
}

/// One rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Wire bits per second.
    pub rate_bps: u64,
    /// Frames of this many bytes.
    pub frame_bytes: u32,
}

/// Whether a demand fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// It does.
    pub fits: bool,
    /// Seconds of work per second, over the share that may be used: at most 1 if it fits.
    pub utilisation: f64,
    /// Smallest k that fits; 1 if it fits as it is, none if no k up to [`K_MAX`] does.
    pub smallest_k: Option<u32>,
    /// Other backends that would carry it as it is.
    pub others: Vec<BackendKind>,
}

/// Share of the measured capacity that a network may ask for. A relay at its limit has no spare time: queues of work
/// grow as 1 / (1 - load), to four times an idle one's at 0.75; and the capacity was measured while nothing else ran.
pub const HEADROOM: f64 = 0.75;
/// Beyond it no link is left to scale: 10 Gbit/s divided by 1024 are below 10 Mbit/s.
pub const K_MAX: u32 = 1024;

impl Demand {
    /// Adds what a link may bring in at once.
    pub fn add(&mut self, spec: &LinkSpec) {
        if let Some(rate) = spec.rate.filter(|_| spec.up) {
            self.loads.push(Load {
                rate_bps: rate.bps(),
                frame_bytes: spec.gso_bytes(),
            });
        }
    }

    /// The same with space divided by k: rates and, down to two segments, frames.
    fn divided_by(&self, k: u32) -> Self {
        let smallest = 2 * u32::from(MTU);
        let divide = |load: &Load| Load {
            rate_bps: load.rate_bps / u64::from(k),
            frame_bytes: (load.frame_bytes / k).max(smallest.min(load.frame_bytes)),
        };
        Self {
            loads: self.loads.iter().map(divide).collect(),
        }
    }
}

impl Capacity {
    /// Seconds of work that a byte makes in frames of this size.
    fn seconds_per_byte(&self, frame_bytes: f64) -> f64 {
        let [small, large] = &self.measured;
        let (cost_small, cost_large) = (1.0 / small.bytes_per_s, 1.0 / large.bytes_per_s);
        let inverse = 1.0 / small.frame_bytes - 1.0 / large.frame_bytes;
        // A busy moment may have made large frames look dearer; then size says nothing.
        let per_frame = if inverse > 0.0 {
            ((cost_small - cost_large) / inverse).max(0.0)
        } else {
            0.0
        };
        let per_byte = (cost_large - per_frame / large.frame_bytes).max(0.0);
        per_frame / frame_bytes.max(1.0) + per_byte
    }

    /// CPU time per frame and per byte, in ns: what fits both sizes.
    #[must_use]
    pub fn cpu_ns(&self) -> (f64, f64) {
        let [small, large] = self.measured.map(|t| (t.cpu_share * 1e9, t));
        let per_byte = |(ns, t): (f64, Throughput)| ns / t.bytes_per_s;
        let inverse = 1.0 / small.1.frame_bytes - 1.0 / large.1.frame_bytes;
        let per_frame =
            ((per_byte(small) - per_byte(large)) / inverse.max(f64::MIN_POSITIVE)).max(0.0);
        let rest = per_byte(large) - per_frame / large.1.frame_bytes;
        (per_frame, rest.max(0.0))
    }

    /// Seconds of work per second, over [`HEADROOM`].
    fn utilisation(&self, demand: &Demand) -> f64 {
        let work = demand.loads.iter().map(|load| {
            let bytes_per_s = load.rate_bps as f64 / 8.0;
            bytes_per_s * self.seconds_per_byte(f64::from(load.frame_bytes))
        });
        work.sum::<f64>() / HEADROOM
    }

    /// Whether this computer carries a demand, which k it would carry, and which of `others` would.
    #[must_use]
    pub fn admits(&self, demand: &Demand, others: &[Self]) -> Admission {
        let utilisation = self.utilisation(demand);
        let fits = |k: u32| self.utilisation(&demand.divided_by(k)) <= 1.0;
        // More k never means more work: rates shrink, and frames not faster than they.
        let (mut low, mut high) = (0, K_MAX);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        let others = others.iter().filter(|other| {
            other.key.backend != self.key.backend && other.utilisation(demand) <= 1.0
        });
        Admission {
            fits: utilisation <= 1.0,
            utilisation,
            smallest_k: fits(high).then_some(high),
            others: others.map(|other| other.key.backend).collect(),
        }
    }
}

/// The frame sizes to measure for links whose super-frames have `gso_bytes`: that one, and the other end of what may be.
fn sizes(gso_bytes: u32) -> [u32; 2] {
    let smallest = 2 * u32::from(MTU);
    let gso_bytes = gso_bytes.clamp(smallest, GSO_LARGEST);
    if gso_bytes > GSO_LARGEST / 4 {
        [smallest, gso_bytes]
    } else {
        [gso_bytes, GSO_LARGEST]
    }
}
