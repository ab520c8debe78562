//! The `inputs/` folder of a run directory: a list, and a file or two for each trace, readable
//! without the originals. CPU demand is a small CSV; page writes are our page-write traces.

use super::{Fitted, Input, InputError, Inputs, Needs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use traces::cpu::{CpuSample, CpuSpread, CpuTrace};
use traces::store::page_write::{PageWriteError, read_page_writes, write_page_writes};
use traces::units::Provenance;

/// Version of the list and of the CPU files.
pub(super) const VERSION: u32 = 2;
/// Without what is known of demand within intervals; read all the same.
const VERSION_BEFORE: u32 = 1;
const LIST: &str = "inputs.json";
const CPU_HEADER: &str = "dur_ns,cpu_milli";
/// Of traces that say more than the mean; what an interval does not say is empty.
const SPREAD_HEADER: &str = "dur_ns,cpu_milli,cpu_min_milli,cpu_p95_milli,cpu_max_milli";

#[derive(Serialize, Deserialize)]
struct List {
    version: u32,
    traces: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: String,
    /// Intervals in `NAME.cpu.csv`.
    cpu_intervals: usize,
    /// Whether there is a `NAME.mbpw`.
    page_writes: bool,
    fitted: Option<Fitted>,
    #[serde(default)]
    used_bytes: Option<u64>,
    #[serde(default = "recorded")]
    cpu_provenance: Provenance,
    warnings: Vec<String>,
}

/// What lists of before that was written down hold.
fn recorded() -> Provenance {
    Provenance::Recorded
}

impl Inputs {
    /// Writes all traces into a folder, which is made when it is not there. The list comes last, so
    /// a folder with a list is whole.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), InputError> {
        fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
        let mut list = List {
            version: VERSION,
            traces: BTreeMap::new(),
        };
        for (name, input) in &self.traces {
            write_cpu(&dir.join(format!("{name}.cpu.csv")), &input.cpu)?;
            if let Some(pages) = &input.pages {
                let path = dir.join(format!("{name}.mbpw"));
                let file = BufWriter::new(File::create(&path).map_err(|e| io(&path, e))?);
                write_page_writes(pages, file)
                    .map_err(|source| InputError::PageWrites { path, source })?;
            }
            let entry = Entry {
                format: input.format.clone(),
                cpu_intervals: input.cpu.samples().len(),
                page_writes: input.pages.is_some(),
                fitted: input.fitted.clone(),
                used_bytes: input.used_bytes,
                cpu_provenance: input.cpu_provenance,
                warnings: input.warnings.clone(),
            };
            list.traces.insert(name.clone(), entry);
        }
        let path = dir.join(LIST);
        let text = serde_json::to_vec_pretty(&list).map_err(|source| InputError::List {
            path: path.clone(),
            source,
        })?;
        fs::write(&path, text).map_err(|source| io(&path, source))
    }

    /// Reads what is needed of what [`Inputs::write`] wrote; page sets only where they are replayed.
    ///
    /// # Errors
    /// When a file cannot be read, is not as it was written, or a trace is not there.
    pub fn read(dir: &Path, needs: &Needs) -> Result<Self, InputError> {
        let path = dir.join(LIST);
        let text = fs::read(&path).map_err(|source| io(&path, source))?;
        let list: List = serde_json::from_slice(&text).map_err(|source| InputError::List {
            path: path.clone(),
            source,
        })?;
        if !(VERSION_BEFORE..=VERSION).contains(&list.version) {
            return Err(InputError::Version {
                path,
                found: list.version,
            });
        }
        let mut inputs = Self::default();
        for name in &needs.traces {
            let entry = list.traces.get(name);
            let missing = || InputError::Missing {
                path: path.clone(),
                name: name.clone(),
            };
            let input = read_one(dir, name, entry.ok_or_else(missing)?, needs)?;
            inputs.traces.insert(name.clone(), input);
        }
        Ok(inputs)
    }

    /// Reads what is needed and not here yet.
    ///
    /// # Errors
    /// As [`Inputs::read`].
    pub fn read_more(&mut self, dir: &Path, needs: &Needs) -> Result<(), InputError> {
        let lacks = |name: &String| match self.get(name) {
            None => true,
            Some(input) => needs.pages.contains(name) && input.pages.is_none(),
        };
        let traces = needs
            .traces
            .iter()
            .filter(|name| lacks(name))
            .cloned()
            .collect();
        let missing = Needs {
            traces,
            ..needs.clone()
        };
        if !missing.traces.is_empty() {
            self.traces.extend(Self::read(dir, &missing)?.traces);
        }
        Ok(())
    }
}

fn read_one(dir: &Path, name: &str, entry: &Entry, needs: &Needs) -> Result<Input, InputError> {
    let cpu = read_cpu(&dir.join(format!("{name}.cpu.csv")), entry.cpu_intervals)?;
    let pages = if entry.page_writes && needs.pages.contains(name) {
        let path = dir.join(format!("{name}.mbpw"));
        let file = BufReader::new(File::open(&path).map_err(|e| io(&path, e))?);
        let read: Result<_, PageWriteError> = read_page_writes(file);
        Some(Arc::new(
            read.map_err(|source| InputError::PageWrites { path, source })?,
        ))
    } else {
        None
    };
    Ok(Input {
        format: entry.format.clone(),
        cpu: Arc::new(cpu),
        pages,
        fitted: entry.fitted.clone(),
        used_bytes: entry.used_bytes,
        cpu_provenance: entry.cpu_provenance,
        warnings: entry.warnings.clone(),
    })
}

fn io(path: &Path, source: std::io::Error) -> InputError {
    InputError::Io {
        path: path.to_owned(),
        source,
    }
}

fn write_cpu(path: &Path, cpu: &CpuTrace) -> Result<(), InputError> {
    let write = || {
        let mut out = BufWriter::new(File::create(path)?);
        let spreads = cpu.has_spreads();
        writeln!(out, "{}", if spreads { SPREAD_HEADER } else { CPU_HEADER })?;
        for (index, CpuSample { dur_ns, milli }) in cpu.samples().iter().enumerate() {
            write!(out, "{dur_ns},{milli}")?;
            if spreads {
                let spread = cpu.spread(index);
                for value in [spread.min, spread.p95, spread.max] {
                    let value = value.map(|value| value.to_string());
                    write!(out, ",{}", value.unwrap_or_default())?;
                }
            }
            writeln!(out)?;
        }
        out.flush()
    };
    write().map_err(|source| io(path, source))
}

fn read_cpu(path: &Path, intervals: usize) -> Result<CpuTrace, InputError> {
    let text = fs::read_to_string(path).map_err(|source| io(path, source))?;
    let wrong = |line: usize, found: &str, expected| InputError::Cpu {
        path: path.to_owned(),
        line,
        found: found.chars().take(80).collect(),
        expected,
    };
    let mut lines = text.lines().zip(1usize..);
    let with_spreads = match lines.next() {
        Some((CPU_HEADER, _)) => false,
        Some((SPREAD_HEADER, _)) => true,
        other => {
            let found = other.map_or("", |other| other.0);
            return Err(wrong(1, found, "the header dur_ns,cpu_milli"));
        }
    };
    let (mut samples, mut spreads) = (Vec::new(), Vec::new());
    for (line, number) in lines {
        let row = cpu_row(line, with_spreads);
        let (sample, spread) = row.ok_or_else(|| {
            let expected = "two whole numbers, and three or nothing after them";
            wrong(number, line, expected)
        })?;
        samples.push(sample);
        spreads.push(spread);
    }
    if samples.len() != intervals {
        return Err(wrong(
            samples.len() + 2,
            "",
            "as many intervals as inputs.json says",
        ));
    }
    let trace = CpuTrace::new(samples).map_err(|_| wrong(2, "", "intervals of some length"))?;
    Ok(trace.with_spreads(spreads))
}

fn cpu_row(line: &str, with_spread: bool) -> Option<(CpuSample, CpuSpread)> {
    let mut fields = line.split(',');
    let sample = CpuSample {
        dur_ns: fields.next()?.parse().ok()?,
        milli: fields.next()?.parse().ok()?,
    };
    let mut spread = CpuSpread::default();
    if with_spread {
        for value in [&mut spread.min, &mut spread.p95, &mut spread.max] {
            *value = match fields.next()? {
                "" => None,
                text => Some(text.parse().ok()?),
            };
        }
    }
    fields.next().is_none().then_some((sample, spread))
}
