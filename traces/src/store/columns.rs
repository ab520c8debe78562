//! Columns of Parquet tables, a few thousand rows at a time: for tables larger than memory.
//!
//! Never inside: what the columns mean.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::table::{Column, check_places, empty_column, read_column};

/// Rows handed over at once.
const BATCH: usize = 8192;

/// A table to be read.
pub(crate) struct Columns {
    reader: SerializedFileReader<File>,
    names: Vec<String>,
}

/// Rows of the columns asked for, in that order.
pub(crate) struct Batch {
    /// The number of the first row, from 0.
    pub(crate) first: u64,
    pub(crate) rows: usize,
    pub(crate) columns: Vec<Column>,
}

impl Columns {
    pub(crate) fn open(path: &Path) -> Result<Self, ParquetError> {
        guarded(|| {
            let file = File::open(path)?;
            let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            let reader = SerializedFileReader::new(file)?;
            check_places(&reader, size)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let names = schema.columns().iter().map(|column| column.path().string());
            let names = names.collect();
            Ok(Self { reader, names })
        })
    }

    /// Where a column is, under any of its names.
    pub(crate) fn find(&self, names: &[&str]) -> Option<usize> {
        self.names
            .iter()
            .position(|name| names.contains(&name.as_str()))
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Hands over all rows of these columns.
    ///
    /// The parquet library has assertions on its input: a forged file must be an error all the same. A
    /// caller drops everything on an error, so nothing half-changed is seen.
    pub(crate) fn each<E: From<ParquetError>>(
        &self,
        columns: &[usize],
        mut take: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut first = 0;
        for number in 0..self.reader.num_row_groups() {
            let (mut readers, rows) = guarded(|| {
                let group = self.reader.get_row_group(number)?;
                let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
                let readers = columns
                    .iter()
                    .map(|&column| group.get_column_reader(column));
                Ok((readers.collect::<Result<Vec<_>, _>>()?, rows))
            })?;
            let mut left = rows;
            while left > 0 {
                let rows = left.min(BATCH);
                let read = || {
                    let schema = self.reader.metadata().file_metadata().schema_descr();
                    let mut batch = Vec::with_capacity(columns.len());
                    for (reader, &index) in readers.iter_mut().zip(columns) {
                        let descriptor = schema.column(index);
                        let mut column = empty_column(&descriptor)?;
                        let optional = descriptor.max_def_level() > 0;
                        read_column(reader, &mut column, rows, optional)?;
                        batch.push(column);
                    }
                    Ok(batch)
                };
                let columns = guarded(read)?;
                take(Batch {
                    first,
                    rows,
                    columns,
                })?;
                first += rows as u64;
                left -= rows;
            }
        }
        Ok(())
    }
}

fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        let text = "the file contradicts itself (the parquet library gave up on it)";
        Err(ParquetError::General(text.to_string()))
    })
}
