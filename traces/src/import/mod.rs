//! Other people's traces, read into ours.
//!
//! One entry point, [`import_path`]: a file or a directory, plain, gzip or zstd, its format found from
//! what is in it. Readers stream; every error carries the file, the line and what was expected. Never
//! inside: guesses about data the source does not have (see `synth` for that, once it is there).

mod bitbrains;
mod error;
mod lines;
mod planetlab;
mod recorded;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

pub use error::{ImportError, ImportErrorKind, Warning, WarningKind};

use crate::cpu::CpuTrace;
use crate::dirty::PageWriteTrace;
use crate::store::bundle::{Sampling, TimeOrigin, VmMeta};
use crate::store::page_write;
use crate::store::series::{GapFill, GapPolicy, Series};

/// A format that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// PlanetLab/CoMon as shipped with CloudSim: one integer a line, per cent of the VM, 300 s apart.
    PlanetLab,
    /// Bitbrains GWA-T-12: `;` and a tab, eleven columns.
    Bitbrains,
    /// Recorded page writes as CSV (`# page-write trace: …`).
    RecordedPageWrites,
    /// Our own page-write trace file.
    PageWrites,
}

impl Format {
    /// The name used on the command line and in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PlanetLab => "planetlab",
            Self::Bitbrains => "bitbrains",
            Self::RecordedPageWrites => "recorded-page-writes",
            Self::PageWrites => "page-writes",
        }
    }

    /// All formats.
    pub const ALL: [Self; 4] = [
        Self::PlanetLab,
        Self::Bitbrains,
        Self::RecordedPageWrites,
        Self::PageWrites,
    ];

    /// The format of this [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an import fills what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// The format; found from the content when `None`.
    pub format: Option<Format>,
    /// For gaps in CPU demand.
    pub gaps: GapPolicy,
}

/// One VM of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedVm {
    /// What the source says of it.
    pub meta: VmMeta,
    /// CPU demand from its first sample, without gaps.
    pub cpu: CpuTrace,
    /// What was filled to get there.
    pub cpu_fill: GapFill,
    /// Everything sampled, gaps left as they are.
    pub series: Series,
    /// The pages it wrote, if the source is a page-level recording.
    pub page_writes: Option<PageWriteTrace>,
}

/// What an import gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What was read.
    pub format: Format,
    /// The VMs; at least one.
    pub vms: Vec<ImportedVm>,
    /// What `t_ms` counts from.
    pub time_origin: TimeOrigin,
    /// What a sample is.
    pub sampling: Sampling,
    /// Columns that were computed rather than read, with how.
    pub derived: Vec<(&'static str, &'static str)>,
    /// To be read before trusting the numbers.
    pub warnings: Vec<Warning>,
    /// Sums over all files.
    pub counts: ImportCounts,
}

/// Sums over all files of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportCounts {
    /// Files read.
    pub files: u64,
    /// Samples kept.
    pub samples: u64,
    /// Samples that were dropped because a later line has the same time.
    pub duplicates: u64,
    /// Stretches without samples.
    pub gaps: u64,
    /// Their length together.
    pub gap_ms: u64,
    /// Samples above the stated capacity (kept, flagged).
    pub over_capacity: u64,
}

/// Finds the format from the first bytes, which stay in the reader. `None`: none of ours.
///
/// # Errors
/// When the reader fails.
pub fn detect(input: &mut impl BufRead) -> io::Result<Option<Format>> {
    let head = input.fill_buf()?;
    let head = &head[..head.len().min(4096)];
    if head.starts_with(&page_write::MAGIC) {
        return Ok(Some(Format::PageWrites));
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let head = String::from_utf8_lossy(head);
    if head.starts_with(recorded::COMMENT) {
        return Ok(Some(Format::RecordedPageWrites));
    }
    let Some(first) = head
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty() && !l.starts_with('#'))
    else {
        return Ok(None);
    };
    if bitbrains::is_header(first) {
        return Ok(Some(Format::Bitbrains));
    }
    let digits = first.len() <= 4 && first.bytes().all(|byte| byte.is_ascii_digit());
    Ok(digits.then_some(Format::PlanetLab))
}

/// Imports a file, or a directory of files of one format.
///
/// PlanetLab: a file, a day's directory, or a directory of days (`YYYYMMDD`), whose files of one name
/// are joined. Bitbrains: a file or a directory of files.
///
/// # Errors
/// The first thing that is not as its format says, with file, line and what was expected.
pub fn import_path(path: &Path, options: ImportOptions) -> Result<Imported, ImportError> {
    let files = list_files(path)?;
    let Some(first) = files.first() else {
        return Err(ImportError::new(path, 0, ImportErrorKind::NoFiles));
    };
    let format = match options.format {
        Some(format) => format,
        None => detect_file(first)?,
    };
    let mut parts = Vec::with_capacity(files.len());
    for file in &files {
        parts.push((file.as_path(), read_file(file, format)?));
    }
    let days = format == Format::PlanetLab;
    let parts = if days {
        planetlab::join_days(parts)
    } else {
        single(parts)
    };
    assemble(path, format, options.gaps, parts)
}

/// What a reader of one file gives.
struct Part {
    meta: VmMeta,
    series: Series,
    page_writes: Option<PageWriteTrace>,
    time_origin: TimeOrigin,
    duplicates: u64,
    warnings: Vec<WarningKind>,
}

/// The files that make one VM, and what was read from them.
type Parts = Vec<(PathBuf, Part)>;

fn single(parts: Vec<(&Path, Part)>) -> Parts {
    parts
        .into_iter()
        .map(|(file, part)| (file.to_path_buf(), part))
        .collect()
}

fn read_file(file: &Path, format: Format) -> Result<Part, ImportError> {
    let input = open(file)?;
    match format {
        Format::PlanetLab => planetlab::read(file, input),
        Format::Bitbrains => bitbrains::read(file, input),
        Format::RecordedPageWrites => recorded::read(file, input),
        Format::PageWrites => {
            let trace = page_write::read_page_writes(input)
                .map_err(|error| ImportError::new(file, 0, ImportErrorKind::PageWrites(error)))?;
            Ok(recorded::part(file, trace))
        }
    }
}

fn assemble(
    path: &Path,
    format: Format,
    gaps: GapPolicy,
    parts: Parts,
) -> Result<Imported, ImportError> {
    let mut counts = ImportCounts::default();
    let mut warnings = Vec::new();
    let mut vms = Vec::with_capacity(parts.len());
    let mut time_origin = TimeOrigin::Relative;
    for (file, part) in parts {
        counts.files += 1;
        counts.duplicates += part.duplicates;
        let warn = |kind| Warning {
            file: file.clone(),
            kind,
        };
        warnings.extend(part.warnings.into_iter().map(warn));
        let Some((cpu, cpu_fill)) = demand(&part.series, part.page_writes.as_ref(), gaps) else {
            warnings.push(warn(WarningKind::NoSamples));
            continue;
        };
        let count = |flag| {
            part.series
                .intervals()
                .iter()
                .filter(|i| i.flags & flag != 0)
                .count() as u64
        };
        let over = count(crate::store::series::flags::OVER_CAPACITY);
        if over > 0 {
            warnings.push(warn(WarningKind::OverCapacity { samples: over }));
        }
        if cpu_fill.gaps > 0 {
            let (gaps, missing_ms) = (cpu_fill.gaps, cpu_fill.filled_ms);
            warnings.push(warn(WarningKind::Gaps { gaps, missing_ms }));
        }
        counts.samples += part.series.intervals().len() as u64;
        counts.over_capacity += over;
        counts.gaps += cpu_fill.gaps;
        counts.gap_ms += cpu_fill.filled_ms;
        time_origin = part.time_origin;
        let vm_id = u32::try_from(vms.len()).unwrap_or(u32::MAX);
        let meta = VmMeta { vm_id, ..part.meta };
        vms.push(ImportedVm {
            meta,
            cpu,
            cpu_fill,
            series: part.series,
            page_writes: part.page_writes,
        });
    }
    if vms.is_empty() {
        return Err(ImportError::new(path, 0, ImportErrorKind::NoSamples));
    }
    let (sampling, derived) = describe(format);
    Ok(Imported {
        format,
        vms,
        time_origin,
        sampling,
        derived,
        warnings,
        counts,
    })
}

/// Demand from the page-level recording where there is one: it keeps the length of each tick.
fn demand(
    series: &Series,
    page_writes: Option<&PageWriteTrace>,
    gaps: GapPolicy,
) -> Option<(CpuTrace, GapFill)> {
    match page_writes {
        Some(trace) => Some((trace.cpu_trace().ok()?, GapFill::default())),
        None => series.cpu_trace(gaps).ok(),
    }
}

/// What a sample of the format is, and which columns are computed.
fn describe(format: Format) -> (Sampling, Vec<(&'static str, &'static str)>) {
    match format {
        Format::PlanetLab => (Sampling::Average, planetlab::DERIVED.to_vec()),
        Format::Bitbrains => (Sampling::Average, bitbrains::DERIVED.to_vec()),
        Format::RecordedPageWrites | Format::PageWrites => {
            (Sampling::Average, recorded::DERIVED.to_vec())
        }
    }
}

/// The files to read: the path itself, or what is in the directory and one level below.
fn list_files(path: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let io = |error| ImportError::new(path, 0, ImportErrorKind::Io(error));
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(path.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let is_dir = std::fs::metadata(entry.path()).map_err(io)?.is_dir();
            if is_dir && depth == 0 {
                folders.push((entry.path(), 1));
            } else if !is_dir && !is_note(&entry.path()) {
                files.push(entry.path());
            }
        }
    }
    // 2.csv before 10.csv, so that ids follow the source's numbering.
    files.sort_by_cached_key(|file| {
        let number = stem(file).parse::<u64>().unwrap_or(u64::MAX);
        (file.parent().map(Path::to_path_buf), number, file.clone())
    });
    Ok(files)
}

/// Files that lie beside traces and are none.
fn is_note(file: &Path) -> bool {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    name.starts_with('.')
        || name.starts_with("readme")
        || name.starts_with("license")
        || name.starts_with("licence")
        || name.ends_with(".md")
}

/// The file's name without `.csv`, `.csv.gz`, ….
fn stem(file: &Path) -> String {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut rest = name.as_str();
    for ending in [".gz", ".zst", ".csv", ".mbpw"] {
        rest = rest.strip_suffix(ending).unwrap_or(rest);
    }
    rest.to_string()
}

fn detect_file(file: &Path) -> Result<Format, ImportError> {
    let mut input = open(file)?;
    let line_1 = |kind| ImportError::new(file, 1, kind);
    let found = detect(&mut input).map_err(|error| line_1(ImportErrorKind::from_read(error)))?;
    if let Some(format) = found {
        return Ok(format);
    }
    let head = input
        .fill_buf()
        .map_err(|error| line_1(ImportErrorKind::from_read(error)))?;
    let head = String::from_utf8_lossy(&head[..head.len().min(40)]).into_owned();
    Err(line_1(if head.is_empty() {
        ImportErrorKind::Empty
    } else {
        ImportErrorKind::UnknownFormat { starts: head }
    }))
}

/// Opens a file, decompressing what starts like gzip or zstd, whatever its name.
fn open(file: &Path) -> Result<Box<dyn BufRead>, ImportError> {
    let io = |error| ImportError::new(file, 0, ImportErrorKind::Io(error));
    decompress(File::open(file).map_err(io)?).map_err(io)
}

fn decompress(input: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut input = BufReader::new(input);
    let head = input.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::new(
            flate2::bufread::MultiGzDecoder::new(input),
        )));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        return Ok(Box::new(BufReader::new(decoder)));
    }
    Ok(Box::new(input))
}
