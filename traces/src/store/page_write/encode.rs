//! Writing a page-write trace.

use std::io::Write;

use super::{
    BLOCK_RAW_TARGET, BLOCK_TAG, INDEX_TAG, MAGIC, MAX_PAGES, MAX_TEXT, Origin, PageWriteError,
    Part, TICKS_PER_BLOCK, TRAILER_MAGIC, VERSION, set_kind, varint,
};
use crate::dirty::{PageWriteTrace, Run, Tick};
use crate::units::PAGE_SIZE;

/// zstd's level: 19 makes our recordings 5 % smaller than 9 and is written once, read often.
const LEVEL: i32 = 19;

/// Writes a trace without an origin. See [`write_page_writes_with_origin`].
///
/// # Errors
/// As there.
pub fn write_page_writes(trace: &PageWriteTrace, out: impl Write) -> Result<(), PageWriteError> {
    write_page_writes_with_origin(trace, &Origin::new(), out)
}

/// Writes a trace and where it comes from.
///
/// # Errors
/// When the trace is not valid (nothing is written then), too large, or the system refuses.
pub fn write_page_writes_with_origin(
    trace: &PageWriteTrace,
    origin: &Origin,
    out: impl Write,
) -> Result<(), PageWriteError> {
    trace.check()?;
    let header = header(trace, origin)?;
    let mut out = Counted {
        out,
        offset: 0,
        part: Part::Header,
    };
    out.put(&header)?;
    let mut index = Vec::new();
    let mut first_tick = 0usize;
    while first_tick < trace.ticks.len() {
        out.part = Part::Block(u32::try_from(index.len()).unwrap_or(u32::MAX));
        let (ticks, raw) = raw_block(&trace.ticks[first_tick..]);
        let part = &trace.ticks[first_tick..first_tick + ticks];
        index.push(IndexEntry {
            first_tick: u32_field(first_tick, "tick", out.part)?,
            first_t_ns: part[0].t_ns,
            offset: out.offset,
            marks: part.iter().map(Tick::page_count).sum(),
        });
        let block = block(ticks, &raw, out.part, out.offset)?;
        out.put(&block)?;
        first_tick += ticks;
    }
    out.part = Part::Index;
    let index_offset = out.offset;
    let bytes = index_bytes(&index, first_tick)?;
    out.put(&bytes)?;
    out.part = Part::Trailer;
    out.put(&index_offset.to_le_bytes())?;
    out.put(&TRAILER_MAGIC)?;
    out.flush()
}

/// One line of the index.
struct IndexEntry {
    first_tick: u32,
    first_t_ns: u64,
    offset: u64,
    marks: u64,
}

fn header(trace: &PageWriteTrace, origin: &Origin) -> Result<Vec<u8>, PageWriteError> {
    if trace.pages > MAX_PAGES {
        return Err(field(
            Part::Header,
            "number of pages",
            u64::from(trace.pages),
            "at most 2^28",
        ));
    }
    let provenance = serde_json::to_vec(origin).expect("a map of strings is always JSON");
    let mut bytes = Vec::with_capacity(64 + trace.title.len() + provenance.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(u32::try_from(PAGE_SIZE).expect("4096").to_le_bytes());
    bytes.extend(trace.pages.to_le_bytes());
    bytes.extend(trace.interval_ns.to_le_bytes());
    for (name, text) in [
        ("title length", trace.title.as_bytes()),
        ("provenance length", provenance.as_slice()),
    ] {
        let len = u32_field(text.len(), name, Part::Header)?;
        if len > MAX_TEXT {
            return Err(field(Part::Header, name, u64::from(len), "at most 1 MiB"));
        }
        bytes.extend(len.to_le_bytes());
    }
    bytes.extend(trace.title.as_bytes());
    bytes.extend(provenance);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

/// The ticks of the next block, encoded: up to 64, fewer when they are large.
fn raw_block(ticks: &[Tick]) -> (usize, Vec<u8>) {
    let mut raw = Vec::new();
    let mut count = 0usize;
    let mut previous_ns = 0u64;
    let most = usize::try_from(TICKS_PER_BLOCK).expect("64");
    for tick in ticks.iter().take(most) {
        // The first is an absolute time, so that a block can be read alone.
        varint::put(&mut raw, tick.t_ns - previous_ns);
        varint::put(&mut raw, tick.cpu_ns);
        put_set(&mut raw, &tick.runs);
        previous_ns = tick.t_ns;
        count += 1;
        if raw.len() >= BLOCK_RAW_TARGET {
            break;
        }
    }
    (count, raw)
}

/// The set of pages, as runs or as a bitmap, whichever is smaller before compression.
fn put_set(raw: &mut Vec<u8>, runs: &[Run]) {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        raw.push(set_kind::EMPTY);
        return;
    };
    let gaps = || {
        runs.iter().scan(0u32, |end, run| {
            let gap = run.start - *end;
            *end = run.start + run.len;
            Some((u64::from(gap), u64::from(run.len - 1)))
        })
    };
    let runs_len: usize = gaps()
        .map(|(gap, len)| varint::len(gap) + varint::len(len))
        .sum();
    let first_byte = first.start / 8;
    let end_byte = (last.start + last.len).div_ceil(8);
    let bitmap_len = usize::try_from(end_byte - first_byte).expect("at most 2^25");
    if runs_len <= bitmap_len {
        raw.push(set_kind::RUNS);
        varint::put(raw, u64::try_from(runs.len()).expect("fits"));
        for (gap, len) in gaps() {
            varint::put(raw, gap);
            varint::put(raw, len);
        }
        return;
    }
    raw.push(set_kind::BITMAP);
    varint::put(raw, u64::from(first_byte));
    varint::put(raw, u64::from(end_byte - first_byte));
    let base = raw.len();
    raw.resize(base + bitmap_len, 0);
    for page in runs.iter().flat_map(|run| run.start..run.start + run.len) {
        let byte = usize::try_from(page / 8 - first_byte).expect("at most 2^25");
        raw[base + byte] |= 1 << (page % 8);
    }
}

fn block(ticks: usize, raw: &[u8], part: Part, offset: u64) -> Result<Vec<u8>, PageWriteError> {
    let io = |source| PageWriteError::Io {
        part,
        offset,
        source,
    };
    let packed = zstd::bulk::compress(raw, LEVEL).map_err(io)?;
    let mut bytes = Vec::with_capacity(20 + packed.len());
    bytes.extend(BLOCK_TAG);
    bytes.extend(u32_field(ticks, "ticks", part)?.to_le_bytes());
    bytes.extend(u32_field(raw.len(), "raw length", part)?.to_le_bytes());
    bytes.extend(u32_field(packed.len(), "packed length", part)?.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[4..]);
    hasher.update(&packed);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes.extend(packed);
    Ok(bytes)
}

fn index_bytes(index: &[IndexEntry], ticks: usize) -> Result<Vec<u8>, PageWriteError> {
    let mut bytes = Vec::with_capacity(16 + index.len() * 28);
    bytes.extend(INDEX_TAG);
    bytes.extend(u32_field(index.len(), "blocks", Part::Index)?.to_le_bytes());
    bytes.extend(u32_field(ticks, "ticks", Part::Index)?.to_le_bytes());
    for entry in index {
        bytes.extend(entry.first_tick.to_le_bytes());
        bytes.extend(entry.first_t_ns.to_le_bytes());
        bytes.extend(entry.offset.to_le_bytes());
        bytes.extend(entry.marks.to_le_bytes());
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

fn field(part: Part, field: &'static str, value: u64, expected: &'static str) -> PageWriteError {
    PageWriteError::Field {
        part,
        offset: 0,
        field,
        value,
        expected,
    }
}

fn u32_field(value: usize, name: &'static str, part: Part) -> Result<u32, PageWriteError> {
    let wide = u64::try_from(value).unwrap_or(u64::MAX);
    u32::try_from(value).map_err(|_| field(part, name, wide, "below 2^32"))
}

/// A writer that knows where it is.
struct Counted<W> {
    out: W,
    offset: u64,
    part: Part,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), PageWriteError> {
        let (part, offset) = (self.part, self.offset);
        self.out
            .write_all(bytes)
            .map_err(|source| PageWriteError::Io {
                part,
                offset,
                source,
            })?;
        self.offset += u64::try_from(bytes.len()).expect("a slice fits in 64 bits");
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PageWriteError> {
        let (part, offset) = (self.part, self.offset);
        self.out.flush().map_err(|source| PageWriteError::Io {
            part,
            offset,
            source,
        })
    }
}
