//! Which reader reads a file: the format of several files, and the table a file is.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::open;
use super::format::{detect, first_line};
use super::stream::Rows;
use super::{Format, ImportError, ImportErrorKind};
use super::{alibaba2017, alibaba2018, azure, domstats, google2011, google2019, huawei, packing};

/// How a format of tables is read.
pub(super) fn rows(format: Format) -> Option<Rows> {
    Some(match format {
        Format::Azure => azure::ROWS,
        Format::Google2011 => google2011::ROWS,
        Format::Google2019 => google2019::ROWS,
        Format::Alibaba2017 => alibaba2017::ROWS,
        Format::Alibaba2018 => alibaba2018::ROWS,
        Format::LibvirtDomstats => domstats::ROWS,
        Format::AzurePacking => packing::ROWS,
        Format::Huawei => huawei::ROWS,
        _ => return None,
    })
}

/// The format of the first file that says what it is: beside tables there may lie files that do not.
pub(super) fn detect_any(files: &[PathBuf], first: &Path) -> Result<Format, ImportError> {
    let look = |file: &Path| {
        let mut input = open(file, &Arc::default())?;
        let line_1 = |kind| ImportError::new(file, 1, kind);
        let found = detect(&mut input).map_err(|e| line_1(ImportErrorKind::from_read(e)))?;
        if let Some(format) = found {
            return Ok(format);
        }
        let head = input.fill_buf();
        let head = head.map_err(|e| line_1(ImportErrorKind::from_read(e)))?;
        let head = String::from_utf8_lossy(&head[..head.len().min(40)]).into_owned();
        Err(line_1(if head.is_empty() {
            ImportErrorKind::Empty
        } else {
            ImportErrorKind::UnknownFormat { starts: head }
        }))
    };
    let error = match look(first) {
        Ok(format) => return Ok(format),
        Err(error) => error,
    };
    let others = files.iter().skip(1).filter_map(|file| look(file).ok());
    // Only formats of several tables have files that cannot be told on their own.
    let mut others = others.filter(|&format| rows(format).is_some());
    others.next().ok_or(error)
}

/// Which table of the format a file is, if any.
pub(super) fn table_of(rows: &Rows, file: &Path) -> Result<Option<u8>, ImportError> {
    let head = head(file)?;
    let head = String::from_utf8_lossy(&head);
    Ok(first_line(&head).and_then(|line| (rows.table)(&line)))
}

/// What is wrong with a file that is no table of its format.
pub(super) fn no_table(format: Format, file: &Path) -> ImportError {
    let head = match head(file) {
        Ok(head) => head,
        Err(error) => return error,
    };
    let kind = if head.is_empty() {
        ImportErrorKind::Empty
    } else {
        let text = String::from_utf8_lossy(&head[..head.len().min(40)]).into_owned();
        ImportErrorKind::OtherFormat {
            found: format!("it starts with {text:?}"),
            expected: format,
        }
    };
    ImportError::new(file, 1, kind)
}

/// The first bytes. Only a look: what is read here is read again, and not counted.
fn head(file: &Path) -> Result<Vec<u8>, ImportError> {
    let mut input = open(file, &Arc::default())?;
    let head = input.fill_buf();
    let head =
        head.map_err(|error| ImportError::new(file, 1, ImportErrorKind::from_read(error)))?;
    Ok(head[..head.len().min(8192)].to_vec())
}
