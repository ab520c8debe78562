//! PlanetLab/CoMon as shipped with CloudSim: one integer a line, per cent of the VM over 300 s.
//!
//! A value holds for its 300 s (a step). CloudSim interpolates between values instead; that is a choice
//! of the replayer, not of the data. No times, no sizes: a VM counts as one core.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::lines::{Lines, shortened};
use super::{ImportError, ImportErrorKind, Part, Parts, WarningKind};
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
const DAY_MS: i64 = 86_400_000;

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
    // Names hold spaces and dots and have no ending of their own.
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = name
        .strip_suffix(".gz")
        .or(name.strip_suffix(".zst"))
        .unwrap_or(&name);
    let meta = VmMeta {
        source_id: Some(name.to_string()),
        start_ms: series.intervals().first().map(|interval| interval.t_ms),
        ..VmMeta::named(name)
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

/// Joins the days of one VM, in order; a day that overlaps is left out with a warning.
pub(super) fn join_days(parts: Vec<(&Path, Part)>) -> Parts {
    let mut joined: BTreeMap<String, (PathBuf, Part)> = BTreeMap::new();
    for (file, part) in parts {
        let Some((_, whole)) = joined.get_mut(&part.meta.name) else {
            joined.insert(part.meta.name.clone(), (file.to_path_buf(), part));
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
    joined.into_values().collect()
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

/// Days from 1970-01-01, Gregorian: years counted from March, so that the leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_from_the_epoch() {
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
        assert_eq!(days_since_epoch(2000, 2, 29), 11_016);
        assert_eq!(
            day_start_ms(Path::new("x/20110303")),
            Some(1_299_110_400_000)
        );
        assert_eq!(day_start_ms(Path::new("x/20111303")), None);
        assert_eq!(day_start_ms(Path::new("x/2011-3-3")), None);
    }
}
