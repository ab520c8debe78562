//! Xen's records, sized as libxc's (docs/specs/libxc-migration-stream): little-endian, each a type and a
//! length, bodies padded to 8 bytes.
//!
//! ```text
//! image header 24 B, domain header 16 B
//! PAGE_DATA    8 + 8 + 8 a page, then 4096 a page: zeros are sent like any page
//! HVM_CONTEXT  8 + the guest's state, padded to its stated size
//! END          8 B: after it the destination may commit
//! ```
//!
//! Never inside: which pages a batch has.

use super::*;

/// Most pages of a record (`MAX_BATCH_SIZE`).
pub const BATCH_PAGES: usize = 1024;

const END: u32 = 0;
const PAGE_DATA: u32 = 1;
const HVM_CONTEXT: u32 = 9;
const RECORD_BYTES: usize = 8;

/// Marker, "XENF", version 3, little-endian; HVM, 4 KiB pages, Xen 4.20.
const OPENING: [u8; 40] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, b'X', b'E', b'N', b'F', 0, 0, 0, 3, 0, 0, 0, 0,
    0, 0, 0, 0, 2, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 20, 0, 0, 0,
];

/// Image and domain header.
pub fn opening(out: &mut Vec<u8>) {
    out.extend_from_slice(&OPENING);
}

/// The head of a record of these pages, at most [`BATCH_PAGES`] and at least one; their contents follow.
///
/// # Panics
/// If there are more, or none.
pub fn page_data(pages: &[u32], out: &mut Vec<u8>) {
    assert!(
        (1..=BATCH_PAGES).contains(&pages.len()),
        "a batch of {} pages",
        pages.len()
    );
    let count = u32::try_from(pages.len()).expect("bounded above");
    record(PAGE_DATA, body_bytes(count), out);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for &page in pages {
        out.extend_from_slice(&u64::from(page).to_le_bytes());
    }
}

/// The guest's state, in `total_bytes` with the record's own head.
pub fn context(state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
    let wanted = total_bytes.saturating_sub(RECORD_BYTES as u64);
    let body = state::bytes(state, wanted);
    record(HVM_CONTEXT, u32::try_from(body).unwrap_or(u32::MAX), out);
    state::put(state, body, out);
    for _ in body..body.next_multiple_of(8) {
        out.push(0);
    }
}

/// The last record.
pub fn end(out: &mut Vec<u8>) {
    record(END, 0, out);
}

fn record(kind: u32, body: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&body.to_le_bytes());
}

fn body_bytes(pages: u32) -> u32 {
    8 + pages * (8 + 4096)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Opening,
    Record,
    Pages { next: usize },
    State { left: u64 },
    Zeros { left: u64 },
    End,
}

/// Reads the records.
#[derive(Debug)]
pub(super) struct XenDecoder {
    place: Place,
    ram_pages: u32,
    pages: Vec<u32>,
    has_state: bool,
}

impl XenDecoder {
    pub(super) fn new(ram_pages: u32) -> Self {
        Self {
            place: Place::Opening,
            ram_pages,
            pages: Vec::new(),
            has_state: false,
        }
    }

    pub(super) fn decode<'a>(&mut self, input: &'a [u8], offset: u64) -> Decoded<'a> {
        match self.place {
            Place::Opening => {
                let length = input.len().min(OPENING.len());
                if let Some(at) = (0..length).find(|&at| input[at] != OPENING[at]) {
                    let offset = offset + at as u64;
                    return unexpected(offset, "image and domain header", u64::from(input[at]));
                }
                if length < OPENING.len() {
                    return Ok(None);
                }
                self.place = Place::Record;
                Ok(Some((OPENING.len(), Event::RamList)))
            }
            Place::Record => self.record(input, offset),
            Place::Pages { next } => {
                let Some(bytes) = input.get(..PAGE_BYTES) else {
                    return Ok(None);
                };
                let page = self.pages[next];
                self.place = if next + 1 < self.pages.len() {
                    Place::Pages { next: next + 1 }
                } else {
                    Place::Record
                };
                Ok(Some((PAGE_BYTES, Event::Page { page, bytes })))
            }
            Place::State { left } => {
                let Some(read) = state::read(input, offset)? else {
                    return Ok(None);
                };
                let zeros = u64::from(read.padding);
                if read.taken as u64 + zeros != left {
                    return unexpected(offset, "a state that fills its record", zeros);
                }
                let align = left.next_multiple_of(8) - left;
                let left = zeros + align;
                self.place = Place::Zeros { left };
                Ok(Some((read.taken, Event::State(read.state))))
            }
            Place::Zeros { left: 0 } => {
                self.place = Place::Record;
                Ok(Some((0, Event::StateEnd)))
            }
            Place::Zeros { left } => {
                let taken = state::zeros(input, left, offset)?;
                let left = left - taken.unwrap_or(0) as u64;
                self.place = Place::Zeros { left };
                Ok(taken.map(|taken| (taken, Event::Padding)))
            }
            Place::End if input.is_empty() => Ok(None),
            Place::End => Err(WireError::AfterEnd { bytes: input.len() }),
        }
    }

    fn record<'a>(&mut self, input: &'a [u8], offset: u64) -> Decoded<'a> {
        let (Some(kind), Some(body)) = (le_u32(input, 0), le_u32(input, 4)) else {
            return Ok(None);
        };
        match kind {
            PAGE_DATA if !self.has_state => self.page_data(input, body, offset),
            HVM_CONTEXT if !self.has_state => {
                self.has_state = true;
                self.place = Place::State {
                    left: u64::from(body),
                };
                Ok(Some((RECORD_BYTES, Event::SectionEnd)))
            }
            END if self.has_state && body == 0 => {
                self.place = Place::End;
                Ok(Some((RECORD_BYTES, Event::End)))
            }
            _ => unexpected(offset, "the record that comes next", u64::from(kind)),
        }
    }

    fn page_data<'a>(&mut self, input: &'a [u8], body: u32, offset: u64) -> Decoded<'a> {
        let (Some(count), Some(reserved)) = (le_u32(input, 8), le_u32(input, 12)) else {
            return Ok(None);
        };
        let pages = count as usize;
        if !(1..=BATCH_PAGES).contains(&pages) || body != body_bytes(count) || reserved != 0 {
            return unexpected(offset, "a batch of 1 to 1024 pages", u64::from(count));
        }
        let Some(list) = input.get(16..16 + 8 * pages) else {
            return Ok(None);
        };
        self.pages.clear();
        for at in 0..pages {
            let page = le_u64(list, 8 * at).expect("eight bytes a page");
            let number = u32::try_from(page)
                .ok()
                .filter(|number| *number < self.ram_pages);
            let Some(number) = number else {
                return Err(WireError::PageBeyondRam {
                    offset: offset + 16 + 8 * at as u64,
                    page,
                    ram_pages: self.ram_pages,
                });
            };
            self.pages.push(number);
        }
        self.place = Place::Pages { next: 0 };
        Ok(Some((16 + 8 * pages, Event::SectionBegin { last: false })))
    }
}
