//! Traffic control over netlink, as bytes: what `qdisc` asks becomes messages, what the kernel dumps becomes facts.
//!
//! Layouts are those of linux/pkt_sched.h, pkt_cls.h and gen_stats.h, in the computer's own byte order. Encoding cannot
//! fail; decoding is total: any bytes give a value or say what is wrong. No sockets here.

mod decode;
#[cfg(test)]
mod tests;

pub(crate) use self::decode::{Entry, Statistics, decode, wanted};
use super::attributes::Attributes;
use crate::qdisc::{Handle, HtbClass, Netem, NetemLoss, Object, Qdisc, Tbf, table};

/// RTM_NEWQDISC; 37 deletes, 38 gets.
pub(crate) const NEW_QDISC: u16 = 36;
pub(crate) const GET_QDISC: u16 = 38;
pub(crate) const NEW_CLASS: u16 = 40;
pub(crate) const GET_CLASS: u16 = 42;
pub(crate) const NEW_FILTER: u16 = 44;
pub(crate) const GET_FILTER: u16 = 46;

/// `struct tcmsg`: family and padding, device, handle, parent, info.
const HEADER: usize = 20;
/// TCA_KIND, TCA_OPTIONS, TCA_STATS2
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATS2: u16 = 7;

/// TCA_HTB_PARMS, _INIT, _RATE64, _CEIL64
const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
/// TC_HTB_PROTOVER >> 16, and the divisor for quanta nobody gave.
const HTB_VERSION: u32 = 3;
const HTB_RATE2QUANTUM: u32 = 10;
/// TC_LINKLAYER_ETHERNET: without it the kernel looks for tables from the days before 2.6.
const ETHERNET: u8 = 1;

/// TCA_TBF_PARMS, _RATE64
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;

const NETEM_DELAY_DIST: u16 = 2;
const NETEM_LOSS: u16 = 5;
const NETEM_RATE: u16 = 6;
const NETEM_RATE64: u16 = 8;
const NETEM_LATENCY64: u16 = 10;
const NETEM_JITTER64: u16 = 11;
const NETEM_PRNG_SEED: u16 = 14;
/// NETEM_LOSS_GE, within NETEM_LOSS.
const NETEM_LOSS_GE: u16 = 2;
/// Length of `struct tc_netem_qopt`, before its attributes.
const NETEM_QOPT: usize = 24;

const U32_SEL: u16 = 5;
const U32_ACT: u16 = 7;
const MATCHALL_ACT: u16 = 2;
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// Length of `struct tc_mirred`: tc_gen (20), what to do, to which device.
const MIRRED: usize = 28;
/// TCA_EGRESS_REDIR
const EGRESS_REDIRECT: u32 = 1;
/// TC_ACT_PIPE: on to the next action. TC_ACT_STOLEN: the packet is gone.
const PIPE: u32 = 3;
const STOLEN: u32 = 4;
/// NLA_F_NESTED
const NESTED: u16 = 0x8000;
/// Preference 1, every protocol (ETH_P_ALL in network order).
const FILTER_INFO: u32 = (1 << 16) | (3_u16.to_be() as u32);
/// Where filters of the ingress qdisc hang.
const INGRESS_FILTERS: Handle = Handle::new(0xFFFF, 0);

/// Which classifier matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Classifier {
    /// Everywhere but where somebody left it out.
    U32,
    /// Made for it, in fewer kernels.
    Matchall,
}

fn header(device: u32, handle: u32, parent: u32, info: u32) -> Attributes {
    let mut message = Attributes::default();
    message.words(&[0, device, handle, parent, info]);
    message
}

/// A request for what is there: of one qdisc or class by its handle, or of all.
pub(crate) fn query(device: u32, handle: Handle, parent: Handle) -> Vec<u8> {
    header(device, handle.0, parent.0, 0).0
}

/// A request for the filters of what a device receives.
pub(crate) fn query_filters(device: u32) -> Vec<u8> {
    header(device, 0, INGRESS_FILTERS.0, 0).0
}

/// The message that makes or changes a qdisc or class, and its type. `None` for a redirection.
pub(crate) fn encode(device: u32, object: &Object) -> Option<(u16, Vec<u8>)> {
    match object {
        Object::Qdisc {
            parent,
            handle,
            kind,
        } => {
            let mut message = header(device, handle.0, parent.0, 0);
            message.put(KIND, text(kind.name()).as_slice());
            match kind {
                Qdisc::Ingress => {}
                Qdisc::Bfifo { limit } => message.put_u32(OPTIONS, *limit),
                Qdisc::Htb { default } => message.nest(OPTIONS, |options| {
                    options.nest(HTB_INIT, |glob| {
                        glob.words(&[HTB_VERSION, HTB_RATE2QUANTUM, *default, 0, 0]);
                    });
                }),
                Qdisc::Netem(parameters) => message.nest(OPTIONS, |o| netem(o, parameters)),
                Qdisc::Tbf(parameters) => message.nest(OPTIONS, |o| tbf(o, parameters)),
            }
            Some((NEW_QDISC, message.0))
        }
        Object::Class {
            parent,
            handle,
            class: parameters,
        } => {
            let mut message = header(device, handle.0, parent.0, 0);
            message.put(KIND, text("htb").as_slice());
            message.nest(OPTIONS, |options| class(options, parameters));
            Some((NEW_CLASS, message.0))
        }
        Object::Redirect(_) => None,
    }
}

/// The message that sends what `device` receives through `to`, with a `sink` for the originals of copies.
pub(crate) fn encode_redirect(
    device: u32,
    classifier: Classifier,
    to: u32,
    sink: Option<u32>,
) -> Vec<u8> {
    let mut message = header(device, 0, INGRESS_FILTERS.0, FILTER_INFO);
    let actions = |list: &mut Attributes| {
        if let Some(sink) = sink {
            list.nest(1, |action| mirred(action, to, PIPE));
            list.nest(2, |action| mirred(action, sink, STOLEN));
        } else {
            list.nest(1, |action| mirred(action, to, STOLEN));
        }
    };
    match classifier {
        Classifier::U32 => {
            message.put(KIND, text("u32").as_slice());
            message.nest(OPTIONS, |options| {
                // struct tc_u32_sel: TC_U32_TERMINAL, one key (mask 0, value 0, offset 0): matches everything.
                let mut selector = [0; 32];
                selector[0] = 1;
                selector[2] = 1;
                options.put(U32_SEL, &selector);
                options.nest(U32_ACT, actions);
            });
        }
        Classifier::Matchall => {
            message.put(KIND, text("matchall").as_slice());
            message.nest(OPTIONS, |options| options.nest(MATCHALL_ACT, actions));
        }
    }
    message.0
}

fn mirred(action: &mut Attributes, device: u32, then: u32) {
    action.put(ACT_KIND, text("mirred").as_slice());
    action.nest(ACT_OPTIONS | NESTED, |options| {
        options.nest(MIRRED_PARMS, |parms| {
            // struct tc_gen: index (the kernel picks one), capab, action, refcnt, bindcnt.
            parms.words(&[0, 0, then, 0, 0]);
            parms.words(&[EGRESS_REDIRECT, device]);
        });
    });
}

fn class(options: &mut Attributes, class: &HtbClass) {
    let narrow = u32::try_from(class.rate_bytes).unwrap_or(u32::MAX);
    options.nest(HTB_PARMS, |parms| {
        // struct tc_htb_opt: two tc_ratespec (cell_log, linklayer, overhead, cell_align, mpu, rate), then buckets.
        for _ in ["rate", "ceil"] {
            parms.0.extend_from_slice(&[0, ETHERNET]);
            parms.0.extend_from_slice(&class.overhead.to_ne_bytes());
            parms.0.extend_from_slice(&[0; 4]);
            parms.words(&[narrow]);
        }
        let bucket = class.burst_ticks;
        // level is the kernel's to say, priority is among siblings.
        parms.words(&[bucket, bucket, class.quantum, 0, 0]);
    });
    if class.rate_bytes > u64::from(u32::MAX) {
        options.put_u64(HTB_RATE64, class.rate_bytes);
        options.put_u64(HTB_CEIL64, class.rate_bytes);
    }
}

fn tbf(options: &mut Attributes, tbf: &Tbf) {
    let narrow = u32::try_from(tbf.rate_bytes).unwrap_or(u32::MAX);
    options.nest(TBF_PARMS, |parms| {
        // struct tc_tbf_qopt: tc_ratespec of the rate, of a peak rate (none), limit, bucket, bucket of the peak.
        parms.0.extend_from_slice(&[0, ETHERNET]);
        parms.0.extend_from_slice(&[0; 6]);
        parms.words(&[narrow, 0, 0, 0, tbf.limit, tbf.burst_ticks, 0]);
    });
    if tbf.rate_bytes > u64::from(u32::MAX) {
        options.put_u64(TBF_RATE64, tbf.rate_bytes);
    }
}

fn netem(options: &mut Attributes, netem: &Netem) {
    let share = match netem.loss {
        NetemLoss::Independent(share) => share,
        NetemLoss::GilbertElliott { .. } => 0,
    };
    // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; the two times follow in nanoseconds.
    options.words(&[0, netem.limit, share, 0, 0, 0]);
    options.put_u64(NETEM_LATENCY64, netem.delay_ns);
    options.put_u64(NETEM_JITTER64, netem.jitter_ns);
    if netem.jitter_ns > 0 {
        // A uniform one, too: without a table the kernel would keep the last it got.
        let entries = table(netem.distribution);
        let bytes: Vec<u8> = entries.into_iter().flat_map(i16::to_ne_bytes).collect();
        options.put(NETEM_DELAY_DIST, &bytes);
    }
    if let NetemLoss::GilbertElliott { p, r, h, k1 } = netem.loss {
        options.nest(NETEM_LOSS, |loss| {
            loss.nest(NETEM_LOSS_GE, |states| states.words(&[p, r, h, k1]));
        });
    }
    // Always given, as the kernel keeps what is not: 0 is no rate.
    let rate = netem.rate_bytes.unwrap_or(0);
    let narrow = u32::try_from(rate).unwrap_or(u32::MAX);
    // struct tc_netem_rate: rate, packet overhead, cell size, cell overhead.
    options.nest(NETEM_RATE, |rate| rate.words(&[narrow, 0, 0, 0]));
    if rate > u64::from(u32::MAX) {
        options.put_u64(NETEM_RATE64, rate);
    }
    // Kernels before 6.7 skip what they do not know.
    options.put_u64(NETEM_PRNG_SEED, netem.seed);
}

/// Names end with a zero.
fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
