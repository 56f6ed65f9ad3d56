//! Values that are known while a script is compiled, and arithmetic on them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::scalar::ScalarValue;
use undine_schema::{PxlType, SemanticType};

/// A value of a `PxL` type.
#[derive(Clone, Debug)]
pub(crate) enum Const {
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Time(i64),
    Uint128([u8; 16]),
}

impl Const {
    pub(crate) fn pxl_type(&self) -> PxlType {
        match self {
            Self::Bool(_) => PxlType::Boolean,
            Self::Int(_) => PxlType::Int64,
            Self::Float(_) => PxlType::Float64,
            Self::Str(_) => PxlType::String,
            Self::Time(_) => PxlType::Time64Ns,
            Self::Uint128(_) => PxlType::Uint128,
        }
    }

    /// What stands for absence.
    pub(crate) fn zero(pxl_type: PxlType) -> Self {
        match pxl_type {
            PxlType::Boolean => Self::Bool(false),
            PxlType::Int64 => Self::Int(0),
            PxlType::Float64 => Self::Float(0.0),
            PxlType::String => Self::Str("".into()),
            PxlType::Time64Ns => Self::Time(0),
            PxlType::Uint128 => Self::Uint128([0; 16]),
        }
    }

    pub(crate) fn datafusion(&self) -> ScalarValue {
        match self {
            Self::Bool(value) => ScalarValue::Boolean(Some(*value)),
            Self::Int(value) | Self::Time(value) => ScalarValue::Int64(Some(*value)),
            Self::Float(value) => ScalarValue::Float64(Some(*value)),
            Self::Str(value) => ScalarValue::Utf8(Some(value.to_string())),
            Self::Uint128(value) => ScalarValue::FixedSizeBinary(16, Some(value.to_vec())),
        }
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Int(value) => Some(*value != 0),
            _ => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "PxL's own promotion of integers")]
    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }
}

impl PartialEq for Const {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) | (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Uint128(a), Self::Uint128(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Const {}

impl Hash for Const {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Bool(value) => value.hash(state),
            Self::Int(value) | Self::Time(value) => value.hash(state),
            Self::Float(value) => value.to_bits().hash(state),
            Self::Str(value) => value.hash(state),
            Self::Uint128(value) => value.hash(state),
        }
    }
}

/// A constant with the meaning that a cast gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scalar {
    pub(crate) value: Const,
    pub(crate) semantic: SemanticType,
}

impl From<Const> for Scalar {
    fn from(value: Const) -> Self {
        Self { value, semantic: SemanticType::None }
    }
}

/// The value of an operator on constants; `None` where it has no form for their types.
pub(crate) fn fold(function: &str, args: &[Scalar]) -> Option<Scalar> {
    let value = match args {
        [operand] => fold_unary(function, &operand.value),
        [left, right] => fold_binary(function, &left.value, &right.value),
        _ => None,
    }?;
    let same = args.iter().all(|arg| arg.semantic == args[0].semantic);
    let keeps = matches!(function, "add" | "subtract" | "negate");
    let semantic = if same && keeps { args[0].semantic } else { SemanticType::None };
    Some(Scalar { value, semantic })
}

fn fold_unary(function: &str, operand: &Const) -> Option<Const> {
    match (function, operand) {
        ("negate", Const::Int(value)) => Some(Const::Int(value.wrapping_neg())),
        ("negate", Const::Float(value)) => Some(Const::Float(-value)),
        ("invert", Const::Int(value)) => Some(Const::Int(!value)),
        ("logicalNot", value) => value.truth().map(|truth| Const::Bool(!truth)),
        _ => None,
    }
}

fn fold_binary(function: &str, left: &Const, right: &Const) -> Option<Const> {
    match function {
        "add" | "subtract" | "multiply" | "modulo" => fold_arithmetic(function, left, right),
        "divide" => Some(Const::Float(left.number()? / right.number()?)),
        "logicalAnd" => Some(Const::Bool(left.truth()? && right.truth()?)),
        "logicalOr" => Some(Const::Bool(left.truth()? || right.truth()?)),
        "equal" => equal(left, right).map(Const::Bool),
        "notEqual" => equal(left, right).map(|same| Const::Bool(!same)),
        _ => {
            let order = match (left, right) {
                (Const::Str(l), Const::Str(r)) => Some(l.cmp(r)),
                (Const::Int(l) | Const::Time(l), Const::Int(r) | Const::Time(r)) => Some(l.cmp(r)),
                _ => left.number()?.partial_cmp(&right.number()?),
            };
            let holds = match function {
                "lessThan" => order.is_some_and(std::cmp::Ordering::is_lt),
                "lessThanEqual" => order.is_some_and(std::cmp::Ordering::is_le),
                "greaterThan" => order.is_some_and(std::cmp::Ordering::is_gt),
                "greaterThanEqual" => order.is_some_and(std::cmp::Ordering::is_ge),
                _ => return None,
            };
            Some(Const::Bool(holds))
        }
    }
}

fn fold_arithmetic(function: &str, left: &Const, right: &Const) -> Option<Const> {
    let integer = |l: i64, r: i64| match function {
        "add" => Some(l.wrapping_add(r)),
        "subtract" => Some(l.wrapping_sub(r)),
        "multiply" => Some(l.wrapping_mul(r)),
        _ => Some(modulo(l, r)),
    };
    match (left, right) {
        (Const::Int(l), Const::Int(r)) => integer(*l, *r).map(Const::Int),
        (Const::Time(l), Const::Time(r)) if matches!(function, "subtract" | "modulo") => {
            integer(*l, *r).map(Const::Int)
        }
        (Const::Time(l), Const::Int(r)) | (Const::Int(l), Const::Time(r)) => match function {
            "subtract" if matches!(left, Const::Int(_)) => integer(*l, *r).map(Const::Int),
            "add" | "subtract" => integer(*l, *r).map(Const::Time),
            "modulo" => integer(*l, *r).map(Const::Int),
            _ => None,
        },
        (Const::Str(l), Const::Str(r)) if function == "add" => {
            Some(Const::Str(format!("{l}{r}").into()))
        }
        _ => {
            let (l, r) = (left.number()?, right.number()?);
            match function {
                "add" => Some(Const::Float(l + r)),
                "subtract" => Some(Const::Float(l - r)),
                "multiply" => Some(Const::Float(l * r)),
                _ => None,
            }
        }
    }
}

/// C's remainder; 0 where C leaves a zero divisor undefined.
pub(crate) fn modulo(value: i64, divisor: i64) -> i64 {
    if divisor == 0 { 0 } else { value.wrapping_rem(divisor) }
}

fn equal(left: &Const, right: &Const) -> Option<bool> {
    match (left, right) {
        (Const::Bool(l), Const::Bool(r)) => Some(l == r),
        (Const::Str(l), Const::Str(r)) => Some(l == r),
        (Const::Int(l) | Const::Time(l), Const::Int(r) | Const::Time(r)) => Some(l == r),
        (Const::Uint128(l), Const::Uint128(r)) => Some(l == r),
        (Const::Int(l), Const::Bool(r)) | (Const::Bool(r), Const::Int(l)) => {
            Some(*l == i64::from(*r))
        }
        _ => Some(nearly_equal(left.number()?, right.number()?)),
    }
}

/// Equality of doubles as `PxL` has it: within the machine's epsilon.
#[expect(clippy::float_cmp, reason = "infinities are equal to themselves")]
pub(crate) fn nearly_equal(left: f64, right: f64) -> bool {
    left == right || (left - right).abs() < f64::EPSILON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_follow_the_arithmetic_of_the_language() {
        let folded = |f, a: Const, b: Const| fold(f, &[a.into(), b.into()]).map(|s| s.value);
        assert_eq!(folded("divide", Const::Int(1), Const::Int(4)), Some(Const::Float(0.25)));
        assert_eq!(
            folded("divide", Const::Int(1), Const::Int(0)),
            Some(Const::Float(f64::INFINITY))
        );
        assert_eq!(folded("modulo", Const::Int(-7), Const::Int(3)), Some(Const::Int(-1)));
        assert_eq!(folded("subtract", Const::Time(7), Const::Time(3)), Some(Const::Int(4)));
        assert_eq!(folded("subtract", Const::Int(7), Const::Time(3)), Some(Const::Int(4)));
        assert_eq!(folded("subtract", Const::Time(7), Const::Int(3)), Some(Const::Time(4)));
        assert_eq!(folded("add", Const::Str("a".into()), Const::Int(1)), None);
        assert_eq!(
            folded("equal", Const::Float(0.1 + 0.2), Const::Float(0.3)),
            Some(Const::Bool(true))
        );
    }
}
