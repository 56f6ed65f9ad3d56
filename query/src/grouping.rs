//! Grouping by keys of which few are different at a time: services, windows, status codes.
//!
//! `DataFusion` hashes and compares all keys of each row. Here each key is numbered by itself, a text
//! that comes as a dictionary once per dictionary, a window once per window; then the numbers are
//! paired to groups. The accumulators are `DataFusion`'s and ours, as they are: a rule puts a
//! [`GroupingExec`] in the place of the first stage of an aggregation, and the second stage does not
//! see the difference.
//!
//! ```text
//! batch ── key 1 ──► numbers ─┐
//!       ── key 2 ──► numbers ─┴─► pairs = groups ──► accumulators ──► one row of states a group
//! ```

mod interner;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{ReplaceChildrenOptions, apply_expression_roots};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
};
use futures::TryStreamExt;

use interner::{Interner, Pairs};

/// Groups of a first stage before it hands on what it has and starts again.
const GROUPS_MAX: usize = 64 * 1024;
/// Batches between two looks at the memory that is used.
const BATCHES_MAX: usize = 8;

/// `DataFusion`'s rules and ours, which comes before projections are moved into the scans below: a text
/// that a scan casts is no dictionary any more.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let projections = ProjectionPushdown::new();
    let before = rules.iter().position(|rule| rule.name() == projections.name());
    rules.insert(before.unwrap_or(rules.len()), Arc::new(FewGroups));
    rules
}

/// Puts a [`GroupingExec`] where it can do what an aggregation does.
#[derive(Debug)]
struct FewGroups;

impl PhysicalOptimizerRule for FewGroups {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rewritten = plan.transform_up(|node| {
            let grouping = match node.downcast_ref::<AggregateExec>() {
                Some(aggregate) => GroupingExec::instead_of(aggregate)?,
                None => None,
            };
            Ok(match grouping {
                Some(grouping) => Transformed::yes(Arc::new(grouping) as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "few_groups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What becomes of the accumulators at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Their states, for a second stage.
    First,
    /// Their values.
    Only,
}

/// One aggregate, over the columns of the input.
#[derive(Clone, Debug)]
struct Aggregate {
    function: Arc<AggregateFunctionExpr>,
    args: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

/// Aggregates the rows of each input partition.
#[derive(Clone, Debug)]
struct GroupingExec {
    input: Arc<dyn ExecutionPlan>,
    stage: Stage,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<Aggregate>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GroupingExec {
    fn instead_of(aggregate: &AggregateExec) -> Result<Option<Self>> {
        let stage = match aggregate.mode() {
            AggregateMode::Partial => Stage::First,
            AggregateMode::Single | AggregateMode::SinglePartitioned => Stage::Only,
            _ => return Ok(None),
        };
        let group = aggregate.group_expr();
        let plain = group.is_single()
            && !group.is_true_no_grouping()
            && aggregate.limit_options().is_none()
            && *aggregate.input_order_mode() == InputOrderMode::Linear;
        let supported = |function: &Arc<AggregateFunctionExpr>| {
            function.groups_accumulator_supported()
                && !function.is_distinct()
                && function.order_bys().is_empty()
        };
        if !plain || !aggregate.aggr_expr().iter().all(supported) {
            return Ok(None);
        }
        let (input, inlined) = below_projection(aggregate);
        let over_input = |expr: &Arc<dyn PhysicalExpr>| match &inlined {
            Some(exprs) => substituted(expr, exprs),
            None => Ok(Arc::clone(expr)),
        };
        let keys = group.expr().iter().map(|(key, _)| Ok(texts_as_they_are(over_input(key)?)));
        let keys: Vec<_> = keys.collect::<Result<_>>()?;
        let given = input.schema();
        let schema = aggregate.schema();
        for (at, key) in keys.iter().enumerate() {
            if !Interner::supports(&key.data_type(&given)?, schema.field(at).data_type()) {
                return Ok(None);
            }
        }
        let aggregates = aggregate.aggr_expr().iter().zip(aggregate.filter_expr());
        let aggregates = aggregates.map(|(function, filter)| {
            Ok(Aggregate {
                function: Arc::clone(function),
                args: args_of(function, &given, over_input)?,
                filter: filter.as_ref().map(over_input).transpose()?,
            })
        });
        Ok(Some(Self {
            stage,
            keys,
            aggregates: aggregates.collect::<Result<_>>()?,
            schema,
            properties: Arc::clone(aggregate.properties()),
            metrics: ExecutionPlanMetricsSet::new(),
            input,
        }))
    }
}

/// What a projection computes.
type Projected = Vec<Arc<dyn PhysicalExpr>>;

/// The input of an aggregate, and if that is a projection, its input and expressions. A projection
/// stays where it computes something that is needed twice.
fn below_projection(aggregate: &AggregateExec) -> (Arc<dyn ExecutionPlan>, Option<Projected>) {
    let input = aggregate.input();
    let Some(projection) = input.downcast_ref::<ProjectionExec>() else {
        return (Arc::clone(input), None);
    };
    let keys = aggregate.group_expr().expr().iter().map(|(key, _)| Arc::clone(key));
    let args = aggregate.aggr_expr().iter().flat_map(|function| function.expressions());
    let filters = aggregate.filter_expr().iter().flatten().map(Arc::clone);
    let mut uses = vec![0; projection.expr().len()];
    for expr in keys.chain(args).chain(filters) {
        for column in datafusion::physical_expr::utils::collect_columns(&expr) {
            uses[column.index()] += 1;
        }
    }
    let is_cheap = |expr: &Arc<dyn PhysicalExpr>| {
        let inner = expr.downcast_ref::<CastExpr>().map_or(expr, CastExpr::expr);
        inner.downcast_ref::<Column>().is_some()
    };
    let exprs: Vec<_> = projection.expr().iter().map(|column| Arc::clone(&column.expr)).collect();
    if exprs.iter().zip(uses).any(|(expr, uses)| uses > 1 && !is_cheap(expr)) {
        return (Arc::clone(input), None);
    }
    (Arc::clone(projection.input()), Some(exprs))
}

/// `expr` with each column replaced by what computes it.
fn substituted(
    expr: &Arc<dyn PhysicalExpr>,
    exprs: &[Arc<dyn PhysicalExpr>],
) -> Result<Arc<dyn PhysicalExpr>> {
    let replaced = Arc::clone(expr).transform_down(|part| {
        let Some(column) = part.downcast_ref::<Column>() else {
            return Ok(Transformed::no(part));
        };
        // What is put in is not looked at again.
        let replacement = Arc::clone(&exprs[column.index()]);
        Ok(Transformed::new(replacement, true, TreeNodeRecursion::Jump))
    })?;
    Ok(replaced.data)
}

/// What an aggregate is of, over the input. How many values are different can be told of a dictionary
/// as well as of its texts, which are hashed once each then.
fn args_of(
    function: &AggregateFunctionExpr,
    given: &SchemaRef,
    over_input: impl Fn(&Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>>,
) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    let is_counted = function.fun().name() == "approx_distinct";
    let args = function.expressions();
    let args = args.iter().map(|arg| {
        let arg = over_input(arg)?;
        let bare = texts_as_they_are(Arc::clone(&arg));
        let is_dictionary = matches!(bare.data_type(given)?, DataType::Dictionary(..));
        Ok(if is_counted && is_dictionary { bare } else { arg })
    });
    args.collect()
}

/// The key without a cast to text, which would copy each text of a dictionary.
fn texts_as_they_are(key: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    match key.downcast_ref::<CastExpr>() {
        Some(cast) if *cast.cast_type() == DataType::Utf8 => Arc::clone(cast.expr()),
        _ => key,
    }
}

impl DisplayAs for GroupingExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(ToString::to_string).collect();
        let names: Vec<_> = self.aggregates.iter().map(|a| a.function.name().to_owned()).collect();
        let (keys, names) = (keys.join(", "), names.join(", "));
        write!(f, "GroupingExec: stage={:?}, gby=[{keys}], aggr=[{names}]", self.stage)
    }
}

impl ExecutionPlan for GroupingExec {
    fn name(&self) -> &'static str {
        "GroupingExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let args = self.aggregates.iter().flat_map(|aggregate| &aggregate.args);
        let filters = self.aggregates.iter().filter_map(|aggregate| aggregate.filter.as_ref());
        apply_expression_roots(self.keys.iter().chain(args).chain(filters), f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let (Some(input), true) = (children.pop(), children.is_empty()) {
            Ok(Arc::new(Self { input, ..Self::clone(&self) }))
        } else {
            internal_err!("a grouping has one input")
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode;
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let reservation =
            MemoryConsumer::new(format!("groups[{partition}]")).register(context.memory_pool());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let groups = Groups::new(self, reservation)?;
        let work = Work { input, groups, metrics, is_done: false };
        let batches = futures::stream::try_unfold(work, Work::step);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}

/// One partition at work.
struct Work {
    input: SendableRecordBatchStream,
    groups: Groups,
    metrics: BaselineMetrics,
    is_done: bool,
}

impl Work {
    /// The next batch of groups, and what is left.
    async fn step(mut self) -> Result<Option<(RecordBatch, Self)>> {
        while !self.is_done {
            let batch = self.input.try_next().await?;
            let timer = self.metrics.elapsed_compute().timer();
            self.is_done = batch.is_none();
            let is_full = match batch {
                Some(batch) => self.groups.add(&batch)?,
                None => true,
            };
            if is_full && self.groups.count > 0 {
                let groups = self.groups.emit()?.record_output(&self.metrics);
                timer.done();
                return Ok(Some((groups, self)));
            }
        }
        Ok(None)
    }
}

/// The groups so far.
struct Groups {
    stage: Stage,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<Aggregate>,
    schema: SchemaRef,
    interners: Vec<Interner>,
    /// Groups of the first two keys, of those and the third, and so on.
    pairs: Vec<Pairs>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    count: usize,
    batches: usize,
    reservation: MemoryReservation,
    numbers: Vec<u32>,
    more: Vec<u32>,
    indices: Vec<usize>,
}

impl Groups {
    fn new(exec: &GroupingExec, reservation: MemoryReservation) -> Result<Self> {
        let accumulators = exec.aggregates.iter();
        let accumulators = accumulators.map(|a| a.function.create_groups_accumulator());
        Ok(Self {
            stage: exec.stage,
            keys: exec.keys.clone(),
            aggregates: exec.aggregates.clone(),
            schema: Arc::clone(&exec.schema),
            interners: exec.keys.iter().map(|_| Interner::default()).collect(),
            pairs: exec.keys.iter().skip(1).map(|_| Pairs::default()).collect(),
            accumulators: accumulators.collect::<Result<_>>()?,
            count: 0,
            batches: 0,
            reservation,
            numbers: Vec::new(),
            more: Vec::new(),
            indices: Vec::new(),
        })
    }

    /// Adds rows; whether the groups should be handed on now.
    fn add(&mut self, batch: &RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        for (at, key) in self.keys.iter().enumerate() {
            let values = key.evaluate(batch)?.into_array(rows)?;
            if at == 0 {
                self.interners[at].number(&values, &mut self.numbers)?;
            } else {
                self.interners[at].number(&values, &mut self.more)?;
                self.pairs[at - 1].pair(&mut self.numbers, &self.more)?;
            }
        }
        self.count = match self.pairs.last() {
            Some(pairs) => pairs.len(),
            None => self.interners[0].len(),
        };
        self.indices.clear();
        self.indices.extend(self.numbers.iter().map(|&number| number as usize));
        for (aggregate, accumulator) in self.aggregates.iter().zip(&mut self.accumulators) {
            let args = aggregate.args.iter().map(|arg| arg.evaluate(batch)?.into_array(rows));
            let args: Vec<ArrayRef> = args.collect::<Result<_>>()?;
            let filter = aggregate.filter.as_ref();
            let filter = filter.map(|f| f.evaluate(batch)?.into_array(rows)).transpose()?;
            let filter: Option<&BooleanArray> = filter.as_ref().map(AsArray::as_boolean);
            accumulator.update_batch(&args, &self.indices, filter, self.count)?;
        }
        self.batches += 1;
        if self.stage == Stage::First && self.count >= GROUPS_MAX {
            return Ok(true);
        }
        if !self.batches.is_multiple_of(BATCHES_MAX) {
            return Ok(false);
        }
        match self.reservation.try_resize(self.size()) {
            Ok(()) => Ok(false),
            Err(DataFusionError::ResourcesExhausted(_)) if self.stage == Stage::First => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The groups so far as one batch; afterwards there are none.
    fn emit(&mut self) -> Result<RecordBatch> {
        let mut members = vec![(0..u32::try_from(self.count).unwrap_or(u32::MAX)).collect()];
        // The last pairs' first halves are the pairs before, down to the first key.
        for pairs in self.pairs.iter().rev() {
            let groups: Vec<u32> = members.pop().unwrap_or_default();
            let (first, second) = pairs.halves(&groups);
            members.push(second);
            members.push(first);
        }
        members.reverse();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for ((interner, members), field) in
            self.interners.iter().zip(&members).zip(self.schema.fields())
        {
            columns.push(interner.values(members, field.data_type())?);
        }
        for accumulator in &mut self.accumulators {
            match self.stage {
                Stage::First => columns.extend(accumulator.state(EmitTo::All)?),
                Stage::Only => columns.push(accumulator.evaluate(EmitTo::All)?),
            }
        }
        self.interners.iter_mut().for_each(|interner| *interner = Interner::default());
        self.pairs.iter_mut().for_each(|pairs| *pairs = Pairs::default());
        self.count = 0;
        self.reservation.free();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn size(&self) -> usize {
        let keys: usize = self.interners.iter().map(Interner::size).sum();
        let pairs: usize = self.pairs.iter().map(Pairs::size).sum();
        keys + pairs + self.accumulators.iter().map(|a| a.size()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
