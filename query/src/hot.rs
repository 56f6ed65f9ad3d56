//! The hot rows of a table, cut to a range of time and shown with their texts as dictionaries.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray, DictionaryArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use datafusion::common::Result;
use undine_schema::{Seq, TimeNs};
use undine_store::{HotSlice, Snapshot, Wanted};

use crate::provider::Span;

/// Rows in memory that are shared with the store, with the table's own schema.
#[derive(Clone, Debug)]
pub(crate) struct HotPart {
    rows: RecordBatch,
    /// Where the wanted ones are, ascending, unless all of them are wanted.
    wanted: Option<UInt32Array>,
    /// Bounds of the times.
    times: (i64, i64),
    /// Where its texts are numbers, and how many rows of that come before these.
    numbered: Option<(Arc<HotSlice>, usize)>,
}

impl HotPart {
    fn of_slice(slice: HotSlice) -> Self {
        let times = (slice.times.0.get(), slice.times.1.get());
        let rows = slice.rows.clone();
        Self { rows, wanted: None, times, numbered: Some((Arc::new(slice), 0)) }
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let numbered = self.numbered.as_ref();
        let numbered = numbered.map(|(slice, offset)| (Arc::clone(slice), offset + range.start));
        let rows = self.rows.slice(range.start, range.len());
        let times = bounds(times(&rows).iter().copied());
        Self { rows, wanted: None, times, numbered }
    }

    /// Only those of the rows at `places`, which are some, whose time is in `span`.
    fn at(&self, places: impl Iterator<Item = u32>, span: Span) -> Option<Self> {
        let all = times(&self.rows);
        let time = |place: &u32| all[*place as usize];
        let wanted: UInt32Array = places.filter(|place| span.has(time(place))).collect();
        let times = bounds(wanted.values().iter().map(time));
        (!wanted.is_empty()).then(|| Self { wanted: Some(wanted), times, ..self.clone() })
    }

    /// How many rows are wanted.
    pub(crate) fn len(&self) -> usize {
        self.wanted.as_ref().map_or(self.rows.num_rows(), UInt32Array::len)
    }

    /// The columns at `columns`, with the types of `schema`, which has just these.
    pub(crate) fn project(&self, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        if let Some(wanted) = &self.wanted {
            return self.take(wanted, columns, schema);
        }
        let arrays = columns.iter().zip(schema.fields());
        let arrays = arrays.map(|(&at, field)| -> Result<ArrayRef> {
            let array = self.rows.column(at);
            if array.data_type() == field.data_type() {
                return Ok(Arc::clone(array));
            }
            let numbered = self.numbered.as_ref().and_then(|(slice, offset)| {
                let all = slice.dictionary(field.name())?;
                let some: ArrayRef = Arc::new(all.slice(*offset, self.rows.num_rows()));
                Some(some)
            });
            match numbered {
                Some(numbered) => Ok(numbered),
                // Rows that have just come.
                None => Ok(cast(array, field.data_type())?),
            }
        });
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(self.rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &rows)?)
    }

    /// The places of the wanted rows that hold `text` in a column, which the store lists for some.
    pub(crate) fn holding(&self, column: &str, text: &str) -> UInt32Array {
        let holding = self.listed(column, text).unwrap_or_else(|| {
            let texts = self.rows.column_by_name(column).and_then(|c| c.as_string_opt::<i32>());
            let texts = (0_u32..).zip(texts.into_iter().flatten());
            texts.filter(|(_, other)| *other == Some(text)).map(|(row, _)| row).collect()
        });
        let Some(wanted) = &self.wanted else { return holding };
        let is_wanted = |place: &&u32| wanted.values().binary_search(place).is_ok();
        holding.values().iter().filter(is_wanted).copied().collect()
    }

    fn listed(&self, column: &str, text: &str) -> Option<UInt32Array> {
        let (slice, offset) = self.numbered.as_ref()?;
        let first = u32::try_from(*offset).ok()?;
        let end = first.checked_add(u32::try_from(self.rows.num_rows()).ok()?)?;
        let holding = slice.rows_holding(column, text)?;
        Some(holding.filter(|row| (first..end).contains(row)).map(|row| row - first).collect())
    }

    /// As [`project`](Self::project), only the rows at `places`.
    pub(crate) fn take(
        &self,
        places: &UInt32Array,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let arrays = columns.iter().zip(schema.fields()).map(|(&at, field)| -> Result<ArrayRef> {
            let array = self.rows.column(at);
            if array.data_type() == field.data_type() {
                return Ok(take(array, places, None)?);
            }
            let numbered = self.numbered.as_ref().and_then(|(slice, offset)| {
                let (numbers, texts) = slice.numbers(field.name())?;
                Some((numbers.slice(*offset, self.rows.num_rows()), texts))
            });
            let Some((numbers, texts)) = numbered else {
                return Ok(cast(&take(array, places, None)?, field.data_type())?);
            };
            let numbers = take(&numbers, places, None)?;
            Ok(Arc::new(DictionaryArray::try_new(
                numbers.as_primitive::<Int32Type>().clone(),
                texts,
            )?))
        });
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(places.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &rows)?)
    }

    /// The wanted rows whose time is in `span`.
    fn cut(self, span: Span, parts: &mut Vec<Self>) {
        if self.len() == 0 || self.times.0 >= span.until || self.times.1 < span.from {
            return;
        }
        if span.has(self.times.0) && span.has(self.times.1) {
            parts.push(self);
            return;
        }
        if let Some(wanted) = &self.wanted {
            parts.extend(self.at(wanted.values().iter().copied(), span));
            return;
        }
        // Rows come nearly in order: what is in and out of the range is mixed at its ends only.
        let times = times(&self.rows);
        let inside = |time: &i64| span.has(*time);
        let middle = times.len() / 2;
        let after = |at: usize| times[at..].iter().position(|time| !inside(time)).map(|n| at + n);
        let Some(first) = times.iter().position(inside) else { return };
        let last = times.iter().rposition(inside).unwrap_or(first);
        let centre = middle.clamp(first, last);
        let from = times[first..centre].iter().rposition(|time| !inside(time));
        let from = from.map_or(first, |n| first + n + 1);
        let until = after(centre).map_or(last + 1, |at| at.min(last + 1)).max(from);
        let mixed = |range: Range<usize>| {
            let places = (0..).skip(range.start).take(range.len());
            self.at(places, span)
        };
        parts.extend(mixed(first..from));
        if from < until {
            parts.push(self.slice(from..until));
        }
        parts.extend(mixed(until..last + 1));
    }
}

/// The hot rows above `above` whose time is in `span`.
pub(crate) fn hot_parts(snapshot: &Snapshot, above: Seq, span: Span) -> Vec<HotPart> {
    let times = TimeNs::new(span.from)..TimeNs::new(span.until);
    let wanted = Wanted { above, times, equal: &[] };
    let mut parts = Vec::new();
    for slice in snapshot.hot_rows(&wanted) {
        HotPart::of_slice(slice).cut(span, &mut parts);
    }
    parts
}

/// Those of `parts`' rows whose time is in `span`.
pub(crate) fn cut(parts: &[HotPart], span: Span) -> Vec<HotPart> {
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts {
        part.clone().cut(span, &mut kept);
    }
    kept
}

/// The parts as `partitions` runs of about as many rows, in their order.
pub(crate) fn deal(parts: &[HotPart], partitions: usize) -> Vec<&[HotPart]> {
    let rows: usize = parts.iter().map(HotPart::len).sum();
    let share = rows.div_ceil(partitions).max(1);
    let (mut dealt, mut start, mut upto) = (Vec::new(), 0, 0);
    for (at, part) in parts.iter().enumerate() {
        upto += part.len();
        if upto >= share * (dealt.len() + 1) {
            dealt.push(&parts[start..=at]);
            start = at + 1;
        }
    }
    if start < parts.len() || dealt.is_empty() {
        dealt.push(&parts[start..]);
    }
    dealt
}

fn bounds(times: impl Iterator<Item = i64>) -> (i64, i64) {
    times.fold((i64::MAX, i64::MIN), |(first, last), time| (first.min(time), last.max(time)))
}

fn times(rows: &RecordBatch) -> &[i64] {
    rows.column(0).as_primitive::<Int64Type>().values()
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn part(times: &[i64]) -> HotPart {
        let schema = Schema::new(vec![Field::new("time_", DataType::Int64, false)]);
        let column = Arc::new(Int64Array::from(times.to_vec()));
        let rows = RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap();
        let times = bounds(times.iter().copied());
        HotPart { rows, wanted: None, times, numbered: None }
    }

    fn all(parts: &[HotPart]) -> Vec<i64> {
        let rows = parts.iter().map(|part| part.project(&[0], &part.rows.schema()).unwrap());
        rows.flat_map(|rows| times(&rows).to_vec()).collect()
    }

    #[test]
    fn a_cut_keeps_exactly_the_rows_inside_and_their_order() {
        let times = [5, 1, 3, 4, 9, 2, 7, 6, 8, 12, 10, 3, 11];
        for from in 0..14 {
            for until in from..14 {
                let once = cut(&[part(&times)], Span { from: 3, until: 11 });
                let again = cut(&once, Span { from, until });
                let both = cut(&once, Span { from: from.max(3), until: until.min(11) });
                assert_eq!(all(&again), all(&both), "{from}..{until} of 3..11");
                let kept = cut(&[part(&times)], Span { from, until });
                let expected: Vec<i64> =
                    times.into_iter().filter(|time| (from..until).contains(time)).collect();
                assert_eq!(all(&kept), expected, "{from}..{until}");
            }
        }
    }

    #[test]
    fn parts_are_dealt_in_runs_of_about_as_many_rows() {
        let parts: Vec<_> = [3, 1, 1, 1, 2, 4].map(|rows| part(&vec![0; rows])).to_vec();
        let rows = |partitions| {
            let dealt = deal(&parts, partitions).into_iter();
            dealt.map(|run| all(run).len()).collect::<Vec<_>>()
        };
        assert_eq!(rows(1), [12]);
        assert_eq!(rows(2), [6, 6]);
        assert_eq!(rows(3), [4, 4, 4]);
        assert_eq!(rows(50).iter().sum::<usize>(), 12);
        assert_eq!(deal(&[], 2).len(), 1);
    }
}
