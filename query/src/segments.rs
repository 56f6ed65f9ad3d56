//! Parquet files as a table.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use parquet::arrow::arrow_reader::RowSelection;
use undine_store::{Segment, TierView};

use crate::footers::{Footers, Opener};
use crate::span::Span;

/// Less of a file than this is not worth opening it once more.
const PIECE_BYTES_MIN: u64 = 128 << 10;

/// The segments of a tier that may hold windows or rows of `span`.
pub(crate) fn segments_in(tier: &TierView, span: Span) -> Vec<Segment> {
    let touches = |segment: &&Segment| {
        segment.first_window.get() < span.until && segment.last_window.get() >= span.from
    };
    tier.segments.iter().filter(touches).cloned().collect()
}

/// The segments of a tier, as a table.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    schema: SchemaRef,
    url: ObjectStoreUrl,
    files: Vec<Segment>,
    opener: Arc<Opener>,
}

impl Segments {
    /// The segments of `tier` that touch `span`, with their texts as `schema` says.
    pub(crate) fn new(
        tier: &TierView,
        schema: SchemaRef,
        url: ObjectStoreUrl,
        footers: &Arc<Footers>,
        span: Span,
    ) -> Self {
        let (objects, footers) = (Arc::clone(&tier.objects), Arc::clone(footers));
        let opener = Opener::new(objects, footers, Arc::clone(&schema));
        Self { schema, url, files: segments_in(tier, span), opener: Arc::new(opener) }
    }

    /// States, or rows, of all files.
    pub(crate) fn rows(&self) -> u64 {
        self.files.iter().map(|segment| segment.rows).sum()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether every row of every file is in `span`.
    pub(crate) fn all_in(&self, span: Span) -> bool {
        self.files.iter().all(|segment| span.covers(segment))
    }

    /// Without the files that hold no row of `span`.
    pub(crate) fn within(&self, span: Span) -> Self {
        let touches = |segment: &&Segment| {
            segment.first_time.get() < span.until && segment.last_time.get() >= span.from
        };
        let files = self.files.iter().filter(touches).cloned().collect();
        Self { files, ..self.clone() }
    }

    /// A scan of the columns at `projection`. What `pruning` says for sure is false of a row may be left
    /// out.
    pub(crate) fn read(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        pruning: Option<&Expr>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let opener: Arc<Opener> = Arc::clone(&self.opener);
        let mut source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(state.default_table_options().parquet)
            .with_parquet_file_reader_factory(opener);
        if let Some(pruning) = pruning {
            let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
            source = source.with_predicate(state.create_physical_expr(pruning.clone(), &schema)?);
        }
        let partitions = state.config().target_partitions();
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(deal(&self.files, partitions).iter().map(|run| group(run)).collect())
            .with_expr_adapter(Some(Arc::new(crate::evolve::Evolution)))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

#[async_trait]
impl TableProvider for Segments {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.read(state, projection, None, limit)
    }
}

/// Bytes of a segment, and with them about as many of its rows.
type Piece<'a> = (&'a Segment, Range<u64>);

/// The files in as many runs of about as many bytes, in their order. A file that two runs share is cut.
fn deal(files: &[Segment], runs: usize) -> Vec<Vec<Piece<'_>>> {
    let bytes: u64 = files.iter().map(|segment| segment.bytes).sum();
    let share = bytes.div_ceil(runs as u64).max(1);
    let (mut dealt, mut run, mut upto, mut full) = (Vec::new(), Vec::new(), 0, share);
    for segment in files {
        let mut from = 0;
        while from < segment.bytes {
            let (room, rest) = (full.saturating_sub(upto), segment.bytes - from);
            let taken = match room {
                _ if rest < room + PIECE_BYTES_MIN => rest,
                PIECE_BYTES_MIN.. => room,
                _ => 0,
            };
            if taken > 0 {
                run.push((segment, from..from + taken));
            }
            (from, upto) = (from + taken, upto + taken);
            if taken < rest || upto >= full {
                dealt.push(std::mem::take(&mut run));
                full += share;
            }
        }
    }
    dealt.push(run);
    dealt.retain(|run| !run.is_empty());
    dealt
}

/// A run as the scan has it.
fn group(run: &[Piece<'_>]) -> FileGroup {
    FileGroup::new(run.iter().filter_map(piece).collect())
}

/// The rows that lie in about these bytes, if there are any.
fn piece((segment, bytes): &Piece<'_>) -> Option<PartitionedFile> {
    let file = PartitionedFile::new(segment.path.to_string(), segment.bytes);
    if *bytes == (0..segment.bytes) {
        return Some(file);
    }
    let upto = |byte: u64| {
        let row = u128::from(segment.rows) * u128::from(byte) / u128::from(segment.bytes);
        usize::try_from(row).unwrap_or(usize::MAX)
    };
    let rows = upto(bytes.start)..upto(bytes.end);
    let all = upto(segment.bytes);
    let chosen = RowSelection::from_consecutive_ranges(std::iter::once(rows.clone()), all);
    (!rows.is_empty()).then(|| file.with_extension(ParquetRowSelection::new(chosen)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use undine_schema::TimeNs;

    use super::*;

    fn segment(bytes: u64) -> Segment {
        let time = TimeNs::new(0);
        Segment {
            path: "t/s.parquet".into(),
            bytes,
            rows: bytes / 100,
            source_rows: bytes,
            first_time: time,
            last_time: time,
            first_window: time,
            last_window: time,
            places: None,
        }
    }

    proptest! {
        #[test]
        fn runs_hold_every_row_once_and_about_as_many_bytes(
            sizes in prop::collection::vec((1..40_u64, 1..5_000_000_u64), 1..12),
            runs in 1..9_usize,
        ) {
            let files: Vec<_> = sizes.iter().map(|&(part, bytes)| segment(1 + bytes / part)).collect();
            let dealt = deal(&files, runs);
            prop_assert!(dealt.len() <= runs);
            let bytes: u64 = files.iter().map(|segment| segment.bytes).sum();
            for run in &dealt {
                let own: u64 = run.iter().map(|(_, bytes)| bytes.end - bytes.start).sum();
                prop_assert!(own < bytes.div_ceil(runs as u64) + 2 * PIECE_BYTES_MIN);
            }
            let mut pieces = dealt.iter().flatten().peekable();
            for file in &files {
                let (mut upto, mut rows) = (0, 0);
                while let Some(piece_of_it) = pieces.next_if(|(of, _)| std::ptr::eq(*of, file)) {
                    let (_, bytes) = piece_of_it;
                    prop_assert_eq!(bytes.start, upto);
                    prop_assert!(bytes.end - bytes.start >= PIECE_BYTES_MIN.min(file.bytes));
                    upto = bytes.end;
                    rows += piece(piece_of_it).map_or(0, |piece| {
                        let chosen = piece.extension::<ParquetRowSelection>();
                        chosen.map_or(file.rows, |chosen| chosen.selection().row_count() as u64)
                    });
                }
                prop_assert_eq!((upto, rows), (file.bytes, file.rows));
            }
            prop_assert!(pieces.next().is_none());
        }
    }
}
