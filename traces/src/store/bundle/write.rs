//! Writing a bundle: all of it into a directory beside the place, then one rename.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{
    Bundle, BundleError, FileEntry, MANIFEST, Manifest, PAGES, PROFILES, SAMPLES, VERSION, VMS,
    VmMeta,
};
use crate::class::{Coupling, Locality, PageClass};
use crate::store::page_write::{self, Origin};
use crate::store::series::{Metric, Series};
use crate::store::table::{Column, Table};

impl Bundle {
    /// Writes the bundle to `dir`, which must not exist or be empty, and returns the manifest written.
    ///
    /// The rename is the commit point: before it, whatever fails, `dir` is as it was and the part
    /// written is removed.
    ///
    /// # Errors
    /// When the bundle contradicts itself, there is something at `dir`, or the system refuses.
    pub fn write(&self, dir: &Path) -> Result<Manifest, BundleError> {
        self.check_references()?;
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(BundleError::Exists {
                path: dir.to_path_buf(),
            });
        }
        let partial = Partial::create(dir)?;
        let mut files = BTreeMap::new();
        let mut table = |name: &str, table: &Table, required: &[&str]| {
            let mut bytes = Vec::new();
            table
                .write(&mut bytes, required)
                .map_err(|source| parquet_error(name, source))?;
            partial.put(name, &bytes, table.rows as u64, &mut files)
        };
        table(VMS, &vms_table(&self.vms)?, &["vm_id", "name"])?;
        table(
            SAMPLES,
            &samples_table(&self.samples)?,
            &["vm_id", "t_ms", "dur_ms", "flags"],
        )?;
        if !self.dirty_profiles.is_empty() {
            let required = [
                "profile_id",
                "class",
                "pages",
                "rate_per_s",
                "coupling",
                "locality",
            ];
            table(PROFILES, &profiles_table(&self.dirty_profiles)?, &required)?;
        }
        for (name, trace) in &self.page_writes {
            let file = format!("{PAGES}/{name}");
            let mut bytes = Vec::new();
            let origin: Origin = [
                ("source".to_string(), self.manifest.source.clone()),
                ("licence".to_string(), self.manifest.licence.clone()),
            ]
            .into();
            page_write::write_page_writes_with_origin(trace, &origin, &mut bytes).map_err(
                |source| BundleError::PageWrites {
                    file: file.clone(),
                    source,
                },
            )?;
            partial.put(&file, &bytes, trace.ticks.len() as u64, &mut files)?;
        }
        let manifest = Manifest {
            version: VERSION,
            files,
            ..self.manifest.clone()
        };
        let json = serde_json::to_vec_pretty(&manifest).expect("plain fields are always JSON");
        partial.put(MANIFEST, &json, 0, &mut BTreeMap::new())?;
        partial.commit(dir)?;
        Ok(manifest)
    }

    /// Everything a VM refers to must be there, and every sample belong to a VM.
    pub(super) fn check_references(&self) -> Result<(), BundleError> {
        let mut seen = BTreeMap::new();
        for vm in &self.vms {
            let vm_id = vm.vm_id;
            if seen.insert(vm_id, ()).is_some() {
                return Err(BundleError::DuplicateVm { vm_id });
            }
            let dangling = |what, name| Err(BundleError::Dangling { vm_id, what, name });
            match &vm.page_writes {
                Some(name) if !self.page_writes.contains_key(name) || !is_plain_name(name) => {
                    return dangling("page writes", name.clone());
                }
                _ => {}
            }
            match vm.dirty_profile {
                Some(profile) if !self.dirty_profiles.contains_key(&profile) => {
                    return dangling("dirty profile", profile.to_string());
                }
                _ => {}
            }
        }
        match self.samples.keys().find(|vm_id| !seen.contains_key(vm_id)) {
            Some(&vm_id) => Err(BundleError::UnknownVm { vm_id }),
            None => Ok(()),
        }
    }
}

/// A file name, not a path: it comes from a table and must not lead out of the bundle.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

pub(super) fn parquet_error(file: &str, source: parquet::errors::ParquetError) -> BundleError {
    BundleError::Parquet {
        file: file.to_string(),
        source,
    }
}

fn vms_table(vms: &[VmMeta]) -> Result<Table, BundleError> {
    let mut table = Table::default();
    let int = |get: fn(&VmMeta) -> Option<i64>| Column::Int(vms.iter().map(get).collect());
    let text = |get: fn(&VmMeta) -> Option<String>| Column::Text(vms.iter().map(get).collect());
    let large = |column, get: fn(&VmMeta) -> Option<u64>| {
        let values = vms
            .iter()
            .enumerate()
            .map(|(row, vm)| signed(VMS, column, row, get(vm)));
        Ok::<_, BundleError>(Column::Int(values.collect::<Result<_, _>>()?))
    };
    table.push("vm_id", int(|vm| Some(i64::from(vm.vm_id))));
    table.push("name", text(|vm| Some(vm.name.clone())));
    table.push("source_id", text(|vm| vm.source_id.clone()));
    table.push("vcpus", int(|vm| vm.vcpus.map(i64::from)));
    table.push(
        "cpu_capacity_mhz",
        int(|vm| vm.cpu_capacity_mhz.map(i64::from)),
    );
    table.push("mem_bytes", large("mem_bytes", |vm| vm.mem_bytes)?);
    table.push("disk_bytes", large("disk_bytes", |vm| vm.disk_bytes)?);
    table.push("start_ms", int(|vm| vm.start_ms));
    table.push("stop_ms", int(|vm| vm.stop_ms));
    table.push("class", text(|vm| vm.class.clone()));
    table.push("host_initial", text(|vm| vm.host_initial.clone()));
    table.push("tags", text(|vm| vm.tags.clone()));
    table.push("dirty_profile", int(|vm| vm.dirty_profile.map(i64::from)));
    table.push("page_writes", text(|vm| vm.page_writes.clone()));
    Ok(table)
}

fn samples_table(samples: &BTreeMap<u32, Series>) -> Result<Table, BundleError> {
    let mut table = Table::default();
    let each = |get: fn(u32, &crate::store::series::Interval) -> i64| {
        let rows = samples.iter().flat_map(|(&vm_id, series)| {
            series
                .intervals()
                .iter()
                .map(move |interval| Some(get(vm_id, interval)))
        });
        Column::Int(rows.collect())
    };
    table.push("vm_id", each(|vm_id, _| i64::from(vm_id)));
    table.push("t_ms", each(|_, interval| interval.t_ms));
    table.push("dur_ms", each(|_, interval| i64::from(interval.dur_ms)));
    for metric in Metric::ALL {
        let mut values = Vec::with_capacity(table.rows);
        for series in samples.values() {
            for index in 0..series.intervals().len() {
                let value = series.value(metric, index);
                values.push(signed(SAMPLES, metric.column(), values.len(), value)?);
            }
        }
        table.push(metric.column(), Column::Int(values));
    }
    table.push("flags", each(|_, interval| i64::from(interval.flags)));
    Ok(table)
}

fn profiles_table(profiles: &BTreeMap<u16, Vec<PageClass>>) -> Result<Table, BundleError> {
    let rows: Vec<(u16, usize, &PageClass)> = profiles
        .iter()
        .flat_map(|(&id, classes)| classes.iter().enumerate().map(move |(k, c)| (id, k, c)))
        .collect();
    for (row, (_, _, class)) in rows.iter().enumerate() {
        if !class.rate.is_finite() || class.rate < 0.0 {
            let (file, column, value) =
                (PROFILES.to_string(), "rate_per_s", class.rate.to_string());
            let expected = "a rate, not negative";
            return Err(BundleError::Value {
                file,
                row,
                column,
                value,
                expected,
            });
        }
    }
    let int = |get: fn(&(u16, usize, &PageClass)) -> Option<i64>| {
        Column::Int(rows.iter().map(get).collect())
    };
    let text = |get: fn(&PageClass) -> &'static str| {
        Column::Text(
            rows.iter()
                .map(|(_, _, class)| Some(get(class).to_string()))
                .collect(),
        )
    };
    let mut table = Table::default();
    table.push("profile_id", int(|&(id, ..)| Some(i64::from(id))));
    table.push("class", int(|&(_, class, _)| i64::try_from(class).ok()));
    table.push("pages", int(|(_, _, class)| Some(i64::from(class.pages))));
    let rates = rows.iter().map(|(_, _, class)| Some(class.rate)).collect();
    table.push("rate_per_s", Column::Real(rates));
    table.push("coupling", text(|class| coupling_name(class.coupling)));
    table.push("locality", text(|class| locality_name(class.locality)));
    table.push(
        "run_pages",
        int(|(_, _, class)| match class.locality {
            Locality::Runs { pages } => Some(i64::from(pages)),
            Locality::Scatter | Locality::Sweep => None,
        }),
    );
    Ok(table)
}

fn coupling_name(coupling: Coupling) -> &'static str {
    match coupling {
        Coupling::Cpu => "cpu",
        Coupling::Time => "time",
    }
}

fn locality_name(locality: Locality) -> &'static str {
    match locality {
        Locality::Scatter => "scatter",
        Locality::Runs { .. } => "runs",
        Locality::Sweep => "sweep",
    }
}

/// Parquet's integers are signed.
fn signed(
    file: &str,
    column: &'static str,
    row: usize,
    value: Option<u64>,
) -> Result<Option<i64>, BundleError> {
    value
        .map(i64::try_from)
        .transpose()
        .map_err(|_| BundleError::Value {
            file: file.to_string(),
            row,
            column,
            value: value.unwrap_or_default().to_string(),
            expected: "below 2^63",
        })
}

/// The directory a bundle is written to before it gets its name; removed unless committed.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn create(dir: &Path) -> Result<Self, BundleError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        // The process id keeps two writers apart; a left-over of a killed one is replaced.
        let path = dir.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))?;
        }
        let partial = Self { path };
        let pages = partial.path.join(PAGES);
        fs::create_dir_all(&pages).map_err(|source| io_error(&pages, source))?;
        Ok(partial)
    }

    fn put(
        &self,
        name: &str,
        bytes: &[u8],
        rows: u64,
        files: &mut BTreeMap<String, FileEntry>,
    ) -> Result<(), BundleError> {
        let path = self.path.join(name);
        fs::write(&path, bytes).map_err(|source| io_error(&path, source))?;
        let crc32 = format!("{:08x}", crc32fast::hash(bytes));
        files.insert(
            name.to_string(),
            FileEntry {
                rows,
                bytes: bytes.len() as u64,
                crc32,
            },
        );
        Ok(())
    }

    fn commit(self, dir: &Path) -> Result<(), BundleError> {
        fs::rename(&self.path, dir).map_err(|source| io_error(dir, source))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already after a commit; otherwise a failure here would hide the first error.
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub(super) fn io_error(path: &Path, source: std::io::Error) -> BundleError {
    BundleError::Io {
        path: path.to_path_buf(),
        source,
    }
}
