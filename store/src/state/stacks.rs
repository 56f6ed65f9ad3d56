//! The most frequent stacks of an entity, and one `*` for the rest.
//!
//! What is kept apart of a window is decided anew at each seal and merge, from what is known then. So
//! the count of a stack that was once among the rest is a lower bound, and what it lacks stands
//! under `*`: totals are exact always.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use undine_schema::table::STACKS_MAX;
use undine_schema::{Cube, TableDef};

use super::FOLDED;
use super::number::{column, int64};

/// The states with `*` in place of the stacks that are not among the most frequent of their entity
/// and window, and how many rows those are; none where all may stay.
pub(super) fn keep_most(
    table: &TableDef,
    states: &RecordBatch,
) -> Result<Option<(RecordBatch, u64)>, ArrowError> {
    let Some(stack) = Cube::Full.folds(table).first().copied() else { return Ok(None) };
    let counted = table.measures().next().map(|measure| format!("{}_sum", measure.name));
    let counts = int64(states, counted.as_deref().unwrap_or("rows"))?;
    let rows = int64(states, "rows")?;
    let texts = cast(column(states, stack.name)?, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    let entity = table.dimensions().filter(|dimension| dimension.name != stack.name);
    let entity = entity.map(|dimension| column(states, dimension.name).cloned());
    let entity = entity.chain([column(states, "window_start").cloned()]);
    let entity: Vec<ArrayRef> = entity.collect::<Result<_, _>>()?;
    let fields = entity.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields)?.convert_columns(&entity)?;
    let mut by_entity: HashMap<_, Vec<usize>> = HashMap::new();
    for at in (0..states.num_rows()).filter(|&at| texts.value(at) != FOLDED) {
        by_entity.entry(keys.row(at)).or_default().push(at);
    }
    let mut rest = vec![false; states.num_rows()];
    for mut stacks in by_entity.into_values().filter(|stacks| stacks.len() > STACKS_MAX) {
        stacks.sort_unstable_by_key(|&at| (Reverse(counts[at]), texts.value(at)));
        stacks[STACKS_MAX..].iter().for_each(|&at| rest[at] = true);
    }
    if !rest.contains(&true) {
        return Ok(None);
    }
    let folded = rest.iter().zip(rows).filter(|(rest, _)| **rest).map(|(_, &n)| n).sum::<i64>();
    let kept = rest.iter().enumerate().map(|(at, &r)| if r { FOLDED } else { texts.value(at) });
    let kept: ArrayRef = Arc::new(StringArray::from_iter_values(kept));
    let mut columns = states.columns().to_vec();
    columns[states.schema().index_of(stack.name)?] = kept;
    let states = RecordBatch::try_new(states.schema(), columns)?;
    Ok(Some((states, folded.cast_unsigned())))
}
