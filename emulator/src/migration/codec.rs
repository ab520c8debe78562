//! The codecs of multifd's packets: pages into bytes and back.
//!
//! As in QEMU a channel is one zlib or zstd stream from its first packet to its last, flushed at the
//! end of each; an lz4 page is a block of its own behind its length (4 bytes, little-endian). Zstd looks
//! back 32 KiB, as zlib does, not the 512 KiB of QEMU's level 1: page bodies come from a pool
//! (`replay::content`), and a window wide enough to find them again would find what no guest has.
//! Never inside: packets, sockets.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use thiserror::Error;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, Operation};
use zstd::zstd_safe::{InBuffer, OutBuffer};

use super::params::{Compression, MultifdParams};
use super::wire::PAGE_BYTES;
use super::wire::multifd::{FLAG_LZ4, FLAG_ZLIB, FLAG_ZSTD};

/// 2 to this many bytes.
const WINDOW_LOG: u32 = 15;
/// Room for all that zlib holds back (miniz_oxide up to 85 kB): one that had to be asked twice for
/// the rest of a flush was seen to keep some of it.
const ROOM: usize = 128 * 1024;
/// Bytes of the length before an lz4 block.
const LZ4_HEAD: usize = 4;

/// A codec that fails, or data it did not make.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The library's.
    #[error("{codec}: {message}")]
    Library {
        /// Which.
        codec: &'static str,
        /// What it says.
        message: String,
    },
    /// Not as many pages as the packet says.
    #[error("the packet's data are not those of its pages: {what}")]
    Data {
        /// In which way.
        what: &'static str,
    },
}

fn library(codec: &'static str) -> impl Fn(std::io::Error) -> CodecError {
    move |error| CodecError::Library {
        codec,
        message: error.to_string(),
    }
}

/// The flag in packets.
#[must_use]
pub fn flag(compression: Compression) -> u32 {
    match compression {
        Compression::None => 0,
        Compression::Zlib => FLAG_ZLIB,
        Compression::Zstd => FLAG_ZSTD,
        Compression::Lz4 => FLAG_LZ4,
    }
}

/// Packs the pages of a channel.
pub enum Packer {
    /// One stream.
    Zlib {
        /// Its state.
        stream: Box<Compress>,
        /// What it writes to. `compress_vec` would set all of a vector's spare room to zero at each page.
        room: Box<[u8]>,
    },
    /// One stream.
    Zstd(Box<Encoder<'static>>),
    /// Blocks.
    Lz4,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zlib { .. } => "Zlib",
            Self::Zstd(_) => "Zstd",
            Self::Lz4 => "Lz4",
        })
    }
}

impl Packer {
    /// The packer that the parameters ask for; `None` where pages go as they are.
    ///
    /// # Errors
    /// When the library has no room for it.
    pub fn new(params: &MultifdParams) -> Result<Option<Self>, CodecError> {
        let level = u32::from(params.level());
        Ok(match params.compression {
            Compression::None => None,
            Compression::Zlib => {
                let stream = Compress::new(flate2::Compression::new(level), true).into();
                let room = vec![0; ROOM].into();
                Some(Self::Zlib { stream, room })
            }
            Compression::Zstd => {
                let mut encoder =
                    Encoder::new(i32::from(params.level())).map_err(library("zstd"))?;
                encoder
                    .set_parameter(CParameter::WindowLog(WINDOW_LOG))
                    .map_err(library("zstd"))?;
                Some(Self::Zstd(encoder.into()))
            }
            Compression::Lz4 => Some(Self::Lz4),
        })
    }

    /// Packs a page behind those before it; after the `last` of a packet everything is in `out`.
    ///
    /// # Errors
    /// The library's.
    pub fn page(
        &mut self,
        page: &[u8; PAGE_BYTES],
        last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        match self {
            Self::Zlib { stream, room } => zlib_page(stream, room, page, last, out),
            Self::Zstd(zstd) => zstd_page(zstd, page, last, out).map_err(library("zstd")),
            Self::Lz4 => {
                let start = out.len();
                out.resize(
                    start + LZ4_HEAD + lz4_flex::block::get_maximum_output_size(PAGE_BYTES),
                    0,
                );
                let bytes = lz4_flex::block::compress_into(page, &mut out[start + LZ4_HEAD..])
                    .map_err(|error| library("lz4")(std::io::Error::other(error)))?;
                let length = u32::try_from(bytes).expect("a page's block");
                out[start..start + LZ4_HEAD].copy_from_slice(&length.to_le_bytes());
                out.truncate(start + LZ4_HEAD + bytes);
                Ok(())
            }
        }
    }
}

fn zlib_page(
    zlib: &mut Compress,
    room: &mut [u8],
    page: &[u8],
    last: bool,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let flush = if last {
        FlushCompress::Sync
    } else {
        FlushCompress::None
    };
    let mut left = page;
    loop {
        let before = (zlib.total_in(), zlib.total_out());
        zlib.compress(left, room, flush)
            .map_err(|error| library("zlib")(error.into()))?;
        let since = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(0);
        let made = since(zlib.total_out(), before.1);
        out.extend_from_slice(&room[..made]);
        left = &left[since(zlib.total_in(), before.0)..];
        // With room left over nothing is held back.
        if left.is_empty() && made < room.len() {
            return Ok(());
        }
    }
}

fn zstd_page(
    zstd: &mut Encoder<'static>,
    page: &[u8],
    last: bool,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    let mut input = InBuffer::around(page);
    while input.pos() < page.len() {
        out.reserve(PAGE_BYTES);
        let at = out.len();
        zstd.run(&mut input, &mut OutBuffer::around_pos(out, at))?;
    }
    if !last {
        return Ok(());
    }
    loop {
        out.reserve(PAGE_BYTES);
        let at = out.len();
        if zstd.flush(&mut OutBuffer::around_pos(out, at))? == 0 {
            return Ok(());
        }
    }
}

/// Unpacks the pages of a channel.
pub enum Unpacker {
    /// One stream.
    Zlib(Box<Decompress>),
    /// One stream.
    Zstd(Box<Decoder<'static>>),
    /// Blocks.
    Lz4,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// The unpacker of a codec; `None` where pages come as they are.
    ///
    /// # Errors
    /// When the library has no room for it.
    pub fn new(compression: Compression) -> Result<Option<Self>, CodecError> {
        Ok(match compression {
            Compression::None => None,
            Compression::Zlib => Some(Self::Zlib(Decompress::new(true).into())),
            Compression::Zstd => {
                let mut decoder = Decoder::new().map_err(library("zstd"))?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG))
                    .map_err(library("zstd"))?;
                Some(Self::Zstd(decoder.into()))
            }
            Compression::Lz4 => Some(Self::Lz4),
        })
    }

    /// The next page of a packet's data, which it takes off `data`.
    ///
    /// # Errors
    /// When there is none.
    pub fn page(
        &mut self,
        data: &mut &[u8],
        page: &mut [u8; PAGE_BYTES],
    ) -> Result<(), CodecError> {
        if let Self::Lz4 = self {
            let cut = || CodecError::Data { what: "cut" };
            let (head, rest) = data.split_first_chunk::<LZ4_HEAD>().ok_or_else(cut)?;
            let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
            let block = rest.get(..length).ok_or_else(cut)?;
            let filled = lz4_flex::block::decompress_into(block, page)
                .map_err(|error| library("lz4")(std::io::Error::other(error)))?;
            *data = &rest[length..];
            return if filled == PAGE_BYTES {
                Ok(())
            } else {
                Err(CodecError::Data {
                    what: "a short page",
                })
            };
        }
        let mut filled = 0;
        while filled < PAGE_BYTES {
            let (taken, made) = self.step(data, &mut page[filled..])?;
            if taken == 0 && made == 0 {
                return Err(CodecError::Data { what: "cut" });
            }
            *data = &data[taken..];
            filled += made;
        }
        Ok(())
    }

    /// What is left of a packet's data after its last page: the codec's own marks, no page.
    ///
    /// # Errors
    /// When there is more.
    pub fn end(&mut self, mut data: &[u8]) -> Result<(), CodecError> {
        let mut one = [0];
        while !data.is_empty() {
            let (taken, made) = match self {
                Self::Lz4 => (0, 0),
                _ => self.step(data, &mut one)?,
            };
            if made > 0 || taken == 0 {
                let what = "more than its pages";
                return Err(CodecError::Data { what });
            }
            data = &data[taken..];
        }
        Ok(())
    }

    /// Bytes taken and made by one call of the library.
    fn step(&mut self, data: &[u8], into: &mut [u8]) -> Result<(usize, usize), CodecError> {
        match self {
            Self::Zlib(zlib) => {
                let before = (zlib.total_in(), zlib.total_out());
                zlib.decompress(data, into, FlushDecompress::Sync)
                    .map_err(|error| library("zlib")(error.into()))?;
                let since = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(0);
                Ok((
                    since(zlib.total_in(), before.0),
                    since(zlib.total_out(), before.1),
                ))
            }
            Self::Zstd(zstd) => {
                let mut input = InBuffer::around(data);
                let mut output = OutBuffer::around(into);
                zstd.run(&mut input, &mut output).map_err(library("zstd"))?;
                Ok((input.pos(), output.pos()))
            }
            Self::Lz4 => Ok((0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::params::COMPRESSIONS;
    use super::*;

    fn params(compression: Compression) -> MultifdParams {
        MultifdParams {
            compression,
            ..MultifdParams::default()
        }
    }

    fn page(seed: u8, noise: bool) -> [u8; PAGE_BYTES] {
        let mut state = u32::from(seed) + 1;
        std::array::from_fn(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [.., high] = state.to_le_bytes();
            if noise || at % 4 == 0 { high } else { seed }
        })
    }

    fn pack(packer: &mut Packer, pages: &[[u8; PAGE_BYTES]]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, page) in pages.iter().enumerate() {
            packer.page(page, at + 1 == pages.len(), &mut out).unwrap();
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Packets of one stream, one after another, as a channel has them.
        #[test]
        fn packets_come_back_and_stay_in_their_bounds(
            packets in prop::collection::vec(prop::collection::vec((any::<u8>(), any::<bool>()), 1..20), 1..5),
        ) {
            for &(name, compression) in &COMPRESSIONS[1..] {
                let mut packer = Packer::new(&params(compression)).unwrap().unwrap();
                let mut unpacker = Unpacker::new(compression).unwrap().unwrap();
                for packet in &packets {
                    let pages: Vec<_> = packet.iter().map(|&(seed, noise)| page(seed, noise)).collect();
                    let data = pack(&mut packer, &pages);
                    let most = super::super::wire::multifd::data_bytes_max(pages.len().try_into().unwrap());
                    prop_assert!(data.len() as u64 <= most, "{name}: {} of {most}", data.len());
                    let mut left = &data[..];
                    for page in &pages {
                        let mut got = [0; PAGE_BYTES];
                        let unpacked = unpacker.page(&mut left, &mut got);
                        prop_assert!(unpacked.is_ok(), "{name}: {unpacked:?}, {} left", left.len());
                        prop_assert!(got == *page, "{name}");
                    }
                    unpacker.end(left).unwrap();
                }
            }
        }

        #[test]
        fn any_bytes_give_a_page_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            at in 0..2000usize,
        ) {
            for &(_, compression) in &COMPRESSIONS[1..] {
                let mut damaged = pack(&mut Packer::new(&params(compression)).unwrap().unwrap(), &[page(3, true)]);
                let from = at.min(damaged.len() - 1);
                for (to, byte) in damaged[from..].iter_mut().zip(&bytes) {
                    *to = *byte;
                }
                for data in [&bytes, &damaged] {
                    let mut unpacker = Unpacker::new(compression).unwrap().unwrap();
                    let (mut left, mut got) = (&data[..], [0; PAGE_BYTES]);
                    if unpacker.page(&mut left, &mut got).is_ok() {
                        let _ = unpacker.end(left);
                    }
                }
            }
        }
    }
}
