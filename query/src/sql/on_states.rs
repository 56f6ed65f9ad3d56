//! Aggregates of SQL in terms of the states of summaries, as [`crate::rewrite`] has those of scripts.
//!
//! Keys, filters and conditions can be anything that is a function of dimensions and of bins of time; what is
//! aggregated, what a state can stand in for. There are no nulls in a table, but an expression may make
//! some: sums and counts pass by them, as over rows.

mod dimensional;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::expr::{AggregateFunction, Case, Cast, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, cast, lit, when};
use undine_schema::{Role, TableDef};

use self::dimensional::is_timestamp_of;
use crate::plan::aggregation::{Both, Merge, Part, Value, argument, merged_part, sketch_of};
use crate::plan::bare;
use crate::quantiles;

/// Why an aggregate needs rows.
pub(super) type Why = String;

/// The functions and columns of one aggregate, as they are met.
#[derive(Debug)]
pub(super) struct OnStates {
    pub(super) table: &'static TableDef,
    pub(super) bins: Vec<i64>,
    pub(super) templated: Vec<(&'static str, &'static str)>,
}

/// A value before it is known where it stands: its argument over rows, its parts, how it is finished.
struct Nameless {
    arg: Expr,
    parts: Vec<Part>,
    finished: Expr,
}

impl OnStates {
    fn not_kept(&self, what: &str) -> Why {
        format!("summaries of {} do not keep {what}", self.table.name)
    }

    /// The value at `index` of an aggregate, called `name`.
    pub(super) fn value(
        &mut self,
        call: &AggregateFunction,
        name: String,
        index: usize,
    ) -> Result<Value, Why> {
        let params = &call.params;
        let filter = params.filter.as_deref().map(|filter| self.dimensional(filter)).transpose()?;
        let Nameless { arg, parts, finished } = self.parts(call, index)?;
        let only = |condition: Option<Expr>, expr: Expr| match condition {
            Some(condition) => when(condition, expr).end(),
            None => Ok(expr),
        };
        let told = |error: DataFusionError| error.strip_backtrace();
        let (rows, states) = filter.map(|Both { rows, states }| (rows, states)).unzip();
        let arg = only(rows, self.templated_in(arg)?).map_err(told)?;
        let parts = parts.into_iter().map(|part| {
            let of_states = only(states.clone(), part.of_states).map_err(told)?;
            Ok(Part { of_states, ..part })
        });
        Ok(Value { name, arg, parts: parts.collect::<Result<_, Why>>()?, finished })
    }

    fn parts(&mut self, call: &AggregateFunction, index: usize) -> Result<Nameless, Why> {
        let (name, args) = (call.func.name(), call.params.args.as_slice());
        if call.params.distinct || name == "approx_distinct" {
            return self.distinct(call, index);
        }
        let whole = |at: usize| merged_part(index, at);
        let arg = || argument(index);
        let part = |of_rows, of_states, merge| Part { of_rows, of_states, merge };
        let (parts, finished) = match (name, args) {
            ("count", [counted]) => {
                let counts = part(count(arg()), self.count(counted)?, Merge::Sum);
                (vec![counts], or_zero(whole(0)))
            }
            ("sum", [added]) => (vec![part(sum(arg()), self.sum(added)?, Merge::Sum)], whole(0)),
            ("avg" | "mean", [added]) => {
                let double = |expr| cast(expr, DataType::Float64);
                let total = part(sum(double(arg())), double(self.sum(added)?), Merge::Sum);
                let counts = part(count(arg()), self.count(added)?, Merge::Sum);
                (vec![total, counts], whole(0) / double(whole(1)))
            }
            ("min", [least]) => {
                (vec![part(min(arg()), self.extreme(least, End::Min)?, Merge::Min)], whole(0))
            }
            ("max", [most]) => {
                (vec![part(max(arg()), self.extreme(most, End::Max)?, Merge::Max)], whole(0))
            }
            (
                "quantiles" | "sketch" | "approx_median" | "approx_percentile_cont",
                [of, rest @ ..],
            ) => {
                let of_rows = quantiles::sketch(cast(arg(), DataType::Float64));
                let merge = if name == "quantiles" { Merge::Quantiles } else { Merge::Sketch };
                let share = match (name, rest) {
                    ("approx_median", []) => Some(0.5),
                    ("approx_percentile_cont", [share, ..]) => Some(self.share(call, share)?),
                    _ => None,
                };
                let finished = match share {
                    Some(share) => quantiles::quantile_of(whole(0), share),
                    None => whole(0),
                };
                (vec![part(of_rows, self.sketch(of)?, merge)], finished)
            }
            _ => return Err(self.not_kept(&format!("what `{name}` needs"))),
        };
        Ok(Nameless { arg: args[0].clone(), parts, finished })
    }

    /// How many values are different, where a state has one value.
    fn distinct(&mut self, call: &AggregateFunction, index: usize) -> Result<Nameless, Why> {
        match (call.func.name(), call.params.args.as_slice()) {
            ("count" | "approx_distinct", [counted]) => {
                let of_states = self.condition(counted)?;
                let values =
                    Part { of_rows: argument(index), of_states, merge: Merge::CountDistinct };
                let finished = or_zero(merged_part(index, 0));
                Ok(Nameless { arg: counted.clone(), parts: vec![values], finished })
            }
            _ => Err(self.not_kept(&format!("what `{}` of distinct values needs", call.func))),
        }
    }

    /// The share of numbers below a quantile that is asked for in ascending order.
    fn share(&self, call: &AggregateFunction, share: &Expr) -> Result<f64, Why> {
        let is_descending = call.params.order_by.iter().any(|order| !order.asc);
        match share {
            Expr::Literal(ScalarValue::Float64(Some(share)), _) if is_descending => Ok(1.0 - share),
            Expr::Literal(ScalarValue::Float64(Some(share)), _) => Ok(*share),
            other => Err(self.not_kept(&format!("the quantile `{other}`"))),
        }
    }

    /// How many rows of a state have a value there.
    fn count(&mut self, expr: &Expr) -> Result<Expr, Why> {
        if self.never_null(expr) {
            return Ok(bare("rows"));
        }
        match expr {
            Expr::Cast(Cast { expr, .. }) => self.count(expr),
            Expr::Case(case) => self.choice(case, Some(lit(0_i64)), Self::count),
            other => {
                let value = self.condition(other)?;
                let counted = when(value.is_not_null(), bare("rows")).otherwise(lit(0_i64));
                counted.map_err(|error| error.strip_backtrace())
            }
        }
    }

    /// Whether it has a value in every row.
    fn never_null(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Column(column) => self.table.column(&column.name).is_some(),
            Expr::Literal(value, _) => !value.is_null(),
            Expr::Alias(alias) => self.never_null(&alias.expr),
            Expr::Cast(Cast { expr, .. }) | Expr::Negative(expr) | Expr::Not(expr) => {
                self.never_null(expr)
            }
            Expr::BinaryExpr(BinaryExpr { left, right, .. }) => {
                self.never_null(left) && self.never_null(right)
            }
            _ => false,
        }
    }

    fn sum(&mut self, expr: &Expr) -> Result<Expr, Why> {
        if let Some(value) = self.try_condition(expr) {
            return Ok(value * bare("rows"));
        }
        match expr {
            Expr::Column(column) => self.measure(&column.name, "sum"),
            Expr::Cast(Cast { expr: inner, field }) if *field.data_type() == DataType::Float64 => {
                Ok(cast(self.sum(inner)?, DataType::Float64))
            }
            Expr::Negative(inner) => Ok(Expr::Negative(Box::new(self.sum(inner)?))),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::Plus | Operator::Minus
                    if self.never_null(left) && self.never_null(right) =>
                {
                    let (left, right) = (self.sum(left)?, self.sum(right)?);
                    Ok(if *op == Operator::Plus { left + right } else { left - right })
                }
                Operator::Multiply => match (self.try_condition(left), self.try_condition(right)) {
                    (Some(factor), _) => Ok(factor * self.sum(right)?),
                    (_, Some(factor)) => Ok(self.sum(left)? * factor),
                    _ => Err(self.not_kept(&format!("the sum of `{expr}`"))),
                },
                Operator::Divide if is_double(left) => match self.try_condition(right) {
                    Some(divisor) => Ok(self.sum(left)? / divisor),
                    None => Err(self.not_kept(&format!("the sum of `{expr}`"))),
                },
                _ => Err(self.not_kept(&format!("the sum of `{expr}`"))),
            },
            Expr::Case(case) => self.choice(case, None, Self::sum),
            other => Err(self.not_kept(&format!("the sum of `{other}`"))),
        }
    }

    fn extreme(&mut self, expr: &Expr, end: End) -> Result<Expr, Why> {
        if let Some(value) = self.try_condition(expr) {
            return Ok(value);
        }
        match expr {
            Expr::Column(column) if column.name == "time_" => Ok(bare(end.time())),
            Expr::Column(column) => self.measure(&column.name, end.name()),
            Expr::Cast(Cast { expr: inner, field }) if keeps_order(field.data_type()) => {
                Ok(cast(self.extreme(inner, end)?, field.data_type().clone()))
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if is_timestamp_of(expr) => {
                Ok(func.call(vec![self.extreme(&args[0], end)?]))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_positive(right) => match op {
                Operator::Multiply => Ok(self.extreme(left, end)? * (**right).clone()),
                Operator::Divide => Ok(self.extreme(left, end)? / (**right).clone()),
                _ => Err(self.not_kept(&format!("the {} of `{expr}`", end.name()))),
            },
            Expr::Case(case) => self.choice(case, None, |this, expr| this.extreme(expr, end)),
            other => Err(self.not_kept(&format!("the {} of `{other}`", end.name()))),
        }
    }

    /// A choice by dimensions between what `of` makes of each branch; without a last branch, `otherwise`.
    fn choice(
        &mut self,
        case: &Case,
        otherwise: Option<Expr>,
        mut of: impl FnMut(&mut Self, &Expr) -> Result<Expr, Why>,
    ) -> Result<Expr, Why> {
        let expr = case.expr.as_deref().map(|expr| self.condition(expr)).transpose()?;
        let branches = case.when_then_expr.iter().map(|(condition, value)| {
            let condition = self.condition(condition)?;
            Ok((Box::new(condition), Box::new(of(self, value)?)))
        });
        let branches = branches.collect::<Result<_, Why>>()?;
        let last = case.else_expr.as_deref().map(|value| of(self, value)).transpose()?;
        let last = last.or(otherwise).map(Box::new);
        Ok(Expr::Case(Case::new(expr.map(Box::new), branches, last)))
    }

    fn measure(&self, name: &str, state: &str) -> Result<Expr, Why> {
        let known = self.table.column(name).ok_or_else(|| self.not_kept(name))?;
        if matches!(known.role, Role::Measure | Role::Sketched | Role::Counter) {
            Ok(bare(&format!("{name}_{state}")))
        } else {
            Err(self.not_kept(&format!("{name} row by row")))
        }
    }

    fn sketch(&self, expr: &Expr) -> Result<Expr, Why> {
        let column = match expr {
            Expr::Cast(Cast { expr, field }) if *field.data_type() == DataType::Float64 => expr,
            other => other,
        };
        let known = match column {
            Expr::Column(column) => self.table.column(&column.name),
            _ => None,
        };
        match known {
            Some(known) if known.role == Role::Sketched => Ok(sketch_of(known.name)),
            _ => Err(self.not_kept(&format!("quantiles of `{expr}`"))),
        }
    }
}

/// An end of the values.
#[derive(Clone, Copy, Debug)]
enum End {
    Min,
    Max,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
        }
    }

    /// Where a state keeps that end of its times.
    fn time(self) -> &'static str {
        match self {
            Self::Min => "first_time",
            Self::Max => "last_time",
        }
    }
}

/// Whether a cast to it leaves what is less less.
fn keeps_order(to: &DataType) -> bool {
    matches!(to, DataType::Float64 | DataType::Timestamp(TimeUnit::Nanosecond, None))
}

fn is_double(expr: &Expr) -> bool {
    matches!(expr, Expr::Cast(Cast { field, .. }) if *field.data_type() == DataType::Float64)
}

fn is_positive(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value > 0,
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value > 0.0,
        _ => false,
    }
}

fn or_zero(expr: Expr) -> Expr {
    datafusion::functions::core::expr_fn::coalesce(vec![expr, lit(0_i64)])
}
