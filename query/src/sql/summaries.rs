//! Aggregates of SQL that reach further back than single rows are kept are computed from summaries, by the
//! same plans as those of scripts.
//!
//! An aggregate qualifies if it is one of filters and projections over one table, and [`on_states`] finds a
//! state for everything in it. One whose rows are all there is left alone: what SQL says of single rows it
//! says exactly.
//!
//! [`on_states`]: super::on_states

use std::sync::Arc;

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use undine_schema::TableDef;

use super::on_states::{OnStates, Why};
use crate::diagnostics::Diagnostic;
use crate::plan::aggregation::{Aggregation, Value};
use crate::plan::{Fault, Origin, Planner, bare, has_older, horizon};
use crate::provider::{Rows, time_bound};
use crate::span::Span;

/// Nodes of an expression after the columns of subqueries are put into each other.
const INLINED_NODES_MAX: usize = 400;

/// What became of the aggregates of a query.
#[derive(Debug, Default)]
pub(super) struct Summarised {
    /// What the summaries that are read are, and what to know about them.
    pub(super) origin: Origin,
    /// Tables of whose rows there are no longer all, and why those are needed all the same.
    pub(super) needs_rows: Vec<(&'static str, Why)>,
}

impl Summarised {
    /// Why the rows of `table` are needed.
    pub(super) fn why(&self, table: &str) -> String {
        let known = self.needs_rows.iter().find(|(of, _)| *of == table).map(|(_, why)| why.clone());
        known.unwrap_or_else(|| {
            format!("summaries cannot show single rows; their windows are in {table}__…")
        })
    }
}

/// Whether anything in a plan could be over summaries.
pub(super) fn aggregates(plan: &LogicalPlan) -> PlanResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Puts plans over summaries in place of the aggregates that need them.
pub(super) fn from_summaries(
    plan: LogicalPlan,
    planner: &mut Planner,
    state: &SessionState,
) -> PlanResult<(LogicalPlan, Summarised)> {
    let mut told = Summarised::default();
    let planned = plan.transform_up_with_subqueries(|node| {
        let replaced = match &node {
            LogicalPlan::Aggregate(aggregate) => {
                let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
                replaced(input, group_expr, aggr_expr, schema, planner, state, &mut told)?
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns = input.schema().columns().into_iter().map(Expr::Column);
                let columns: Vec<_> = columns.collect();
                replaced(input, &columns, &[], input.schema(), planner, state, &mut told)?
            }
            _ => None,
        };
        match replaced {
            Some(plan) => Ok(Transformed::yes(plan)),
            // Whether something below may be null can be another now.
            None => node.recompute_schema().map(Transformed::no),
        }
    })?;
    Ok((planned.data, told))
}

fn replaced(
    input: &LogicalPlan,
    keys: &[Expr],
    values: &[Expr],
    schema: &DFSchemaRef,
    planner: &mut Planner,
    state: &SessionState,
    told: &mut Summarised,
) -> PlanResult<Option<LogicalPlan>> {
    let Some(chain) = Chain::of(input)? else { return Ok(None) };
    let (table, (asked, predicates)) = (chain.table, chain.bounds(state)?);
    let snapshot = planner.snapshot(table);
    let kept_since = horizon(&snapshot);
    if asked.from >= kept_since || !has_older(&snapshot, kept_since) {
        return Ok(None);
    }
    let aggregation = match aggregation(&chain, input, asked, &predicates, keys, values)? {
        Ok(aggregation) => aggregation,
        Err(why) => {
            told.needs_rows.push((table.name, why));
            return Ok(None);
        }
    };
    let Some(planned) = planner.lower_states(&aggregation).map_err(in_words)? else {
        return Ok(None);
    };
    told.origin.add(&planned.origin);
    let columns = schema.iter().enumerate().map(|(at, (qualifier, field))| {
        let column = cast(bare(&format!("c{at}")), field.data_type().clone());
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    let plan = LogicalPlanBuilder::from(planned.plan).project(columns.collect::<Vec<_>>())?;
    plan.build().map(Some)
}

/// The aggregate in terms of its table's own columns.
fn aggregation(
    chain: &Chain,
    input: &LogicalPlan,
    asked: Span,
    predicates: &[Expr],
    keys: &[Expr],
    values: &[Expr],
) -> PlanResult<Result<Aggregation, Why>> {
    let own = |expr: &Expr| chain.put_in(expr.clone(), input.schema());
    let keys: Option<Vec<Expr>> = keys.iter().map(own).collect::<PlanResult<_>>()?;
    let values: Option<Vec<Expr>> = values.iter().map(own).collect::<PlanResult<_>>()?;
    let (Some(keys), Some(values)) = (keys, values) else {
        return Ok(Err("its expressions are too large".to_owned()));
    };
    let mut on_states = OnStates { table: chain.table, bins: Vec::new(), templated: Vec::new() };
    let translated = || {
        let predicates: Result<_, Why> =
            predicates.iter().map(|predicate| on_states.dimensional(predicate)).collect();
        let keys_max = keys.len();
        let keys: Result<_, Why> = keys
            .iter()
            .enumerate()
            .map(|(at, key)| Ok((format!("c{at}"), on_states.dimensional(key)?)))
            .collect();
        let values: Result<Vec<Value>, Why> = values
            .iter()
            .enumerate()
            .map(|(index, value)| match value {
                Expr::AggregateFunction(call) => {
                    on_states.value(call, format!("c{}", keys_max + index), index)
                }
                other => Err(format!("`{other}` is no aggregate")),
            })
            .collect();
        let (predicates, keys, values) = (predicates?, keys?, values?);
        let OnStates { table, mut bins, mut templated } = on_states;
        bins.sort_unstable();
        bins.dedup();
        templated.sort_unstable();
        templated.dedup();
        Ok(Aggregation { table, asked, range: None, predicates, keys, values, bins, templated })
    };
    Ok(translated())
}

/// Filters and projections over the rows of one table, put into each other.
struct Chain {
    table: &'static TableDef,
    /// What each column is, in terms of the table's own.
    columns: Vec<Expr>,
    predicates: Vec<Expr>,
    /// The table's own columns.
    schema: DFSchemaRef,
}

impl Chain {
    fn of(plan: &LogicalPlan) -> PlanResult<Option<Self>> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Filter(filter) => {
                let Some(mut chain) = Self::of(&filter.input)? else { return Ok(None) };
                let predicate = chain.put_in(filter.predicate.clone(), filter.input.schema())?;
                let Some(predicate) = predicate else { return Ok(None) };
                chain.predicates.push(predicate);
                Ok(Some(chain))
            }
            LogicalPlan::Projection(projection) => {
                if let Some(table) = rows_below(&projection.input)? {
                    let columns = table.columns.iter().map(|column| bare(column.name)).collect();
                    let own = DFSchema::try_from(projection.schema.as_arrow().clone())?;
                    let (predicates, schema) = (Vec::new(), Arc::new(own));
                    return Ok(Some(Self { table, columns, predicates, schema }));
                }
                let Some(chain) = Self::of(&projection.input)? else { return Ok(None) };
                let schema = projection.input.schema();
                let columns = projection.expr.iter().map(|expr| chain.put_in(expr.clone(), schema));
                let columns: Option<Vec<_>> = columns.collect::<PlanResult<_>>()?;
                Ok(columns.map(|columns| Self { columns, ..chain }))
            }
            _ => Ok(None),
        }
    }

    /// `expr`, which is about columns of `schema`, about the table's own; none if it is too large.
    fn put_in(&self, expr: Expr, schema: &DFSchema) -> PlanResult<Option<Expr>> {
        // From the leaves up: what was put in is not looked at again.
        let replaced = expr.transform_up(|node| match node {
            Expr::Column(column) => {
                let own = self.columns.get(schema.index_of_column(&column)?).cloned();
                Ok(Transformed::yes(own.unwrap_or(Expr::Column(column))))
            }
            Expr::Alias(alias) => Ok(Transformed::yes(*alias.expr)),
            other => Ok(Transformed::no(other)),
        })?;
        let mut nodes = 0;
        replaced.data.apply(|_| {
            nodes += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Some(replaced.data).filter(|_| nodes <= INLINED_NODES_MAX))
    }

    /// The times that the predicates allow, and what else they ask for.
    fn bounds(&self, state: &SessionState) -> PlanResult<(Span, Vec<Expr>)> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&self.schema))
            .with_config_options(Arc::clone(state.config_options()))
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let (mut span, mut others) = (Span::ALL, Vec::new());
        for predicate in &self.predicates {
            for part in split_conjunction_owned(simplifier.simplify(predicate.clone())?) {
                match time_bound(&part) {
                    Some(bound) => span = span.and(bound),
                    None => others.push(part),
                }
            }
        }
        Ok((span, others))
    }
}

/// The table whose rows a scan gives, if it is one of rows.
fn rows_below(plan: &LogicalPlan) -> PlanResult<Option<&'static TableDef>> {
    let LogicalPlan::TableScan(scan) = plan else { return Ok(None) };
    let provider = source_as_provider(&scan.source)?;
    Ok(provider.downcast_ref::<Rows>().map(Rows::table))
}

/// What a planner says to a script, to one who asks in SQL.
fn in_words(fault: Fault) -> DataFusionError {
    match fault {
        Fault::Engine(error) => error,
        Fault::Script(Diagnostic { message, help, .. }) => {
            DataFusionError::Plan(help.map_or(message.clone(), |help| format!("{message}; {help}")))
        }
    }
}
