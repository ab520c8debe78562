//! A sorted run on disk: blocks of samples, differences as varints, zstd at its fastest.
//!
//! Only this process reads what it wrote, so there are no checksums; lengths are checked all the same,
//! since disks fill up and people delete files.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use super::SortError;
use crate::store::sample::{Sample, Values};
use crate::store::series::{Interval, Metric};
use crate::store::varint;

/// A block ends at the first sample past this.
const BLOCK: usize = 64 << 10;
/// No block is longer: a sample takes at most 10 + 4 x 5 + 13 x 10 bytes.
const MAX_BLOCK: usize = BLOCK + 256;

/// A run that was written; its file goes with it.
#[derive(Debug)]
pub(super) struct RunFile {
    path: PathBuf,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // In a scratch directory that is removed whole: a failure here loses nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a run.
pub(super) struct RunWriter {
    run: RunFile,
    out: BufWriter<File>,
    packer: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    last: (u32, i64),
}

impl RunWriter {
    pub(super) fn create(path: PathBuf) -> Result<Self, SortError> {
        let made = File::create(&path).and_then(|file| Ok((file, zstd::bulk::Compressor::new(1)?)));
        let run = RunFile { path };
        match made {
            Ok((file, packer)) => Ok(Self {
                run,
                out: BufWriter::new(file),
                packer,
                block: Vec::with_capacity(MAX_BLOCK),
                last: (0, 0),
            }),
            Err(source) => Err(error(&run, source)),
        }
    }

    pub(super) fn put(&mut self, sample: &Sample) -> Result<(), SortError> {
        let Interval {
            t_ms,
            dur_ms,
            flags,
        } = sample.interval;
        let (vm, t) = self.last;
        let new_vm = sample.vm.wrapping_sub(vm);
        varint::put(&mut self.block, u64::from(new_vm));
        let from = if new_vm == 0 { t } else { 0 };
        varint::put(&mut self.block, zigzag(t_ms.wrapping_sub(from)));
        varint::put(&mut self.block, u64::from(dur_ms));
        varint::put(&mut self.block, u64::from(flags));
        let present = sample
            .values
            .iter()
            .fold(0u64, |bits, (metric, _)| bits | 1 << metric as u64);
        varint::put(&mut self.block, present);
        for (_, value) in sample.values.iter() {
            varint::put(&mut self.block, value);
        }
        self.last = (sample.vm, t_ms);
        if self.block.len() >= BLOCK {
            self.flush_block()?;
        }
        Ok(())
    }

    pub(super) fn close(mut self) -> Result<RunFile, SortError> {
        if !self.block.is_empty() {
            self.flush_block()?;
        }
        match self.out.flush() {
            Ok(()) => Ok(self.run),
            Err(source) => Err(error(&self.run, source)),
        }
    }

    fn flush_block(&mut self) -> Result<(), SortError> {
        let mut write = || {
            let packed = self.packer.compress(&self.block)?;
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a block is small");
            self.out.write_all(&length(&self.block).to_le_bytes())?;
            self.out.write_all(&length(&packed).to_le_bytes())?;
            self.out.write_all(&packed)
        };
        let written = write();
        self.block.clear();
        // Each block starts anew, so that one can be read without the one before.
        self.last = (0, 0);
        written.map_err(|source| error(&self.run, source))
    }
}

/// Reads a run.
pub(super) struct RunReader {
    run: RunFile,
    input: BufReader<File>,
    packed: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    last: (u32, i64),
}

impl RunReader {
    pub(super) fn open(run: RunFile) -> Result<Self, SortError> {
        match File::open(&run.path) {
            Ok(file) => Ok(Self {
                run,
                input: BufReader::new(file),
                packed: Vec::new(),
                block: Vec::new(),
                at: 0,
                last: (0, 0),
            }),
            Err(source) => Err(error(&run, source)),
        }
    }

    /// The next sample.
    pub(super) fn take(&mut self) -> Result<Option<Sample>, SortError> {
        if self.at == self.block.len() && !self.read_block()? {
            return Ok(None);
        }
        let mut rest = &self.block[self.at..];
        let Some(sample) = decode(&mut rest, self.last) else {
            let source = io::Error::new(io::ErrorKind::InvalidData, "a damaged run");
            return Err(error(&self.run, source));
        };
        self.at = self.block.len() - rest.len();
        self.last = (sample.vm, sample.interval.t_ms);
        Ok(Some(sample))
    }

    fn read_block(&mut self) -> Result<bool, SortError> {
        let mut read = || {
            let mut head = [0; 8];
            if self.input.read(&mut head[..1])? == 0 {
                return Ok(false);
            }
            self.input.read_exact(&mut head[1..])?;
            let length = |at: usize| {
                let bytes = head[at..at + 4].try_into().expect("four bytes");
                u32::from_le_bytes(bytes) as usize
            };
            let (raw, packed) = (length(0), length(4));
            if raw == 0 || raw > MAX_BLOCK || packed > 2 * MAX_BLOCK {
                let text = "a damaged run";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.packed.resize(packed, 0);
            self.input.read_exact(&mut self.packed)?;
            self.block = zstd::bulk::decompress(&self.packed, raw)?;
            Ok(true)
        };
        let more = read().map_err(|source| error(&self.run, source))?;
        (self.at, self.last) = (0, (0, 0));
        Ok(more)
    }
}

fn decode(rest: &mut &[u8], (vm, t): (u32, i64)) -> Option<Sample> {
    let new_vm = varint::take_u32(rest)?;
    let from = if new_vm == 0 { t } else { 0 };
    let t_ms = from.wrapping_add(unzigzag(varint::take(rest)?));
    let interval = Interval {
        t_ms,
        dur_ms: varint::take_u32(rest)?,
        flags: varint::take_u32(rest)?,
    };
    let present = varint::take(rest)?;
    let mut values = Values::default();
    for metric in Metric::ALL {
        if present & (1 << metric as u64) != 0 {
            values.set(metric, Some(varint::take(rest)?));
        }
    }
    Some(Sample {
        vm: vm.wrapping_add(new_vm),
        interval,
        values,
    })
}

fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

fn error(run: &RunFile, source: io::Error) -> SortError {
    SortError {
        path: run.path.clone(),
        source,
    }
}

impl std::fmt::Debug for RunReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunReader")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}
