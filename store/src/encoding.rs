//! How a segment's columns are written.
//!
//! Measured on requests: integers delta-packed, text in dictionaries and pages as zstd-1 take fewer
//! bytes and are read and written faster than a dictionary for everything. Each page has its
//! statistics in the page index. A Bloom filter is there only where one value is looked for among
//! many, a process and a trace, and only where rows are kept.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// Rows of a row group.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;
/// Distinct processes that a row group's filter is made for.
const FILTERED_PROCESSES_MAX: usize = 1024;

/// The properties of a file of `rows`.
pub(crate) fn properties(rows: &RecordBatch) -> Result<WriterProperties, ParquetError> {
    let builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_created_by(concat!("undine ", env!("CARGO_PKG_VERSION")).to_owned());
    let schema = rows.schema();
    let is_rows = rows.column_by_name("window_start").is_none();
    let builder = schema.fields().iter().fold(builder, |builder, field| {
        let name = field.name().clone();
        match field.data_type() {
            DataType::Int64 | DataType::Timestamp(..) => packed(builder, vec![name]),
            DataType::List(item) => {
                packed(builder, vec![name, "list".to_owned(), item.name().clone()])
            }
            DataType::Float64 => builder
                .set_column_dictionary_enabled(ColumnPath::from(name.as_str()), false)
                .set_column_encoding(name.as_str().into(), Encoding::BYTE_STREAM_SPLIT),
            _ => builder,
        }
    });
    let group_rows = rows.num_rows().min(ROW_GROUP_ROWS_MAX);
    let filtered = [("upid", group_rows.min(FILTERED_PROCESSES_MAX)), ("trace_id", group_rows)];
    let builder = filtered.into_iter().fold(builder, |builder, (name, distinct)| {
        if is_rows && rows.column_by_name(name).is_some() {
            filter(builder, name, distinct)
        } else {
            builder
        }
    });
    Ok(builder.build())
}

fn packed(builder: WriterPropertiesBuilder, path: Vec<String>) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(path);
    builder
        .set_column_dictionary_enabled(path.clone(), false)
        .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
}

fn filter(
    builder: WriterPropertiesBuilder,
    name: &str,
    distinct: usize,
) -> WriterPropertiesBuilder {
    builder
        .set_column_bloom_filter_enabled(name.into(), true)
        .set_column_bloom_filter_max_ndv(name.into(), distinct.max(1) as u64)
}
