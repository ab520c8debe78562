//! Logs of migrations, read as such: QEMU's `query-migrate` and libvirt's `virsh domjobinfo`, polled.
//!
//! QEMU's answers as JSON: an array, one a line or between other text, bare, under `return` or under `query-migrate` (an array of
//! several commands' answers too). libvirt's as its text, one block after another. Not read here: what is done with them
//! (`crate::migration_log`). Never inside: guesses about fields that an answer lacks, but those of a greeting or an answer without
//! figures, which are none.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::files::{open, stem};
use super::lines::shortened;
use super::{ImportError, ImportErrorKind, Progress};
use crate::migration_log::{MigrationLog, Poll};
use crate::units::round_u64;

/// A file larger than this is no log of a migration.
const MOST: u64 = 512 << 20;

/// The migrations that a file tells of, in its order.
///
/// # Errors
/// With file and line: what cannot be read, and what is no log of a migration.
pub fn migration_logs(file: &Path) -> Result<Vec<MigrationLog>, ImportError> {
    let fail = |line, kind| ImportError::new(file, line, kind);
    let mut bytes = Vec::new();
    let input = open(file, &Arc::new(Progress::default()))?;
    let read = input.take(MOST).read_to_end(&mut bytes);
    read.map_err(|error| fail(0, ImportErrorKind::from_read(error)))?;
    let text = String::from_utf8(bytes).map_err(|_| fail(0, ImportErrorKind::NotText))?;
    if text.trim().is_empty() {
        return Err(fail(1, ImportErrorKind::Empty));
    }
    let mut reader = Reader::default();
    if text
        .lines()
        .any(|line| line.trim_start().starts_with("Job type:"))
    {
        reader
            .domjobinfo(&text)
            .map_err(|(line, kind)| fail(line, kind))?;
    } else {
        reader
            .json(&text)
            .map_err(|(line, kind)| fail(line, kind))?;
    }
    let logs = reader.finish(file);
    if logs.is_empty() {
        return Err(fail(1, ImportErrorKind::NoSamples));
    }
    Ok(logs)
}

type Failed = (u64, ImportErrorKind);

#[derive(Default)]
struct Reader {
    logs: Vec<MigrationLog>,
    log: MigrationLog,
}

impl Reader {
    fn json(&mut self, text: &str) -> Result<(), Failed> {
        if text.trim_start().starts_with(['{', '[']) {
            return self.values(text, 0);
        }
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with(['{', '[']) {
                self.values(line, number as u64)?;
            }
        }
        Ok(())
    }

    fn values(&mut self, text: &str, lines_before: u64) -> Result<(), Failed> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        loop {
            // Of a value in one line, that line; of one that fills the file, the line where the next begins.
            let rest = &text[values.byte_offset()..];
            let next = text.len() - rest.trim_start().len();
            let begun = text[..next].matches('\n').count() as u64 + 1;
            let Some(value) = values.next() else {
                return Ok(());
            };
            let value = value.map_err(|error| {
                let kind = if error.is_eof() {
                    ImportErrorKind::Cut {
                        found: "the JSON ends".to_owned(),
                        expected: "the rest of it",
                    }
                } else {
                    ImportErrorKind::Json {
                        what: error.to_string(),
                        expected: "answers of QEMU as JSON",
                    }
                };
                (lines_before + error.line() as u64, kind)
            })?;
            let taken = match value {
                Value::Array(values) => values.iter().try_for_each(|value| self.answer(value)),
                value => self.answer(&value),
            };
            taken.map_err(|kind| (lines_before + begun, kind))?;
        }
    }

    fn answer(&mut self, value: &Value) -> Result<(), ImportErrorKind> {
        let keys = ["return", "query_migrate", "query-migrate"];
        let inner = keys.iter().find_map(|key| value.get(key)).unwrap_or(value);
        let Some(ram) = inner.get("ram") else {
            // Greetings, empty answers, the last word without figures.
            return Ok(());
        };
        let status = inner
            .get("status")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let some = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
        let poll = Poll {
            at_ms: whole(inner, "total-time")?,
            remaining: whole(ram, "remaining")?,
            transferred: whole(ram, "transferred")?,
            normal: whole(ram, "normal")?,
            zero: whole(ram, "duplicate")?,
            syncs: whole(ram, "dirty-sync-count")?,
            mbps: ram
                .get("mbps")
                .and_then(Value::as_f64)
                .filter(|mbps| mbps.is_finite()),
            throttle: some(inner, "cpu-throttle-percentage"),
            expected_downtime_ms: some(inner, "expected-downtime"),
            downtime_bytes: some(ram, "downtime-bytes"),
            precopy_bytes: some(ram, "precopy-bytes"),
            postcopy: status.starts_with("postcopy"),
        };
        let ram_bytes = whole(ram, "total")?;
        self.take(poll, ram_bytes);
        if let Some(counts) = inner.get("page-count").and_then(Value::as_array) {
            let rounds: Option<Vec<u64>> = counts.iter().map(Value::as_u64).collect();
            let rounds = rounds.ok_or_else(|| ImportErrorKind::Json {
                what: "page-count holds something else than whole numbers".to_owned(),
                expected: "the pages of each round",
            })?;
            self.log.rounds = rounds.into_iter().take_while(|&pages| pages > 0).collect();
        }
        if ["completed", "failed", "cancelled"].contains(&status) {
            self.log.completed = status == "completed";
            self.log.downtime_ms = some(inner, "downtime").filter(|_| self.log.completed);
            self.end();
        }
        Ok(())
    }

    /// Adds an answer; time that goes back is another migration's.
    fn take(&mut self, poll: Poll, ram_bytes: u64) {
        if self
            .log
            .polls
            .last()
            .is_some_and(|last| poll.at_ms < last.at_ms)
        {
            self.end();
        }
        self.log.ram_bytes = self.log.ram_bytes.max(ram_bytes);
        self.log.polls.push(poll);
    }

    fn end(&mut self) {
        let log = std::mem::take(&mut self.log);
        if !log.polls.is_empty() {
            self.logs.push(log);
        }
    }

    fn domjobinfo(&mut self, text: &str) -> Result<(), Failed> {
        let mut block: Option<Block<'_>> = None;
        for (number, line) in text.lines().enumerate() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            if key == "Job type" {
                if let Some(done) = block.take() {
                    self.block(&done)?;
                }
                block = Some(Block::new(number as u64 + 1, value));
            } else if let Some(block) = &mut block {
                block.fields.push((number as u64 + 1, key, value));
            }
        }
        block.map_or(Ok(()), |block| self.block(&block))
    }

    fn block(&mut self, block: &Block<'_>) -> Result<(), Failed> {
        let Some(total) = block.size("Memory total")? else {
            // No job, or a job that is not a migration.
            return Ok(());
        };
        let need = |value: Option<u64>, column| {
            let lacks = || (block.line, ImportErrorKind::NoColumn { column });
            value.ok_or_else(lacks)
        };
        let completed = block.kind == "Completed";
        let poll = Poll {
            at_ms: need(block.number("Time elapsed")?, "Time elapsed")?,
            remaining: need(block.size("Memory remaining")?, "Memory remaining")?,
            transferred: need(block.size("Memory processed")?, "Memory processed")?,
            normal: need(block.number("Normal pages")?, "Normal pages")?,
            zero: need(block.number("Constant pages")?, "Constant pages")?,
            syncs: need(block.number("Iteration")?, "Iteration")?,
            mbps: block
                .size("Memory bandwidth")?
                .map(|bytes| bytes as f64 * 8.0 / 1e6),
            throttle: block.number("Auto converge throttle")?,
            expected_downtime_ms: block.number("Expected downtime")?,
            ..Poll::default()
        };
        self.take(poll, total);
        self.log.libvirt = true;
        if completed || block.kind == "Failed" || block.kind == "Cancelled" {
            self.log.completed = completed;
            self.log.downtime_ms = block.number("Total downtime")?.filter(|_| completed);
            self.end();
        }
        Ok(())
    }

    fn finish(mut self, file: &Path) -> Vec<MigrationLog> {
        self.end();
        let (name, many) = (stem(file), self.logs.len() > 1);
        for (number, log) in self.logs.iter_mut().enumerate() {
            log.name = if many {
                format!("{name}-{}", number + 1)
            } else {
                name.clone()
            };
        }
        self.logs
    }
}

/// One answer of `virsh domjobinfo`.
struct Block<'a> {
    line: u64,
    kind: &'a str,
    fields: Vec<(u64, &'a str, &'a str)>,
}

impl<'a> Block<'a> {
    fn new(line: u64, kind: &'a str) -> Self {
        Self {
            line,
            kind,
            fields: Vec::new(),
        }
    }

    fn field(&self, key: &str) -> Option<(u64, &'a str)> {
        let found = self.fields.iter().find(|(_, name, _)| *name == key);
        found.map(|(line, _, value)| (*line, *value))
    }

    fn number(&self, key: &'static str) -> Result<Option<u64>, Failed> {
        let Some((line, value)) = self.field(key) else {
            return Ok(None);
        };
        let first = value.split_whitespace().next().unwrap_or_default();
        let wrong = || ImportErrorKind::Field {
            column: key,
            value: shortened(value),
            expected: "a whole number, not negative",
        };
        first.parse().map(Some).map_err(|_| (line, wrong()))
    }

    /// `1.234 GiB`, or `1.234 GiB/s`.
    fn size(&self, key: &'static str) -> Result<Option<u64>, Failed> {
        let Some((line, value)) = self.field(key) else {
            return Ok(None);
        };
        let wrong = || ImportErrorKind::Field {
            column: key,
            value: shortened(value),
            expected: "a size such as `1.234 GiB`",
        };
        let mut words = value.split_whitespace();
        let number = words.next().and_then(|word| word.parse::<f64>().ok());
        let unit = match words.next().map(|unit| unit.trim_end_matches("/s")) {
            Some("B") => Some(1.0),
            Some("KiB") => Some(1024.0),
            Some("MiB") => Some(1_048_576.0),
            Some("GiB") => Some(1_073_741_824.0),
            Some("TiB") => Some(1_099_511_627_776.0),
            _ => None,
        };
        let bytes = number.zip(unit).map(|(number, unit)| number * unit);
        let bytes = bytes.filter(|bytes| bytes.is_finite() && *bytes >= 0.0);
        bytes
            .map(|bytes| Some(round_u64(bytes)))
            .ok_or_else(|| (line, wrong()))
    }
}

fn whole(object: &Value, key: &'static str) -> Result<u64, ImportErrorKind> {
    let value = object.get(key);
    value
        .and_then(Value::as_u64)
        .ok_or_else(|| ImportErrorKind::Field {
            column: key,
            value: shortened(&value.map_or("absent".to_owned(), Value::to_string)),
            expected: "a whole number, not negative",
        })
}

#[cfg(test)]
#[path = "migration_tests.rs"]
mod tests;
