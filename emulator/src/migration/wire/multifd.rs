//! QEMU's multifd packets (`MultiFDPacket_t`), integers big-endian.
//!
//! ```text
//! magic 4  version 4  flags 4  pages allocated 4  normal pages 4  bytes of data 4  number 8
//! zero pages 4  unused 28  block name 256       320 in all; at a space scale as many times less
//! offset 8, for each page allocated             normal pages first, then zero pages
//! data                                          normal pages, as they are or by the codec
//! ```
//!
//! The decoder is total and allocates nothing by a length it read. Never inside: sockets, codecs,
//! when packets are sent.

use super::hello::HELLO_MAGIC;
use super::{BLOCK_NAME, PAGE_BYTES, WireError, u32_at, u64_at, unexpected};

/// Pages of a full packet at full size: 512 KiB.
pub const PACKET_PAGES: usize = 128;
/// Bytes of its header before the offsets.
const FIXED_BYTES: usize = 320;
/// What of them holds fields.
const FIELD_BYTES: usize = 36;
/// Where the block's name begins.
const NAME_AT: usize = 64;
const VERSION: u32 = 1;

/// `MULTIFD_FLAG_SYNC`.
pub const FLAG_SYNC: u32 = 1;
/// `MULTIFD_FLAG_ZLIB`.
pub const FLAG_ZLIB: u32 = 1 << 1;
/// `MULTIFD_FLAG_ZSTD`.
pub const FLAG_ZSTD: u32 = 2 << 1;
/// Ours: a value of the mask that QEMU leaves free.
pub const FLAG_LZ4: u32 = 3 << 1;

/// What a packet's header says besides its offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// SYNC, and the codec.
    pub flags: u32,
    /// Pages whose data follow.
    pub normal: u32,
    /// Pages of zeros.
    pub zero: u32,
    /// Bytes of data that follow.
    pub data_bytes: u32,
    /// Number in the migration.
    pub number: u64,
}

/// Bytes of the header of packets of at most `pages`: 1344 at full size. At a space scale the part
/// before the offsets shrinks with the packet, so that headers keep their share.
#[must_use]
pub fn header_bytes(pages: usize) -> usize {
    fixed_bytes(pages) + 8 * pages
}

fn fixed_bytes(pages: usize) -> usize {
    (FIXED_BYTES * pages)
        .div_ceil(PACKET_PAGES)
        .clamp(FIELD_BYTES, FIXED_BYTES)
}

/// Puts a packet's header; `pages` are its normal pages, then its zero pages.
///
/// # Panics
/// If there are more than `most`.
pub fn put_header(
    packet: &Packet,
    most: usize,
    pages: impl Iterator<Item = u32>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&HELLO_MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&packet.flags.to_be_bytes());
    let most_pages = u32::try_from(most).unwrap_or(u32::MAX);
    out.extend_from_slice(&most_pages.to_be_bytes());
    out.extend_from_slice(&packet.normal.to_be_bytes());
    out.extend_from_slice(&packet.data_bytes.to_be_bytes());
    out.extend_from_slice(&packet.number.to_be_bytes());
    out.extend_from_slice(&packet.zero.to_be_bytes());
    let offsets = start + fixed_bytes(most);
    if let Some(room) = (offsets - start).checked_sub(NAME_AT)
        && packet.normal + packet.zero > 0
    {
        out.resize(start + NAME_AT, 0);
        out.extend_from_slice(&BLOCK_NAME[..BLOCK_NAME.len().min(room)]);
    }
    out.resize(offsets, 0);
    for page in pages {
        out.extend_from_slice(&(u64::from(page) * PAGE_BYTES as u64).to_be_bytes());
    }
    assert!(
        out.len() <= start + header_bytes(most),
        "more pages than a packet has"
    );
    out.resize(start + header_bytes(most), 0);
}

/// Sets the bytes of data in a header that stands at `start`, once they are known.
pub fn set_data_bytes(bytes: u32, start: usize, out: &mut [u8]) {
    out[start + 20..start + 24].copy_from_slice(&bytes.to_be_bytes());
}

/// Reads a header of packets of at most `most` pages, in `bytes` of [`header_bytes`], at `offset` of
/// its channel; pages are put into `pages`, normal ones first. `codec` is what flags must name.
///
/// # Errors
/// When it is none: then `pages` are of no use.
pub fn decode_header(
    bytes: &[u8],
    most: usize,
    codec: u32,
    ram_pages: u32,
    offset: u64,
    pages: &mut Vec<u32>,
) -> Result<Packet, WireError> {
    let four = |at: usize| u32_at(bytes, at).unwrap_or(0);
    let eight = |at: usize| u64_at(bytes, at).unwrap_or(0);
    let refuse = |expected, found| unexpected(offset, expected, found);
    if four(0) != HELLO_MAGIC || four(4) != VERSION {
        return refuse("a multifd packet", eight(0));
    }
    let packet = Packet {
        flags: four(8),
        normal: four(16),
        data_bytes: four(20),
        number: eight(24),
        zero: four(32),
    };
    if packet.flags & !FLAG_SYNC != codec {
        return refuse("the flags of a multifd packet", u64::from(packet.flags));
    }
    if u64::from(four(12)) != most as u64 {
        return refuse("a packet of as many pages as ours", u64::from(four(12)));
    }
    let count = u64::from(packet.normal) + u64::from(packet.zero);
    if count > most as u64 {
        return refuse("no more pages than a packet has", count);
    }
    if u64::from(packet.data_bytes) > data_bytes_max(packet.normal) {
        return refuse("data of its pages", u64::from(packet.data_bytes));
    }
    let plain = u64::from(packet.normal) * PAGE_BYTES as u64;
    if codec == 0 && u64::from(packet.data_bytes) != plain {
        return refuse("4096 bytes a page", u64::from(packet.data_bytes));
    }
    pages.clear();
    let first = fixed_bytes(most);
    for at in (first..)
        .step_by(8)
        .take(usize::try_from(count).unwrap_or(most))
    {
        let page = eight(at) / PAGE_BYTES as u64;
        match u32::try_from(page).ok().filter(|page| *page < ram_pages) {
            Some(page) if eight(at).is_multiple_of(PAGE_BYTES as u64) => pages.push(page),
            _ => {
                return Err(WireError::PageBeyondRam {
                    offset,
                    page,
                    ram_pages,
                });
            }
        }
    }
    Ok(packet)
}

/// Most bytes that a codec makes of so many pages: what does not compress grows a little.
#[must_use]
pub fn data_bytes_max(pages: u32) -> u64 {
    u64::from(pages) * (PAGE_BYTES as u64 + 64) + if pages > 0 { 1024 } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(packet: &Packet, most: usize, pages: &[u32]) -> Vec<u8> {
        let mut out = vec![7];
        put_header(packet, most, pages.iter().copied(), &mut out);
        out.remove(0);
        out
    }

    #[test]
    fn a_full_packets_header_is_qemus() {
        assert_eq!(header_bytes(PACKET_PAGES), 1344);
        // At k = 16 eight pages, at k = 64 two: 320/16 = 20 would not hold the fields.
        assert_eq!(header_bytes(8), 36 + 64);
        assert_eq!(header_bytes(32), 80 + 256);
        let packet = Packet {
            flags: 0,
            normal: 1,
            zero: 1,
            data_bytes: 4096,
            number: 9,
        };
        let bytes = put(&packet, PACKET_PAGES, &[5, 3]);
        assert_eq!(bytes.len(), 1344);
        assert_eq!(bytes[..4], 0x1122_3344_u32.to_be_bytes());
        assert_eq!(bytes[12..16], 128_u32.to_be_bytes());
        assert_eq!(bytes[16..24], [0, 0, 0, 1, 0, 0, 16, 0]);
        assert_eq!(bytes[24..36], [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]);
        assert_eq!(bytes[64..71], *b"pc.ram\0");
        assert_eq!(bytes[320..328], (5_u64 * 4096).to_be_bytes());
        assert_eq!(bytes[328..336], (3_u64 * 4096).to_be_bytes());
    }

    #[test]
    fn what_is_no_packet_of_ours_is_refused() {
        let good = Packet {
            normal: 2,
            data_bytes: 8192,
            ..Packet::default()
        };
        let read = |packet: &Packet, pages: &[u32], codec| {
            let mut got = Vec::new();
            decode_header(&put(packet, 8, pages), 8, codec, 64, 0, &mut got).map(|_| got)
        };
        assert_eq!(read(&good, &[63, 0], 0), Ok(vec![63, 0]));
        assert!(read(&good, &[63, 64], 0).is_err(), "beyond RAM");
        assert!(read(&good, &[1, 2], FLAG_ZSTD).is_err(), "another codec");
        let short = Packet {
            data_bytes: 4096,
            ..good
        };
        assert!(read(&short, &[1, 2], 0).is_err(), "data of one page only");
        let many = Packet {
            normal: 9,
            data_bytes: 9 * 4096,
            ..good
        };
        assert!(read(&many, &[1], 0).is_err(), "more pages than fit");
    }

    proptest! {
        #[test]
        fn headers_come_back(
            pages in prop::collection::vec(0..64u32, 0..=8),
            sync in any::<bool>(),
            number: u64,
        ) {
            let normal = u32::try_from(pages.len() / 2).unwrap();
            let packet = Packet {
                flags: u32::from(sync),
                normal,
                zero: u32::try_from(pages.len()).unwrap() - normal,
                data_bytes: normal * 4096,
                number,
            };
            let mut got = Vec::new();
            let read = decode_header(&put(&packet, 8, &pages), 8, 0, 64, 0, &mut got);
            prop_assert_eq!(read, Ok(packet));
            prop_assert_eq!(got, pages);
        }

        #[test]
        fn any_bytes_give_a_packet_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            whole in any::<bool>(),
            at in 0..100usize,
            byte: u8,
        ) {
            let mut bytes = bytes;
            if whole {
                bytes = put(&Packet::default(), 8, &[1, 2]);
                bytes[at] = byte;
            }
            let mut pages = Vec::new();
            if decode_header(&bytes, 8, 0, 64, 0, &mut pages).is_ok() {
                prop_assert!(pages.len() <= 8 && pages.iter().all(|page| *page < 64));
            }
        }
    }
}
