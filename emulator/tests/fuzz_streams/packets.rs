//! Reads what channels carry: QEMU's multifd packets and Cloud Hypervisor's chunks of memory.
//!
//! Never inside: what pages must be.

use migbed::migration::codec::{Unpacker, flag};
use migbed::migration::guest::GuestMemory;
use migbed::migration::params::Compression;
use migbed::migration::wire::PAGE_BYTES;
use migbed::migration::wire::hello::ChannelKind;
use migbed::migration::wire::multifd::{FLAG_SYNC, decode_header, header_bytes};

use crate::ends::PACKET_PAGES;
use crate::expect::Holds;

/// How a channel's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Where they may.
    Between,
    /// Inside of something, or with what is nothing.
    Damaged,
}

/// What a channel brings.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Pages in their order, by the SYNCs before them.
    pub(crate) said: Vec<Vec<(u32, Holds)>>,
    pub(crate) ended: Ended,
    /// Where its records begin, and the end of the last.
    pub(crate) marks: Vec<usize>,
    /// Cloud Hypervisor's: chunks that came whole.
    pub(crate) chunks: usize,
}

impl Channel {
    fn say(&mut self, page: u32, held: Holds) {
        if let Some(said) = self.said.last_mut() {
            said.push((page, held));
        }
    }
}

/// Reads all of a channel.
pub(crate) fn channel(
    memory: &GuestMemory,
    kind: ChannelKind,
    compression: Compression,
    bytes: &[u8],
) -> Channel {
    let mut channel = Channel {
        said: vec![Vec::new()],
        ended: Ended::Damaged,
        marks: vec![0],
        chunks: 0,
    };
    let mut left = bytes;
    let mut unpacker = Unpacker::new(compression).expect("a codec");
    loop {
        if left.is_empty() {
            channel.ended = Ended::Between;
            break;
        }
        let more = match kind {
            ChannelKind::Multifd => {
                packet(memory, compression, &mut unpacker, &mut left, &mut channel)
            }
            _ => chunk(memory, &mut left, &mut channel),
        };
        if more.is_none() {
            break;
        }
        channel.marks.push(bytes.len() - left.len());
    }
    channel
}

fn take<'a>(left: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = left.split_at_checked(bytes)?;
    *left = rest;
    Some(taken)
}

/// One packet; `None` if it is none.
fn packet(
    memory: &GuestMemory,
    compression: Compression,
    unpacker: &mut Option<Unpacker>,
    left: &mut &[u8],
    channel: &mut Channel,
) -> Option<()> {
    let head = take(left, header_bytes(PACKET_PAGES))?;
    let (codec, mut pages) = (flag(compression), Vec::new());
    let packet = decode_header(head, PACKET_PAGES, codec, memory.pages(), 0, &mut pages).ok()?;
    let (normal, zero) = pages.split_at(packet.normal as usize);
    match unpacker {
        None => {
            for &page in normal {
                let bytes = take(left, PAGE_BYTES)?;
                channel.say(page, Holds::of(memory, page, bytes));
            }
        }
        Some(unpacker) => {
            let mut data = take(left, packet.data_bytes as usize)?;
            let mut bytes = [0; PAGE_BYTES];
            for &page in normal {
                unpacker.page(&mut data, &mut bytes).ok()?;
                channel.say(page, Holds::of(memory, page, &bytes));
            }
            unpacker.end(data).ok()?;
        }
    }
    for &page in zero {
        channel.say(page, Holds::Zero);
    }
    if packet.flags & FLAG_SYNC != 0 {
        channel.said.push(Vec::new());
    }
    Some(())
}

/// One chunk of memory; `None` if it is none. By hand: a request of 16 bytes, its ranges, their pages.
fn chunk(memory: &GuestMemory, left: &mut &[u8], channel: &mut Channel) -> Option<()> {
    let page_bytes = PAGE_BYTES as u64;
    let word = |bytes: &[u8], at: usize| {
        bytes[at..at + 8]
            .first_chunk()
            .map_or(0, |eight| u64::from_le_bytes(*eight))
    };
    let request = take(left, 16)?;
    let length = word(request, 8);
    if word(request, 0) != 4 || !length.is_multiple_of(16) {
        return None;
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for _ in 0..length / 16 {
        let range = take(left, 16)?;
        let (start, bytes) = (word(range, 0), word(range, 8));
        let after = ranges.last().map_or(0, |(_, end)| *end);
        let end = start.checked_add(bytes)? / page_bytes;
        let whole = start.is_multiple_of(page_bytes) && bytes.is_multiple_of(page_bytes);
        if !whole || bytes == 0 || start / page_bytes < after || end > u64::from(memory.pages()) {
            return None;
        }
        ranges.push((start / page_bytes, end));
    }
    for page in ranges.into_iter().flat_map(|(first, end)| first..end) {
        let bytes = take(left, PAGE_BYTES)?;
        let page = u32::try_from(page).ok()?;
        channel.say(page, Holds::of(memory, page, bytes));
    }
    channel.chunks += 1;
    Some(())
}
