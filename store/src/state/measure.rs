//! The states of one measure, one place a group.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ArrowNativeType, DataType, Field, Int32Type, Int64Type};
use arrow::error::ArrowError;
use undine_schema::{ColumnDef, PxlType, Role, TableDef};

use super::growth::Growth;
use super::number::{Number, column, int64};
use crate::sketch::Counting;

/// The columns of a measure in a summary.
pub(super) fn fields(table: &TableDef, measure: &ColumnDef, fields: &mut Vec<Field>) {
    let value = measure.pxl_type.arrow();
    let mut states = vec!["sum", "min", "max"];
    if table.kind.has_ends() {
        states.extend(["first", "last"]);
    }
    if measure.role == Role::Counter {
        states.push("increase");
    }
    let field = |state| Field::new(format!("{}_{state}", measure.name), value.clone(), false);
    fields.extend(states.into_iter().map(field));
    if measure.role == Role::Sketched {
        for (part, item) in [("keys", DataType::Int32), ("counts", DataType::Int64)] {
            let item = Arc::new(Field::new("element", item, false));
            let name = format!("{}_sketch_{part}", measure.name);
            fields.push(Field::new(name, DataType::List(item), false));
        }
    }
}

/// The states of one measure, by group.
#[derive(Debug)]
pub(super) struct MeasureStates {
    name: &'static str,
    values: Values,
    growths: Option<Vec<Growth>>,
    sketches: Option<Vec<Counting>>,
}

#[derive(Debug)]
enum Values {
    Int(Extremes<i64>),
    Float(Extremes<f64>),
}

#[derive(Debug)]
struct Extremes<T> {
    sum: Vec<T>,
    min: Vec<T>,
    max: Vec<T>,
    ends: Option<Ends<T>>,
}

/// The values at the first and at the last time, with those times. Of several at one time the
/// lowest is the first and the highest the last, so the order of merging decides nothing.
#[derive(Debug)]
struct Ends<T> {
    first: Vec<(i64, T)>,
    last: Vec<(i64, T)>,
}

impl MeasureStates {
    pub(super) fn new(table: &TableDef, measure: &ColumnDef) -> Self {
        let has_ends = table.kind.has_ends();
        Self {
            name: measure.name,
            values: match measure.pxl_type {
                PxlType::Float64 => Values::Float(Extremes::new(has_ends)),
                _ => Values::Int(Extremes::new(has_ends)),
            },
            growths: (measure.role == Role::Counter).then(Vec::new),
            sketches: (measure.role == Role::Sketched).then(Vec::new),
        }
    }

    pub(super) fn new_group(&mut self) {
        match &mut self.values {
            Values::Int(extremes) => extremes.new_group(),
            Values::Float(extremes) => extremes.new_group(),
        }
        self.growths.iter_mut().for_each(|growths| growths.push(Growth::NONE));
        self.sketches.iter_mut().for_each(|sketches| sketches.push(Counting::default()));
    }

    /// Adds the values of rows.
    pub(super) fn add_rows(
        &mut self,
        batch: &RecordBatch,
        groups: &[usize],
        times: &[i64],
    ) -> Result<(), ArrowError> {
        match &mut self.values {
            Values::Int(extremes) => {
                let values = int64(batch, self.name)?;
                extremes.add_rows(values, groups, times);
                sketch(&mut self.sketches, values, groups);
                if let Some(growths) = &mut self.growths {
                    for ((&group, &time), &value) in groups.iter().zip(times).zip(values) {
                        growths[group].join(&Growth::of((time, value)));
                    }
                }
            }
            Values::Float(extremes) => {
                let values = f64::column(batch, self.name)?;
                extremes.add_rows(values, groups, times);
                sketch(&mut self.sketches, values, groups);
            }
        }
        Ok(())
    }

    /// Adds states. `times` are the first and last times of each.
    pub(super) fn add_states(
        &mut self,
        batch: &RecordBatch,
        groups: &[usize],
        times: (&[i64], &[i64]),
    ) -> Result<(), ArrowError> {
        match &mut self.values {
            Values::Int(extremes) => extremes.add_states(self.name, batch, groups, times)?,
            Values::Float(extremes) => extremes.add_states(self.name, batch, groups, times)?,
        }
        let state = |state: &str| format!("{}_{state}", self.name);
        if let Some(growths) = &mut self.growths {
            let (firsts, lasts) = (int64(batch, &state("first"))?, int64(batch, &state("last"))?);
            let increases = int64(batch, &state("increase"))?;
            for (at, &group) in groups.iter().enumerate() {
                let (first, last) = ((times.0[at], firsts[at]), (times.1[at], lasts[at]));
                growths[group].join(&Growth::of_states(first, last, increases[at]));
            }
        }
        if let Some(sketches) = &mut self.sketches {
            let keys = column(batch, &state("sketch_keys"))?.as_list_opt::<i32>();
            let counts = column(batch, &state("sketch_counts"))?.as_list_opt::<i32>();
            let (Some(keys), Some(counts)) = (keys, counts) else {
                return Err(ArrowError::SchemaError(format!("{} has no lists", self.name)));
            };
            let all_keys = keys.values().as_primitive::<Int32Type>().values();
            let all_counts = counts.values().as_primitive::<Int64Type>().values();
            let (keys, counts) = (keys.offsets(), counts.offsets());
            for (at, &group) in groups.iter().enumerate() {
                let of = |offsets: &OffsetBuffer<i32>| {
                    offsets[at].as_usize()..offsets[at + 1].as_usize()
                };
                sketches[group]
                    .merge_parts(&all_keys[of(keys)], &all_counts[of(counts)])
                    .map_err(|error| ArrowError::ExternalError(error.into()))?;
            }
        }
        Ok(())
    }

    /// The columns that [`fields`] names, of the groups in `order`.
    pub(super) fn columns(
        &mut self,
        order: &[usize],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), ArrowError> {
        match &self.values {
            Values::Int(extremes) => extremes.columns(order, columns),
            Values::Float(extremes) => extremes.columns(order, columns),
        }
        if let Some(growths) = &self.growths {
            columns.push(i64::array(order.iter().map(|&group| growths[group].increase())));
        }
        if let Some(sketches) = &mut self.sketches {
            let sketches: Vec<_> = sketches.iter_mut().map(Counting::settled).collect();
            let buckets: Vec<_> = order.iter().map(|&group| sketches[group].buckets()).collect();
            columns.extend(sketch_columns(&buckets)?);
        }
        Ok(())
    }
}

impl<T: Number> Extremes<T> {
    fn new(has_ends: bool) -> Self {
        let ends = has_ends.then(|| Ends { first: Vec::new(), last: Vec::new() });
        Self { sum: Vec::new(), min: Vec::new(), max: Vec::new(), ends }
    }

    fn new_group(&mut self) {
        self.sum.push(T::ZERO);
        self.min.push(T::NO_MIN);
        self.max.push(T::NO_MAX);
        if let Some(ends) = &mut self.ends {
            ends.first.push((i64::MAX, T::NO_MIN));
            ends.last.push((i64::MIN, T::NO_MAX));
        }
    }

    fn add_rows(&mut self, values: &[T], groups: &[usize], times: &[i64]) {
        for (&group, &value) in groups.iter().zip(values) {
            self.sum[group] = self.sum[group].plus(value);
            self.min[group] = self.min[group].lesser(value);
            self.max[group] = self.max[group].greater(value);
        }
        if let Some(ends) = &mut self.ends {
            for ((&group, &value), &time) in groups.iter().zip(values).zip(times) {
                ends.add(group, (time, value), (time, value));
            }
        }
    }

    fn add_states(
        &mut self,
        name: &str,
        batch: &RecordBatch,
        groups: &[usize],
        times: (&[i64], &[i64]),
    ) -> Result<(), ArrowError> {
        let state = |state: &str| T::column(batch, &format!("{name}_{state}"));
        let (sums, mins, maxs) = (state("sum")?, state("min")?, state("max")?);
        for (at, &group) in groups.iter().enumerate() {
            self.sum[group] = self.sum[group].plus(sums[at]);
            self.min[group] = self.min[group].lesser(mins[at]);
            self.max[group] = self.max[group].greater(maxs[at]);
        }
        if let Some(ends) = &mut self.ends {
            let (firsts, lasts) = (state("first")?, state("last")?);
            for (at, &group) in groups.iter().enumerate() {
                ends.add(group, (times.0[at], firsts[at]), (times.1[at], lasts[at]));
            }
        }
        Ok(())
    }

    fn columns(&self, order: &[usize], columns: &mut Vec<ArrayRef>) {
        let of = |values: &[T]| T::array(order.iter().map(|&group| values[group]));
        columns.extend([of(&self.sum), of(&self.min), of(&self.max)]);
        if let Some(ends) = &self.ends {
            let of = |values: &[(i64, T)]| T::array(order.iter().map(|&group| values[group].1));
            columns.extend([of(&ends.first), of(&ends.last)]);
        }
    }
}

impl<T: Number> Ends<T> {
    fn add(&mut self, group: usize, first: (i64, T), last: (i64, T)) {
        let is_before = |a: (i64, T), b: (i64, T)| a.0.cmp(&b.0).then(a.1.order(b.1)).is_lt();
        if is_before(first, self.first[group]) {
            self.first[group] = first;
        }
        // The time of no row is before any other, whatever stands beside it.
        if self.last[group].0 == i64::MIN || is_before(self.last[group], last) {
            self.last[group] = last;
        }
    }
}

fn sketch<T: Number>(sketches: &mut Option<Vec<Counting>>, values: &[T], groups: &[usize]) {
    if let Some(sketches) = sketches {
        for (&group, &value) in groups.iter().zip(values) {
            sketches[group].add(value.rank());
        }
    }
}

fn sketch_columns(sketches: &[&[(i32, i64)]]) -> Result<[ArrayRef; 2], ArrowError> {
    let offsets = OffsetBuffer::<i32>::from_lengths(sketches.iter().map(|sketch| sketch.len()));
    let all = || sketches.iter().flat_map(|sketch| sketch.iter());
    let keys = Int32Array::from_iter_values(all().map(|&(key, _)| key));
    let counts = Int64Array::from_iter_values(all().map(|&(_, count)| count));
    let list = |values: ArrayRef, offsets| -> Result<ArrayRef, ArrowError> {
        let field = Arc::new(Field::new("element", values.data_type().clone(), false));
        Ok(Arc::new(ListArray::try_new(field, offsets, values, None)?))
    };
    Ok([list(Arc::new(keys), offsets.clone())?, list(Arc::new(counts), offsets)?])
}
