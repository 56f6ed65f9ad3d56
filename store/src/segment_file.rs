//! Segments: Parquet files that every other engine reads.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use undine_schema::TimeNs;

use crate::backend::Folder;
use crate::delta::FileStats;
use crate::encoding::properties;

/// Writes `rows` to a new file in `dir`; it is durable on return.
pub(crate) fn write(dir: &Folder, rows: &RecordBatch) -> Result<FileStats, ParquetError> {
    let name = format!("{}.parquet", ulid::Ulid::generate());
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties(rows)?))?;
    let columns = rows.columns().iter().map(with_address).collect();
    writer.write(&RecordBatch::try_new(rows.schema(), columns)?)?;
    let file = writer.into_inner()?;
    let bytes = file.len() as u64;
    dir.replace(&name, file.into())?;
    Ok(stats_of(name, bytes, rows))
}

/// The column, with an address in memory for its texts where all of them are empty.
///
/// Without bytes there is no buffer, and the pointer to it points nowhere. To compare nothing there
/// takes glibc's `memcmp` for AVX-512 some 150 ns on AMD's Zen 5, and 2 ns elsewhere: a masked load
/// from a page that is not there is left to microcode. The writer compares each text three times.
fn with_address(column: &ArrayRef) -> ArrayRef {
    match column.as_string_opt::<i32>() {
        Some(texts) if texts.value_data().is_empty() && !texts.is_empty() => {
            let (offsets, _, nulls) = texts.clone().into_parts();
            let somewhere = Buffer::from_vec(Vec::<u8>::with_capacity(64));
            Arc::new(StringArray::new(offsets, somewhere, nulls))
        }
        _ => Arc::clone(column),
    }
}

/// Reads a file of `dir` back.
pub(crate) fn read(dir: &Folder, name: &str) -> Result<Vec<RecordBatch>, ParquetError> {
    decode(dir.get(name)?)
}

/// The rows of a file.
pub(crate) fn decode(file: Bytes) -> Result<Vec<RecordBatch>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    reader.collect::<Result<_, _>>().map_err(ParquetError::from)
}

/// What the catalog keeps of a file: from the states' own columns, or from the rows' time.
fn stats_of(name: String, bytes: u64, rows: &RecordBatch) -> FileStats {
    let column = |name: &str| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        Some(column.values().as_ref())
    };
    let least = |names: [&str; 2]| {
        let values = names.into_iter().find_map(column).unwrap_or_default();
        TimeNs::new(values.iter().copied().min().unwrap_or(0))
    };
    let most = |names: [&str; 2]| {
        let values = names.into_iter().find_map(column).unwrap_or_default();
        TimeNs::new(values.iter().copied().max().unwrap_or(0))
    };
    let source_rows = column("rows").map_or(rows.num_rows() as u64, |counts| {
        counts.iter().map(|count| count.cast_unsigned()).sum()
    });
    FileStats {
        name,
        bytes,
        rows: rows.num_rows() as u64,
        source_rows,
        first_time: least(["first_time", "time_"]),
        last_time: most(["last_time", "time_"]),
        first_window: least(["window_start", "time_"]),
        last_window: most(["window_start", "time_"]),
    }
}
