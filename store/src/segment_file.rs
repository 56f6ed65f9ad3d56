//! Segments: Parquet files that every other engine reads.

use arrow::array::{AsArray, RecordBatch};
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
    writer.write(rows)?;
    let file = writer.into_inner()?;
    let bytes = file.len() as u64;
    dir.replace(&name, file.into())?;
    Ok(stats_of(name, bytes, rows))
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
