//! The order in which rows are written.
//!
//! What is summarised is written by service, where it has one, and then by time: a question about one
//! service then reads few pages, and neighbours have more in common. What people read as a list of
//! what happened is written by time. Rows come from few services and nearly in the order of time, so
//! they are dealt to their services, and those of each are sorted unless they are in order already.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use undine_schema::TableDef;

use super::int64;
use crate::numbered_texts::NumberedTexts;

/// The rows by time; those of one time stay in their order.
pub(crate) fn by_time(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    sorted(rows, None)
}

/// The rows of a table in the order of its segments.
pub(crate) fn in_order(table: &TableDef, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if table.kind.is_summarised() { by_service(rows) } else { by_time(rows) }
}

/// The rows by service, where they have one, and then by time; those of one time stay in their order.
fn by_service(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    sorted(rows, rows.column_by_name("service"))
}

fn sorted(rows: &RecordBatch, services: Option<&ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let count = u32::try_from(rows.num_rows()).map_err(|_more| {
        ArrowError::ComputeError(format!("{} rows are too many to sort", rows.num_rows()))
    })?;
    let times = int64(rows, "time_")?;
    let services = services.and_then(|services| NumberedTexts::of(&[services.as_ref()]));
    let (mut places, ends) = match services {
        Some(services) => dealt(&services, count),
        None => ((0..count).collect(), vec![rows.num_rows()]),
    };
    let mut from = 0;
    for until in ends {
        sort(&mut places[from..until], times);
        from = until;
    }
    if places.is_sorted() {
        return Ok(rows.clone());
    }
    take_record_batch(rows, &UInt32Array::from(places))
}

/// Sorts places, which ascend, by their times; those of one time stay in their order.
fn sort(places: &mut [u32], times: &[i64]) {
    let time = |place: &u32| times[*place as usize];
    let Some(most) = places.last().filter(|_| !places.is_sorted_by_key(time)) else { return };
    let place_bits = u32::BITS - most.leading_zeros();
    let (first, last) = places
        .iter()
        .map(time)
        .fold((i64::MAX, i64::MIN), |(first, last), time| (first.min(time), last.max(time)));
    if last.abs_diff(first).leading_zeros() < place_bits {
        places.sort_by_key(time);
        return;
    }
    // A time and its place in one number are sorted without a look elsewhere.
    let of = |place: &u32| time(place).abs_diff(first) << place_bits | u64::from(*place);
    let mut both: Vec<u64> = places.iter().map(of).collect();
    both.sort_unstable();
    for (place, both) in places.iter_mut().zip(both) {
        *place = u32::try_from(both & ((1 << place_bits) - 1)).unwrap_or(u32::MAX);
    }
}

/// The places of the rows, those of each service together, and where each service ends.
fn dealt(services: &NumberedTexts<'_>, count: u32) -> (Vec<u32>, Vec<usize>) {
    let mut counts = vec![0; services.texts.len()];
    for &number in &services.numbers {
        counts[number as usize] += 1;
    }
    let mut by_name: Vec<usize> = (0..counts.len()).collect();
    by_name.sort_unstable_by_key(|&number| services.texts[number]);
    let mut free = vec![0; counts.len()];
    let mut ends = Vec::with_capacity(counts.len());
    let mut upto = 0;
    for number in by_name {
        free[number] = upto;
        upto += counts[number];
        ends.push(upto);
    }
    let mut places = vec![0; services.numbers.len()];
    for (place, &number) in (0..count).zip(&services.numbers) {
        let free = &mut free[number as usize];
        places[*free] = place;
        *free += 1;
    }
    (places, ends)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn rows(of: &[(&str, i64)]) -> RecordBatch {
        let times: Int64Array = of.iter().map(|&(_, time)| time).collect();
        let services: StringArray = of.iter().map(|&(service, _)| Some(service)).collect();
        let place = Int64Array::from_iter_values((0_i64..).take(of.len()));
        let columns: [(&str, ArrayRef); 3] =
            [("time_", Arc::new(times)), ("service", Arc::new(services)), ("n", Arc::new(place))];
        let fields =
            columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), false));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns.map(|(_, column)| column).to_vec()).unwrap()
    }

    fn places(rows: &RecordBatch) -> Vec<i64> {
        assert_eq!(*rows.column(2).data_type(), DataType::Int64);
        int64(rows, "n").unwrap().to_vec()
    }

    #[test]
    fn rows_are_sorted_by_service_and_time_and_equal_ones_stay_in_their_order() {
        let rows = rows(&[("b", 3), ("a", 2), ("b", 1), ("", 9), ("a", 2), ("b", 3), ("a", -1)]);
        assert_eq!(places(&by_service(&rows).unwrap()), [3, 6, 1, 4, 2, 0, 5]);
        assert_eq!(places(&by_time(&rows).unwrap()), [6, 2, 1, 4, 0, 5, 3]);
    }

    #[test]
    fn times_that_are_as_far_apart_as_can_be_are_sorted_too() {
        let rows = rows(&[("a", i64::MAX), ("a", 0), ("a", i64::MIN), ("a", 0), ("a", -1)]);
        assert_eq!(places(&by_time(&rows).unwrap()), [2, 4, 1, 3, 0]);
    }

    #[test]
    fn rows_in_order_and_no_rows_are_left_as_they_are() {
        for of in [&[("a", 1), ("a", 1), ("b", 0)][..], &[]] {
            assert_eq!(by_service(&rows(of)).unwrap(), rows(of));
        }
        let nameless = rows(&[("b", 2), ("a", 1)]).project(&[0]).unwrap();
        assert_eq!(int64(&by_service(&nameless).unwrap(), "time_").unwrap(), [1, 2]);
    }
}
