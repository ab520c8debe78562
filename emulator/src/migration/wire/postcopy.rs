//! What post-copy adds to QEMU's stream (`migration/savevm.c`, `ram.c`), both ways.
//!
//! ```text
//! stream        command  1 B 0x08, 2 B which, 2 B length, payload
//!   ADVISE          16 B page size twice      PING            4 B number
//!   RAM_DISCARD     1 B version, name, NUL, up to 12 x (8 B start, 8 B length)
//!   PACKAGED         4 B length of what follows: LISTEN, device state, PING 3, RUN
//!   RECV_BITMAP     7 B name (recovery)       RESUME          nothing (recovery)
//! return path   2 B kind, 2 B length, payload
//!   PONG             4 B number               RESUME_ACK      4 B 1
//!   REQ_PAGES        8 B start, 4 B length; REQ_PAGES_ID with the block's name, on the first
//!   RECV_BITMAP      name, then 8 B size, bitmap (little-endian), 8 B end mark
//! ```
//!
//! Never inside: sockets, who waits for what.

use replay::Bitmap;

use super::*;

pub(super) const COMMAND_PING: u16 = 2;
const COMMAND_ADVISE: u16 = 3;
pub(super) const COMMAND_LISTEN: u16 = 4;
pub(super) const COMMAND_RUN: u16 = 5;
pub(super) const COMMAND_DISCARD: u16 = 6;
pub(super) const COMMAND_RESUME: u16 = 7;
pub(super) const COMMAND_PACKAGED: u16 = 8;
pub(super) const COMMAND_RECV_BITMAP: u16 = 9;

/// `MAX_DISCARDS_PER_COMMAND`.
pub const MAX_DISCARDS: usize = 12;
const DISCARD_HEAD_BYTES: usize = 1 + 7 + 1;
/// The PING within the package; its PONG tells that the destination has the device state.
pub const PACKAGE_PING: u32 = 3;

const RP_PONG: u16 = 2;
const RP_REQ_PAGES_ID: u16 = 3;
const RP_REQ_PAGES: u16 = 4;
const RP_RECV_BITMAP: u16 = 5;
const RP_RESUME_ACK: u16 = 6;
/// `RAMBLOCK_RECV_BITMAP_ENDING`.
const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;
/// `MIGRATION_RESUME_ACK_VALUE`.
const RESUME_ACK: u32 = 1;

/// What the stream says in post-copy alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Post-copy may come.
    Advise,
    /// Answer with a PONG.
    Ping(u32),
    /// These pages are missing from here on, whatever came of them before.
    Discard(Discards<'a>),
    /// A package begins.
    Packaged,
    /// Pages may be placed while the guest runs.
    Listen,
    /// The device state is complete: run the guest.
    Run,
    /// Recovery: tell which pages are there.
    RecvBitmap,
    /// Recovery: go on.
    Resume,
}

/// Ranges of a DISCARD; checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discards<'a>(&'a [u8]);

impl Discards<'_> {
    /// First and one past the last page of each.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<u32>> + '_ {
        self.0.chunks_exact(16).map(|range| {
            let page = |at| u64_at(range, at).map_or(0, |bytes| bytes / PAGE_BYTES as u64);
            let pages = |at| u32::try_from(page(at)).unwrap_or(u32::MAX);
            pages(0)..pages(0).saturating_add(pages(8))
        })
    }
}

fn command(which: u16, payload: usize, out: &mut Vec<u8>) {
    out.push(SECTION_COMMAND);
    out.extend_from_slice(&which.to_be_bytes());
    let length = u16::try_from(payload).expect("payloads of commands are short");
    out.extend_from_slice(&length.to_be_bytes());
}

/// ADVISE.
pub(super) fn advise(out: &mut Vec<u8>) {
    command(COMMAND_ADVISE, 16, out);
    for _ in 0..2 {
        out.extend_from_slice(&(PAGE_BYTES as u64).to_be_bytes());
    }
}

/// PING.
pub fn ping(number: u32, out: &mut Vec<u8>) {
    command(COMMAND_PING, 4, out);
    out.extend_from_slice(&number.to_be_bytes());
}

/// RAM_DISCARD of at most [`MAX_DISCARDS`] ranges of pages, first and one past the last.
///
/// # Panics
/// If there are more.
pub fn discard(ranges: &[(u32, u32)], out: &mut Vec<u8>) {
    assert!(ranges.len() <= MAX_DISCARDS, "{} ranges", ranges.len());
    command(COMMAND_DISCARD, DISCARD_HEAD_BYTES + 16 * ranges.len(), out);
    out.push(0); // version
    out.extend_from_slice(&counted_name());
    out.push(0);
    for &(first, end) in ranges {
        let bytes = |pages: u32| u64::from(pages) * PAGE_BYTES as u64;
        out.extend_from_slice(&bytes(first).to_be_bytes());
        out.extend_from_slice(&bytes(end - first).to_be_bytes());
    }
}

/// PACKAGED: LISTEN, the device state as [`Encoder::device_state`] puts it, PING, RUN.
pub fn package(encoder: &mut Encoder, state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
    command(COMMAND_PACKAGED, 4, out);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    command(COMMAND_LISTEN, 0, out);
    encoder.device_state(state, total_bytes, out);
    ping(PACKAGE_PING, out);
    command(COMMAND_RUN, 0, out);
    let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

/// RECV_BITMAP, which asks for the bitmap.
pub fn ask_bitmap(out: &mut Vec<u8>) {
    command(COMMAND_RECV_BITMAP, 7, out);
    out.extend_from_slice(&counted_name());
}

/// RESUME.
pub fn resume(out: &mut Vec<u8>) {
    command(COMMAND_RESUME, 0, out);
}

/// A command at the head of `input`: bytes taken, itself, and of PACKAGED the length.
pub(super) fn read_command(
    input: &[u8],
    offset: u64,
    ram_pages: u32,
) -> Result<Option<(usize, Command<'_>, u32)>, WireError> {
    let Some(head) = u32_at(input, 1) else {
        return Ok(None);
    };
    let length = (head & 0xFFFF) as usize;
    let which = u16::try_from(head >> 16).unwrap_or(u16::MAX);
    if length > DISCARD_HEAD_BYTES + 16 * MAX_DISCARDS {
        return unexpected(offset, "a command of at most 201 bytes", length as u64);
    }
    let Some(payload) = input.get(5..5 + length) else {
        return Ok(None);
    };
    let mut packaged = 0;
    let command = match (which, length) {
        (COMMAND_PING, 4) => Command::Ping(u32_at(payload, 0).unwrap_or(0)),
        (COMMAND_LISTEN, 0) => Command::Listen,
        (COMMAND_RUN, 0) => Command::Run,
        (COMMAND_RESUME, 0) => Command::Resume,
        (COMMAND_PACKAGED, 4) => {
            packaged = u32_at(payload, 0).unwrap_or(0);
            Command::Packaged
        }
        (COMMAND_RECV_BITMAP, 7) if payload == counted_name() => Command::RecvBitmap,
        (COMMAND_ADVISE, 16) if page_sizes(payload) => Command::Advise,
        (COMMAND_DISCARD, _) => Command::Discard(discards(payload, offset, ram_pages)?),
        _ => return unexpected(offset, "a command of post-copy", u64::from(head)),
    };
    Ok(Some((5 + length, command, packaged)))
}

fn page_sizes(payload: &[u8]) -> bool {
    let size = Some(PAGE_BYTES as u64);
    u64_at(payload, 0) == size && u64_at(payload, 8) == size
}

fn discards(payload: &[u8], offset: u64, ram_pages: u32) -> Result<Discards<'_>, WireError> {
    let ranges = payload.get(DISCARD_HEAD_BYTES..).unwrap_or(&[]);
    let whole = payload.len() >= DISCARD_HEAD_BYTES && ranges.len().is_multiple_of(16);
    if !whole || payload[0] != 0 || payload[1..8] != counted_name() || payload[8] != 0 {
        return unexpected(offset, "ranges of the RAM block", payload.len() as u64);
    }
    let page = PAGE_BYTES as u64;
    for range in ranges.chunks_exact(16) {
        let (start, bytes) = (u64_at(range, 0).unwrap_or(0), u64_at(range, 8).unwrap_or(0));
        if !start.is_multiple_of(page) || !bytes.is_multiple_of(page) || bytes == 0 {
            return unexpected(offset, "whole pages to discard", start | bytes);
        }
        let last = start.saturating_add(bytes) / page;
        if last > u64::from(ram_pages) {
            return Err(WireError::PageBeyondRam {
                offset,
                page: last,
                ram_pages,
            });
        }
    }
    Ok(Discards(ranges))
}

/// What the destination says on the return path of a post-copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// Its last word: 0 is everything there.
    Shut(u32),
    /// The answer to a PING.
    Pong(u32),
    /// Pages it waits for.
    Request {
        /// First of them.
        page: u32,
        /// How many.
        pages: u32,
    },
    /// The pages it has.
    Received(Bitmap),
    /// Recovery: it goes on.
    ResumeAck,
}

fn message(kind: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_be_bytes());
    let length = u16::try_from(payload.len()).expect("messages are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

/// PONG.
pub fn pong(number: u32, out: &mut Vec<u8>) {
    message(RP_PONG, &number.to_be_bytes(), out);
}

/// A request for one page, with the block's name unless it was `named` before: 23 or 16 bytes.
pub fn request(page: u32, named: bool, out: &mut Vec<u8>) {
    let mut payload = [0; 12 + 7];
    payload[..8].copy_from_slice(&(u64::from(page) * PAGE_BYTES as u64).to_be_bytes());
    payload[8..12].copy_from_slice(&4096_u32.to_be_bytes());
    payload[12..].copy_from_slice(&counted_name());
    if named {
        message(RP_REQ_PAGES, &payload[..12], out);
    } else {
        message(RP_REQ_PAGES_ID, &payload, out);
    }
}

/// The pages that are there.
pub fn received(pages: &Bitmap, out: &mut Vec<u8>) {
    message(RP_RECV_BITMAP, &counted_name(), out);
    let words = pages.len().div_ceil(64);
    out.extend_from_slice(&(u64::from(words) * 8).to_be_bytes());
    for word in 0..words as usize {
        let bits = pages.word_within(word, &(0..pages.len()));
        out.extend_from_slice(&bits.to_le_bytes());
    }
    out.extend_from_slice(&BITMAP_END.to_be_bytes());
}

/// RESUME_ACK.
pub fn resume_ack(out: &mut Vec<u8>) {
    message(RP_RESUME_ACK, &RESUME_ACK.to_be_bytes(), out);
}

/// The most bytes that one message takes.
#[must_use]
pub fn max_message_bytes(ram_pages: u32) -> usize {
    4 + 7 + 16 + 8 * ram_pages.div_ceil(64) as usize
}

/// The message at the head of `input` and the bytes it takes, or `None` if more must be read first.
///
/// # Errors
/// When the bytes are no message of a guest of `ram_pages`.
pub fn decode_return(input: &[u8], ram_pages: u32) -> Result<Option<(usize, Return)>, WireError> {
    let Some(head) = u32_at(input, 0) else {
        return Ok(None);
    };
    let (kind, length) = (
        u16::try_from(head >> 16).unwrap_or(0),
        (head & 0xFFFF) as usize,
    );
    let expected = match kind {
        RP_SHUT | RP_PONG | RP_RESUME_ACK => 4,
        RP_REQ_PAGES => 12,
        RP_REQ_PAGES_ID => 12 + 7,
        RP_RECV_BITMAP => 7,
        _ => usize::MAX,
    };
    if length != expected {
        return unexpected(0, "a message of the return path", u64::from(head));
    }
    let Some(payload) = input.get(4..4 + length) else {
        return Ok(None);
    };
    let word = u32_at(payload, 0).unwrap_or(0);
    let said = match kind {
        RP_SHUT => Return::Shut(word),
        RP_PONG => Return::Pong(word),
        RP_RESUME_ACK if word == RESUME_ACK => Return::ResumeAck,
        RP_RESUME_ACK => return unexpected(4, "the value of RESUME_ACK", u64::from(word)),
        RP_RECV_BITMAP => return bitmap(input, ram_pages),
        _ => requested(payload, ram_pages)?,
    };
    Ok(Some((4 + length, said)))
}

fn requested(payload: &[u8], ram_pages: u32) -> Result<Return, WireError> {
    if payload.len() > 12 && payload[12..] != counted_name() {
        return unexpected(16, "the block's name", u64::from(payload[12]));
    }
    let page = PAGE_BYTES as u64;
    let start = u64_at(payload, 0).unwrap_or(0);
    let bytes = u64::from(u32_at(payload, 8).unwrap_or(0));
    if !start.is_multiple_of(page) || !bytes.is_multiple_of(page) || bytes == 0 {
        return unexpected(4, "whole pages to ask for", start);
    }
    let (first, pages) = (start / page, bytes / page);
    match (u32::try_from(first), u32::try_from(pages)) {
        (Ok(first), Ok(pages)) if u64::from(first) + u64::from(pages) <= u64::from(ram_pages) => {
            Ok(Return::Request { page: first, pages })
        }
        _ => Err(WireError::PageBeyondRam {
            offset: 4,
            page: first.saturating_add(pages),
            ram_pages,
        }),
    }
}

fn bitmap(input: &[u8], ram_pages: u32) -> Result<Option<(usize, Return)>, WireError> {
    if input[5..11] != BLOCK_NAME {
        return unexpected(5, "the block's name", u64::from(input[5]));
    }
    let bytes = 8 * ram_pages.div_ceil(64) as usize;
    let Some(size) = u64_at(input, 11) else {
        return Ok(None);
    };
    if size != bytes as u64 {
        return unexpected(11, "the size of the guest's bitmap", size);
    }
    let Some(end) = u64_at(input, 19 + bytes) else {
        return Ok(None);
    };
    if end != BITMAP_END {
        return unexpected(19 + size, "the end of the bitmap", end);
    }
    let mut pages = Bitmap::new(ram_pages);
    pages.set_words(|word| le_u64(&input[19..], 8 * word).unwrap_or(0));
    Ok(Some((19 + bytes + 8, Return::Received(pages))))
}
