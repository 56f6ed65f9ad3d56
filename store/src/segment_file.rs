//! Segments: Parquet files that every other engine reads.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{Int64Type, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::compute_leaves;
use parquet::errors::ParquetError;
use undine_schema::{Seq, TimeNs};

use crate::backend::Folder;
use crate::delta::FileStats;
use crate::dictionary_chunk::chunk;
use crate::encoding::{ROW_GROUP_ROWS_MAX, ZSTD_LEVEL, properties};
use crate::numbered_texts::plain_type;
use crate::state::SEQ;

/// A file that is not written yet.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) stats: FileStats,
    file: Bytes,
}

/// The file of `rows`, under a name of its own.
pub(crate) fn encode(rows: &RecordBatch) -> Result<Encoded, ParquetError> {
    let name = format!("{}.parquet", ulid::Ulid::generate());
    let file = Bytes::from(parquet(rows)?);
    Ok(Encoded { stats: stats_of(name, file.len() as u64, rows), file })
}

/// The rows as Parquet; what is a dictionary of texts in memory is texts for readers.
pub(crate) fn parquet(rows: &RecordBatch) -> Result<Vec<u8>, ParquetError> {
    let plain =
        rows.schema_ref().fields().iter().map(|field| {
            field.as_ref().clone().with_data_type(plain_type(field.data_type()).clone())
        });
    let plain = Arc::new(Schema::new(plain.collect::<Vec<_>>()));
    let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&plain), Some(properties(rows)?))?;
    let (mut file, factory) = writer.into_serialized_writer()?;
    let (descriptors, properties) =
        (file.schema_descr().columns().to_vec(), Arc::clone(file.properties()));
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    let groups = (0..rows.num_rows()).step_by(ROW_GROUP_ROWS_MAX);
    for (number, from) in groups.enumerate() {
        let part = rows.slice(from, ROW_GROUP_ROWS_MAX.min(rows.num_rows() - from));
        // A column of lists is one of values, too.
        let writers = factory.create_column_writers(number)?;
        let mut group = file.next_row_group()?;
        for ((column, mut writer), at) in part.columns().iter().zip(writers).zip(0..) {
            if let Some(chunk) = chunk(column, &descriptors[at], &properties, &mut compressor)? {
                group.append_column(&chunk.bytes, chunk.close)?;
                continue;
            }
            let column = cast(column, plain.field(at).data_type())?;
            for leaf in compute_leaves(plain.field(at), &column)? {
                writer.write(&leaf)?;
            }
            writer.close()?.append_to_row_group(&mut group)?;
        }
        group.close()?;
    }
    file.into_inner()
}

impl Encoded {
    /// Puts the file in `dir`; it is durable on return.
    pub(crate) fn write(self, dir: &Folder) -> Result<FileStats, ParquetError> {
        dir.replace(&self.stats.name, self.file)?;
        Ok(self.stats)
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
    let column = |name: &str| rows.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let least = |names: [&str; 2]| {
        TimeNs::new(names.into_iter().find_map(column).and_then(min).unwrap_or(0))
    };
    let most = |names: [&str; 2]| {
        TimeNs::new(names.into_iter().find_map(column).and_then(max).unwrap_or(0))
    };
    let source_rows = column("rows").map_or(rows.num_rows() as u64, |counts| {
        counts.values().iter().map(|count| count.cast_unsigned()).sum()
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
        places: column(SEQ).and_then(places),
    }
}

/// The least and the greatest of the places that are known.
fn places(seqs: &Int64Array) -> Option<(Seq, Seq)> {
    let known = || seqs.values().iter().filter(|&&seq| seq != 0);
    let seq = |raw: &i64| Seq::from_raw(raw.cast_unsigned());
    known().min().map(seq).zip(known().max().map(seq))
}
