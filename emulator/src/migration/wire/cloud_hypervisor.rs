//! Cloud Hypervisor's requests and answers, sized as its own (`vm-migration/src/protocol.rs`):
//! little-endian, 16 bytes each.
//!
//! ```text
//! Start      16 B, answered
//! Config     16 B, answered       its payload, some kB of JSON, is not carried
//! Memory     16 B, 16 a range of pages, 4096 a page; answered         one a pass
//! State      16 B and the guest's state, padded to its stated size; answered
//! Complete   16 B; answered when the guest runs
//!
//! post-copy: no Memory; beside State and Complete, on a connection of its own (`fault`) and the other way
//! PageFault  16 B and a range of 16 B; answered with 16 B and the page's 4096
//! ```
//!
//! Never inside: which pages a table has.

use super::*;

pub mod fault;

/// Bytes of a request, of an answer, and of a range.
pub const RECORD_BYTES: usize = 16;

const START: u16 = 1;
const CONFIG: u16 = 2;
const STATE: u16 = 3;
const MEMORY: u16 = 4;
const COMPLETE: u16 = 5;
const OK: u16 = 1;
const ERROR: u16 = 2;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The first.
    Start,
    /// The VM's configuration.
    Config,
    /// A table of so many ranges, which follow; then their contents.
    Memory {
        /// Ranges.
        ranges: u64,
    },
    /// The guest may run there.
    Complete,
}

/// Puts a request.
pub fn request(request: Request, out: &mut Vec<u8>) {
    let (command, length) = match request {
        Request::Start => (START, 0),
        Request::Config => (CONFIG, 0),
        Request::Memory { ranges } => (MEMORY, ranges * RECORD_BYTES as u64),
        Request::Complete => (COMPLETE, 0),
    };
    record(command, length, out);
}

/// Puts a range of a table: pages `first` to `first + pages - 1`.
pub fn range(first: u32, pages: u32, out: &mut Vec<u8>) {
    let bytes = |pages: u32| u64::from(pages) * PAGE_BYTES as u64;
    out.extend_from_slice(&bytes(first).to_le_bytes());
    out.extend_from_slice(&bytes(pages).to_le_bytes());
}

/// Puts the guest's state, in `total_bytes` with its request.
pub fn state(state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
    let wanted = total_bytes.saturating_sub(RECORD_BYTES as u64);
    let body = state::bytes(state, wanted);
    record(STATE, body, out);
    state::put(state, body, out);
}

fn record(command: u16, length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&command.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&length.to_le_bytes());
}

/// An answer.
#[must_use]
pub fn encode_answer(ok: bool) -> [u8; RECORD_BYTES] {
    let mut answer = [0; RECORD_BYTES];
    let status = if ok { OK } else { ERROR };
    answer[..2].copy_from_slice(&status.to_le_bytes());
    answer
}

/// Whether an answer says yes.
///
/// # Errors
/// When it is no answer.
pub fn decode_answer(answer: &[u8; RECORD_BYTES]) -> Result<bool, WireError> {
    for status in [true, false] {
        if *answer == encode_answer(status) {
            return Ok(status);
        }
    }
    let found = le_u64(answer, 0).expect("sixteen bytes");
    unexpected(0, "an answer", found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Config,
    Request,
    Table { left: u64 },
    Pages { range: usize, page: u32 },
    State { left: u64 },
    Zeros { left: u64 },
    Answer { then: Next },
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Config,
    Request,
}

/// Reads the requests.
#[derive(Debug)]
pub(in crate::migration) struct CloudHypervisorDecoder {
    place: Place,
    ram_pages: u32,
    /// First and one past the last page of each range, ascending and apart, so never more than pages.
    table: Vec<(u32, u32)>,
    has_state: bool,
    memory_only: bool,
    /// Post-copy: no memory comes here.
    no_memory: bool,
}

impl CloudHypervisorDecoder {
    /// Of a further connection: memory only, from its first byte.
    pub(in crate::migration) fn of_memory(ram_pages: u32) -> Self {
        Self {
            place: Place::Request,
            memory_only: true,
            ..Self::new(ram_pages, false)
        }
    }

    /// Whether the connection may end here.
    pub(in crate::migration) fn is_between(&self) -> bool {
        self.place == Place::Request
    }

    pub(super) fn new(ram_pages: u32, no_memory: bool) -> Self {
        Self {
            place: Place::Start,
            ram_pages,
            table: Vec::new(),
            has_state: false,
            memory_only: false,
            no_memory,
        }
    }

    pub(in crate::migration) fn decode<'a>(&mut self, input: &'a [u8], offset: u64) -> Decoded<'a> {
        match self.place {
            Place::Start => self.bare(input, offset, START, Next::Config),
            Place::Config => self.bare(input, offset, CONFIG, Next::Request),
            Place::Request => self.request(input, offset),
            Place::Table { left } => self.range(input, left, offset),
            Place::Pages { range, page } => {
                let Some(bytes) = input.get(..PAGE_BYTES) else {
                    return Ok(None);
                };
                self.place = self.after(range, page);
                Ok(Some((PAGE_BYTES, Event::Page { page, bytes })))
            }
            Place::State { left } => {
                let Some(read) = state::read(input, offset)? else {
                    return Ok(None);
                };
                let zeros = u64::from(read.padding);
                if read.taken as u64 + zeros != left {
                    return unexpected(offset, "a state that fills its request", zeros);
                }
                self.place = Place::Zeros { left: zeros };
                Ok(Some((read.taken, Event::State(read.state))))
            }
            Place::Zeros { left: 0 } => {
                self.place = Place::Answer {
                    then: Next::Request,
                };
                Ok(Some((0, Event::StateEnd)))
            }
            Place::Zeros { left } => {
                let taken = state::zeros(input, left, offset)?;
                let left = left - taken.unwrap_or(0) as u64;
                self.place = Place::Zeros { left };
                Ok(taken.map(|taken| (taken, Event::Padding)))
            }
            Place::Answer { then } => {
                self.place = match then {
                    Next::Config => Place::Config,
                    Next::Request => Place::Request,
                };
                Ok(Some((0, Event::AnswerWanted)))
            }
            Place::End if input.is_empty() => Ok(None),
            Place::End => Err(WireError::AfterEnd { bytes: input.len() }),
        }
    }

    /// A request without a payload.
    fn bare(&mut self, input: &[u8], offset: u64, wanted: u16, then: Next) -> Decoded<'static> {
        let Some((command, length)) = head(input) else {
            return Ok(None);
        };
        if (command, length) != (u64::from(wanted), 0) {
            return unexpected(offset, "the request that comes next", command);
        }
        self.place = Place::Answer { then };
        Ok(Some((RECORD_BYTES, Event::RamList)))
    }

    fn request<'a>(&mut self, input: &'a [u8], offset: u64) -> Decoded<'a> {
        let Some((command, length)) = head(input) else {
            return Ok(None);
        };
        let is = |wanted: u16| command == u64::from(wanted);
        if is(MEMORY) && !self.has_state && !self.no_memory {
            if !length.is_multiple_of(RECORD_BYTES as u64) {
                return unexpected(offset, "a table of 16-byte ranges", length);
            }
            self.table.clear();
            self.place = self.table_or_pages(length);
            return Ok(Some((RECORD_BYTES, Event::SectionBegin { last: false })));
        }
        if is(STATE) && !self.has_state && !self.memory_only {
            self.has_state = true;
            self.place = Place::State { left: length };
            return Ok(Some((RECORD_BYTES, Event::SectionEnd)));
        }
        if is(COMPLETE) && self.has_state && length == 0 {
            self.place = Place::End;
            return Ok(Some((RECORD_BYTES, Event::End)));
        }
        unexpected(offset, "the request that comes next", command)
    }

    fn table_or_pages(&self, left: u64) -> Place {
        match self.table.first() {
            _ if left > 0 => Place::Table { left },
            Some(&(page, _)) => Place::Pages { range: 0, page },
            None => Place::Answer {
                then: Next::Request,
            },
        }
    }

    fn range(&mut self, input: &[u8], left: u64, offset: u64) -> Decoded<'static> {
        let (Some(address), Some(length)) = (le_u64(input, 0), le_u64(input, 8)) else {
            return Ok(None);
        };
        let page_bytes = PAGE_BYTES as u64;
        let end = address.checked_add(length);
        let whole = [address, length]
            .iter()
            .all(|n| n.is_multiple_of(page_bytes));
        let pages = end.map(|end| (address / page_bytes, end / page_bytes));
        let Some((first, end)) = pages.filter(|_| whole && length > 0) else {
            return unexpected(offset, "a range of whole pages", address);
        };
        let after = self.table.last().map_or(0, |&(_, end)| end);
        let both = u32::try_from(first).ok().zip(u32::try_from(end).ok());
        let Some((first, end)) = both.filter(|&(_, end)| end <= self.ram_pages) else {
            let (page, ram_pages) = (end.saturating_sub(1), self.ram_pages);
            return Err(WireError::PageBeyondRam {
                offset,
                page,
                ram_pages,
            });
        };
        if first < after {
            return unexpected(offset, "ranges that ascend", address);
        }
        self.table.push((first, end));
        self.place = self.table_or_pages(left - RECORD_BYTES as u64);
        Ok(Some((RECORD_BYTES, Event::RamList)))
    }

    fn after(&self, range: usize, page: u32) -> Place {
        if page + 1 < self.table[range].1 {
            return Place::Pages {
                range,
                page: page + 1,
            };
        }
        match self.table.get(range + 1) {
            Some(&(page, _)) => Place::Pages {
                range: range + 1,
                page,
            },
            None => Place::Answer {
                then: Next::Request,
            },
        }
    }
}

fn head(input: &[u8]) -> Option<(u64, u64)> {
    // The six bytes after the command are zero, or of a version that this is not.
    Some((le_u64(input, 0)?, le_u64(input, 8)?))
}
