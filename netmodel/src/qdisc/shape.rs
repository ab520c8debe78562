//! The qdiscs that keep a link's promise. Pure: a spec in, parameters out.
//!
//! A link always has the same tree, so that whatever its backend carries can be changed in place, without an instant
//! at which nothing shapes and without losing what waits:
//!
//! ```text
//! netem   1: root     delay line, jitter, loss      (backend netem only)
//! htb     2:          one class, 2:1                the rate
//! bfifo   3:          drop-tail                     the queue, in bytes
//! ```
//!
//! netem hands packets to the qdisc within when they are due, so here the delay line comes before queue and rate. With
//! a constant delay nothing downstream can tell: everything happens to the same packets, the delay earlier. With
//! jitter it can: packets that were bunched leave at the link's rate, never closer. Loss comes before the rate as
//! well, so a lost segment takes no share of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Handle, HtbClass, Netem, NetemLoss, Object, Qdisc, TICK_NS};
use crate::backend::BackendKind;
use crate::link::{LinkSpec, Loss, MTU, OVERHEAD_KERNEL};
use crate::plan::UNSHAPED_BPS;
use crate::units::Probability;

/// What hosts hand over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Frames of many segments.
    SuperFrames,
    /// One segment per frame, because netem draws loss and jitter per frame.
    SingleSegments,
}

/// Parameters of a link's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Delay, jitter and loss; none in backend `htb`.
    pub netem: Option<Netem>,
    /// The rate.
    pub class: HtbClass,
    /// The queue, in bytes as the kernel counts them.
    pub limit: u32,
}

const NETEM: Handle = Handle::new(1, 0);
const HTB: Handle = Handle::new(2, 0);
const CLASS: Handle = Handle::new(2, 1);
const BFIFO: Handle = Handle::new(3, 0);

/// Rate of what has none: far above what any computer carries, and a change to a real one is a change like others.
const UNLIMITED_BYTES: u64 = 125_000_000_000;
/// Room of a link without a rate, which never queues: all but infinite, below the sign bit.
const UNLIMITED_QUEUE: u32 = 1 << 30;
/// A class sends while its bucket is not in debt, then waits for a timer. The bucket's depth is how late the timer may
/// be: whatever it is late beyond, the rate of that time is lost for good. 24 µs (15 kB at 5 Gbit/s) cost 6.4 % of the
/// rate, 1 ms nothing (testbeds.md §7). What follows an idle spell is ahead of the rate by as much, and 2 ms, a tenth of a
/// round trip of 20 ms, were enough for BBR to take the link for faster than it is and to keep its queue full
/// (35 ms where the relay, which has no bucket, gave 25). Timers on a calm computer are 0.02 to 0.2 ms late; on a busy
/// one the rate lost is seen by the audit. Super-frames do not come into it: a frame larger than the bucket makes a
/// debt, and loses nothing.
const BURST_TICKS: u32 = 500_000 / TICK_NS;
/// About one super-frame; see [`HtbClass::quantum`].
const QUANTUM: u32 = 60_000;
/// The smallest packet that comes in numbers: an acknowledgement as the kernel counts it (14 + 20 + 32).
const SMALLEST: u64 = 66;
/// Room of netem's delay line beyond what the rate fills.
const SPARE_PACKETS: u64 = 1000;

impl Shape {
    /// What keeps the promise of `spec`. `seed` starts the random numbers of netem.
    #[must_use]
    pub fn new(kind: BackendKind, spec: &LinkSpec, framing: Framing, seed: u64) -> Self {
        let spec = &spec.in_fabric();
        let class = class(spec, framing);
        let mut limit = spec
            .rate
            .map_or(UNLIMITED_QUEUE, |_| queue_limit(spec, spec.queue.bytes()));
        let netem = (kind == BackendKind::Netem).then(|| netem(spec, limit, seed));
        // A link that is down drops what is offered and delivers what is on it. netem does that where the link begins;
        // without it there is only the queue, which keeps what it has when its limit shrinks.
        if netem.is_none() && !spec.up {
            limit = 0;
        }
        Self {
            netem,
            class,
            limit,
        }
    }

    /// The tree, in the order it has to be made.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let netem = self.netem.map(|netem| Object::Qdisc {
            parent: Handle::ROOT,
            handle: NETEM,
            kind: Qdisc::Netem(netem),
        });
        // The only class netem has is 1:1.
        let parent = netem.as_ref().map_or(Handle::ROOT, |_| Handle::new(1, 1));
        let rest = [
            Object::Qdisc {
                parent,
                handle: HTB,
                kind: Qdisc::Htb { default: 1 },
            },
            Object::Class {
                parent: HTB,
                handle: CLASS,
                class: self.class,
            },
            Object::Qdisc {
                parent: CLASS,
                handle: BFIFO,
                kind: Qdisc::Bfifo { limit: self.limit },
            },
        ];
        netem.into_iter().chain(rest).collect()
    }

    /// The outermost qdisc, whose statistics are those of the link.
    #[must_use]
    pub fn root(&self) -> Handle {
        if self.netem.is_some() { NETEM } else { HTB }
    }

    /// The qdisc with the rate and the queue, whose drops are those of the queue alone.
    #[must_use]
    pub fn inner(&self) -> Handle {
        HTB
    }
}

/// HTB adds overhead once per frame but is given the Ethernet header once per segment. So with super-frames the rate
/// is scaled instead: exact for full segments, while an acknowledgement is charged (52 + 14) × 1538/1514 = 67 bytes
/// instead of 90.
fn class(spec: &LinkSpec, framing: Framing) -> HtbClass {
    let added = spec.overhead_bytes.checked_sub(OVERHEAD_KERNEL);
    let exact = added.filter(|_| framing == Framing::SingleSegments);
    let rate_bytes = spec.rate.map_or(UNLIMITED_BYTES, |rate| match exact {
        Some(_) => (rate.bps() / 8).max(1),
        None => kernel_bytes(spec, rate.bps() / 8).max(1),
    });
    HtbClass {
        rate_bytes,
        burst_ticks: BURST_TICKS,
        quantum: QUANTUM,
        overhead: exact.unwrap_or(0),
    }
}

fn queue_limit(spec: &LinkSpec, wire_bytes: u64) -> u32 {
    u32::try_from(kernel_bytes(spec, wire_bytes)).unwrap_or(u32::MAX)
}

/// Wire bytes of full segments as the kernel counts them, to the nearest.
fn kernel_bytes(spec: &LinkSpec, wire_bytes: u64) -> u64 {
    let counted = u128::from(MTU) + u128::from(OVERHEAD_KERNEL);
    let asked = u128::from(MTU) + u128::from(spec.overhead_bytes);
    let scaled = (u128::from(wire_bytes) * counted + asked / 2) / asked;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn netem(spec: &LinkSpec, queue: u32, seed: u64) -> Netem {
    let loss = match spec.loss {
        _ if !spec.up => NetemLoss::Independent(u32::MAX),
        Loss::None => NetemLoss::Independent(0),
        Loss::Independent(share) => NetemLoss::Independent(parts(share)),
        Loss::GilbertElliott(states) => NetemLoss::GilbertElliott {
            p: parts(states.good_to_bad),
            r: parts(states.bad_to_good),
            h: u32::MAX - parts(states.loss_in_bad),
            k1: parts(states.loss_in_good),
        },
    };
    let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    // Several links may feed this one while its delay line comes first, so it is filled as fast as the computer can.
    let fastest = spec.rate.map_or(0, |rate| rate.bps()).max(UNSHAPED_BPS);
    let due = u128::from(fastest / 8) * spec.delay_most().as_nanos() / 1_000_000_000;
    let packets = (due + u128::from(queue)) / u128::from(SMALLEST) + u128::from(SPARE_PACKETS);
    Netem {
        delay_ns: nanoseconds(spec.delay),
        jitter_ns: nanoseconds(spec.jitter.spread),
        distribution: spec.jitter.distribution,
        loss,
        limit: u32::try_from(packets).unwrap_or(u32::MAX),
        rate_bytes: (!spec.jitter.reorder).then_some(UNLIMITED_BYTES),
        seed,
    }
}

/// To netem's parts of 2³² − 1, to the nearest.
fn parts(share: Probability) -> u32 {
    let scaled = u64::from(share.ppb()) * u64::from(u32::MAX) + 500_000_000;
    u32::try_from(scaled / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::GilbertElliott;
    use crate::units::{BitRate, ByteSize};

    const SUPER: Framing = Framing::SuperFrames;
    const SINGLE: Framing = Framing::SingleSegments;

    fn gigabit() -> LinkSpec {
        LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).unwrap())
    }

    #[test]
    fn rate_and_queue_are_scaled_while_super_frames_are_on() {
        let shape = Shape::new(BackendKind::Htb, &gigabit(), SUPER, 0);
        // 125,000,000 × 1514/1538 and 524,288 × 1514/1538.
        assert_eq!(shape.class.rate_bytes, 123_049_415);
        assert_eq!(shape.limit, 516_107);
        assert_eq!(shape.class.overhead, 0);
        // 0.5 ms, up to a tick.
        assert_eq!(shape.class.burst_ticks, 7812);
        assert_eq!(shape.class.burst_bytes(), 61_520);
        assert_eq!(shape.root(), HTB);
    }

    #[test]
    fn single_segments_carry_their_overhead_exactly() {
        let class = Shape::new(BackendKind::Netem, &gigabit(), SINGLE, 0).class;
        assert_eq!((class.rate_bytes, class.overhead), (125_000_000, 24));
        // Less than the kernel counts cannot be taken off a packet, only off the rate.
        let bare = LinkSpec {
            overhead_bytes: 0,
            ..gigabit()
        };
        let class = Shape::new(BackendKind::Netem, &bare, SINGLE, 0).class;
        assert_eq!((class.rate_bytes, class.overhead), (126_166_667, 0));
    }

    #[test]
    fn down_refuses_at_the_links_beginning_and_keeps_the_rest() {
        let down = LinkSpec {
            up: false,
            ..gigabit()
        };
        let htb = Shape::new(BackendKind::Htb, &down, SUPER, 0);
        assert_eq!(htb.limit, 0);
        let netem = Shape::new(BackendKind::Netem, &down, SUPER, 0);
        assert_eq!(netem.limit, 516_107);
        assert_eq!(netem.netem.unwrap().loss, NetemLoss::Independent(u32::MAX));
    }

    #[test]
    fn an_unshaped_link_has_the_tree_of_a_shaped_one() {
        let kinds = |spec: &LinkSpec| {
            let objects = Shape::new(BackendKind::Netem, spec, SUPER, 0).objects();
            objects
                .iter()
                .map(std::mem::discriminant)
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&LinkSpec::default()), kinds(&gigabit()));
        assert_eq!(kinds(&gigabit()).len(), 4);
    }

    #[test]
    fn loss_is_what_netem_calls_it() {
        let half = Probability::from_ppb(500_000_000).unwrap();
        let tenth = Probability::from_ppb(100_000_000).unwrap();
        let lossy = LinkSpec {
            loss: Loss::GilbertElliott(GilbertElliott {
                good_to_bad: tenth,
                bad_to_good: half,
                loss_in_bad: Probability::ONE,
                loss_in_good: Probability::default(),
            }),
            ..gigabit()
        };
        let expected = NetemLoss::GilbertElliott {
            p: 429_496_730,
            r: 2_147_483_648,
            h: 0,
            k1: 0,
        };
        let netem = Shape::new(BackendKind::Netem, &lossy, SINGLE, 0).netem;
        assert_eq!(netem.unwrap().loss, expected);
    }

    #[test]
    fn the_delay_line_holds_what_can_be_on_it() {
        let long = LinkSpec {
            delay: Duration::from_millis(100),
            queue: ByteSize::from_bytes(0),
            ..gigabit()
        };
        let netem = Shape::new(BackendKind::Netem, &long, SUPER, 0)
            .netem
            .unwrap();
        // 10 Gbit/s × 100 ms = 125 MB of 66-byte packets.
        assert_eq!(netem.limit, 1_893_939 + 1000);
        assert_eq!(netem.rate_bytes, Some(UNLIMITED_BYTES));
    }
}
