//! Reads the stream. Sans I/O and total.

use super::cloud_hypervisor::CloudHypervisorDecoder;
use super::postcopy::{self, Command};
use super::xen::XenDecoder;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    BeforeRamList {
        command_allowed: bool,
    },
    /// A package began.
    Listen,
    /// Recovery: the bitmap was asked for.
    Resuming,
    Between {
        finished_ram: bool,
        has_state: bool,
    },
    Pages {
        last: bool,
    },
    Padding {
        left: u64,
    },
    End,
}

/// Records that are not QEMU's.
#[derive(Debug)]
enum Foreign {
    Xen(XenDecoder),
    CloudHypervisor(CloudHypervisorDecoder),
}

/// Reads the stream.
#[derive(Debug)]
pub struct Decoder {
    place: Place,
    ram_pages: u32,
    offset: u64,
    named: bool,
    streams: Streams,
    /// The header allows post-copy: ADVISE must come, then commands of it may.
    postcopy: bool,
    advised: bool,
    /// Offset at which the package ends that is being read.
    package_end: Option<u64>,
    /// The guest was told to run: pages are pulled.
    pulling: bool,
    foreign: Option<Foreign>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            place: Place::Header,
            ram_pages: 0,
            offset: 0,
            named: false,
            streams: Streams::default(),
            postcopy: false,
            advised: false,
            package_end: None,
            pulling: false,
            foreign: None,
        }
    }
}

impl Decoder {
    /// The next event at the head of `input` and the bytes it takes, or `None` if more must be
    /// read first (never more than [`MAX_RECORD_BYTES`] in all).
    ///
    /// # Errors
    /// When the bytes cannot be a migration stream. The decoder is of no use afterwards.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let offset = self.offset;
        let decoded = match (&mut self.foreign, self.place) {
            (Some(Foreign::Xen(xen)), _) => xen.decode(input, offset),
            (Some(Foreign::CloudHypervisor(cloud)), _) => cloud.decode(input, offset),
            (None, place) => self.qemu(place, input),
        }?;
        if let Some((taken, _)) = &decoded {
            self.offset += *taken as u64;
        }
        Ok(decoded)
    }

    fn qemu<'a>(&mut self, place: Place, input: &'a [u8]) -> Decoded<'a> {
        match place {
            Place::Header => self.header(input),
            Place::BeforeRamList { command_allowed } => self.ram_list(input, command_allowed),
            Place::Listen | Place::Resuming => self.command(input),
            Place::Between {
                finished_ram,
                has_state,
            } => self.section(input, finished_ram, has_state),
            Place::Pages { last } => self.page(input, last),
            Place::Padding { left } => self.padding(input, left),
            Place::End if input.is_empty() => Ok(None),
            Place::End => Err(WireError::AfterEnd { bytes: input.len() }),
        }
    }

    /// Reads pages and nothing else, as they stand on the connection of requested pages.
    #[must_use]
    pub fn pages_alone(ram_pages: u32) -> Self {
        Self {
            place: Place::Pages { last: false },
            ram_pages,
            pulling: true,
            ..Self::default()
        }
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
        let Some(format) = Format::of(four(36)) else {
            return self.unexpected("a format of records", u64::from(four(36)));
        };
        let streams = bytes[40..44].first_chunk().copied();
        let Some(streams) = streams.and_then(Streams::decode) else {
            return self.unexpected("ways that pages travel", u64::from(four(40)));
        };
        let header = Header {
            format,
            streams,
            migration: four(8),
            return_path: four(12) & HEADER_RETURN_PATH != 0,
            postcopy: four(12) & HEADER_POSTCOPY != 0,
            vm_key: eight(16),
            memory_check: eight(24),
            ram_pages: four(32),
        };
        if four(12) & !(HEADER_RETURN_PATH | HEADER_POSTCOPY) != 0 {
            return self.unexpected("flags of a header", u64::from(four(12)));
        }
        if header.postcopy && (format == Format::Xen || !header.return_path) {
            return self.unexpected("a return path for post-copy", u64::from(four(12)));
        }
        (self.ram_pages, self.streams) = (header.ram_pages, streams);
        self.postcopy = header.postcopy;
        self.foreign = match format {
            Format::Qemu => None,
            Format::Xen => Some(Foreign::Xen(XenDecoder::new(self.ram_pages))),
            Format::CloudHypervisor => {
                let decoder = CloudHypervisorDecoder::new(self.ram_pages, self.postcopy);
                Some(Foreign::CloudHypervisor(decoder))
            }
        };
        self.place = Place::BeforeRamList {
            command_allowed: header.return_path,
        };
        Ok(Some((HEADER_BYTES, Event::Header(header))))
    }

    fn ram_list<'a>(&mut self, input: &'a [u8], command_allowed: bool) -> Decoded<'a> {
        let Some(&kind) = input.first() else {
            return Ok(None);
        };
        if kind == SECTION_COMMAND && command_allowed {
            let Some(bytes) = input.get(1..5) else {
                return Ok(None);
            };
            let word = u32_at(bytes, 0).expect("four bytes");
            if self.postcopy && word >> 16 == u32::from(postcopy::COMMAND_RECV_BITMAP) {
                return self.command(input);
            }
            if word != u32::from(COMMAND_OPEN_RETURN_PATH) << 16 {
                return self.unexpected("OPEN_RETURN_PATH", u64::from(word));
            }
            self.place = Place::BeforeRamList {
                command_allowed: false,
            };
            return Ok(Some((5, Event::OpenReturnPath)));
        }
        if self.postcopy && !self.advised {
            if kind != SECTION_COMMAND {
                return self.unexpected("ADVISE", u64::from(kind));
            }
            return self.command(input);
        }
        // Its bytes follow from the header alone.
        let expected = ram_list(self.ram_pages, self.streams.multifd > 0);
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
            SECTION_COMMAND if self.postcopy && (!finished_ram || self.package_end.is_some()) => {
                self.command(input)
            }
            SECTION_EOF if finished_ram && has_state && self.package_end.is_none() => {
                self.place = Place::End;
                Ok(Some((1, Event::End)))
            }
            _ => self.unexpected("the section that comes next", u64::from(kind)),
        }
    }

    /// A command, where it may stand.
    fn command<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let read = postcopy::read_command(input, self.offset, self.ram_pages)?;
        let Some((taken, command, length)) = read else {
            return Ok(None);
        };
        let end = self.offset + taken as u64;
        let between = |finished_ram, has_state| Place::Between {
            finished_ram,
            has_state,
        };
        let (in_package, pulling) = (self.package_end.is_some(), self.pulling);
        self.place = match (self.place, command) {
            (Place::BeforeRamList { .. }, Command::Advise) if !self.advised => {
                self.advised = true;
                Place::BeforeRamList {
                    command_allowed: false,
                }
            }
            (Place::BeforeRamList { .. }, Command::RecvBitmap) => Place::Resuming,
            (Place::Resuming, Command::Resume) => {
                self.pulling = true;
                between(false, true)
            }
            (place @ Place::Between { .. }, Command::Ping(_)) => place,
            (place @ Place::Between { .. }, Command::Discard(_)) if !in_package && !pulling => {
                place
            }
            (Place::Between { .. }, Command::Packaged) if !in_package && !pulling => {
                self.package_end = Some(end + u64::from(length));
                Place::Listen
            }
            (Place::Listen, Command::Listen) => between(true, false),
            (
                Place::Between {
                    has_state: true, ..
                },
                Command::Run,
            ) if self.package_end == Some(end) => {
                self.package_end = None;
                self.pulling = true;
                between(false, true)
            }
            _ => return self.unexpected("the command that comes next", u64::from(input[2])),
        };
        Ok(Some((taken, Event::Postcopy(command))))
    }

    fn page<'a>(&mut self, input: &'a [u8], last: bool) -> Decoded<'a> {
        let Some(word) = u64_at(input, 0) else {
            return Ok(None);
        };
        if word == FLAG_EOS {
            return self.end_of_section(input, last);
        }
        if word == FLAG_MULTIFD_FLUSH && self.streams.multifd > 0 {
            return Ok(Some((8, Event::MultifdFlush)));
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
        } else if flags == FLAG_XBZRLE | again && self.streams.xbzrle {
            match delta(body) {
                None => return Ok(None),
                Some(Err(found)) => return self.unexpected("an XBZRLE page's head", found),
                Some(Ok(encoding)) => (
                    DELTA_HEAD_BYTES + encoding.len(),
                    Event::Delta {
                        page: number,
                        encoding,
                    },
                ),
            }
        } else {
            return self.unexpected("the flags of a page or the section's end", flags);
        };
        self.named = true;
        Ok(Some((8 + name_bytes + length, event)))
    }

    fn end_of_section(&mut self, input: &[u8], last: bool) -> Decoded<'static> {
        let Some(mark) = input.get(8..13) else {
            return Ok(None);
        };
        if !is_footer(mark, RAM_SECTION) {
            return self.unexpected("the RAM section's footer", u64::from(mark[0]));
        }
        self.place = Place::Between {
            finished_ram: last,
            has_state: self.pulling,
        };
        Ok(Some((13, Event::SectionEnd)))
    }

    fn state<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let Some(section) = u32_at(input, 1) else {
            return Ok(None);
        };
        if section != DEVICE_SECTION {
            return self.unexpected("the device section's number", u64::from(section));
        }
        let Some(read) = state::read(&input[5..], self.offset)? else {
            return Ok(None);
        };
        self.place = Place::Padding {
            left: u64::from(read.padding),
        };
        Ok(Some((5 + read.taken, Event::State(read.state))))
    }

    fn padding(&mut self, input: &[u8], left: u64) -> Decoded<'static> {
        if left > 0 {
            let taken = state::zeros(input, left, self.offset)?;
            let left = left - taken.unwrap_or(0) as u64;
            self.place = Place::Padding { left };
            return Ok(taken.map(|taken| (taken, Event::Padding)));
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
        unexpected(self.offset, expected, found)
    }
}

/// The encoding of a delta, or what its head holds if it is none; `None` if more must be read.
fn delta(body: &[u8]) -> Option<Result<&[u8], u64>> {
    let [encoding, high, low] = *body.first_chunk::<DELTA_HEAD_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if encoding != ENCODING_XBZRLE {
        return Some(Err(u64::from(encoding)));
    }
    if length > PAGE_BYTES {
        return Some(Err(length as u64));
    }
    body.get(DELTA_HEAD_BYTES..DELTA_HEAD_BYTES + length)
        .map(Ok)
}
