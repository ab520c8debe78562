//! Rows of the bundle's tables to values, each checked.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::{BundleError, Finding, VmMeta};
use crate::class::{Coupling, Locality, PageClass};
use crate::store::series::{Interval, Metric, Series};
use crate::store::table::Column;

/// A table being read: columns are taken out, what is left is unknown.
pub(super) struct Reading {
    pub(super) file: &'static str,
    pub(super) rows: usize,
    pub(super) columns: BTreeMap<String, Column>,
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

pub(super) fn read_vms(
    mut table: Reading,
    findings: &mut Vec<Finding>,
) -> Result<Vec<VmMeta>, BundleError> {
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

pub(super) fn read_samples(
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

pub(super) fn read_profiles(
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
            coupling,
            locality,
            ..PageClass::new(pages, rate)
        });
    }
    Ok(profiles)
}
