//! Segments on a local disk: Parquet that every other engine reads.
//!
//! Integers are delta-packed, text is dictionary-encoded, pages are zstd-1.

use std::fs::File;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use undine_schema::TimeNs;

use crate::delta::FileStats;
use crate::{disk, durable};

/// Rows of a row group.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;

/// Writes `rows` to a new file in `dir`; it is on the disk on return.
pub(crate) fn write(dir: &Path, rows: &RecordBatch) -> Result<FileStats, ParquetError> {
    let name = format!("{}.parquet", ulid::Ulid::generate());
    let tmp = dir.join(format!(".{name}.tmp"));
    let mut writer =
        ArrowWriter::try_new(disk::create(&tmp)?, rows.schema(), Some(properties(rows)?))?;
    writer.write(rows)?;
    let file = writer.into_inner()?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    disk::rename(&tmp, dir.join(&name))?;
    durable::sync_dir(dir)?;
    Ok(stats_of(name, bytes, rows))
}

/// Reads a file back.
pub(crate) fn read(path: &Path) -> Result<Vec<RecordBatch>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    reader.collect::<Result<_, _>>().map_err(ParquetError::from)
}

fn properties(rows: &RecordBatch) -> Result<WriterProperties, ParquetError> {
    let builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_created_by(concat!("undine ", env!("CARGO_PKG_VERSION")).to_owned());
    let packed = |builder: WriterPropertiesBuilder, path: Vec<String>| {
        let path = ColumnPath::new(path);
        builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
    };
    let schema = rows.schema();
    let builder = schema.fields().iter().fold(builder, |builder, field| {
        let name = field.name().clone();
        match field.data_type() {
            DataType::Int64 | DataType::Timestamp(..) => packed(builder, vec![name]),
            DataType::List(item) => {
                packed(builder, vec![name, "list".to_owned(), item.name().clone()])
            }
            _ => builder,
        }
    });
    Ok(builder.build())
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
