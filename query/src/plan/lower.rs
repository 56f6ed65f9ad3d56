//! Each kind of relation as a plan. Every plan's columns have bare names: the visible ones in
//! order, then the hidden ones.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError, JoinType};
use datafusion::datasource::MemTable;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{count, first_value, max, min, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use undine_schema::PxlType;

use super::aggregation::{Aggregation, Both, Merge, Part, Value};
use super::aggregation::{argument, merged_part, sketch_of};
use super::{Fault, Origin, Planned, Planner, bare};
use crate::expr::{Typed, TypedKind};
use crate::functions::{clusters, udf};
use crate::listing;
use crate::quantiles;
use crate::relation::{AggregateKind, Aggregated, Join, JoinKind, Op, Relation, Side};
use crate::rewrite::{self, NeedsRows, State, Summarised, on_states, parts};
use crate::scalar::Const;

impl Planner {
    /// The plan of `relation`. `reason` says why it needs rows, if something above does.
    pub(crate) fn lower(
        &mut self,
        relation: &Arc<Relation>,
        reason: Option<&str>,
    ) -> Result<Planned, Fault> {
        if let Some((table, origin)) = self.computed.get(&relation.id()) {
            let (table, origin) = (Arc::clone(table), origin.clone());
            let names = relation.all_columns().map(|c| bare(&c.name).alias(&*c.name));
            let plan = self.scan_of(table)?.project(names)?.build()?;
            return Ok(Planned { plan, origin });
        }
        match &relation.op {
            Op::Scan(scan) => self.lower_scan(relation, scan, reason),
            Op::Listing(listing) => {
                let rows = listing::rows(*listing, &self.environment, self.since)?;
                let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
                let names = relation.columns.iter().map(|c| bare(&c.name).alias(&*c.name));
                let plan = self.scan_of(Arc::new(table))?.project(names)?.build()?;
                Ok(Planned { plan, origin: Origin::default() })
            }
            Op::Traced(traced) => self.lower_traced(relation, traced),
            Op::Filter { input, predicate } => {
                let Planned { plan, origin } = self.lower(input, reason)?;
                let predicate = self.expr(predicate);
                let plan = LogicalPlanBuilder::from(plan).filter(predicate)?.build()?;
                Ok(Planned { plan, origin })
            }
            Op::Map { input, exprs } => {
                let Planned { plan, origin } = self.lower(input, reason)?;
                let visible = exprs.iter().map(|(name, expr)| self.expr(expr).alias(&**name));
                let hidden = relation.hidden.iter().map(|c| bare(&c.name).alias(&*c.name));
                let exprs: Vec<Expr> = visible.chain(hidden).collect();
                let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
                Ok(Planned { plan, origin })
            }
            Op::Aggregate { input, keys, values } => {
                self.lower_aggregate(relation, input, keys, values)
            }
            Op::Head { input, rows } => {
                let Planned { plan, origin } = self.lower(input, reason)?;
                let plan = LogicalPlanBuilder::from(plan).limit(0, Some(*rows))?.build()?;
                Ok(Planned { plan, origin })
            }
            Op::Join(join) => self.lower_join(join, reason),
            Op::Union { inputs } => self.lower_union(relation, inputs, reason),
        }
    }

    fn lower_aggregate(
        &mut self,
        relation: &Arc<Relation>,
        input: &Arc<Relation>,
        keys: &[Arc<str>],
        values: &[Aggregated],
    ) -> Result<Planned, Fault> {
        let mut reason = None;
        match rewrite::summarised(relation) {
            Ok(summarised) => {
                let aggregation = self.aggregation(summarised, relation);
                if let Some(planned) = self.lower_states(&aggregation)? {
                    return Ok(planned);
                }
            }
            Err(NeedsRows::NotKept(why)) => reason = Some(why),
            Err(NeedsRows::NotOneTable) => {}
        }
        let Planned { plan, origin } = self.lower(input, reason.as_deref())?;
        let group: Vec<Expr> = keys.iter().map(|key| bare(key)).collect();
        let mut accumulated = Vec::new();
        let mut finished: Vec<Expr> = keys.iter().map(|key| bare(key).alias(&**key)).collect();
        for (index, value) in values.iter().enumerate() {
            let column = input.all_columns().find(|column| column.name == value.arg);
            let pxl_type = column.map_or(PxlType::Int64, |column| column.pxl_type);
            let mut whole = Vec::new();
            for (at, part) in parts(value.kind).iter().enumerate() {
                let name = format!("a{index}_{at}");
                accumulated.push(over_rows(*part, bare(&value.arg), pxl_type).alias(&name));
                whole.push(bare(&name));
            }
            finished.push(finish(value.kind, pxl_type, &whole).alias(&*value.name));
        }
        let plan = LogicalPlanBuilder::from(plan)
            .aggregate(group, accumulated)?
            .project(finished)?
            .build()?;
        Ok(Planned { plan, origin })
    }

    /// The aggregate `relation`, which is `summarised` in the words of scripts.
    fn aggregation(&self, summarised: Summarised, relation: &Relation) -> Aggregation {
        let both =
            |typed: &Typed| Both { rows: self.expr(typed), states: self.expr(&on_states(typed)) };
        let Summarised { scan, predicates, keys, values, bins, templated } = summarised;
        let keys = keys.iter().map(|(name, key)| (name.to_string(), both(key)));
        let values = values.into_iter().enumerate().map(|(index, value)| {
            let (kind, pxl_type) = (value.aggregated.kind, value.arg.pxl_type);
            let parts: Vec<_> = parts(kind)
                .iter()
                .zip(&value.states)
                .map(|(part, state)| self.part(*part, state, argument(index), pxl_type))
                .collect();
            let merged: Vec<_> = (0..parts.len()).map(|at| merged_part(index, at)).collect();
            Value {
                name: value.aggregated.name.to_string(),
                arg: self.expr(&value.arg),
                parts,
                finished: finish(kind, pxl_type, &merged),
            }
        });
        Aggregation {
            table: scan.table,
            asked: Self::asked(&scan),
            range: Some(relation.range),
            predicates: predicates.iter().map(both).collect(),
            keys: keys.collect(),
            values: values.collect(),
            bins,
            templated,
        }
    }

    fn part(&self, part: rewrite::Part, state: &State, arg: Expr, pxl_type: PxlType) -> Part {
        let of_rows = match part {
            rewrite::Part::Sketch => quantiles::sketch(cast(arg, DataType::Float64)),
            other => over_rows(other, arg, pxl_type),
        };
        let of_states = match state {
            State::Value(typed) => cast(self.expr(typed), typed.pxl_type.arrow()),
            State::Sketch(measure) => sketch_of(measure),
        };
        let merge = match part {
            rewrite::Part::Rows | rewrite::Part::Sum => Merge::Sum,
            rewrite::Part::Min => Merge::Min,
            rewrite::Part::Max => Merge::Max,
            rewrite::Part::Sketch => Merge::Quantiles,
            // No summary keeps paths, which `rewrite` says before.
            rewrite::Part::Any | rewrite::Part::PathClusters => Merge::First,
        };
        Part { of_rows, of_states, merge }
    }

    fn lower_join(&mut self, join: &Join, reason: Option<&str>) -> Result<Planned, Fault> {
        let left = self.lower(&join.left, reason)?;
        let right = self.lower(&join.right, reason)?;
        let mut origin = left.origin;
        origin.add(&right.origin);
        let left_plan = renamed(left.plan, &join.left, Side::Left)?;
        let right_plan = renamed(right.plan, &join.right, Side::Right)?;
        let kind = match join.kind {
            JoinKind::Inner => JoinType::Inner,
            JoinKind::Left => JoinType::Left,
            JoinKind::Right => JoinType::Right,
            JoinKind::Outer => JoinType::Full,
        };
        let builder = LogicalPlanBuilder::from(left_plan);
        let joined = if !join.keys.is_empty() {
            let (left_keys, right_keys): (Vec<Column>, Vec<Column>) = join
                .keys
                .iter()
                .map(|(left, right)| {
                    (
                        Column::new_unqualified(side_name(&join.left, Side::Left, left)),
                        Column::new_unqualified(side_name(&join.right, Side::Right, right)),
                    )
                })
                .unzip();
            builder.join(right_plan, kind, (left_keys, right_keys), None)?
        } else if kind == JoinType::Inner {
            builder.cross_join(right_plan)?
        } else {
            builder.join_on(right_plan, kind, [lit(true)])?
        };
        let outputs = join.outputs.iter().map(|(side, source, name)| {
            let relation = match side {
                Side::Left => &join.left,
                Side::Right => &join.right,
            };
            let column = bare(&side_name(relation, *side, source));
            let pxl_type = relation
                .all_columns()
                .find(|column| column.name == *source)
                .map_or(PxlType::String, |column| column.pxl_type);
            let may_be_absent = match side {
                Side::Left => matches!(join.kind, JoinKind::Right | JoinKind::Outer),
                Side::Right => matches!(join.kind, JoinKind::Left | JoinKind::Outer),
            };
            let value = if may_be_absent { or_zero(column, pxl_type) } else { column };
            value.alias(&**name)
        });
        let plan = joined.project(outputs)?.build()?;
        Ok(Planned { plan, origin })
    }

    fn lower_union(
        &mut self,
        relation: &Arc<Relation>,
        inputs: &[Arc<Relation>],
        reason: Option<&str>,
    ) -> Result<Planned, Fault> {
        let mut origin = Origin::default();
        let mut whole: Option<LogicalPlanBuilder> = None;
        for input in inputs {
            let lowered = self.lower(input, reason)?;
            origin.add(&lowered.origin);
            let names = relation.all_columns().map(|c| bare(&c.name).alias(&*c.name));
            let plan = LogicalPlanBuilder::from(lowered.plan).project(names)?.build()?;
            whole = Some(match whole {
                None => LogicalPlanBuilder::from(plan),
                Some(before) => before.union(plan)?,
            });
        }
        let Some(mut whole) = whole else {
            return Err(DataFusionError::Internal("a union of nothing".to_owned()).into());
        };
        if relation.column("time_").is_some_and(|c| c.pxl_type == PxlType::Time64Ns) {
            whole = whole.sort(vec![bare("time_").sort(true, false)])?;
        }
        let names = relation.all_columns().map(|c| bare(&c.name).alias(&*c.name));
        let plan = whole.project(names)?.build()?;
        Ok(Planned { plan, origin })
    }

    pub(super) fn expr(&self, typed: &Typed) -> Expr {
        match &typed.kind {
            TypedKind::Column(name) => bare(name),
            TypedKind::Const(scalar) => lit(scalar.value.datafusion()),
            TypedKind::Call { overload, args } => {
                let args = args
                    .iter()
                    .zip(&overload.args)
                    .map(|(arg, wanted)| {
                        let expr = self.expr(arg);
                        if (*wanted, arg.pxl_type) == (PxlType::Float64, PxlType::Int64) {
                            cast(expr, DataType::Float64)
                        } else {
                            expr
                        }
                    })
                    .collect();
                udf::call(overload, &self.environment, args)
            }
        }
    }
}

/// What one part of an aggregate is over rows.
fn over_rows(part: rewrite::Part, arg: Expr, pxl_type: PxlType) -> Expr {
    match part {
        rewrite::Part::Rows => count(lit(1_i64)),
        rewrite::Part::Sum if pxl_type == PxlType::Boolean => sum(cast(arg, DataType::Int64)),
        rewrite::Part::Sum => sum(arg),
        rewrite::Part::Min => min(arg),
        rewrite::Part::Max => max(arg),
        rewrite::Part::Any => first_value(arg, Vec::new()),
        rewrite::Part::Sketch if pxl_type == PxlType::Int64 => quantiles::quantiles(arg),
        rewrite::Part::Sketch => quantiles::quantiles(cast(arg, DataType::Float64)),
        rewrite::Part::PathClusters => clusters::fitted(arg),
    }
}

/// The aggregate from its parts; `pxl_type` is that of the argument.
fn finish(kind: AggregateKind, pxl_type: PxlType, parts: &[Expr]) -> Expr {
    let part = |at: usize| parts[at].clone();
    match kind {
        AggregateKind::Sum if pxl_type == PxlType::Float64 => or_const(part(0), &Const::Float(0.0)),
        AggregateKind::Count | AggregateKind::Sum => or_const(part(0), &Const::Int(0)),
        AggregateKind::Mean => {
            let total = cast(part(0), DataType::Float64);
            let rows = cast(part(1), DataType::Float64);
            or_const(total / rows, &Const::Float(f64::NAN))
        }
        AggregateKind::Min => or_const(part(0), &extreme(pxl_type, i64::MAX, f64::INFINITY)),
        AggregateKind::Max => or_const(part(0), &extreme(pxl_type, i64::MIN, f64::MIN_POSITIVE)),
        AggregateKind::Any => or_zero(part(0), pxl_type),
        AggregateKind::Quantiles | AggregateKind::PathClusters => or_zero(part(0), PxlType::String),
    }
}

/// What the extreme of nothing is.
fn extreme(pxl_type: PxlType, integer: i64, double: f64) -> Const {
    match pxl_type {
        PxlType::Int64 => Const::Int(integer),
        PxlType::Time64Ns => Const::Time(integer),
        PxlType::Float64 => Const::Float(double),
        other => Const::zero(other),
    }
}

fn or_const(expr: Expr, fallback: &Const) -> Expr {
    coalesce(vec![expr, lit(fallback.datafusion())])
}

fn or_zero(expr: Expr, pxl_type: PxlType) -> Expr {
    or_const(expr, &Const::zero(pxl_type))
}

/// What a column of one side of a join is called while both are together.
fn side_name(relation: &Relation, side: Side, name: &str) -> String {
    let at = relation.all_columns().position(|column| &*column.name == name).unwrap_or(0);
    match side {
        Side::Left => format!("l{at}"),
        Side::Right => format!("r{at}"),
    }
}

fn renamed(plan: LogicalPlan, relation: &Relation, side: Side) -> Result<LogicalPlan, Fault> {
    let names = relation
        .all_columns()
        .map(|column| bare(&column.name).alias(side_name(relation, side, &column.name)));
    Ok(LogicalPlanBuilder::from(plan).project(names)?.build()?)
}
