//! What a chunk says about its rows, so that a reader can pass it by.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use undine_schema::TimeNs;

/// Bounds of a chunk's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zones {
    pub(crate) first_time: TimeNs,
    pub(crate) last_time: TimeNs,
}

impl Zones {
    pub(crate) fn of(rows: &RecordBatch) -> Self {
        let times = rows.column(0).as_primitive::<Int64Type>().values();
        let bounds = |(first, last): (i64, i64), &time: &i64| (first.min(time), last.max(time));
        let (first, last) = times.iter().fold((i64::MAX, i64::MIN), bounds);
        Self { first_time: TimeNs::new(first), last_time: TimeNs::new(last) }
    }
}
