//! A few whole rows of each group, to show what stands behind a number.
//!
//! Of each window and group those rows stay whose measure is highest: the slowest requests of each
//! endpoint and status, so failing ones are among them. The choice out of two choices is the choice
//! out of all, so it does not matter how rows were split.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use undine_schema::{Cube, TableDef, TimeNs};

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
    let columns = dimension_columns(&dimensions, rows)?;
    let fields = dimensions.iter().map(|d| SortField::new(on_disk(&d.pxl_type.arrow())));
    let keys = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
    let times = int64(rows, "time_")?;
    let windows: Vec<i64> =
        times.iter().map(|&time| TimeNs::new(time).floor_to(width).get()).collect();
    // Highest first, of those with the same value the earliest.
    let mut order: Vec<usize> = (0..rows.num_rows()).collect();
    if let Ok(values) = int64(rows, measure.name) {
        order.sort_unstable_by_key(|&at| (Reverse(values[at]), times[at], keys.row(at)));
    } else {
        let values = f64::column(rows, measure.name)?;
        order.sort_unstable_by(|&a, &b| {
            let by_value = values[b].total_cmp(&values[a]);
            by_value.then((times[a], keys.row(a)).cmp(&(times[b], keys.row(b))))
        });
    }
    let mut of_group = HashMap::new();
    let mut of_window = HashMap::new();
    order.retain(|&at| {
        let group: &mut usize = of_group.entry((windows[at], keys.row(at))).or_default();
        *group += 1;
        let window: &mut usize = of_window.entry(windows[at]).or_default();
        *window += usize::from(*group <= GROUP_EXEMPLARS_MAX);
        *group <= GROUP_EXEMPLARS_MAX && *window <= EXEMPLARS_MAX
    });
    order.sort_unstable_by_key(|&at| (times[at], at));
    let order = UInt64Array::from_iter_values(order.into_iter().map(|at| at as u64));
    take_record_batch(rows, &order)
}
