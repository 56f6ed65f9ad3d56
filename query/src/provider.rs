//! Where rows are: the hot slices and the segments of one moment, cut to a range of time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use undine_schema::{Seq, Slice, TableDef};
use undine_store::{Segment, Snapshot, Store, TierView};

/// The parts of a run's tables, each table at one moment only.
#[derive(Debug)]
pub(crate) struct Sources {
    store: Store,
    snapshots: HashMap<&'static str, Arc<Snapshot>>,
}

impl Sources {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, snapshots: HashMap::new() }
    }

    /// The table as it was when it was first asked for in this run.
    pub(crate) fn snapshot(&mut self, table: &'static TableDef) -> Arc<Snapshot> {
        let snapshot = self
            .snapshots
            .entry(table.name)
            .or_insert_with(|| Arc::new(self.store.snapshot(table)));
        Arc::clone(snapshot)
    }
}

/// A range of time: the first point, and the first that is no longer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) until: i64,
}

/// The hot rows above `above` whose time is in `span`; shared with the store where whole slices are.
pub(crate) fn hot_rows(slices: &[Slice], above: Seq, span: Span) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for slice in slices {
        if slice.seqs.last <= above {
            continue;
        }
        let below = (above.raw() + 1).saturating_sub(slice.seqs.first.raw());
        let skip = usize::try_from(below).unwrap_or(usize::MAX).min(slice.rows.num_rows());
        let rows = slice.rows.slice(skip, slice.rows.num_rows() - skip);
        if rows.num_rows() == 0 {
            continue;
        }
        let times = rows.column(0).as_primitive::<Int64Type>().values();
        let inside = |time: &i64| (span.from..span.until).contains(time);
        let count = times.iter().filter(|time| inside(time)).count();
        if count == rows.num_rows() {
            batches.push(rows);
        } else if count > 0 {
            let mask: BooleanArray = times.iter().map(|time| Some(inside(time))).collect();
            batches.push(filter_record_batch(&rows, &mask)?);
        }
    }
    Ok(batches)
}

/// The segments of a tier that may hold windows or rows of `span`.
pub(crate) fn segments_in(tier: &TierView, span: Span) -> Vec<Segment> {
    let touches = |segment: &&Segment| {
        segment.first_window.get() < span.until && segment.last_window.get() >= span.from
    };
    tier.segments.iter().filter(touches).cloned().collect()
}

/// Parquet files as a table.
#[derive(Debug)]
pub(crate) struct Segments {
    schema: SchemaRef,
    url: ObjectStoreUrl,
    files: Vec<Segment>,
}

impl Segments {
    pub(crate) fn new(schema: SchemaRef, url: ObjectStoreUrl, segments: Vec<Segment>) -> Self {
        Self { schema, url, files: segments }
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

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Filters prune row groups by their statistics; rows are filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let mut source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(state.default_table_options().parquet);
        let conjunction = filters.iter().cloned().reduce(Expr::and);
        if let Some(predicate) = conjunction {
            let schema = datafusion::common::DFSchema::try_from(Arc::clone(&self.schema))?;
            source = source.with_predicate(state.create_physical_expr(predicate, &schema)?);
        }
        let files: FileGroup = self
            .files
            .iter()
            .map(|segment| PartitionedFile::new(segment.path.to_string(), segment.bytes))
            .collect::<Vec<_>>()
            .into();
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_group(files)
            .with_expr_adapter(Some(Arc::new(crate::evolve::Evolution)))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit.filter(|_| filters.is_empty()))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The column's values without nulls: what a join left open becomes the type's zero.
pub(crate) fn zero_filled(array: &ArrayRef) -> Result<ArrayRef> {
    use arrow::array::Array;
    use arrow::compute::kernels::zip::zip;
    use datafusion::common::ScalarValue;
    if array.null_count() == 0 {
        return Ok(Arc::clone(array));
    }
    let zero = match array.data_type() {
        arrow::datatypes::DataType::FixedSizeBinary(width) => {
            let bytes = usize::try_from(*width).unwrap_or(0);
            ScalarValue::FixedSizeBinary(*width, Some(vec![0; bytes]))
        }
        arrow::datatypes::DataType::Utf8 => ScalarValue::Utf8(Some(String::new())),
        arrow::datatypes::DataType::Boolean => ScalarValue::Boolean(Some(false)),
        other => ScalarValue::new_zero(other)?,
    };
    let valid = arrow::compute::is_not_null(array)?;
    Ok(zip(&valid, array, &zero.to_scalar()?)?)
}
