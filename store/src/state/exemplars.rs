//! A few whole rows of each group, to show what stands behind a number.
//!
//! Of each window and group those rows stay whose measure is highest: the slowest requests of each
//! endpoint and status, so failing ones are among them. The choice out of two choices is the choice
//! out of all, so it does not matter how rows were split.

use std::cmp::Reverse;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use undine_schema::{Cube, TableDef};

use super::alike::Alike;
use super::number::{Number, int64};
use super::{dimension_columns, on_disk};

/// Rows of one group and window that are kept.
const GROUP_EXEMPLARS_MAX: usize = 2;
/// Rows of one window that are kept.
const EXEMPLARS_MAX: usize = 1000;

/// The rows to keep, sorted by time; all columns of the table are in `rows`, in memory or as on disk.
pub(crate) fn exemplars(
    table: &TableDef,
    width: Duration,
    rows: &RecordBatch,
) -> Result<RecordBatch, ArrowError> {
    let Some(measure) = table.exemplified() else { return Ok(rows.slice(0, 0)) };
    let endpoint = table.cubes().find(|&cube| cube == Cube::Endpoint).unwrap_or(Cube::Full);
    let dimensions: Vec<_> = endpoint.dimensions(table).collect();
    let times = int64(rows, "time_")?;
    let Alike { windows, classes, firsts } = Alike::of(rows, &dimensions, times, width)?;
    let heights: Vec<i64> = match int64(rows, measure.name) {
        Ok(values) => values.to_vec(),
        Err(_) => f64::column(rows, measure.name)?.iter().copied().map(order_of).collect(),
    };
    // Highest first, of those with the same value the earliest.
    let rank = |at: u32| (Reverse(heights[at as usize]), times[at as usize], at);
    let mut highest = vec![[None; GROUP_EXEMPLARS_MAX]; firsts.len()];
    for (at, &class) in (0..).zip(&classes) {
        let mut coming = Some(rank(at));
        for kept in &mut highest[class as usize] {
            if kept.is_none() || coming < *kept {
                std::mem::swap(kept, &mut coming);
            }
        }
    }
    let chosen: UInt32Array = highest.iter().flatten().flatten().map(|&(.., at)| at).collect();
    let columns = dimension_columns(&dimensions, rows, &chosen)?;
    let fields = dimensions.iter().map(|d| SortField::new(on_disk(&d.pxl_type.arrow())));
    let keys = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
    let mut chosen: Vec<_> = chosen.values().iter().copied().zip(keys.iter()).collect();
    chosen.sort_unstable_by_key(|&(at, key)| {
        let (height, time, _) = rank(at);
        (windows[at as usize], height, time, key, at)
    });
    let of_window = chosen.chunk_by(|(a, _), (b, _)| windows[*a as usize] == windows[*b as usize]);
    let kept = of_window.flat_map(|rows| rows.iter().take(EXEMPLARS_MAX));
    let mut kept: Vec<u32> = kept.map(|&(at, _)| at).collect();
    kept.sort_unstable_by_key(|&at| (times[at as usize], at));
    take_record_batch(rows, &UInt32Array::from(kept))
}

/// A number that is greater where the value is, as `total_cmp` has it.
const fn order_of(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}
