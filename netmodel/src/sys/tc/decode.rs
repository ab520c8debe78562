//! What the kernel says about its qdiscs, classes and filters. Total: any bytes give a value or an error.

use std::collections::BTreeMap;

use super::{
    ACT_KIND, ACT_OPTIONS, EGRESS_REDIRECT, HEADER, HTB_CEIL64, HTB_INIT, HTB_PARMS, HTB_RATE64,
    KIND, MATCHALL_ACT, MIRRED, MIRRED_PARMS, NETEM_JITTER64, NETEM_LATENCY64, NETEM_LOSS,
    NETEM_LOSS_GE, NETEM_QOPT, NETEM_RATE, NETEM_RATE64, OPTIONS, PIPE, STATS2, STOLEN, TBF_PARMS,
    TBF_RATE64, U32_ACT,
};
use crate::qdisc::{Handle, Object};

/// TCA_STATS_BASIC, _QUEUE, _PKT64
const STATS_BASIC: u16 = 1;
const STATS_QUEUE: u16 = 3;
const STATS_PKT64: u16 = 8;
/// NLA_TYPE_MASK
const TYPE_MASK: u16 = 0x3FFF;

/// Bytes that are not what the kernel sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is cut off or too short: {length} bytes")]
pub(crate) struct Malformed {
    what: &'static str,
    length: usize,
}

/// One qdisc, class or filter as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) device: u32,
    pub(crate) handle: u32,
    pub(crate) parent: u32,
    pub(crate) kind: String,
    /// Parameters we know of, by the names [`Object`] gives them.
    pub(crate) facts: BTreeMap<String, u64>,
    pub(crate) statistics: Statistics,
}

/// What it counted. Segments while it counts what it sent, frames while it counts what it dropped or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Statistics {
    pub(crate) bytes: u64,
    pub(crate) segments: u64,
    pub(crate) dropped_frames: u64,
    pub(crate) held_frames: u64,
    pub(crate) held_bytes: u64,
}

/// Reads one message.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, Malformed> {
    let header = bytes.get(..HEADER).ok_or(Malformed {
        what: "tcmsg",
        length: bytes.len(),
    })?;
    let mut entry = Entry {
        device: word(header, 1, "tcmsg")?,
        handle: word(header, 2, "tcmsg")?,
        parent: word(header, 3, "tcmsg")?,
        ..Entry::default()
    };
    let mut options: &[u8] = &[];
    for attribute in attributes(&bytes[HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            KIND => {
                let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
                entry.kind = String::from_utf8_lossy(name).into_owned();
            }
            OPTIONS => options = value,
            STATS2 => entry.statistics = statistics(value)?,
            _ => {}
        }
    }
    let facts = match entry.kind.as_str() {
        // The one class of a netem has its name and no parameters.
        _ if options.is_empty() => Vec::new(),
        "bfifo" => vec![("limit".to_owned(), word(options, 0, "bfifo")?.into())],
        "htb" => htb(options)?,
        "netem" => netem(options)?,
        "tbf" => tbf(options)?,
        "u32" => actions(options, U32_ACT)?,
        "matchall" => actions(options, MATCHALL_ACT)?,
        _ => Vec::new(),
    };
    entry.facts = facts.into_iter().collect();
    Ok(entry)
}

/// What a filter has to say after `encode_redirect`.
pub(super) fn wanted_redirect(to: u32, sink: Option<u32>) -> Vec<(String, u64)> {
    let first = if sink.is_some() { PIPE } else { STOLEN };
    let both = [(1, Some(to), first), (2, sink, STOLEN)];
    let told = |(n, device, then): (u32, Option<u32>, u32)| Some(action(n, device?, then));
    both.into_iter().filter_map(told).flatten().collect()
}

/// Where an object is, and what the kernel has to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: &'static str,
    pub(crate) handle: Option<Handle>,
    pub(crate) facts: Vec<(String, u64)>,
}

/// What a dump has to hold for an object; `to` and `sink` are the numbers of a redirection's devices.
pub(crate) fn wanted(object: &Object, to: u32, sink: Option<u32>) -> Wanted {
    let named = |facts: Vec<(&'static str, u64)>| {
        let facts = facts.into_iter();
        facts
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    };
    match object {
        Object::Qdisc { handle, kind, .. } => Wanted {
            kind: kind.name(),
            handle: Some(*handle),
            facts: named(object.facts()),
        },
        Object::Class { handle, .. } => Wanted {
            kind: "htb",
            handle: Some(*handle),
            facts: named(object.facts()),
        },
        Object::Redirect(_) => Wanted {
            kind: "redirect",
            handle: None,
            facts: wanted_redirect(to, sink),
        },
    }
}

impl Wanted {
    /// The first parameter in which an entry differs: its name, what was asked, what is there.
    pub(crate) fn differs(&self, entry: &Entry) -> Option<(String, u64, Option<u64>)> {
        let mut facts = self.facts.iter();
        let differs = facts.find(|(name, value)| entry.facts.get(name) != Some(value));
        differs.map(|(name, value)| (name.clone(), *value, entry.facts.get(name).copied()))
    }
}

/// The attributes in some bytes, nested ones unread.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = Malformed {
            what: "attribute",
            length: rest.len(),
        };
        let found = first_attribute(rest);
        rest = found.map_or(&[], |(.., after)| after);
        Some(found.map(|(kind, value, _)| (kind, value)).ok_or(cut))
    })
}

fn first_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
    let value = bytes.get(4..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind & TYPE_MASK, value, after))
}

fn word(bytes: &[u8], n: usize, what: &'static str) -> Result<u32, Malformed> {
    let chunk = bytes.get(4 * n..).and_then(<[u8]>::first_chunk);
    chunk
        .map(|&chunk| u32::from_ne_bytes(chunk))
        .ok_or(Malformed {
            what,
            length: bytes.len(),
        })
}

fn long(bytes: &[u8], what: &'static str) -> Result<u64, Malformed> {
    let chunk = bytes.first_chunk();
    chunk
        .map(|&chunk| u64::from_ne_bytes(chunk))
        .ok_or(Malformed {
            what,
            length: bytes.len(),
        })
}

fn statistics(bytes: &[u8]) -> Result<Statistics, Malformed> {
    let mut statistics = Statistics::default();
    let mut wide = None;
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        match kind {
            STATS_BASIC => {
                statistics.bytes = long(value, "basic statistics")?;
                statistics.segments = word(value, 2, "basic statistics")?.into();
            }
            STATS_QUEUE => {
                statistics.held_frames = word(value, 0, "queue statistics")?.into();
                statistics.held_bytes = word(value, 1, "queue statistics")?.into();
                statistics.dropped_frames = word(value, 2, "queue statistics")?.into();
            }
            // Only there once 32 bits are not enough.
            STATS_PKT64 => wide = Some(long(value, "packet count")?),
            _ => {}
        }
    }
    statistics.segments = wide.unwrap_or(statistics.segments);
    Ok(statistics)
}

type Facts = Vec<(String, u64)>;

/// An HTB has its default class in its options, a class its parameters.
fn htb(options: &[u8]) -> Result<Facts, Malformed> {
    let mut facts = BTreeMap::new();
    for attribute in attributes(options) {
        let (kind, value) = attribute?;
        match kind {
            HTB_INIT => {
                facts.insert("default", word(value, 2, "tc_htb_glob")?.into());
            }
            HTB_PARMS => {
                let at = |n| word(value, n, "tc_htb_opt").map(u64::from);
                // overhead is the upper half of the first word on every byte order it was written in.
                let overhead = value.get(2..).and_then(<[u8]>::first_chunk);
                let overhead = overhead.map_or(0, |&bytes| u16::from_ne_bytes(bytes));
                facts.insert("overhead", overhead.into());
                for (name, n) in [("burst", 6), ("cburst", 7), ("quantum", 8)] {
                    facts.insert(name, at(n)?);
                }
                // The wide ones, if there are any, count whatever comes first.
                for (name, n) in [("rate", 2), ("ceil", 5)] {
                    let narrow = at(n)?;
                    facts.entry(name).or_insert(narrow);
                }
            }
            HTB_RATE64 => {
                facts.insert("rate", long(value, "htb rate")?);
            }
            HTB_CEIL64 => {
                facts.insert("ceil", long(value, "htb ceil")?);
            }
            _ => {}
        }
    }
    Ok(named(facts))
}

fn tbf(options: &[u8]) -> Result<Facts, Malformed> {
    let mut facts = BTreeMap::new();
    for attribute in attributes(options) {
        let (kind, value) = attribute?;
        match kind {
            TBF_PARMS => {
                let at = |n| word(value, n, "tc_tbf_qopt").map(u64::from);
                facts.insert("limit", at(6)?);
                facts.insert("burst", at(7)?);
                let narrow = at(2)?;
                facts.entry("rate").or_insert(narrow);
            }
            TBF_RATE64 => {
                facts.insert("rate", long(value, "tbf rate")?);
            }
            _ => {}
        }
    }
    Ok(named(facts))
}

fn netem(options: &[u8]) -> Result<Facts, Malformed> {
    let mut facts = BTreeMap::from([
        ("limit", word(options, 1, "tc_netem_qopt")?.into()),
        ("loss", word(options, 2, "tc_netem_qopt")?.into()),
    ]);
    for attribute in attributes(options.get(NETEM_QOPT..).unwrap_or_default()) {
        let (kind, value) = attribute?;
        match kind {
            NETEM_LATENCY64 => {
                facts.insert("delay", long(value, "netem latency")?);
            }
            NETEM_JITTER64 => {
                facts.insert("jitter", long(value, "netem jitter")?);
            }
            NETEM_RATE => {
                let narrow = word(value, 0, "netem rate")?.into();
                facts.entry("rate").or_insert(narrow);
            }
            NETEM_RATE64 => {
                facts.insert("rate", long(value, "netem rate")?);
            }
            NETEM_LOSS => {
                for attribute in attributes(value) {
                    let (model, states) = attribute?;
                    if model == NETEM_LOSS_GE {
                        let names = ["gemodel p", "gemodel r", "gemodel h", "gemodel k1"];
                        for (n, name) in names.into_iter().enumerate() {
                            facts.insert(name, word(states, n, "tc_netem_gemodel")?.into());
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(named(facts))
}

fn named(facts: BTreeMap<&'static str, u64>) -> Facts {
    let facts = facts.into_iter();
    facts
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The redirections among a filter's actions, in their order.
fn actions(options: &[u8], list: u16) -> Result<Facts, Malformed> {
    let mut facts = Vec::new();
    for attribute in attributes(options) {
        let (kind, value) = attribute?;
        if kind != list {
            continue;
        }
        for one in attributes(value) {
            let (n, value) = one?;
            facts.extend(redirection(n.into(), value)?);
        }
    }
    Ok(facts)
}

fn redirection(n: u32, bytes: &[u8]) -> Result<Facts, Malformed> {
    let (mut name, mut options): (&[u8], &[u8]) = (&[], &[]);
    for attribute in attributes(bytes) {
        match attribute? {
            (ACT_KIND, value) => name = value,
            (ACT_OPTIONS, value) => options = value,
            _ => {}
        }
    }
    if !name.starts_with(b"mirred") {
        return Ok(Vec::new());
    }
    for attribute in attributes(options) {
        let (kind, value) = attribute?;
        if kind == MIRRED_PARMS && value.len() >= MIRRED {
            let at = |n| word(value, n, "tc_mirred");
            if at(5)? == EGRESS_REDIRECT {
                return Ok(action(n, at(6)?, at(2)?).to_vec());
            }
        }
    }
    Ok(Vec::new())
}

fn action(n: u32, device: u32, then: u32) -> [(String, u64); 2] {
    [
        (format!("redirection {n} to device"), device.into()),
        (format!("redirection {n} goes on"), then.into()),
    ]
}
