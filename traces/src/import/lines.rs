//! Text lines with their numbers, bounded in length; and the fields in them.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::{ImportError, ImportErrorKind};

/// Longest line taken: a tick of 4 million scattered pages. Beyond it the input is not a trace.
const MAX_LINE: u64 = 16 << 20;

/// The lines of a file.
pub(super) struct Lines<R> {
    input: R,
    file: PathBuf,
    number: u64,
    buffer: Vec<u8>,
    /// The current line is the last and has no line feed: probably cut.
    unterminated: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(file: &Path, input: R) -> Self {
        let file = file.to_path_buf();
        Self {
            input,
            file,
            number: 0,
            buffer: Vec::new(),
            unterminated: false,
        }
    }

    /// The next line, without line feed, carriage return and byte order mark.
    pub(super) fn next(&mut self) -> Result<Option<String>, ImportError> {
        Ok(self.advance()?.then(|| self.line().to_string()))
    }

    /// Goes on to the next line; `false` when there is none.
    pub(super) fn advance(&mut self) -> Result<bool, ImportError> {
        self.number += 1;
        self.buffer.clear();
        let read = self
            .input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| self.error(ImportErrorKind::from_read(error)))?;
        if read == 0 {
            return Ok(false);
        }
        self.unterminated = self.buffer.last() != Some(&b'\n');
        if self.unterminated && read as u64 == MAX_LINE {
            return Err(self.error(ImportErrorKind::LongLine { limit: MAX_LINE }));
        }
        if std::str::from_utf8(&self.buffer).is_err() {
            return Err(self.error(ImportErrorKind::NotText));
        }
        Ok(true)
    }

    /// Hands over every line of a table after its header, trimmed, empty ones left out.
    pub(super) fn rows(
        &mut self,
        mut take: impl FnMut(&str) -> Result<(), ImportErrorKind>,
    ) -> Result<(), ImportError> {
        let mut header = true;
        while self.advance()? {
            let line = self.line().trim();
            if line.is_empty() || std::mem::take(&mut header) {
                continue;
            }
            take(line).map_err(|kind| self.error(kind))?;
        }
        Ok(())
    }

    /// The line [`advance`](Self::advance) came to.
    pub(super) fn line(&self) -> &str {
        let line = std::str::from_utf8(&self.buffer).unwrap_or_default();
        let line = if self.number == 1 {
            line.trim_start_matches('\u{feff}')
        } else {
            line
        };
        line.trim_end_matches(['\n', '\r'])
    }

    /// Where the lines come from.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// An error at the current line; a bad last line without a line feed is called cut.
    pub(super) fn error(&self, kind: ImportErrorKind) -> ImportError {
        let kind = match kind {
            ImportErrorKind::Fields { .. }
            | ImportErrorKind::Field { .. }
            | ImportErrorKind::Disagrees { .. }
            | ImportErrorKind::Column { .. }
            | ImportErrorKind::Json { .. }
                if self.unterminated =>
            {
                let found = format!("the last line does not end ({kind})");
                ImportErrorKind::Cut {
                    found,
                    expected: "a whole line",
                }
            }
            kind => kind,
        };
        ImportError::new(&self.file, self.number, kind)
    }
}

/// A number that is finite and not negative.
pub(super) fn number(column: &'static str, value: &str) -> Result<f64, ImportErrorKind> {
    let parsed = value.trim().parse::<f64>().ok();
    parsed
        .filter(|v| v.is_finite() && *v >= 0.0)
        .ok_or_else(|| ImportErrorKind::Field {
            column,
            value: shortened(value),
            expected: "a number, not negative",
        })
}

/// The fields of a line that must have as many.
pub(super) fn fields<const N: usize>(
    line: &str,
    separator: char,
) -> Result<[&str; N], ImportErrorKind> {
    let mut fields = [""; N];
    let mut found = 0;
    for field in line.split(separator) {
        if let Some(slot) = fields.get_mut(found) {
            *slot = field.trim();
        }
        found += 1;
    }
    if found == N {
        Ok(fields)
    } else {
        Err(ImportErrorKind::Fields { found, expected: N })
    }
}

/// As [`number`], where an empty field means that there is no value.
pub(super) fn optional(column: &'static str, value: &str) -> Result<Option<f64>, ImportErrorKind> {
    if value.trim().is_empty() {
        return Ok(None);
    }
    number(column, value).map(Some)
}

/// A whole number that may be negative.
pub(super) fn signed(column: &'static str, value: &str) -> Result<i64, ImportErrorKind> {
    value
        .trim()
        .parse::<i64>()
        .map_err(|_| ImportErrorKind::Field {
            column,
            value: shortened(value),
            expected: "a whole number",
        })
}

/// A whole number.
pub(super) fn whole(column: &'static str, value: &str) -> Result<u64, ImportErrorKind> {
    value
        .trim()
        .parse::<u64>()
        .map_err(|_| ImportErrorKind::Field {
            column,
            value: shortened(value),
            expected: "a whole number, not negative",
        })
}

/// Enough of a field to find it again.
pub(super) fn shortened(value: &str) -> String {
    value.chars().take(40).collect()
}
