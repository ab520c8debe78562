//! Tables of optional columns as Parquet, through the column API (no arrow).
//!
//! Inside: the four types our tables use. Never inside: what the columns mean.

#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescriptor, Type, TypePtr};

pub(super) use values::read_column;
use values::write_column;

/// Rows in a row group: large enough to compress, small enough to read one at a time.
pub(crate) const ROWS_PER_GROUP: usize = 128 << 10;

/// The values of a column, one a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Column {
    Int(Vec<Option<i64>>),
    /// Written as INT32; read back as `Int`.
    Small(Vec<Option<i32>>),
    Real(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

/// A table: named columns of one length, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<(String, Column)>,
    pub(crate) rows: usize,
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Int(values) => values.len(),
            Self::Small(values) => values.len(),
            Self::Real(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    fn required(&self) -> bool {
        match self {
            Self::Int(values) => values.iter().all(Option::is_some),
            Self::Small(values) => values.iter().all(Option::is_some),
            Self::Real(values) => values.iter().all(Option::is_some),
            Self::Text(values) => values.iter().all(Option::is_some),
        }
    }
}

impl Table {
    /// Appends a column; `required` ones have a value in every row.
    pub(crate) fn push(&mut self, name: &str, column: Column) {
        assert!(
            self.columns.is_empty() || column.len() == self.rows,
            "columns of one length"
        );
        self.rows = column.len();
        self.columns.push((name.to_string(), column));
    }

    /// The columns by name.
    pub(crate) fn into_columns(self) -> BTreeMap<String, Column> {
        self.columns.into_iter().collect()
    }

    /// Writes the table; `required` columns are declared so, the rest may hold nulls.
    pub(crate) fn write(
        &self,
        out: impl Write + Send,
        required: &[&'static str],
    ) -> Result<(), ParquetError> {
        let mut writer = TableWriter::new(out, self, required)?;
        let mut start = 0;
        while start < self.rows {
            let end = (start + ROWS_PER_GROUP).min(self.rows);
            writer.group(self, start..end)?;
            start = end;
        }
        writer.close().map(|_| ())
    }

    fn schema(&self, required: &[&str]) -> Result<TypePtr, ParquetError> {
        let fields = self.columns.iter().map(|(name, column)| {
            let physical = match column {
                Column::Int(_) => PhysicalType::INT64,
                Column::Small(_) => PhysicalType::INT32,
                Column::Real(_) => PhysicalType::DOUBLE,
                Column::Text(_) => PhysicalType::BYTE_ARRAY,
            };
            let must = required.contains(&name.as_str());
            if must && !column.required() {
                return Err(ParquetError::General(format!("column {name} lacks values")));
            }
            let repetition = if must {
                Repetition::REQUIRED
            } else {
                Repetition::OPTIONAL
            };
            let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
            let field = match column {
                Column::Text(_) => field.with_converted_type(ConvertedType::UTF8),
                Column::Int(_) | Column::Small(_) | Column::Real(_) => field,
            };
            field.build().map(Arc::new)
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        Type::group_type_builder("schema")
            .with_fields(fields)
            .build()
            .map(Arc::new)
    }

    /// Reads a table.
    ///
    /// The parquet library has assertions on its input (a negative offset in the metadata, say): a
    /// forged file must be an error here all the same. Nothing is shared with the closure, so nothing
    /// can be left half-changed.
    pub(crate) fn read(bytes: Vec<u8>) -> Result<Self, ParquetError> {
        std::panic::catch_unwind(move || Self::read_trusting(bytes)).unwrap_or_else(|_| {
            let text = "the file contradicts itself (the parquet library gave up on it)";
            Err(ParquetError::General(text.to_string()))
        })
    }

    fn read_trusting(bytes: Vec<u8>) -> Result<Self, ParquetError> {
        let size = bytes.len();
        let reader = SerializedFileReader::new(Bytes::from(bytes))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        check_places(&reader, size)?;
        let mut table = Self::default();
        for (index, descriptor) in schema.columns().iter().enumerate() {
            let name = descriptor.path().string();
            let mut column = empty_column(descriptor)?;
            for group in 0..reader.num_row_groups() {
                let group = reader.get_row_group(group)?;
                let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
                let optional = descriptor.max_def_level() > 0;
                let mut reader = group.get_column_reader(index)?;
                read_column(&mut reader, &mut column, rows, optional)?;
            }
            if !table.columns.is_empty() && column.len() != table.rows {
                let text = format!(
                    "column {name} has {} rows, not {}",
                    column.len(),
                    table.rows
                );
                return Err(ParquetError::General(text));
            }
            table.push(&name, column);
        }
        Ok(table)
    }
}

/// A table written group by group.
pub(crate) struct TableWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    required: Vec<&'static str>,
}

impl<W: Write + Send> TableWriter<W> {
    /// A table of the columns of `like`; those `required` have a value in every row.
    pub(crate) fn new(
        out: W,
        like: &Table,
        required: &[&'static str],
    ) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let schema = like.schema(required)?;
        Ok(Self {
            writer: SerializedFileWriter::new(out, schema, Arc::new(properties))?,
            required: required.to_vec(),
        })
    }

    /// Appends rows of a table with the same columns as one row group.
    pub(crate) fn group(
        &mut self,
        table: &Table,
        rows: std::ops::Range<usize>,
    ) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for (name, column) in &table.columns {
            let required = self.required.contains(&name.as_str());
            write_column(&mut group, column, rows.clone(), required)?;
        }
        group.close().map(|_| ())
    }

    /// Ends the table and gives back what it was written to.
    pub(crate) fn close(self) -> Result<W, ParquetError> {
        self.writer.into_inner()
    }
}

/// A column of the type a descriptor states.
pub(super) fn empty_column(descriptor: &ColumnDescriptor) -> Result<Column, ParquetError> {
    let name = descriptor.path().string();
    if descriptor.max_rep_level() > 0 || descriptor.max_def_level() > 1 {
        return Err(ParquetError::NYI(format!("column {name} is nested")));
    }
    match descriptor.physical_type() {
        PhysicalType::INT32 | PhysicalType::INT64 => Ok(Column::Int(Vec::new())),
        PhysicalType::FLOAT | PhysicalType::DOUBLE => Ok(Column::Real(Vec::new())),
        PhysicalType::BYTE_ARRAY => Ok(Column::Text(Vec::new())),
        other => {
            let text = format!("column {name} has type {other}, which no table of ours has");
            Err(ParquetError::NYI(text))
        }
    }
}

/// The commonest lie, caught before the library asserts: columns that are not within the file.
pub(super) fn check_places<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    size: usize,
) -> Result<(), ParquetError> {
    for group in reader.metadata().row_groups() {
        for column in group.columns() {
            let start = column
                .dictionary_page_offset()
                .unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let end = end.and_then(|end| usize::try_from(end).ok());
            if start < 0 || column.compressed_size() < 0 || end.is_none_or(|end| end > size) {
                let name = column.column_path().string();
                let text = format!("column {name} at byte {start} is not within {size} bytes");
                return Err(ParquetError::General(text));
            }
        }
    }
    Ok(())
}
