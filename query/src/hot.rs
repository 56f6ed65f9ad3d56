//! The hot rows of a table, cut to a range of time and shown with their texts as dictionaries.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch, RecordBatchOptions,
    UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, SchemaRef};
use datafusion::common::Result;
use undine_schema::{Seq, TimeNs};
use undine_store::{HotSlice, OfText, Snapshot, Stretch, Wanted};

use crate::provider::numbered;
use crate::span::Span;

/// Some rows of a chunk in memory, which it shares with the store; so a clone is cheap.
#[derive(Clone, Debug)]
pub(crate) struct HotPart {
    /// All rows of the chunk, with the table's own schema.
    chunk: Arc<RecordBatch>,
    wanted: Places,
    /// Bounds of the times.
    times: (i64, i64),
    /// Where the chunk's texts are numbers.
    numbered: Option<Arc<HotSlice>>,
}

/// Rows of a chunk.
#[derive(Clone, Debug)]
enum Places {
    Consecutive(Range<usize>),
    /// Ascending.
    Single(UInt32Array),
    /// Those of one service, ascending, which the store keeps side by side.
    Stretch(Stretch),
}

impl HotPart {
    fn of_slice(slice: HotSlice) -> Self {
        let times = (slice.times.0.get(), slice.times.1.get());
        let (chunk, wanted) = (Arc::clone(slice.chunk()), Places::Consecutive(slice.range.clone()));
        Self { chunk, wanted, times, numbered: Some(Arc::new(slice)) }
    }

    /// The rows in `range` instead.
    fn of_range(&self, range: Range<usize>) -> Self {
        let times = bounds(self.all_times()[range.clone()].iter().copied());
        Self { wanted: Places::Consecutive(range), times, ..self.clone() }
    }

    /// Those of the rows at `places` whose time is in `span`, instead; none where there are none.
    fn at(&self, places: impl Iterator<Item = u32>, span: Span) -> Option<Self> {
        let all = self.all_times();
        let time = |place: &u32| all[*place as usize];
        let wanted: UInt32Array = places.filter(|place| span.has(time(place))).collect();
        let times = bounds(wanted.values().iter().map(time));
        (!wanted.is_empty()).then(|| Self { wanted: Places::Single(wanted), times, ..self.clone() })
    }

    /// How many rows are wanted.
    pub(crate) fn len(&self) -> usize {
        match &self.wanted {
            Places::Consecutive(range) => range.len(),
            Places::Single(places) => places.len(),
            Places::Stretch(stretch) => stretch.rows(),
        }
    }

    /// The columns at `columns`, with the types of `schema`, which has just these.
    pub(crate) fn project(&self, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let range = match &self.wanted {
            Places::Single(places) => return self.take(places, columns, schema),
            Places::Stretch(stretch) => return self.copy(stretch, columns, schema),
            Places::Consecutive(range) => range,
        };
        let arrays = columns.iter().zip(schema.fields()).map(|(&at, field)| -> Result<ArrayRef> {
            let array = self.chunk.column(at);
            if array.data_type() == field.data_type() {
                return Ok(array.slice(range.start, range.len()));
            }
            match self.numbers(field.name()) {
                Some((numbers, texts)) => {
                    let numbers = numbers.slice(range.start, range.len());
                    Ok(Arc::new(DictionaryArray::try_new(numbers, texts)?))
                }
                // Rows that have just come.
                None => Ok(cast(&array.slice(range.start, range.len()), field.data_type())?),
            }
        });
        batch(schema, arrays.collect::<Result<_>>()?, range.len())
    }

    fn take(
        &self,
        places: &UInt32Array,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let columns = columns.iter().zip(schema.fields());
        let arrays = columns.map(|(&at, field)| self.taken(places, at, field));
        batch(schema, arrays.collect::<Result<_>>()?, places.len())
    }

    fn taken(&self, places: &UInt32Array, column: usize, field: &Field) -> Result<ArrayRef> {
        let array = self.chunk.column(column);
        if array.data_type() == field.data_type() {
            return Ok(take(array, places, None)?);
        }
        let Some((numbers, texts)) = self.numbers(field.name()) else {
            return Ok(cast(&take(array, places, None)?, field.data_type())?);
        };
        let numbers = take(&numbers, places, None)?;
        let numbers = numbers.as_primitive::<Int32Type>().clone();
        Ok(Arc::new(DictionaryArray::try_new(numbers, texts)?))
    }

    /// What the store keeps side by side as it is there; other columns row by row.
    fn copy(
        &self,
        stretch: &Stretch,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let places = OnceCell::new();
        let kept = self.numbered.as_ref();
        let arrays = columns.iter().zip(schema.fields()).map(|(&at, field)| -> Result<ArrayRef> {
            if *field.data_type() == DataType::Int64 {
                if let Some(integers) = kept.and_then(|of| of.integers_of(stretch, field.name())) {
                    return Ok(Arc::new(integers));
                }
            } else if *field.data_type() == numbered()
                && let Some((numbers, texts)) =
                    kept.and_then(|of| of.numbers_of(stretch, field.name()))
            {
                return Ok(Arc::new(DictionaryArray::try_new(numbers, texts)?));
            }
            self.taken(places.get_or_init(|| self.places(stretch)), at, field)
        });
        batch(schema, arrays.collect::<Result<_>>()?, stretch.rows())
    }

    fn places(&self, stretch: &Stretch) -> UInt32Array {
        self.numbered.iter().flat_map(|slice| slice.places(stretch)).collect::<Vec<_>>().into()
    }

    /// The texts of a column as numbers, those of the whole chunk.
    fn numbers(&self, column: &str) -> Option<(Int32Array, ArrayRef)> {
        self.numbered.as_ref()?.numbers(column)
    }

    /// The wanted rows that hold `text` in a column, which the store knows of some; none where there
    /// are none.
    pub(crate) fn holding(&self, column: &str, text: &str) -> Option<Self> {
        let kept = self.numbered.as_ref();
        let known = kept.and_then(|slice| Some((slice, slice.of_text(column, text)?)));
        let wanted = match (known, &self.wanted) {
            (Some((_, OfText::None)), _) => return None,
            (Some((_, OfText::All)), _) => return Some(self.clone()),
            (Some((slice, OfText::Some(stretch))), Places::Consecutive(range)) => {
                Places::Stretch(slice.within(&stretch, range))
            }
            (Some((slice, OfText::Some(stretch))), Places::Single(places)) => {
                let is_wanted = |row: &u32| places.values().binary_search(row).is_ok();
                let wanted: Vec<_> = slice.places(&stretch).filter(is_wanted).collect();
                Places::Single(wanted.into())
            }
            (_, places) => {
                let texts = self.chunk.column_by_name(column)?.as_string_opt::<i32>()?;
                let holds = |row: &u32| texts.value(*row as usize) == text;
                let wanted: Vec<_> = match places {
                    Places::Consecutive(range) => {
                        (0..).skip(range.start).take(range.len()).filter(holds).collect()
                    }
                    Places::Single(places) => {
                        places.values().iter().copied().filter(holds).collect()
                    }
                    Places::Stretch(stretch) => {
                        self.places(stretch).values().iter().copied().filter(holds).collect()
                    }
                };
                Places::Single(wanted.into())
            }
        };
        let part = Self { wanted, ..self.clone() };
        (part.len() > 0).then_some(part)
    }

    /// The wanted rows whose time is in `span`.
    fn cut(&self, span: Span, parts: &mut Vec<Self>) {
        if self.len() == 0 || self.times.0 >= span.until || self.times.1 < span.from {
            return;
        }
        if span.has(self.times.0) && span.has(self.times.1) {
            parts.push(self.clone());
            return;
        }
        let range = match &self.wanted {
            Places::Single(places) => {
                parts.extend(self.at(places.values().iter().copied(), span));
                return;
            }
            Places::Stretch(stretch) => {
                parts.extend(self.at(self.places(stretch).values().iter().copied(), span));
                return;
            }
            Places::Consecutive(range) => range.clone(),
        };
        // Rows come nearly in order: what is in and out of the range is mixed at its ends only.
        let times = &self.all_times()[..range.end];
        let inside = |time: &i64| span.has(*time);
        let middle = range.start.midpoint(range.end);
        let Some(first) = times[range.start..].iter().position(inside) else { return };
        let first = range.start + first;
        let last = times.iter().rposition(inside).unwrap_or(first);
        let centre = middle.clamp(first, last);
        let before = times[first..centre].iter().rposition(|time| !inside(time));
        let from = before.map_or(first, |n| first + n + 1);
        let after = times[centre..=last].iter().position(|time| !inside(time));
        let until = after.map_or(last + 1, |n| centre + n).max(from);
        let mixed = |range: Range<usize>| {
            let places = (0..).skip(range.start).take(range.len());
            self.at(places, span)
        };
        parts.extend(mixed(first..from));
        if from < until {
            parts.push(self.of_range(from..until));
        }
        parts.extend(mixed(until..last + 1));
    }

    /// The times of the whole chunk.
    fn all_times(&self) -> &[i64] {
        times(&self.chunk)
    }
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let rows = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

/// The hot rows above `above` whose time is in `span`.
pub(crate) fn hot_parts(snapshot: &Snapshot, above: Seq, span: Span) -> Vec<HotPart> {
    let times = TimeNs::new(span.from)..TimeNs::new(span.until);
    let wanted = Wanted { above, times };
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
        part.cut(span, &mut kept);
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
    use arrow::datatypes::Schema;

    use super::*;

    fn part(times: &[i64]) -> HotPart {
        let schema = Schema::new(vec![Field::new("time_", DataType::Int64, false)]);
        let column = Arc::new(Int64Array::from(times.to_vec()));
        let chunk = Arc::new(RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap());
        let wanted = Places::Consecutive(0..times.len());
        let times = bounds(times.iter().copied());
        HotPart { chunk, wanted, times, numbered: None }
    }

    fn all(parts: &[HotPart]) -> Vec<i64> {
        let rows = parts.iter().map(|part| part.project(&[0], &part.chunk.schema()).unwrap());
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
