//! Where rows are: the hot slices and the segments of one moment, cut to a range of time.
//!
//! ```text
//! Rows ─┬─ hot parts ── columns asked for, texts as dictionaries ──────────────┬─ union
//!       └─ segments that touch the range ── Parquet ── their own time filter ──┘
//! ```
//!
//! Bounds of `time_` in a query's filters cut the range once more before anything is planned, so they
//! need no filter above, and neither does a comparison with one service, whose hot rows are found by the
//! store's lists. Other filters stay above, from where the optimizer moves them into the Parquet scan, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, binary_expr, lit,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{cast, col};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use undine_schema::column::Role;
use undine_schema::{PxlType, Seq, TableDef};
use undine_store::{Snapshot, Store};

use crate::footers::Footers;
use crate::hot::{HotPart, cut, deal, hot_parts};
use crate::hot_service::{self, service_of};
use crate::segments::Segments;
use crate::span::Span;

/// The parts of a run's tables, each table at one moment only.
#[derive(Debug)]
pub(crate) struct Sources {
    store: Store,
    snapshots: HashMap<&'static str, Arc<Snapshot>>,
    pub(crate) footers: Arc<Footers>,
}

impl Sources {
    pub(crate) fn new(store: Store, footers: Arc<Footers>) -> Self {
        Self { store, snapshots: HashMap::new(), footers }
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

/// What all scans of a table's rows read, as they are planned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    pub(crate) hot_rows: u64,
    /// Rows of the segments that were not passed by.
    pub(crate) raw_rows: u64,
    /// The range that is answered, once a scan is planned; from the first to the last of several.
    pub(crate) span: Option<Span>,
}

/// The rows of a table in memory and on disk, each once.
#[derive(Debug)]
pub(crate) struct Rows {
    table: &'static TableDef,
    schema: SchemaRef,
    span: Span,
    hot: Vec<HotPart>,
    raw: Option<Segments>,
    read: Arc<Mutex<Read>>,
}

impl Rows {
    /// The rows of `table` in `span`: the hot ones above `above`, and those in `raw`.
    pub(crate) fn new(
        table: &'static TableDef,
        snapshot: &Snapshot,
        above: Seq,
        raw: Option<Segments>,
        span: Span,
    ) -> Self {
        let hot = hot_parts(snapshot, above, span);
        let schema = rows_schema(table, snapshot);
        Self { table, schema, span, hot, raw, read: Arc::default() }
    }

    /// How many rows there are in memory, and in the segments that touch the range.
    pub(crate) fn count(&self) -> Read {
        let hot = self.hot.iter().map(|part| part.len() as u64).sum();
        let raw = self.raw.as_ref().map_or(0, Segments::rows);
        Read { hot_rows: hot, raw_rows: raw, span: None }
    }

    /// Of which table they are.
    pub(crate) fn table(&self) -> &'static TableDef {
        self.table
    }

    /// What scans of it read, kept up to date.
    pub(crate) fn reads(&self) -> Arc<Mutex<Read>> {
        Arc::clone(&self.read)
    }

    fn scan_hot(
        &self,
        columns: &[usize],
        schema: &SchemaRef,
        span: Span,
        service: Option<&str>,
        partitions: usize,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let parts = if span == self.span { self.hot.clone() } else { cut(&self.hot, span) };
        self.note(|read| {
            read.hot_rows += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        });
        if parts.is_empty() {
            return Ok(None);
        }
        if let Some(service) = service {
            return hot_service::scan(service, &parts, columns, schema, partitions).map(Some);
        }
        let runs = deal(&parts, partitions).into_iter();
        let runs = runs.map(|run| run.iter().map(|part| part.project(columns, schema)).collect());
        let runs: Vec<Vec<_>> = runs.collect::<Result<_>>()?;
        let source = MemorySourceConfig::try_new(&runs, Arc::clone(schema), None)?;
        Ok(Some(DataSourceExec::from_data_source(source)))
    }

    fn scan_raw(
        &self,
        raw: &Segments,
        state: &dyn Session,
        schema: &SchemaRef,
        span: Span,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let raw = raw.within(span);
        self.note(|read| read.raw_rows += raw.rows());
        if raw.is_empty() {
            return Ok(None);
        }
        let stored = raw.schema();
        let is_cut = !raw.all_in(span);
        let mut wanted: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| stored.index_of(field.name()))
            .collect::<Result<_, _>>()?;
        // What no filter above looks at again.
        let of_service = filters.iter().filter(|filter| service_of(filter).is_some()).cloned();
        let exact = of_service.chain(bounds(span).filter(|_| is_cut)).reduce(Expr::and);
        for column in exact.iter().flat_map(Expr::column_refs) {
            let at = stored.index_of(&column.name)?;
            if !wanted.contains(&at) {
                wanted.push(at);
            }
        }
        let of_ids = filters.iter().filter_map(|filter| as_on_disk(self.table, filter));
        let limit = limit.filter(|_| filters.is_empty() && !is_cut);
        let mut plan = raw.read(state, Some(&wanted), of_ids.reduce(Expr::and).as_ref(), limit)?;
        if let Some(exact) = exact {
            let described = DFSchema::try_from(plan.schema())?;
            let exact = state.create_physical_expr(exact, &described)?;
            plan = Arc::new(FilterExec::try_new(exact, plan)?);
        }
        if plan.schema().fields() == schema.fields() {
            return Ok(Some(plan));
        }
        let on_disk = plan.schema();
        let columns = schema.fields().iter().map(|field| {
            let column = col(field.name(), &on_disk)?;
            let column = if on_disk.field_with_name(field.name())?.data_type() == field.data_type()
            {
                column
            } else {
                cast(column, &on_disk, field.data_type().clone())?
            };
            Ok((column, field.name().clone()))
        });
        let columns: Vec<(Arc<dyn PhysicalExpr>, String)> = columns.collect::<Result<_>>()?;
        Ok(Some(Arc::new(ProjectionExec::try_new(columns, plan)?)))
    }

    fn note(&self, change: impl FnOnce(&mut Read)) {
        change(&mut self.read.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[async_trait]
impl TableProvider for Rows {
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
        let support = |filter: &&Expr| {
            if time_bound(filter).is_some() || service_of(filter).is_some() {
                TableProviderFilterPushDown::Exact
            } else if as_on_disk(self.table, filter).is_some() {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let schema = Arc::new(self.schema.project(&columns)?);
        let bounds = filters.iter().filter_map(time_bound);
        let span = bounds.fold(self.span, Span::and);
        let others: Vec<_> =
            filters.iter().filter(|filter| time_bound(filter).is_none()).cloned().collect();
        self.note(|read| read.span = Some(read.span.map_or(span, |other| other.or(span))));
        let mut services = others.iter().filter_map(service_of);
        let service = services.next();
        if services.any(|other| Some(other) != service) {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let partitions = state.config().target_partitions();
        let mut inputs = Vec::new();
        if let Some(raw) = &self.raw {
            inputs.extend(self.scan_raw(raw, state, &schema, span, &others, limit)?);
        }
        inputs.extend(self.scan_hot(&columns, &schema, span, service, partitions)?);
        match inputs.pop() {
            None => Ok(Arc::new(EmptyExec::new(schema))),
            Some(only) if inputs.is_empty() => Ok(only),
            Some(hot) => {
                inputs.push(hot);
                UnionExec::try_new(inputs)
            }
        }
    }
}

/// The schema of a table's rows as a scan gives them: texts by which rows are grouped are
/// dictionaries, and others whose texts come again and again at the moment.
fn rows_schema(table: &TableDef, snapshot: &Snapshot) -> SchemaRef {
    let mut fields: Vec<_> = table
        .columns
        .iter()
        .map(|column| Field::new(column.name, column.pxl_type.arrow(), false))
        .collect();
    for (at, column) in table.repeated_texts() {
        if column.role == Role::Dimension || snapshot.is_numbered(at) {
            fields[at].set_data_type(numbered());
        }
    }
    Arc::new(Schema::new(fields))
}

/// As [`rows_schema`], with the types that are in the files where they differ in more than that.
pub(crate) fn rows_schema_on_disk(table: &TableDef, snapshot: &Snapshot) -> SchemaRef {
    let schema = rows_schema(table, snapshot);
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::FixedSizeBinary(_) => Arc::new(Field::new(field.name(), DataType::Binary, false)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The type of texts that are shown as numbers.
pub(crate) fn numbered() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// A comparison of an id with the column as it is on disk, where ids are bytes of any length. The filter
/// itself, with a cast of the column, would pass by no segment.
fn as_on_disk(table: &TableDef, filter: &Expr) -> Option<Expr> {
    let is_id = |name: &str| table.column(name).map(|c| c.pxl_type == PxlType::Uint128);
    let id = |expr: &Expr| match uncast(expr, is_bytes) {
        Expr::Column(column) if is_id(&column.name) == Some(true) => Some(column.clone()),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, value) = match (id(left), id(right)) {
                (Some(column), None) => (column, bytes(right)?),
                (None, Some(column)) => (column, bytes(left)?),
                _ => return None,
            };
            matches!(op, Operator::Eq | Operator::NotEq)
                .then(|| binary_expr(Expr::Column(column), *op, value))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let list = list.iter().map(bytes).collect::<Option<_>>()?;
            Some(Expr::Column(id(expr)?).in_list(list, *negated))
        }
        _ => None,
    }
}

/// What is cast, without casts to types that `keep` its value as it is.
pub(crate) fn uncast(expr: &Expr, keep: fn(&DataType) -> bool) -> &Expr {
    match expr {
        Expr::Cast(cast) if keep(cast.field.data_type()) => uncast(&cast.expr, keep),
        other => other,
    }
}

/// Whether a cast of an id to this type leaves its bytes as they are.
const fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::FixedSizeBinary(_))
}

/// A constant id as bytes of any length.
fn bytes(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Literal(
            ScalarValue::FixedSizeBinary(_, value @ Some(_)) | ScalarValue::Binary(value @ Some(_)),
            _,
        ) => Some(lit(ScalarValue::Binary(value.clone()))),
        _ => None,
    }
}

/// The range that `filter` allows, if it is a bound of `time_` and nothing else.
pub(crate) fn time_bound(filter: &Expr) -> Option<Span> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
    let time = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == "time_");
    let constant = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        _ => None,
    };
    let (op, value) = if time(left) {
        (*op, constant(right)?)
    } else if time(right) {
        (op.swap()?, constant(left)?)
    } else {
        return None;
    };
    let (from, until) = match op {
        Operator::GtEq => (value, i64::MAX),
        Operator::Gt => (value.checked_add(1)?, i64::MAX),
        Operator::Lt => (i64::MIN, value),
        Operator::LtEq => (i64::MIN, value.checked_add(1)?),
        Operator::Eq => (value, value.checked_add(1)?),
        _ => return None,
    };
    Some(Span { from, until })
}

/// The bounds that there are, on `time_`.
fn bounds(span: Span) -> Option<Expr> {
    let time = || Expr::Column(Column::new_unqualified("time_"));
    let from = (span.from > i64::MIN).then(|| time().gt_eq(lit(span.from)));
    let until = (span.until < i64::MAX).then(|| time().lt(lit(span.until)));
    from.into_iter().chain(until).reduce(Expr::and)
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
        DataType::FixedSizeBinary(width) => {
            let bytes = usize::try_from(*width).unwrap_or(0);
            ScalarValue::FixedSizeBinary(*width, Some(vec![0; bytes]))
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(String::new())),
        DataType::Boolean => ScalarValue::Boolean(Some(false)),
        other => ScalarValue::new_zero(other)?,
    };
    let valid = arrow::compute::is_not_null(array)?;
    Ok(zip(&valid, array, &zero.to_scalar()?)?)
}
