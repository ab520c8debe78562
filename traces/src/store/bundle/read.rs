//! Reading a bundle, and looking for what is odd in one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::Path;

use super::write::{io_error, is_plain_name, parquet_error};
use super::{
    Bundle, BundleError, MANIFEST, Manifest, PAGES, PROFILES, SAMPLES, VERSION, VMS, VmMeta,
};
use crate::class::{Coupling, Locality, PageClass};
use crate::dirty::PageWriteTrace;
use crate::store::page_write;
use crate::store::series::{Interval, Metric, Series};
use crate::store::table::{Column, Table};

/// Something odd in a bundle that can be read all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A column this version does not know.
    #[error("{file}: column {column} is not known and was not read")]
    UnknownColumn {
        /// Which table.
        file: String,
        /// Which column.
        column: String,
    },
    /// A file the manifest does not list.
    #[error("{file} is not in the manifest")]
    UnlistedFile {
        /// Which file.
        file: String,
    },
    /// A VM nobody sampled.
    #[error("vm {vm_id} ({name}) has no samples")]
    NoSamples {
        /// Which VM.
        vm_id: u32,
        /// Its name.
        name: String,
    },
    /// Samples outside the life of their VM.
    #[error("vm {vm_id} has samples before its start or after its stop")]
    OutsideLife {
        /// Which VM.
        vm_id: u32,
    },
    /// A recording no VM refers to.
    #[error("pages/{name} belongs to no VM")]
    UnusedPageWrites {
        /// Which.
        name: String,
    },
}

impl Bundle {
    /// Reads a bundle; verifies checksums, row counts, order, overlaps and references.
    ///
    /// # Errors
    /// The first thing found wrong, with the file.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        load(dir).map(|(bundle, _)| bundle)
    }

    /// Reads a bundle and says what is odd in it; empty when nothing is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn check(dir: &Path) -> Result<Vec<Finding>, BundleError> {
        let (bundle, mut findings) = load(dir)?;
        findings.extend(unlisted(dir, &bundle.manifest)?);
        for vm in &bundle.vms {
            let vm_id = vm.vm_id;
            let intervals = bundle
                .samples
                .get(&vm_id)
                .map_or(&[][..], Series::intervals);
            let (Some(first), Some(last)) = (intervals.first(), intervals.last()) else {
                findings.push(Finding::NoSamples {
                    vm_id,
                    name: vm.name.clone(),
                });
                continue;
            };
            let early = vm.start_ms.is_some_and(|start| first.t_ms < start);
            if early || vm.stop_ms.is_some_and(|stop| last.end_ms() > stop) {
                findings.push(Finding::OutsideLife { vm_id });
            }
        }
        for name in bundle.page_writes.keys() {
            if !bundle
                .vms
                .iter()
                .any(|vm| vm.page_writes.as_ref() == Some(name))
            {
                findings.push(Finding::UnusedPageWrites { name: name.clone() });
            }
        }
        Ok(findings)
    }
}

fn load(dir: &Path) -> Result<(Bundle, Vec<Finding>), BundleError> {
    let path = dir.join(MANIFEST);
    let json = fs::read(&path).map_err(|source| io_error(&path, source))?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|source| BundleError::Manifest { path, source })?;
    if manifest.version != VERSION {
        return Err(BundleError::Version {
            found: manifest.version,
        });
    }
    let files = Files {
        dir,
        manifest: &manifest,
    };
    let mut findings = Vec::new();
    let vms = read_vms(files.table(VMS)?, &mut findings)?;
    let samples = read_samples(files.table(SAMPLES)?, &mut findings)?;
    let dirty_profiles = if manifest.files.contains_key(PROFILES) {
        read_profiles(files.table(PROFILES)?, &mut findings)?
    } else {
        BTreeMap::new()
    };
    let page_writes = files.page_writes()?;
    let bundle = Bundle {
        manifest: manifest.clone(),
        vms,
        samples,
        dirty_profiles,
        page_writes,
    };
    bundle.check_references()?;
    Ok((bundle, findings))
}

/// The files of a bundle, verified against its manifest.
struct Files<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
}

impl Files<'_> {
    /// The bytes of a file. Nothing is parsed before its checksum is right.
    fn bytes(&self, name: &str) -> Result<(Vec<u8>, u64), BundleError> {
        let entry = self.manifest.files.get(name);
        let entry = entry.ok_or_else(|| BundleError::NotListed {
            file: name.to_string(),
        })?;
        let path = self.dir.join(name);
        let bytes = fs::read(&path).map_err(|source| io_error(&path, source))?;
        let found = format!("{:08x}", crc32fast::hash(&bytes));
        let found_bytes = bytes.len() as u64;
        if found_bytes != entry.bytes || found != entry.crc32 {
            return Err(BundleError::Checksum {
                file: name.to_string(),
                bytes: entry.bytes,
                expected: entry.crc32.clone(),
                found_bytes,
                found,
            });
        }
        Ok((bytes, entry.rows))
    }

    fn table(&self, name: &'static str) -> Result<Reading, BundleError> {
        let (bytes, stated) = self.bytes(name)?;
        let table = Table::read(bytes).map_err(|source| parquet_error(name, source))?;
        let (rows, found) = (table.rows, table.rows as u64);
        if found != stated {
            return Err(BundleError::Rows {
                file: name.to_string(),
                stated,
                found,
            });
        }
        Ok(Reading {
            file: name,
            rows,
            columns: table.into_columns(),
        })
    }

    fn page_writes(&self) -> Result<BTreeMap<String, PageWriteTrace>, BundleError> {
        let mut traces = BTreeMap::new();
        let prefix = format!("{PAGES}/");
        for file in self.manifest.files.keys() {
            let Some(name) = file
                .strip_prefix(&prefix)
                .filter(|name| is_plain_name(name))
            else {
                continue;
            };
            let (bytes, stated) = self.bytes(file)?;
            let trace = page_write::read_page_writes(bytes.as_slice()).map_err(|source| {
                BundleError::PageWrites {
                    file: file.clone(),
                    source,
                }
            })?;
            let found = trace.ticks.len() as u64;
            if found != stated {
                return Err(BundleError::Rows {
                    file: file.clone(),
                    stated,
                    found,
                });
            }
            traces.insert(name.to_string(), trace);
        }
        Ok(traces)
    }
}

/// A table being read: columns are taken out, what is left is unknown.
struct Reading {
    file: &'static str,
    rows: usize,
    columns: BTreeMap<String, Column>,
}

impl Reading {
    /// A column of integers that may be absent altogether.
    fn ints<T: TryFrom<i64>>(
        &mut self,
        column: &'static str,
        expected: &'static str,
    ) -> Result<Vec<Option<T>>, BundleError> {
        let values = match self.columns.remove(column) {
            Some(Column::Int(values)) => values,
            None => vec![None; self.rows],
            Some(_) => return Err(self.wrong(column, "integers")),
        };
        let convert = |(row, value): (usize, Option<i64>)| match value {
            Some(value) => match T::try_from(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.value(row, column, value, expected)),
            },
            None => Ok(None),
        };
        values.into_iter().enumerate().map(convert).collect()
    }

    fn texts(&mut self, column: &'static str) -> Result<Vec<Option<String>>, BundleError> {
        match self.columns.remove(column) {
            Some(Column::Text(values)) => Ok(values),
            None => Ok(vec![None; self.rows]),
            Some(_) => Err(self.wrong(column, "text")),
        }
    }

    fn reals(&mut self, column: &'static str) -> Result<Vec<Option<f64>>, BundleError> {
        match self.columns.remove(column) {
            Some(Column::Real(values)) => Ok(values),
            _ => Err(self.wrong(column, "numbers")),
        }
    }

    /// The value of a column that must have one in every row.
    fn must<T>(
        &self,
        row: usize,
        column: &'static str,
        value: Option<T>,
    ) -> Result<T, BundleError> {
        value.ok_or_else(|| self.value(row, column, "null", "a value"))
    }

    fn wrong(&self, column: &'static str, expected: &'static str) -> BundleError {
        BundleError::Column {
            file: self.file.to_string(),
            column,
            expected,
        }
    }

    fn value(
        &self,
        row: usize,
        column: &'static str,
        value: impl Display,
        expected: &'static str,
    ) -> BundleError {
        let value = value.to_string();
        BundleError::Value {
            file: self.file.to_string(),
            row,
            column,
            value,
            expected,
        }
    }

    fn unknown(&self, findings: &mut Vec<Finding>) {
        findings.extend(self.columns.keys().map(|column| Finding::UnknownColumn {
            file: self.file.to_string(),
            column: column.clone(),
        }));
    }
}

fn read_vms(mut table: Reading, findings: &mut Vec<Finding>) -> Result<Vec<VmMeta>, BundleError> {
    const U32: &str = "0 to 2^32 - 1";
    const U64: &str = "not negative";
    let vm_id = table.ints::<u32>("vm_id", U32)?;
    let mut name = table.texts("name")?;
    let mut source_id = table.texts("source_id")?;
    let vcpus = table.ints::<u32>("vcpus", U32)?;
    let cpu_capacity_mhz = table.ints::<u32>("cpu_capacity_mhz", U32)?;
    let mem_bytes = table.ints::<u64>("mem_bytes", U64)?;
    let disk_bytes = table.ints::<u64>("disk_bytes", U64)?;
    let start_ms = table.ints::<i64>("start_ms", "")?;
    let stop_ms = table.ints::<i64>("stop_ms", "")?;
    let mut class = table.texts("class")?;
    let mut host_initial = table.texts("host_initial")?;
    let mut tags = table.texts("tags")?;
    let dirty_profile = table.ints::<u16>("dirty_profile", "0 to 65535")?;
    let mut page_writes = table.texts("page_writes")?;
    table.unknown(findings);
    let row = |row: usize| {
        Ok(VmMeta {
            vm_id: table.must(row, "vm_id", vm_id[row])?,
            name: table.must(row, "name", name[row].take())?,
            source_id: source_id[row].take(),
            vcpus: vcpus[row],
            cpu_capacity_mhz: cpu_capacity_mhz[row],
            mem_bytes: mem_bytes[row],
            disk_bytes: disk_bytes[row],
            start_ms: start_ms[row],
            stop_ms: stop_ms[row],
            class: class[row].take(),
            host_initial: host_initial[row].take(),
            tags: tags[row].take(),
            dirty_profile: dirty_profile[row],
            page_writes: page_writes[row].take(),
        })
    };
    (0..table.rows).map(row).collect()
}

fn read_samples(
    mut table: Reading,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<u32, Series>, BundleError> {
    let vm_id = table.ints::<u32>("vm_id", "0 to 2^32 - 1")?;
    let t_ms = table.ints::<i64>("t_ms", "")?;
    let dur_ms = table.ints::<u32>("dur_ms", "1 to 2^32 - 1")?;
    let flags = table.ints::<u32>("flags", "0 to 2^32 - 1")?;
    let mut metrics = Vec::new();
    for metric in Metric::ALL {
        metrics.push((metric, table.ints::<u64>(metric.column(), "not negative")?));
    }
    table.unknown(findings);
    let mut samples: BTreeMap<u32, Series> = BTreeMap::new();
    let mut previous = 0;
    for row in 0..table.rows {
        let id = table.must(row, "vm_id", vm_id[row])?;
        if id < previous {
            return Err(table.value(row, "vm_id", id, "rows sorted by vm_id, then t_ms"));
        }
        previous = id;
        let interval = Interval {
            t_ms: table.must(row, "t_ms", t_ms[row])?,
            dur_ms: table.must(row, "dur_ms", dur_ms[row])?,
            flags: flags[row].unwrap_or(0),
        };
        let values: Vec<_> = metrics
            .iter()
            .map(|(m, values)| (*m, values[row]))
            .collect();
        let series = samples.entry(id).or_default();
        series
            .push(interval, &values)
            .map_err(|source| BundleError::Series { vm_id: id, source })?;
    }
    Ok(samples)
}

fn read_profiles(
    mut table: Reading,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<u16, Vec<PageClass>>, BundleError> {
    let profile = table.ints::<u16>("profile_id", "0 to 65535")?;
    let number = table.ints::<u32>("class", "0 to 2^32 - 1")?;
    let pages = table.ints::<u32>("pages", "0 to 2^32 - 1")?;
    let rate = table.reals("rate_per_s")?;
    let coupling = table.texts("coupling")?;
    let locality = table.texts("locality")?;
    let run_pages = table.ints::<u32>("run_pages", "0 to 2^32 - 1")?;
    table.unknown(findings);
    let mut profiles: BTreeMap<u16, Vec<PageClass>> = BTreeMap::new();
    for row in 0..table.rows {
        let classes = profiles
            .entry(table.must(row, "profile_id", profile[row])?)
            .or_default();
        let class = table.must(row, "class", number[row])?;
        if u32::try_from(classes.len()) != Ok(class) {
            return Err(table.value(row, "class", class, "0, 1, 2, … within a profile"));
        }
        let rate = table.must(row, "rate_per_s", rate[row])?;
        if !rate.is_finite() || rate < 0.0 {
            return Err(table.value(row, "rate_per_s", rate, "a rate, not negative"));
        }
        let coupling = match coupling[row].as_deref() {
            Some("cpu") => Coupling::Cpu,
            Some("time") => Coupling::Time,
            other => {
                let value = other.unwrap_or("null");
                return Err(table.value(row, "coupling", value, "cpu or time"));
            }
        };
        let locality = match (locality[row].as_deref(), run_pages[row]) {
            (Some("scatter"), _) => Locality::Scatter,
            (Some("sweep"), _) => Locality::Sweep,
            (Some("runs"), Some(pages)) => Locality::Runs { pages },
            (other, _) => {
                let value = other.unwrap_or("null");
                let expected = "scatter, sweep, or runs with run_pages";
                return Err(table.value(row, "locality", value, expected));
            }
        };
        let pages = table.must(row, "pages", pages[row])?;
        classes.push(PageClass {
            pages,
            rate,
            coupling,
            locality,
        });
    }
    Ok(profiles)
}

/// Files in the bundle, one level deep, that its manifest does not list.
fn unlisted(dir: &Path, manifest: &Manifest) -> Result<Vec<Finding>, BundleError> {
    let mut findings = Vec::new();
    for folder in ["", PAGES] {
        let path = dir.join(folder);
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        for entry in entries {
            let entry = entry.map_err(|source| io_error(&path, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            if file != PAGES && file != MANIFEST && !manifest.files.contains_key(&file) {
                findings.push(Finding::UnlistedFile { file });
            }
        }
    }
    findings.sort_by_key(ToString::to_string);
    Ok(findings)
}
