//! Reading a page-write trace, front to back, from anything that reads.

use std::io::Read;

use super::source::Source;
use super::{
    BLOCK_TAG, INDEX_TAG, MAGIC, MAX_BLOCK_RAW, MAX_PAGES, MAX_RUNS, MAX_TEXT, Origin,
    PageWriteError, Part, TICKS_PER_BLOCK, TRAILER_MAGIC, VERSION, set_kind, varint,
};
use crate::dirty::{PageWriteTrace, Run, Tick};
use crate::units::PAGE_SIZE;

/// Reads a trace. See [`read_page_writes_with_origin`].
///
/// # Errors
/// As there.
pub fn read_page_writes(input: impl Read) -> Result<PageWriteTrace, PageWriteError> {
    read_page_writes_with_origin(input).map(|(trace, _)| trace)
}

/// Reads a trace and where it comes from; checks every checksum, the index and the trailer.
///
/// # Errors
/// Whatever is not as the format says, with the part of the file and the byte.
pub fn read_page_writes_with_origin(
    input: impl Read,
) -> Result<(PageWriteTrace, Origin), PageWriteError> {
    let mut source = Source {
        input,
        offset: 0,
        part: Part::Header,
        part_offset: 0,
    };
    let (mut trace, origin) = read_header(&mut source)?;
    let mut seen = Vec::new();
    let mut runs = 0u64;
    loop {
        source.begin(Part::Block(u32::try_from(seen.len()).unwrap_or(u32::MAX)));
        let tag = source.array("a block or the index")?;
        match tag {
            BLOCK_TAG => {
                let first_tick = trace.ticks.len();
                let offset = source.part_offset;
                read_block(&mut source, &mut trace, &mut runs)?;
                let block = &trace.ticks[first_tick..];
                seen.push(Seen {
                    first_tick: first_tick as u64,
                    first_t_ns: block.first().map_or(0, |tick| tick.t_ns),
                    offset,
                    marks: block.iter().map(Tick::page_count).sum(),
                });
            }
            INDEX_TAG => break,
            other => {
                let value = u64::from(u32::from_le_bytes(other));
                return Err(source.field("tag", value, "\"BLCK\" or \"INDX\""));
            }
        }
    }
    source.part = Part::Index;
    let index_offset = source.part_offset;
    read_index(&mut source, &seen, trace.ticks.len() as u64)?;
    read_trailer(&mut source, index_offset)?;
    trace.check()?;
    Ok((trace, origin))
}

/// What the index must say of a block.
struct Seen {
    first_tick: u64,
    first_t_ns: u64,
    offset: u64,
    marks: u64,
}

fn read_header<R: Read>(
    source: &mut Source<R>,
) -> Result<(PageWriteTrace, Origin), PageWriteError> {
    let magic: [u8; 4] = source.array("\"MBPW\"")?;
    if magic != MAGIC {
        return Err(PageWriteError::Magic { found: magic });
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&magic);
    let fixed: [u8; 28] = source.array("the fixed header of 32 bytes")?;
    hasher.update(&fixed);
    let mut rest = fixed.as_slice();
    let version = u16::from_le_bytes(take_array(&mut rest));
    if version != VERSION {
        return Err(PageWriteError::Version { found: version });
    }
    let flags = u16::from_le_bytes(take_array(&mut rest));
    let page_size = u32::from_le_bytes(take_array(&mut rest));
    let pages = u32::from_le_bytes(take_array(&mut rest));
    let interval_ns = u64::from_le_bytes(take_array(&mut rest));
    let title_len = u32::from_le_bytes(take_array(&mut rest));
    let origin_len = u32::from_le_bytes(take_array(&mut rest));
    source.expect("flags", u64::from(flags), flags == 0, "0")?;
    let sized = u64::from(page_size) == PAGE_SIZE;
    source.expect("page size", u64::from(page_size), sized, "4096")?;
    source.expect(
        "number of pages",
        u64::from(pages),
        pages <= MAX_PAGES,
        "at most 2^28",
    )?;
    source.expect(
        "title length",
        u64::from(title_len),
        title_len <= MAX_TEXT,
        "at most 1 MiB",
    )?;
    let fits = origin_len <= MAX_TEXT;
    source.expect(
        "provenance length",
        u64::from(origin_len),
        fits,
        "at most 1 MiB",
    )?;
    let title = source.bytes(title_len, "the title")?;
    let origin = source.bytes(origin_len, "the provenance")?;
    hasher.update(&title);
    hasher.update(&origin);
    source.checksum(hasher.finalize())?;
    let title = String::from_utf8(title).map_err(|_| PageWriteError::Text {
        field: "title",
        expected: "UTF-8",
    })?;
    let origin = serde_json::from_slice(&origin).map_err(|_| PageWriteError::Text {
        field: "provenance",
        expected: "a JSON object of strings",
    })?;
    Ok((
        PageWriteTrace {
            title,
            pages,
            interval_ns,
            ticks: Vec::new(),
        },
        origin,
    ))
}

fn read_block<R: Read>(
    source: &mut Source<R>,
    trace: &mut PageWriteTrace,
    runs: &mut u64,
) -> Result<(), PageWriteError> {
    let fixed: [u8; 12] = source.array("a block header of 20 bytes")?;
    let stored = u32::from_le_bytes(source.array("a block header of 20 bytes")?);
    let mut rest = fixed.as_slice();
    let ticks = u32::from_le_bytes(take_array(&mut rest));
    let raw_len = u32::from_le_bytes(take_array(&mut rest));
    let packed_len = u32::from_le_bytes(take_array(&mut rest));
    let in_range = (1..=TICKS_PER_BLOCK).contains(&ticks);
    source.expect("number of ticks", u64::from(ticks), in_range, "1 to 64")?;
    source.expect(
        "raw length",
        u64::from(raw_len),
        raw_len <= MAX_BLOCK_RAW,
        "at most 96 MiB",
    )?;
    let packed_fits = packed_len <= MAX_BLOCK_RAW;
    source.expect(
        "packed length",
        u64::from(packed_len),
        packed_fits,
        "at most 96 MiB",
    )?;
    let packed = source.bytes(packed_len, "the bytes of the block")?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed);
    hasher.update(&packed);
    source.compare(stored, hasher.finalize())?;
    let raw = unpack(source, &packed, raw_len)?;
    read_ticks(source, trace, ticks, &raw, runs)
}

/// Decompresses, growing with what comes out and stopping one byte past what was promised.
fn unpack<R>(source: &Source<R>, packed: &[u8], raw_len: u32) -> Result<Vec<u8>, PageWriteError> {
    let io = |error| PageWriteError::Io {
        part: source.part,
        offset: source.part_offset,
        source: error,
    };
    let mut raw = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(io)?;
    decoder
        .take(u64::from(raw_len) + 1)
        .read_to_end(&mut raw)
        .map_err(io)?;
    let got = raw.len() as u64;
    source.expect(
        "decompressed length",
        got,
        got == u64::from(raw_len),
        "the raw length stated",
    )?;
    Ok(raw)
}

fn read_ticks<R>(
    source: &Source<R>,
    trace: &mut PageWriteTrace,
    ticks: u32,
    raw: &[u8],
    runs: &mut u64,
) -> Result<(), PageWriteError> {
    let mut rest = raw;
    let mut t_ns = 0u64;
    for tick in 0..ticks {
        let bad = |field| PageWriteError::Tick {
            part: source.part,
            offset: source.part_offset,
            tick,
            field,
        };
        t_ns = varint::take(&mut rest)
            .and_then(|dt| t_ns.checked_add(dt))
            .ok_or(bad("time"))?;
        let cpu_ns = varint::take(&mut rest).ok_or(bad("CPU time"))?;
        let set = take_set(&mut rest, trace.pages).map_err(bad)?;
        *runs += set.len() as u64;
        if *runs > MAX_RUNS {
            return Err(bad("number of runs (more than 2^27 in the file)"));
        }
        trace.ticks.push(Tick {
            t_ns,
            cpu_ns,
            runs: set,
        });
    }
    let left = rest.len() as u64;
    source.expect("number of bytes after the last tick", left, left == 0, "0")
}

/// A set of pages; the error names the field.
fn take_set(rest: &mut &[u8], pages: u32) -> Result<Vec<Run>, &'static str> {
    let (&kind, after) = rest.split_first().ok_or("set kind")?;
    *rest = after;
    match kind {
        set_kind::EMPTY => Ok(Vec::new()),
        set_kind::RUNS => take_runs(rest, pages),
        set_kind::BITMAP => take_bitmap(rest, pages),
        _ => Err("set kind"),
    }
}

fn take_runs(rest: &mut &[u8], pages: u32) -> Result<Vec<Run>, &'static str> {
    let count = varint::take(rest).ok_or("run count")?;
    // Each run takes two bytes or more, so a count beyond that is a lie and allocates nothing.
    let count = usize::try_from(count)
        .ok()
        .filter(|&n| n > 0 && n <= rest.len() / 2);
    let count = count.ok_or("run count")?;
    let mut runs = Vec::with_capacity(count);
    let mut end = 0u32;
    for index in 0..count {
        let gap = varint::take_u32(rest)
            .filter(|&gap| index == 0 || gap > 0)
            .ok_or("run gap")?;
        let less_one = varint::take_u32(rest).ok_or("run length")?;
        let start = end.checked_add(gap).ok_or("run gap")?;
        let len = less_one.checked_add(1).ok_or("run length")?;
        end = start
            .checked_add(len)
            .filter(|&end| end <= pages)
            .ok_or("run beyond the pages")?;
        runs.push(Run { start, len });
    }
    Ok(runs)
}

fn take_bitmap(rest: &mut &[u8], pages: u32) -> Result<Vec<Run>, &'static str> {
    let first_byte = varint::take_u32(rest).ok_or("bitmap start")?;
    let len = varint::take(rest)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or("bitmap length")?;
    let (bitmap, after) = rest.split_at_checked(len).ok_or("bitmap length")?;
    *rest = after;
    let mut runs: Vec<Run> = Vec::new();
    for (byte, &bits) in (u64::from(first_byte)..).zip(bitmap) {
        for bit in (0..8).filter(|bit| bits & (1 << bit) != 0) {
            let page = u32::try_from(byte * 8 + bit)
                .ok()
                .filter(|&page| page < pages);
            let page = page.ok_or("bitmap beyond the pages")?;
            match runs.last_mut().filter(|run| run.start + run.len == page) {
                Some(run) => run.len += 1,
                None => runs.push(Run {
                    start: page,
                    len: 1,
                }),
            }
        }
    }
    if runs.is_empty() {
        Err("empty bitmap")
    } else {
        Ok(runs)
    }
}

fn read_index<R: Read>(
    source: &mut Source<R>,
    seen: &[Seen],
    ticks: u64,
) -> Result<(), PageWriteError> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&INDEX_TAG);
    let counts: [u8; 8] = source.array("the index")?;
    hasher.update(&counts);
    let mut rest = counts.as_slice();
    let stored_blocks = u64::from(u32::from_le_bytes(take_array(&mut rest)));
    let stored_ticks = u64::from(u32::from_le_bytes(take_array(&mut rest)));
    let blocks = seen.len() as u64;
    source.expect(
        "blocks",
        stored_blocks,
        stored_blocks == blocks,
        "the number of blocks",
    )?;
    source.expect(
        "ticks",
        stored_ticks,
        stored_ticks == ticks,
        "the number of ticks",
    )?;
    for block in seen {
        let entry: [u8; 28] = source.array("the index")?;
        hasher.update(&entry);
        let mut rest = entry.as_slice();
        let first_tick = u64::from(u32::from_le_bytes(take_array(&mut rest)));
        source.expect(
            "first tick",
            first_tick,
            first_tick == block.first_tick,
            "as the blocks",
        )?;
        for (name, found) in [
            ("first time", block.first_t_ns),
            ("offset", block.offset),
            ("marks", block.marks),
        ] {
            let value = u64::from_le_bytes(take_array(&mut rest));
            source.expect(name, value, value == found, "as the blocks")?;
        }
    }
    source.checksum(hasher.finalize())
}

fn read_trailer<R: Read>(source: &mut Source<R>, index_offset: u64) -> Result<(), PageWriteError> {
    source.begin(Part::Trailer);
    let stored = u64::from_le_bytes(source.array("the trailer of 12 bytes")?);
    source.expect(
        "index offset",
        stored,
        stored == index_offset,
        "where the index is",
    )?;
    let magic: [u8; 4] = source.array("the trailer of 12 bytes")?;
    let value = u64::from(u32::from_le_bytes(magic));
    source.expect("last magic", value, magic == TRAILER_MAGIC, "\"WPBM\"")?;
    let mut byte = [0u8; 1];
    let extra = source.input.read(&mut byte).map_err(|e| source.io(e))?;
    source.expect(
        "number of bytes after the trailer",
        extra as u64,
        extra == 0,
        "0",
    )
}

/// The first N bytes of a slice known to be long enough.
fn take_array<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest
        .split_first_chunk()
        .expect("the caller read enough bytes");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Checksums keep random bytes from the inner decoder, so it is given some directly.
        #[test]
        fn any_set_that_decodes_is_valid(
            kind in 0..4u8,
            bytes in proptest::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..40),
            pages in prop_oneof![0..300u32, Just(MAX_PAGES)],
        ) {
            let bytes = [vec![kind], bytes].concat();
            if let Ok(runs) = take_set(&mut bytes.as_slice(), pages) {
                let ticks = vec![Tick { t_ns: 1, cpu_ns: 0, runs }];
                let trace = PageWriteTrace { title: String::new(), pages, interval_ns: 1, ticks };
                prop_assert_eq!(trace.check(), Ok(()));
            }
        }
    }
}
