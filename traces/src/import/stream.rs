//! An import from beginning to end: files in, samples out in order, in bounded memory.
//!
//! Formats of one VM a file go straight through; those whose tables mix VMs are sorted (`sort`) and
//! tidied (`tidy`). Never inside: what the formats look like.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::choose::{detect_any, no_table, rows, table_of};
use super::files::{list_files, open};
use super::intake::{Intake, Tally};
use super::lines::Lines;
use super::output::{Emitter, Output};
use super::tidy::{Rule, Tidy};
use super::{
    Format, ImportCounts, ImportError, ImportErrorKind, ImportOptions, Part, StreamError, Warning,
    WarningKind,
};
use super::{bitbrains, csv, google2011, native, opendc, planetlab, qemu, recorded};
use crate::store::bundle::{Sampling, TimeOrigin};
use crate::store::sample::{Sample, Values};
use crate::store::series::Metric;
use crate::store::sort::{IN_MEMORY, Sorter};

/// A text format in which several files and many VMs may be mixed.
pub(super) struct Rows {
    pub(super) rule: Rule,
    /// Which table a file with this first line is: read in this order. `None`: no table that is read.
    pub(super) table: fn(&str) -> Option<u8>,
    pub(super) read: fn(u8, &mut Text, &mut Intake<'_>) -> Result<(), StreamError>,
    pub(super) time_origin: TimeOrigin,
    pub(super) derived: &'static [(&'static str, &'static str)],
    /// The table that describes VMs, if there is one.
    pub(super) described_in: Option<&'static str>,
}

/// The lines of a file of whatever compression.
pub(super) type Text = Lines<Box<dyn BufRead>>;

/// What an import said besides its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Streamed {
    /// What was read.
    pub format: Format,
    /// VMs given out.
    pub vms: u32,
    /// What `t_ms` counts from.
    pub time_origin: TimeOrigin,
    /// What a sample is.
    pub sampling: Sampling,
    /// The metrics of which there is a value.
    pub metrics: Vec<Metric>,
    /// Columns that were computed rather than read, with how.
    pub derived: Vec<(&'static str, &'static str)>,
    /// To be read before trusting the numbers.
    pub warnings: Vec<Warning>,
    /// Sums over all files.
    pub counts: ImportCounts,
    /// The options that bear on the numbers.
    pub options: BTreeMap<String, String>,
}

/// Imports files, or directories of files of one format, to an output.
///
/// `scratch` is a directory for samples that must be sorted; without one they stay in memory. With one,
/// memory grows with the number of VMs, not of samples.
///
/// # Errors
/// The first thing that is not as its format says, with file, line and what was expected; what the
/// output or the scratch directory refuses; and the wish to stop.
pub fn import_stream(
    paths: &[PathBuf],
    options: &ImportOptions,
    scratch: Option<&Path>,
    out: &mut dyn Output,
) -> Result<Streamed, StreamError> {
    let root = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let may_be_bundle = options.format.is_none_or(|format| format == Format::Bundle);
    if let [path] = paths
        && may_be_bundle
        && native::is_bundle(path)
    {
        return native::read(path, options, out);
    }
    let files = list_files(paths)?;
    let Some(first) = files.first() else {
        return Err(ImportError::new(root, 0, ImportErrorKind::NoFiles).into());
    };
    for file in &files {
        let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        options.progress.add_total(bytes);
    }
    let format = match (options.format, &options.mapping) {
        (Some(format), _) => format,
        (None, Some(_)) => Format::Csv,
        (None, None) => detect_any(&files, first)?,
    };
    let import = Import {
        root,
        asked: paths,
        files: &files,
        format,
        options,
        scratch,
    };
    import.run(out)
}

struct Import<'a> {
    root: &'a Path,
    /// The paths as they were given.
    asked: &'a [PathBuf],
    files: &'a [PathBuf],
    format: Format,
    options: &'a ImportOptions,
    scratch: Option<&'a Path>,
}

/// What a reader says of all it read.
struct Read {
    time_origin: TimeOrigin,
    sampling: Sampling,
    derived: &'static [(&'static str, &'static str)],
}

impl Read {
    fn of(time_origin: TimeOrigin, derived: &'static [(&'static str, &'static str)]) -> Self {
        Self {
            time_origin,
            sampling: Sampling::Average,
            derived,
        }
    }
}

impl Import<'_> {
    fn run(&self, out: &mut dyn Output) -> Result<Streamed, StreamError> {
        let mut emitter = Emitter::new(out, self.options.progress.clone());
        emitter.counts.files = self.files.len() as u64;
        let Read {
            time_origin,
            sampling,
            derived,
        } = self.read(&mut emitter)?;
        let vms = emitter.vms();
        if vms == 0 {
            let wanted = self.options.only.is_some();
            return Err(self
                .error(if wanted {
                    ImportErrorKind::NoneWanted
                } else {
                    ImportErrorKind::NoSamples
                })
                .into());
        }
        let (counts, warnings, metrics) = emitter.finish(self.root);
        let recorded = |column: &str| metrics.iter().any(|metric| metric.column() == column);
        let derived = derived.iter().filter(|(column, _)| recorded(column));
        Ok(Streamed {
            format: self.format,
            vms,
            time_origin,
            sampling,
            derived: derived.copied().collect(),
            metrics,
            warnings,
            counts,
            options: self.options.stated(),
        })
    }

    fn read(&self, emitter: &mut Emitter<'_>) -> Result<Read, StreamError> {
        if let Some(rows) = rows(self.format) {
            self.tables(&rows, emitter)?;
            return Ok(Read::of(rows.time_origin, rows.derived));
        }
        Ok(match self.format {
            Format::OpenDc => {
                let sorter = self.sorter();
                let origin = opendc::read(self.files, self.options, sorter, |intake| {
                    self.emit(Rule::Given, None, intake, emitter)
                })?;
                Read::of(origin, &opendc::DERIVED)
            }
            Format::Csv => self.mapped(emitter)?,
            Format::PlanetLab => Read::of(self.whole_files(emitter)?, &planetlab::DERIVED),
            Format::Bitbrains => Read::of(self.whole_files(emitter)?, &bitbrains::DERIVED),
            Format::Google2011Vm => Read::of(self.whole_files(emitter)?, &google2011::DERIVED_VM),
            Format::QemuMigrate | Format::QemuDirtyRate => {
                Read::of(self.whole_files(emitter)?, &qemu::DERIVED)
            }
            Format::Bundle => {
                // Forced upon something without a manifest.
                let path = self.root.join("manifest.json");
                return Err(ImportError::new(&path, 0, ImportErrorKind::NoFiles).into());
            }
            _ => Read::of(self.whole_files(emitter)?, &recorded::DERIVED),
        })
    }

    /// Plain columns.
    fn mapped(&self, emitter: &mut Emitter<'_>) -> Result<Read, StreamError> {
        let mapping = self.options.mapping.as_ref().ok_or_else(|| {
            let format = Format::Csv;
            let what = "a mapping: --map METRIC=COLUMN[:UNIT], once per column";
            self.error(ImportErrorKind::Needs { format, what })
        })?;
        let mut intake = Intake::new(self.options, self.sorter());
        for file in self.files {
            let mut lines = Lines::new(file, open(file, &self.options.progress)?);
            csv::read(mapping, &mut lines, &mut intake)?;
        }
        self.emit(mapping.rule(), None, intake, emitter)?;
        Ok(Read {
            sampling: mapping.sampling,
            ..Read::of(mapping.time_origin(), &csv::DERIVED)
        })
    }

    /// Formats of one VM a file: nothing to sort, and one file in memory at a time.
    fn whole_files(&self, emitter: &mut Emitter<'_>) -> Result<TimeOrigin, StreamError> {
        let mut origin = TimeOrigin::Relative;
        let groups: Vec<Vec<&PathBuf>> = if self.format == Format::PlanetLab {
            planetlab::days(self.files)
        } else {
            self.files.iter().map(|file| vec![file]).collect()
        };
        for group in groups {
            let mut parts = Vec::new();
            for file in &group {
                parts.extend(self.whole_file(file)?.into_iter().map(|p| (*file, p)));
            }
            if self.format == Format::PlanetLab {
                parts = planetlab::join_days(parts);
            }
            for (file, part) in parts {
                if self.options.wants(&part.meta.name) {
                    origin = part.time_origin;
                    emit_part(file, part, emitter)?;
                }
            }
        }
        Ok(origin)
    }

    fn whole_file(&self, file: &Path) -> Result<Vec<Part>, ImportError> {
        let input = open(file, &self.options.progress)?;
        Ok(match self.format {
            Format::PlanetLab => vec![planetlab::read(file, input)?],
            Format::Bitbrains => vec![bitbrains::read(file, input)?],
            Format::RecordedPageWrites => vec![recorded::read(file, input)?],
            Format::Google2011Vm => vec![google2011::read_vm(file, input)?],
            Format::QemuMigrate | Format::QemuDirtyRate => qemu::read(file, input, self.format)?,
            _ => vec![recorded::read_own(file, input)?],
        })
    }

    /// Formats of tables: those that describe VMs first.
    fn tables(&self, rows: &Rows, emitter: &mut Emitter<'_>) -> Result<(), StreamError> {
        let mut tables = Vec::new();
        for file in self.files {
            match table_of(rows, file)? {
                Some(table) => tables.push((table, file)),
                // In a directory other things may lie beside the tables; a file asked for is meant.
                None if self.asked.contains(file) => return Err(no_table(self.format, file).into()),
                None => emitter.warn(
                    file,
                    WarningKind::NotRead {
                        format: self.format,
                    },
                ),
            }
        }
        if tables.is_empty() {
            // Forced upon files that are none of its tables: the first says what is wrong with it.
            let Some(first) = self.files.first() else {
                return Ok(());
            };
            return Err(no_table(self.format, first).into());
        }
        tables.sort_by_key(|&(table, _)| table);
        let mut intake = Intake::new(self.options, self.sorter());
        for (table, file) in tables {
            let mut lines = Lines::new(file, open(file, &self.options.progress)?);
            (rows.read)(table, &mut lines, &mut intake)?;
        }
        self.emit(rows.rule, rows.described_in, intake, emitter)
    }

    fn sorter(&self) -> Sorter {
        match self.scratch {
            Some(scratch) => Sorter::on_disk(scratch, IN_MEMORY),
            None => Sorter::in_memory(),
        }
    }

    fn error(&self, kind: ImportErrorKind) -> ImportError {
        ImportError::new(self.root, 0, kind)
    }

    /// Sorts, tidies and gives out what was taken in.
    fn emit(
        &self,
        rule: Rule,
        described_in: Option<&'static str>,
        intake: Intake<'_>,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), StreamError> {
        let arrivals = self.format.is_arrivals();
        let Intake {
            mut vms,
            sorter,
            mut tally,
            rule: asked,
            ..
        } = intake;
        let mut sorted = sorter.finish()?.peekable();
        let (mut tidy, mut out) = (Tidy::new(asked.unwrap_or(rule)), Vec::new());
        let (mut gaps, mut missing_ms, mut over, mut no_row) = (0, 0, 0, 0);
        for (number, vm) in (0u32..).zip(&mut vms) {
            // An error is nobody's, so it is taken at once.
            let ours = |next: &Result<Sample, _>| next.as_ref().map_or(true, |s| s.vm == number);
            while let Some(sample) = sorted.next_if(ours) {
                tidy.sample(sample?, &mut out);
                flush(&mut out, emitter)?;
            }
            tidy.end(&mut out);
            flush(&mut out, emitter)?;
            let notes = emitter.end_vm(std::mem::take(&mut vm.meta), None, arrivals)?;
            if let Some(notes) = notes {
                gaps += notes.gaps.gaps;
                missing_ms += notes.gaps.filled_ms;
                over += notes.over;
                no_row += u64::from(!vm.described);
            }
        }
        *tally.entry(Tally::Duplicates).or_default() += tidy.counts.duplicates;
        emitter.counts.duplicates += tally[&Tally::Duplicates];
        let mut warn = |count: u64, kind: WarningKind| {
            if count > 0 {
                emitter.warn(self.root, kind);
            }
        };
        for (what, &count) in &tally {
            warn(count, what.warning(count));
        }
        let counts = tidy.counts;
        warn(counts.cut, WarningKind::Cut { count: counts.cut });
        let count = counts.summed;
        warn(count, WarningKind::Summed { count });
        let count = counts.dropped;
        let why = "more than 4096 of one VM ran at once";
        warn(count, WarningKind::LeftOut { count, why });
        let count = counts.resets;
        warn(count, WarningKind::Resets { count });
        if let Some(table) = described_in {
            warn(no_row, WarningKind::NoRow { vms: no_row, table });
        }
        warn(over, WarningKind::OverCapacity { samples: over });
        warn(gaps, WarningKind::Gaps { gaps, missing_ms });
        Ok(())
    }
}

fn flush(out: &mut Vec<Sample>, emitter: &mut Emitter<'_>) -> Result<(), StreamError> {
    out.drain(..).try_for_each(|sample| emitter.sample(sample))
}

/// Gives out a VM that is in memory whole.
fn emit_part(file: &Path, part: Part, emitter: &mut Emitter<'_>) -> Result<(), StreamError> {
    emitter.counts.duplicates += part.duplicates;
    for kind in part.warnings {
        emitter.warn(file, kind);
    }
    for (index, &interval) in part.series.intervals().iter().enumerate() {
        let mut values = Values::default();
        for metric in part.series.metrics() {
            values.set(metric, part.series.value(metric, index));
        }
        emitter.sample(Sample {
            vm: 0,
            interval,
            values,
        })?;
    }
    let Some(notes) = emitter.end_vm(part.meta, part.page_writes, false)? else {
        emitter.warn(file, WarningKind::NoSamples);
        return Ok(());
    };
    if notes.over > 0 {
        let samples = notes.over;
        emitter.warn(file, WarningKind::OverCapacity { samples });
    }
    if notes.gaps.gaps > 0 {
        let (gaps, missing_ms) = (notes.gaps.gaps, notes.gaps.filled_ms);
        emitter.warn(file, WarningKind::Gaps { gaps, missing_ms });
    }
    Ok(())
}
