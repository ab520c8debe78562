//! Writing a bundle sample by sample: memory does not grow with the number of samples.
//!
//! Everything goes into a directory beside the place, then one rename (`partial`). Never inside:
//! sorting (see `sort`), other people's formats.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::write::{
    check_vms, io_error, is_plain_name, parquet_error, profiles_table, signed, vms_table,
};
use super::{
    BundleError, FileEntry, MANIFEST, Manifest, PAGES, PROFILES, SAMPLES, VERSION, VMS, VmMeta,
};
use crate::class::PageClass;
use crate::dirty::PageWriteTrace;
use crate::import::{Output, OutputError, Streamed};
use crate::store::page_write::{self, Origin};
use crate::store::partial::Partial;
use crate::store::sample::Sample;
use crate::store::series::{Metric, SeriesError};
use crate::store::table::{Column, ROWS_PER_GROUP, Table, TableWriter};

/// An import on its way into a bundle.
#[derive(Debug)]
pub struct BundleImport {
    writer: BundleWriter,
    source: String,
    licence: String,
    vms: Vec<VmMeta>,
}

impl BundleImport {
    /// A bundle that will be at `dir`, with the words for people its recordings carry.
    ///
    /// # Errors
    /// As [`BundleWriter::create`].
    pub fn create(dir: &Path, source: &str, licence: &str) -> Result<Self, BundleError> {
        Ok(Self {
            writer: BundleWriter::create(dir)?,
            source: source.to_string(),
            licence: licence.to_string(),
            vms: Vec::new(),
        })
    }

    /// As [`BundleWriter::scratch`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn scratch(&self) -> Result<PathBuf, BundleError> {
        self.writer.scratch()
    }

    /// Gives the bundle its name: the commit point.
    ///
    /// # Errors
    /// As [`BundleWriter::finish`].
    pub fn finish(self, streamed: &Streamed, title: &str) -> Result<Manifest, BundleError> {
        let manifest = Manifest::of_import(streamed, title, &self.source, &self.licence);
        self.writer.finish(&manifest, &self.vms)
    }
}

impl Output for BundleImport {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        Ok(self.writer.sample(sample)?)
    }

    fn vm(
        &mut self,
        mut meta: VmMeta,
        page_writes: Option<PageWriteTrace>,
    ) -> Result<(), OutputError> {
        if let Some(trace) = page_writes {
            let name = format!("{}.mbpw", meta.vm_id);
            self.writer
                .page_writes(&name, &trace, &self.source, &self.licence)?;
            meta.page_writes = Some(name);
        }
        self.vms.push(meta);
        Ok(())
    }
}

/// A bundle being written.
pub struct BundleWriter {
    partial: Partial,
    files: BTreeMap<String, FileEntry>,
    profiles: Vec<u16>,
    samples: TableWriter<Checked>,
    group: Table,
    /// Rows of the groups written.
    rows: u64,
    /// VM, samples of it, end of its last sample.
    last: Option<(u32, usize, i64)>,
    /// The VMs that have samples, as ranges: they come in order.
    sampled: Vec<Range<u32>>,
}

impl BundleWriter {
    /// A bundle that will be at `dir`, which must not exist or be empty.
    ///
    /// # Errors
    /// When there is something at `dir`, or the system refuses.
    pub fn create(dir: &Path) -> Result<Self, BundleError> {
        let partial = Partial::create(dir)?;
        let out = Checked::create(partial.path().join(SAMPLES))?;
        let group = empty_group();
        let required = ["vm_id", "t_ms", "dur_ms", "flags"];
        let samples = TableWriter::new(out, &group, &required)
            .map_err(|source| parquet_error(SAMPLES, source))?;
        Ok(Self {
            partial,
            files: BTreeMap::new(),
            profiles: Vec::new(),
            samples,
            group,
            rows: 0,
            last: None,
            sampled: Vec::new(),
        })
    }

    /// A directory for files that are needed until the bundle is there; it goes with the writer.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn scratch(&self) -> Result<PathBuf, BundleError> {
        let path = self.partial.path().join(SCRATCH);
        fs::create_dir_all(&path).map_err(|source| io_error(&path, source))?;
        Ok(path)
    }

    /// Appends a sample: VMs ascending, the samples of each ascending and not overlapping.
    ///
    /// # Errors
    /// When it does not fit behind the one before, or the system refuses.
    pub fn sample(&mut self, sample: &Sample) -> Result<(), BundleError> {
        let (vm_id, interval) = (sample.vm, sample.interval);
        let index = match self.last {
            Some((last, ..)) if vm_id < last => return Err(BundleError::DuplicateVm { vm_id }),
            Some((last, index, end_ms)) if vm_id == last => {
                let t_ms = interval.t_ms;
                if t_ms < end_ms {
                    let source = SeriesError::Overlap {
                        index,
                        t_ms,
                        end_ms,
                    };
                    return Err(BundleError::Series { vm_id, source });
                }
                index
            }
            _ => {
                match self.sampled.last_mut() {
                    Some(range) if range.end == vm_id => range.end += 1,
                    _ => self.sampled.push(vm_id..vm_id.saturating_add(1)),
                }
                0
            }
        };
        if interval.dur_ms == 0 {
            let t_ms = interval.t_ms;
            let source = SeriesError::ZeroLength { index, t_ms };
            return Err(BundleError::Series { vm_id, source });
        }
        self.last = Some((vm_id, index + 1, interval.end_ms()));
        self.append(sample)?;
        if self.group.rows == ROWS_PER_GROUP {
            self.flush_group()?;
        }
        Ok(())
    }

    /// Writes a page-level recording to `pages/NAME`; returns that name for [`VmMeta::page_writes`].
    ///
    /// # Errors
    /// When the name is none, the recording contradicts itself, or the system refuses.
    pub fn page_writes(
        &mut self,
        name: &str,
        trace: &PageWriteTrace,
        source: &str,
        licence: &str,
    ) -> Result<(), BundleError> {
        let file = format!("{PAGES}/{name}");
        if !is_plain_name(name) {
            return Err(BundleError::Name { file });
        }
        let folder = self.partial.path().join(PAGES);
        fs::create_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
        let origin: Origin = [
            ("source".to_string(), source.to_string()),
            ("licence".to_string(), licence.to_string()),
        ]
        .into();
        let mut bytes = Vec::new();
        page_write::write_page_writes_with_origin(trace, &origin, &mut bytes).map_err(
            |source| BundleError::PageWrites {
                file: file.clone(),
                source,
            },
        )?;
        let entry = put(&self.partial, &file, &bytes, trace.ticks.len() as u64)?;
        self.files.insert(file, entry);
        Ok(())
    }

    /// Writes the table of dirty profiles.
    ///
    /// # Errors
    /// When a rate is none, or the system refuses.
    pub fn profiles(
        &mut self,
        profiles: &BTreeMap<u16, Vec<PageClass>>,
    ) -> Result<(), BundleError> {
        let required = [
            "profile_id",
            "class",
            "pages",
            "rate_per_s",
            "coupling",
            "locality",
        ];
        self.profiles = profiles.keys().copied().collect();
        self.table(PROFILES, &profiles_table(profiles)?, &required)
    }

    /// Writes the VMs and the manifest and gives the bundle its name: the commit point.
    ///
    /// # Errors
    /// When the VMs do not fit what was written before, or the system refuses.
    pub fn finish(mut self, manifest: &Manifest, vms: &[VmMeta]) -> Result<Manifest, BundleError> {
        let has_pages = |name: &str| self.files.contains_key(&format!("{PAGES}/{name}"));
        check_vms(vms, has_pages, |profile| self.profiles.contains(&profile))?;
        self.check_sampled(vms)?;
        self.flush_group()?;
        self.table(VMS, &vms_table(vms)?, &["vm_id", "name"])?;
        let Self {
            partial,
            mut files,
            samples,
            rows,
            ..
        } = self;
        let out = samples.close();
        let out = out.map_err(|source| parquet_error(SAMPLES, source))?;
        files.insert(SAMPLES.to_string(), out.finish(rows)?);
        let scratch = partial.path().join(SCRATCH);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(|source| io_error(&scratch, source))?;
        }
        let manifest = Manifest {
            version: VERSION,
            files,
            ..manifest.clone()
        };
        let json = serde_json::to_vec_pretty(&manifest).expect("plain fields are always JSON");
        put(&partial, MANIFEST, &json, 0)?;
        partial.commit()?;
        Ok(manifest)
    }

    /// Every sample belongs to a VM.
    fn check_sampled(&self, vms: &[VmMeta]) -> Result<(), BundleError> {
        let mut known: Vec<u32> = vms.iter().map(|vm| vm.vm_id).collect();
        known.sort_unstable();
        for vm_id in self.sampled.iter().cloned().flatten() {
            if known.binary_search(&vm_id).is_err() {
                return Err(BundleError::UnknownVm { vm_id });
            }
        }
        Ok(())
    }

    fn append(&mut self, sample: &Sample) -> Result<(), BundleError> {
        let row = self.rows + self.group.rows as u64;
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        let interval = sample.interval;
        let fixed = [
            i64::from(sample.vm),
            interval.t_ms,
            i64::from(interval.dur_ms),
        ];
        let mut cells = [None; COLUMNS];
        for (cell, value) in cells.iter_mut().zip(fixed) {
            *cell = Some(value);
        }
        for (cell, metric) in cells[3..].iter_mut().zip(Metric::ALL) {
            *cell = signed(SAMPLES, metric.column(), row, sample.values.get(metric))?;
        }
        cells[COLUMNS - 1] = Some(i64::from(interval.flags));
        for ((_, column), cell) in self.group.columns.iter_mut().zip(cells) {
            if let Column::Int(values) = column {
                values.push(cell);
            }
        }
        self.group.rows += 1;
        Ok(())
    }

    fn flush_group(&mut self) -> Result<(), BundleError> {
        if self.group.rows == 0 {
            return Ok(());
        }
        let written = self.samples.group(&self.group, 0..self.group.rows);
        written.map_err(|source| parquet_error(SAMPLES, source))?;
        self.rows += self.group.rows as u64;
        for (_, column) in &mut self.group.columns {
            if let Column::Int(values) = column {
                values.clear();
            }
        }
        self.group.rows = 0;
        Ok(())
    }

    fn table(
        &mut self,
        name: &str,
        table: &Table,
        required: &[&'static str],
    ) -> Result<(), BundleError> {
        let mut bytes = Vec::new();
        table
            .write(&mut bytes, required)
            .map_err(|source| parquet_error(name, source))?;
        let entry = put(&self.partial, name, &bytes, table.rows as u64)?;
        self.files.insert(name.to_string(), entry);
        Ok(())
    }
}

const SCRATCH: &str = ".scratch";
/// VM, time, length, the metrics, flags.
const COLUMNS: usize = 3 + Metric::ALL.len() + 1;

fn empty_group() -> Table {
    let mut table = Table::default();
    let metrics = Metric::ALL.map(Metric::column);
    let names = ["vm_id", "t_ms", "dur_ms"].into_iter();
    for name in names.chain(metrics).chain(["flags"]) {
        table.push(name, Column::Int(Vec::new()));
    }
    table
}

fn put(partial: &Partial, name: &str, bytes: &[u8], rows: u64) -> Result<FileEntry, BundleError> {
    let mut out = Checked::create(partial.path().join(name))?;
    out.write_all(bytes)
        .map_err(|source| io_error(&out.path, source))?;
    out.finish(rows)
}

/// A file whose size and checksum are kept while it is written.
struct Checked {
    path: PathBuf,
    out: BufWriter<File>,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl Checked {
    fn create(path: PathBuf) -> Result<Self, BundleError> {
        let out = File::create(&path).map_err(|source| io_error(&path, source))?;
        Ok(Self {
            path,
            out: BufWriter::new(out),
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        })
    }

    fn finish(mut self, rows: u64) -> Result<FileEntry, BundleError> {
        let flushed = self.out.flush();
        flushed.map_err(|source| io_error(&self.path, source))?;
        Ok(FileEntry {
            rows,
            bytes: self.bytes,
            crc32: format!("{:08x}", self.crc.finalize()),
        })
    }
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl std::fmt::Debug for BundleWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleWriter")
            .field("partial", &self.partial)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}
