//! Relations → `DataFusion` plans, and where each one's rows come from.
//!
//! A plan is a tree, the relations are a DAG: an aggregate, join or union that more than one other
//! relation reads is computed once and kept in memory for the run; chains of filters and maps are
//! planned into each of their readers. Very deep chains are cut the same way.

pub(crate) mod aggregation;
mod losses;
mod lower;
mod scan;
mod states;

pub(crate) use scan::{has_older, horizon};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::ObjectStore;
use undine_schema::TableDef;

use crate::answer::{Note, SourceUse};
use crate::diagnostics::Diagnostic;
use crate::functions::environment::Environment;
use crate::provider::Sources;
use crate::relation::{Op, Relation};
use crate::segments::Segments;
use crate::span::Span;

/// Operators on top of each other before a plan is cut.
const PLAN_DEPTH_MAX: usize = 32;

/// Why a relation cannot be computed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The script asks for what there is not.
    Script(Diagnostic),
    Engine(DataFusionError),
}

impl From<DataFusionError> for Fault {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}

impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Engine(error.into())
    }
}

/// What the rows of a relation are, beside the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) notes: Vec<Note>,
    pub(crate) sources: Vec<SourceUse>,
}

impl Origin {
    pub(crate) fn add(&mut self, other: &Self) {
        for note in &other.notes {
            self.note(note.clone());
        }
        for source in &other.sources {
            if !self.sources.contains(source) {
                self.sources.push(source.clone());
            }
        }
    }

    fn note(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// Plans and computes the relations of one run.
pub(crate) struct Planner {
    context: SessionContext,
    sources: Sources,
    environment: Arc<Environment>,
    now: i64,
    since: i64,
    strict: bool,
    /// Relations that were computed already.
    computed: HashMap<usize, (Arc<MemTable>, Origin)>,
    /// Memory of what was computed.
    kept: MemoryReservation,
    scans: usize,
    stores: usize,
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner").field("computed", &self.computed.len()).finish_non_exhaustive()
    }
}

/// The moment of a run, and how honest it must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: i64,
    /// Since when this node runs.
    pub(crate) since: i64,
    /// Whether an answer over fewer rows than asked for is an error.
    pub(crate) strict: bool,
}

/// A plan and where its rows come from.
pub(crate) struct Planned {
    pub(crate) plan: LogicalPlan,
    pub(crate) origin: Origin,
}

impl Planner {
    pub(crate) fn new(
        context: SessionContext,
        sources: Sources,
        environment: Arc<Environment>,
        moment: Moment,
    ) -> Self {
        let pool = &context.runtime_env().memory_pool;
        let kept = MemoryConsumer::new("shared rows of a script").register(pool);
        let Moment { now, since, strict } = moment;
        Self {
            context,
            sources,
            environment,
            now,
            since,
            strict,
            computed: HashMap::new(),
            kept,
            scans: 0,
            stores: 0,
        }
    }

    /// Computes what more than one of the `roots` and their inputs read.
    pub(crate) async fn share(&mut self, roots: &[Arc<Relation>]) -> Result<(), Fault> {
        for relation in shared(roots) {
            let Planned { plan, origin } = self.lower(&relation, None)?;
            let schema = nullable(plan.schema().as_arrow());
            let batches = self.execute(plan).await?;
            let batches = batches
                .into_iter()
                .map(|batch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()))
                .collect::<Result<_, _>>()?;
            let table = MemTable::try_new(schema, vec![batches])?;
            self.computed.insert(relation.id(), (Arc::new(table), origin));
        }
        Ok(())
    }

    /// Runs a plan and keeps its rows, within the memory of the run.
    pub(crate) async fn execute(&mut self, plan: LogicalPlan) -> Result<Vec<RecordBatch>, Fault> {
        let state = self.context.state();
        let physical = state.create_physical_plan(&plan).await?;
        let mut stream =
            datafusion::physical_plan::execute_stream(physical, self.context.task_ctx())?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            if batch.num_rows() > 0 {
                self.kept.try_grow(batch.get_array_memory_size())?;
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    /// How a plan is computed, for people.
    pub(crate) async fn explain(&self, plan: &LogicalPlan) -> Result<String, Fault> {
        let physical = self.context.state().create_physical_plan(plan).await?;
        Ok(displayable(physical.as_ref()).indent(false).to_string())
    }

    /// A scan of `table`, with columns by their bare names.
    fn scan_of(&mut self, table: Arc<dyn TableProvider>) -> Result<LogicalPlanBuilder> {
        self.scans += 1;
        let name = TableReference::bare(format!("t{}", self.scans));
        LogicalPlanBuilder::scan(name, provider_as_source(table), None)
    }

    /// The segments of a tier that touch `span`, as a table of its schema, and how many states or
    /// rows they hold.
    pub(crate) fn files_of(
        &mut self,
        tier: &undine_store::TierView,
        span: Span,
    ) -> Result<(Arc<dyn TableProvider>, u64), Fault> {
        let files = self.segments(tier, Arc::clone(&tier.schema), span)?;
        let rows = files.rows();
        Ok((Arc::new(files), rows))
    }

    fn segments(
        &mut self,
        tier: &undine_store::TierView,
        schema: SchemaRef,
        span: Span,
    ) -> Result<Segments, Fault> {
        let url = self.register(&tier.objects)?;
        Ok(Segments::new(tier, schema, url, &self.sources.footers, span))
    }

    /// Makes the folder of a tier known to the run under a name of its own.
    fn register(&mut self, objects: &Arc<dyn ObjectStore>) -> Result<ObjectStoreUrl, Fault> {
        self.stores += 1;
        let url = ObjectStoreUrl::parse(format!("undine://tier{}", self.stores))?;
        self.context.register_object_store(url.as_ref(), Arc::clone(objects));
        Ok(url)
    }

    pub(crate) fn snapshot(&mut self, table: &'static TableDef) -> Arc<undine_store::Snapshot> {
        self.sources.snapshot(table)
    }
}

/// The schema without a word about nulls: what a plan says of them and what its batches say differs, for
/// instance after outer joins, and there are none in either.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A column by its bare name.
pub(crate) fn bare(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// The relations below `roots` that are computed once, inputs before their readers.
fn shared(roots: &[Arc<Relation>]) -> Vec<Arc<Relation>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for root in roots {
        visit(root, &mut seen, &mut order);
    }
    let mut readers: HashMap<usize, usize> = HashMap::new();
    let edges = order.iter().flat_map(|relation| relation.inputs());
    for input in edges.chain(roots) {
        *readers.entry(input.id()).or_default() += 1;
    }
    let mut depths: HashMap<usize, usize> = HashMap::new();
    // Those that are an aggregate, a join or a union, or filters and maps on top of one, unless computed.
    let mut heavy: HashSet<usize> = HashSet::new();
    let mut chosen = Vec::new();
    for relation in order {
        let below = relation.inputs().iter().filter_map(|i| depths.get(&i.id())).max();
        let depth = below.copied().unwrap_or(0) + 1;
        let is_heavy = matches!(relation.op, Op::Aggregate { .. } | Op::Join(_) | Op::Union { .. })
            || relation.inputs().iter().any(|input| heavy.contains(&input.id()));
        let is_read_twice = readers.get(&relation.id()).is_some_and(|&n| n > 1);
        if (is_heavy && is_read_twice) || depth == PLAN_DEPTH_MAX {
            depths.insert(relation.id(), 0);
            chosen.push(relation);
        } else {
            depths.insert(relation.id(), depth);
            if is_heavy {
                heavy.insert(relation.id());
            }
        }
    }
    chosen
}

/// Inputs first. The walk keeps its own stack, since relations can be deep.
fn visit(root: &Arc<Relation>, seen: &mut HashSet<usize>, order: &mut Vec<Arc<Relation>>) {
    let mut stack = vec![(Arc::clone(root), false)];
    while let Some((relation, inputs_done)) = stack.pop() {
        if inputs_done {
            order.push(relation);
        } else if seen.insert(relation.id()) {
            stack.push((Arc::clone(&relation), true));
            stack.extend(relation.inputs().into_iter().map(|input| (Arc::clone(input), false)));
        }
    }
}
