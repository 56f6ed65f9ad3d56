//! Arithmetic, comparisons and logic, and `px.select` and `px.bin`.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, Operator, binary_expr, cast, lit, not, when};

use super::kernel::{self as k, one, two};
use super::{B, Body, F, I, Meaning, Registry, S, T, U};
use crate::scalar::{modulo, nearly_equal};

pub(crate) fn declare(r: &mut Registry) {
    arithmetic(r);
    comparisons(r);
    logic(r);
    select(r);
    for (args, result) in [([I, I], I), ([T, I], T), ([T, T], T), ([I, T], I)] {
        r.plain("bin", &args, result, k::over_constant(bins));
    }
    #[expect(clippy::cast_possible_truncation, reason = "bin of a double cuts it, as in C")]
    r.plain("bin", &[F, I], I, two::<k::F, k::I, k::I>(|v, n| bin(v as i64, n)));
}

/// `v - v % n`: towards zero.
pub(crate) fn bin(value: i64, width: i64) -> i64 {
    value - modulo(value, width)
}

/// [`bin`] of each value. Times come nearly in order, so most fall into the bin of the one before,
/// and a comparison is much cheaper than a division.
pub(crate) fn bins(values: &[i64], width: i64) -> Vec<i64> {
    let (mut start, mut end) = (0, 0);
    let binned = values.iter().map(|&value| {
        if (start..end).contains(&value) {
            return start;
        }
        let found = bin(value, width);
        if value >= 0 && width > 0 {
            (start, end) = (found, found.saturating_add(width));
        }
        found
    });
    binned.collect()
}

fn operator(args: Vec<Expr>, op: Operator) -> Expr {
    let mut args = args.into_iter();
    match (args.next(), args.next()) {
        (Some(left), Some(right)) => binary_expr(left, op, right),
        (Some(only), None) => only,
        _ => lit(0_i64),
    }
}

fn doubles(args: Vec<Expr>) -> Vec<Expr> {
    args.into_iter().map(|arg| cast(arg, DataType::Float64)).collect()
}

fn arithmetic(r: &mut Registry) {
    let quantity = Meaning::Quantity;
    r.add("add", &[I, I], I, quantity, Body::Native(|a| operator(a, Operator::Plus)));
    r.add("subtract", &[I, I], I, quantity, Body::Native(|a| operator(a, Operator::Minus)));
    r.add(
        "multiply",
        &[I, I],
        I,
        Meaning::Plain,
        Body::Native(|a| operator(a, Operator::Multiply)),
    );
    for args in [[F, F], [F, I], [I, F]] {
        r.add("add", &args, F, quantity, Body::Native(|a| operator(doubles(a), Operator::Plus)));
        let minus = Body::Native(|a| operator(doubles(a), Operator::Minus));
        r.add("subtract", &args, F, quantity, minus);
        let times = Body::Native(|a| operator(doubles(a), Operator::Multiply));
        r.add("multiply", &args, F, Meaning::Plain, times);
    }
    for args in [[I, I], [F, F], [F, I], [I, F]] {
        let over = Body::Native(|a| operator(doubles(a), Operator::Divide));
        r.add("divide", &args, F, Meaning::Quotient, over);
    }
    for (args, result) in [([T, I], T), ([I, T], T)] {
        r.add("add", &args, result, Meaning::Plain, Body::Native(|a| operator(a, Operator::Plus)));
    }
    // What remains of a number, or of a time, after a time was taken off is a number, as upstream says.
    for (args, result) in [([T, I], T), ([T, T], I), ([I, T], I)] {
        let minus = Body::Native(|a| operator(a, Operator::Minus));
        r.add("subtract", &args, result, Meaning::Plain, minus);
    }
    r.plain("add", &[S, S], S, two::<k::S, k::S, k::S>(|a, b| [a, b].concat()));
    for args in [[I, I], [T, I], [T, T], [I, T]] {
        r.plain("modulo", &args, I, two::<k::I, k::I, k::I>(modulo));
    }
    r.add("negate", &[I], I, Meaning::Quantity, Body::Kernel(one::<k::I, k::I>(i64::wrapping_neg)));
    r.add("negate", &[F], F, Meaning::Quantity, Body::Kernel(one::<k::F, k::F>(|v| -v)));
    r.plain("invert", &[I], I, one::<k::I, k::I>(|v| !v));
}

fn comparisons(r: &mut Registry) {
    for args in [[I, I], [S, S], [B, B], [T, T], [U, U]] {
        r.add("equal", &args, B, Meaning::Plain, Body::Native(|a| operator(a, Operator::Eq)));
        r.add("notEqual", &args, B, Meaning::Plain, Body::Native(|a| operator(a, Operator::NotEq)));
    }
    for args in [[I, B], [B, I]] {
        let equal = Body::Native(|a| operator(integers(a), Operator::Eq));
        r.add("equal", &args, B, Meaning::Plain, equal);
        let differ = Body::Native(|a| operator(integers(a), Operator::NotEq));
        r.add("notEqual", &args, B, Meaning::Plain, differ);
    }
    r.plain("equal", &[F, F], B, two::<k::F, k::F, k::B>(nearly_equal));
    r.plain("notEqual", &[F, F], B, two::<k::F, k::F, k::B>(|a, b| !nearly_equal(a, b)));
    r.plain("approxEqual", &[F, F], B, two::<k::F, k::F, k::B>(nearly_equal));
    for args in [[I, I], [T, T], [S, S]] {
        r.add("lessThan", &args, B, Meaning::Plain, Body::Native(|a| operator(a, Operator::Lt)));
        let at_most = Body::Native(|a| operator(a, Operator::LtEq));
        r.add("lessThanEqual", &args, B, Meaning::Plain, at_most);
        r.add("greaterThan", &args, B, Meaning::Plain, Body::Native(|a| operator(a, Operator::Gt)));
        let at_least = Body::Native(|a| operator(a, Operator::GtEq));
        r.add("greaterThanEqual", &args, B, Meaning::Plain, at_least);
    }
    r.plain("lessThan", &[F, F], B, two::<k::F, k::F, k::B>(|a, b| a < b));
    r.plain("lessThanEqual", &[F, F], B, two::<k::F, k::F, k::B>(|a, b| a <= b));
    r.plain("greaterThan", &[F, F], B, two::<k::F, k::F, k::B>(|a, b| a > b));
    r.plain("greaterThanEqual", &[F, F], B, two::<k::F, k::F, k::B>(|a, b| a >= b));
}

fn integers(args: Vec<Expr>) -> Vec<Expr> {
    args.into_iter().map(|arg| cast(arg, DataType::Int64)).collect()
}

/// The truth of integers as in C.
fn truths(args: Vec<Expr>) -> Vec<Expr> {
    args.into_iter().map(|arg| binary_expr(arg, Operator::NotEq, lit(0_i64))).collect()
}

fn logic(r: &mut Registry) {
    r.add("logicalAnd", &[B, B], B, Meaning::Plain, Body::Native(|a| operator(a, Operator::And)));
    r.add("logicalOr", &[B, B], B, Meaning::Plain, Body::Native(|a| operator(a, Operator::Or)));
    let and = Body::Native(|a| operator(truths(a), Operator::And));
    r.add("logicalAnd", &[I, I], B, Meaning::Plain, and);
    let or = Body::Native(|a| operator(truths(a), Operator::Or));
    r.add("logicalOr", &[I, I], B, Meaning::Plain, or);
    r.add("logicalNot", &[B], B, Meaning::Plain, Body::Native(|a| not(operator(a, Operator::And))));
    r.plain("logicalNot", &[I], B, one::<k::I, k::B>(|v| v == 0));
}

fn select(r: &mut Registry) {
    for t in [B, I, F, T, S] {
        r.add("select", &[B, t, t], t, Meaning::Agreed(1), Body::Native(choose));
    }
}

fn choose(args: Vec<Expr>) -> Expr {
    let Ok([condition, yes, no]) = <[Expr; 3]>::try_from(args) else { return lit(false) };
    let fallback = no.clone();
    when(condition, yes).otherwise(no).unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_of_many_values_are_the_bins_of_each() {
        let values = [5, 7, 12, 3, -1, -12, 0, i64::MAX, i64::MAX - 1, i64::MIN, 10, 11, 10];
        for width in [0, 1, 5, 10, -3, i64::MAX] {
            let each: Vec<i64> = values.iter().map(|&value| bin(value, width)).collect();
            assert_eq!(bins(&values, width), each, "{width}");
        }
    }
}
