//! A Parquet file written row by row, in bounded memory. Column definitions and tags go into the
//! file's key-value metadata as `migbed.COLUMN`.

use super::columns::{Column, Kind};
use super::{ResultsError, io_error, temporary};
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the tables, in each file's metadata as `migbed.schema`.
pub const SCHEMA: u32 = 1;
/// Rows a group: some MiB of memory a table, and few groups for a day of 1,000 hosts.
const GROUP_ROWS: usize = 65_536;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// For [`Kind::Float`].
    Float(Option<f64>),
    /// For [`Kind::Int`].
    Int(i64),
    /// For [`Kind::Text`].
    Text(String),
    /// For [`Kind::Bool`].
    Bool(bool),
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Float(Some(v))
    }
}

impl From<Option<f64>> for Value {
    fn from(v: Option<f64>) -> Self {
        Self::Float(v)
    }
}

impl From<u64> for Value {
    /// Counters and clocks stay below 2^63; beyond, the highest value says so.
    fn from(v: u64) -> Self {
        Self::Int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::Int(i64::from(v))
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

enum Data {
    Float(Vec<f64>, Vec<i16>),
    Int(Vec<i64>),
    Text(Vec<ByteArray>),
    Bool(Vec<bool>),
}

impl Data {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Float => Self::Float(Vec::new(), Vec::new()),
            Kind::Int => Self::Int(Vec::new()),
            Kind::Text => Self::Text(Vec::new()),
            Kind::Bool => Self::Bool(Vec::new()),
        }
    }

    fn push(&mut self, value: Value, column: &Column) {
        match (self, value) {
            (Self::Float(values, levels), Value::Float(v)) => {
                // NaN is no number of ours: where a model or a ratio has none, it is missing.
                let v = v.filter(|v| v.is_finite());
                levels.push(i16::from(v.is_some()));
                values.extend(v);
            }
            (Self::Int(values), Value::Int(v)) => values.push(v),
            (Self::Text(values), Value::Text(v)) => values.push(v.into_bytes().into()),
            (Self::Bool(values), Value::Bool(v)) => values.push(v),
            (_, v) => panic!(
                "column {} is {:?}, got {v:?}: our bug",
                column.name, column.kind
            ),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Float(values, levels) => {
                values.clear();
                levels.clear();
            }
            Self::Int(values) => values.clear(),
            Self::Text(values) => values.clear(),
            Self::Bool(values) => values.clear(),
        }
    }
}

/// Writes a table; it takes its name when it is whole.
pub struct TableWriter {
    path: PathBuf,
    columns: &'static [Column],
    data: Vec<Data>,
    rows: usize,
    writer: SerializedFileWriter<File>,
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TableWriter {
    /// Begins a table of these columns; `run_tag` is `measured` or `modelled`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(
        path: &Path,
        columns: &'static [Column],
        run_tag: &str,
    ) -> Result<Self, ResultsError> {
        let part = temporary(path);
        let file = File::create(&part).map_err(io_error(&part))?;
        let writer = schema(columns)
            .and_then(|s| SerializedFileWriter::new(file, s, properties(columns, run_tag)))
            .map_err(|source| ResultsError::Parquet {
                path: path.to_owned(),
                source,
            })?;
        let data = columns.iter().map(|c| Data::of(c.kind)).collect();
        Ok(Self {
            path: path.to_owned(),
            columns,
            data,
            rows: 0,
            writer,
        })
    }

    /// Appends a row, its values in the order of the columns.
    ///
    /// # Errors
    /// When a full group cannot be written.
    pub fn row(&mut self, values: Vec<Value>) -> Result<(), ResultsError> {
        assert_eq!(
            values.len(),
            self.columns.len(),
            "a row of {}",
            self.path.display()
        );
        for ((data, value), column) in self.data.iter_mut().zip(values).zip(self.columns) {
            data.push(value, column);
        }
        self.rows += 1;
        if self.rows == GROUP_ROWS {
            self.group()
        } else {
            Ok(())
        }
    }

    /// Ends the table.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn finish(mut self) -> Result<(), ResultsError> {
        if self.rows > 0 {
            self.group()?;
        }
        let Self { path, writer, .. } = self;
        writer.close().map_err(|source| ResultsError::Parquet {
            path: path.clone(),
            source,
        })?;
        fs::rename(temporary(&path), &path).map_err(io_error(&path))
    }

    fn group(&mut self) -> Result<(), ResultsError> {
        let data = &self.data;
        self.writer
            .next_row_group()
            .and_then(|group| write_group(group, data))
            .map_err(|source| ResultsError::Parquet {
                path: self.path.clone(),
                source,
            })?;
        self.data.iter_mut().for_each(Data::clear);
        self.rows = 0;
        Ok(())
    }
}

fn write_group(
    mut group: SerializedRowGroupWriter<'_, File>,
    data: &[Data],
) -> Result<(), ParquetError> {
    for data in data {
        let mut column = group
            .next_column()?
            .expect("as many columns as the schema has");
        match data {
            Data::Float(v, levels) => {
                column
                    .typed::<DoubleType>()
                    .write_batch(v, Some(levels), None)?
            }
            Data::Int(v) => column.typed::<Int64Type>().write_batch(v, None, None)?,
            Data::Text(v) => column.typed::<ByteArrayType>().write_batch(v, None, None)?,
            Data::Bool(v) => column.typed::<BoolType>().write_batch(v, None, None)?,
        };
        column.close()?;
    }
    group.close().map(|_| ())
}

fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let fields = columns.iter().map(|c| {
        let (physical, converted, repetition) = match c.kind {
            Kind::Float => (Physical::DOUBLE, ConvertedType::NONE, Repetition::OPTIONAL),
            Kind::Int => (Physical::INT64, ConvertedType::NONE, Repetition::REQUIRED),
            Kind::Text => (
                Physical::BYTE_ARRAY,
                ConvertedType::UTF8,
                Repetition::REQUIRED,
            ),
            Kind::Bool => (Physical::BOOLEAN, ConvertedType::NONE, Repetition::REQUIRED),
        };
        Type::primitive_type_builder(c.name, physical)
            .with_converted_type(converted)
            .with_repetition(repetition)
            .build()
            .map(Arc::new)
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("migbed")
        .with_fields(fields)
        .build()
        .map(Arc::new)
}

fn properties(columns: &[Column], run_tag: &str) -> Arc<WriterProperties> {
    let mut notes = vec![KeyValue::new("migbed.schema".into(), SCHEMA.to_string())];
    notes.extend(columns.iter().map(|c| {
        let text = format!("{}: {}", c.tag.in_run(run_tag).name(), c.definition);
        KeyValue::new(format!("migbed.{}", c.name), text)
    }));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("migbed ", env!("CARGO_PKG_VERSION")).into())
        .set_key_value_metadata(Some(notes))
        .build();
    Arc::new(properties)
}
