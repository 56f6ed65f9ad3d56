//! Quantiles as aggregate functions, computed from the store's sketch.
//!
//! Values, live or summarised, end in the same buckets, so quantiles over summaries are equal to
//! the last bit to those over the rows. The intermediate state is the sketch as bytes: each bucket
//! four bytes of key and eight of count, little-endian.

use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int32Type, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, Expr, GroupsAccumulator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use undine_store::sketch::Sketch;

/// The quantiles that scripts get, by their keys.
const QUANTILES: [(&str, f64); 7] = [
    ("p01", 0.01),
    ("p10", 0.10),
    ("p25", 0.25),
    ("p50", 0.50),
    ("p75", 0.75),
    ("p90", 0.90),
    ("p99", 0.99),
];

/// The quantiles of doubles, as JSON.
pub(crate) fn quantiles(values: Expr) -> Expr {
    call(Form::ValuesToJson, values)
}

/// The sketch of doubles, as bytes.
pub(crate) fn sketch(values: Expr) -> Expr {
    call(Form::ValuesToBytes, values)
}

/// The quantiles of all sketches together, as JSON.
pub(crate) fn merged(sketches: Expr) -> Expr {
    call(Form::BytesToJson, sketches)
}

/// The sketch that a summary holds in two lists, as bytes.
pub(crate) fn packed(keys: Expr, counts: Expr) -> Expr {
    ScalarUDF::new_from_impl(Pack { signature: Signature::any(2, Volatility::Immutable) })
        .call(vec![keys, counts])
}

fn call(form: Form, arg: Expr) -> Expr {
    let input = form.input();
    let signature = Signature::exact(vec![input], Volatility::Immutable);
    AggregateUDF::new_from_impl(SketchUdaf { form, signature }).call(vec![arg])
}

/// A number with a decimal point, also where it is whole.
fn decimal(value: f64) -> String {
    format!("{value:?}")
}

/// The answer of `px.quantiles`; zeros of nothing.
fn json(sketch: &Sketch) -> String {
    let parts = QUANTILES
        .map(|(name, q)| format!("\"{name}\":{}", decimal(sketch.quantile(q).unwrap_or_default())));
    format!("{{{}}}", parts.join(","))
}

fn bytes(sketch: &Sketch) -> Vec<u8> {
    let pairs = sketch.buckets().iter();
    pairs.flat_map(|(k, n)| k.to_le_bytes().into_iter().chain(n.to_le_bytes())).collect()
}

/// Adds the sketch in `bytes` to `sketch`.
fn merge_bytes(sketch: &mut Sketch, bytes: &[u8]) -> Result<()> {
    let (pairs, rest) = bytes.as_chunks::<12>();
    let (mut keys, mut counts) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
    for pair in pairs {
        let (mut key, mut count) = ([0; 4], [0; 8]);
        key.copy_from_slice(&pair[..4]);
        count.copy_from_slice(&pair[4..]);
        keys.push(i32::from_le_bytes(key));
        counts.push(i64::from_le_bytes(count));
    }
    if !rest.is_empty() {
        return internal_err!("a sketch has {} bytes", bytes.len());
    }
    sketch
        .merge_parts(&keys, &counts)
        .map_err(|error| exec_datafusion_err!("a summary holds a damaged sketch: {error}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    ValuesToJson,
    ValuesToBytes,
    BytesToJson,
}

impl Form {
    fn input(self) -> DataType {
        match self {
            Self::ValuesToJson | Self::ValuesToBytes => DataType::Float64,
            Self::BytesToJson => DataType::Binary,
        }
    }

    fn output(self) -> DataType {
        match self {
            Self::ValuesToJson | Self::BytesToJson => DataType::Utf8,
            Self::ValuesToBytes => DataType::Binary,
        }
    }

    fn add(self, sketch: &mut Sketch, values: &ArrayRef, row: usize) -> Result<()> {
        if values.is_null(row) {
            return Ok(());
        }
        match self {
            Self::ValuesToJson | Self::ValuesToBytes => {
                sketch.add(values.as_primitive::<Float64Type>().value(row));
                Ok(())
            }
            Self::BytesToJson => merge_bytes(sketch, values.as_binary::<i32>().value(row)),
        }
    }

    fn finish(self, sketches: &[Sketch]) -> ArrayRef {
        match self {
            Self::ValuesToJson | Self::BytesToJson => {
                Arc::new(StringArray::from_iter_values(sketches.iter().map(json)))
            }
            Self::ValuesToBytes => states(sketches),
        }
    }
}

fn states(sketches: &[Sketch]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(sketches.iter().map(bytes)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchUdaf {
    form: Form,
    signature: Signature,
}

impl AggregateUDFImpl for SketchUdaf {
    fn name(&self) -> &'static str {
        match self.form {
            Form::ValuesToJson => "quantiles",
            Form::ValuesToBytes => "sketch",
            Form::BytesToJson => "merged_quantiles",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.form.output())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}_state", args.name), DataType::Binary, true))])
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(One { form: self.form, sketch: Sketch::new() }))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        _args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups { form: self.form, sketches: Vec::new() }))
    }
}

#[derive(Debug)]
struct One {
    form: Form,
    sketch: Sketch,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        (0..values[0].len()).try_for_each(|row| self.form.add(&mut self.sketch, &values[0], row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.form.finish(std::slice::from_ref(&self.sketch)), 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + size_of_val(self.sketch.buckets())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(bytes(&self.sketch)))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states[0].as_binary::<i32>();
        states.iter().flatten().try_for_each(|state| merge_bytes(&mut self.sketch, state))
    }
}

#[derive(Debug)]
struct Groups {
    form: Form,
    sketches: Vec<Sketch>,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.sketches.resize_with(total_num_groups, Sketch::new);
        for (row, &group) in group_indices.iter().enumerate() {
            if opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                self.form.add(&mut self.sketches[group], &values[0], row)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(self.form.finish(&emit_to.take_needed(&mut self.sketches)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![states(&emit_to.take_needed(&mut self.sketches))])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.sketches.resize_with(total_num_groups, Sketch::new);
        let states = values[0].as_binary::<i32>();
        for (row, &group) in group_indices.iter().enumerate() {
            if states.is_valid(row) {
                merge_bytes(&mut self.sketches[group], states.value(row))?;
            }
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut sketches = vec![Sketch::new(); values[0].len()];
        for (row, sketch) in sketches.iter_mut().enumerate() {
            if opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                self.form.add(sketch, &values[0], row)?;
            }
        }
        Ok(vec![states(&sketches)])
    }

    fn size(&self) -> usize {
        let buckets: usize = self.sketches.iter().map(|s| size_of_val(s.buckets())).sum();
        self.sketches.capacity() * size_of::<Sketch>() + buckets
    }
}

/// Lists of keys and counts → bytes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pack {
    signature: Signature,
}

impl ScalarUDFImpl for Pack {
    fn name(&self) -> &'static str {
        "pack_sketch"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (keys, counts) = (arrays[0].as_list::<i32>(), arrays[1].as_list::<i32>());
        let packed = (0..keys.len()).map(|row| {
            let (keys, counts) = (keys.value(row), counts.value(row));
            let keys = keys.as_primitive::<Int32Type>().values().iter();
            let counts = counts.as_primitive::<Int64Type>().values().iter();
            let pairs = keys.zip(counts);
            pairs
                .flat_map(|(k, n)| k.to_le_bytes().into_iter().chain(n.to_le_bytes()))
                .collect::<Vec<u8>>()
        });
        Ok(ColumnarValue::Array(Arc::new(BinaryArray::from_iter_values(packed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_always_have_a_decimal_point() {
        let mut sketch = Sketch::new();
        assert!(json(&sketch).starts_with(r#"{"p01":0.0,"#));
        sketch.add(1e18);
        let value: serde_json::Value = serde_json::from_str(&json(&sketch)).unwrap();
        assert!(value["p99"].is_f64(), "{value}");
    }

    #[test]
    fn a_sketch_survives_its_bytes() {
        let mut sketch = Sketch::new();
        for value in [-1.5, 0.0, 3.0, 1e12] {
            sketch.add(value);
        }
        let mut again = Sketch::new();
        merge_bytes(&mut again, &bytes(&sketch)).unwrap();
        assert_eq!(again, sketch);
        assert!(merge_bytes(&mut again, &[0; 13]).is_err());
    }
}
