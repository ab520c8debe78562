//! PlanetLab/CoMon as shipped with CloudSim: one integer a line, per cent of the VM over 300 s.
//!
//! A value holds for its 300 s (a step). CloudSim interpolates between values instead; that is a choice
//! of the replayer, not of the data. No times, no sizes: a VM counts as one core.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::lines::{Lines, shortened};
use super::{ImportError, ImportErrorKind, Part, WarningKind};
use crate::date::{DAY_MS, days_since_epoch};
use crate::store::bundle::{TimeOrigin, VmMeta};
use crate::store::series::{Interval, Metric, Series, flags};

/// Columns computed here.
pub(super) const DERIVED: [(&str, &str); 1] = [(
    "cpu_milli",
    "per cent of the VM, times ten: the source gives no cores, one is assumed",
)];

/// Length of a sample.
const STEP_MS: u32 = 300_000;
/// Samples of a day.
const USUAL: u64 = 288;

/// Reads one file.
pub(super) fn read(file: &Path, input: impl BufRead) -> Result<Part, ImportError> {
    let day_ms = file.parent().and_then(day_start_ms);
    let series = read_series(Lines::new(file, input), day_ms.unwrap_or(0))?;
    let found = series.intervals().len() as u64;
    let mut warnings = Vec::new();
    if found != USUAL && found != 0 {
        warnings.push(WarningKind::UnusualCount {
            found,
            usual: USUAL,
        });
    }
    let name = name(file);
    let meta = VmMeta {
        source_id: Some(name.clone()),
        start_ms: series.intervals().first().map(|interval| interval.t_ms),
        ..VmMeta::named(&name)
    };
    let time_origin = if day_ms.is_some() {
        TimeOrigin::UnixUtc
    } else {
        TimeOrigin::Relative
    };
    Ok(Part {
        meta,
        series,
        page_writes: None,
        time_origin,
        duplicates: 0,
        warnings,
    })
}

fn read_series<R: BufRead>(mut lines: Lines<R>, start_ms: i64) -> Result<Series, ImportError> {
    let mut series = Series::default();
    let mut t_ms = start_ms;
    let (mut first, mut blank) = (true, false);
    while let Some(line) = lines.next()? {
        let text = line.trim();
        // CloudSim Plus allows a comment with the number of lines in front.
        let comment = first && text.starts_with('#');
        first = false;
        if comment {
            continue;
        }
        if text.is_empty() {
            blank = true;
            continue;
        }
        let percent = text.parse::<u32>().ok().filter(|_| !blank).ok_or_else(|| {
            let value = if blank { "after an empty line" } else { text };
            lines.error(ImportErrorKind::Field {
                column: "CPU usage",
                value: shortened(value),
                expected: "a whole number of per cent",
            })
        })?;
        let flags = if percent > 100 {
            flags::OVER_CAPACITY
        } else {
            0
        };
        let interval = Interval {
            t_ms,
            dur_ms: STEP_MS,
            flags,
        };
        let value = [(Metric::CpuMilli, Some(u64::from(percent) * 10))];
        series
            .push(interval, &value)
            .expect("each sample starts where the last ended");
        t_ms = interval.end_ms();
    }
    if first {
        Err(lines.error(ImportErrorKind::Empty))
    } else {
        Ok(series)
    }
}

/// The files of each VM: those of one name, in the order of their days.
pub(super) fn days(files: &[PathBuf]) -> Vec<Vec<&PathBuf>> {
    let mut vms: BTreeMap<String, Vec<&PathBuf>> = BTreeMap::new();
    for file in files {
        vms.entry(name(file)).or_default().push(file);
    }
    vms.into_values().collect()
}

/// Joins the days of one VM, in order; a day that overlaps is left out with a warning.
pub(super) fn join_days(parts: Vec<(&PathBuf, Part)>) -> Vec<(&PathBuf, Part)> {
    let mut joined: Option<(&PathBuf, Part)> = None;
    for (file, part) in parts {
        let Some((_, whole)) = &mut joined else {
            joined = Some((file, part));
            continue;
        };
        whole.warnings.extend(part.warnings);
        for (index, &interval) in part.series.intervals().iter().enumerate() {
            let value = [(Metric::CpuMilli, part.series.value(Metric::CpuMilli, index))];
            if whole.series.push(interval, &value).is_err() {
                whole.warnings.push(WarningKind::OverlappingDay);
                break;
            }
        }
    }
    joined.into_iter().collect()
}

/// Names hold spaces and dots and have no ending of their own.
fn name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst"));
    plain.unwrap_or(&name).to_string()
}

/// Midnight UTC of a directory named `YYYYMMDD`. The source does not say its time zone.
fn day_start_ms(folder: &Path) -> Option<i64> {
    let name = folder.file_name()?.to_str()?;
    if name.len() != 8 || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |range: Range<usize>| name[range].parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let valid = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    valid.then(|| days_since_epoch(year, month, day) * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_eight_digits_is_a_day() {
        assert_eq!(
            day_start_ms(Path::new("x/20110303")),
            Some(1_299_110_400_000)
        );
        assert_eq!(day_start_ms(Path::new("x/20111303")), None);
        assert_eq!(day_start_ms(Path::new("x/2011-3-3")), None);
    }
}
