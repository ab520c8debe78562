//! The migration stream, byte by byte, with the sizes of its original's. After the header come QEMU's
//! records, Xen's (`xen`) or Cloud Hypervisor's (`cloud_hypervisor`). QEMU's:
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
//! post-copy (`postcopy`): command ADVISE 5 + 16 after OPEN_RETURN_PATH; instead of the section END
//! DISCARD commands and a PACKAGED one, in which LISTEN, the section FULL, a PING and RUN stand; then
//! sections PART and END as above, and the end, after which nothing is missing
//!
//! page     8 B word `offset | flags` (big-endian), block name on its first page, 4096 B, 1 B, or a delta
//! flush    8 B word MULTIFD_FLUSH, also in the RAM list of a migration with channels
//! return path    2 B kind, 2 B length, payload
//! ```
//!
//! The decoder is sans I/O and total: any bytes give events, a wish for more, or an error; nothing
//! is allocated by a length it read. Never inside: sockets, what the bytes of a page mean.

use thiserror::Error;

use super::params::{COMPRESSIONS, Compression};

pub mod cloud_hypervisor;
mod decode;
mod encode;
#[cfg(test)]
mod foreign_tests;
pub mod hello;
pub mod multifd;
pub mod postcopy;
#[cfg(test)]
mod postcopy_tests;
mod state;
#[cfg(test)]
mod tests;
pub mod xen;

pub use decode::Decoder;
pub use encode::Encoder;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Longest record that must be in one piece: a page with its header and block name, or the
/// device-state payload.
pub const MAX_RECORD_BYTES: usize = MAX_STATE_BYTES + 64;
/// Bound of the serialized guest state (a trace position and some counters).
pub const MAX_STATE_BYTES: usize = 64 * 1024;

pub(super) const MAGIC: u32 = 0x4D42_4D47; // "MBMG"
const VERSION: u32 = 4;
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
/// Flags of the header.
const HEADER_RETURN_PATH: u32 = 1;
const HEADER_POSTCOPY: u32 = 2;

const FLAG_ZERO: u64 = 0x02;
const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;
const FLAG_CONTINUE: u64 = 0x20;
const FLAG_XBZRLE: u64 = 0x40;
const FLAG_MULTIFD_FLUSH: u64 = 0x200;
/// `ENCODING_FLAG_XBZRLE`.
const ENCODING_XBZRLE: u8 = 1;
/// Bytes of a delta's head after its word: the encoding, and the length.
pub const DELTA_HEAD_BYTES: usize = 3;
const FLAGS: u64 = 0xFFF;

/// `MIG_RP_MSG_SHUT`.
const RP_SHUT: u16 = 1;
/// Bytes of a SHUT message.
pub const SHUT_BYTES: usize = 8;

/// Whose records follow the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// QEMU's.
    #[default]
    Qemu,
    /// Xen's, of libxc.
    Xen,
    /// Cloud Hypervisor's.
    CloudHypervisor,
}

impl Format {
    fn code(self) -> u32 {
        match self {
            Self::Qemu => 0,
            Self::Xen => 1,
            Self::CloudHypervisor => 2,
        }
    }

    fn of(code: u32) -> Option<Self> {
        let all = [Self::Qemu, Self::Xen, Self::CloudHypervisor];
        all.into_iter().find(|format| format.code() == code)
    }
}

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
    /// Whether the source waits for the destination's last word.
    pub return_path: bool,
    /// Whether the guest may run before all of its pages are there: QEMU's ADVISE.
    pub postcopy: bool,
    /// Whose records follow.
    pub format: Format,
    /// How pages travel besides the main stream's plain ones.
    pub streams: Streams,
}

/// How pages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// Multifd channels; 0: none.
    pub multifd: u8,
    /// What multifd's packets are packed with.
    pub compression: Compression,
    /// Whether pages may come as deltas.
    pub xbzrle: bool,
    /// Cloud Hypervisor's further connections; 0: none.
    pub data: u8,
}

impl Streams {
    fn encode(self) -> [u8; 4] {
        let compression = match self.compression {
            Compression::None => 0,
            Compression::Zlib => 1,
            Compression::Zstd => 2,
            Compression::Lz4 => 3,
        };
        [self.multifd, compression, u8::from(self.xbzrle), self.data]
    }

    fn decode([multifd, compression, xbzrle, data]: [u8; 4]) -> Option<Self> {
        let codecs = COMPRESSIONS.iter().map(|(_, codec)| *codec);
        codecs
            .map(|compression| Self {
                multifd,
                compression,
                xbzrle: xbzrle == 1,
                data,
            })
            .find(|streams| streams.encode() == [multifd, compression, xbzrle, data])
    }
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

/// The next event and the bytes it takes, or `None` if more must be read first.
type Decoded<'a> = Result<Option<(usize, Event<'a>)>, WireError>;

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
    /// What differs from the page before.
    Delta {
        /// Its number.
        page: u32,
        /// XBZRLE's encoding.
        encoding: &'a [u8],
    },
    /// Every multifd channel is to come to its SYNC before the stream goes on.
    MultifdFlush,
    /// A slice ended.
    SectionEnd,
    /// The guest's state.
    State(&'a [u8]),
    /// Padding of the device state went by.
    Padding,
    /// The device state is complete.
    StateEnd,
    /// The source waits for an answer (Cloud Hypervisor).
    AnswerWanted,
    /// What only post-copy says.
    Postcopy(postcopy::Command<'a>),
    /// The last byte of the stream.
    End,
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

fn ram_list(ram_pages: u32, multifd: bool) -> Vec<u8> {
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
    if multifd {
        out.extend_from_slice(&FLAG_MULTIFD_FLUSH.to_be_bytes());
    }
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

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_le_bytes(*four))
}

fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|eight| u64::from_le_bytes(*eight))
}

fn unexpected<T>(offset: u64, expected: &'static str, found: u64) -> Result<T, WireError> {
    Err(WireError::Unexpected {
        offset,
        expected,
        found,
    })
}

fn is_footer(mark: &[u8], section: u32) -> bool {
    mark[0] == SECTION_FOOTER && u32_at(mark, 1) == Some(section)
}
