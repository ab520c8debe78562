//! What QEMU says of dirtied memory: `query-migrate`, polled during a migration or asked once after it,
//! and `query-dirty-rate`.
//!
//! Answers as JSON (an array, one a line, or between other text), bare, under `return`, or under
//! `query-migrate`. QEMU renews `dirty-pages-rate` at a sync of the dirty log, over the time since it
//! last did: that time is the window of the value, and without it the value means nothing. A log with
//! `page-count` (a patched QEMU) has the pages of each round; their lengths follow from the pages sent.
//! Nothing here says how much CPU the guest used.

use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use super::files::stem;
use super::lines::shortened;
use super::{Format, ImportError, ImportErrorKind, Part, WarningKind};
use crate::store::bundle::{TimeOrigin, VmMeta};
use crate::store::series::{Interval, Metric, Series, flags};
use crate::units::{round_u32, round_u64};

/// Columns computed here.
pub(super) const DERIVED: [(&str, &str); 2] = [
    (
        "dirty_pages_w1",
        "rate x window; of page counts, the pages of the next round",
    ),
    (
        "dirty_w1_ms",
        "time between renewals of the rate, or length of the round by the pages it sent",
    ),
];

/// A file larger than this is no log of a migration.
const MOST: u64 = 512 << 20;
const MIB_PAGES: f64 = 256.0;

/// Which of the two a text is.
pub(super) fn detect(head: &str) -> Option<Format> {
    if !head.contains('{') {
        return None;
    }
    if head.contains("\"calc-time\"") {
        return Some(Format::QemuDirtyRate);
    }
    let migrate = head.contains("\"dirty-sync-count\"")
        || head.contains("\"query_migrate\"")
        || head.contains("\"query-migrate\"");
    migrate.then_some(Format::QemuMigrate)
}

/// Reads the migrations, or the series, of one file.
pub(super) fn read(
    file: &Path,
    input: impl BufRead,
    format: Format,
) -> Result<Vec<Part>, ImportError> {
    let fail = |line, kind| ImportError::new(file, line, kind);
    let mut bytes = Vec::new();
    let read = input.take(MOST).read_to_end(&mut bytes);
    read.map_err(|error| fail(0, ImportErrorKind::from_read(error)))?;
    let text = String::from_utf8(bytes).map_err(|_| fail(0, ImportErrorKind::NotText))?;
    if text.trim().is_empty() {
        return Err(fail(1, ImportErrorKind::Empty));
    }
    let mut log = Log::new(file, format);
    let start = text.trim_start();
    if start.starts_with(['{', '[']) {
        log.values(&text, 0)?;
    } else {
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with(['{', '[']) {
                log.values(line, number as u64)?;
            }
        }
    }
    Ok(log.finish())
}

/// A log being read.
struct Log<'a> {
    file: &'a Path,
    format: Format,
    parts: Vec<Part>,
    run: Run,
    skipped: u64,
}

/// A migration under way, or a series of rates.
#[derive(Default)]
struct Run {
    series: Series,
    mem_bytes: Option<u64>,
    /// Total time and value when the rate last changed.
    renewed: (u64, u64),
    last_ms: Option<u64>,
    duplicates: u64,
}

impl<'a> Log<'a> {
    fn new(file: &'a Path, format: Format) -> Self {
        Self {
            file,
            format,
            parts: Vec::new(),
            run: Run::default(),
            skipped: 0,
        }
    }

    /// Reads JSON values one after another.
    fn values(&mut self, text: &str, lines_before: u64) -> Result<(), ImportError> {
        for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            let value = value.map_err(|error| {
                let line = lines_before + error.line() as u64;
                let kind = if error.is_eof() {
                    ImportErrorKind::Cut {
                        found: "the JSON ends".to_string(),
                        expected: "the rest of it",
                    }
                } else {
                    ImportErrorKind::Json {
                        what: error.to_string(),
                        expected: "answers of QEMU as JSON",
                    }
                };
                ImportError::new(self.file, line, kind)
            })?;
            let taken = match value {
                Value::Array(values) => values.iter().try_for_each(|value| self.answer(value)),
                value => self.answer(&value),
            };
            let line = if lines_before > 0 {
                lines_before + 1
            } else {
                0
            };
            taken.map_err(|kind| ImportError::new(self.file, line, kind))?;
        }
        Ok(())
    }

    fn answer(&mut self, value: &Value) -> Result<(), ImportErrorKind> {
        let keys = [
            "return",
            "query_migrate",
            "query-migrate",
            "query-dirty-rate",
        ];
        let inner = keys.iter().find_map(|key| value.get(key)).unwrap_or(value);
        if self.format == Format::QemuDirtyRate {
            return self.dirty_rate(inner);
        }
        let Some(ram) = inner.get("ram") else {
            // Greetings, empty answers, the last word without figures.
            return Ok(());
        };
        let total_ms = whole(inner, "total-time")?;
        if self.run.last_ms.is_some_and(|last| total_ms < last) {
            self.end_run();
        }
        self.run.last_ms = Some(total_ms);
        self.run.mem_bytes = Some(whole(ram, "total")?);
        if let Some(counts) = inner.get("page-count").and_then(Value::as_array) {
            self.rounds(inner, ram, counts, total_ms)?;
            self.end_run();
            return Ok(());
        }
        let rate = whole(ram, "dirty-pages-rate")?;
        let (since, before) = self.run.renewed;
        // 0 until the first sync, and again in the answer of a migration that is over.
        if rate != before && rate > 0 && total_ms > since {
            let window = total_ms - since;
            let pages = round_u64(rate as f64 * window as f64 / 1000.0);
            self.push(since, window, pages, 0);
            self.run.renewed = (total_ms, rate);
        }
        Ok(())
    }

    /// The pages of round i + 1 were dirtied while round i was sent.
    fn rounds(
        &mut self,
        answer: &Value,
        ram: &Value,
        counts: &[Value],
        total_ms: u64,
    ) -> Result<(), ImportErrorKind> {
        let pages: Option<Vec<u64>> = counts.iter().map(Value::as_u64).collect();
        let pages = pages.ok_or_else(|| ImportErrorKind::Json {
            what: "page-count holds something else than whole numbers".to_string(),
            expected: "the pages of each round",
        })?;
        let pages: Vec<u64> = pages.into_iter().take_while(|&pages| pages > 0).collect();
        let zero = whole(ram, "duplicate")?;
        let live_ms = total_ms.saturating_sub(whole(answer, "downtime")?);
        // Zero pages, nearly all of the first round, take no time to speak of. The last round is sent
        // while the guest is paused.
        let Some((_, live)) = pages.split_last() else {
            return Ok(());
        };
        let sent = |round: usize| {
            let nothing = if round == 0 { zero } else { 0 };
            live[round].saturating_sub(nothing).max(1) as f64
        };
        let all: f64 = (0..live.len()).map(sent).sum();
        let mut t_ms = 0.0;
        for round in 0..live.len() {
            let end = t_ms + live_ms as f64 * sent(round) / all;
            let (from, to) = (round_u64(t_ms), round_u64(end));
            if to > from {
                self.push(from, to - from, pages[round + 1], flags::INTERPOLATED);
            }
            t_ms = end;
        }
        Ok(())
    }

    fn dirty_rate(&mut self, answer: &Value) -> Result<(), ImportErrorKind> {
        match answer.get("status").and_then(Value::as_str) {
            Some("measured") => {}
            Some(_) => {
                self.skipped += 1;
                return Ok(());
            }
            None => return Ok(()),
        }
        let rate = real(answer, "dirty-rate")?;
        let start_ms = round_u64(real(answer, "start-time")? * 1000.0);
        let unit = answer.get("calc-time-unit").and_then(Value::as_str);
        let factor = if unit == Some("millisecond") {
            1.0
        } else {
            1000.0
        };
        let window = round_u64(real(answer, "calc-time")? * factor);
        if window == 0 || window > u64::from(u32::MAX) {
            return Err(ImportErrorKind::Field {
                column: "calc-time",
                value: window.to_string(),
                expected: "a length from 1 ms to 49 days",
            });
        }
        let pages = round_u64(rate * MIB_PAGES * window as f64 / 1000.0);
        if self.run.last_ms == Some(start_ms) {
            // Asked twice for one measurement.
            self.run.duplicates += 1;
            return Ok(());
        }
        if self.run.last_ms.is_some_and(|last| start_ms < last) {
            self.end_run();
        }
        self.run.last_ms = Some(start_ms);
        self.push(start_ms, window, pages, 0);
        Ok(())
    }

    fn push(&mut self, from_ms: u64, window_ms: u64, pages: u64, flags: u32) {
        let dur_ms = round_u32(window_ms as f64);
        let interval = Interval {
            t_ms: i64::try_from(from_ms).unwrap_or(i64::MAX),
            dur_ms,
            flags,
        };
        let values = [
            (Metric::DirtyPagesW1, Some(pages)),
            (Metric::DirtyW1Ms, Some(u64::from(dur_ms))),
        ];
        if self.run.series.push(interval, &values).is_err() {
            // Measurements that overlap cannot both be intervals; the first stands.
            self.run.duplicates += 1;
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.last_ms.is_none() {
            return;
        }
        let mut warnings = Vec::new();
        if run.duplicates > 0 {
            warnings.push(WarningKind::Duplicates {
                count: run.duplicates,
            });
        }
        let meta = VmMeta {
            mem_bytes: run.mem_bytes,
            ..VmMeta::default()
        };
        self.parts.push(Part {
            meta,
            series: run.series,
            page_writes: None,
            time_origin: TimeOrigin::Relative,
            duplicates: run.duplicates,
            warnings,
        });
    }

    fn finish(mut self) -> Vec<Part> {
        self.end_run();
        let many = self.parts.len() > 1;
        let name = stem(self.file);
        for (number, part) in self.parts.iter_mut().enumerate() {
            part.meta.name = if many {
                format!("{name}-{}", number + 1)
            } else {
                name.clone()
            };
        }
        if let (Some(first), true) = (self.parts.first_mut(), self.skipped > 0) {
            first.warnings.push(WarningKind::LeftOut {
                count: self.skipped,
                why: "no measurement was there yet",
            });
        }
        self.parts
    }
}

fn whole(object: &Value, key: &'static str) -> Result<u64, ImportErrorKind> {
    object
        .get(key)
        .and_then(Value::as_u64)
        .ok_or_else(|| wrong(object, key, "a whole number, not negative"))
}

fn real(object: &Value, key: &'static str) -> Result<f64, ImportErrorKind> {
    object
        .get(key)
        .and_then(Value::as_f64)
        .filter(|value| value.is_finite() && *value >= 0.0)
        .ok_or_else(|| wrong(object, key, "a number, not negative"))
}

fn wrong(object: &Value, column: &'static str, expected: &'static str) -> ImportErrorKind {
    let found = object
        .get(column)
        .map_or("absent".to_string(), Value::to_string);
    ImportErrorKind::Field {
        column,
        value: shortened(&found),
        expected,
    }
}
