//! SQL over the same tables, read-only: every column by its name, context included; rows in memory
//! and on disk. Summaries are there as tables of states: `http_events__10s`, the smaller ones as
//! `http_events__10s_service`; single rows that stand for many are in `http_events__exemplars`.
//! Aggregates that reach further back than rows are computed from these, see [`summaries`]. Beside the
//! engine's own functions there are `bin(time_, width)` and those of [`quantiles`].

mod on_states;
mod summaries;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use async_trait::async_trait;
use datafusion::catalog::memory::MemoryCatalogProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as PlanResult, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::TryStreamExt;
use undine_schema::{TableDef, TimeNs, tables};
use undine_store::TierView;

use crate::answer::{Note, ResultTable, SourceUse, Tier};
use crate::engine::{Engine, Error, is_partial};
use crate::functions::operators::bins;
use crate::plan::{Fault, Moment, Origin, Planner, has_older, horizon};
use crate::provider::Read;
use crate::quantiles;
use crate::span::Span;
use summaries::{Summarised, aggregates, from_summaries};

impl Engine {
    /// Answers one SQL query over what is kept; anything but reading is refused. The answer of `EXPLAIN`
    /// also says which parts of the store are read.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sql(&self, query: &str) -> Result<ResultTable, Error> {
        self.sql_timed(query, false).await
    }

    /// As [`sql`](Self::sql); an answer over fewer rows than the query asks for by a bound of `time_` is an
    /// error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sql_strictly(&self, query: &str) -> Result<ResultTable, Error> {
        self.sql_timed(query, true).await
    }

    async fn sql_timed(&self, query: &str, strict: bool) -> Result<ResultTable, Error> {
        let timeout = self.config().timeout;
        match tokio::time::timeout(timeout, self.sql_untimed(query, strict)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Error::Timeout(timeout)),
        }
    }

    async fn sql_untimed(&self, query: &str, strict: bool) -> Result<ResultTable, Error> {
        if query.len() > self.config().script_bytes_max {
            let limit = self.config().script_bytes_max;
            return Err(Error::Sql(format!("it has more than {limit} bytes")));
        }
        let context = self.session();
        let now = self.config().clock.now().get();
        let moment = Moment { now, since: now, strict };
        // The planner's session is another one, or the two would keep each other alive.
        let planner = Mutex::new(self.plain_planner(self.session(), moment));
        let tables =
            Arc::new(Tables { planner, asked: Mutex::default(), summarised: Mutex::default() });
        register(&context, &tables).map_err(|error| self.run_error(error.into()))?;
        let options = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        let wrong = |error: DataFusionError| Error::Sql(error.strip_backtrace());
        let frame = context.sql_with_options(query, options).await.map_err(wrong)?;
        let estimates = estimates(frame.logical_plan());
        let is_explained =
            matches!(frame.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        let frame = tables.take_summaries(frame).map_err(wrong)?;
        let rows_max = self.config().rows_max;
        let frame = if is_explained {
            frame
        } else {
            frame.limit(0, Some(rows_max.saturating_add(1))).map_err(wrong)?
        };
        let schema = Arc::clone(frame.schema().inner());
        let failed = |error: DataFusionError| self.run_error(error.into());
        let task = Arc::new(frame.task_ctx());
        let physical = frame.create_physical_plan().await.map_err(failed)?;
        if strict && let Some(missed) = tables.reads(now).1.into_iter().find(is_short) {
            let help = "ask for a later start, or run without strict";
            return Err(Error::Sql(format!("{missed}; {help}")));
        }
        let mut stream = execute_stream(physical, task).map_err(failed)?;
        let (mut batches, mut room, mut is_cut) = (Vec::new(), rows_max, false);
        while let Some(batch) = stream.try_next().await.map_err(failed)? {
            let kept = batch.slice(0, batch.num_rows().min(room));
            is_cut |= kept.num_rows() < batch.num_rows();
            room -= kept.num_rows();
            if kept.num_rows() > 0 {
                batches.push(kept);
            }
        }
        let (sources, mut notes) = tables.reads(now);
        let losses = self.plain_planner(self.session(), moment).losses(&sources).await;
        notes.extend(losses.map_err(|fault| self.run_error(fault))?);
        let exact = !estimates && !is_partial(&sources, &notes);
        if is_cut {
            notes.push(Note::RowsCut { rows_max });
        }
        if is_explained {
            batches.extend(explained(&batches, &sources, &notes));
        }
        Ok(ResultTable { name: "output".to_owned(), schema, batches, notes, sources, exact })
    }
}

fn register(context: &SessionContext, tables: &Arc<Tables>) -> PlanResult<()> {
    let options = context.copied_config();
    let names = &options.options().catalog;
    let tables: Arc<Tables> = Arc::clone(tables);
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(&names.default_schema, tables)?;
    context.register_catalog(&names.default_catalog, Arc::new(catalog));
    for function in quantiles::aggregates() {
        context.register_udaf(function);
    }
    for function in quantiles::scalars() {
        context.register_udf(function);
    }
    context.register_udf(ScalarUDF::new_from_impl(Bin {
        signature: Signature::exact(vec![DataType::Int64, DataType::Int64], Volatility::Immutable),
    }));
    Ok(())
}

/// The tables of one query, each made when it is first asked for.
#[derive(Debug)]
struct Tables {
    planner: Mutex<Planner>,
    asked: Mutex<Vec<Asked>>,
    /// What is read of summaries without being asked for by name.
    summarised: Mutex<Summarised>,
}

/// A table that a query names.
#[derive(Debug)]
struct Asked {
    name: String,
    provider: Arc<dyn TableProvider>,
    of: Of,
}

/// What a table that a query names is made of.
#[derive(Debug)]
enum Of {
    /// Rows, since this time if there were older ones.
    Rows { table: &'static TableDef, read: Arc<Mutex<Read>>, horizon: Option<i64> },
    /// States of a summary, or rows that stand for others, in this range, which is complete.
    States { table: &'static TableDef, tier: Tier, rows: u64, range: (TimeNs, TimeNs) },
}

impl Tables {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, Fault> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.iter().find(|known| known.name == name) {
            return Ok(Some(Arc::clone(&known.provider)));
        }
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match tables::readable()
            .find(|table| tables::names_of(table).any(|known| known == name))
        {
            Some(table) => Some(rows(&mut planner, table)?),
            None => states(&mut planner, name)?,
        };
        let Some((provider, of)) = made else { return Ok(None) };
        let name = name.to_owned();
        asked.push(Asked { name, provider: Arc::clone(&provider), of });
        Ok(Some(provider))
    }

    /// The query, with summaries in place of rows that are gone.
    fn take_summaries(&self, frame: DataFrame) -> PlanResult<DataFrame> {
        if !aggregates(frame.logical_plan())? {
            return Ok(frame);
        }
        let (state, plan) = frame.into_parts();
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        let (plan, summarised) = from_summaries(plan, &mut planner, &state)?;
        *self.summarised.lock().unwrap_or_else(PoisonError::into_inner) = summarised;
        Ok(DataFrame::new(state, plan))
    }

    /// Where the query reads, once it is planned, and what to know about that.
    fn reads(&self, now: i64) -> (Vec<SourceUse>, Vec<Note>) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let summarised = self.summarised.lock().unwrap_or_else(PoisonError::into_inner);
        let Origin { mut notes, mut sources } = summarised.origin.clone();
        let until = |until: i64| TimeNs::new(if until == i64::MAX { now } else { until });
        for asked in asked.iter() {
            match &asked.of {
                Of::Rows { table, read, horizon } => {
                    let read = *read.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(span) = read.span else { continue };
                    let horizon = horizon.filter(|&horizon| span.from < horizon);
                    let from = TimeNs::new(span.from.max(horizon.unwrap_or(0)));
                    let mut source = |tier, rows| {
                        let range = (from, until(span.until));
                        sources.push(SourceUse { table: table.name, tier, rows, range });
                    };
                    source(Tier::Hot, read.hot_rows);
                    if read.raw_rows > 0 {
                        source(Tier::Raw, read.raw_rows);
                    }
                    if let Some(horizon) = horizon {
                        notes.push(Note::Clipped {
                            table: table.name,
                            asked: (span.from > i64::MIN).then(|| TimeNs::new(span.from)),
                            from: TimeNs::new(horizon),
                            reason: summarised.why(table.name),
                        });
                    }
                }
                Of::States { table, tier, rows, range } => {
                    let (table, tier, rows, range) = (table.name, *tier, *rows, *range);
                    sources.push(SourceUse { table, tier, rows, range });
                    if let Tier::Summary { width_ns, .. } = tier
                        && range.0 > TimeNs::ZERO
                    {
                        notes.push(Note::SummariesStart { table, width_ns, from: range.0 });
                    }
                }
            }
        }
        (sources, notes)
    }
}

type Made = (Arc<dyn TableProvider>, Of);

fn rows(planner: &mut Planner, table: &'static TableDef) -> Result<Made, Fault> {
    let snapshot = planner.snapshot(table);
    let rows = planner.rows_of(table, &snapshot, Span::ALL)?;
    let read = rows.reads();
    let since = horizon(&snapshot);
    let horizon = has_older(&snapshot, since).then_some(since);
    let view = ViewTable::new(planner.scan_rows(table, rows)?, None);
    Ok((Arc::new(view), Of::Rows { table, read, horizon }))
}

/// The table of a summary's states or of rows that stand for others, by its name, such as
/// `http_events__10s`, `http_events__10s_service` or `http_events__exemplars`.
fn states(planner: &mut Planner, name: &str) -> Result<Option<Made>, Fault> {
    let Some((table, tier)) = name.rsplit_once("__") else { return Ok(None) };
    let Some(table) = tables::readable().find(|known| known.name == table) else {
        return Ok(None);
    };
    let snapshot = planner.snapshot(table);
    let tier_of = |view: &TierView| {
        let width_ns = i64::try_from(view.width.as_nanos()).unwrap_or(i64::MAX);
        Tier::Summary { width_ns, cube: view.cube }
    };
    let summaries = snapshot.tiers.iter().chain(&snapshot.cubes);
    let views = summaries.map(|view| (tier_of(view), view));
    let mut views = views.chain(snapshot.exemplars.iter().map(|view| (Tier::Exemplars, view)));
    let Some((tier, found)) = views.find(|(of, _)| of.to_string() == tier) else {
        return Ok(None);
    };
    let (files, rows) = planner.files_of(found, Span::ALL)?;
    let files = if rows == 0 {
        Arc::new(MemTable::try_new(Arc::clone(&found.schema), vec![Vec::new()])?)
    } else {
        files
    };
    let ends = found.segments.iter().map(|segment| match tier {
        Tier::Summary { width_ns, .. } => segment.last_window.get().saturating_add(width_ns),
        _ => segment.last_time.get().saturating_add(1),
    });
    let until = ends.max().map_or(found.complete_from, TimeNs::new);
    let range = (found.complete_from, until);
    Ok(Some((files, Of::States { table, tier, rows, range })))
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        tables::readable().flat_map(tables::names_of).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        self.find(name).map_err(|fault| match fault {
            Fault::Engine(error) => error,
            Fault::Script(diagnostic) => DataFusionError::Plan(diagnostic.message),
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        matches!(self.find(name), Ok(Some(_)))
    }
}

/// Whether an answer is over fewer rows than were asked for by a bound.
fn is_short(note: &Note) -> bool {
    matches!(note, Note::Clipped { asked: Some(_), .. })
}

/// Whether anything in the plan estimates.
fn estimates(plan: &LogicalPlan) -> bool {
    let estimates = |name: &str| {
        let ours = ["quantiles", "sketch", "merged_quantiles", "merged_sketch", "quantile_of"];
        ours.contains(&name) || name.starts_with("approx_")
    };
    let mut found = false;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found |= match part {
                    Expr::AggregateFunction(call) => estimates(call.func.name()),
                    Expr::ScalarFunction(call) => estimates(call.func.name()),
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(visited.is_ok(), "the visitor does not fail");
    found
}

/// Rows for the answer of `EXPLAIN`: one for each part of the store that is read, and each note.
fn explained(
    batches: &[RecordBatch],
    sources: &[SourceUse],
    notes: &[Note],
) -> Option<RecordBatch> {
    let schema = batches.first()?.schema();
    let sources = sources.iter().map(|source| ("reads", source.to_string()));
    let notes = notes.iter().map(|note| ("note", note.to_string()));
    let (kinds, texts): (Vec<_>, Vec<_>) = sources.chain(notes).unzip();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(texts))];
    RecordBatch::try_new(schema, columns).ok()
}

/// `bin(value, width)` as in scripts.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bin {
    signature: Signature,
}

impl ScalarUDFImpl for Bin {
    fn name(&self) -> &'static str {
        "bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        if let [ColumnarValue::Array(values), ColumnarValue::Scalar(width)] = args.args.as_slice()
            && let ScalarValue::Int64(Some(width)) = width
        {
            let values = values.as_primitive::<Int64Type>();
            let binned = bins(values.values(), *width);
            let binned = Int64Array::new(binned.into(), values.nulls().cloned());
            return Ok(ColumnarValue::Array(Arc::new(binned)));
        }
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let values = arrays[0].as_primitive::<Int64Type>().iter();
        let widths = arrays[1].as_primitive::<Int64Type>().iter();
        let each = values.zip(widths).map(|(value, width)| Some(bins(&[value?], width?)[0]));
        Ok(ColumnarValue::Array(Arc::new(each.collect::<Int64Array>())))
    }
}
