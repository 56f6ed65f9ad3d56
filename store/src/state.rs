//! The rows of a summary: their schema, and how a table's rows become partial states.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, concat_batches, sort_to_indices, take};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use undine_schema::column::{Role, Visibility};
use undine_schema::{ColumnDef, PxlType, TableDef, TableKind, TimeNs};

use crate::sketch::Sketch;

/// Schema of a summary's segments: `window_start`, the same as a timestamp in `time`, the table's
/// dimensions by their own names, `rows`, `first_time`, `last_time`, and for each measure `m`
/// `m_sum`, `m_min`, `m_max`, where it is sketched also `m_sketch_keys` and `m_sketch_counts`.
pub fn summary_schema(table: &TableDef) -> SchemaRef {
    let mut fields = vec![
        Field::new("window_start", DataType::Int64, false),
        Field::new("time", timestamp(), false),
    ];
    for dimension in table.dimensions() {
        fields.push(Field::new(dimension.name, on_disk(&dimension.pxl_type.arrow()), false));
    }
    fields
        .extend(["rows", "first_time", "last_time"].map(|n| Field::new(n, DataType::Int64, false)));
    for measure in table.measures() {
        let value = measure.pxl_type.arrow();
        for state in ["sum", "min", "max"] {
            fields.push(Field::new(format!("{}_{state}", measure.name), value.clone(), false));
        }
        if measure.role == Role::Sketched {
            for (part, item) in [("keys", DataType::Int32), ("counts", DataType::Int64)] {
                let item = Arc::new(Field::new("element", item, false));
                let name = format!("{}_sketch_{part}", measure.name);
                fields.push(Field::new(name, DataType::List(item), false));
            }
        }
    }
    Arc::new(Schema::new(fields))
}

/// Schema of a table's raw segments: its columns, and `time` as a timestamp after them.
pub fn raw_schema(table: &TableDef) -> SchemaRef {
    let mut fields: Vec<_> = table
        .columns
        .iter()
        .map(|column| Field::new(column.name, on_disk(&column.pxl_type.arrow()), false))
        .collect();
    fields.push(Field::new("time", timestamp(), false));
    Arc::new(Schema::new(fields))
}

/// The type that every reader of a Delta table understands.
fn on_disk(data_type: &DataType) -> DataType {
    match data_type {
        DataType::FixedSizeBinary(_) => DataType::Binary,
        other => other.clone(),
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Partial states of a table by window and dimensions.
#[derive(Debug)]
pub(crate) struct States {
    table: &'static TableDef,
    width: Duration,
    groups_per_window_max: usize,
    converter: RowConverter,
    /// Number of each group by its dimensions, row-encoded, and its window, big-endian.
    groups: HashMap<Box<[u8]>, usize>,
    groups_in_window: HashMap<i64, usize>,
    windows: Vec<i64>,
    rows: Vec<i64>,
    first_time: Vec<i64>,
    last_time: Vec<i64>,
    measures: Vec<MeasureStates>,
    folded_rows: u64,
}

/// The states of one measure, one place a group.
#[derive(Debug)]
struct MeasureStates {
    name: &'static str,
    values: Values,
    sketches: Option<Vec<Sketch>>,
}

#[derive(Debug)]
enum Values {
    /// Sums wrap, so that they are exact in any order where the true one fits.
    Int {
        sum: Vec<i64>,
        min: Vec<i64>,
        max: Vec<i64>,
    },
    Float {
        sum: Vec<f64>,
        min: Vec<f64>,
        max: Vec<f64>,
    },
}

impl States {
    /// No states yet. A window that has `groups_per_window_max` groups takes further ones with the
    /// foldable dimension replaced by `*`.
    pub(crate) fn new(
        table: &'static TableDef,
        width: Duration,
        groups_per_window_max: usize,
    ) -> Result<Self, ArrowError> {
        let fields = table.dimensions().map(|d| SortField::new(on_disk(&d.pxl_type.arrow())));
        let measures = table.measures().map(|measure| MeasureStates {
            name: measure.name,
            values: match measure.pxl_type {
                PxlType::Float64 => Values::Float { sum: vec![], min: vec![], max: vec![] },
                _ => Values::Int { sum: vec![], min: vec![], max: vec![] },
            },
            sketches: (measure.role == Role::Sketched).then(Vec::new),
        });
        Ok(Self {
            table,
            width,
            groups_per_window_max,
            converter: RowConverter::new(fields.collect())?,
            groups: HashMap::new(),
            groups_in_window: HashMap::new(),
            windows: Vec::new(),
            rows: Vec::new(),
            first_time: Vec::new(),
            last_time: Vec::new(),
            measures: measures.collect(),
            folded_rows: 0,
        })
    }

    /// Rows whose foldable dimension was replaced.
    pub(crate) fn folded_rows(&self) -> u64 {
        self.folded_rows
    }

    /// Adds rows of the table.
    pub(crate) fn add_rows(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let times = int64(batch, "time_")?;
        let ones = vec![1; batch.num_rows()];
        let groups = self.groups_of(batch, times, &ones)?;
        for (&group, &time) in groups.iter().zip(times) {
            self.rows[group] += 1;
            self.first_time[group] = self.first_time[group].min(time);
            self.last_time[group] = self.last_time[group].max(time);
        }
        for measure in &mut self.measures {
            match &mut measure.values {
                Values::Int { sum, min, max } => {
                    let values = int64(batch, measure.name)?;
                    for (&group, &value) in groups.iter().zip(values) {
                        sum[group] = sum[group].wrapping_add(value);
                        min[group] = min[group].min(value);
                        max[group] = max[group].max(value);
                    }
                    if let Some(sketches) = &mut measure.sketches {
                        for (&group, &value) in groups.iter().zip(values) {
                            #[expect(clippy::cast_precision_loss, reason = "a bucket is coarser")]
                            sketches[group].add(value as f64);
                        }
                    }
                }
                Values::Float { sum, min, max } => {
                    let values = float64(batch, measure.name)?;
                    for (&group, &value) in groups.iter().zip(values) {
                        sum[group] += value;
                        min[group] = min[group].min(value);
                        max[group] = max[group].max(value);
                    }
                    if let Some(sketches) = &mut measure.sketches {
                        groups.iter().zip(values).for_each(|(&g, &value)| sketches[g].add(value));
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds states of a summary whose windows lie within these.
    pub(crate) fn add_states(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let windows = int64(batch, "window_start")?;
        let rows = int64(batch, "rows")?;
        let (first, last) = (int64(batch, "first_time")?, int64(batch, "last_time")?);
        let groups = self.groups_of(batch, windows, rows)?;
        for (at, &group) in groups.iter().enumerate() {
            self.rows[group] += rows[at];
            self.first_time[group] = self.first_time[group].min(first[at]);
            self.last_time[group] = self.last_time[group].max(last[at]);
        }
        for measure in &mut self.measures {
            let state = |state: &str| format!("{}_{state}", measure.name);
            match &mut measure.values {
                Values::Int { sum, min, max } => {
                    let sums = int64(batch, &state("sum"))?;
                    let (mins, maxs) = (int64(batch, &state("min"))?, int64(batch, &state("max"))?);
                    for (at, &group) in groups.iter().enumerate() {
                        sum[group] = sum[group].wrapping_add(sums[at]);
                        min[group] = min[group].min(mins[at]);
                        max[group] = max[group].max(maxs[at]);
                    }
                }
                Values::Float { sum, min, max } => {
                    let sums = float64(batch, &state("sum"))?;
                    let mins = float64(batch, &state("min"))?;
                    let maxs = float64(batch, &state("max"))?;
                    for (at, &group) in groups.iter().enumerate() {
                        sum[group] += sums[at];
                        min[group] = min[group].min(mins[at]);
                        max[group] = max[group].max(maxs[at]);
                    }
                }
            }
            if let Some(sketches) = &mut measure.sketches {
                let keys = column(batch, &state("sketch_keys"))?.as_list_opt::<i32>();
                let counts = column(batch, &state("sketch_counts"))?.as_list_opt::<i32>();
                let (Some(keys), Some(counts)) = (keys, counts) else {
                    return Err(ArrowError::SchemaError(format!("{} has no lists", measure.name)));
                };
                for (at, &group) in groups.iter().enumerate() {
                    let (keys, counts) = (keys.value(at), counts.value(at));
                    let keys = keys.as_primitive::<Int32Type>().values();
                    let counts = counts.as_primitive::<Int64Type>().values();
                    sketches[group]
                        .merge_parts(keys, counts)
                        .map_err(|error| ArrowError::ExternalError(error.into()))?;
                }
            }
        }
        Ok(())
    }

    /// The states as a batch of [`summary_schema`], sorted by dimensions in their declared order,
    /// then by window.
    pub(crate) fn finish(self) -> Result<RecordBatch, ArrowError> {
        let mut order: Vec<_> = self.groups.iter().collect();
        order.sort_unstable();
        let parser = self.converter.parser();
        let dimensions = order.iter().map(|(key, _)| parser.parse(&key[..key.len() - 8]));
        let dimensions = self.converter.convert_rows(dimensions)?;
        let order: Vec<usize> = order.into_iter().map(|(_, &group)| group).collect();
        let ints = |values: &[i64]| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(order.iter().map(|&group| values[group])))
        };
        let floats = |values: &[f64]| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(order.iter().map(|&group| values[group])))
        };
        let mut columns = vec![ints(&self.windows), micros(&ints(&self.windows))];
        columns.extend(dimensions);
        columns.extend([ints(&self.rows), ints(&self.first_time), ints(&self.last_time)]);
        for measure in &self.measures {
            columns.extend(match &measure.values {
                Values::Int { sum, min, max } => [ints(sum), ints(min), ints(max)],
                Values::Float { sum, min, max } => [floats(sum), floats(min), floats(max)],
            });
            if let Some(sketches) = &measure.sketches {
                let sketches: Vec<_> =
                    order.iter().map(|&group| sketches[group].buckets()).collect();
                columns.extend(sketch_columns(&sketches)?);
            }
        }
        RecordBatch::try_new(summary_schema(self.table), columns)
    }

    /// The group of each row, made where it is new. `weights` says how many rows each one is.
    fn groups_of(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        weights: &[i64],
    ) -> Result<Vec<usize>, ArrowError> {
        let dimensions = self.dimension_columns(batch)?;
        let keys = self.converter.convert_columns(&dimensions)?;
        let foldable = foldable(self.table);
        let mut folded: Option<Rows> = None;
        let mut groups = Vec::with_capacity(times.len());
        let mut key = Vec::new();
        for (at, &time) in times.iter().enumerate() {
            let window = TimeNs::new(time).floor_to(self.width).get();
            put_key(&mut key, keys.row(at).data(), window);
            let mut group = self.groups.get(key.as_slice()).copied();
            let full = || {
                self.groups_in_window.get(&window).is_some_and(|&n| n >= self.groups_per_window_max)
            };
            if let Some(foldable) = foldable.filter(|_| group.is_none() && full()) {
                let folded = match &mut folded {
                    Some(folded) => folded,
                    none => none.insert(self.fold(&dimensions, foldable)?),
                };
                if folded.row(at) != keys.row(at) {
                    self.folded_rows += weights[at].cast_unsigned();
                }
                put_key(&mut key, folded.row(at).data(), window);
                group = self.groups.get(key.as_slice()).copied();
            }
            groups.push(group.unwrap_or_else(|| self.new_group(&key, window)));
        }
        Ok(groups)
    }

    fn dimension_columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        let as_kept = |dimension: &ColumnDef| {
            cast(column(batch, dimension.name)?, &on_disk(&dimension.pxl_type.arrow()))
        };
        self.table.dimensions().map(as_kept).collect()
    }

    /// The row-encoded dimensions with `*` in the foldable one.
    fn fold(&self, dimensions: &[ArrayRef], foldable: &str) -> Result<Rows, ArrowError> {
        let fold = |(dimension, column): (&ColumnDef, &ArrayRef)| -> ArrayRef {
            if dimension.name == foldable {
                Arc::new(StringArray::from(vec!["*"; column.len()]))
            } else {
                Arc::clone(column)
            }
        };
        let folded: Vec<_> = self.table.dimensions().zip(dimensions).map(fold).collect();
        self.converter.convert_columns(&folded)
    }

    fn new_group(&mut self, key: &[u8], window: i64) -> usize {
        let group = self.windows.len();
        self.groups.insert(key.into(), group);
        *self.groups_in_window.entry(window).or_default() += 1;
        self.windows.push(window);
        self.rows.push(0);
        self.first_time.push(i64::MAX);
        self.last_time.push(i64::MIN);
        for measure in &mut self.measures {
            match &mut measure.values {
                Values::Int { sum, min, max } => {
                    sum.push(0);
                    min.push(i64::MAX);
                    max.push(i64::MIN);
                }
                Values::Float { sum, min, max } => {
                    sum.push(0.0);
                    min.push(f64::NAN);
                    max.push(f64::NAN);
                }
            }
            measure.sketches.iter_mut().for_each(|sketches| sketches.push(Sketch::new()));
        }
        group
    }
}

/// The dimension that is folded first where a window has too many groups: the template of a path,
/// else the last plain text. An entity's counters are never folded.
fn foldable(table: &TableDef) -> Option<&'static str> {
    if table.kind == TableKind::Counter {
        return None;
    }
    let text = |column: &&ColumnDef| {
        column.pxl_type == PxlType::String && column.visibility == Visibility::Column
    };
    let template = table.dimensions().find(|column| column.template_of.is_some());
    template.or_else(|| table.dimensions().filter(text).last()).map(|column| column.name)
}

/// Rows of the table as [`raw_schema`] keeps them, sorted by time.
pub(crate) fn raw_rows(
    table: &TableDef,
    batches: &[RecordBatch],
) -> Result<RecordBatch, ArrowError> {
    let rows = concat_batches(&table.arrow_schema(), batches)?;
    let order = sort_to_indices(rows.column(0), None, None)?;
    let mut columns = Vec::with_capacity(rows.num_columns() + 1);
    for column in rows.columns() {
        columns.push(cast(&take(column, &order, None)?, &on_disk(column.data_type()))?);
    }
    let time = micros(&columns[0]);
    columns.push(time);
    RecordBatch::try_new(raw_schema(table), columns)
}

fn put_key(key: &mut Vec<u8>, dimensions: &[u8], window: i64) {
    key.clear();
    key.extend_from_slice(dimensions);
    // The sign is flipped, so that the bytes sort as the number does.
    key.extend_from_slice(&(window ^ i64::MIN).to_be_bytes());
}

/// Times in nanoseconds as timestamps in microseconds, rounded down.
fn micros(times: &ArrayRef) -> ArrayRef {
    let times = times.as_primitive::<Int64Type>();
    let micros = times.unary::<_, TimestampMicrosecondType>(|ns| ns.div_euclid(1000));
    Arc::new(micros.with_timezone("UTC"))
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

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("column {name} is missing")))
}

fn int64<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64], ArrowError> {
    let column = column(batch, name)?.as_primitive_opt::<Int64Type>();
    let values = column.map(|column| column.values().as_ref());
    values.ok_or_else(|| ArrowError::SchemaError(format!("column {name} is no Int64")))
}

fn float64<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [f64], ArrowError> {
    let column = column(batch, name)?.as_primitive_opt::<Float64Type>();
    let values = column.map(|column| column.values().as_ref());
    values.ok_or_else(|| ArrowError::SchemaError(format!("column {name} is no Float64")))
}
