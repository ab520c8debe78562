//! The values of a column, between memory and Parquet's typed readers and writers.

use std::io::Write;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

use super::Column;

pub(super) fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: &Column,
    rows: std::ops::Range<usize>,
    required: bool,
) -> Result<(), ParquetError> {
    match column {
        Column::Int(values) => {
            write_values::<_, Int64Type, _>(group, &values[rows], required, |value| *value)
        }
        Column::Small(values) => {
            write_values::<_, Int32Type, _>(group, &values[rows], required, |value| *value)
        }
        Column::Real(values) => {
            write_values::<_, DoubleType, _>(group, &values[rows], required, |value| *value)
        }
        Column::Text(values) => {
            let bytes = |text: &String| ByteArray::from(text.as_bytes().to_vec());
            write_values::<_, ByteArrayType, _>(group, &values[rows], required, bytes)
        }
    }
}

fn write_values<W: Write + Send, T: DataType, V>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[Option<V>],
    required: bool,
    convert: impl Fn(&V) -> T::T,
) -> Result<(), ParquetError> {
    let mut writer = group
        .next_column()?
        .expect("as many columns as the schema has");
    let present: Vec<T::T> = values.iter().flatten().map(convert).collect();
    let levels: Vec<i16> = values
        .iter()
        .map(|value| i16::from(value.is_some()))
        .collect();
    let levels = (!required).then_some(levels.as_slice());
    writer.typed::<T>().write_batch(&present, levels, None)?;
    writer.close()
}

pub(in crate::store) fn read_column(
    reader: &mut ColumnReader,
    column: &mut Column,
    rows: usize,
    optional: bool,
) -> Result<(), ParquetError> {
    match (reader, column) {
        (ColumnReader::Int32ColumnReader(reader), Column::Int(out)) => {
            read_values(reader, rows, optional, out, |value| Ok(i64::from(value)))
        }
        (ColumnReader::Int64ColumnReader(reader), Column::Int(out)) => {
            read_values(reader, rows, optional, out, Ok)
        }
        (ColumnReader::FloatColumnReader(reader), Column::Real(out)) => {
            read_values(reader, rows, optional, out, |value| Ok(f64::from(value)))
        }
        (ColumnReader::DoubleColumnReader(reader), Column::Real(out)) => {
            read_values(reader, rows, optional, out, Ok)
        }
        (ColumnReader::ByteArrayColumnReader(reader), Column::Text(out)) => {
            read_values(reader, rows, optional, out, |value| {
                Ok(value.as_utf8()?.to_string())
            })
        }
        _ => Err(ParquetError::General(
            "a column chunk of another type than its column".into(),
        )),
    }
}

fn read_values<T: DataType, V>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    optional: bool,
    out: &mut Vec<Option<V>>,
    convert: impl Fn(T::T) -> Result<V, ParquetError>,
) -> Result<(), ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < rows {
        let more = reader
            .read_records(rows - done, Some(&mut levels), None, &mut values)?
            .0;
        if more == 0 {
            return Err(ParquetError::EOF(format!("{done} rows of {rows}")));
        }
        done += more;
    }
    if !optional {
        for value in values {
            out.push(Some(convert(value)?));
        }
        return Ok(());
    }
    let mut values = values.into_iter();
    for level in levels {
        out.push(if level > 0 {
            values.next().map(&convert).transpose()?
        } else {
            None
        });
    }
    Ok(())
}
