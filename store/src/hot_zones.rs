//! What a chunk says about its rows, so that a reader can pass it by.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use undine_schema::column::Role;
use undine_schema::{PxlType, TableDef, TimeNs};

/// Bounds of a chunk's times, and of its integers that are dimensions or measures.
#[derive(Clone, Debug)]
pub(crate) struct Zones {
    pub(crate) first_time: TimeNs,
    pub(crate) last_time: TimeNs,
    /// Column, least value, greatest value.
    integers: Box<[(usize, i64, i64)]>,
}

impl Zones {
    pub(crate) fn of(table: &TableDef, rows: &RecordBatch) -> Self {
        let bounded = |(at, column): (usize, &undine_schema::ColumnDef)| {
            let integer = column.pxl_type == PxlType::Int64 && column.role != Role::Detail;
            integer.then(|| {
                let (least, most) = bounds(rows, at);
                (at, least, most)
            })
        };
        let (first, last) = bounds(rows, 0);
        Self {
            first_time: TimeNs::new(first),
            last_time: TimeNs::new(last),
            integers: table.columns.iter().enumerate().filter_map(bounded).collect(),
        }
    }

    /// Whether a row may hold `value` in a column.
    pub(crate) fn may_hold(&self, column: usize, value: i64) -> bool {
        let bounds = self.integers.iter().find(|(at, ..)| *at == column);
        bounds.is_none_or(|&(_, least, most)| (least..=most).contains(&value))
    }
}

fn bounds(rows: &RecordBatch, column: usize) -> (i64, i64) {
    let values = rows.column(column).as_primitive::<Int64Type>().values();
    let bounds = |(least, most): (i64, i64), &value: &i64| (least.min(value), most.max(value));
    values.iter().fold((i64::MAX, i64::MIN), bounds)
}
