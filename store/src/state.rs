//! The rows of a summary: their schema, and how a table's rows become partial states.
//!
//! Every state merges in any order into the same: counts, sums of integers, extremes, the values at
//! the first and at the last time, and sketches are the same bit by bit however rows were split. A
//! sum of doubles is rounded, and a counter's increase needs neighbours (see [`growth`]).

mod alike;
mod exemplars;
mod growth;
mod measure;
mod number;
mod row_order;
mod stacks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, sort_to_indices, take, take_record_batch};
use arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use undine_schema::{ColumnDef, Cube, Slice, TableDef, TableKind};

use self::alike::Alike;
use self::measure::MeasureStates;
use self::number::column;
use crate::numbered_texts::joined;

pub(crate) use self::exemplars::exemplars;
pub(crate) use self::number::int64;
pub(crate) use self::row_order::{by_time, in_order};

/// What stands for the values that are not kept apart.
const FOLDED: &str = "*";

/// Schema of a summary's segments: `window_start`, the same as a timestamp in `time`, the table's
/// dimensions by their own names, `rows`, `first_time`, `last_time`, and for each measure `m`
/// `m_sum`, `m_min`, `m_max`; for those of counters and gauges `m_first` and `m_last`, for counters
/// `m_increase`, and where it is sketched `m_sketch_keys` and `m_sketch_counts`.
pub fn summary_schema(table: &TableDef) -> SchemaRef {
    cube_schema(table, Cube::Full)
}

/// Schema of a smaller summary's segments: as [`summary_schema`], with the cube's dimensions.
pub fn cube_schema(table: &TableDef, cube: Cube) -> SchemaRef {
    let mut fields = vec![
        Field::new("window_start", DataType::Int64, false),
        Field::new("time", timestamp(), false),
    ];
    for dimension in cube.dimensions(table) {
        fields.push(Field::new(dimension.name, on_disk(&dimension.pxl_type.arrow()), false));
    }
    fields
        .extend(["rows", "first_time", "last_time"].map(|n| Field::new(n, DataType::Int64, false)));
    table.measures().for_each(|measure| measure::fields(table, measure, &mut fields));
    Arc::new(Schema::new(fields))
}

/// The column of raw segments that says where in the table's sequence a row stands.
pub(crate) const SEQ: &str = "seq";

/// Schema of a table's raw segments: as [`exemplar_schema`], and `seq`, each row's place in the table's
/// sequence (0 where the table is not followed, or a version that did not keep it wrote the row).
pub fn raw_schema(table: &TableDef) -> SchemaRef {
    let mut fields = exemplar_schema(table).fields().to_vec();
    fields.push(Arc::new(Field::new(SEQ, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// Schema of segments of exemplars: the table's columns, and `time` as a timestamp after them.
pub fn exemplar_schema(table: &TableDef) -> SchemaRef {
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

/// Partial states of a table by window and the dimensions of a cube.
#[derive(Debug)]
pub(crate) struct States {
    table: &'static TableDef,
    cube: Cube,
    width: Duration,
    groups_per_window_max: usize,
    converter: RowConverter,
    dimensions: Vec<&'static ColumnDef>,
    /// What is folded where a window is full, the first one first.
    folds: Vec<&'static ColumnDef>,
    /// Number of each group by its dimensions, row-encoded, and its window, big-endian.
    groups: HashMap<Box<[u8]>, usize, ahash::RandomState>,
    /// How many groups a window has that came with so many dimensions folded.
    groups_in_window: HashMap<(i64, usize), usize>,
    windows: Vec<i64>,
    rows: Vec<i64>,
    first_time: Vec<i64>,
    last_time: Vec<i64>,
    measures: Vec<MeasureStates>,
    folded_rows: u64,
}

/// States as a summary keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Of [`cube_schema`], sorted by dimensions in their declared order, then by window.
    pub(crate) states: RecordBatch,
    /// Rows of which a dimension was replaced by `*`.
    pub(crate) folded_rows: u64,
}

impl States {
    /// No states yet. A window that has `groups_per_window_max` groups takes further ones with the
    /// cube's first foldable dimension replaced by `*`, and when it has as many of those too, with
    /// the first two, and so on. With all of them replaced it takes any number.
    pub(crate) fn new(
        table: &'static TableDef,
        cube: Cube,
        width: Duration,
        groups_per_window_max: usize,
    ) -> Result<Self, ArrowError> {
        let dimensions: Vec<_> = cube.dimensions(table).collect();
        let fields = dimensions.iter().map(|d| SortField::new(on_disk(&d.pxl_type.arrow())));
        Ok(Self {
            table,
            cube,
            width,
            groups_per_window_max,
            converter: RowConverter::new(fields.collect())?,
            dimensions,
            folds: cube.folds(table),
            groups: HashMap::default(),
            groups_in_window: HashMap::new(),
            windows: Vec::new(),
            rows: Vec::new(),
            first_time: Vec::new(),
            last_time: Vec::new(),
            measures: table.measures().map(|m| MeasureStates::new(table, m)).collect(),
            folded_rows: 0,
        })
    }

    /// Adds rows of the table. Those of a counter come in the order of time.
    pub(crate) fn add_rows(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let times = int64(batch, "time_")?;
        let ones = vec![1; batch.num_rows()];
        let groups = self.groups_of(batch, times, &ones)?;
        for (&group, &time) in groups.iter().zip(times) {
            self.rows[group] += 1;
            self.first_time[group] = self.first_time[group].min(time);
            self.last_time[group] = self.last_time[group].max(time);
        }
        self.measures.iter_mut().try_for_each(|measure| measure.add_rows(batch, &groups, times))
    }

    /// Adds states of a summary whose windows lie within these and whose dimensions include these.
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
        let times = (first, last);
        self.measures.iter_mut().try_for_each(|measure| measure.add_states(batch, &groups, times))
    }

    /// The states so far.
    pub(crate) fn finish(self) -> Result<Finished, ArrowError> {
        let (table, cube, width) = (self.table, self.cube, self.width);
        let finished = self.sorted()?;
        if table.kind != TableKind::Stacks {
            return Ok(finished);
        }
        let Some((kept, folded_rows)) = stacks::keep_most(table, &finished.states)? else {
            return Ok(finished);
        };
        let mut states = Self::new(table, cube, width, usize::MAX)?;
        states.add_states(&kept)?;
        let states = states.sorted()?.states;
        Ok(Finished { states, folded_rows: finished.folded_rows + folded_rows })
    }

    fn sorted(mut self) -> Result<Finished, ArrowError> {
        let mut order: Vec<_> = self.groups.iter().collect();
        order.sort_unstable();
        let parser = self.converter.parser();
        let dimensions = order.iter().map(|(key, _)| parser.parse(&key[..key.len() - 8]));
        let dimensions = self.converter.convert_rows(dimensions)?;
        let order: Vec<usize> = order.into_iter().map(|(_, &group)| group).collect();
        let ints = |values: &[i64]| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(order.iter().map(|&group| values[group])))
        };
        let mut columns = vec![ints(&self.windows), micros(&ints(&self.windows))];
        columns.extend(dimensions);
        columns.extend([ints(&self.rows), ints(&self.first_time), ints(&self.last_time)]);
        self.measures.iter_mut().try_for_each(|measure| measure.columns(&order, &mut columns))?;
        let states = RecordBatch::try_new(cube_schema(self.table, self.cube), columns)?;
        Ok(Finished { states, folded_rows: self.folded_rows })
    }

    /// The group of each row, made where it is new. `weights` says how many rows each one is.
    fn groups_of(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        weights: &[i64],
    ) -> Result<Vec<usize>, ArrowError> {
        let alike = Alike::of(batch, &self.dimensions, times, self.width)?;
        let groups = self.groups_of_classes(batch, &alike)?;
        let groups = alike.classes.iter().map(|&class| groups[class as usize]);
        let folded = groups.clone().zip(weights).filter(|((_, is_folded), _)| *is_folded);
        self.folded_rows += folded.map(|(_, weight)| weight.cast_unsigned()).sum::<u64>();
        Ok(groups.map(|(group, _)| group).collect())
    }

    /// The group of each class of rows, and whether a dimension of it is folded.
    fn groups_of_classes(
        &mut self,
        batch: &RecordBatch,
        alike: &Alike,
    ) -> Result<Vec<(usize, bool)>, ArrowError> {
        let dimensions = dimension_columns(&self.dimensions, batch, &alike.firsts)?;
        let rows = alike.firsts.len();
        // The key of each row with no dimension folded, with the first, with the first two …
        let mut levels = vec![convert(&self.converter, &dimensions, rows)?];
        let mut groups = Vec::with_capacity(rows);
        let mut key = Vec::new();
        for (at, &first) in alike.firsts.values().iter().enumerate() {
            let window = alike.windows[first as usize];
            let mut level = 0;
            let group = loop {
                if level == levels.len() {
                    let folded = self.fold(&dimensions, level);
                    levels.push(convert(&self.converter, &folded, rows)?);
                }
                put_key(&mut key, levels[level].row(at).data(), window);
                if let Some(&group) = self.groups.get(key.as_slice()) {
                    break group;
                }
                let has = self.groups_in_window.get(&(window, level)).copied().unwrap_or(0);
                if level == self.folds.len() || has < self.groups_per_window_max {
                    break self.new_group(&key, window, level);
                }
                level += 1;
            };
            groups.push((group, level > 0 && levels[level].row(at) != levels[0].row(at)));
        }
        Ok(groups)
    }

    /// The dimensions with `*` in the first `count` of the foldable ones.
    fn fold(&self, dimensions: &[ArrayRef], count: usize) -> Vec<ArrayRef> {
        let folds = &self.folds[..count];
        let fold = |(dimension, column): (&&ColumnDef, &ArrayRef)| -> ArrayRef {
            if folds.iter().any(|fold| fold.name == dimension.name) {
                Arc::new(StringArray::from(vec![FOLDED; column.len()]))
            } else {
                Arc::clone(column)
            }
        };
        self.dimensions.iter().zip(dimensions).map(fold).collect()
    }

    fn new_group(&mut self, key: &[u8], window: i64, level: usize) -> usize {
        let group = self.windows.len();
        self.groups.insert(key.into(), group);
        *self.groups_in_window.entry((window, level)).or_default() += 1;
        self.windows.push(window);
        self.rows.push(0);
        self.first_time.push(i64::MAX);
        self.last_time.push(i64::MIN);
        self.measures.iter_mut().for_each(MeasureStates::new_group);
        group
    }
}

/// Row-encoded dimensions. A converter of no columns would not know how many rows there are.
fn convert(
    converter: &RowConverter,
    columns: &[ArrayRef],
    rows: usize,
) -> Result<Rows, ArrowError> {
    if columns.is_empty() {
        return Err(ArrowError::SchemaError(format!("{rows} rows have no dimension")));
    }
    converter.convert_columns(columns)
}

/// The dimensions of some rows, as they are kept.
fn dimension_columns(
    dimensions: &[&ColumnDef],
    batch: &RecordBatch,
    rows: &UInt32Array,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let as_kept = |dimension: &&ColumnDef| {
        let values = take(column(batch, dimension.name)?, rows, None)?;
        cast(&values, &on_disk(&dimension.pxl_type.arrow()))
    };
    dimensions.iter().map(as_kept).collect()
}

/// Rows of the table as [`raw_schema`] keeps them, in the order of segments, with their places if
/// `placed`. Texts and ids of which few are different are dictionaries.
pub(crate) fn raw_rows(
    table: &TableDef,
    slices: &[Slice],
    placed: bool,
) -> Result<RecordBatch, ArrowError> {
    let batches: Vec<_> = slices.iter().map(|slice| slice.rows.clone()).collect();
    let places = slices.iter().flat_map(|slice| slice.seqs.first.raw()..=slice.seqs.last.raw());
    let places = places.map(|place| if placed { place.cast_signed() } else { 0 });
    let places = Int64Array::from_iter_values(places);
    as_kept(table, &batches, Some(Arc::new(places)))
}

/// The same of chosen rows, as [`exemplar_schema`] keeps them.
pub(crate) fn exemplar_rows(
    table: &TableDef,
    chosen: &RecordBatch,
) -> Result<RecordBatch, ArrowError> {
    as_kept(table, std::slice::from_ref(chosen), None)
}

fn as_kept(
    table: &TableDef,
    batches: &[RecordBatch],
    places: Option<ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let columns = (0..table.columns.len()).map(|at| {
        let parts: Vec<_> = batches.iter().map(|rows| rows.column(at).as_ref()).collect();
        joined(&parts)
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let names = table.columns.iter().map(|column| column.name);
    let places = places.map(|places| (SEQ, places));
    let rows = RecordBatch::try_from_iter(names.zip(columns).chain(places))?;
    let rows = in_order(table, &rows)?;
    let mut columns = Vec::with_capacity(rows.num_columns() + 1);
    for column in rows.columns() {
        columns.push(cast(column, &on_disk(column.data_type()))?);
    }
    columns.insert(table.columns.len(), micros(&columns[0]));
    let fields = raw_schema(table);
    let fields = fields.fields().iter().zip(&columns);
    let fields = fields
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns)
}

/// States in the order of their first rows, in which a counter's are joined.
pub(crate) fn by_first_time(states: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let first = column(states, "first_time")?;
    take_record_batch(states, &sort_to_indices(first, None, None)?)
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
