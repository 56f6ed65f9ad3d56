//! Rows of raw segments in the order of their places.
//!
//! A segment's rows are in another order, and a merge mixes places, so a segment says between which
//! places its rows are, and each row its own. Segments are opened from the least place upwards until
//! no other can hold one of the rows that are wanted.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::errors::ParquetError;
use undine_schema::{Seq, SeqRange, Slice, TableDef};

use crate::background::{self, Priority};
use crate::evolve::evolve;
use crate::snapshot::{Segment, TierView};
use crate::state::{SEQ, raw_schema};

/// Segments that one read opens where fewer hold some of the next rows.
const SEGMENTS_MAX: usize = 16;

/// What is said of a thread that panicked or could not be made.
const ENDED: &str = "the thread that reads it ended before it was done";

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Places whose rows are not in memory, and the segments of the same moment.
#[derive(Debug)]
pub(super) struct Hole {
    /// The cursor, which is before the hole.
    pub(super) after: Seq,
    /// The first place behind it.
    pub(super) before: Seq,
    pub(super) tier: TierView,
}

/// Why a segment is not read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is not there, or is no Parquet file with the rows that it should have.
    Lost { path: Path, source: Cause },
    /// It cannot be reached for now.
    Away { path: Path, source: Cause },
}

/// A row that is wanted: its place, which segment holds it, and where.
type Found = (Seq, usize, usize);

impl Hole {
    /// The first rows of the hole that any segment but the `lost` ones holds, in order, at most
    /// `rows_max`.
    pub(super) async fn rows(
        &self,
        table: &'static TableDef,
        rows_max: usize,
        lost: &[Path],
    ) -> Result<Vec<Slice>, Trouble> {
        let segments = self.segments(lost);
        let mut found: Vec<Found> = Vec::new();
        for (number, &(first, segment)) in segments.iter().enumerate() {
            let below = found.partition_point(|&(place, ..)| place < first);
            let enough = below == rows_max || (number >= SEGMENTS_MAX && below > 0);
            if enough {
                found.truncate(below);
                break;
            }
            let (after, before) = (self.after, self.before);
            let places = self.read(segment, move |file| places(file, after, before)).await?;
            found.extend(places.into_iter().map(|(place, row)| (place, number, row)));
            found.sort_unstable();
            found.truncate(rows_max);
        }
        let mut batches = Vec::new();
        for (number, (_, segment)) in segments.iter().enumerate() {
            let of_it = found.iter().filter(|(_, of, _)| *of == number);
            let mut rows: Vec<usize> = of_it.map(|&(.., row)| row).collect();
            if rows.is_empty() {
                continue;
            }
            rows.sort_unstable();
            batches.push(self.read(segment, move |file| rows_at(table, file, &rows)).await?);
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let path = segments[0].1.path.clone();
        let ordered = background::run("feed", Priority::Low, move || in_order(&batches)).await;
        match ordered {
            Some(Ok(slices)) => Ok(slices),
            Some(Err(error)) => Err(Trouble::Away { path, source: error.into() }),
            None => Err(Trouble::Away { path, source: ENDED.into() }),
        }
    }

    /// The segments that may hold rows of the hole, with the least place of each, in this order.
    fn segments(&self, lost: &[Path]) -> Vec<(Seq, &Segment)> {
        let segments = self.tier.segments.iter().filter(|segment| !lost.contains(&segment.path));
        let mut segments: Vec<_> = segments
            .filter_map(|segment| {
                let (first, last) = segment.places?;
                (last > self.after && first < self.before).then_some((first, segment))
            })
            .collect();
        segments.sort_unstable_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
        segments
    }

    /// What `decode` makes of a segment, on a thread of its own.
    async fn read<T: Send + 'static>(
        &self,
        segment: &Segment,
        decode: impl FnOnce(Bytes) -> Result<T, ParquetError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let path = || segment.path.clone();
        let file = match self.tier.objects.get(&segment.path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let file = file.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                Trouble::Lost { path: path(), source: error.into() }
            }
            error => Trouble::Away { path: path(), source: error.into() },
        })?;
        match background::run("feed", Priority::Low, move || decode(file)).await {
            Some(Ok(decoded)) => Ok(decoded),
            Some(Err(error)) => Err(Trouble::Lost { path: path(), source: error.into() }),
            None => Err(Trouble::Away { path: path(), source: ENDED.into() }),
        }
    }
}

/// The places between two, both left out, and at which row of the file each is.
fn places(file: Bytes, after: Seq, before: Seq) -> Result<Vec<(Seq, usize)>, ParquetError> {
    let file = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let only = ProjectionMask::columns(file.parquet_schema(), [SEQ]);
    let mut places = Vec::new();
    let mut from = 0;
    for rows in file.with_projection(only).build()? {
        let rows = rows?;
        let seqs = rows.column_by_name(SEQ).and_then(|seqs| seqs.as_primitive_opt::<Int64Type>());
        let seqs =
            seqs.ok_or_else(|| ParquetError::General(format!("no column {SEQ} of longs")))?;
        let seqs = seqs.values().iter().map(|raw| Seq::from_raw(raw.cast_unsigned()));
        places.extend(seqs.zip(from..).filter(|(seq, _)| after < *seq && *seq < before));
        from += rows.num_rows();
    }
    Ok(places)
}

/// The rows of a file at `rows`, which ascend: the columns of the table in memory, then their places.
fn rows_at(
    table: &'static TableDef,
    file: Bytes,
    rows: &[usize],
) -> Result<RecordBatch, ParquetError> {
    let schema = raw_schema(table);
    let file = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let total = usize::try_from(file.metadata().file_metadata().num_rows()).unwrap_or(usize::MAX);
    let ranges = rows.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[run.len() - 1] + 1);
    let wanted = RowSelection::from_consecutive_ranges(ranges, total);
    let batches = file.with_row_selection(wanted).build()?.map(|rows| evolve(&rows?, &schema));
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    let read = concat_batches(&schema, &batches)?;
    if read.num_rows() != rows.len() {
        let what = format!("{} rows instead of {}", read.num_rows(), rows.len());
        return Err(ParquetError::General(what));
    }
    let mut fields = table.arrow_schema().fields().to_vec();
    fields.push(Arc::new(Field::new(SEQ, DataType::Int64, false)));
    let columns = fields.iter().map(|field| cast(&read[field.name().as_str()], field.data_type()));
    let columns = columns.collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Rows with their places as slices of rows at dense places.
fn in_order(batches: &[RecordBatch]) -> Result<Vec<Slice>, ArrowError> {
    let rows = concat_batches(batches[0].schema_ref(), batches)?;
    let mut rows = take_record_batch(&rows, &sort_to_indices(&rows[SEQ], None, None)?)?;
    let seqs = rows.remove_column(rows.num_columns() - 1);
    let seqs = seqs.as_primitive::<Int64Type>().values();
    let mut from = 0;
    let slice = |run: &[i64]| {
        let first = Seq::from_raw(run[0].cast_unsigned());
        let slice =
            Slice { seqs: SeqRange::new(first, run.len()), rows: rows.slice(from, run.len()) };
        from += run.len();
        slice
    };
    Ok(seqs.chunk_by(|a, b| a + 1 == *b).map(slice).collect())
}
