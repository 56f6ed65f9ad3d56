//! Segments on a local disk: Parquet that every other engine reads.

use std::fs::{self, File};
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use undine_schema::TimeNs;

use crate::delta::FileStats;
use crate::durable;
use crate::encoding::properties;

/// Writes `rows` to a new file in `dir`; it is on the disk on return.
pub(crate) fn write(dir: &Path, rows: &RecordBatch) -> Result<FileStats, ParquetError> {
    let name = format!("{}.parquet", ulid::Ulid::generate());
    let tmp = dir.join(format!(".{name}.tmp"));
    let mut writer =
        ArrowWriter::try_new(File::create(&tmp)?, rows.schema(), Some(properties(rows)?))?;
    writer.write(rows)?;
    let file = writer.into_inner()?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    fs::rename(&tmp, dir.join(&name))?;
    durable::sync_dir(dir)?;
    Ok(stats_of(name, bytes, rows))
}

/// Reads a file back.
pub(crate) fn read(path: &Path) -> Result<Vec<RecordBatch>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
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
