//! CloudSim's PlanetLab files: `DAY/NAME`, 288 whole numbers of per cent, 300 s apart.
//!
//! Days are UTC; a trace that does not say its date begins on 19700101. What lies between 300 s marks is
//! averaged, days are filled up, per cent above 100 are cut. Per cent are of the VM's CPUs, of one core
//! where their number is unknown, as the importer takes it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{ExportCounts, ExportError, ExportOptions, Step, Steps};
use crate::date::{DAY_MS, civil};
use crate::dirty::PageWriteTrace;
use crate::import::{Output, OutputError};
use crate::store::bundle::VmMeta;
use crate::store::partial::{Partial, io_error};
use crate::store::sample::Sample;
use crate::store::series::GapPolicy;

const STEP_MS: i64 = 300_000;

/// Writes the files.
#[derive(Debug)]
pub struct PlanetLabWriter {
    partial: Partial,
    options: ExportOptions,
    steps: Steps,
    vm: Windows,
    counts: ExportCounts,
}

/// Mean CPU of whole windows of the VM under way, thousandths of a core: kept until its size is known,
/// 4 bytes per 300 s (a year is 420 kB).
#[derive(Debug, Default)]
struct Windows {
    /// Start of the first window: midnight.
    start_ms: Option<i64>,
    means: Vec<u32>,
    /// Sum of CPU x time in the window that is not full, and its length so far.
    sum: u128,
    filled_ms: i64,
    last_milli: u64,
}

impl PlanetLabWriter {
    /// Files that will be in the directory `dir`, which must not exist or be empty.
    ///
    /// # Errors
    /// When there is something at `dir`, or the system refuses.
    pub fn create(dir: &Path, options: ExportOptions) -> Result<Self, ExportError> {
        Ok(Self {
            partial: Partial::create(dir)?,
            options,
            steps: Steps::new(options.gaps),
            vm: Windows::default(),
            counts: ExportCounts::default(),
        })
    }

    /// A directory for files that are needed meanwhile.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.partial.path()
    }

    /// Gives the directory its name: the commit point.
    ///
    /// # Errors
    /// When the system refuses; nothing is left then.
    pub fn finish(self) -> Result<ExportCounts, ExportError> {
        self.partial.commit()?;
        Ok(self.counts)
    }

    fn take(&mut self, steps: &[Step]) {
        for &step in steps {
            if self.vm.start_ms.is_none() {
                let midnight = step.from_ms.div_euclid(DAY_MS) * DAY_MS;
                self.vm.start_ms = Some(midnight);
                let milli = self.pad(step.milli);
                self.fill(step.from_ms - midnight, milli);
            }
            if step.filled {
                self.fill(step.to_ms - step.from_ms, step.milli);
            } else {
                self.vm.add(step.to_ms - step.from_ms, step.milli);
            }
        }
    }

    fn fill(&mut self, dur_ms: i64, milli: u64) {
        if dur_ms > 0 {
            self.counts.gaps += 1;
            self.counts.gap_ms += dur_ms.unsigned_abs();
            self.vm.add(dur_ms, milli);
        }
    }

    /// What stands before the first and after the last sample of a VM's days.
    fn pad(&self, milli: u64) -> u64 {
        match self.options.gaps {
            GapPolicy::Zero => 0,
            GapPolicy::Hold | GapPolicy::Linear => milli,
        }
    }

    fn end_vm(&mut self, meta: &VmMeta) -> Result<(), ExportError> {
        let mut steps = Vec::new();
        self.steps.end(&mut steps);
        self.take(&steps);
        let Some(start_ms) = self.vm.start_ms else {
            self.counts.without_cpu += 1;
            return Ok(());
        };
        let written = self.vm.means.len() as i64 * STEP_MS + self.vm.filled_ms;
        let rest = (DAY_MS - written.rem_euclid(DAY_MS)) % DAY_MS;
        let milli = self.pad(self.vm.last_milli);
        self.fill(rest, milli);
        let vm = std::mem::take(&mut self.vm);
        let cores = meta.vcpus.or(self.options.vcpus).unwrap_or(1).max(1);
        let per_day = usize::try_from(DAY_MS / STEP_MS).unwrap_or(288);
        for (number, day) in vm.means.chunks(per_day).enumerate() {
            let from_ms = start_ms + number as i64 * DAY_MS;
            self.day(from_ms, &meta.name, day, cores)?;
        }
        self.counts.vms += 1;
        Ok(())
    }

    fn day(
        &mut self,
        from_ms: i64,
        name: &str,
        means: &[u32],
        cores: u32,
    ) -> Result<(), ExportError> {
        let (year, month, day) = civil(from_ms.div_euclid(DAY_MS));
        let folder = self
            .partial
            .path()
            .join(format!("{year:04}{month:02}{day:02}"));
        fs::create_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
        let path = folder.join(file_name(name));
        let out = File::create_new(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                let vm = name.to_string();
                return ExportError::SameName { vm };
            }
            failed(&path, source)
        })?;
        let mut out = BufWriter::new(out);
        for &milli in means {
            // Half a per cent is rounded up, as in a rounded mean.
            let percent = (u64::from(milli) * 2 + u64::from(cores) * 10) / (u64::from(cores) * 20);
            self.counts.clamped += u64::from(percent > 100);
            self.counts.rows += 1;
            let line = writeln!(out, "{}", percent.min(100));
            line.map_err(|source| failed(&path, source))?;
        }
        out.flush().map_err(|source| failed(&path, source))
    }
}

impl Windows {
    fn add(&mut self, mut dur_ms: i64, milli: u64) {
        self.last_milli = milli;
        while dur_ms > 0 {
            let part = dur_ms.min(STEP_MS - self.filled_ms);
            self.sum += u128::from(milli) * u128::from(part.unsigned_abs());
            self.filled_ms += part;
            dur_ms -= part;
            if self.filled_ms == STEP_MS {
                let mean = (self.sum + 150_000) / 300_000;
                self.means.push(u32::try_from(mean).unwrap_or(u32::MAX));
                (self.sum, self.filled_ms) = (0, 0);
            }
        }
    }
}

impl Output for PlanetLabWriter {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        let mut steps = Vec::new();
        self.steps.take(sample, &mut steps);
        self.take(&steps);
        Ok(())
    }

    fn vm(&mut self, meta: VmMeta, _: Option<PageWriteTrace>) -> Result<(), OutputError> {
        Ok(self.end_vm(&meta)?)
    }
}

/// A name as a file name: what cannot stand in one, and per cent signs, as `%` and two digits.
fn file_name(name: &str) -> String {
    let mut escaped = String::new();
    for (at, char) in name.chars().enumerate() {
        if matches!(char, '/' | '%' | '\0' | '\n') || (at == 0 && char == '.') {
            let _ = write!(escaped, "%{:02X}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

fn failed(path: &Path, source: io::Error) -> ExportError {
    ExportError::Io {
        path: PathBuf::from(path),
        source,
    }
}
