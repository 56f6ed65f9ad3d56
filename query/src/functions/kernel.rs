//! Makes a column-wise function of a row-wise one.
//!
//! A row-wise function is written on plain values, `|s: &str| s.len()`; the markers `B I F S U`
//! say which Arrow arrays its arguments and its result are. Times are `I`: they are stored alike.
//! There are no nulls, and a constant argument is read from an array of one.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray,
    StringBuilder,
};
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};

use super::environment::Environment;

/// The arguments of one call.
pub(crate) struct Inputs {
    /// Each column, and whether it has one value for all rows.
    columns: Vec<(ArrayRef, bool)>,
    rows: usize,
}

impl Inputs {
    pub(crate) fn new(columns: Vec<(ArrayRef, bool)>, rows: usize) -> Self {
        Self { columns, rows }
    }

    fn column<M: Marker>(&self, index: usize) -> Result<View<'_, M>> {
        let (array, constant) = self
            .columns
            .get(index)
            .ok_or_else(|| internal_datafusion_err!("argument {index} is missing"))?;
        let array = array
            .as_any()
            .downcast_ref::<M::Array>()
            .ok_or_else(|| internal_datafusion_err!("argument {index}: {}", array.data_type()))?;
        Ok(View { array, constant: *constant })
    }

    /// The value of an argument that should be constant; its first value otherwise.
    pub(crate) fn constant<M: Marker>(&self, index: usize) -> Result<Option<M::Value<'_>>> {
        let view = self.column::<M>(index)?;
        Ok((!view.array.is_empty()).then(|| view.at(0)))
    }
}

struct View<'a, M: Marker> {
    array: &'a M::Array,
    constant: bool,
}

impl<'a, M: Marker> View<'a, M> {
    fn at(&self, row: usize) -> M::Value<'a> {
        M::at(self.array, if self.constant { 0 } else { row })
    }
}

/// Which Arrow array an argument is.
pub(crate) trait Marker: 'static {
    type Array: Array + 'static;
    type Value<'a>: Copy;
    fn at(array: &Self::Array, row: usize) -> Self::Value<'_>;
}

/// Which Arrow array a result becomes.
pub(crate) trait ResultMarker: 'static {
    type Owned;
    fn gather(values: impl Iterator<Item = Self::Owned>) -> ArrayRef;
}

macro_rules! markers {
    ($($(#[$doc:meta])* $marker:ident: $array:ty, $value:ty, $owned:ty, |$a:ident, $r:ident| $at:expr,
       |$v:ident| $gather:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) enum $marker {}
        impl Marker for $marker {
            type Array = $array;
            type Value<'a> = $value;
            fn at($a: &Self::Array, $r: usize) -> Self::Value<'_> { $at }
        }
        impl ResultMarker for $marker {
            type Owned = $owned;
            fn gather($v: impl Iterator<Item = Self::Owned>) -> ArrayRef { $gather }
        }
    )*};
}

markers! {
    /// Booleans.
    B: BooleanArray, bool, bool, |a, r| a.value(r),
        |v| Arc::new(v.map(Some).collect::<BooleanArray>());
    /// Integers and times.
    I: Int64Array, i64, i64, |a, r| a.value(r), |v| Arc::new(Int64Array::from_iter_values(v));
    /// Doubles.
    F: Float64Array, f64, f64, |a, r| a.value(r), |v| Arc::new(Float64Array::from_iter_values(v));
    /// Text.
    S: StringArray, &'a str, String, |a, r| a.value(r), |v| {
        let mut builder = StringBuilder::new();
        v.for_each(|text| builder.append_value(text));
        Arc::new(builder.finish())
    };
}

/// 128 bits; never a result.
pub(crate) enum U {}

impl Marker for U {
    type Array = FixedSizeBinaryArray;
    type Value<'a> = &'a [u8];
    fn at(array: &Self::Array, row: usize) -> &[u8] {
        array.value(row)
    }
}

/// A function from whole columns to a column.
pub(crate) type Kernel =
    Box<dyn Fn(&Environment, &Inputs) -> Result<ArrayRef, DataFusionError> + Send + Sync>;

/// A kernel without arguments: what `f` says of the surroundings.
pub(crate) fn ambient<R: ResultMarker>(
    f: impl Fn(&Environment) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    Box::new(move |environment, inputs| Ok(R::gather((0..inputs.rows).map(|_| f(environment)))))
}

/// A kernel of one argument that looks something up.
pub(crate) fn lookup<A: Marker, R: ResultMarker>(
    f: impl for<'a> Fn(&Environment, A::Value<'a>) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    Box::new(move |environment, inputs| {
        let a = inputs.column::<A>(0)?;
        Ok(R::gather((0..inputs.rows).map(|row| f(environment, a.at(row)))))
    })
}

/// A kernel of one argument.
pub(crate) fn one<A: Marker, R: ResultMarker>(
    f: impl for<'a> Fn(A::Value<'a>) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    lookup::<A, R>(move |_, a| f(a))
}

/// A kernel of two arguments.
pub(crate) fn two<A: Marker, B: Marker, R: ResultMarker>(
    f: impl for<'a> Fn(A::Value<'a>, B::Value<'a>) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    Box::new(move |_, inputs| {
        let (a, b) = (inputs.column::<A>(0)?, inputs.column::<B>(1)?);
        Ok(R::gather((0..inputs.rows).map(|row| f(a.at(row), b.at(row)))))
    })
}

/// A kernel of integers whose second argument is constant most of the time.
pub(crate) fn over_constant(f: fn(&[i64], i64) -> Vec<i64>) -> Kernel {
    Box::new(move |_, inputs| {
        let (a, b) = (inputs.column::<I>(0)?, inputs.column::<I>(1)?);
        if b.constant && !a.constant && !b.array.is_empty() {
            return Ok(Arc::new(Int64Array::from(f(a.array.values(), b.at(0)))));
        }
        let one = |row| f(&[a.at(row)], b.at(row)).first().copied().unwrap_or_default();
        Ok(I::gather((0..inputs.rows).map(one)))
    })
}

/// A kernel of three arguments.
pub(crate) fn three<A: Marker, B: Marker, C: Marker, R: ResultMarker>(
    f: impl for<'a> Fn(A::Value<'a>, B::Value<'a>, C::Value<'a>) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    Box::new(move |_, inputs| {
        let (a, b, c) = (inputs.column::<A>(0)?, inputs.column::<B>(1)?, inputs.column::<C>(2)?);
        Ok(R::gather((0..inputs.rows).map(|row| f(a.at(row), b.at(row), c.at(row)))))
    })
}

/// A kernel whose first argument is a constant text that is prepared once per batch.
pub(crate) fn prepared<P, R: ResultMarker>(
    prepare: impl Fn(&str) -> P + Send + Sync + 'static,
    f: impl Fn(&P, &[&str]) -> R::Owned + Send + Sync + 'static,
) -> Kernel {
    Box::new(move |_, inputs| {
        let prepared = prepare(inputs.constant::<S>(0)?.unwrap_or_default());
        let views: Vec<View<'_, S>> = (1..inputs.columns.len())
            .map(|index| inputs.column::<S>(index))
            .collect::<Result<_>>()?;
        let mut row_values = Vec::with_capacity(views.len());
        Ok(R::gather((0..inputs.rows).map(|row| {
            row_values.clear();
            row_values.extend(views.iter().map(|view| view.at(row)));
            f(&prepared, &row_values)
        })))
    })
}

/// One row of arguments, for functions with too many of them for a form of their own.
pub(crate) struct Row<'a> {
    inputs: &'a Inputs,
    row: usize,
}

impl<'a> Row<'a> {
    pub(crate) fn text(&self, index: usize) -> Result<&'a str> {
        Ok(self.inputs.column::<S>(index)?.at(self.row))
    }

    pub(crate) fn integer(&self, index: usize) -> Result<i64> {
        Ok(self.inputs.column::<I>(index)?.at(self.row))
    }
}

impl Inputs {
    /// The text that `f` makes of each row.
    pub(crate) fn rows_of(&self, f: impl Fn(&Row<'_>) -> Result<String>) -> Result<ArrayRef> {
        let texts: Vec<String> =
            (0..self.rows).map(|row| f(&Row { inputs: self, row })).collect::<Result<_>>()?;
        Ok(S::gather(texts.into_iter()))
    }
}
