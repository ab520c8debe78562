//! A bundle in memory to one on disk, and the rows of its small tables. The files are `writer`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::writer::BundleWriter;
use super::{Bundle, BundleError, Manifest, PROFILES, VMS, VmMeta};
use crate::class::{Coupling, Locality, PageClass};
use crate::store::sample::{Sample, Values};
use crate::store::series::Metric;
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
        let mut writer = BundleWriter::create(dir)?;
        for (&vm, series) in &self.samples {
            for (index, &interval) in series.intervals().iter().enumerate() {
                let mut values = Values::default();
                for metric in Metric::ALL {
                    values.set(metric, series.value(metric, index));
                }
                writer.sample(&Sample {
                    vm,
                    interval,
                    values,
                })?;
            }
        }
        let manifest = &self.manifest;
        for (name, trace) in &self.page_writes {
            writer.page_writes(name, trace, &manifest.source, &manifest.licence)?;
        }
        if !self.dirty_profiles.is_empty() {
            writer.profiles(&self.dirty_profiles)?;
        }
        writer.finish(manifest, &self.vms)
    }

    /// Everything a VM refers to must be there, and every sample belong to a VM.
    pub(super) fn check_references(&self) -> Result<(), BundleError> {
        check_vms(
            &self.vms,
            |name| self.page_writes.contains_key(name),
            |profile| self.dirty_profiles.contains_key(&profile),
        )?;
        let known: BTreeSet<u32> = self.vms.iter().map(|vm| vm.vm_id).collect();
        match self.samples.keys().find(|vm_id| !known.contains(vm_id)) {
            Some(&vm_id) => Err(BundleError::UnknownVm { vm_id }),
            None => Ok(()),
        }
    }
}

/// Numbers are unique, and what a VM refers to is there.
pub(super) fn check_vms(
    vms: &[VmMeta],
    has_pages: impl Fn(&str) -> bool,
    has_profile: impl Fn(u16) -> bool,
) -> Result<(), BundleError> {
    let mut numbers: Vec<u32> = vms.iter().map(|vm| vm.vm_id).collect();
    numbers.sort_unstable();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(BundleError::DuplicateVm { vm_id: pair[0] });
    }
    for vm in vms {
        let vm_id = vm.vm_id;
        let dangling = |what, name| Err(BundleError::Dangling { vm_id, what, name });
        match &vm.page_writes {
            Some(name) if !has_pages(name) || !is_plain_name(name) => {
                return dangling("page writes", name.clone());
            }
            _ => {}
        }
        match vm.dirty_profile {
            Some(profile) if !has_profile(profile) => {
                return dangling("dirty profile", profile.to_string());
            }
            _ => {}
        }
    }
    Ok(())
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

pub(super) fn vms_table(vms: &[VmMeta]) -> Result<Table, BundleError> {
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

pub(super) fn profiles_table(
    profiles: &BTreeMap<u16, Vec<PageClass>>,
) -> Result<Table, BundleError> {
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
pub(super) fn signed(
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

pub(super) fn io_error(path: &Path, source: std::io::Error) -> BundleError {
    BundleError::Io {
        path: path.to_path_buf(),
        source,
    }
}
