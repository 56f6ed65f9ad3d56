//! What is a function of dimensions and of bins of time, and so the same over rows and over states.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{Cast, InList, Like, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use undine_schema::Role;
use undine_schema::path_template::template;

use super::{OnStates, Why, keeps_order};
use crate::plan::aggregation::Both;
use crate::plan::bare;

const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 24 * 3600 * SECOND_NS;

impl OnStates {
    /// What an expression is over rows and over states, if it is a function of dimensions and bins of time.
    pub(in crate::sql) fn dimensional(&mut self, expr: &Expr) -> Result<Both, Why> {
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
    pub(super) fn condition(&mut self, expr: &Expr) -> Result<Expr, Why> {
        self.dimensional(expr).map(|both| both.states)
    }

    /// An argument over rows, with templates in place of what they stand for.
    pub(super) fn templated_in(&self, expr: Expr) -> Result<Expr, Why> {
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
    pub(super) fn try_condition(&mut self, expr: &Expr) -> Option<Expr> {
        let (bins, templated) = (self.bins.len(), self.templated.len());
        let result = self.condition(expr).ok();
        if result.is_none() {
            self.bins.truncate(bins);
            self.templated.truncate(templated);
        }
        result
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

fn is_time(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == "time_")
}

/// Whether it is `time_` as a timestamp in UTC.
pub(super) fn is_timestamp_of(expr: &Expr) -> bool {
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
