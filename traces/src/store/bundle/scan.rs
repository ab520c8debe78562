//! Reading a bundle sample by sample: for those larger than memory.
//!
//! Checked as [`Bundle::read`](super::Bundle::read) checks: checksums, row counts, order, overlaps.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::read::{Files, read_manifest};
use super::rows::read_vms;
use super::write::{check_vms, io_error, parquet_error};
use super::{BundleError, Manifest, PAGES, PROFILES, SAMPLES, VMS, VmMeta};
use crate::dirty::PageWriteTrace;
use crate::store::columns::{Batch, Columns};
use crate::store::page_write;
use crate::store::sample::{Sample, Values};
use crate::store::series::{Interval, Metric, SeriesError};
use crate::store::table::Column;

/// A bundle that is looked through once.
#[derive(Debug)]
pub struct BundleScan {
    dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// The VMs, by number.
    pub vms: Vec<VmMeta>,
}

/// A failure of the bundle, or of what its samples were given to.
#[derive(Debug)]
pub enum ScanError<E> {
    /// The bundle.
    Bundle(BundleError),
    /// The other side.
    Taker(E),
}

impl<E> From<BundleError> for ScanError<E> {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

impl BundleScan {
    /// Reads the manifest and the VMs.
    ///
    /// # Errors
    /// The first thing found wrong, with the file.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let manifest = read_manifest(dir)?;
        let files = Files {
            dir,
            manifest: &manifest,
        };
        let mut vms = read_vms(files.table(VMS)?, &mut Vec::new())?;
        vms.sort_by_key(|vm| vm.vm_id);
        let has_pages = |name: &str| manifest.files.contains_key(&format!("{PAGES}/{name}"));
        // Profiles are small, and nobody reads them here: the table being there is enough.
        check_vms(&vms, has_pages, |_| manifest.files.contains_key(PROFILES))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            manifest,
            vms,
        })
    }

    /// The page-level recording of this name.
    ///
    /// # Errors
    /// When it is not as the manifest says.
    pub fn page_writes(&self, name: &str) -> Result<PageWriteTrace, BundleError> {
        let file = format!("{PAGES}/{name}");
        let files = Files {
            dir: &self.dir,
            manifest: &self.manifest,
        };
        let (bytes, _) = files.bytes(&file)?;
        page_write::read_page_writes(bytes.as_slice())
            .map_err(|source| BundleError::PageWrites { file, source })
    }

    /// Gives all samples, by VM and time.
    ///
    /// # Errors
    /// The first thing found wrong, or what `take` says.
    pub fn samples<E>(
        &self,
        mut take: impl FnMut(Sample) -> Result<(), E>,
    ) -> Result<(), ScanError<E>> {
        let stated = self.verify(SAMPLES)?;
        let parquet = |source| parquet_error(SAMPLES, source);
        let table = Columns::open(&self.dir.join(SAMPLES)).map_err(parquet)?;
        let must = |column: &'static str| {
            table.find(&[column]).ok_or_else(|| BundleError::Column {
                file: SAMPLES.to_string(),
                column,
                expected: "integers",
            })
        };
        let mut wanted = Vec::new();
        for column in ["vm_id", "t_ms", "dur_ms", "flags"] {
            wanted.push(must(column)?);
        }
        let mut metrics = Vec::new();
        for metric in Metric::ALL {
            if let Some(at) = table.find(&[metric.column()]) {
                wanted.push(at);
                metrics.push(metric);
            }
        }
        let mut last = None;
        let mut found = 0;
        let read = table.each(&wanted, |batch| {
            found += batch.rows as u64;
            for row in 0..batch.rows {
                let sample = sample(&batch, row, &metrics).map_err(Failed::Bundle)?;
                self.follows(&mut last, &sample).map_err(Failed::Bundle)?;
                take(sample).map_err(Failed::Taker)?;
            }
            Ok::<(), Failed<E>>(())
        });
        read.map_err(|failed| match failed {
            Failed::Parquet(source) => ScanError::Bundle(parquet(source)),
            Failed::Bundle(error) => ScanError::Bundle(error),
            Failed::Taker(error) => ScanError::Taker(error),
        })?;
        if found == stated {
            Ok(())
        } else {
            let file = SAMPLES.to_string();
            Err(BundleError::Rows {
                file,
                stated,
                found,
            }
            .into())
        }
    }

    /// The rows a file should have, once its size and checksum are right.
    fn verify(&self, name: &str) -> Result<u64, BundleError> {
        let entry = self.manifest.files.get(name);
        let entry = entry.ok_or_else(|| BundleError::NotListed {
            file: name.to_string(),
        })?;
        let path = self.dir.join(name);
        let mut file = File::open(&path).map_err(|source| io_error(&path, source))?;
        let (mut crc, mut found_bytes) = (crc32fast::Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer);
            let read = read.map_err(|source| io_error(&path, source))?;
            if read == 0 {
                break;
            }
            crc.update(&buffer[..read]);
            found_bytes += read as u64;
        }
        let found = format!("{:08x}", crc.finalize());
        if found_bytes == entry.bytes && found == entry.crc32 {
            return Ok(entry.rows);
        }
        Err(BundleError::Checksum {
            file: name.to_string(),
            bytes: entry.bytes,
            expected: entry.crc32.clone(),
            found_bytes,
            found,
        })
    }

    /// VMs ascend and are there; the samples of each ascend and do not overlap.
    fn follows(
        &self,
        last: &mut Option<(u32, usize, i64)>,
        sample: &Sample,
    ) -> Result<(), BundleError> {
        let (vm_id, t_ms) = (sample.vm, sample.interval.t_ms);
        let index = match *last {
            Some((vm, index, end_ms)) if vm == vm_id && t_ms < end_ms => {
                let source = SeriesError::Overlap {
                    index,
                    t_ms,
                    end_ms,
                };
                return Err(BundleError::Series { vm_id, source });
            }
            Some((vm, index, _)) if vm == vm_id => index,
            Some((vm, ..)) if vm > vm_id => return Err(BundleError::DuplicateVm { vm_id }),
            _ => {
                let known = self.vms.binary_search_by_key(&vm_id, |vm| vm.vm_id);
                known.map_err(|_| BundleError::UnknownVm { vm_id })?;
                0
            }
        };
        if sample.interval.dur_ms == 0 {
            let source = SeriesError::ZeroLength { index, t_ms };
            return Err(BundleError::Series { vm_id, source });
        }
        *last = Some((vm_id, index + 1, sample.interval.end_ms()));
        Ok(())
    }
}

enum Failed<E> {
    Parquet(parquet::errors::ParquetError),
    Bundle(BundleError),
    Taker(E),
}

impl<E> From<parquet::errors::ParquetError> for Failed<E> {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Parquet(error)
    }
}

fn sample(batch: &Batch, row: usize, metrics: &[Metric]) -> Result<Sample, BundleError> {
    let number = usize::try_from(batch.first).unwrap_or(usize::MAX);
    let wrong = |column, value: String, expected| BundleError::Value {
        file: SAMPLES.to_string(),
        row: number.saturating_add(row),
        column,
        value,
        expected,
    };
    let cell = |at: usize, column| match &batch.columns[at] {
        Column::Int(values) => Ok(values[row]),
        _ => Err(wrong(column, "no integer".to_string(), "an integer")),
    };
    let must = |at, column| {
        let value = cell(at, column)?;
        value.ok_or_else(|| wrong(column, "null".to_string(), "a value"))
    };
    let small = |at, column| {
        let value = must(at, column)?;
        u32::try_from(value).map_err(|_| wrong(column, value.to_string(), "0 to 2^32 - 1"))
    };
    let interval = Interval {
        t_ms: must(1, "t_ms")?,
        dur_ms: small(2, "dur_ms")?,
        flags: small(3, "flags")?,
    };
    let mut values = Values::default();
    for (at, &metric) in (4..).zip(metrics) {
        if let Some(value) = cell(at, metric.column())? {
            let value = u64::try_from(value)
                .map_err(|_| wrong(metric.column(), value.to_string(), "not negative"))?;
            values.set(metric, Some(value));
        }
    }
    Ok(Sample {
        vm: small(0, "vm_id")?,
        interval,
        values,
    })
}
