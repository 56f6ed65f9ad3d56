//! The two types that a measure has, as its states need them.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::error::ArrowError;

/// A measure's value.
pub(super) trait Number: Copy + std::fmt::Debug {
    /// The sum of nothing.
    const ZERO: Self;
    /// What any value is below of.
    const NO_MIN: Self;
    /// What any value is above of.
    const NO_MAX: Self;

    fn plus(self, other: Self) -> Self;
    fn lesser(self, other: Self) -> Self;
    fn greater(self, other: Self) -> Self;
    /// The order in which values of one time count as earlier.
    fn order(self, other: Self) -> Ordering;
    fn rank(self) -> f64;
    fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [Self], ArrowError>;
    fn array(values: impl Iterator<Item = Self>) -> ArrayRef;
}

/// Sums wrap, so that they are exact in any order where the true one fits.
impl Number for i64 {
    const ZERO: Self = 0;
    const NO_MIN: Self = Self::MAX;
    const NO_MAX: Self = Self::MIN;

    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn lesser(self, other: Self) -> Self {
        self.min(other)
    }

    fn greater(self, other: Self) -> Self {
        self.max(other)
    }

    fn order(self, other: Self) -> Ordering {
        self.cmp(&other)
    }

    #[expect(clippy::cast_precision_loss, reason = "a bucket of a sketch is coarser")]
    fn rank(self) -> f64 {
        self as f64
    }

    fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [Self], ArrowError> {
        int64(batch, name)
    }

    fn array(values: impl Iterator<Item = Self>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values))
    }
}

/// Extremes leave NaN out. A sum is rounded, and so depends on the order in its last digits.
impl Number for f64 {
    const ZERO: Self = 0.0;
    const NO_MIN: Self = Self::NAN;
    const NO_MAX: Self = Self::NAN;

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn lesser(self, other: Self) -> Self {
        self.min(other)
    }

    fn greater(self, other: Self) -> Self {
        self.max(other)
    }

    fn order(self, other: Self) -> Ordering {
        self.total_cmp(&other)
    }

    fn rank(self) -> f64 {
        self
    }

    fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [Self], ArrowError> {
        let column = column(batch, name)?.as_primitive_opt::<Float64Type>();
        let values = column.map(|column| column.values().as_ref());
        values.ok_or_else(|| ArrowError::SchemaError(format!("column {name} is no Float64")))
    }

    fn array(values: impl Iterator<Item = Self>) -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(values))
    }
}

pub(super) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("column {name} is missing")))
}

pub(crate) fn int64<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64], ArrowError> {
    let column = column(batch, name)?.as_primitive_opt::<Int64Type>();
    let values = column.map(|column| column.values().as_ref());
    values.ok_or_else(|| ArrowError::SchemaError(format!("column {name} is no Int64")))
}
