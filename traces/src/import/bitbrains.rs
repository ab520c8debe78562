//! Bitbrains GWA-T-12: `;` and a tab between fields, a header, one VM a file.
//!
//! Columns are found by name. The stamps are Unix seconds although the header says `[ms]`; a line is
//! taken to hold from its stamp to the next. Values above 100 % are kept and flagged.

use std::io::BufRead;
use std::path::Path;

use super::files::stem;
use super::lines::{Lines, number, shortened};
use super::{ImportError, ImportErrorKind, Part, WarningKind};
use crate::store::bundle::{TimeOrigin, VmMeta};
use crate::store::series::{Interval, Metric, Series, flags};
use crate::units::{round_u32, round_u64};

/// Columns computed here.
pub(super) const DERIVED: [(&str, &str); 6] = [
    (
        "cpu_milli",
        "CPU usage [%] of all cores (without the column: [MHZ] over the capacity)",
    ),
    (
        "mem_active_bytes",
        "Memory usage [KB] x 1024; the literature reads it as active memory",
    ),
    (
        "net_rx_bytes",
        "Network received throughput [KB/s] x 1024 x length",
    ),
    (
        "net_tx_bytes",
        "Network transmitted throughput [KB/s] x 1024 x length",
    ),
    (
        "disk_rd_bytes",
        "Disk read throughput [KB/s] x 1024 x length",
    ),
    (
        "disk_wr_bytes",
        "Disk write throughput [KB/s] x 1024 x length",
    ),
];

const TIME: &str = "Timestamp [ms]";
const CORES: &str = "CPU cores";
const CAPACITY: &str = "CPU capacity provisioned [MHZ]";
const USAGE_MHZ: &str = "CPU usage [MHZ]";
const USAGE: &str = "CPU usage [%]";
const MEMORY: &str = "Memory capacity provisioned [KB]";
const MEMORY_USAGE: &str = "Memory usage [KB]";
/// Rates in KB/s and where they go, as bytes in the interval.
const RATES: [(&str, Metric); 4] = [
    ("Network received throughput [KB/s]", Metric::NetRxBytes),
    ("Network transmitted throughput [KB/s]", Metric::NetTxBytes),
    ("Disk read throughput [KB/s]", Metric::DiskRdBytes),
    ("Disk write throughput [KB/s]", Metric::DiskWrBytes),
];

/// Stamps below this are seconds: as milliseconds they would lie before March 1973.
const SECONDS_BELOW: u64 = 100_000_000_000;
/// Stamps above this lie past the year 5138 in milliseconds, and are no times.
const LATEST_MS: u64 = 100_000_000_000_000;

/// Whether a line is a header of this format.
pub(super) fn is_header(line: &str) -> bool {
    line.contains(';') && split(line).next() == Some(TIME)
}

/// Reads one file.
pub(super) fn read(file: &Path, input: impl BufRead) -> Result<Part, ImportError> {
    let mut lines = Lines::new(file, input);
    let Some(header) = lines.next()? else {
        return Err(lines.error(ImportErrorKind::Empty));
    };
    let columns = Columns::find(&header).map_err(|kind| lines.error(kind))?;
    let mut rows: Vec<Row> = Vec::new();
    let (mut duplicates, mut seconds) = (0, false);
    while let Some(line) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let row = columns.row(&line).map_err(|kind| lines.error(kind))?;
        seconds |= row.seconds;
        match rows.last_mut() {
            Some(last) if row.t_ms < last.t_ms => {
                let (previous, found) = (last.t_ms / 1000, row.t_ms / 1000);
                let kind = ImportErrorKind::GoesBack {
                    column: TIME,
                    previous,
                    found,
                };
                return Err(lines.error(kind));
            }
            Some(last) if row.t_ms == last.t_ms => {
                *last = row;
                duplicates += 1;
            }
            _ => rows.push(row),
        }
    }
    let mut warnings = Vec::new();
    if duplicates > 0 {
        warnings.push(WarningKind::Duplicates { count: duplicates });
    }
    if seconds {
        warnings.push(WarningKind::SecondsNotMs);
    }
    let meta = meta(file, &rows);
    if meta.vcpus.is_none() && !rows.is_empty() {
        warnings.push(WarningKind::UnknownCores);
    }
    Ok(Part {
        meta,
        series: series(&rows),
        page_writes: None,
        time_origin: TimeOrigin::UnixUtc,
        duplicates,
        warnings,
    })
}

/// Where each column is.
struct Columns {
    count: usize,
    time: usize,
    cores: usize,
    capacity: Option<usize>,
    usage_mhz: Option<usize>,
    usage: Option<usize>,
    memory: Option<usize>,
    memory_usage: Option<usize>,
    rates: [Option<usize>; RATES.len()],
}

/// One line. `rates` in bytes a second.
#[derive(Debug, Clone)]
struct Row {
    t_ms: u64,
    seconds: bool,
    cores: f64,
    capacity_mhz: f64,
    /// Share of the whole VM, 1 = all of it.
    share: f64,
    memory_bytes: Option<u64>,
    memory_usage_bytes: Option<u64>,
    rates: [Option<f64>; RATES.len()],
}

/// Fields without blanks around them; separators at the end of a line add none.
fn split(line: &str) -> impl Iterator<Item = &str> {
    line.trim_end()
        .trim_end_matches(';')
        .split(';')
        .map(str::trim)
}

impl Columns {
    fn find(header: &str) -> Result<Self, ImportErrorKind> {
        let names: Vec<&str> = split(header).collect();
        let find = |column: &str| {
            names
                .iter()
                .position(|name| name.eq_ignore_ascii_case(column))
        };
        let must = |column| find(column).ok_or(ImportErrorKind::NoColumn { column });
        let usage = find(USAGE);
        if usage.is_none() {
            must(USAGE_MHZ).and(must(CAPACITY))?;
        }
        Ok(Self {
            count: names.len(),
            time: must(TIME)?,
            cores: must(CORES)?,
            capacity: find(CAPACITY),
            usage_mhz: find(USAGE_MHZ),
            usage,
            memory: find(MEMORY),
            memory_usage: find(MEMORY_USAGE),
            rates: RATES.map(|(column, _)| find(column)),
        })
    }

    fn row(&self, line: &str) -> Result<Row, ImportErrorKind> {
        let fields: Vec<&str> = split(line).collect();
        if fields.len() != self.count {
            return Err(ImportErrorKind::Fields {
                found: fields.len(),
                expected: self.count,
            });
        }
        let get = |at: Option<usize>, column| at.map(|at| number(column, fields[at])).transpose();
        let (t_ms, seconds) = stamp(fields[self.time])?;
        let capacity_mhz = get(self.capacity, CAPACITY)?.unwrap_or(0.0);
        let used_mhz = get(self.usage_mhz, USAGE_MHZ)?.unwrap_or(0.0);
        let share = match get(self.usage, USAGE)? {
            Some(percent) => percent / 100.0,
            None if capacity_mhz > 0.0 => used_mhz / capacity_mhz,
            None => 0.0,
        };
        let mut rates = [None; RATES.len()];
        for (rate, (&at, (column, _))) in rates.iter_mut().zip(self.rates.iter().zip(RATES)) {
            *rate = get(at, column)?.map(|kilobytes| kilobytes * 1024.0);
        }
        let bytes = |kilobytes: f64| round_u64(kilobytes * 1024.0);
        Ok(Row {
            t_ms,
            seconds,
            cores: number(CORES, fields[self.cores])?,
            capacity_mhz,
            share,
            memory_bytes: get(self.memory, MEMORY)?.map(bytes),
            memory_usage_bytes: get(self.memory_usage, MEMORY_USAGE)?.map(bytes),
            rates,
        })
    }
}

/// A stamp in milliseconds, and whether it was in seconds.
fn stamp(text: &str) -> Result<(u64, bool), ImportErrorKind> {
    let value = number(TIME, text)?;
    let whole = round_u64(value);
    if value.fract() != 0.0 || whole > LATEST_MS {
        return Err(ImportErrorKind::Field {
            column: TIME,
            value: shortened(text),
            expected: "whole Unix seconds or milliseconds",
        });
    }
    let seconds = whole < SECONDS_BELOW;
    Ok((if seconds { whole * 1000 } else { whole }, seconds))
}

fn meta(file: &Path, rows: &[Row]) -> VmMeta {
    let largest = |get: fn(&Row) -> f64| rows.iter().map(get).fold(0.0, f64::max);
    // Zero cores or bytes means that the source does not know, and unknown is never 0.
    let known = |value: u32| Some(value).filter(|&v| v > 0);
    let name = stem(file);
    VmMeta {
        source_id: Some(name.clone()),
        vcpus: known(round_u32(largest(|row| row.cores))),
        cpu_capacity_mhz: known(round_u32(largest(|row| row.capacity_mhz))),
        mem_bytes: rows
            .iter()
            .filter_map(|row| row.memory_bytes)
            .max()
            .filter(|&bytes| bytes > 0),
        start_ms: rows.first().and_then(|row| i64::try_from(row.t_ms).ok()),
        ..VmMeta::named(&name)
    }
}

fn series(rows: &[Row]) -> Series {
    let mut series = Series::default();
    let nominal = nominal_ms(rows);
    for (index, row) in rows.iter().enumerate() {
        // A line holds up to the next one, unless that is so late that lines are missing between.
        let step = rows
            .get(index + 1)
            .map_or(nominal, |next| next.t_ms - row.t_ms);
        let dur = if step > nominal + nominal / 2 {
            nominal
        } else {
            step
        };
        let (Ok(t_ms), Ok(dur_ms)) = (i64::try_from(row.t_ms), u32::try_from(dur)) else {
            break;
        };
        let flags = if row.share > 1.0 {
            flags::OVER_CAPACITY
        } else {
            0
        };
        let cores = if row.cores > 0.0 { row.cores } else { 1.0 };
        let mut values = vec![
            (
                Metric::CpuMilli,
                Some(round_u64(row.share * cores * 1000.0)),
            ),
            (Metric::MemActiveBytes, row.memory_usage_bytes),
        ];
        for ((_, metric), rate) in RATES.iter().zip(row.rates) {
            values.push((
                *metric,
                rate.map(|rate| round_u64(rate * dur as f64 / 1000.0)),
            ));
        }
        let interval = Interval {
            t_ms,
            dur_ms,
            flags,
        };
        series
            .push(interval, &values)
            .expect("lines ascend and end before the next begins");
    }
    series
}

/// The median distance of lines; the published 300 s when there is but one line.
fn nominal_ms(rows: &[Row]) -> u64 {
    let mut steps: Vec<u64> = rows
        .windows(2)
        .map(|pair| pair[1].t_ms - pair[0].t_ms)
        .collect();
    steps.sort_unstable();
    // At most a day: a file of two distant lines says nothing of its step.
    steps
        .get(steps.len() / 2)
        .copied()
        .unwrap_or(300_000)
        .clamp(1, 86_400_000)
}
