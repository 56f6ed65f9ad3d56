//! Quantiles as aggregate functions, computed from the buckets of the store's sketch.
//!
//! Values, live or summarised, end in the same buckets, so quantiles over summaries are equal to
//! the last bit to those over the rows. The intermediate state is the encoded [`Histogram`].
//!
//! SQL has the same: `quantiles(x)`, `sketch(x)`, `quantile_of(sketch, 0.99)`, and for the states of
//! summaries `merged_sketch(pack_sketch(m_sketch_keys, m_sketch_counts))`.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Float64Array, StringBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int32Type, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, Expr, GroupsAccumulator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

use crate::histogram::{Histogram, encode_lists};

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

/// The quantiles of numbers, as JSON.
pub(crate) fn quantiles(values: Expr) -> Expr {
    aggregate(Form::ValuesToJson).call(vec![values])
}

/// The sketch of numbers, as bytes.
pub(crate) fn sketch(values: Expr) -> Expr {
    aggregate(Form::ValuesToBytes).call(vec![values])
}

/// The quantiles of all sketches together, as JSON.
pub(crate) fn merged(sketches: Expr) -> Expr {
    aggregate(Form::BytesToJson).call(vec![sketches])
}

/// All sketches together, as bytes.
pub(crate) fn merged_sketch(sketches: Expr) -> Expr {
    aggregate(Form::BytesToBytes).call(vec![sketches])
}

/// The number below which a share of a sketch's numbers lies.
pub(crate) fn quantile_of(sketch: Expr, share: f64) -> Expr {
    share_of().call(vec![sketch, lit(share)])
}

/// The sketch that a summary holds in two lists, as bytes.
pub(crate) fn packed(keys: Expr, counts: Expr) -> Expr {
    pack().call(vec![keys, counts])
}

/// The aggregates that SQL may call by name.
pub(crate) fn aggregates() -> [AggregateUDF; 4] {
    [Form::ValuesToJson, Form::ValuesToBytes, Form::BytesToJson, Form::BytesToBytes].map(aggregate)
}

/// The other functions of sketches that SQL may call by name.
pub(crate) fn scalars() -> [ScalarUDF; 2] {
    [pack(), share_of()]
}

fn share_of() -> ScalarUDF {
    let exact = Signature::exact(vec![DataType::Binary, DataType::Float64], Volatility::Immutable);
    ScalarUDF::new_from_impl(QuantileOf { signature: exact })
}

fn aggregate(form: Form) -> AggregateUDF {
    let inputs = form.inputs().iter().map(|input| TypeSignature::Exact(vec![input.clone()]));
    let signature = Signature::one_of(inputs.collect(), Volatility::Immutable);
    AggregateUDF::new_from_impl(SketchUdaf { form, signature })
}

fn pack() -> ScalarUDF {
    ScalarUDF::new_from_impl(Pack { signature: Signature::any(2, Volatility::Immutable) })
}

/// Appends the answer of `px.quantiles`; zeros of nothing. A number has a decimal point, also where it
/// is whole.
fn json_into(histogram: &Histogram, json: &mut String) {
    let values = histogram.quantiles(QUANTILES.map(|(_, q)| q)).unwrap_or_default();
    for (at, ((name, _), value)) in QUANTILES.iter().zip(values).enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        write!(json, "{before}\"{name}\":{value:?}").expect("a string takes every character");
    }
    json.push('}');
}

fn json(histograms: &[Histogram]) -> ArrayRef {
    let mut all = StringBuilder::with_capacity(histograms.len(), histograms.len() * 160);
    let mut json = String::new();
    for histogram in histograms {
        json.clear();
        json_into(histogram, &mut json);
        all.append_value(&json);
    }
    Arc::new(all.finish())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    ValuesToJson,
    ValuesToBytes,
    BytesToJson,
    BytesToBytes,
}

impl Form {
    fn inputs(self) -> &'static [DataType] {
        match self {
            Self::ValuesToJson | Self::ValuesToBytes => &[DataType::Int64, DataType::Float64],
            Self::BytesToJson | Self::BytesToBytes => &[DataType::Binary],
        }
    }

    fn output(self) -> DataType {
        match self {
            Self::ValuesToJson | Self::BytesToJson => DataType::Utf8,
            Self::ValuesToBytes | Self::BytesToBytes => DataType::Binary,
        }
    }

    fn finish(self, histograms: &[Histogram]) -> ArrayRef {
        match self.output() {
            DataType::Utf8 => json(histograms),
            _ => states(histograms),
        }
    }
}

fn states(histograms: &[Histogram]) -> ArrayRef {
    let mut all = BinaryBuilder::with_capacity(histograms.len(), histograms.len() * 256);
    let mut state = Vec::new();
    for histogram in histograms {
        state.clear();
        histogram.encode(&mut state);
        all.append_value(&state);
    }
    Arc::new(all.finish())
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
            Form::BytesToBytes => "merged_sketch",
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
        Ok(Box::new(One { form: self.form, groups: Histograms::default() }))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        _args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups { form: self.form, groups: Histograms::default() }))
    }
}

/// One histogram a group, and the memory of all.
#[derive(Debug, Default)]
struct Histograms {
    all: Vec<Histogram>,
    bytes: usize,
}

impl Histograms {
    /// Adds each value, or sketch, to the group of its row.
    fn add(
        &mut self,
        values: &ArrayRef,
        groups: impl Iterator<Item = usize>,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let Self { all, bytes } = self;
        let rows = groups.enumerate();
        match values.data_type() {
            DataType::Int64 => {
                let values = values.as_primitive::<Int64Type>().values();
                for (row, group) in rows {
                    if is_wanted(row) {
                        #[expect(clippy::cast_precision_loss, reason = "a bucket is coarser")]
                        all[group].add(values[row] as f64, bytes);
                    }
                }
            }
            DataType::Float64 => {
                let values = values.as_primitive::<Float64Type>().values();
                for (row, group) in rows {
                    if is_wanted(row) {
                        all[group].add(values[row], bytes);
                    }
                }
            }
            DataType::Binary => {
                let values = values.as_binary::<i32>();
                for (row, group) in rows {
                    if is_wanted(row) {
                        all[group].merge_encoded(values.value(row), bytes)?;
                    }
                }
            }
            other => return exec_err!("a sketch takes no {other}"),
        }
        Ok(())
    }

    /// As [`add`](Self::add), without the rows that are null or filtered out.
    fn update(
        &mut self,
        values: &ArrayRef,
        groups: impl Iterator<Item = usize>,
        filter: Option<&BooleanArray>,
    ) -> Result<()> {
        match filter {
            None if values.null_count() == 0 => self.add(values, groups, |_| true),
            None => self.add(values, groups, |row| values.is_valid(row)),
            Some(filter) => self.add(values, groups, |row| {
                filter.is_valid(row) && filter.value(row) && values.is_valid(row)
            }),
        }
    }

    fn resize(&mut self, groups: usize) {
        self.all.resize_with(groups, Histogram::default);
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Histogram> {
        let taken = emit_to.take_needed(&mut self.all);
        if self.all.is_empty() {
            self.bytes = 0;
        }
        taken
    }

    fn size(&self) -> usize {
        self.all.capacity() * size_of::<Histogram>() + self.bytes
    }
}

#[derive(Debug)]
struct One {
    form: Form,
    groups: Histograms,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.groups.resize(1);
        self.groups.update(&values[0], std::iter::repeat_n(0, values[0].len()), None)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.groups.resize(1);
        ScalarValue::try_from_array(&self.form.finish(&self.groups.all), 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.groups.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.groups.resize(1);
        Ok(vec![ScalarValue::try_from_array(&states(&self.groups.all), 0)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.groups.resize(1);
        self.groups.update(&states[0], std::iter::repeat_n(0, states[0].len()), None)
    }
}

#[derive(Debug)]
struct Groups {
    form: Form,
    groups: Histograms,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups);
        self.groups.update(&values[0], group_indices.iter().copied(), opt_filter)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(self.form.finish(&self.groups.take(emit_to)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![states(&self.groups.take(emit_to))])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups);
        self.groups.update(&values[0], group_indices.iter().copied(), None)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut single = Histograms::default();
        single.resize(values[0].len());
        single.update(&values[0], 0..values[0].len(), opt_filter)?;
        Ok(vec![states(&single.all)])
    }

    fn size(&self) -> usize {
        self.groups.size()
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
        let lists = (arrays[0].as_list_opt::<i32>(), arrays[1].as_list_opt::<i32>());
        let (Some(keys), Some(counts)) = lists else {
            return exec_err!("pack_sketch takes two lists, keys and counts");
        };
        let key_values = keys.values().as_primitive_opt::<Int32Type>();
        let count_values = counts.values().as_primitive_opt::<Int64Type>();
        let (Some(key_values), Some(count_values)) = (key_values, count_values) else {
            return exec_err!("pack_sketch takes a list of Int32 and a list of Int64");
        };
        let mut packed = BinaryBuilder::with_capacity(keys.len(), key_values.len() * 2);
        let mut state = Vec::new();
        let part = |offsets: &[i32], row: usize| {
            let at = |row: usize| usize::try_from(offsets[row]).unwrap_or(0);
            at(row)..at(row + 1)
        };
        for row in 0..keys.len() {
            let keys = &key_values.values()[part(keys.value_offsets(), row)];
            let counts = &count_values.values()[part(counts.value_offsets(), row)];
            state.clear();
            encode_lists(keys, counts, &mut state)?;
            packed.append_value(&state);
        }
        Ok(ColumnarValue::Array(Arc::new(packed.finish())))
    }
}

/// A sketch as bytes and a rank between 0 and 1 → the value of that rank, null of nothing.
#[derive(Debug, PartialEq, Eq, Hash)]
struct QuantileOf {
    signature: Signature,
}

impl ScalarUDFImpl for QuantileOf {
    fn name(&self) -> &'static str {
        "quantile_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let sketches: &BinaryArray = arrays[0].as_binary();
        let ranks = arrays[1].as_primitive::<Float64Type>();
        let mut bytes = 0;
        let values = sketches.iter().zip(ranks.iter()).map(|(sketch, rank)| {
            let (Some(sketch), Some(rank)) = (sketch, rank) else { return Ok(None) };
            let mut histogram = Histogram::default();
            histogram.merge_encoded(sketch, &mut bytes)?;
            Ok(histogram.quantiles([rank]).map(|[value]| value))
        });
        let values = values.collect::<Result<Float64Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_always_have_a_decimal_point() {
        let (mut histogram, mut bytes) = (Histogram::default(), 0);
        let text =
            |of: &Histogram| json(std::slice::from_ref(of)).as_string::<i32>().value(0).to_owned();
        assert!(text(&histogram).starts_with(r#"{"p01":0.0,"#));
        histogram.add(1e18, &mut bytes);
        let value: serde_json::Value = serde_json::from_str(&text(&histogram)).unwrap();
        assert!(value["p99"].is_f64(), "{value}");
    }
}
