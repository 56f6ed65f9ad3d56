//! Aggregates of SQL in terms of the states of summaries, as [`crate::rewrite`] has those of scripts.
//!
//! Keys, filters and conditions can be anything that is a function of dimensions and of bins of time; what is
//! aggregated, what a state can stand in for. There are no nulls in a table, but an expression may make
//! some: sums and counts pass by them, as over rows.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::expr::{AggregateFunction, Case, Cast, InList, Like, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, cast, lit, when};
use undine_schema::path_template::template;
use undine_schema::{Role, TableDef};

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

    /// What an expression is over rows and over states, if it is a function of dimensions and bins of time.
    pub(super) fn dimensional(&mut self, expr: &Expr) -> Result<Both, Why> {
        let mut why = None;
        let (mut bins, mut templated) = (Vec::new(), Vec::new());
        let of_rows = expr.clone().transform_down(|node| {
            if let Some(width) = time_bin(&node) {
                bins.push(width);
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            match self.of_dimensions(&node) {
                Ok(None) => Ok(Transformed::no(node)),
                Ok(Some((column, template))) => {
                    templated.push((column, template));
                    Ok(Transformed::yes(bare(template)))
                }
                Err(what) => {
                    why = Some(what);
                    Ok(Transformed::new(node, false, TreeNodeRecursion::Stop))
                }
            }
        });
        let rows = of_rows.map_err(|error: DataFusionError| error.strip_backtrace())?.data;
        if let Some(what) = why {
            return Err(self.not_kept(&what));
        }
        self.bins.extend(bins);
        self.templated.extend(templated);
        let states = at_window(&rows)?;
        Ok(Both { rows, states })
    }

    /// The template that a column is replaced by, if it is; what is not kept, if it is no function of
    /// dimensions.
    fn of_dimensions(&self, node: &Expr) -> Result<Option<(&'static str, &'static str)>, String> {
        match node {
            Expr::Column(column) => {
                let known = self.table.column(&column.name).ok_or_else(|| column.name.clone())?;
                if known.role == Role::Dimension {
                    return Ok(None);
                }
                let template = self.template(&column.name);
                let template = template.ok_or_else(|| format!("{} row by row", known.name))?;
                Ok(Some((known.name, template)))
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq | Operator::NotEq, right }) => {
                self.compared(left, &[right])?;
                self.compared(right, &[left])?;
                Ok(None)
            }
            Expr::InList(InList { expr, list, .. }) => {
                self.compared(expr, &list.iter().collect::<Vec<_>>())?;
                Ok(None)
            }
            Expr::Literal(..)
            | Expr::Alias(_)
            | Expr::BinaryExpr(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::Like(Like { .. })
            | Expr::SimilarTo(_)
            | Expr::Negative(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_) => Ok(None),
            Expr::ScalarFunction(_) if !node.is_volatile_node() => Ok(None),
            other => Err(format!("`{other}` of single rows")),
        }
    }

    /// A column is not compared by its template with what is itself no template.
    fn compared(&self, column: &Expr, others: &[&Expr]) -> Result<(), String> {
        let Expr::Column(column) = column else { return Ok(()) };
        let is_template = |expr: &&Expr| {
            let text = match expr {
                Expr::Literal(value, _) => value.try_as_str().flatten(),
                _ => None,
            };
            text.is_some_and(|text| template(text) == *text)
        };
        if self.template(&column.name).is_none() || others.iter().all(is_template) {
            return Ok(());
        }
        Err(format!("which {} each request had", column.name))
    }

    fn template(&self, column: &str) -> Option<&'static str> {
        let columns = self.table.columns.iter();
        columns.filter(|other| other.template_of == Some(column)).map(|other| other.name).next()
    }

    /// As [`dimensional`](Self::dimensional), of states only.
    fn condition(&mut self, expr: &Expr) -> Result<Expr, Why> {
        self.dimensional(expr).map(|both| both.states)
    }

    /// The value at `index` of an aggregate, called `name`.
    pub(super) fn value(
        &mut self,
        call: &AggregateFunction,
        name: String,
        index: usize,
    ) -> Result<Value, Why> {
        let params = &call.params;
        if params.distinct {
            return Err(self.not_kept(&format!("what `{}` of distinct values needs", call.func)));
        }
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

    /// The share of numbers below a quantile that is asked for in ascending order.
    fn share(&self, call: &AggregateFunction, share: &Expr) -> Result<f64, Why> {
        let is_descending = call.params.order_by.iter().any(|order| !order.asc);
        match share {
            Expr::Literal(ScalarValue::Float64(Some(share)), _) if is_descending => Ok(1.0 - share),
            Expr::Literal(ScalarValue::Float64(Some(share)), _) => Ok(*share),
            other => Err(self.not_kept(&format!("the quantile `{other}`"))),
        }
    }

    /// An argument over rows, with templates in place of what they stand for.
    fn templated_in(&self, expr: Expr) -> Result<Expr, Why> {
        let replaced = expr.transform_down(|node| match &node {
            Expr::Column(column) if self.is_templated(&column.name) => {
                let template = self.template(&column.name).map_or_else(|| node.clone(), bare);
                Ok(Transformed::yes(template))
            }
            _ => Ok(Transformed::no(node)),
        });
        Ok(replaced.map_err(|error: DataFusionError| error.strip_backtrace())?.data)
    }

    fn is_templated(&self, column: &str) -> bool {
        self.templated.iter().any(|(templated, _)| *templated == column)
    }

    /// As [`dimensional`](Self::dimensional) of states, leaving no trace where it is not.
    fn try_condition(&mut self, expr: &Expr) -> Option<Expr> {
        let (bins, templated) = (self.bins.len(), self.templated.len());
        let result = self.condition(expr).ok();
        if result.is_none() {
            self.bins.truncate(bins);
            self.templated.truncate(templated);
        }
        result
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

/// The same on states: a state's time is the start of its window.
fn at_window(expr: &Expr) -> Result<Expr, Why> {
    let replaced = expr.clone().transform_down(|node| match &node {
        Expr::Column(column) if column.name == "time_" => {
            Ok(Transformed::yes(bare("window_start")))
        }
        _ => Ok(Transformed::no(node)),
    });
    Ok(replaced.map_err(|error: DataFusionError| error.strip_backtrace())?.data)
}

/// The width, in nanoseconds, of what cuts time into equal pieces that begin at the epoch, or pieces that are
/// whole multiples of it: `bin(time_, width)`, `time_ / width`, and `date_bin` and `date_trunc` of its timestamp.
fn time_bin(expr: &Expr) -> Option<i64> {
    let whole = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Int64(Some(width)), _) => {
            Some(*width).filter(|width| *width > 0)
        }
        _ => None,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) if is_time(left) => {
            whole(right)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), args.as_slice())
        {
            ("bin", [time, width]) if is_time(time) => whole(width),
            ("date_bin", [Expr::Literal(width, _), time]) if is_timestamp_of(time) => match width {
                ScalarValue::IntervalMonthDayNano(Some(width)) if width.months == 0 => {
                    let days = i64::from(width.days).checked_mul(DAY_NS)?;
                    days.checked_add(width.nanoseconds).filter(|width| *width > 0)
                }
                _ => None,
            },
            ("date_trunc", [Expr::Literal(unit, _), time]) if is_timestamp_of(time) => {
                match unit.try_as_str().flatten()?.to_lowercase().as_str() {
                    "second" => Some(SECOND_NS),
                    "minute" => Some(60 * SECOND_NS),
                    "hour" => Some(3600 * SECOND_NS),
                    "day" | "week" | "month" | "quarter" | "year" => Some(DAY_NS),
                    _ => None,
                }
            }
            _ => None,
        },
        _ => None,
    }
}

const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 24 * 3600 * SECOND_NS;

fn is_time(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == "time_")
}

/// Whether it is `time_` as a timestamp in UTC.
fn is_timestamp_of(expr: &Expr) -> bool {
    match expr {
        Expr::Cast(Cast { expr, field }) => {
            keeps_order(field.data_type()) && (is_time(expr) || is_timestamp_of(expr))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            func.name() == "to_timestamp_nanos"
                && matches!(args.as_slice(), [time] if is_time(time))
        }
        _ => false,
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
