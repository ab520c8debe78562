//! The migration stream, byte by byte, with the sizes of QEMU's.
//!
//! ```text
//! header        48 B  ours; stands for QEMU's file header and configuration section
//! command        5 B  OPEN_RETURN_PATH, when there is one
//! section START       1 + 4 + 1+3 "ram" + 4 + 4, RAM list, EOS 8, footer 5
//! section PART …      1 + 4, pages, EOS 8, footer 5       one per slice
//! section END         1 + 4, pages, EOS 8, footer 5       the final round
//! section FULL        1 + 4, device state padded to its stated size, footer 5
//! end            1 B  after it the destination may commit
//!
//! page     8 B word `offset | flags` (big-endian), block name on its first page, 4096 B or 1 B
//! return path    2 B kind, 2 B length, payload
//! ```
//!
//! The decoder is sans I/O and total: any bytes give events, a wish for more, or an error; nothing
//! is allocated by a length it read. Never inside: sockets, what the bytes of a page mean.

use thiserror::Error;

#[cfg(test)]
mod tests;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Longest record that must be in one piece: a page with its header and block name, or the
/// device-state payload.
pub const MAX_RECORD_BYTES: usize = MAX_STATE_BYTES + 64;
/// Bound of the serialized guest state (a trace position and some counters).
pub const MAX_STATE_BYTES: usize = 64 * 1024;

const MAGIC: u32 = 0x4D42_4D47; // "MBMG"
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
/// QEMU's own name of a PC's RAM block: the name is on the wire, so its length matters.
const BLOCK_NAME: [u8; 6] = *b"pc.ram";
const RAM_SECTION: u32 = 2; // as in QEMU's streams of a PC: 0 and 1 are earlier sections
const DEVICE_SECTION: u32 = 3;

const SECTION_EOF: u8 = 0x00;
const SECTION_START: u8 = 0x01;
const SECTION_PART: u8 = 0x02;
const SECTION_END: u8 = 0x03;
const SECTION_FULL: u8 = 0x04;
const SECTION_COMMAND: u8 = 0x08;
const SECTION_FOOTER: u8 = 0x7E;
const COMMAND_OPEN_RETURN_PATH: u16 = 1;

const FLAG_ZERO: u64 = 0x02;
const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;
const FLAG_CONTINUE: u64 = 0x20;
const FLAGS: u64 = 0xFFF;

/// `MIG_RP_MSG_SHUT`.
const RP_SHUT: u16 = 1;
/// Bytes of a SHUT message.
pub const SHUT_BYTES: usize = 8;

/// What both ends must agree on before the first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the migration in the run.
    pub migration: u32,
    /// Key of the VM.
    pub vm_key: u64,
    /// Fingerprint of the guest's memory function and contents (both ends compute it).
    pub memory_check: u64,
    /// RAM in pages.
    pub ram_pages: u32,
    /// Whether the source waits for SHUT.
    pub return_path: bool,
}

/// A stream that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not this protocol.
    #[error("the stream begins with {found:#010x}, not with a migration header")]
    Magic {
        /// First word.
        found: u32,
    },
    /// Another version of it.
    #[error("stream version {found}, this end speaks {VERSION}")]
    Version {
        /// Version in the header.
        found: u32,
    },
    /// The header's checksum does not hold.
    #[error("the migration header is damaged")]
    HeaderChecksum,
    /// The device state's checksum does not hold.
    #[error("the device state is damaged")]
    StateChecksum,
    /// Something else was expected at this place of the stream.
    #[error("byte {offset}: expected {expected}, found {found:#x}")]
    Unexpected {
        /// Offset in the stream.
        offset: u64,
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: u64,
    },
    /// A page beyond RAM.
    #[error("byte {offset}: page {page} of a guest of {ram_pages} pages")]
    PageBeyondRam {
        /// Offset in the stream.
        offset: u64,
        /// The page.
        page: u64,
        /// Pages of the guest.
        ram_pages: u32,
    },
    /// The stream went on after its end.
    #[error("{bytes} bytes after the end of the stream")]
    AfterEnd {
        /// Bytes given.
        bytes: usize,
    },
}

/// Puts records into a buffer. The page's 4096 bytes follow `page_header` and are the caller's.
#[derive(Debug, Default)]
pub struct Encoder {
    named: bool,
    ram_pages: u32,
}

impl Encoder {
    /// Header, OPEN_RETURN_PATH if asked, and the RAM list.
    pub fn setup(&mut self, header: &Header, out: &mut Vec<u8>) {
        self.ram_pages = header.ram_pages;
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&header.migration.to_be_bytes());
        out.extend_from_slice(&u32::from(header.return_path).to_be_bytes());
        out.extend_from_slice(&header.vm_key.to_be_bytes());
        out.extend_from_slice(&header.memory_check.to_be_bytes());
        out.extend_from_slice(&header.ram_pages.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
        if header.return_path {
            out.push(SECTION_COMMAND);
            out.extend_from_slice(&COMMAND_OPEN_RETURN_PATH.to_be_bytes());
            out.extend_from_slice(&0_u16.to_be_bytes());
        }
        out.extend_from_slice(&ram_list(header.ram_pages));
    }

    /// Begins a slice's section, or the final round's.
    pub fn section(&mut self, last: bool, out: &mut Vec<u8>) {
        out.push(if last { SECTION_END } else { SECTION_PART });
        out.extend_from_slice(&RAM_SECTION.to_be_bytes());
    }

    /// The head of a page whose 4096 bytes follow.
    pub fn page_header(&mut self, page: u32, out: &mut Vec<u8>) {
        self.page_word(page, FLAG_PAGE, out);
    }

    /// A page of zeros: 9 bytes.
    pub fn zero_page(&mut self, page: u32, out: &mut Vec<u8>) {
        self.page_word(page, FLAG_ZERO, out);
        out.push(0);
    }

    /// Ends a slice's section.
    pub fn end_of_section(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FLAG_EOS.to_be_bytes());
        footer(RAM_SECTION, out);
    }

    /// Device state: the guest's own bytes, padded to `total_bytes` in all (mark, lengths, footer
    /// included), or as long as it must be.
    ///
    /// # Panics
    /// If the state is longer than [`MAX_STATE_BYTES`]: it is ours to keep small.
    pub fn device_state(&mut self, state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
        assert!(
            state.len() <= MAX_STATE_BYTES,
            "a guest state of {} bytes",
            state.len()
        );
        let length = u32::try_from(state.len()).expect("bounded above");
        let fixed = 5 + 4 + 4 + 4 + 5 + u64::from(length);
        let padding = u32::try_from(total_bytes.saturating_sub(fixed)).unwrap_or(u32::MAX);
        out.push(SECTION_FULL);
        out.extend_from_slice(&DEVICE_SECTION.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&padding.to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(state).to_be_bytes());
        out.extend_from_slice(state);
        out.resize(out.len() + padding as usize, 0);
        footer(DEVICE_SECTION, out);
    }

    /// The last byte of the stream.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.push(SECTION_EOF);
    }

    fn page_word(&mut self, page: u32, flag: u64, out: &mut Vec<u8>) {
        let offset = u64::from(page) * PAGE_BYTES as u64;
        let again = if self.named { FLAG_CONTINUE } else { 0 };
        out.extend_from_slice(&(offset | flag | again).to_be_bytes());
        if !std::mem::replace(&mut self.named, true) {
            out.extend_from_slice(&counted_name());
        }
    }
}

fn ram_list(ram_pages: u32) -> Vec<u8> {
    let bytes = u64::from(ram_pages) * PAGE_BYTES as u64;
    let mut out = Vec::with_capacity(64);
    out.push(SECTION_START);
    out.extend_from_slice(&RAM_SECTION.to_be_bytes());
    out.extend_from_slice(b"\x03ram");
    out.extend_from_slice(&0_u32.to_be_bytes()); // instance
    out.extend_from_slice(&4_u32.to_be_bytes()); // version of QEMU's RAM section
    out.extend_from_slice(&(bytes | FLAG_MEM_SIZE).to_be_bytes());
    out.extend_from_slice(&counted_name());
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(&FLAG_EOS.to_be_bytes());
    footer(RAM_SECTION, &mut out);
    out
}

const fn counted_name() -> [u8; 7] {
    let [a, b, c, d, e, f] = BLOCK_NAME;
    [6, a, b, c, d, e, f]
}

fn footer(section: u32, out: &mut Vec<u8>) {
    out.push(SECTION_FOOTER);
    out.extend_from_slice(&section.to_be_bytes());
}

/// What the stream said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The header. Its receiver decides whether the guest is its own.
    Header(Header),
    /// OPEN_RETURN_PATH.
    OpenReturnPath,
    /// The RAM list agreed with the header.
    RamList,
    /// A slice began.
    SectionBegin {
        /// The final round.
        last: bool,
    },
    /// A whole page.
    Page {
        /// Its number.
        page: u32,
        /// Its 4096 bytes.
        bytes: &'a [u8],
    },
    /// A page of zeros.
    ZeroPage {
        /// Its number.
        page: u32,
    },
    /// A slice ended.
    SectionEnd,
    /// The guest's state.
    State(&'a [u8]),
    /// Padding of the device state went by.
    Padding,
    /// The device state is complete.
    StateEnd,
    /// The last byte of the stream.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    BeforeRamList { command_allowed: bool },
    Between { finished_ram: bool, has_state: bool },
    Pages { last: bool },
    Padding { left: usize },
    End,
}

/// Reads the stream.
#[derive(Debug)]
pub struct Decoder {
    place: Place,
    ram_pages: u32,
    offset: u64,
    named: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            place: Place::Header,
            ram_pages: 0,
            offset: 0,
            named: false,
        }
    }
}

type Decoded<'a> = Result<Option<(usize, Event<'a>)>, WireError>;

impl Decoder {
    /// The next event at the head of `input` and the bytes it takes, or `None` if more must be
    /// read first (never more than [`MAX_RECORD_BYTES`] in all).
    ///
    /// # Errors
    /// When the bytes cannot be a migration stream. The decoder is of no use afterwards.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let decoded = match self.place {
            Place::Header => self.header(input),
            Place::BeforeRamList { command_allowed } => self.ram_list(input, command_allowed),
            Place::Between {
                finished_ram,
                has_state,
            } => self.section(input, finished_ram, has_state),
            Place::Pages { last } => self.page(input, last),
            Place::Padding { left } => self.padding(input, left),
            Place::End if input.is_empty() => Ok(None),
            Place::End => Err(WireError::AfterEnd { bytes: input.len() }),
        }?;
        if let Some((taken, _)) = &decoded {
            self.offset += *taken as u64;
        }
        Ok(decoded)
    }

    /// Offset in the stream of the next record.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn header(&mut self, input: &[u8]) -> Decoded<'static> {
        if let Some(magic) = u32_at(input, 0)
            && magic != MAGIC
        {
            return Err(WireError::Magic { found: magic });
        }
        let Some((bytes, _)) = input.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let four = |at: usize| u32_at(bytes, at).expect("a header has 48 bytes");
        let eight = |at: usize| u64_at(bytes, at).expect("a header has 48 bytes");
        if four(4) != VERSION {
            return Err(WireError::Version { found: four(4) });
        }
        if crc32fast::hash(&bytes[..HEADER_BYTES - 4]) != four(HEADER_BYTES - 4) {
            return Err(WireError::HeaderChecksum);
        }
        let header = Header {
            migration: four(8),
            return_path: four(12) != 0,
            vm_key: eight(16),
            memory_check: eight(24),
            ram_pages: four(32),
        };
        self.ram_pages = header.ram_pages;
        self.place = Place::BeforeRamList {
            command_allowed: header.return_path,
        };
        Ok(Some((HEADER_BYTES, Event::Header(header))))
    }

    fn ram_list(&mut self, input: &[u8], command_allowed: bool) -> Decoded<'static> {
        let Some(&kind) = input.first() else {
            return Ok(None);
        };
        if kind == SECTION_COMMAND && command_allowed {
            let Some(bytes) = input.get(1..5) else {
                return Ok(None);
            };
            let word = u32_at(bytes, 0).expect("four bytes");
            if word != u32::from(COMMAND_OPEN_RETURN_PATH) << 16 {
                return self.unexpected("OPEN_RETURN_PATH", u64::from(word));
            }
            self.place = Place::BeforeRamList {
                command_allowed: false,
            };
            return Ok(Some((5, Event::OpenReturnPath)));
        }
        // Its bytes follow from the header alone.
        let expected = ram_list(self.ram_pages);
        let length = input.len().min(expected.len());
        if let Some(at) = (0..length).find(|&at| input[at] != expected[at]) {
            return self.unexpected("the RAM list of the header's guest", u64::from(input[at]));
        }
        if length < expected.len() {
            return Ok(None);
        }
        self.place = Place::Between {
            finished_ram: false,
            has_state: false,
        };
        Ok(Some((length, Event::RamList)))
    }

    fn section<'a>(&mut self, input: &'a [u8], finished_ram: bool, has_state: bool) -> Decoded<'a> {
        let Some(&kind) = input.first() else {
            return Ok(None);
        };
        match kind {
            SECTION_PART | SECTION_END if !finished_ram => {
                let Some(section) = u32_at(input, 1) else {
                    return Ok(None);
                };
                if section != RAM_SECTION {
                    return self.unexpected("the RAM section's number", u64::from(section));
                }
                let last = kind == SECTION_END;
                self.place = Place::Pages { last };
                Ok(Some((5, Event::SectionBegin { last })))
            }
            SECTION_FULL if finished_ram && !has_state => self.state(input),
            SECTION_EOF if has_state => {
                self.place = Place::End;
                Ok(Some((1, Event::End)))
            }
            _ => self.unexpected("the section that comes next", u64::from(kind)),
        }
    }

    fn page<'a>(&mut self, input: &'a [u8], last: bool) -> Decoded<'a> {
        let Some(word) = u64_at(input, 0) else {
            return Ok(None);
        };
        if word == FLAG_EOS {
            let Some(mark) = input.get(8..13) else {
                return Ok(None);
            };
            if !is_footer(mark, RAM_SECTION) {
                return self.unexpected("the RAM section's footer", u64::from(mark[0]));
            }
            self.place = Place::Between {
                finished_ram: last,
                has_state: false,
            };
            return Ok(Some((13, Event::SectionEnd)));
        }
        let flags = word & FLAGS;
        let name_bytes = if self.named { 0 } else { counted_name().len() };
        let again = if self.named { FLAG_CONTINUE } else { 0 };
        let Some(body) = input.get(8 + name_bytes..) else {
            return Ok(None);
        };
        if input[8..8 + name_bytes] != counted_name()[..name_bytes] {
            return self.unexpected("the block's name", u64::from(input[8]));
        }
        let page = (word & !FLAGS) / PAGE_BYTES as u64;
        let number = u32::try_from(page)
            .ok()
            .filter(|number| *number < self.ram_pages);
        let Some(number) = number else {
            let (offset, ram_pages) = (self.offset, self.ram_pages);
            return Err(WireError::PageBeyondRam {
                offset,
                page,
                ram_pages,
            });
        };
        let (length, event) = if flags == FLAG_PAGE | again {
            let Some(bytes) = body.get(..PAGE_BYTES) else {
                return Ok(None);
            };
            (
                PAGE_BYTES,
                Event::Page {
                    page: number,
                    bytes,
                },
            )
        } else if flags == FLAG_ZERO | again {
            match body.first() {
                None => return Ok(None),
                Some(0) => (1, Event::ZeroPage { page: number }),
                Some(&fill) => return self.unexpected("a zero page's 0", u64::from(fill)),
            }
        } else {
            return self.unexpected("the flags of a page or the section's end", flags);
        };
        self.named = true;
        Ok(Some((8 + name_bytes + length, event)))
    }

    fn state<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let (Some(section), Some(length), Some(padding), Some(crc)) = (
            u32_at(input, 1),
            u32_at(input, 5),
            u32_at(input, 9),
            u32_at(input, 13),
        ) else {
            return Ok(None);
        };
        if section != DEVICE_SECTION || length as usize > MAX_STATE_BYTES {
            return self.unexpected("a device section within bounds", u64::from(length));
        }
        let Some(state) = input.get(17..17 + length as usize) else {
            return Ok(None);
        };
        if crc32fast::hash(state) != crc {
            return Err(WireError::StateChecksum);
        }
        self.place = Place::Padding {
            left: padding as usize,
        };
        Ok(Some((17 + state.len(), Event::State(state))))
    }

    fn padding(&mut self, input: &[u8], left: usize) -> Decoded<'static> {
        if left > 0 {
            let taken = left.min(input.len());
            if let Some(&byte) = input[..taken].iter().find(|&&byte| byte != 0) {
                return self.unexpected("the device state's padding", u64::from(byte));
            }
            self.place = Place::Padding { left: left - taken };
            return Ok((taken > 0).then_some((taken, Event::Padding)));
        }
        let Some(mark) = input.get(..5) else {
            return Ok(None);
        };
        if !is_footer(mark, DEVICE_SECTION) {
            return self.unexpected("the device section's footer", u64::from(mark[0]));
        }
        self.place = Place::Between {
            finished_ram: true,
            has_state: true,
        };
        Ok(Some((5, Event::StateEnd)))
    }

    fn unexpected<T>(&self, expected: &'static str, found: u64) -> Result<T, WireError> {
        Err(WireError::Unexpected {
            offset: self.offset,
            expected,
            found,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_be_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|eight| u64::from_be_bytes(*eight))
}

fn is_footer(mark: &[u8], section: u32) -> bool {
    mark[0] == SECTION_FOOTER && u32_at(mark, 1) == Some(section)
}

/// SHUT, as the destination sends it on the return path: 0 when it has committed, else it never
/// will.
#[must_use]
pub fn encode_shut(value: u32) -> [u8; SHUT_BYTES] {
    let mut message = [0; SHUT_BYTES];
    message[..2].copy_from_slice(&RP_SHUT.to_be_bytes());
    message[2..4].copy_from_slice(&4_u16.to_be_bytes());
    message[4..].copy_from_slice(&value.to_be_bytes());
    message
}

/// The value of a SHUT.
///
/// # Errors
/// When the message is another.
pub fn decode_shut(message: &[u8; SHUT_BYTES]) -> Result<u32, WireError> {
    let head = u32_at(message, 0).expect("eight bytes");
    if head != (u32::from(RP_SHUT) << 16) | 4 {
        return Err(WireError::Unexpected {
            offset: 0,
            expected: "SHUT on the return path",
            found: u64::from(head),
        });
    }
    Ok(u32_at(message, 4).expect("eight bytes"))
}
